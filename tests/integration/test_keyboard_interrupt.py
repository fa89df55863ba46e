"""Ctrl-C in the caller, at any moment: raised again, nobody left waiting, no worker lost."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import pytest

from jupyter_pool import KernelPool
from support.cells import DEADLINE, Gate, Watcher, pids, states, value
from support.conditions import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="platform: POSIX signals")

STRIKES = 210


@pytest.fixture(scope="module")
def pool(pyzmqs_thread: None) -> Iterator[KernelPool]:
    # As long as an interrupted cell takes to end on a busy machine; nothing may be killed here.
    with KernelPool(2, interrupt_grace=DEADLINE) as pool:
        yield pool.start(wait=True, timeout=DEADLINE)


class Strike:
    """One Ctrl-C to the main thread, so many seconds from now; a context manager.

    It is known whether Python has raised it: what swallows it is found out.
    """

    def __init__(self, delay: float) -> None:
        self.raised = False
        self._delay = delay
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        if not self._cancelled.wait(self._delay):
            ident = threading.main_thread().ident
            assert ident is not None
            signal.pthread_kill(ident, signal.SIGINT)

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        self.raised = True
        raise KeyboardInterrupt

    def __enter__(self) -> Strike:
        self._before = signal.signal(signal.SIGINT, self._on_sigint)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cancelled.set()
        self._thread.join()
        signal.signal(signal.SIGINT, self._before)


ARRAY = np.zeros(300_000)

CELLS: list[tuple[str, dict[str, Any]]] = [
    ("1", {}),
    ("while True: pass", {"timeout": None}),
    ("import time; time.sleep(100)", {"timeout": None}),
    ("import asyncio; await asyncio.sleep(100)", {"timeout": None}),
    ("for i in range(2000): print(i, flush=True)", {"on_output": lambda event: None}),
    ("y = x + 1", {"inputs": {"x": ARRAY}, "outputs": ["y"]}),
    ("1/0", {"check": False}),
]


def test_hundreds_at_random_moments_leave_pool_and_workers_sound(pool: KernelPool) -> None:
    moments = random.Random(20240607)
    before = pids(pool)
    for number in range(STRIKES):
        code, options = CELLS[number % len(CELLS)]
        strike = Strike(moments.uniform(0, 0.02))
        with pytest.raises(KeyboardInterrupt), strike:
            while not strike.raised:
                pool.execute(code, **options)
            raise AssertionError("the interrupt was swallowed")
        if number % 20 == 0:
            assert value(pool.execute("6 * 7", timeout=DEADLINE)) == "42"
    eventually(lambda: states(pool) == ["idle", "idle"], "all requests' end")
    assert pids(pool) == before, pool.get_stats()
    assert pool.get_status().queue_length == 0
    both = [pool.submit_code("x", inputs={"x": i}) for i in range(10)]
    assert [value(future.result(DEADLINE)) for future in both] == [str(i) for i in range(10)]


def test_one_who_queues_leaves_the_queue(pool: KernelPool, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    with pool.checkout(), pool.checkout():
        for delay in (0.0, 0.01, 0.1):
            with pytest.raises(KeyboardInterrupt), Strike(delay):
                pool.execute(f"open({str(trace)!r}, 'w')", checkout_timeout=DEADLINE)
            eventually(lambda: pool.get_status().queue_length == 0)
        for delay in (0.0, 0.01, 0.1):
            with pytest.raises(KeyboardInterrupt), Strike(delay), pool.checkout():
                raise AssertionError("there was no worker to hold")
            eventually(lambda: pool.get_status().queue_length == 0)
    assert value(pool.execute("6 * 7")) == "42"
    assert not trace.exists()


def test_one_whose_code_runs_has_it_interrupted_before_the_call_ends(pool: KernelPool) -> None:
    before = pids(pool)
    watcher = Watcher()
    with pytest.raises(KeyboardInterrupt), Strike(0.3):
        pool.execute(
            "import time\ntry:\n    time.sleep(100)\nfinally:\n    print('cleaned up')",
            on_output=watcher,
            timeout=None,
        )
    # What it still said was shown, and the worker is free.
    assert "cleaned up" in "".join(str(event.get("text")) for event in watcher.events)
    eventually(lambda: states(pool) == ["idle", "idle"])
    assert pids(pool) == before


def test_a_worker_that_does_not_stop_is_killed_and_the_interrupt_raised_in_time() -> None:
    with KernelPool(1, interrupt_grace=0.3) as pool:
        before = pids(pool.start(wait=True, timeout=DEADLINE))
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt), Strike(0.3):
            pool.execute("import itertools; sum(itertools.repeat(1))", timeout=None)
        assert time.monotonic() - begun < 0.3 + 0.3 + 5
        assert value(pool.execute("6 * 7", checkout_timeout=DEADLINE)) == "42"
        assert not set(before) & set(pids(pool))


def test_one_who_waits_for_a_future_leaves_it_alone(pool: KernelPool, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        future = pool.submit_code(gate.code + "'finished'", on_output=watcher)
        watcher.wait_for()
        with pytest.raises(KeyboardInterrupt), Strike(0.05):
            future.result(DEADLINE)
        assert future.running()
        gate.open()
        assert value(future.result(DEADLINE)) == "'finished'"


def test_one_in_a_lease_ends_the_run_and_keeps_state_and_lease(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        worker.execute("x = 1")
        with pytest.raises(KeyboardInterrupt), Strike(0.2):
            worker.execute("while True: pass", timeout=None)
        assert value(worker.execute("x")) == "1"


def test_others_do_not_notice(pool: KernelPool, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        other = pool.submit_code(gate.code + "'untouched'", on_output=watcher)
        watcher.wait_for()
        for delay in (0.0, 0.02, 0.2):
            with pytest.raises(KeyboardInterrupt), Strike(delay):
                pool.execute("while True: pass", timeout=None)
        assert not other.done()
        gate.open()
        assert value(other.result(DEADLINE)) == "'untouched'"
