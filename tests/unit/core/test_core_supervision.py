"""Failing starts: pauses, degradation, recovery."""

from __future__ import annotations

from typing import Any

from jupyter_pool.core import (
    START_TIMED_OUT,
    Breaker,
    BreakerMoved,
    Cancel,
    CoreConfig,
    Degraded,
    Dispatch,
    Finish,
    Outcome,
    PoolState,
    ProtocolViolation,
    Recovered,
    Resize,
    Start,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
    WorkerStartFailed,
)
from jupyter_pool.core.supervision import Supervision
from support.scripted_pool import MakePool, ScriptedPool


def supervision(**options: Any) -> Supervision:
    return Supervision(CoreConfig(size=1, **options))


def state_of(pool: ScriptedPool) -> PoolState:
    return pool.core.state  # by a call, since it changes between two looks


def pauses(watch: Supervision, failures: int) -> list[float]:
    found, now = [], 0.0
    for _ in range(failures):
        watch.failed(started_at=now, reason="", now=now)
        found.append(watch.retry_at - now)
        now = watch.retry_at
    return found


# --- by itself ---------------------------------------------------------------------------------


def test_pauses_double_up_to_the_longest() -> None:
    watch = supervision(backoff_initial=0.5, backoff_max=3.0)
    assert pauses(watch, 5) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_pauses_stay_finite_after_very_many_failures() -> None:
    assert pauses(supervision(backoff_max=1.0), 3000)[-1] == 1.0


def test_workers_that_started_together_fail_as_one() -> None:
    watch = supervision(backoff_initial=0.5)
    for _ in range(8):
        watch.failed(started_at=0.0, reason="", now=1.0)
    assert watch.retry_at == 1.5


def test_a_success_ends_the_pauses() -> None:
    watch = supervision(backoff_initial=0.5)
    pauses(watch, 2)
    assert watch.succeeded() is False
    assert pauses(watch, 1) == [0.5]


def test_after_a_recovery_failures_count_from_nothing() -> None:
    watch = supervision(failure_limit=2)
    assert [watch.failed(0.0, "", now) for now in (1.0, 2.0, 3.0)] == [False, True, False]
    assert watch.succeeded() is True
    assert [watch.failed(4.0, "", now) for now in (5.0, 6.0)] == [False, True]


def test_failures_further_apart_than_the_window_do_not_degrade() -> None:
    watch = supervision(failure_limit=3, failure_window=60.0)
    for now in (0.0, 31.0, 62.0, 93.0):
        assert watch.failed(started_at=now, reason="", now=now) is False
    assert watch.failed(started_at=100.0, reason="", now=100.0) is True


# --- in the pool -------------------------------------------------------------------------------


def test_a_failed_start_is_tried_again_after_a_pause(make_pool: MakePool) -> None:
    pool = make_pool(backoff_initial=0.5)
    pool(Start())
    assert pool(WorkerStartFailed(1, "why")) == []
    assert pool.core.next_deadline() == 0.5
    assert pool.at(0.49) == []
    assert pool.at(0.5) == [StartWorker(2)]


def test_a_failed_start_with_nobody_left_tells_all_waiters_why(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.submit("a")
    pool.submit("b", "other group")
    assert pool(WorkerStartFailed(1, "no module named ipykernel")) == [
        Finish("a", Outcome.START_FAILED, None, "no module named ipykernel"),
        Finish("b", Outcome.START_FAILED, None, "no module named ipykernel"),
    ]
    assert repr(pool) == "<PoolCore running [Workers: none | Requests: none]>"


def test_a_failed_start_fails_nobody_while_another_is_under_way(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.submit("a")
    assert pool(WorkerStartFailed(1, "why")) == []
    assert pool.ready(2) == [Dispatch("a", 2, 1, None)]


def test_a_failed_start_fails_nobody_while_a_worker_lives(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool(Start())
    pool.ready(1)
    pool.submit("a")
    pool.submit("b")
    assert pool(WorkerStartFailed(2, "why")) == []
    assert pool.started(1, "a") == [StartWorker(3)]  # a success: no reason to pause
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1), Dispatch("b", 1, 1, None)]


def test_where_starts_have_succeeded_waiters_are_told_only_after_three_tries_in_a_row(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=1, backoff_initial=1.0, failure_window=5.0, start_timeout=30.0)
    pool.start(1)
    pool.at(1.0)
    pool(WorkerDied(1, "killed"))
    pool.submit("a")
    assert pool(WorkerStartFailed(2, "bad luck")) == []
    assert pool.at(2.0) == [StartWorker(3)]
    assert pool.at(32.0) == [StopWorker(3, kill=True, why=StopReason.START_TIMEOUT)]
    assert pool.at(34.0) == [StartWorker(4)]
    # However far apart they are.
    assert pool(WorkerStartFailed(4, "why")) == [Finish("a", Outcome.START_FAILED, None, "why")]
    pool.submit("b")
    pool.at(38.0)
    assert pool(WorkerStartFailed(5, "still")) == [Finish("b", Outcome.START_FAILED, None, "still")]


def test_where_starts_have_succeeded_a_waiter_survives_a_failed_one(make_pool: MakePool) -> None:
    pool = make_pool(size=1, backoff_initial=1.0)
    pool.start(1)
    pool.at(1.0)
    pool(WorkerDied(1, "killed"))
    pool.submit("a")
    assert pool(WorkerStartFailed(2, "killed as well")) == []
    pool.at(2.0)
    assert pool.ready(3) == [Dispatch("a", 3, 1, None)]


def test_a_start_that_takes_too_long_is_killed_and_its_waiters_are_told(
    make_pool: MakePool,
) -> None:
    pool = make_pool(start_timeout=30.0)
    pool.submit("a")
    assert pool.at(29.9) == []
    assert pool.at(30.0) == [
        StopWorker(1, kill=True, why=StopReason.START_TIMEOUT),
        Finish("a", Outcome.START_FAILED, None, START_TIMED_OUT),
    ]
    assert pool.ready(1) == []  # too late
    assert pool.at(30.1) == [StartWorker(2)]
    assert pool.stopped(1) == []
    assert repr(pool) == "<PoolCore running [Workers: 1 starting | Requests: none]>"


def degraded_pool(make_pool: MakePool, **options: Any) -> ScriptedPool:
    pool = make_pool(backoff_initial=1.0, backoff_max=4.0, **options)
    pool(Start())
    pool(WorkerStartFailed(1, "why 1"))
    pool.at(1.0)
    pool(WorkerStartFailed(2, "why 2"))
    pool.at(3.0)
    return pool


def test_too_many_failures_degrade_the_pool(make_pool: MakePool) -> None:
    pool = degraded_pool(make_pool)
    assert state_of(pool) is PoolState.RUNNING
    assert pool(WorkerStartFailed(3, "why 3")) == [
        Degraded("why 3"),
        BreakerMoved(Breaker.OPEN, "why 3"),
    ]
    assert state_of(pool) is PoolState.DEGRADED
    assert repr(pool) == "<PoolCore degraded [Workers: none | Requests: none]>"


def test_a_degraded_pool_refuses_at_once_and_says_why(make_pool: MakePool) -> None:
    pool = degraded_pool(make_pool)
    pool(WorkerStartFailed(3, "why 3"))
    assert pool.submit("a") == [Finish("a", Outcome.START_FAILED, None, "why 3")]
    assert pool.at(7.0) == [StartWorker(4), BreakerMoved(Breaker.HALF_OPEN)]
    assert pool.submit("b") == [Finish("b", Outcome.START_FAILED, None, "why 3")]


def test_a_degraded_pool_waits_for_a_start_that_began_before_the_others_failed(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=4, backoff_initial=1.0)
    pool(Start())
    pool.at(0.5)
    pool.submit("a")
    pool(*(WorkerStartFailed(i, "why") for i in (2, 3, 4)))
    assert state_of(pool) is PoolState.DEGRADED
    assert pool.submit("b") == []
    assert pool.ready(1) == [Dispatch("a", 1, 1, None)]


def test_a_degraded_pool_gives_up_when_the_last_early_start_has_failed_too(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=4, backoff_initial=1.0)
    pool(Start())
    pool.at(0.5)
    pool.submit("a")
    pool(*(WorkerStartFailed(i, "why") for i in (2, 3, 4)))
    assert Finish("a", Outcome.START_FAILED, None, "why 1") in pool(WorkerStartFailed(1, "why 1"))


def test_a_degraded_pool_probes_one_start_at_a_time(make_pool: MakePool) -> None:
    pool = make_pool(size=3, backoff_initial=1.0, backoff_max=4.0)
    pool(Start())
    pool(*(WorkerStartFailed(i, f"why {i}") for i in (1, 2, 3)))
    assert state_of(pool) is PoolState.DEGRADED
    assert pool.at(1.0) == [StartWorker(4), BreakerMoved(Breaker.HALF_OPEN)]
    assert pool.at(20.0) == []
    assert pool(WorkerStartFailed(4, "why 4")) == [BreakerMoved(Breaker.OPEN, "why 4")]
    assert pool.at(30.0) == [StartWorker(5), BreakerMoved(Breaker.HALF_OPEN)]


def test_it_recovers_when_a_worker_has_lived_a_while_and_starts_all_that_are_missing(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=3, backoff_initial=1.0, early_death=1.0)
    pool(Start())
    pool(*(WorkerStartFailed(i, "why") for i in (1, 2, 3)))
    pool.at(1.0)
    pool.at(2.0)
    assert pool.ready(4) == []
    assert state_of(pool) is PoolState.DEGRADED
    assert pool.at(2.99) == []
    assert pool.at(3.0) == [
        Recovered(),
        StartWorker(5),
        StartWorker(6),
        BreakerMoved(Breaker.CLOSED),
    ]
    assert state_of(pool) is PoolState.RUNNING


def test_it_recovers_when_a_worker_has_run_something(make_pool: MakePool) -> None:
    pool = degraded_pool(make_pool)
    pool(WorkerStartFailed(3, "why"))
    pool.at(7.0)
    pool.ready(4)
    assert pool.submit("a") == [Dispatch("a", 4, 1, None)]  # while a worker lives, it serves
    assert pool.started(4, "a") == [Recovered(), BreakerMoved(Breaker.CLOSED)]


def test_a_lazy_pool_probes_without_demand_so_that_it_heals(make_pool: MakePool) -> None:
    pool = make_pool(size=2, lazy=True, failure_limit=1, backoff_initial=1.0)
    pool.submit("a")
    assert pool(WorkerStartFailed(1, "why")) == [
        Degraded("why"),
        Finish("a", Outcome.START_FAILED, None, "why"),
        BreakerMoved(Breaker.OPEN, "why"),
    ]
    assert pool.at(1.0) == [StartWorker(2), BreakerMoved(Breaker.HALF_OPEN)]
    pool.ready(2)
    assert pool.at(5.0) == [Recovered(), BreakerMoved(Breaker.CLOSED)]


def test_an_idle_death_right_after_ready_counts_as_a_failed_start(make_pool: MakePool) -> None:
    pool = make_pool(backoff_initial=0.5, early_death=1.0)
    pool(Start())
    pool.ready(1)
    pool.at(0.9)
    assert pool(WorkerDied(1, "why")) == []
    assert pool.at(1.4) == [StartWorker(2)]


def test_an_idle_death_later_on_is_replaced_at_once(make_pool: MakePool) -> None:
    pool = make_pool(early_death=1.0)
    pool(Start())
    pool.ready(1)
    pool.at(1.0)
    assert pool(WorkerDied(1, "why")) == [StartWorker(2)]


def test_a_death_in_user_code_is_replaced_at_once_however_early(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.submit("a")
    pool.ready(1)
    pool.started(1, "a")
    assert pool(WorkerDied(1, "segfault")) == [
        Finish("a", Outcome.WORKER_DIED, 1, "segfault", clean=False),
        StartWorker(2),
    ]


def test_workers_that_become_ready_and_die_again_and_again_are_started_ever_more_rarely(
    make_pool: MakePool,
) -> None:
    pool = make_pool(backoff_initial=1.0, backoff_max=8.0, start_timeout=60.0)
    pool(Start())
    starts = []
    for worker_id in range(1, 6):
        pool.ready(worker_id)
        pool(WorkerDied(worker_id, "why"))
        before = pool.now
        assert pool.at(before + 31.0) == [StartWorker(worker_id + 1)]
        starts.append(pool.core.workers[worker_id + 1].started_at - before)
    assert starts == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert state_of(pool) is PoolState.RUNNING  # never three within a minute


def test_a_worker_that_breaks_the_protocol_before_it_ran_anything_counts_as_a_failed_start(
    make_pool: MakePool,
) -> None:
    pool = make_pool(backoff_initial=1.0)
    pool.submit("a")
    assert pool(ProtocolViolation(1, "version 9")) == [
        StopWorker(1, kill=True, why=StopReason.PROTOCOL),
        Finish("a", Outcome.START_FAILED, None, "version 9"),
    ]
    assert pool.stopped(1) == []
    assert pool.at(1.0) == [StartWorker(2)]


def test_a_waiter_that_left_is_not_told_of_failures(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.submit("a")
    pool(Cancel("a"))
    assert pool(WorkerStartFailed(1, "why")) == []


def test_a_shrunken_pool_that_is_whole_is_not_degraded(make_pool: MakePool) -> None:
    pool = make_pool(size=1, overflow=1, failure_limit=1, backoff_initial=60.0)
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    assert pool(WorkerStartFailed(2, "why")) == [Degraded("why"), BreakerMoved(Breaker.OPEN, "why")]
    assert pool(Resize(overflow=0)) == [Recovered(), BreakerMoved(Breaker.CLOSED)]


def test_the_breaker_says_when_the_next_start_is_tried(make_pool: MakePool) -> None:
    pool = make_pool(failure_limit=1, backoff_initial=4.0)
    assert pool.core.breaker[0] is Breaker.CLOSED
    pool(Start())
    pool.at(1.0)
    pool(WorkerStartFailed(1, "why"))
    assert pool.core.breaker == (Breaker.OPEN, 1.0, 5.0)
    pool.at(5.0)
    assert pool.core.breaker[:2] == (Breaker.HALF_OPEN, 5.0)
    pool.ready(2)
    assert pool.core.breaker[:2] == (Breaker.HALF_OPEN, 5.0)  # it has not proved itself
    pool.at(6.0)
    assert pool.core.breaker[:2] == (Breaker.CLOSED, 6.0)


def test_what_was_started_before_the_breaker_opened_is_no_probe(make_pool: MakePool) -> None:
    pool = make_pool(size=3, failure_limit=3, backoff_initial=1.0)
    pool(Start())
    pool(WorkerStartFailed(1, "why"))
    pool.at(5.0)
    pool(WorkerStartFailed(2, "why"))
    commands = pool(WorkerStartFailed(3, "why"))
    assert [c for c in commands if isinstance(c, BreakerMoved)] == [
        BreakerMoved(Breaker.OPEN, "why")
    ]
