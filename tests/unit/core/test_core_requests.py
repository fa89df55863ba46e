"""Requests: waiting, running, timing out, being cancelled, losing their worker."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_pool.core import (
    Cancel,
    Close,
    Dispatch,
    Event,
    Finish,
    Interrupt,
    InterruptDelivered,
    MemoryExceeded,
    Outcome,
    ProtocolViolation,
    RequestDone,
    RequestRefused,
    RestartWorker,
    Start,
    StartWorker,
    StopReason,
    StopWorker,
    Submit,
    WorkerDied,
    WorkerReady,
    WorkerStartFailed,
    WorkerStopped,
)
from support.scripted_pool import MakePool

# --- the plain way -----------------------------------------------------------------------------


def test_a_request_waits_for_the_first_worker_runs_and_is_done(make_pool: MakePool) -> None:
    pool = make_pool()
    assert pool.submit("a", limit=60.0) == [StartWorker(1)]
    assert repr(pool) == "<PoolCore running [Workers: 1 starting | Requests: 1 queued]>"
    pool.at(2.0)
    assert pool.ready(1) == [Dispatch("a", 1, attempt=1, run_deadline=62.0)]
    assert repr(pool) == "<PoolCore running [Workers: 1 busy | Requests: 1 running]>"
    assert pool.started(1, "a") == []
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1)]
    assert repr(pool) == "<PoolCore running [Workers: 1 idle | Requests: none]>"


def test_a_free_worker_gets_a_request_at_once(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    assert pool.submit("a", wait=0.0) == [Dispatch("a", 1, 1, None)]


def test_the_most_recently_used_worker_is_taken(make_pool: MakePool) -> None:
    pool = make_pool(size=3)
    pool.start(1, 2, 3)
    assert pool.submit("a") == [Dispatch("a", 3, 1, None)]
    assert pool.submit("b") == [Dispatch("b", 2, 1, None)]
    pool.done(3, "a")
    pool.done(2, "b")
    assert pool.submit("c") == [Dispatch("c", 2, 1, None)]


def test_groups_take_turns(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    for i in range(4):
        pool.submit(f"sweep {i}", "sweep")
    pool.submit("cell", "person")
    order: list[object] = []
    current: Any = "sweep 0"
    while current:
        commands = pool.done(1, current)
        order.append(current)
        current = next((c.request_id for c in commands if isinstance(c, Dispatch)), "")
    assert order == ["sweep 0", "sweep 1", "cell", "sweep 2", "sweep 3"]


def test_views_tell_who_waits_where(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    for request_id in "abc":
        pool.submit(request_id, "g")
    pool.submit("d", "other")
    assert pool.core.queue_length == pool.core.high_water == 3
    positions = {request_id: pool.core.queue_position(request_id) for request_id in "abcdx"}
    assert positions == {"a": None, "b": 0, "c": 2, "d": 1, "x": None}
    pool(Cancel("c"), Cancel("d"))
    assert (pool.core.queue_length, pool.core.high_water) == (1, 3)


def test_beyond_the_longest_queue_requests_are_refused(make_pool: MakePool) -> None:
    pool = make_pool(max_waiting=2)
    pool.start(1)
    for request_id in "abc":
        pool.submit(request_id)
    assert pool.submit("d") == [Finish("d", Outcome.SATURATED, None)]
    pool.done(1, "a")
    assert pool.submit("e") == []


def test_a_second_submit_with_the_same_id_is_ignored(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    assert pool.submit("a") == []
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1)]


# --- giving up while queued --------------------------------------------------------------------


def test_a_timeout_in_the_queue_comes_on_time_and_touches_no_worker(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool.submit("b", wait=30.0)
    assert pool.core.next_deadline() == 40.0
    assert pool.at(39.99) == []
    assert pool.at(40.0) == [Finish("b", Outcome.CHECKOUT_TIMEOUT, None)]
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1)]


def test_the_checkout_deadline_counts_until_the_first_dispatch_only(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", wait=5.0, retries=1)
    pool.started(1, "a")
    pool(WorkerDied(1, "why"))
    assert pool.at(6.0) == []
    assert pool.ready(2) == [Dispatch("a", 2, 2, None)]


def test_no_patience_at_all_means_now_or_never(make_pool: MakePool) -> None:
    pool = make_pool()
    assert pool.submit("a", wait=0.0) == [
        StartWorker(1),
        Finish("a", Outcome.CHECKOUT_TIMEOUT, None),
    ]


def test_a_cancelled_waiter_is_finished_at_once_and_never_gets_a_worker(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    pool.submit("c")
    assert pool(Cancel("b")) == [Finish("b", Outcome.CANCELLED, None)]
    assert pool(Cancel("b")) == []
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1), Dispatch("c", 1, 1, None)]


def test_a_deadline_reached_together_with_a_worker_is_still_a_timeout(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.submit("a", wait=5.0)
    pool.now = 5.0
    assert pool.ready(1) == [Finish("a", Outcome.CHECKOUT_TIMEOUT, None)]


# --- timing out and being cancelled while running ----------------------------------------------


def test_a_timeout_while_running_interrupts_and_keeps_a_worker_that_proves_idle(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", limit=5.0)
    pool.started(1, "a")
    assert pool.at(14.99) == []
    assert pool.at(15.0) == [Interrupt(1, "a")]
    assert repr(pool) == "<PoolCore running [Workers: 1 interrupting | Requests: 1 interrupting]>"
    assert pool(InterruptDelivered(1)) == []
    assert pool.done(1, "a") == [Finish("a", Outcome.OPERATION_TIMEOUT, 1, clean=True)]
    assert repr(pool) == "<PoolCore running [Workers: 1 idle | Requests: none]>"
    assert pool.at(100.0) == []


def test_a_worker_is_not_used_again_before_its_interrupt_was_delivered(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", limit=5.0)
    pool.submit("b")
    pool.at(15.0)
    # The reply crossed the interrupt on its way: which may now hit whatever runs next.
    assert pool.done(1, "a") == [Finish("a", Outcome.OPERATION_TIMEOUT, 1)]
    assert repr(pool) == "<PoolCore running [Workers: 1 interrupting | Requests: 1 queued]>"
    assert pool(InterruptDelivered(1)) == [Dispatch("b", 1, 1, None)]


def test_a_worker_whose_interrupt_is_never_delivered_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(interrupt_grace=2.0)
    pool.start(1)
    pool.submit("a", limit=5.0)
    pool.at(15.0)
    pool.done(1, "a")
    assert pool.at(17.0) == [StopWorker(1, kill=True, why=StopReason.TIMED_OUT), StartWorker(2)]


def test_a_worker_not_idle_within_the_grace_is_killed_and_only_then_the_request_ends(
    make_pool: MakePool,
) -> None:
    pool = make_pool(interrupt_grace=2.0)
    pool.start(1)
    pool.submit("a", limit=5.0)
    pool.at(15.0)
    pool(InterruptDelivered(1))
    assert pool.at(16.99) == []
    assert pool.at(17.0) == [StopWorker(1, kill=True, why=StopReason.TIMED_OUT), StartWorker(2)]
    assert pool.done(1, "a") == []  # too late to be believed
    assert repr(pool) == (
        "<PoolCore running [Workers: 1 starting, 1 stopping | Requests: 1 interrupting]>"
    )
    assert pool.stopped(1) == [Finish("a", Outcome.OPERATION_TIMEOUT, 1, clean=False)]


def test_a_cancel_while_running_interrupts(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    assert pool(Cancel("a")) == [Interrupt(1, "a")]
    assert pool(Cancel("a")) == []
    assert pool(InterruptDelivered(1), RequestDone(1, "a")) == [Finish("a", Outcome.CANCELLED, 1)]


def test_a_cancel_that_is_not_heard_ends_in_a_kill(make_pool: MakePool) -> None:
    pool = make_pool(interrupt_grace=2.0)
    pool.start(1)
    pool.submit("a")
    pool(Cancel("a"))
    assert pool.at(12.0) == [StopWorker(1, kill=True, why=StopReason.CANCELLED), StartWorker(2)]
    assert pool.stopped(1) == [Finish("a", Outcome.CANCELLED, 1, clean=False)]


def test_a_cancel_during_a_timeout_changes_nothing(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", limit=5.0)
    pool.at(15.0)
    assert pool(Cancel("a")) == []
    assert pool.done(1, "a") == [Finish("a", Outcome.OPERATION_TIMEOUT, 1)]


def test_a_timeout_during_a_cancel_changes_nothing(make_pool: MakePool) -> None:
    pool = make_pool(interrupt_grace=2.0)
    pool.start(1)
    pool.submit("a", limit=1.0)
    pool(Cancel("a"))
    assert pool.at(11.5) == []
    assert pool.done(1, "a") == [Finish("a", Outcome.CANCELLED, 1)]


def test_a_worker_that_dies_of_its_interrupt_ends_the_request_as_interrupted(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", limit=5.0, retries=3)
    pool.started(1, "a")
    pool.at(15.0)
    assert pool(WorkerDied(1, "SIGINT")) == [
        Finish("a", Outcome.OPERATION_TIMEOUT, 1, clean=False),
        StartWorker(2),
    ]


# --- losing the worker -------------------------------------------------------------------------


def test_a_death_after_the_start_is_the_requests_end(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    pool.submit("a")
    pool.submit("b")
    pool.started(2, "a")
    assert pool(WorkerDied(2, "segfault")) == [
        Finish("a", Outcome.WORKER_DIED, 2, "segfault", clean=False),
        StartWorker(3),
    ]
    assert repr(pool) == "<PoolCore running [Workers: 1 busy, 1 starting | Requests: 1 running]>"


def test_a_death_before_the_start_sends_the_request_elsewhere_with_its_deadline(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    assert pool.submit("a", limit=60.0) == [Dispatch("a", 2, 1, 70.0)]
    pool.at(11.0)
    assert pool(WorkerDied(2, "why")) == [Dispatch("a", 1, 1, 70.0), StartWorker(3)]
    assert pool.done(2, "a") == []  # a late reply of the dead
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1)]


def test_a_request_sent_elsewhere_goes_to_the_head_of_the_queue(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", "g")
    pool.submit("b", "g")
    pool.submit("c", "other")
    assert pool(WorkerDied(1, "why")) == [StartWorker(2)]
    assert [pool.core.queue_position(i) for i in "acb"] == [0, 1, 2]
    assert pool.ready(2) == [Dispatch("a", 2, 1, None)]


def test_a_request_that_never_starts_anywhere_is_not_sent_around_for_ever(
    make_pool: MakePool,
) -> None:
    pool = make_pool(failure_limit=100)
    pool.submit("a", retries=5)
    for worker_id in (1, 2, 3):
        pool.ready(worker_id)
        pool(WorkerDied(worker_id, "why"))
        pool.at(pool.now + 20)
    pool.ready(4)
    assert pool(WorkerDied(4, "why")) == [
        Finish("a", Outcome.WORKER_DIED, 4, "why", clean=False),
    ]


def test_retries_run_it_again_after_a_death_and_count_attempts(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    pool.submit("a", limit=60.0, retries=2)
    pool.started(2, "a")
    pool.at(15.0)
    assert pool(WorkerDied(2, "x")) == [
        Dispatch("a", 1, attempt=2, run_deadline=70.0),
        StartWorker(3),
    ]
    pool.started(1, "a")
    assert pool(WorkerDied(1, "y")) == [StartWorker(4)]
    assert pool.ready(3) == [Dispatch("a", 3, attempt=3, run_deadline=70.0)]
    pool.started(3, "a")
    assert pool(WorkerDied(3, "z"))[0] == Finish("a", Outcome.WORKER_DIED, 3, "z", clean=False)


def test_a_retry_that_does_not_start_costs_no_further_retry(make_pool: MakePool) -> None:
    pool = make_pool(size=3)
    pool.start(1, 2, 3)
    pool.submit("a", retries=1)
    pool.started(3, "a")
    assert pool(WorkerDied(3, "x"))[0] == Dispatch("a", 2, attempt=2, run_deadline=None)
    assert pool(WorkerDied(2, "y"))[0] == Dispatch("a", 1, attempt=2, run_deadline=None)


def test_retries_are_for_deaths_only(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", limit=5.0, retries=2)
    pool.at(15.0)
    assert pool.done(1, "a") == [Finish("a", Outcome.OPERATION_TIMEOUT, 1)]


def test_a_request_that_waits_again_still_times_out_on_its_run_deadline(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", limit=5.0, retries=1)
    pool.started(1, "a")
    pool(WorkerDied(1, "why"))
    assert pool.at(14.99) == []
    assert pool.at(15.0) == [Finish("a", Outcome.OPERATION_TIMEOUT, 1)]
    assert pool.ready(2) == []


def test_restarting_a_busy_worker_ends_its_request(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", retries=2)
    pool.started(1, "a")
    assert pool(RestartWorker(1)) == [
        StopWorker(1, kill=True, why=StopReason.RESTARTED),
        StartWorker(2),
    ]
    assert pool(RestartWorker(1), Cancel("a")) == []
    assert pool.stopped(1) == [Finish("a", Outcome.RESTARTED, 1, clean=False)]


def test_a_protocol_violation_ends_request_and_worker(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", retries=2)
    assert pool(ProtocolViolation(1, "bad signature")) == [
        StopWorker(1, kill=True, why=StopReason.PROTOCOL),
        StartWorker(2),
    ]
    assert pool.stopped(1) == [Finish("a", Outcome.PROTOCOL_ERROR, 1, "bad signature", clean=False)]


def test_too_much_memory_ends_request_and_worker_and_is_never_tried_again(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a", retries=2)
    pool.started(1, "a")
    assert pool(MemoryExceeded(1, "a", "9 of 8")) == [
        StopWorker(1, kill=True, why=StopReason.MEMORY_LIMIT),
        StartWorker(2),
    ]
    assert pool(MemoryExceeded(1, "a", "10 of 8")) == []
    assert pool.stopped(1) == [Finish("a", Outcome.MEMORY_LIMIT_EXCEEDED, 1, "9 of 8", clean=False)]


def test_too_much_memory_is_not_held_against_the_next_request(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    assert pool.done(1, "a") == [Finish("a", Outcome.DONE, 1), Dispatch("b", 1, 1, None)]
    assert pool(MemoryExceeded(1, "a", "9 of 8"), MemoryExceeded(7, "b", "9 of 8")) == []
    assert pool.done(1, "b") == [Finish("b", Outcome.DONE, 1)]
    assert pool(MemoryExceeded(1, "b", "9 of 8")) == []


def test_too_much_memory_of_what_is_being_interrupted_kills_it_and_the_first_reason_stands(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool.started(1, "a")
    pool(Cancel("a"))
    assert pool(MemoryExceeded(1, "a", "9 of 8")) == [
        StopWorker(1, kill=True, why=StopReason.MEMORY_LIMIT),
        StartWorker(2),
    ]
    assert pool.stopped(1) == [Finish("a", Outcome.CANCELLED, 1, clean=False)]


# --- late and duplicate events -----------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        WorkerReady(1),
        WorkerReady(77),
        WorkerStartFailed(77, "late"),
        WorkerDied(77, "late"),
        WorkerStopped(77),
        RequestDone(1, "finished"),
        RequestDone(1, "unheard of"),
        RequestDone(77, "b"),
        InterruptDelivered(1),
        ProtocolViolation(77, "late"),
        RestartWorker(77),
        Cancel("finished"),
        Cancel("unheard of"),
        Start(),
    ],
    ids=repr,
)
def test_late_and_duplicate_events_change_nothing(make_pool: MakePool, event: Event) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("finished")
    pool.done(1, "finished")
    pool.submit("b")
    assert pool(event) == []
    assert repr(pool) == "<PoolCore running [Workers: 1 busy | Requests: 1 running]>"
    assert pool.done(1, "b") == [Finish("b", Outcome.DONE, 1)]


def test_something_that_is_no_event_is_a_type_error(make_pool: MakePool) -> None:
    with pytest.raises(KeyError):
        make_pool()(object())  # type: ignore[arg-type]


def test_submit_defaults_are_the_plain_case() -> None:
    event = Submit("a", "g", None, None)
    assert (event.retries, event.lease, event.isolation) == (0, False, "namespace")


# --- refused ------------------------------------------------------------------------------------


def test_a_refused_request_runs_on_another_worker_before_all_others(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    pool.submit("a", limit=30.0)
    pool.submit("busy")
    pool.submit("later")
    pool.started(2, "a")
    pool.at(15.0)
    refused = pool(RequestRefused(2, "a", "an edited module"))
    assert refused == [
        StopWorker(2, False, StopReason.RECYCLED, "an edited module"),
        StartWorker(3),
    ]
    assert pool.ready(3) == [Dispatch("a", 3, attempt=1, run_deadline=40.0)]
    assert pool.done(3, "a") == [Finish("a", Outcome.DONE, 3), Dispatch("later", 3, 1, None)]


def test_refusals_use_up_neither_retries_nor_patience(make_pool: MakePool) -> None:
    pool = make_pool(size=6)
    pool.start(1, 2, 3, 4, 5, 6)
    pool.submit("a", retries=1)
    for worker in (6, 5, 4, 3, 2):
        pool.started(worker, "a")
        assert Dispatch("a", worker - 1, 1, None) in pool(RequestRefused(worker, "a", "edited"))
    pool.started(1, "a")
    assert pool(WorkerDied(1, "segfault")) == [StartWorker(12)]
    assert pool.ready(7) == [Dispatch("a", 7, attempt=2, run_deadline=None)]


def test_a_refusal_after_an_interrupt_ends_the_request_as_the_interrupt_meant(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool(Cancel("a"))
    assert pool(RequestRefused(1, "a", "edited")) == [Finish("a", Outcome.CANCELLED, 1)]
    assert pool(InterruptDelivered(1)) == [
        StopWorker(1, False, StopReason.RECYCLED, "edited"),
        StartWorker(2),
    ]


def test_a_pool_that_closes_and_takes_nothing_back_cancels_what_is_refused(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool(Close(cancel_queued=True, cancel_running=False))
    assert pool(RequestRefused(1, "a", "edited")) == [
        Finish("a", Outcome.CANCELLED, 1),
        StopWorker(1, False, StopReason.RECYCLED, "edited"),
    ]
