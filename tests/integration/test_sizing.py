"""How many workers there are, and which: each option seen at the processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import pytest

from jupyter_pool import Cancelled, ExecutionResult, InvalidRequest, KernelPool, WorkerDied
from jupyter_pool.provisioning.processes import is_running
from jupyter_pool.reports import WorkerInfo
from support.cells import DEADLINE, Gate, Watcher, pids, states, value
from support.conditions import eventually, gone


@pytest.fixture
def gates(tmp_path: Path) -> Iterator[Gates]:
    with Gates(tmp_path) as gates:
        yield gates


class Gates(ExitStack):
    """Cells that are known to run, each until its gate is opened."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._gates: dict[Future[ExecutionResult], Gate] = {}

    def occupy(self, pool: KernelPool) -> Future[ExecutionResult]:
        """Have a cell run; its value is its worker's process id."""
        gate = self.enter_context(Gate(self._folder, f"gate{len(self._gates)}"))
        watcher = Watcher()
        future = pool.submit_code(gate.code + "import os; os.getpid()", on_output=watcher)
        watcher.wait_for("waiting")
        self._gates[future] = gate
        return future

    def open(self, future: Future[ExecutionResult]) -> int:
        """Let it end; the process id of the worker that it ran on."""
        self._gates[future].open()
        return int(value(future.result(timeout=DEADLINE)))


def settled(pool: KernelPool, *expected: str) -> dict[int, int | None]:
    """Wait until the workers are in these states; their process ids by worker id."""

    def look() -> tuple[WorkerInfo, ...] | None:
        workers = pool.get_status().workers
        return workers if sorted(w.state for w in workers) == sorted(expected) else None

    return {w.id: w.pid for w in eventually(look, f"workers are {expected}") or ()}


def worker_of(pool: KernelPool) -> int:
    found = pool.execute("1").worker_id
    assert found is not None
    return found


# --- size, overflow, lazy -----------------------------------------------------------------------


def test_size_is_how_many_workers_there_are_and_how_many_run_at_a_time(gates: Gates) -> None:
    with KernelPool(size=2) as pool:
        at_work = [gates.occupy(pool) for _ in range(2)]
        waiting = pool.submit_code("1")
        eventually(lambda: pool.get_status().queue_length == 1)
        known = settled(pool, "busy", "busy")
        assert {gates.open(future) for future in at_work} == set(known.values())
        waiting.result(timeout=DEADLINE)
        assert pids(pool) == known
        assert pool.get_stats().workers_started == 2


def test_overflow_workers_come_when_all_are_busy_and_go_when_they_idle(gates: Gates) -> None:
    with KernelPool(size=1, overflow=1, max_idle=0.3) as pool:
        pool.start(wait=True)
        base = settled(pool, "idle")
        pool.execute("1")
        assert pids(pool) == base  # one at a time needs no more

        first, second = gates.occupy(pool), gates.occupy(pool)
        both = settled(pool, "busy", "busy")
        assert base.items() < both.items()
        assert [worker.overflow for worker in pool.get_status().workers] == [False, True]
        assert pool.get_stats().overflow_in_use == 1
        waiting = pool.submit_code("1")
        eventually(lambda: pool.get_status().queue_length == 1)
        assert pids(pool) == both  # and no third

        used = {gates.open(first), gates.open(second)}
        waiting.result(timeout=DEADLINE)
        assert used == set(both.values())
        (left,) = settled(pool, "idle").values()
        assert gone(used - {left})()
        assert pool.get_stats().overflow_in_use == 0
        assert pool.execute("1").worker_id in pids(pool)


def test_overflow_workers_stay_without_max_idle(gates: Gates) -> None:
    with KernelPool(size=1, overflow=1, max_idle=None) as pool:
        for future in [gates.occupy(pool), gates.occupy(pool)]:
            gates.open(future)
        both = settled(pool, "idle", "idle")
        assert {worker_of(pool) for _ in range(4)} <= set(both)
        assert pids(pool) == both


def test_a_lazy_pool_starts_workers_one_by_one_as_they_are_needed(gates: Gates) -> None:
    with KernelPool(size=2, lazy=True) as pool:
        pool.start(wait=True)
        assert pids(pool) == {}
        first = worker_of(pool)
        assert [worker_of(pool) for _ in range(3)] == [first] * 3
        at_work = gates.occupy(pool), gates.occupy(pool)
        assert settled(pool, "busy", "busy").keys() > {first}
        for future in at_work:
            gates.open(future)
        settled(pool, "idle", "idle")  # and they stay


# --- reserve ------------------------------------------------------------------------------------


def test_a_reserve_worker_takes_the_place_of_one_that_died(gates: Gates) -> None:
    with KernelPool(size=1, reserve=1) as pool:
        pool.start(wait=True)
        settled(pool, "idle", "standby")
        spare = next(w.id for w in pool.get_status().workers if w.state == "standby")
        # It does not serve as long as it is not needed.
        at_work = gates.occupy(pool)
        waiting = pool.submit_code("1")
        eventually(lambda: pool.get_status().queue_length == 1)
        assert states(pool) == ["busy", "standby"]
        gates.open(at_work)
        assert waiting.result(timeout=DEADLINE).worker_id != spare

        with pytest.raises(WorkerDied):
            pool.execute("import os; os.kill(os.getpid(), 9)")
        assert worker_of(pool) == spare
        assert spare not in {w.id for w in pool.get_status().workers if w.state == "standby"}
        settled(pool, "idle", "standby")  # and the reserve is filled again


# --- resize -------------------------------------------------------------------------------------


def test_a_pool_can_be_made_larger_and_smaller(gates: Gates) -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        (first,) = pids(pool)
        pool.resize(size=3)
        three = settled(pool, "idle", "idle", "idle")
        assert first in three
        assert pool.get_status().config["size"] == pool.config.size == 3

        at_work = gates.occupy(pool)
        pool.resize(size=1)
        eventually(lambda: states(pool) == ["busy"])
        busy = gates.open(at_work)
        assert list(settled(pool, "idle").values()) == [busy]  # never interrupted
        assert gone(pid for pid in three.values() if pid and pid != busy)()


def test_busy_workers_end_after_their_request_when_the_pool_is_made_smaller(gates: Gates) -> None:
    with KernelPool(size=2) as pool:
        first, second = gates.occupy(pool), gates.occupy(pool)
        pool.resize(size=1)
        assert states(pool) == ["busy", "busy"]
        ended = gates.open(first)
        eventually(lambda: states(pool) == ["busy"])
        assert not is_running(ended)
        staying = gates.open(second)
        assert list(settled(pool, "idle").values()) == [staying]


def test_overflow_can_be_added_while_requests_wait(gates: Gates) -> None:
    with KernelPool(size=1) as pool:
        at_work = gates.occupy(pool)
        waiting = pool.submit_code("'served'")
        eventually(lambda: pool.get_status().queue_length == 1)
        pool.resize(overflow=1)
        assert value(waiting.result(timeout=DEADLINE)) == "'served'"
        assert not at_work.done()
        gates.open(at_work)


def test_an_unstarted_pool_can_be_resized() -> None:
    pool = KernelPool(size=1)
    pool.resize(size=2)
    with pool:
        pool.start(wait=True)
        settled(pool, "idle", "idle")


def test_an_impossible_size_changes_nothing() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        known = pids(pool)
        for sizes in ({"size": -1}, {"size": 0}, {"overflow": -1}, {"size": 1.5}, {}):
            with pytest.raises(InvalidRequest):
                pool.resize(**sizes)
        assert pids(pool) == known
        assert pool.config.size == 1
        assert worker_of(pool) in known


# --- replacing ----------------------------------------------------------------------------------


def test_draining_replaces_idle_workers_now_and_busy_ones_after_their_request(
    gates: Gates,
) -> None:
    with KernelPool(size=2) as pool:
        pool.start(wait=True)
        before = settled(pool, "idle", "idle")
        at_work = gates.occupy(pool)
        pool.drain()
        eventually(lambda: len(before.keys() & pids(pool).keys()) == 1)
        settled(pool, "busy", "idle")
        busy = gates.open(at_work)
        assert busy in before.values()
        eventually(lambda: not before.keys() & pids(pool).keys())
        settled(pool, "idle", "idle")
        assert gone(pid for pid in before.values() if pid)()
        assert pool.get_stats().workers_recycled == {"drained": 2}


def test_an_idle_worker_can_be_restarted() -> None:
    with KernelPool(size=2) as pool:
        pool.start(wait=True)
        before = settled(pool, "idle", "idle")
        old, other = before
        pool.restart_worker(old)
        eventually(lambda: old not in pids(pool))
        after = settled(pool, "idle", "idle")
        assert other in after
        assert not is_running(before[old] or 0)
        with pytest.raises(InvalidRequest) as caught:
            pool.restart_worker(old)
        assert str(old) in str(caught.value)
        assert all(str(worker_id) in str(caught.value) for worker_id in after)


def test_restarting_a_busy_worker_cancels_what_runs_on_it(gates: Gates) -> None:
    with KernelPool(size=1) as pool:
        at_work = gates.occupy(pool)
        waiting = pool.submit_code("import os; os.getpid()")
        (known,) = pids(pool).items()
        pool.restart_worker(known[0])
        error = at_work.exception(timeout=DEADLINE)
        assert isinstance(error, Cancelled)
        assert f"worker {known[0]} was restarted" in str(error)
        assert int(value(waiting.result(timeout=DEADLINE))) != known[1]
        assert not is_running(known[1] or 0)


def test_a_worker_that_dies_idle_is_replaced() -> None:
    with KernelPool(size=1) as pool:
        (known,) = pids(pool.start(wait=True)).items()
        assert worker_of(pool) == known[0]
        os.kill(known[1] or 0, signal.SIGKILL)
        eventually(lambda: known[0] not in pids(pool))
        settled(pool, "idle")
        assert worker_of(pool) != known[0]
        assert pool.get_stats().workers_lost == {"SIGKILL": 1}


def test_max_tasks_replaces_a_worker_after_so_many_requests() -> None:
    with KernelPool(size=1, max_tasks=2) as pool:
        served = [worker_of(pool) for _ in range(5)]
        assert served == [served[0]] * 2 + [served[2]] * 2 + [served[4]]
        assert len(set(served)) == 3
        assert pool.get_stats().workers_recycled == {"max_tasks": 2}


def test_max_tasks_counts_what_runs_within_a_lease_and_waits_for_its_end() -> None:
    with KernelPool(size=1, max_tasks=2) as pool:
        with pool.checkout() as worker:
            held = worker.worker_id
            assert [value(worker.execute(str(n))) for n in range(3)] == ["0", "1", "2"]
        assert worker_of(pool) != held


def test_max_lifetime_replaces_an_old_worker_but_never_one_that_is_busy(gates: Gates) -> None:
    with KernelPool(size=1, max_lifetime=1) as pool:
        pool.start(wait=True)
        at_work = gates.occupy(pool)
        worker = next(w for w in pool.get_status().workers if w.state == "busy")
        ran_since = time.monotonic()
        eventually(lambda: time.monotonic() - ran_since > 1.2)  # its time is up by now
        assert "busy" in states(pool)
        assert gates.open(at_work) == worker.pid
        eventually(lambda: worker.id not in pids(pool))
        (second,) = settled(pool, "idle")
        eventually(lambda: second not in pids(pool))  # idle, and all the same too old in the end
        assert set(pool.get_stats().workers_recycled) == {"lifetime"}


def test_isolation_process_serves_each_request_by_a_process_of_its_own() -> None:
    with KernelPool(size=1, isolation="process") as pool:
        served = [int(value(pool.execute("import os; os.getpid()"))) for _ in range(3)]
        assert len(set(served)) == 3
        eventually(gone(served))
        settled(pool, "idle", "standby")


def test_one_request_can_ask_for_a_process_of_its_own() -> None:
    with KernelPool(size=1) as pool:
        shared = worker_of(pool)
        own = pool.execute("1", isolation="process").worker_id
        after = worker_of(pool)
        assert len({shared, own, after}) == 3
        assert worker_of(pool) == after
        assert pool.get_stats().workers_recycled == {"isolation": 2}


def test_work_goes_on_while_workers_come_and_go(tmp_path: Path) -> None:
    with KernelPool(size=2, overflow=1, max_idle=0.1, max_tasks=7) as pool:
        futures = []
        for n in range(50):
            futures.append(pool.submit_code(str(n)))
            if n % 20 == 5:
                pool.resize(size=1 + n // 20 % 2)
            if n % 20 == 10:
                pool.drain()
        found = [value(future.result(timeout=60)) for future in futures]
        assert found == [str(n) for n in range(50)]
        pool.resize(size=1, overflow=0)
        settled(pool, "idle")
