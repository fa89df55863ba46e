"""Quick requests ride along with the one that a worker runs, and are taken back if that takes long."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_pool.core import (
    Cancel,
    Command,
    Dispatch,
    Finish,
    GivenBack,
    Interrupt,
    InterruptDelivered,
    Outcome,
    RequestRefused,
    RequestsDone,
    RequestStarted,
    Ride,
    Submit,
    TakeBack,
    WorkerDied,
)
from jupyter_pool.core.riding import BUDGET, MOST, Paces
from support.scripted_pool import MakePool, ScriptedPool

QUICK = 0.0001


def submit(pool: ScriptedPool, *ids: str, **options: Any) -> list[Command]:
    return [c for i in ids for c in pool.submit(i, kind="quick", **options)]


def finished(commands: list[Command]) -> dict[Any, Outcome]:
    return {c.request_id: c.outcome for c in commands if isinstance(c, Finish)}


@pytest.fixture
def pool(make_pool: MakePool) -> ScriptedPool:
    """One worker that runs "a"; it is known that such are quick."""
    pool = make_pool()
    pool.start(1)
    submit(pool, "known", "a")
    pool(RequestsDone(1, ("known",), (QUICK,)))
    return pool


def ride(pool: ScriptedPool, *ids: str) -> None:
    """Have the worker run "first", and these ride along."""
    submit(pool, "first", *ids)
    commands = pool(RequestsDone(1, ("a",), (QUICK,)))
    riders = tuple((each, 1) for each in ids)
    assert commands[1:] == [Dispatch("first", 1, 1, None, riders)]


def test_what_is_known_to_be_quick_rides_along_in_order(pool: ScriptedPool) -> None:
    ride(pool, "b", "c")
    commands = pool(RequestsDone(1, ("first", "b", "c"), (QUICK,) * 3))
    assert finished(commands) == dict.fromkeys(("first", "b", "c"), Outcome.DONE)


def test_nothing_rides_that_is_not_known_to_be_quick(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    submit(pool, "a", "b", "c")
    assert pool.done(1, "a")[1:] == [Dispatch("b", 1, 1, None)]
    commands = pool(RequestsDone(1, ("b",), (BUDGET * 2,)))
    assert commands[1:] == [Dispatch("c", 1, 1, None)]


def test_no_more_ride_than_take_a_few_milliseconds(pool: ScriptedPool) -> None:
    submit(pool, *map(str, range(200)))
    (_, dispatch) = pool(RequestsDone(1, ("a",), (QUICK,)))
    assert isinstance(dispatch, Dispatch)
    assert 40 <= len(dispatch.riders) <= MOST


def test_a_worker_gets_no_more_than_its_share_of_those_that_wait(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    submit(pool, "a", "known", "b", "c", "d", "e", "f")
    commands = pool(RequestsDone(1, ("known",), (QUICK,)))
    assert commands[1:] == [Dispatch("b", 1, 1, None, (("c", 1), ("d", 1)))]


def test_more_come_along_before_all_is_done(pool: ScriptedPool) -> None:
    ride(pool, "b", "c")
    submit(pool, "d", "e")
    commands = pool(RequestsDone(1, ("first",), (QUICK,)))
    assert commands[1:] == [Ride(1, (("d", 1), ("e", 1)))]
    # Not again before what came with an earlier message is done: there are two at most.
    submit(pool, "f")
    assert not any(isinstance(c, Ride) for c in pool(RequestsDone(1, ("b",), (QUICK,))))
    assert any(isinstance(c, Ride) for c in pool(RequestsDone(1, ("c",), (QUICK,))))


def test_what_is_given_back_waits_at_the_head(pool: ScriptedPool) -> None:
    ride(pool, "b", "c")
    submit(pool, "d")
    pool(GivenBack(1, ("b", "c")))
    assert [pool.core.queue_position(i) for i in "bcd"] == [0, 1, 2]


def test_a_cancelled_rider_is_taken_back(pool: ScriptedPool) -> None:
    ride(pool, "b", "c")
    assert pool(Cancel("c")) == [TakeBack(1)]
    assert finished(pool(GivenBack(1, ("b", "c")))) == {"c": Outcome.CANCELLED}
    assert pool.core.queue_position("b") == 0


def test_a_cancelled_rider_that_has_begun_is_interrupted_when_it_is_its_turn(
    pool: ScriptedPool,
) -> None:
    ride(pool, "b")
    assert pool(Cancel("b")) == [TakeBack(1)]
    assert pool(GivenBack(1, ())) == []
    assert Interrupt(1, "b") in pool(RequestsDone(1, ("first",), (QUICK,)))
    pool(InterruptDelivered(1))
    assert finished(pool.done(1, "b")) == {"b": Outcome.CANCELLED}


def test_time_limits_begin_with_the_run(pool: ScriptedPool) -> None:
    submit(pool, "first")
    submit(pool, "b", limit=1.0)
    pool(RequestsDone(1, ("a",), (QUICK,)))
    assert pool.at(pool.now + 5.0) == []
    pool(RequestsDone(1, ("first",), (QUICK,)))
    assert pool.at(pool.now + 1.0) == [Interrupt(1, "b")]


def test_who_has_not_begun_when_the_worker_dies_waits_again(pool: ScriptedPool) -> None:
    ride(pool, "b", "c", "d")
    pool(RequestsDone(1, ("first",), (QUICK,)))
    pool(RequestStarted(1, "c"))
    commands = pool(WorkerDied(1, "killed"))
    assert finished(commands) == {"b": Outcome.WORKER_DIED, "c": Outcome.WORKER_DIED}
    assert pool.core.queue_position("d") == 0


def test_a_worker_that_refuses_one_refuses_those_that_came_along(pool: ScriptedPool) -> None:
    ride(pool, "b", "c")
    assert TakeBack(1) in pool(RequestRefused(1, "first", "edited"))
    assert [pool.core.queue_position(i) for i in ("first", "b", "c")] == [0, 1, 2]


def test_no_more_ride_than_a_worker_may_serve(make_pool: MakePool) -> None:
    pool = make_pool(max_tasks=4)
    pool.start(1)
    submit(pool, "known", "a", "b", "c", "d", "e")
    commands = pool(RequestsDone(1, ("known",), (QUICK,)))
    assert commands[1:] == [Dispatch("a", 1, 1, None, (("b", 1), ("c", 1)))]


def test_what_rides_may_still_run_out_of_patience_once_it_is_given_back(pool: ScriptedPool) -> None:
    submit(pool, "first")
    pool(Submit("b", "g", pool.now + 1.0, None, kind="quick"))
    pool(RequestsDone(1, ("a",), (QUICK,)))
    pool(GivenBack(1, ("b",)))
    assert finished(pool.at(pool.now + 1.0)) == {"b": Outcome.CHECKOUT_TIMEOUT}


def test_paces_follow_what_is_quicker_sooner_and_are_bounded() -> None:
    paces = Paces()
    assert paces.of("x") == float("inf")
    paces.learn("x", 1.0)
    paces.learn("x", 2.0)
    assert 1.0 < paces.of("x") < 1.5
    paces.learn("x", 0.1)
    assert paces.of("x") < 0.7
    for number in range(1000):
        paces.learn(number, 1.0)
    assert paces.of("x") == float("inf")
    assert paces.of(999) == 1.0


def test_who_runs_again_has_found_a_worker_in_time_though_it_is_given_back(
    make_pool: MakePool,
) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    submit(pool, "known")
    pool(RequestsDone(2, ("known",), (QUICK,)))
    assert Dispatch("x", 2, 1, None) in submit(pool, "x", wait=5.0, retries=1)
    assert Dispatch("w", 1, 1, None) in submit(pool, "w", "r", "s")
    commands = pool(RequestsDone(1, ("w",), (QUICK,)))
    assert Dispatch("r", 1, 1, None, (("s", 1),)) in commands
    pool(RequestStarted(2, "x"))
    pool(WorkerDied(2, "segfault"))
    assert Ride(1, (("x", 2),)) in pool(RequestsDone(1, ("r",), (QUICK,)))
    pool(GivenBack(1, ("x",)))
    assert finished(pool.at(pool.now + 6.0)) == {}
