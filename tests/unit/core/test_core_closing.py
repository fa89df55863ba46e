"""Closing: what is waited for, what is cancelled, and that it ends."""

from __future__ import annotations

import pytest

from jupyter_pool.core import (
    Cancel,
    Close,
    Closed,
    Dispatch,
    Drain,
    Finish,
    Interrupt,
    InterruptDelivered,
    Outcome,
    PoolState,
    Resize,
    ReturnLease,
    Start,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
    WorkerStartFailed,
)
from support.scripted_pool import MakePool, ScriptedPool

GENTLY = Close(cancel_queued=False, cancel_running=False)
SOON = Close(cancel_queued=True, cancel_running=False)
NOW = Close(cancel_queued=True, cancel_running=True)


def closing(worker_id: int) -> StopWorker:
    return StopWorker(worker_id, kill=False, why=StopReason.CLOSED)


@pytest.fixture
def busy(make_pool: MakePool) -> ScriptedPool:
    """One worker that runs a; b waits; a spare worker stands by."""
    pool = make_pool(size=1, reserve=1)
    pool.start(1, 2)
    pool.submit("a")
    pool.submit("b")
    return pool


def test_an_unstarted_pool_is_closed_at_once(make_pool: MakePool) -> None:
    pool = make_pool()
    assert pool(GENTLY) == [Closed()]
    assert pool.core.state is PoolState.CLOSED


def test_an_idle_pool_stops_its_workers_starting_ones_too_and_is_closed_when_all_are_gone(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=3)
    pool(Start())
    pool.ready(1, 2)
    assert pool(GENTLY) == [closing(1), closing(2), closing(3)]
    assert repr(pool) == "<PoolCore closing [Workers: 3 stopping | Requests: none]>"
    assert pool.stopped(2, 1) == []
    assert pool(WorkerStartFailed(3, "stopped")) == [Closed()]
    assert repr(pool) == "<PoolCore closed [Workers: none | Requests: none]>"
    assert pool.core.next_deadline() is None


def test_a_gentle_close_serves_what_runs_and_what_waits_but_nobody_new(busy: ScriptedPool) -> None:
    assert busy(GENTLY) == []
    assert busy.submit("c") == [Finish("c", Outcome.CLOSED, None)]
    assert busy.done(1, "a") == [Finish("a", Outcome.DONE, 1), Dispatch("b", 1, 1, None)]
    assert busy.done(1, "b") == [Finish("b", Outcome.DONE, 1), closing(1), closing(2)]
    assert busy.stopped(1, 2) == [Closed()]


def test_a_gentle_close_still_replaces_workers_that_waiters_need(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.start(1)
    pool.submit("a", retries=1)
    pool(GENTLY)
    pool.started(1, "a")
    assert pool(WorkerDied(1, "why")) == [StartWorker(2)]
    assert pool.ready(2) == [Dispatch("a", 2, 2, None)]


def test_a_gentle_close_does_not_hang_when_no_worker_starts_any_more(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.submit("a")
    pool(GENTLY)
    assert pool(WorkerStartFailed(1, "why")) == [
        Finish("a", Outcome.START_FAILED, None, "why"),
        Closed(),
    ]


def test_a_spare_worker_that_is_ready_only_after_the_close_goes_again(make_pool: MakePool) -> None:
    pool = make_pool(size=1, reserve=1)
    pool(Start())
    pool.ready(1)
    pool.submit("a")
    pool(GENTLY)
    assert pool.ready(2) == [StopWorker(2, kill=False, why=StopReason.SHRUNK)]


def test_a_close_soon_cancels_what_waits_and_waits_for_what_runs(busy: ScriptedPool) -> None:
    assert busy(SOON) == [Finish("b", Outcome.CANCELLED, None)]
    assert busy.done(1, "a") == [Finish("a", Outcome.DONE, 1), closing(1), closing(2)]


def test_a_close_soon_does_not_send_a_request_elsewhere(busy: ScriptedPool) -> None:
    busy(SOON)
    assert busy(WorkerDied(1, "why")) == [
        Finish("a", Outcome.CANCELLED, 1, clean=False),
        closing(2),
    ]


def test_a_close_now_interrupts_what_runs_and_kills_what_does_not_listen(
    busy: ScriptedPool,
) -> None:
    assert busy(NOW) == [Finish("b", Outcome.CANCELLED, None), Interrupt(1, "a")]
    assert busy.at(12.0) == [StopWorker(1, kill=True, why=StopReason.CANCELLED)]
    assert busy.stopped(1) == [Finish("a", Outcome.CANCELLED, 1, clean=False), closing(2)]
    assert busy.stopped(2) == [Closed()]


def test_a_close_now_that_is_heard_is_clean(busy: ScriptedPool) -> None:
    busy(NOW)
    assert busy(InterruptDelivered(1)) == []
    assert busy.done(1, "a") == [Finish("a", Outcome.CANCELLED, 1), closing(1), closing(2)]


def test_a_close_may_be_repeated_stronger(busy: ScriptedPool) -> None:
    busy(GENTLY)
    assert busy(SOON) == [Finish("b", Outcome.CANCELLED, None)]
    assert busy(NOW) == [Interrupt(1, "a")]
    assert busy(NOW) == []
    assert busy(GENTLY) == []


def test_a_gentle_close_waits_for_leases_and_their_runs(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("L", lease=True)
    assert pool(GENTLY) == []
    assert pool.run("x", "L") == [Dispatch("x", 1, 1, None)]
    pool.done(1, "x")
    assert closing(1) in pool(ReturnLease("L"))
    assert pool.run("y", "L") == [Finish("y", Outcome.CLOSED, None)]


def test_a_close_now_takes_leases_back(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    pool.submit("L", lease=True)
    pool.submit("M", lease=True)
    pool.run("x", "L")
    pool.run("y", "L")
    commands = pool(NOW)
    assert commands[:4] == [
        Finish("y", Outcome.CANCELLED, None),
        Finish("L", Outcome.CANCELLED, 2),
        Interrupt(2, "x"),
        Finish("M", Outcome.CANCELLED, 1),
    ]
    pool(InterruptDelivered(2))
    assert pool.done(2, "x")[0] == Finish("x", Outcome.CANCELLED, 2)
    assert pool.stopped(1, 2) == [Closed()]


def test_closed_is_closed(make_pool: MakePool) -> None:
    pool = make_pool()
    pool(GENTLY)
    assert pool(GENTLY, NOW, Start(), Resize(size=4), Drain(), Cancel("a")) == []
    assert pool.submit("a") == [Finish("a", Outcome.CLOSED, None)]
    assert pool.run("x", "a") == [Finish("x", Outcome.CLOSED, None)]
    assert repr(pool) == "<PoolCore closed [Workers: none | Requests: none]>"
