"""Processes, their sessions, and being sure that they are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool.provisioning import processes
from support.conditions import eventually, gone

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: needs /proc")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_process_runs_until_it_has_ended_even_if_nobody_has_asked_how(
    sleeper: subprocess.Popen[bytes],
) -> None:
    assert processes.is_running(sleeper.pid)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    if sys.platform.startswith("linux"):
        assert not processes.is_running(sleeper.pid)  # a zombie does nothing any more
    sleeper.wait()
    assert not processes.is_running(sleeper.pid)


@linux
def test_a_start_time_tells_a_process_from_a_later_one_of_the_same_id(
    sleeper: subprocess.Popen[bytes],
) -> None:
    started = processes.start_time(sleeper.pid)
    assert started > 0
    assert processes.is_running(sleeper.pid, started)
    assert not processes.is_running(sleeper.pid, started + 1)
    sleeper.kill()
    sleeper.wait()
    assert processes.start_time(sleeper.pid) == 0


@linux
def test_a_command_with_blanks_and_brackets_is_no_obstacle(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(odd), "600"], start_new_session=True)
    try:
        eventually(lambda: list(processes.session_members(process.pid)) == [process.pid])
        assert processes.start_time(process.pid) > 0
    finally:
        process.kill()
        process.wait()


def test_a_signal_to_one_that_is_gone_is_answered_with_false(
    sleeper: subprocess.Popen[bytes],
) -> None:
    assert processes.send(sleeper.pid, signal.SIGCONT)
    assert processes.send(sleeper.pid, signal.SIGCONT, group=False)
    sleeper.kill()
    sleeper.wait()
    assert not processes.send(sleeper.pid, signal.SIGCONT)
    assert not processes.send(sleeper.pid, signal.SIGCONT, group=False)


def test_killing_a_session_kills_children_and_groups_of_their_own(tmp_path: Path) -> None:
    # A child in the first group, and one in a group of its own in the same session.
    code = """
import os, subprocess, sys
same = subprocess.Popen(["sleep", "600"])
own = subprocess.Popen(["sleep", "600"], preexec_fn=os.setpgrp)
print(same.pid, own.pid, flush=True)
own.wait()
"""
    leader = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert leader.stdout is not None
    with leader.stdout as stream:
        children = [int(word) for word in stream.readline().split()]
    known = [leader.pid, *children] if sys.platform.startswith("linux") else [leader.pid]
    assert all(map(processes.is_running, known))
    processes.kill_session(leader.pid)
    eventually(gone(known))
    assert leader.wait() == -signal.SIGKILL
    assert list(processes.session_members(leader.pid)) == []
    processes.kill_session(leader.pid)  # gone already: nothing happens


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, (None, None)),
        (0, (0, None)),
        (3, (3, None)),
        (-9, (None, "SIGKILL")),
        (-11, (None, "SIGSEGV")),
        (-200, (None, "signal 200")),
    ],
)
def test_an_exit_status_in_words(
    status: int | None, expected: tuple[int | None, str | None]
) -> None:
    assert processes.describe_exit(status) == expected
