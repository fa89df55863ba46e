"""What the pool itself costs per request: checkout, dispatch, check-in, without any kernel."""

from __future__ import annotations

import statistics
import time

import pytest

from jupyter_pool.core import (
    Command,
    CoreConfig,
    Dispatch,
    PoolCore,
    RequestDone,
    RequestStarted,
    Start,
    StartWorker,
    Submit,
    WorkerReady,
)

SIZES = (1, 4, 16, 64)
WAITERS = (0, 100, 10_000)
ROUNDS = 2_000


class Desk:
    """A core with all workers ready, `waiting` requests in its queue, and a clock that stands."""

    def __init__(self, size: int, waiting: int) -> None:
        self.core = PoolCore(CoreConfig(size=size))
        self.waiting = waiting
        for command in self.core.handle(Start(), 0.0):
            assert isinstance(command, StartWorker)
            self.core.handle(WorkerReady(command.worker_id), 0.0)
        self.running: list[tuple[int, int]] = []
        self.number = 0
        if waiting:
            # Everyone is busy, so what comes now waits.
            for _ in range(size):
                self.submit()
            for _ in range(waiting):
                self.submit()

    def submit(self) -> None:
        self.number += 1
        event = Submit(self.number, self.number % 7, 1e6, 1e6)
        self._note(self.core.handle(event, 1.0))

    def _note(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Dispatch):
                assert isinstance(command.request_id, int)
                self.running.append((command.worker_id, command.request_id))

    def one_request(self) -> float:
        """One comes, one is dispatched, starts and is done: the length of the queue stays."""
        begun = time.perf_counter()
        self.submit()
        worker, request = self.running.pop(0)
        self._note(self.core.handle(RequestStarted(worker, request), 1.0))
        self._note(self.core.handle(RequestDone(worker, request), 1.0))
        return time.perf_counter() - begun


@pytest.mark.timeout(120)
def test_bookkeeping_is_small_and_the_same_for_any_number_of_workers_and_waiters() -> None:
    desks = {(size, waiting): Desk(size, waiting) for size in SIZES for waiting in WAITERS}
    times: dict[tuple[int, int], list[float]] = {key: [] for key in desks}
    for _ in range(ROUNDS):  # interleaved, so that a slow moment hits all alike
        for key, desk in desks.items():
            times[key].append(desk.one_request())
    p50 = {key: statistics.median(taken) * 1e6 for key, taken in times.items()}
    print("\np50 per request, µs   " + "".join(f"{n:>8} waiting" for n in WAITERS))
    for size in SIZES:
        cells = "".join(f"{p50[size, waiting]:>16.1f}" for waiting in WAITERS)
        print(f"{size:>3} workers          {cells}")
    spread = max(p50.values()) / min(p50.values())
    print(f"largest / smallest: {spread:.2f} (at most 1.3)")
    assert max(p50.values()) <= 100
    assert spread <= 1.3
