"""Function calls against `concurrent.futures.ProcessPoolExecutor`, and one worker against many.

pytest tests/benchmarks -s
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor

import pytest

from jupyter_pool import KernelPool
from support.paired import Figure, measure, table

_MANY = 2000


def _one(executor: Executor) -> Callable[[], float]:
    def run() -> float:
        begun = time.perf_counter()
        assert executor.submit(abs, -1).result() == 1
        return time.perf_counter() - begun

    for _ in range(50):
        run()
    return run


def _gather(executor: Executor) -> Callable[[], float]:
    def run() -> float:
        begun = time.perf_counter()
        futures = [executor.submit(abs, -number) for number in range(_MANY)]
        assert [future.result() for future in futures] == list(range(_MANY))
        return time.perf_counter() - begun

    run()
    return run


def _check(figure: Figure) -> None:
    print("\n" + table([figure]))
    assert figure.ratio <= figure.at_most


@pytest.mark.timeout(300)
@pytest.mark.xfail(reason="about 2 now: four of its nine thread switches are ZMQ's")
def test_a_call_takes_about_the_time_of_a_process_pools() -> None:
    with KernelPool(size=2) as pool, ProcessPoolExecutor(2) as peer:
        pool.start(wait=True, timeout=60)
        figure = measure(
            "submit(f, 1).result()",
            _one(pool),
            "ProcessPoolExecutor",
            _one(peer),
            rounds=500,
            at_most=1.2,
        )
    _check(figure)


@pytest.mark.timeout(300)
@pytest.mark.xfail(reason="about 4.5 now: a worker waits for its next call until it has answered")
def test_many_calls_in_flight_take_no_longer_than_a_process_pools() -> None:
    with KernelPool(size=2) as pool, ProcessPoolExecutor(2) as peer:
        pool.start(wait=True, timeout=60)
        figure = measure(
            f"{_MANY:,} submits in flight",
            _gather(pool),
            "ProcessPoolExecutor",
            _gather(peer),
            rounds=5,
            at_most=1.0,
        )
    _check(figure)


@pytest.mark.timeout(300)
def test_a_call_takes_no_longer_among_many_idle_workers() -> None:
    with KernelPool(size=32) as many, KernelPool(size=1) as alone:
        many.start(wait=True, timeout=120)
        alone.start(wait=True, timeout=60)
        figure = measure(
            "a call, 32 workers idle",
            _one(many),
            "1 worker",
            _one(alone),
            rounds=500,
            at_most=1.15,
        )
    print("\n" + table([figure]))
    # Both in one process: the p50 of each, since no pair has anything in common.
    assert statistics.median(figure.ours) <= figure.at_most * statistics.median(figure.theirs)
