"""What processes have in memory: each, and a family that shares some of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jupyter_pool.engine.memory import Memory, measure, of_family, resident
from jupyter_pool.provisioning import processes

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")

SIZE = 60_000_000


@contextmanager
def running(code: str) -> Iterator[tuple[int, list[int]]]:
    """A process that runs code, and the ids that this prints once it is all done."""
    code += "\nprint(*ids, flush=True)\nimport sys\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"import os, subprocess\nids = []\n{code}"],
        start_new_session=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process.pid, [int(word) for word in process.stdout.readline().split()]
        finally:
            processes.kill_session(process.pid)


def stop(pid: int) -> None:
    """Have a child stand still, so that two looks at its memory see the same."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


def found(pid: int) -> tuple[int, int, int]:
    memory = measure(pid)
    assert memory is not None
    assert memory.unshared is not None
    assert memory.proportional is not None
    return memory.resident, memory.unshared, memory.proportional


FORK = f"""
held = b'x' * {SIZE}
child = os.fork()
if not child:
    sys = __import__("sys")
    sys.stdin.read()
    os._exit(0)
ids.append(child)
"""


def test_a_process_alone() -> None:
    with running(f"held = b'x' * {SIZE}") as (pid, _):
        stop(pid)
        rss, uss, pss = found(pid)
        assert SIZE < uss <= pss <= rss < 2 * SIZE
        assert resident(pid) == rss
        assert of_family([pid], shared=0) == uss


def test_what_a_worker_shares_with_its_own_child_counts_once() -> None:
    with running(FORK) as (pid, (child,)):
        rss, uss, _ = found(pid)
        assert uss < SIZE < rss
        assert SIZE < of_family([pid, child], shared=0) < 2 * SIZE
        assert SIZE - 20_000_000 < of_family([pid, child], shared=20_000_000) < 2 * SIZE


def test_where_nothing_is_left_to_measure() -> None:
    with running("") as (pid, _):
        pass
    assert (measure(pid), resident(pid), of_family([pid], shared=0)) == (None, None, 0)
    assert (measure(None), resident(None)) == (None, None)


def test_a_system_that_does_not_tell_what_is_shared_counts_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_pool.engine.memory._read_rollup", lambda pid: None)
    memory = measure(os.getpid())
    assert memory is not None
    assert (memory.unshared, memory.proportional) == (None, None)
    assert memory.resident > 0
    monkeypatch.setattr("jupyter_pool.engine.memory.measure", lambda pid: Memory(7))
    assert of_family([1], shared=3) == 7
    assert of_family([1, 2], shared=3) == 14


def test_elsewhere_another_library_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    rss, uss, _ = found(os.getpid())
    monkeypatch.setattr("jupyter_pool.engine.memory._LINUX", False)
    memory = measure(os.getpid())
    assert memory is not None
    assert memory.unshared is not None
    assert resident(os.getpid())
    # Of one and the same process, a moment later.
    assert 0.5 < memory.resident / rss < 2
    assert 0.5 < memory.unshared / uss < 2


def test_the_family_is_the_descendants_and_the_session() -> None:
    code = """
same = subprocess.Popen(["sleep", "600"])
own = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], start_new_session=True,
                       stdout=subprocess.PIPE)
orphan = subprocess.run(["sh", "-c", "sleep 600 >&2 & echo $!"], stdout=subprocess.PIPE)
ids += [same.pid, own.pid, int(own.stdout.readline()), int(orphan.stdout)]
"""
    with running(code) as (pid, ids):
        try:
            assert processes.families([pid, ids[1]]) == {pid: set(ids), ids[1]: {ids[2]}}
        finally:
            processes.kill_session(ids[1])
