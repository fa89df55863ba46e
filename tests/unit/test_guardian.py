"""The guardian alone, with an owner and workers that are just processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_pool.provisioning import processes
from jupyter_pool.provisioning.guardian import Guardian
from support.conditions import eventually, gone
from support.owners import Owner

Spawn = Callable[..., int]

OWNER = """
from jupyter_pool.provisioning.guardian import Guardian
guardian = Guardian(sys.argv[1])
for pid in sys.argv[2:]:
    guardian.add(int(pid))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.mkdir()
    (path / "socket").touch()
    return path


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Makes "workers": sleeping processes in sessions of their own."""
    started: list[subprocess.Popen[bytes]] = []

    def make(*arguments: str) -> int:
        command = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", *arguments]
        started.append(subprocess.Popen(command, start_new_session=True))
        return started[-1].pid

    yield make
    for process in started:
        process.kill()
        process.wait()


def test_when_its_owner_is_gone_it_kills_the_workers_and_removes_the_folder(
    folder: Path, spawn: Spawn
) -> None:
    known, removed = spawn(), spawn()
    script = f"{OWNER}\nguardian.remove({removed})\nsay(guardian.pid)\nlisten()"
    with Owner(script, str(folder), str(known), str(removed)) as owner:
        guardian = owner.hear()
        assert processes.is_running(guardian)
        owner.process.kill()
        eventually(gone([known, guardian]))
        assert not folder.exists()
        assert processes.is_running(removed)  # it was verified gone: this is somebody else


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: needs /proc")
def test_it_finds_a_worker_that_its_owner_had_no_time_to_announce(
    folder: Path, spawn: Spawn
) -> None:
    unannounced, stranger = spawn(f"{folder}/w1.json"), spawn(f"{folder}-of-another/w1.json")
    with Owner(f"{OWNER}\nsay(guardian.pid)\nlisten()", str(folder)) as owner:
        guardian = owner.hear()
        owner.process.kill()
        eventually(gone([unannounced, guardian]))
        assert processes.is_running(stranger)


def test_an_owner_that_has_ended_before_it_looks_is_noticed(folder: Path, spawn: Spawn) -> None:
    worker = spawn()
    # Owner and guardian stopped and continued: it has not begun to watch when its owner dies.
    script = f"""{OWNER}
os.kill(guardian.pid, signal.SIGSTOP)
guardian.add({worker})
say(guardian.pid)
listen()
"""
    with Owner(script, str(folder)) as owner:
        guardian = owner.hear()
        owner.process.kill()
        owner.process.wait(10)
        os.kill(guardian, signal.SIGCONT)
        eventually(gone([worker, guardian]))
        assert not folder.exists()


def test_dismissed_it_ends_and_touches_nothing(folder: Path, spawn: Spawn) -> None:
    worker = spawn()
    guardian = Guardian(str(folder))
    guardian.add(worker)
    guardian.close()
    assert not processes.is_running(guardian.pid)
    assert processes.is_running(worker)
    assert (folder / "socket").exists()


def test_its_pipe_closed_it_goes_on_watching(folder: Path, spawn: Spawn) -> None:
    worker = spawn()
    script = f"{OWNER}\nguardian._process.stdin.close()\nsay(guardian.pid)\nlisten()"
    with Owner(script, str(folder), str(worker)) as owner:
        guardian = owner.hear()
        assert processes.is_running(guardian)
        owner.process.kill()
        eventually(gone([worker, guardian]))


def test_a_killed_one_is_replaced_by_one_that_knows_the_same(folder: Path, spawn: Spawn) -> None:
    first, second = spawn(), spawn()
    script = f"""{OWNER}
os.kill(guardian.pid, signal.SIGKILL)
os.waitid(os.P_PID, guardian.pid, os.WEXITED | os.WNOWAIT)
old = guardian.pid
{{}}
say([old, guardian.pid])
listen()
"""
    for replace in (f"guardian.add({second})", "guardian.revive()"):
        folder.mkdir(exist_ok=True)
        with Owner(script.format(replace), str(folder), str(first)) as owner:
            old, new = owner.hear()
            assert old != new
            owner.process.kill()
            known = [first, second] if "add" in replace else [first]
            # Itself it ends when it has told them to: they may take longer than it.
            eventually(gone([*known, new]))
            assert processes.is_running(second) == (second not in known)
        first, second = spawn(), spawn()


def test_one_that_lives_is_not_replaced(folder: Path) -> None:
    guardian = Guardian(str(folder))
    pid = guardian.pid
    guardian.revive()
    assert guardian.pid == pid
    guardian.close()


def test_a_killed_one_can_be_dismissed(folder: Path) -> None:
    guardian = Guardian(str(folder))
    os.kill(guardian.pid, signal.SIGKILL)
    guardian.close()
    assert not processes.is_running(guardian.pid)
