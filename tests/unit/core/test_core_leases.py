"""Leases: a worker held by one holder, and the runs inside."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_pool.core import (
    Cancel,
    Dispatch,
    Finish,
    Interrupt,
    InterruptDelivered,
    MemoryExceeded,
    Outcome,
    RequestRefused,
    Reset,
    ResetDone,
    RestartWorker,
    ReturnLease,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
)
from support.scripted_pool import MakePool, ScriptedPool


@pytest.fixture
def leased(make_pool: MakePool) -> MakePool:
    """One worker, held by lease L since 10.0."""

    def make(
        isolation: str = "namespace", limit: float | None = None, **options: Any
    ) -> ScriptedPool:
        pool = make_pool(**options)
        pool.start(1)
        assert pool.submit("L", lease=True, isolation=isolation, limit=limit) == [
            Dispatch("L", 1, 1, None if limit is None else 10.0 + limit)
        ]
        return pool

    return make


def test_a_lease_holds_its_worker_until_returned_then_it_is_reset(leased: MakePool) -> None:
    pool = leased()
    assert repr(pool) == "<PoolCore running [Workers: 1 leased | Requests: 1 held]>"
    pool.submit("other")
    assert pool.at(1000.0) == []
    assert pool(ReturnLease("L")) == [Finish("L", Outcome.DONE, 1), Reset(1)]
    assert repr(pool) == "<PoolCore running [Workers: 1 resetting | Requests: 1 queued]>"
    assert pool(ResetDone(1)) == [Dispatch("other", 1, 1, None)]


def test_runs_inside_a_lease_come_one_after_another_in_order(leased: MakePool) -> None:
    pool = leased()
    assert pool.run("x", "L", limit=5.0) == [Dispatch("x", 1, 1, 15.0)]
    assert pool.run("y", "L") == []
    assert pool.run("z", "L") == []
    assert repr(pool) == (
        "<PoolCore running [Workers: 1 busy | Requests: 1 running, 1 held, 2 queued]>"
    )
    assert pool.done(1, "x") == [Finish("x", Outcome.DONE, 1), Dispatch("y", 1, 1, None)]
    assert pool(Cancel("z")) == [Finish("z", Outcome.CANCELLED, None)]
    assert pool.done(1, "y") == [Finish("y", Outcome.DONE, 1)]
    assert repr(pool) == "<PoolCore running [Workers: 1 leased | Requests: 1 held]>"


def test_runs_given_before_the_worker_is_there_wait_for_it(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.submit("L", lease=True)
    assert pool.run("x", "L") == []
    assert pool.ready(1) == [Dispatch("L", 1, 1, None), Dispatch("x", 1, 1, None)]


def test_a_lease_that_waits_in_vain_takes_its_runs_with_it(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.submit("L", lease=True, wait=5.0)
    pool.run("x", "L")
    assert pool.at(5.0) == [
        Finish("x", Outcome.CHECKOUT_TIMEOUT, None),
        Finish("L", Outcome.CHECKOUT_TIMEOUT, None),
    ]


def test_a_run_that_times_out_cleanly_leaves_the_lease_alone(leased: MakePool) -> None:
    pool = leased()
    pool.run("x", "L", limit=5.0)
    pool.run("y", "L")
    assert pool.at(15.0) == [Interrupt(1, "x")]
    pool(InterruptDelivered(1))
    assert pool.done(1, "x") == [
        Finish("x", Outcome.OPERATION_TIMEOUT, 1),
        Dispatch("y", 1, 1, None),
    ]


def test_a_run_that_ends_in_a_kill_ends_the_lease(leased: MakePool) -> None:
    pool = leased(interrupt_grace=2.0)
    pool.run("x", "L", limit=5.0)
    pool.run("y", "L")
    assert pool.at(17.0) == [
        Interrupt(1, "x"),
        StopWorker(1, kill=True, why=StopReason.TIMED_OUT),
        StartWorker(2),
    ]
    assert pool(ReturnLease("L"), Cancel("L")) == []  # it ends with its worker
    assert pool.stopped(1) == [
        Finish("x", Outcome.OPERATION_TIMEOUT, 1, clean=False),
        Finish("y", Outcome.WORKER_DIED, None, StopReason.TIMED_OUT),
        Finish("L", Outcome.WORKER_DIED, 1, StopReason.TIMED_OUT, clean=False),
    ]


def test_a_death_ends_run_and_lease_even_before_the_run_started(leased: MakePool) -> None:
    pool = leased()
    pool.run("x", "L")
    assert pool(WorkerDied(1, "segfault")) == [
        Finish("x", Outcome.WORKER_DIED, 1, "segfault", clean=False),
        Finish("L", Outcome.WORKER_DIED, 1, "segfault", clean=False),
        StartWorker(2),
    ]


def test_too_much_memory_in_a_lease_ends_what_runs_and_waits_in_it(leased: MakePool) -> None:
    pool = leased()
    pool.run("x", "L")
    pool.run("y", "L")
    assert pool(MemoryExceeded(1, "L", "9 of 8")) == [
        StopWorker(1, kill=True, why=StopReason.MEMORY_LIMIT),
        StartWorker(2),
    ]
    outcome = Outcome.MEMORY_LIMIT_EXCEEDED
    assert pool.stopped(1) == [
        Finish("x", outcome, 1, "9 of 8", clean=False),
        Finish("y", outcome, None, "9 of 8"),
        Finish("L", outcome, 1, "9 of 8", clean=False),
    ]


def test_a_death_between_runs_ends_the_lease(leased: MakePool) -> None:
    pool = leased()
    assert pool(WorkerDied(1, "why")) == [
        Finish("L", Outcome.WORKER_DIED, 1, "why", clean=False),
        StartWorker(2),
    ]


def test_a_run_in_a_lease_that_is_over_is_refused(leased: MakePool) -> None:
    pool = leased()
    pool(ReturnLease("L"))
    assert pool.run("x", "L") == [Finish("x", Outcome.CANCELLED, None)]
    assert pool(ReturnLease("L")) == []


def test_returning_a_lease_cancels_what_waits_and_interrupts_what_runs(leased: MakePool) -> None:
    pool = leased()
    pool.run("x", "L")
    pool.run("y", "L")
    assert pool(ReturnLease("L")) == [
        Finish("y", Outcome.CANCELLED, None),
        Finish("L", Outcome.DONE, 1),
        Interrupt(1, "x"),
    ]
    pool(InterruptDelivered(1))
    assert pool.done(1, "x") == [Finish("x", Outcome.CANCELLED, 1), Reset(1)]


def test_cancelling_a_held_lease_takes_it_back(leased: MakePool) -> None:
    pool = leased()
    assert pool(Cancel("L")) == [Finish("L", Outcome.CANCELLED, 1), Reset(1)]


def test_cancelling_a_lease_that_waits_is_as_cancelling_any_request(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.submit("L", lease=True)
    pool.submit("M", lease=True)
    assert pool(Cancel("L")) == [Finish("L", Outcome.CANCELLED, None)]
    assert pool(ReturnLease("M")) == [Finish("M", Outcome.CANCELLED, None)]


def test_a_lease_is_taken_back_when_its_time_is_over(leased: MakePool) -> None:
    pool = leased(limit=60.0)
    pool.run("x", "L")
    assert pool.at(70.0) == [Finish("L", Outcome.OPERATION_TIMEOUT, 1), Interrupt(1, "x")]


def test_a_discarded_worker_is_replaced_instead_of_reset(leased: MakePool) -> None:
    pool = leased()
    assert pool(ReturnLease("L", discard=True)) == [
        Finish("L", Outcome.DONE, 1),
        StopWorker(1, kill=False, why=StopReason.RECYCLED, detail="discarded"),
        StartWorker(2),
    ]


def test_a_leased_worker_under_process_isolation_is_replaced(leased: MakePool) -> None:
    pool = leased(isolation="process")
    assert pool(ReturnLease("L"))[1:] == [
        StopWorker(1, kill=False, why=StopReason.RECYCLED, detail="isolation"),
        StartWorker(2),
    ]


def test_a_leased_worker_without_isolation_is_used_as_it_is(leased: MakePool) -> None:
    pool = leased(isolation="none")
    assert pool(ReturnLease("L")) == [Finish("L", Outcome.DONE, 1)]
    assert pool.submit("a") == [Dispatch("a", 1, 1, None)]


def test_a_reset_that_is_not_answered_ends_in_a_kill(leased: MakePool) -> None:
    pool = leased(reset_timeout=5.0)
    pool(ReturnLease("L"))
    assert pool.at(15.0) == [
        StopWorker(1, kill=True, why=StopReason.RESET_FAILED),
        StartWorker(2),
    ]
    assert pool(ResetDone(1)) == []


def test_a_kernel_may_ask_for_its_replacement_when_reset(leased: MakePool) -> None:
    pool = leased()
    pool(ReturnLease("L"))
    assert pool(ResetDone(1, recycle="unknown threads")) == [
        StopWorker(1, kill=False, why=StopReason.RECYCLED, detail="unknown threads"),
        StartWorker(2),
    ]


def test_recycling_waits_for_the_end_of_the_lease(leased: MakePool) -> None:
    pool = leased(max_tasks=1)
    pool.run("x", "L")
    pool.run("y", "L")
    assert pool.done(1, "x", recycle="threads")[1:] == [Dispatch("y", 1, 1, None)]
    pool.done(1, "y")
    assert pool(ReturnLease("L"))[1] == StopWorker(1, False, StopReason.RECYCLED, "threads")


def test_restarting_a_leased_worker_ends_the_lease(leased: MakePool) -> None:
    pool = leased()
    pool.run("x", "L")
    assert pool(RestartWorker(1))[0] == StopWorker(1, kill=True, why=StopReason.RESTARTED)
    assert pool.stopped(1) == [
        Finish("x", Outcome.RESTARTED, 1, clean=False),
        Finish("L", Outcome.RESTARTED, 1, clean=False),
    ]


def test_a_lease_whose_run_is_refused_moves_to_another_worker_with_all_that_waits_in_it(
    leased: MakePool,
) -> None:
    pool = leased(limit=60.0)
    pool.run("r1", "L")
    pool.run("r2", "L")
    pool.submit("other")
    pool.started(1, "r1")
    refused = pool(RequestRefused(1, "r1", "edited"))
    assert refused == [StopWorker(1, False, StopReason.RECYCLED, "edited"), StartWorker(2)]
    assert pool.ready(2) == [Dispatch("L", 2, 1, 70.0), Dispatch("r1", 2, 1, None)]
    assert pool.done(2, "r1") == [Finish("r1", Outcome.DONE, 2), Dispatch("r2", 2, 1, None)]


def test_a_lease_that_is_returned_while_it_moves_ends_with_its_runs(leased: MakePool) -> None:
    pool = leased()
    pool.run("r1", "L")
    pool(RequestRefused(1, "r1", "edited"))
    assert pool(ReturnLease("L")) == [
        Finish("r1", Outcome.CANCELLED, 1),
        Finish("L", Outcome.CANCELLED, 1),
    ]
