"""A request with isolation "process": a process that has served nobody before, and nobody after."""

from __future__ import annotations

import pytest

from jupyter_pool.core import (
    Breaker,
    BreakerMoved,
    Cancel,
    Close,
    Closed,
    Degraded,
    Dispatch,
    Finish,
    Outcome,
    Resize,
    ReturnLease,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
    WorkerStartFailed,
)
from support.scripted_pool import MakePool, ScriptedPool

MakeUsed = MakePool


@pytest.fixture
def used(make_pool: MakePool) -> MakeUsed:
    """Make a pool all of whose `size` workers have served somebody, and idle."""

    def make(size: int = 1, **options: object) -> ScriptedPool:
        pool = make_pool(size=size, **options)
        reserve = int(str(options.get("reserve", 0)))
        pool.start(*range(1, size + reserve + 1))
        for worker_id in range(size, 0, -1):
            assert pool.submit(f"first {worker_id}") == [
                Dispatch(f"first {worker_id}", worker_id, 1, None)
            ]
        for worker_id in range(1, size + 1):
            pool.done(worker_id, f"first {worker_id}")
        return pool

    return make


def recycled(worker_id: int) -> StopWorker:
    return StopWorker(worker_id, kill=False, why=StopReason.RECYCLED, detail="isolation")


# --- where the process comes from --------------------------------------------------------------


def test_a_worker_that_has_served_nobody_is_taken_at_once(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    assert pool.submit("p", isolation="process") == [Dispatch("p", 1, 1, None)]
    assert pool.done(1, "p") == [Finish("p", Outcome.DONE, 1), recycled(1), StartWorker(2)]


def test_among_the_idle_one_that_has_served_nobody_is_found(make_pool: MakePool) -> None:
    pool = make_pool(size=3)
    pool.start(1, 2, 3)
    pool.submit("a")
    pool.done(3, "a")  # the next to be used, were it not for isolation
    assert pool.submit("p", isolation="process") == [Dispatch("p", 2, 1, None)]


def test_a_used_worker_makes_way_for_a_new_one(used: MakeUsed) -> None:
    pool = used()
    assert pool.submit("p", isolation="process") == [recycled(1), StartWorker(2)]
    assert pool.stopped(1) == []
    assert pool.ready(2) == [Dispatch("p", 2, 1, None)]
    assert pool.done(2, "p") == [Finish("p", Outcome.DONE, 2), recycled(2), StartWorker(3)]


def test_the_one_that_was_used_longest_ago_makes_way(used: MakeUsed) -> None:
    pool = used(size=3)
    assert pool.submit("p", isolation="process") == [recycled(1), StartWorker(4)]


def test_a_standby_worker_serves_at_once_in_the_seat_of_a_used_one(used: MakeUsed) -> None:
    pool = used(reserve=1)
    assert pool.submit("p", isolation="process") == [
        recycled(1),
        Dispatch("p", 2, 1, None),
        StartWorker(3),
    ]


def test_a_free_overflow_seat_costs_no_warm_worker(used: MakeUsed) -> None:
    pool = used(overflow=1)
    assert pool.submit("p", isolation="process") == [StartWorker(2)]
    assert pool.submit("a") == [Dispatch("a", 1, 1, None)]
    assert pool.ready(2) == [Dispatch("p", 2, 1, None)]
    assert pool.done(2, "p") == [Finish("p", Outcome.DONE, 2), recycled(2)]


def test_a_lazy_pool_starts_one_more_where_it_may(make_pool: MakePool) -> None:
    pool = make_pool(size=2, lazy=True)
    pool.submit("a")
    pool.ready(1)
    pool.done(1, "a")
    assert pool.submit("p", isolation="process") == [StartWorker(2)]
    assert pool.submit("b") == [Dispatch("b", 1, 1, None)]


def test_a_start_that_is_under_way_anyway_is_enough(used: MakeUsed) -> None:
    pool = used(size=2)
    assert pool(WorkerDied(1, "why")) == [StartWorker(3)]
    assert pool.submit("p", isolation="process") == []
    assert pool.submit("q", isolation="process") == [recycled(2), StartWorker(4)]
    assert pool.ready(3) == [Dispatch("p", 3, 1, None)]


def test_a_worker_on_its_way_to_the_reserve_takes_the_seat_of_a_used_one(used: MakeUsed) -> None:
    pool = used(reserve=1)
    pool.submit("p", isolation="process")  # takes the reserve
    pool.done(2, "p")
    pool.stopped(1, 2)
    pool.ready(3)
    pool.submit("a")
    pool.done(3, "a")
    assert repr(pool) == "<PoolCore running [Workers: 1 idle, 1 starting | Requests: none]>"
    assert pool.submit("q", isolation="process") == []
    assert pool.ready(4) == [recycled(3), Dispatch("q", 4, 1, None), StartWorker(5)]


def test_a_lease_gets_a_process_of_its_own_and_runs_everything_in_it(used: MakeUsed) -> None:
    pool = used()
    pool.submit("L", isolation="process", lease=True)
    pool.run("a", "L")
    pool.stopped(1)
    assert pool.ready(2) == [Dispatch("L", 2, 1, None), Dispatch("a", 2, 1, None)]
    assert pool.done(2, "a") == [Finish("a", Outcome.DONE, 2)]
    assert pool.run("b", "L") == [Dispatch("b", 2, 1, None)]
    pool.done(2, "b")
    assert pool(ReturnLease("L")) == [
        Finish("L", Outcome.DONE, 2),
        recycled(2),
        StartWorker(3),
    ]


def test_a_worker_that_was_held_is_used_even_if_nothing_ran_in_it(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("L", lease=True, isolation="none")
    pool(ReturnLease("L"))
    assert pool.submit("p", isolation="process") == [recycled(1), StartWorker(2)]


def test_every_attempt_has_a_process_of_its_own(used: MakeUsed) -> None:
    pool = used(size=2)
    pool.submit("p", isolation="process", retries=1)
    pool.ready(3)
    pool.started(3, "p")
    assert pool(WorkerDied(3, "why")) == [StartWorker(4)]  # the used one is free, and not taken
    assert pool.ready(4) == [Dispatch("p", 4, 2, None)]


# --- waiting for it ----------------------------------------------------------------------------


def test_others_use_the_idle_workers_meanwhile(used: MakeUsed) -> None:
    pool = used(size=2)
    assert pool.submit("p", isolation="process") == [recycled(1), StartWorker(3)]
    for other in "abc":
        assert pool.submit(other) == [Dispatch(other, 2, 1, None)]
        pool.done(2, other)
    assert pool.core.set_aside == ("p",)


def test_it_has_its_turn_within_a_sweep(used: MakeUsed) -> None:
    pool = used(size=2)
    for request_id in ("a", "b", "c"):
        pool.submit(request_id)
    pool.submit("p", isolation="process")
    for request_id in ("d", "e", "f"):
        pool.submit(request_id)
    assert pool.done(2, "a") == [Finish("a", Outcome.DONE, 2), Dispatch("c", 2, 1, None)]
    assert pool.done(1, "b") == [Finish("b", Outcome.DONE, 1), recycled(1), StartWorker(3)]
    assert pool.done(2, "c") == [Finish("c", Outcome.DONE, 2), Dispatch("d", 2, 1, None)]
    assert pool.ready(3) == [Dispatch("p", 3, 1, None)]


def test_who_is_set_aside_counts_as_waiting_and_comes_first(used: MakeUsed) -> None:
    pool = used(size=2)
    pool.submit("p", isolation="process")
    pool.submit("q", isolation="process")
    for request_id in ("a", "b"):
        pool.submit(request_id)
    assert list(pool.core.set_aside) == ["p", "q"]
    assert pool.core.queue_length == pool.core.high_water == 4
    assert [pool.core.queue_position(i) for i in "pqab"] == [0, 1, 2, 3]
    assert pool.ready(3, 4) == [Dispatch("p", 3, 1, None), Dispatch("q", 4, 1, None)]
    assert list(pool.core.set_aside) == []


def test_its_checkout_deadline_holds(used: MakeUsed) -> None:
    pool = used()
    pool.submit("p", isolation="process", wait=5.0)
    assert pool.at(14.99) == []
    assert pool.at(15.0) == [Finish("p", Outcome.CHECKOUT_TIMEOUT, None)]
    pool.ready(2)
    assert pool.submit("a") == [Dispatch("a", 2, 1, None)]


def test_without_patience_only_a_process_that_is_there_will_do(used: MakeUsed) -> None:
    pool = used()
    assert pool.submit("p", isolation="process", wait=0.0) == [
        recycled(1),
        StartWorker(2),
        Finish("p", Outcome.CHECKOUT_TIMEOUT, None),
    ]


def test_it_can_be_cancelled(used: MakeUsed) -> None:
    pool = used()
    pool.submit("p", isolation="process")
    pool.submit("L", isolation="process", lease=True)
    assert pool(Cancel("p")) == [Finish("p", Outcome.CANCELLED, None)]
    assert pool(ReturnLease("L")) == [Finish("L", Outcome.CANCELLED, None)]
    assert pool.ready(2) == []
    assert repr(pool) == "<PoolCore running [Workers: 1 idle, 1 stopping | Requests: none]>"


def test_a_full_queue_refuses_only_who_would_have_to_wait(used: MakeUsed) -> None:
    pool = used(size=2, max_waiting=1)
    pool.submit("p", isolation="process")
    assert pool.submit("q", isolation="process") == [Finish("q", Outcome.SATURATED, None)]
    assert pool.submit("a") == [Dispatch("a", 2, 1, None)]
    assert pool.submit("b") == [Finish("b", Outcome.SATURATED, None)]


def test_losing_its_worker_before_the_start_it_waits_for_another_new_one(used: MakeUsed) -> None:
    pool = used(size=2)
    pool.submit("p", isolation="process")
    pool.ready(3)
    pool.at(20.0)
    assert pool(WorkerDied(3, "why")) == [StartWorker(4)]
    assert pool.core.set_aside == ("p",)
    assert pool.ready(4) == [Dispatch("p", 4, 1, None)]


def test_a_smaller_pool_still_gets_it_a_process(used: MakeUsed) -> None:
    pool = used(size=1, overflow=1)
    assert pool.submit("p", isolation="process") == [StartWorker(2)]
    assert pool(Resize(overflow=0)) == [
        StopWorker(2, kill=False, why=StopReason.SHRUNK),
        recycled(1),
    ]
    assert pool.stopped(1, 2) == [StartWorker(3)]
    assert pool.ready(3) == [Dispatch("p", 3, 1, None)]


def test_closing_serves_it_or_ends_it(used: MakeUsed) -> None:
    pool = used(size=2)
    pool.submit("p", isolation="process")
    assert pool(Close(cancel_queued=False, cancel_running=False)) == []
    assert pool.ready(3) == [Dispatch("p", 3, 1, None)]
    pool.submit("q")
    assert pool.done(3, "p")[0] == Finish("p", Outcome.DONE, 3)
    assert pool.stopped(1, 2, 3) == [Closed()]

    pool = used(size=2)
    pool.submit("p", isolation="process")
    assert pool(Close(cancel_queued=True, cancel_running=False))[0] == (
        Finish("p", Outcome.CANCELLED, None)
    )


# --- when starts fail --------------------------------------------------------------------------


def test_a_start_that_fails_is_followed_by_another_and_costs_no_further_worker(
    used: MakeUsed,
) -> None:
    pool = used(size=2)
    pool.submit("p", isolation="process")
    pool(WorkerStartFailed(3, "why"))
    assert pool.at(20.0) == [StartWorker(4)]
    assert pool.submit("a") == [Dispatch("a", 2, 1, None)]
    assert pool.ready(4) == [Dispatch("p", 4, 1, None)]


def test_in_a_degraded_pool_it_fails_at_once_and_no_used_worker_is_given_up(
    used: MakeUsed,
) -> None:
    pool = used(size=2, failure_limit=2)
    pool.submit("p", isolation="process")
    pool(WorkerStartFailed(3, "one"))
    pool.at(11.0)
    assert pool(WorkerStartFailed(4, "two")) == [
        Degraded("two"),
        Finish("p", Outcome.START_FAILED, None, "two"),
        BreakerMoved(Breaker.OPEN, "two"),
    ]
    assert pool.submit("q", isolation="process") == [Finish("q", Outcome.START_FAILED, None, "two")]
    assert pool.submit("a") == [Dispatch("a", 2, 1, None)]


def test_in_a_degraded_pool_a_start_from_before_is_waited_for(used: MakeUsed) -> None:
    pool = used(size=3, failure_limit=2)
    for request_id in "pqr":
        pool.submit(request_id, isolation="process")
    pool.at(11.0)
    pool(WorkerStartFailed(4, "one"))
    assert pool(WorkerStartFailed(5, "two")) == [Degraded("two"), BreakerMoved(Breaker.OPEN, "two")]
    assert pool.core.set_aside == ("p", "q", "r")
    assert pool.ready(6) == [
        Dispatch("p", 6, 1, None),
        Finish("q", Outcome.START_FAILED, None, "two"),
        Finish("r", Outcome.START_FAILED, None, "two"),
    ]
