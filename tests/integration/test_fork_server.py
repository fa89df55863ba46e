"""What the workers of a pool are: forks of a process that has everything ready, and what ends when."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import KernelPool, WorkerStartError
from jupyter_pool.engine.loop import Engine
from jupyter_pool.provisioning import fork, processes, templates
from jupyter_pool.provisioning.templates import ForkedProcess, Template, Templates, is_supported
from support.cells import DEADLINE, pids, value
from support.conditions import eventually, gone
from support.owners import Owner
from support.processes import marked

pytestmark = pytest.mark.skipif(is_supported() is not None, reason=f"platform: {is_supported()}")

PARENT = "import os; os.getppid()"
# How long what an owner left may outlive it, in seconds. It is ended at once, in some tenths of a second;
# this is what that may take where everything waits for a processor.
WITHIN = 10.0


def server() -> Templates:
    assert Engine._current is not None
    return Engine._current.launcher._templates


def all_templates() -> list[Template]:
    return list(server()._templates.values())


def only_template() -> Template:
    (template,) = all_templates()
    return template


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's own modules, which workers find."""
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return tmp_path


def replace_worker(pool: KernelPool) -> None:
    """Have the pool's only worker replaced, and its successor ready."""
    (before,) = pids(pool).values()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(
        lambda: [w.state for w in pool.get_status().workers if w.pid != before] == ["idle"],
        within=DEADLINE,
    )


# --- what workers are ---------------------------------------------------------------------------


def test_workers_of_all_pools_are_forked_from_one_template_in_a_session_of_its_own() -> None:
    with KernelPool(size=2) as pool, KernelPool(size=1) as other:
        pool.start(wait=True)
        other.start(wait=True)
        template = only_template()
        for worker in [*pids(pool).values(), *pids(other).values()]:
            assert worker is not None
            assert worker in processes.descendants(template.pid)
            assert os.getsid(worker) == worker
        assert os.getsid(template.pid) == template.pid
        assert value(pool.execute(PARENT)) == str(template.pid)
    assert not processes.is_running(template.pid)


def test_pools_of_another_environment_have_another_template() -> None:
    with KernelPool(size=1) as pool, KernelPool(size=1, env={"MARK": "other"}) as other:
        parents = {value(pool.execute(PARENT)), value(other.execute(PARENT))}
        assert parents == {str(template.pid) for template in all_templates()}
        assert len(parents) == 2
        assert value(other.execute("import os; os.environ['MARK']")) == "'other'"


def test_preloaded_modules_are_there_at_once(modules: Path) -> None:
    (modules / "counted.py").write_text(
        "import os\nwith open(os.environ['COUNT'], 'a') as f: f.write('.')\n"
    )
    count = modules / "count"
    env = {"COUNT": str(count)}
    with KernelPool(size=2, preload=["counted", "csv"], env=env) as pool:
        pool.start(wait=True)
        code = "import sys; [name in sys.modules for name in ('counted', 'csv')]"
        for _ in range(2):
            assert value(pool.execute(code, isolation="process")) == "[True, True]"
    assert count.read_text() == "."


def test_modules_of_the_pools_folder_can_be_preloaded(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("import os\npid = os.getpid()")
    with KernelPool(size=1, preload=["beside"], cwd=str(tmp_path)) as pool:
        assert value(pool.execute("import os, beside; beside.pid != os.getpid()")) == "True"
        (tmp_path / "beside.py").write_text("pid = 'edited'")
        assert value(pool.execute("import beside; beside.pid")) == "'edited'"


def test_what_workers_import_later_the_template_has_for_all() -> None:
    code = "import sys; modules = set(sys.modules)"
    with KernelPool(size=1) as pool:
        before = pool.execute(code, outputs=["modules"]).outputs["modules"]
        pool.execute("print(1); f(2)", inputs={"f": lambda x: x})
        pool.execute("1/0", check=False)
        after = pool.execute(code, outputs=["modules"]).outputs["modules"]
        assert after - before == set()


def test_a_preload_that_is_missing_fails_the_start_with_its_reason() -> None:
    with KernelPool(size=1, preload=["no_such_module_here"]) as pool:
        with pytest.raises(WorkerStartError) as caught:
            pool.start(wait=True, timeout=DEADLINE)
        assert "No module named 'no_such_module_here'" in str(caught.value.stderr)


# As PyTorch says it; there is no such device to be relied on.
CUDA = "class cuda:\n    def is_initialized(): return True\n"
THREADED = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("starts_a_thread", THREADED, "the imports started threads, which a fork does not copy"),
        ("polars", "", "polars has a pool of threads that a fork does not copy"),
        ("grpc", "", "gRPC cannot be used after a fork"),
        ("torch", CUDA, "CUDA is initialised, and cannot be used after a fork"),
    ],
)
def test_with_a_preload_that_a_fork_breaks_workers_start_plainly_which_is_said_once(
    name: str, text: str, reason: str, modules: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (modules / f"{name}.py").write_text(text)
    with (
        caplog.at_level(logging.WARNING, "jupyter_pool"),
        KernelPool(size=1, preload=[name]) as pool,
    ):
        for _ in range(2):
            result = pool.execute(PARENT, isolation="process")
            assert value(result) == str(os.getpid())
        assert all_templates() == []
    said = [record.getMessage() for record in caplog.records if reason in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("workers are started without a fork server: ")


def test_where_there_can_be_no_fork_server_workers_start_plainly_which_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fork, "is_supported", lambda: "not on this system")
    fork._say_unsupported.cache_clear()
    with caplog.at_level(logging.INFO, "jupyter_pool"), KernelPool(size=2) as pool:
        pool.start(wait=True)
        assert value(pool.execute(PARENT)) == str(os.getpid())
        assert all_templates() == []
    said = [record.getMessage() for record in caplog.records]
    assert said.count("workers are started without a fork server: not on this system") == 1


def test_imports_that_do_not_end_do_not_hold_up_the_end_of_the_pool(modules: Path) -> None:
    (modules / "endless.py").write_text(
        "import os, threading\nopen(os.environ['BEGUN'], 'w').close()\nthreading.Event().wait()\n"
    )
    begun = modules / "begun"
    pool = KernelPool(size=1, preload=["endless"], env={"BEGUN": str(begun)})
    pool.start()
    eventually(begun.exists, within=DEADLINE)
    (template,) = eventually(all_templates)  # it may import before it is in the list
    pool.close(timeout=0)
    assert not processes.is_running(template.pid)


def test_imports_that_do_not_end_in_time_have_workers_started_plainly(
    modules: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(templates, "IMPORT_TIMEOUT", 0.5)
    (modules / "slow.py").write_text(
        "import sys, threading\nif 'template' in sys.argv[0]: threading.Event().wait()\n"
    )
    with KernelPool(size=1, preload=["slow"]) as pool:
        assert value(pool.execute(PARENT)) == str(os.getpid())
    assert "the imports took more than 0.5 s" in caplog.text


def test_a_template_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        first = only_template()
        monkeypatch.setattr(templates, "ANSWER_TIMEOUT", 0.5)
        os.kill(first.pid, signal.SIGSTOP)
        # Of the template that hangs no exit code can be had.
        monkeypatch.setattr("jupyter_pool.provisioning.forked.NOTE_TIMEOUT", 0.1)
        replace_worker(pool)
        assert not processes.is_running(first.pid)
        assert value(pool.execute("1")) == "1"


def test_no_more_than_a_few_templates_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MOST", 1)
    with KernelPool(size=1) as pool:
        first = only_template_of(pool)
        with KernelPool(size=1, env={"MARK": "2"}) as other:
            assert only_template_of(other) is not first
            # It is there for its worker's exit code.
            assert processes.is_running(first.pid)
            (worker,) = pids(pool).values()
            assert worker in processes.descendants(first.pid)
            replace_worker(pool)
            eventually(gone([first.pid]))
            (worker,) = pids(pool).values()
            assert worker in processes.descendants(only_template().pid)


# --- staleness ----------------------------------------------------------------------------------


def test_an_edited_preload_is_noticed_and_the_template_renewed(modules: Path) -> None:
    module = modules / "mine.py"
    module.write_text("text = 'old'")
    with KernelPool(size=1, preload=["mine"]) as pool:
        code = "import mine, os; mine.text, os.getppid()"
        first = only_template_of(pool)
        assert value(pool.execute(code)) == str(("old", first.pid))
        module.write_text("text = 'quite new'")
        text, parent = eval(value(pool.execute(code)))
        second = only_template()
        assert text == "quite new"
        assert second is not first
        assert parent == second.pid
        assert value(pool.execute(code, isolation="process")) == str((text, parent))
        eventually(gone([first.pid]))


def only_template_of(pool: KernelPool) -> Template:
    pool.start(wait=True)
    return only_template()


def test_a_preload_is_what_was_asked_for_wherever_a_request_runs(
    modules: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (modules / "mine.py").write_text("text = 'preloaded'")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.py").write_text("text = 'another'")
    with KernelPool(size=1, preload=["mine"], cwd=str(elsewhere)) as pool:
        assert value(pool.execute("import mine; mine.text")) == "'preloaded'"


# --- descriptors --------------------------------------------------------------------------------


def test_no_worker_has_a_descriptor_of_its_template_or_its_siblings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with KernelPool(size=5) as pool:
        pool.start(wait=True)
        template = only_template().pid
        forked = [pid for pid in pids(pool).values() if pid is not None]
        assert len(forked) == 5
        assert set(forked) <= set(processes.descendants(template))
        mine = private(template)
        for worker in forked:
            assert not mine & private(worker)
        monkeypatch.setattr(fork, "is_supported", lambda: "not in this test")
        with KernelPool(size=1) as other:
            other.start(wait=True)
            (plain,) = pids(other).values()
            assert plain is not None
            # A worker is ready a moment before it has accepted every connection.
            eventually(lambda: [kinds(pid) for pid in forked] == [kinds(plain)] * 5)


def descriptors(pid: int) -> dict[int, str]:
    """What each is; without those that are closed at this moment."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def private(pid: int) -> set[str]:
    return {what for what in descriptors(pid).values() if what.startswith(("socket:", "pipe:"))}


def kinds(pid: int) -> list[str]:
    """What its descriptors are; but for standard input, which is a pipe or nothing."""
    names = (what.split(":[")[0] for fd, what in descriptors(pid).items() if fd != 0)
    return sorted(Path(name).suffix or name for name in names)


# --- lifetimes ----------------------------------------------------------------------------------


def test_workers_outlive_their_template_and_new_ones_come_from_another() -> None:
    with KernelPool(size=2) as pool:
        pool.start(wait=True)
        before = set(pids(pool).values())
        first = only_template()
        os.kill(first.pid, signal.SIGKILL)
        first._process.wait(DEADLINE)
        assert value(pool.execute("1 + 1")) == "2"
        assert set(pids(pool).values()) == before
        parent = value(pool.execute(PARENT, isolation="process"))
        # The process was kept for it by the others, or comes from the new template.
        served = [value(pool.execute(PARENT, isolation="process")) for _ in range(3)]
        assert only_template() is not first
        assert str(only_template().pid) in [parent, *served]


def test_no_zombie_stays_under_a_template() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        for _ in range(3):
            replace_worker(pool)
        template = only_template().pid
        stats = [
            processes._stat_fields(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()
        ]
        children = [fields for fields in stats if fields and int(fields[1]) == template]
        assert [fields[0] for fields in children if fields[0] == "Z"] == []
        assert len(children) == 1


OWNER = """
pool = KernelPool(size=2).start(wait=True)
(template,) = Engine._current.launcher._templates._templates.values()
say({"workers": pids(pool), "template": template.pid, "guardian": guardian(), "folder": folder()})
listen()
"""


@pytest.mark.parametrize("victims", [["owner"], ["template", "owner"]], ids="+".join)
def test_nothing_is_left_when_owner_or_template_are_killed(victims: list[str]) -> None:
    with Owner(OWNER) as owner:
        told = owner.hear()
        assert {told["template"], *told["workers"]} <= marked(owner.mark)
        for victim in victims:
            os.kill(owner.process.pid if victim == "owner" else told["template"], signal.SIGKILL)
        owner.process.wait(DEADLINE)
        eventually(lambda: not marked(owner.mark), "nothing is left", within=WITHIN)
        eventually(lambda: not os.path.exists(told["folder"]), within=WITHIN)


STARTING = """
pool = KernelPool(size=1).start(wait=True)
(template,) = Engine._current.launcher._templates._templates.values()
say(template.pid)
pool.resize(size=8)
say("more")
listen()
"""


@pytest.mark.parametrize("with_template", [False, True], ids=["owner", "template and owner"])
def test_workers_that_are_just_being_forked_do_not_outlive_their_owner(with_template: bool) -> None:
    with Owner(STARTING) as owner:
        template = owner.hear()
        owner.hear()
        # As soon as there are some, not when all are ready.
        eventually(lambda: len(processes.descendants(template)) > 2, within=DEADLINE)
        if with_template:
            os.kill(template, signal.SIGKILL)
        owner.process.kill()
        owner.process.wait(DEADLINE)
        eventually(lambda: not marked(owner.mark), "nothing is left", within=WITHIN)


FORKS = """
from jupyter_pool.provisioning.fork import shared_templates
from jupyter_pool.provisioning.templates import Key
ours = shared_templates()
template = ours.templates._get(Key((), frozenset(os.environ.items())))
child = os.fork()
if child == 0:
    # Its own end closes what is its own, as that of an application does.
    sys.exit(0 if shared_templates() is not ours else 1)
say([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), template.exit_code])
say(template.pid)
listen()
"""


def test_a_forked_child_of_an_application_has_templates_of_its_own() -> None:
    with Owner(FORKS) as owner:
        assert owner.hear() == [0, None]
        assert processes.is_running(owner.hear())
        owner.tell()
        assert owner.wait() == 0
        eventually(lambda: not marked(owner.mark), "nothing is left", within=WITHIN)
        assert owner.stderr == ""


def test_an_interrupt_for_the_owners_process_group_reaches_no_template() -> None:
    script = (
        f"os.setsid()\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{OWNER}say(list(pids(pool)))"
    )
    with Owner(script) as owner:
        told = owner.hear()
        os.killpg(owner.process.pid, signal.SIGINT)
        owner.tell()
        assert owner.hear() == told["workers"]
        assert all(map(processes.is_running, [told["template"], told["guardian"]]))
        for name in ("template", "guardian"):
            assert os.getpgid(told[name]) != owner.process.pid


# --- a kernelspec for anybody -------------------------------------------------------------------


def install(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jupyter_pool.cli", "kernelspec", "install", *arguments],
        env={**os.environ, "JUPYTER_DATA_DIR": str(data)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


APPLICATION = """
import asyncio
from jupyter_client.manager import AsyncKernelManager

async def main():
    managers = [AsyncKernelManager(kernel_name="python3-instant") for _ in range(2)]
    for manager in managers:
        await manager.start_kernel()
    said = []
    for manager in managers:
        client = manager.client()
        client.start_channels(hb=False)
        await client.wait_for_ready(timeout=60)
        reply = await client._async_execute_interactive(
            "import sys", user_expressions={"there": "'csv' in sys.modules"}, timeout=60
        )
        there = reply["content"]["user_expressions"]["there"]["data"]["text/plain"]
        said.append([type(manager.provisioner.process).__name__, there])
        client.stop_channels()
    say(said)
    if listen() == "stop":
        for manager in managers:
            await manager.shutdown_kernel(now=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["stop", "leave", "SIGKILL"])
def test_an_installed_kernel_is_forked_in_any_application(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = install("--preload=csv", data=tmp_path)
    assert done.returncode == 0, done.stderr
    spec: dict[str, Any] = json.loads(
        (tmp_path / "kernels/python3-instant/kernel.json").read_text()
    )
    assert spec["display_name"] == "Python 3 (instant)"
    assert spec["argv"][0] == sys.executable
    assert spec["argv"][-1].endswith("preload=csv")
    assert spec["metadata"]["kernel_provisioner"] == {"provisioner_name": fork.NAME}
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    runtime = tmp_path / "run"
    runtime.mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("TMPDIR", str(runtime))  # where connection files stay after a SIGKILL
    with Owner(APPLICATION) as owner:
        assert owner.hear() == [[ForkedProcess.__name__, "True"]] * 2
        if end == "SIGKILL":
            owner.process.kill()
        else:
            owner.tell(end)
        owner.process.wait(DEADLINE)
        eventually(lambda: not marked(owner.mark), "nothing is left", within=WITHIN)


def test_a_kernelspec_with_a_preload_that_is_missing_is_not_installed(tmp_path: Path) -> None:
    done = install("--preload=no_such_module_here", data=tmp_path)
    assert done.returncode == 1
    assert "Cannot preload no_such_module_here: not installed here" in done.stderr
    assert not (tmp_path / "kernels").exists()
