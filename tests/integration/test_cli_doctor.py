"""`jupyter pool doctor`: what it says about an installation that is in order, and of broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.commands import DEADLINE, run

LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: there are fork servers only on Linux"
)


def examine(
    folder: Path, *options: str, env: dict[str, str] | None = None
) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the findings by name."""
    done = run("doctor", "--json", *options, cwd=folder, env=env)
    assert done.stderr == ""
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["ok"] == (done.returncode == 0)
    return done.returncode, {check["name"]: check for check in told["checks"]}


def test_everything_is_looked_at_for_real_and_said_in_a_line_each(tmp_path: Path) -> None:
    done = run("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    lines = dict(line[2:].split(": ", 1) for line in done.stdout.splitlines()[:-1] if ": " in line)
    assert done.stdout.splitlines()[-1] == "All in order."
    assert "✗" not in done.stdout
    assert "ipykernel 7." in lines["packages"]
    assert "jupyter-client 8." in lines["packages"]
    assert "of 100 bytes" in lines["runtime folder"]
    assert "is ready" in lines["worker"]
    assert "found nothing of it" in lines["stateless round trip"]
    assert "one more worker is ready in" in lines["start-up"]
    assert "a stock kernel (python3) in" in lines["start-up"]
    assert "to itself" in lines["memory"]
    assert "whose owner was killed was gone" in lines["guardian"]
    assert {"Python", "kernelspecs", "sockets", "shared memory", "open files"} <= lines.keys()


@LINUX
def test_a_preload_that_cannot_be_forked_is_said_and_no_fault(tmp_path: Path) -> None:
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    code, found = examine(
        tmp_path, "--KernelPool.preload=starts_a_thread", env={"PYTHONPATH": str(tmp_path)}
    )
    assert (code, found["fork server"]["state"]) == (0, "note")
    assert "without a fork server" in found["fork server"]["text"]
    assert "preload" in found["fork server"]["mend"]


@LINUX
def test_workers_that_are_forked_are_said_to_be(tmp_path: Path) -> None:
    _, found = examine(tmp_path, "--KernelPool.preload=json")
    assert found["fork server"]["text"] == "workers are forked, with json"


def test_a_worker_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    code, found = examine(tmp_path, "--KernelPool.preload=there_is_no_such_module")
    assert code == 1
    assert found["worker"]["state"] == "bad"
    assert "there_is_no_such_module" in found["worker"]["text"]
    assert found["worker"]["mend"]
    assert "guardian" not in found  # what needs a worker is not looked at


@pytest.fixture
def broken_kernel(tmp_path: Path) -> dict[str, str]:
    """An environment with a kernelspec whose program is not there."""
    kernels = tmp_path / "kernels" / "broken"
    kernels.mkdir(parents=True)
    spec = {"argv": ["/nowhere/R", "{connection_file}"], "display_name": "R", "language": "R"}
    (kernels / "kernel.json").write_text(json.dumps(spec))
    return {"JUPYTER_PATH": str(tmp_path)}


def test_a_missing_kernel_is_told_with_those_there_are(
    tmp_path: Path, broken_kernel: dict[str, str]
) -> None:
    code, found = examine(tmp_path, "--kernel=nope", env=broken_kernel)
    assert (code, found["kernelspecs"]["state"]) == (1, "bad")
    assert "'nope': no such kernel" in found["kernelspecs"]["text"]
    assert "broken" in found["kernelspecs"]["mend"]


def test_a_broken_kernel_is_told_with_what_it_lacks(
    tmp_path: Path, broken_kernel: dict[str, str]
) -> None:
    code, found = examine(tmp_path, "--kernel=broken", env=broken_kernel)
    assert code == 1
    assert "wants /nowhere/R, which is not there" in found["kernelspecs"]["text"]
    assert "jupyter kernelspec remove broken" in found["kernelspecs"]["mend"]
    assert found["worker"]["state"] == "bad"


def test_another_broken_kernel_is_good_to_know(
    tmp_path: Path, broken_kernel: dict[str, str]
) -> None:
    code, found = examine(tmp_path, env=broken_kernel)
    assert (code, found["kernelspecs"]["state"]) == (0, "note")
    assert "broken (/nowhere/R)" in found["kernelspecs"]["text"]


def test_a_kernel_that_is_not_pythons_is_checked_too(tmp_path: Path, bash_kernel: str) -> None:
    code, found = examine(tmp_path, f"--kernel={bash_kernel}")
    assert code == 0
    assert found["worker"]["text"].startswith("bash is ready")
    assert "replaced after each request" in found["stateless round trip"]["text"]


def test_a_runtime_folder_that_cannot_be_used_is_named_with_the_way_out(tmp_path: Path) -> None:
    env = {"JUPYTER_RUNTIME_DIR": "/dev/null/run"}  # not too long, and no folder
    code, found = examine(tmp_path, env=env)
    assert (code, found["runtime folder"]["state"]) == (1, "bad")
    assert "JUPYTER_RUNTIME_DIR" in found["runtime folder"]["mend"]


def test_a_runtime_folder_whose_path_is_too_long_is_said_to_be_passed_over(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 25)
    code, found = examine(tmp_path, env={"JUPYTER_RUNTIME_DIR": str(long)})
    assert (code, found["runtime folder"]["state"]) == (0, "note")
    assert "too long for sockets" in found["runtime folder"]["text"]


def test_a_package_of_another_version_is_named_with_what_to_install(tmp_path: Path) -> None:
    folder = tmp_path / "cloudpickle-2.0.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: cloudpickle\nVersion: 2.0.0\n")
    code, found = examine(tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (code, found["packages"]["state"]) == (1, "bad")
    assert found["packages"]["text"] == "cloudpickle is 2.0.0, >=3.0 is wanted"
    assert found["packages"]["mend"] == f'"{sys.executable}" -m pip install "cloudpickle>=3.0"'


def test_too_few_descriptors_for_so_many_workers_are_said_with_the_number(tmp_path: Path) -> None:
    command = f'ulimit -n 256; exec "{sys.executable}" -m jupyter_pool.cli doctor -n 100 --json'
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (found,) = [one for one in json.loads(done.stdout)["checks"] if one["name"] == "open files"]
    assert found["state"] == "bad"
    assert found["text"] == "at most 256 (ulimit -n); 100 workers take some 1720"


def test_a_terminal_without_such_characters_gets_others(tmp_path: Path) -> None:
    env = {"PYTHONIOENCODING": "ascii", "JUPYTER_RUNTIME_DIR": "/dev/null/run"}
    done = run("doctor", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "BAD  runtime folder" in done.stdout
    assert "\n  -> set JUPYTER_RUNTIME_DIR" in done.stdout
    assert done.stderr == ""


def test_misuse_is_answered_as_such(tmp_path: Path) -> None:
    assert "it takes no files: a.py" in run("doctor", "a.py", cwd=tmp_path).stderr
    done = run("doctor", "--KernelPool.size=many", cwd=tmp_path)
    assert (done.returncode, "size='many' is not possible" in done.stderr) == (2, True)


def test_the_work_of_the_doctor_leaves_nothing_in_the_runtime_folder(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    code, _ = examine(tmp_path, env={"JUPYTER_RUNTIME_DIR": str(runtime)})
    assert code == 0
    assert os.listdir(runtime) == []
