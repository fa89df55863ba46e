"""How many workers: size, overflow, lazy, reserve, resize, and why workers are replaced."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_pool.core import (
    Cancel,
    CoreConfig,
    Dispatch,
    Drain,
    Finish,
    Outcome,
    RequestRefused,
    Resize,
    RestartWorker,
    ReturnLease,
    Start,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
    WorkerSpent,
    WorkerState,
    WorkerUnresponsive,
)
from support.scripted_pool import MakePool


def shrunk(worker_id: int) -> StopWorker:
    return StopWorker(worker_id, kill=False, why=StopReason.SHRUNK)


def recycled(worker_id: int, why: str) -> StopWorker:
    return StopWorker(worker_id, kill=False, why=StopReason.RECYCLED, detail=why)


# --- size, lazy, overflow ----------------------------------------------------------------------


def test_start_starts_all_base_workers_at_once_and_only_once(make_pool: MakePool) -> None:
    pool = make_pool(size=3)
    assert repr(pool) == "<PoolCore new [Workers: none | Requests: none]>"
    assert pool(Start()) == [StartWorker(1), StartWorker(2), StartWorker(3)]
    assert pool(Start()) == []


def test_an_unstarted_pool_starts_with_its_first_request(make_pool: MakePool) -> None:
    assert make_pool(size=2).submit("a") == [StartWorker(1), StartWorker(2)]


def test_a_lazy_pool_starts_workers_as_they_are_needed_and_keeps_them(make_pool: MakePool) -> None:
    pool = make_pool(size=2, lazy=True, max_idle=5.0)
    assert pool(Start()) == []
    assert pool.submit("a") == [StartWorker(1)]
    pool.ready(1)
    pool.done(1, "a")
    assert pool.submit("b") == [Dispatch("b", 1, 1, None)]
    assert pool.submit("c") == [StartWorker(2)]
    assert pool.submit("d") == []
    pool.ready(2)
    pool.done(1, "b")
    pool.done(1, "d")
    pool.done(2, "c")
    assert pool.at(1000.0) == []
    assert repr(pool) == "<PoolCore running [Workers: 2 idle | Requests: none]>"


def test_overflow_starts_only_for_waiters_that_no_starting_worker_is_for(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=2, overflow=2)
    pool(Start())
    assert pool.submit("a") == pool.submit("b") == []
    assert pool.submit("c") == [StartWorker(3)]
    assert pool.submit("d") == [StartWorker(4)]
    assert pool.submit("e") == []


def test_overflow_shrinks_when_it_has_idled_long_enough(make_pool: MakePool) -> None:
    pool = make_pool(size=1, overflow=2, max_idle=60.0)
    pool.start(1)
    for request_id in "abc":
        pool.submit(request_id)
    pool.ready(2, 3)
    assert pool.core.overflow_in_use == 2
    assert [pool.core.workers[i].overflow for i in (1, 2, 3)] == [False, True, True]
    pool.done(2, "b")
    pool.at(20.0)
    pool.done(1, "a")
    pool.at(30.0)
    pool.done(3, "c")
    assert pool.at(69.9) == []
    assert pool.at(70.0) == [shrunk(2)]
    assert pool.at(79.9) == []
    assert pool.at(80.0) == [shrunk(1)]
    assert pool.at(1000.0) == []
    assert pool.core.overflow_in_use == 0
    assert pool.core.workers[3].overflow is False  # the label was handed on


def test_a_surplus_worker_that_is_used_again_starts_to_idle_anew(make_pool: MakePool) -> None:
    pool = make_pool(size=1, overflow=1, max_idle=60.0)
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    pool.ready(2)
    pool.done(1, "a")
    pool.done(2, "b")
    pool.at(40.0)
    pool.submit("c")
    pool.submit("d")
    pool.done(1, "d")
    pool.done(2, "c")
    assert pool.at(99.9) == []
    assert pool.at(100.0) == [shrunk(1)]


def test_without_max_idle_overflow_stays(make_pool: MakePool) -> None:
    pool = make_pool(size=1, overflow=1, max_idle=None)
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    pool.ready(2)
    pool.done(1, "a")
    pool.done(2, "b")
    assert pool.at(1e6) == []


def test_an_overflow_worker_that_comes_too_late_is_kept_for_the_next_rush(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=1, overflow=1, max_idle=5.0)
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    pool(Cancel("b"))
    assert pool.ready(2) == []
    assert repr(pool) == "<PoolCore running [Workers: 1 busy, 1 idle | Requests: 1 running]>"
    assert pool.at(15.0) == [shrunk(2)]


def test_no_more_processes_than_two_per_seat_are_started_while_stops_are_slow(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=1)
    pool.start(1)
    assert pool(RestartWorker(1)) == [
        StopWorker(1, kill=False, why=StopReason.RESTARTED),
        StartWorker(2),
    ]
    assert pool(RestartWorker(2)) == [StopWorker(2, kill=True, why=StopReason.RESTARTED)]
    assert pool.stopped(1) == [StartWorker(3)]


# --- reserve -----------------------------------------------------------------------------------


def test_the_reserve_is_kept_warm_beyond_the_size(make_pool: MakePool) -> None:
    pool = make_pool(size=1, reserve=2)
    assert pool.start(1, 2, 3) == [StartWorker(1), StartWorker(2), StartWorker(3)]
    assert repr(pool) == "<PoolCore running [Workers: 1 idle, 2 standby | Requests: none]>"


def test_a_standby_worker_takes_the_place_of_a_dead_one_and_is_replaced_itself(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=1, reserve=1)
    pool.start(1, 2)
    pool.submit("a")
    pool.submit("b")
    pool.started(1, "a")
    assert pool(WorkerDied(1, "why")) == [
        Finish("a", Outcome.WORKER_DIED, 1, "why", clean=False),
        Dispatch("b", 2, 1, None),
        StartWorker(3),
    ]
    pool.ready(3)
    assert repr(pool) == "<PoolCore running [Workers: 1 busy, 1 standby | Requests: 1 running]>"


def test_a_standby_worker_takes_an_empty_base_seat_without_any_waiter(make_pool: MakePool) -> None:
    pool = make_pool(size=1, reserve=1)
    pool.start(1, 2)
    assert pool(WorkerDied(1, "why")) == [StartWorker(3)]
    assert repr(pool) == "<PoolCore running [Workers: 1 idle, 1 starting | Requests: none]>"


def test_a_standby_worker_serves_as_overflow(make_pool: MakePool) -> None:
    pool = make_pool(size=1, overflow=1, reserve=1)
    pool.start(1, 2)
    pool.submit("a")
    assert pool.submit("b") == [Dispatch("b", 2, 1, None), StartWorker(3)]


def test_a_standby_worker_serves_nobody_while_all_seats_are_taken(make_pool: MakePool) -> None:
    pool = make_pool(size=1, reserve=1)
    pool.start(1, 2)
    pool.submit("a")
    assert pool.submit("b") == []


# --- recycling ---------------------------------------------------------------------------------


def test_a_worker_is_replaced_after_max_tasks(make_pool: MakePool) -> None:
    pool = make_pool(max_tasks=2)
    pool.start(1)
    pool.submit("a")
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1)]
    pool.submit("b")
    assert pool.done(1, "b") == [
        Finish("b", Outcome.DONE, 1),
        recycled(1, "max_tasks"),
        StartWorker(2),
    ]


def test_an_idle_worker_is_replaced_at_the_end_of_its_lifetime(make_pool: MakePool) -> None:
    pool = make_pool(max_lifetime=100.0)
    pool(Start())
    pool.ready(1)
    lifetime = 100.0 * (1 - 0.1 * 0.6180339887498949)
    assert pool.at(lifetime - 0.01) == []
    assert pool.at(lifetime) == [recycled(1, "lifetime"), StartWorker(2)]


def test_a_busy_worker_is_replaced_after_the_request_in_which_its_lifetime_ended(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_lifetime=100.0)
    pool(Start())
    pool.ready(1)
    pool.submit("a")
    assert pool.at(200.0) == []
    assert pool.done(1, "a")[1:] == [recycled(1, "lifetime"), StartWorker(2)]


def test_lifetimes_differ_by_up_to_a_tenth(make_pool: MakePool) -> None:
    pool = make_pool(size=16, max_lifetime=100.0)
    pool(Start())
    pool.ready(*range(1, 17))
    ends: list[float] = []
    while len(ends) < 16:
        deadline = pool.core.next_deadline()
        assert deadline is not None
        ends += [deadline for c in pool.at(deadline) if isinstance(c, StopWorker)]
        pool.ready(*(w.id for w in pool.core.workers.values() if w.state is WorkerState.STARTING))
    assert len(set(ends)) == 16
    assert min(ends) >= 90.0
    assert max(ends) <= 100.0


def test_a_worker_is_replaced_when_its_kernel_asks_for_it(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    assert pool.done(1, "a", recycle="signal handlers") == [
        Finish("a", Outcome.DONE, 1),
        recycled(1, "signal handlers"),
        StartWorker(2),
    ]


@pytest.mark.parametrize(
    ("options", "isolation"), [({}, "process"), ({"replace_after_request": True}, "namespace")]
)
def test_process_isolation_replaces_the_worker_after_each_request(
    make_pool: MakePool, options: Any, isolation: str
) -> None:
    pool = make_pool(reserve=1, **options)
    pool.start(1, 2)
    pool.submit("a", isolation=isolation)
    assert pool.done(1, "a") == [
        Finish("a", Outcome.DONE, 1),
        recycled(1, "isolation"),
        StartWorker(3),
    ]
    assert pool.submit("b") == [Dispatch("b", 2, 1, None)]  # the spare one


def test_drain_replaces_idle_workers_now_and_busy_ones_when_they_come_back(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    pool.submit("a")
    assert pool(Drain()) == [
        StopWorker(1, kill=False, why=StopReason.DRAINED),
        StartWorker(3),
    ]
    assert pool.done(2, "a") == [
        Finish("a", Outcome.DONE, 2),
        StopWorker(2, kill=False, why=StopReason.DRAINED),
        StartWorker(4),
    ]


def test_drain_reaches_starting_standby_and_leased_workers(make_pool: MakePool) -> None:
    pool = make_pool(size=2, reserve=1)
    pool(Start())
    pool.ready(1, 2)
    pool.submit("L", lease=True)
    pool.ready(3)
    pool(WorkerDied(1, "why"))
    assert repr(pool) == ("<PoolCore running [Workers: 1 leased, 1 idle | Requests: 1 held]>")
    pool.at(5.0)
    assert repr(pool) == (
        "<PoolCore running [Workers: 1 leased, 1 idle, 1 starting | Requests: 1 held]>"
    )
    assert [c.worker_id for c in pool(Drain()) if isinstance(c, StopWorker)] == [3, 4]
    assert pool(ReturnLease("L"))[1] == StopWorker(2, kill=False, why=StopReason.DRAINED)


def test_restarting_an_idle_worker_is_gentle(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    assert pool(RestartWorker(1)) == [
        StopWorker(1, kill=False, why=StopReason.RESTARTED),
        StartWorker(2),
    ]


# --- resizing ----------------------------------------------------------------------------------


def test_growing_starts_what_is_missing(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.start(1)
    assert pool(Resize(size=3)) == [StartWorker(2), StartWorker(3)]
    assert pool(Resize(overflow=2)) == []


def test_growing_overflow_helps_those_who_wait(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    assert pool(Resize(overflow=4)) == [StartWorker(2)]


def test_shrinking_stops_idle_workers_now_longest_idle_first_and_busy_ones_on_return(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=4)
    pool.start(1, 2, 3, 4)
    pool.submit("a")
    pool.submit("b")
    assert pool(Resize(size=1)) == [shrunk(1), shrunk(2)]
    assert pool.done(4, "a") == [Finish("a", Outcome.DONE, 4), shrunk(4)]
    assert pool.done(3, "b") == [Finish("b", Outcome.DONE, 3)]
    assert pool.core.counts()[WorkerState.IDLE] == 1


def test_shrinking_stops_superfluous_starts(make_pool: MakePool) -> None:
    pool = make_pool(size=4)
    pool(Start())
    pool.ready(1)
    assert pool(Resize(size=2)) == [shrunk(4), shrunk(3)]


def test_shrinking_the_size_stops_idle_workers_though_overflow_could_hold_them(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=3, overflow=3)
    pool.start(1, 2, 3)
    assert pool(Resize(size=1)) == [shrunk(1), shrunk(2)]


def test_taking_overflow_away_leaves_the_base_alone(make_pool: MakePool) -> None:
    pool = make_pool(size=1, overflow=1)
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    pool.ready(2)
    pool.done(1, "a")
    assert pool(Resize(overflow=0)) == [shrunk(1)]
    assert pool.done(2, "b") == [Finish("b", Outcome.DONE, 2)]
    assert pool.core.workers[2].overflow is False


def test_a_size_that_makes_no_pool_is_refused_and_nothing_is_lost(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.start(1)
    pool.submit("a")
    pool.submit("b", wait=5.0)
    pool.now = 20.0
    with pytest.raises(ValueError, match="0 workers and 0 overflow"):
        pool(Resize(size=0))
    assert pool.core.config.size == 1
    assert pool.done(1, "a") == [
        Finish("b", Outcome.CHECKOUT_TIMEOUT, None),
        Finish("a", Outcome.DONE, 1),
    ]


@pytest.mark.parametrize(
    "options",
    [{"size": -1}, {"size": 0}, {"size": 1, "reserve": -1}, {"size": 1, "max_waiting": -1}],
)
def test_a_config_that_makes_no_pool_is_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=r"-1|0"):
        CoreConfig(**options)


def test_a_pool_of_overflow_only_starts_on_demand_and_shrinks_to_nothing(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=0, overflow=1, max_idle=5.0)
    assert pool(Start()) == []
    assert pool.submit("a") == [StartWorker(1)]
    pool.ready(1)
    pool.done(1, "a")
    assert pool.at(5.0) == [shrunk(1)]


def test_an_idle_worker_that_does_not_answer_is_killed_and_replaced(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    assert pool(WorkerUnresponsive(1)) == [
        StopWorker(1, kill=True, why=StopReason.UNRESPONSIVE),
        StartWorker(2),
    ]
    assert pool(WorkerUnresponsive(1)) == []


def test_a_worker_that_got_something_to_do_meanwhile_is_not_unresponsive(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    assert pool(WorkerUnresponsive(1)) == []


def test_an_idle_worker_that_says_it_is_spent_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    assert pool(WorkerSpent(1, "a thread")) == [
        StopWorker(1, kill=False, why=StopReason.RECYCLED, detail="a thread"),
        StartWorker(2),
    ]
    assert pool(WorkerSpent(1, "a thread")) == []


def test_a_spent_worker_that_got_something_to_do_meanwhile_is_replaced_when_it_is_free(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    assert pool(WorkerSpent(1, "a thread")) == []
    commands = pool(RequestRefused(1, "a", "a thread"))
    assert StopWorker(1, kill=False, why=StopReason.RECYCLED, detail="a thread") in commands
    assert pool.ready(2) == [Dispatch("a", 2, 1, None)]
