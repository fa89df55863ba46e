"""However the owner of a pool ends: no worker, no child of one, no guardian and no file outlives it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_core.paths import jupyter_runtime_dir

from jupyter_pool import KernelPool
from jupyter_pool.engine.loop import Engine
from jupyter_pool.provisioning.processes import is_running
from support.cells import states
from support.conditions import eventually, gone
from support.held import shared_memory
from support.owners import KernelOwner, Owner
from support.processes import marked

# How long what an owner left may outlive it, in seconds. It is ended at once, in some tenths of a second;
# this is what that may take where everything waits for a processor.
WITHIN = 10.0

# One worker idles with a child that a cell left behind, one runs a cell that waits for a child.
OWNER = """
def owner():
    pool = KernelPool(size=2).start(wait=True)
    at_work = threading.Event()
    found = []
    def on_output(event):
        found.append(int(event["text"]))
        at_work.set()
    if BUSY:
        pool.submit_code(
            "import subprocess; p = subprocess.Popen(['sleep', '604']); print(p.pid, flush=True); p.wait()",
            on_output=on_output,
        )
        at_work.wait(30)
    # The last request of its worker: the next one would have it reset, and with that the child ended.
    left = pool.execute(
        "import subprocess; subprocess.Popen(['sleep', '603']).pid", isolation="none"
    )
    found.append(int(left.data["text/plain"]))
    say({"workers": pids(pool), "children": found, "guardian": guardian(), "folder": folder()})
    return pool
"""


def everything(told: dict[str, Any]) -> list[int]:
    return [*told["workers"], *told["children"], told["guardian"]]


def all_gone(told: dict[str, Any]) -> Callable[[], bool]:
    ended = gone(everything(told))
    return lambda: ended() and not os.path.exists(told["folder"])


def kill(signum: signal.Signals) -> Callable[[Owner], None]:
    return lambda owner: owner.process.send_signal(signum)


ABRUPT = {
    "sigkill while all is busy": ("listen()", kill(signal.SIGKILL), -signal.SIGKILL),
    "sigterm while all is busy": ("listen()", kill(signal.SIGTERM), -signal.SIGTERM),
    "os._exit": ("listen(); os._exit(5)", Owner.tell, 5),
    "segfault": ("listen(); import ctypes; ctypes.string_at(0)", Owner.tell, -signal.SIGSEGV),
}

ORDERLY = {
    "ctrl-c": ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
}


@pytest.mark.parametrize("how", ABRUPT)
def test_nothing_outlives_an_owner_that_ends_abruptly(how: str) -> None:
    end, act, status = ABRUPT[how]
    with Owner(f"BUSY = True{OWNER}\npool = owner()\n{end}") as owner:
        told = owner.hear()
        assert all(map(is_running, everything(told)))
        act(owner)
        assert owner.process.wait(10) == status
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


@pytest.mark.parametrize("how", ORDERLY)
def test_nothing_outlives_an_owner_that_ends_in_order(how: str) -> None:
    end, status = ORDERLY[how]
    with Owner(f"BUSY = False{OWNER}\npool = owner()\nlisten()\n{end}") as owner:
        told = owner.hear()
        assert all(map(is_running, told["workers"]))
        owner.tell()
        assert owner.process.wait(20) == status
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_leaving_with_by_an_exception_ends_what_runs_and_its_children() -> None:
    with Owner(f"BUSY = True{OWNER}\nwith owner():\n    listen()\n    1 / 0") as owner:
        told = owner.hear()
        owner.tell()
        assert owner.process.wait(20) == 1
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_a_forked_child_that_goes_on_does_not_keep_its_parents_workers_alive() -> None:
    script = f"BUSY = True{OWNER}\npool = owner()\nif os.fork(): say('forked')\nlisten()"
    with Owner(script) as owner:
        told = owner.hear()
        assert owner.hear() == "forked"
        owner.process.kill()
        owner.process.wait(10)
        # The child still holds every pipe and socket of its parent; it ends with our pipe to it.
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_workers_that_were_just_being_started_do_not_outlive_their_owner() -> None:
    script = "pool = KernelPool(size=4).start(); say([folder(), guardian()]); listen()"
    for _ in range(2):
        with Owner(script) as owner:
            folder, guardian = owner.hear()
            owner.process.kill()
            owner.process.wait(10)
            eventually(gone([guardian]), within=WITHIN)
            eventually(lambda where=folder: not mentions(where), within=WITHIN)  # type: ignore[misc]
            assert not os.path.exists(folder)


def mentions(folder: str) -> list[int]:
    """Processes with that folder in their command, as kernels have the one of their sockets."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if folder.encode() in command and is_running(int(entry.name)):
            found.append(int(entry.name))
    return found


def test_a_worker_that_is_stopped_and_one_that_ignores_signals_do_not_outlive_their_owner() -> None:
    script = """
pool = KernelPool(size=2).start(wait=True)
ignores = threading.Event()
pool.submit_code(
    "import signal, time\\n"
    "for n in signal.SIGINT, signal.SIGTERM, signal.SIGHUP: signal.signal(n, signal.SIG_IGN)\\n"
    "print('ignores', flush=True)\\n"
    "time.sleep(600)",
    on_output=lambda event: ignores.set(),
)
ignores.wait(30)
for worker in pool.get_status().workers:
    if worker.state == "idle":
        os.kill(worker.pid, signal.SIGSTOP)
say({"workers": pids(pool), "children": [], "guardian": guardian(), "folder": folder()})
listen()
"""
    with Owner(script) as owner:
        told = owner.hear()
        owner.process.kill()
        owner.process.wait(10)
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


# --- every way to end, with everything that may run ----------------------------------------------

# One worker is in a C call that holds the GIL, one has a sleeping child; neither is busy for its
# pool, so that an owner which ends in order need not wait for them.
OWN = """
def say_it():
    pool = KernelPool(size=2).start(wait=True)
    first, second = pool.checkout(), pool.checkout()
    with first as worker:
        child = worker.execute("import subprocess; p = subprocess.Popen(['sleep', '611']); p.pid")
        with second as other:
            # It has the GIL for good once the cell has been answered.
            answered = folder() + "/answered"
            other.execute(
                "import ctypes, os, threading, time\\n"
                "def hold(answered=answered):\\n"
                "    while not os.path.exists(answered): time.sleep(0.01)\\n"
                "    os.unlink(answered)\\n"
                "    ctypes.PyDLL(None).sleep(612)\\n"
                "threading.Thread(target=hold, daemon=True).start()",
                inputs={"answered": answered},
            )
            open(answered, "w").close()
            while os.path.exists(answered): time.sleep(0.01)
            held = [pool, first, second, pool.put(bytes(5_000_000))]
            keep.append(held)
            say({"owner": os.getpid(), "workers": pids(pool), "guardian": guardian(),
                 "folder": folder(), "children": [int(child.data["text/plain"])]})
            go_on()
"""

# A foreign kernel with a sleeping child, and a forked child of the owner that has all it had.
FOREIGN = """
def say_it():
    pool = KernelPool(size=1, kernel_name="bash", isolation="none").start(wait=True)
    child = int(pool.execute("sleep 613 & echo $!").stdout.split()[-1])
    forked = os.fork()
    if not forked:
        time.sleep(614)
        os._exit(0)
    keep.append(pool)
    say({"owner": os.getpid(), "workers": pids(pool), "guardian": guardian(), "folder": folder(),
         "children": [child], "forked": forked})
    go_on()
"""

RUNNING = [
    pytest.param(OWN, id="gil and child"),
    pytest.param(FOREIGN, id="foreign and fork", marks=pytest.mark.requires("kernel:bash")),
]

# How an owner's script ends after it was told to go on, how it is made to, and its exit status.
ENDS = {
    "normal exit": ("listen()", Owner.tell, 0),
    "sys.exit": ("listen(); sys.exit(6)", Owner.tell, 6),
    "sigterm": ("listen()", kill(signal.SIGTERM), -signal.SIGTERM),
    "sigkill": ("listen()", kill(signal.SIGKILL), -signal.SIGKILL),
}

RESTARTS: dict[str, Callable[[KernelOwner], None]] = {
    "restart": lambda owner: owner.wait_for(owner.manager.restart_kernel()),
    "restart now": lambda owner: owner.wait_for(owner.manager.restart_kernel(now=True)),
    "shutdown": lambda owner: owner.wait_for(owner.manager.shutdown_kernel()),
}


class Before:
    """What there was before an owner came; all of it, and nothing else, must be there after it."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record
        self.runtime = sorted(os.listdir(jupyter_runtime_dir()))
        assert not any(name.startswith("kernel-") for name in self.runtime)

    def check_after(self, owner: Owner | KernelOwner, told: dict[str, Any], *spared: int) -> None:
        """Soon nothing is left: by parent, by environment, by name."""
        begun = time.monotonic()
        spared = (*spared, *([told["forked"]] if "forked" in told else []))

        def left() -> list[str]:
            processes = marked(owner.mark) - set(spared)
            found = [f"process {pid}" for pid in processes]
            found += [f"process {pid}" for pid in everything(told) if is_running(pid)]
            found += [f"process {pid} names the folder" for pid in mentions(told["folder"])]
            found += [f"socket {path}" for path in sockets(told["folder"])]
            found += [told["folder"]] if os.path.exists(told["folder"]) else []
            found += shared_memory(told["owner"])
            return found

        eventually(
            lambda: not left(), lambda: f"nothing of {told} is left; {left()} is", within=WITHIN
        )
        took = time.monotonic() - begun
        self._record("seconds until nothing was left", round(took, 3))
        print(f"nothing was left after {took:.3f} s")
        # A kernel that was restarted has its connection file again.
        files = [
            name for name in os.listdir(jupyter_runtime_dir()) if not name.startswith("kernel-")
        ]
        assert sorted(files) == self.runtime


def sockets(folder: str) -> list[str]:
    """The Unix sockets that the system knows in that folder."""
    try:
        lines = Path("/proc/net/unix").read_text().splitlines()
    except OSError:
        return []
    return [line.split()[-1] for line in lines if folder in line]


@pytest.fixture
def before(record_property: Callable[[str, object], None]) -> Before:
    return Before(record_property)


def release(told: dict[str, Any]) -> None:
    """Let the forked child go, which holds the pipes of its parent."""
    if "forked" in told:
        os.kill(told["forked"], signal.SIGKILL)


@pytest.mark.parametrize("running", RUNNING)
@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_an_owner(
    how: str, running: str, before: Before, bash_kernel: str
) -> None:
    end, act, status = ENDS[how]
    script = f"keep = []{running}\ndef go_on():\n    {end}\nsay_it()"
    with Owner(script) as owner:
        told = owner.hear()
        assert set(everything(told)) <= marked(owner.mark)
        assert shared_memory(told["owner"])
        act(owner)
        assert owner.process.wait(20) == status
        before.check_after(owner, told)
        release(told)


@pytest.mark.parametrize("running", RUNNING)
def test_nothing_is_left_of_an_owner_whose_import_fails(
    running: str, before: Before, tmp_path: Path, bash_kernel: str
) -> None:
    (tmp_path / "application.py").write_text(
        f"from __main__ import *\nkeep = []{running}\n"
        "def go_on():\n    listen(); raise ImportError('no module named torch')\nsay_it()"
    )
    with Owner("import application", cwd=tmp_path) as owner:
        told = owner.hear()
        owner.tell()
        assert owner.process.wait(20) == 1
        before.check_after(owner, told)
        release(told)
    assert "no module named torch" in owner.stderr


@pytest.mark.parametrize("running", RUNNING)
@pytest.mark.parametrize("how", RESTARTS)
def test_nothing_is_left_of_an_owner_that_is_a_kernel(
    how: str, running: str, before: Before, bash_kernel: str
) -> None:
    with KernelOwner() as owner:
        told = owner.run(f"keep = []{running}\ndef go_on():\n    pass\nsay_it()")
        first = owner.pid
        RESTARTS[how](owner)
        assert not is_running(first)
        successor = [owner.pid] if owner.manager.has_kernel else []
        before.runtime = sorted(
            {*before.runtime, *os.listdir(jupyter_runtime_dir())}
            - {told["folder"].rpartition("/")[2]}
        )
        before.check_after(owner, told, *successor)
        release(told)


# --- the guardian -------------------------------------------------------------------------------


def guardian_pid() -> int:
    assert Engine._current is not None
    return Engine._current.launcher._guardian.pid


def ignores(pid: int, signum: signal.Signals) -> bool:
    """Whether a process ignores that signal; where there is no /proc, that it may."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigIgn:"))
    return bool(mask >> (signum - 1) & 1)


def test_the_guardian_is_in_a_session_of_its_own_and_ignores_what_a_terminal_sends() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        pid = guardian_pid()
        assert os.getsid(pid) == pid
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # The pool does not wait until it has come so far.
            eventually(lambda signum=signum: ignores(pid, signum))  # type: ignore[misc]
            os.kill(pid, signum)
        # Whoever ended by them would end before it could answer to a worker's start.
        pool.restart_worker(pool.get_status().workers[0].id)
        eventually(lambda: states(pool) == ["idle"])
        assert guardian_pid() == pid
        assert is_running(pid)
    assert not is_running(pid)


def test_a_killed_guardian_is_replaced_at_once_by_one_that_knows_the_workers() -> None:
    script = f"""BUSY = True{OWNER}
pool = owner()
while listen() == "guardian?":
    say(guardian())
"""
    with Owner(script) as owner:
        told = owner.hear()
        first = told["guardian"]
        os.kill(first, signal.SIGKILL)

        def another() -> int | None:
            owner.tell("guardian?")
            pid = owner.hear()
            return pid if pid != first and is_running(pid) else None

        told["guardian"] = eventually(another)
        assert all(map(is_running, told["workers"]))
        owner.process.kill()
        owner.process.wait(10)
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_a_pool_works_and_closes_without_its_guardian() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        os.kill(guardian_pid(), signal.SIGKILL)
        assert pool.execute("1 + 1").data["text/plain"] == "2"
        pool.restart_worker(pool.get_status().workers[0].id)
        assert pool.execute("1 + 1").data["text/plain"] == "2"
        os.kill(guardian_pid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="platform: POSIX processes")
def test_a_child_of_a_worker_does_not_outlive_its_worker() -> None:
    with KernelPool(size=1) as pool:
        result = pool.execute(
            "import subprocess; subprocess.Popen(['sleep', '605']).pid", isolation="none"
        )
        child = int(result.data["text/plain"])
        assert is_running(child)
        (worker,) = pool.get_status().workers
        pool.restart_worker(worker.id)
        eventually(gone([worker.pid or 0, child]), within=WITHIN)
