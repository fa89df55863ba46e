"""What a request leaves behind: a lease on its worker, firm, or on sufferance."""

from __future__ import annotations

import pytest

from jupyter_pool.core import (
    Cancel,
    Close,
    Command,
    Dispatch,
    Drain,
    Finish,
    Interrupt,
    InterruptDelivered,
    Occupied,
    Outcome,
    RequestDone,
    RequestsDone,
    Reset,
    ResetDone,
    Resize,
    ReturnLease,
    SetUp,
    SetUpAll,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
    WorkerSpent,
)
from support.scripted_pool import MakePool, ScriptedPool


def leave(
    pool: ScriptedPool, worker_id: int, lease: str, *, firmly: bool = False, **options: object
) -> list[Command]:
    """A request that has this worker, and what its end brings about."""
    (dispatch,) = pool.submit(f"of {lease}", **options)  # type: ignore[arg-type]
    assert isinstance(dispatch, Dispatch)
    assert dispatch.worker_id == worker_id
    return pool(RequestDone(worker_id, f"of {lease}", None, lease, not firmly))


@pytest.fixture
def left(make_pool: MakePool) -> MakePool:
    """One worker, held on sufferance by lease L."""

    def make(**options: object) -> ScriptedPool:
        pool = make_pool(**options)
        pool.start(1)
        assert leave(pool, 1, "L") == [Finish("of L", Outcome.DONE, 1)]
        assert "1 leased" in repr(pool)
        return pool

    return make


def test_it_lasts_for_as_long_as_nobody_needs_a_worker(left: MakePool) -> None:
    pool = left()
    assert pool.at(100_000.0) == []
    assert pool.submit("a") == [Finish("L", Outcome.DONE, 1), Dispatch("a", 1, 1, None)]


def test_idle_workers_go_first(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    leave(pool, 2, "L")
    assert pool.submit("a") == [Dispatch("a", 1, 1, None)]
    assert pool.submit("b") == [Finish("L", Outcome.DONE, 2), Dispatch("b", 2, 1, None)]


def test_only_as_many_end_as_are_needed_the_longest_unused_first(make_pool: MakePool) -> None:
    pool = make_pool(size=3)
    pool.start(1, 2, 3)
    for worker_id in (3, 2, 1):
        leave(pool, worker_id, f"L{worker_id}")
    pool(Occupied("L3", True), Occupied("L3", False))
    assert pool.submit("a") == [Finish("L2", Outcome.DONE, 2), Dispatch("a", 2, 1, None)]
    assert pool.submit("b") == [Finish("L1", Outcome.DONE, 1), Dispatch("b", 1, 1, None)]
    assert pool.submit("c") == [Finish("L3", Outcome.DONE, 3), Dispatch("c", 3, 1, None)]


def test_a_request_that_does_not_wait_finds_a_worker(left: MakePool) -> None:
    pool = left(max_waiting=1)
    assert pool.submit("a", wait=0.0)[-1] == Dispatch("a", 1, 1, None)


def test_it_goes_before_another_worker_is_started(left: MakePool) -> None:
    pool = left(overflow=2)
    assert pool.submit("a") == [Finish("L", Outcome.DONE, 1), Dispatch("a", 1, 1, None)]


def test_one_that_is_occupied_is_reset_for_who_waits(left: MakePool) -> None:
    pool = left(reset_timeout=5.0)
    pool(Occupied("L", True))
    assert pool.submit("a") == [Finish("L", Outcome.DONE, 1), Reset(1)]
    assert pool(ResetDone(1)) == [Dispatch("a", 1, 1, None)]


def test_one_that_is_occupied_for_too_long_is_replaced(left: MakePool) -> None:
    pool = left(reset_timeout=5.0)
    pool(Occupied("L", True))
    pool.submit("a")
    assert pool.at(15.0) == [
        StopWorker(1, kill=True, why=StopReason.RESET_FAILED),
        StartWorker(2),
    ]


def test_occupied_ones_go_last(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    leave(pool, 2, "L2")
    leave(pool, 1, "L1")
    pool(Occupied("L2", True))
    assert pool.submit("a") == [Finish("L1", Outcome.DONE, 1), Dispatch("a", 1, 1, None)]
    assert pool.submit("b") == [Finish("L2", Outcome.DONE, 2), Reset(2)]


def test_an_occupied_one_without_isolation_is_used_as_it_is(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    leave(pool, 1, "L", isolation="none")
    pool(Occupied("L", True))
    assert pool.submit("a") == [Finish("L", Outcome.DONE, 1), Dispatch("a", 1, 1, None)]


def test_who_wants_a_process_of_its_own_has_one_started_in_its_place(left: MakePool) -> None:
    pool = left()
    assert pool.submit("a", isolation="process") == [
        Finish("L", Outcome.DONE, 1),
        StopWorker(1, kill=False, why=StopReason.RECYCLED, detail="isolation"),
        StartWorker(2),
    ]


def test_who_wants_a_process_of_its_own_gets_the_spare_one(left: MakePool) -> None:
    pool = left(reserve=1)
    pool.ready(2)
    commands = pool.submit("a", isolation="process")
    assert Finish("L", Outcome.DONE, 1) in commands
    assert Dispatch("a", 2, 1, None) in commands


def test_nothing_runs_in_it(left: MakePool) -> None:
    assert left().run("x", "L") == [Finish("x", Outcome.CANCELLED, None)]


@pytest.mark.parametrize(
    ("event", "outcome"),
    [(ReturnLease("L"), Outcome.DONE), (Cancel("L"), Outcome.CANCELLED)],
)
def test_whoever_ends_it_has_it_reset(
    left: MakePool, event: ReturnLease | Cancel, outcome: Outcome
) -> None:
    assert left()(event) == [Finish("L", outcome, 1), Reset(1)]


def test_it_ends_with_its_worker(left: MakePool) -> None:
    assert left()(WorkerDied(1, "segfault")) == [
        Finish("L", Outcome.WORKER_DIED, 1, "segfault", clean=False),
        StartWorker(2),
    ]


def test_draining_replaces_its_worker_at_once(left: MakePool) -> None:
    assert left()(Drain()) == [
        Finish("L", Outcome.DONE, 1),
        StopWorker(1, kill=False, why=StopReason.DRAINED),
        StartWorker(2),
    ]


def test_a_worker_that_is_to_be_replaced_is(left: MakePool) -> None:
    assert left()(WorkerSpent(1, "worn"))[:2] == [
        Finish("L", Outcome.DONE, 1),
        StopWorker(1, kill=False, why=StopReason.RECYCLED, detail="worn"),
    ]
    pool = left(max_lifetime=100.0)
    assert Finish("L", Outcome.DONE, 1) in pool.at(110.0)


def test_a_new_setup_is_run_at_once(left: MakePool) -> None:
    assert left()(SetUpAll()) == [Finish("L", Outcome.DONE, 1), SetUp(1)]


def test_a_smaller_pool_does_without_it(make_pool: MakePool) -> None:
    pool = make_pool(size=2)
    pool.start(1, 2)
    leave(pool, 2, "L2")
    leave(pool, 1, "L1")
    assert pool(Resize(size=3)) == [StartWorker(3)]
    pool.ready(3)
    commands = pool(Resize(size=1))
    assert [type(command) for command in commands].count(StopWorker) == 2
    assert {Finish("L1", Outcome.DONE, 1).request_id, "L2"} == {
        command.request_id for command in commands if isinstance(command, Finish)
    }
    assert repr(pool) == "<PoolCore running [Workers: 1 idle, 2 stopping | Requests: none]>"


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_ends_it(left: MakePool, cancel: bool) -> None:
    assert left()(Close(cancel, cancel)) == [
        Finish("L", Outcome.DONE, 1),
        StopWorker(1, kill=False, why=StopReason.CLOSED),
    ]


def test_it_is_not_counted_as_at_work(left: MakePool) -> None:
    assert left().core.taken == 0


# -- what is left behind in vain: it ends at once, exactly once ---------------------------------------


def test_nothing_is_left_where_somebody_waits(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    assert pool(RequestDone(1, "a", None, "L", True)) == [
        Finish("a", Outcome.DONE, 1),
        Finish("L", Outcome.DONE, 1),
        Dispatch("b", 1, 1, None),
    ]


def test_nothing_is_left_on_a_worker_that_is_to_be_replaced(make_pool: MakePool) -> None:
    pool = make_pool(max_tasks=1)
    pool.start(1)
    pool.submit("a")
    commands = pool(RequestDone(1, "a", None, "L", True))
    assert commands[1] == Finish("L", Outcome.DONE, 1)
    assert commands[2] == StopWorker(1, False, StopReason.RECYCLED, "max_tasks")


def test_nothing_is_left_on_overflow_workers(make_pool: MakePool) -> None:
    pool = make_pool(size=1, overflow=1)
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    pool.ready(2)
    assert pool(RequestDone(2, "b", None, "L", True)) == [
        Finish("b", Outcome.DONE, 2),
        Finish("L", Outcome.DONE, 2),
        Reset(2),
    ]


def test_nothing_is_left_by_a_request_that_was_cancelled(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    assert pool(Cancel("a")) == [Interrupt(1, "a")]
    pool(InterruptDelivered(1))
    assert pool(RequestDone(1, "a", None, "L", False)) == [
        Finish("a", Outcome.CANCELLED, 1),
        Finish("L", Outcome.DONE, 1),
    ]


def test_nothing_is_left_in_a_pool_that_closes(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool(Close(False, False))
    assert pool(RequestDone(1, "a", None, "L", False))[:2] == [
        Finish("a", Outcome.DONE, 1),
        Finish("L", Outcome.DONE, 1),
    ]


def test_nothing_is_left_by_an_answer_that_comes_too_late(make_pool: MakePool) -> None:
    pool = make_pool(interrupt_grace=1.0)
    pool.start(1)
    pool.submit("a", limit=1.0)
    pool.at(12.0)
    assert pool(RequestDone(1, "a", None, "L", True)) == [Finish("L", Outcome.DONE, None)]


def test_calls_that_came_along_and_are_done_leave_nothing(left: MakePool) -> None:
    pool = left()
    pool.submit("c", kind="quick")
    assert pool(RequestsDone(1, ("c",), (0.001,))) == [Finish("c", Outcome.DONE, 1)]


# -- firm ones -------------------------------------------------------------------------------------


def test_a_firm_one_keeps_others_waiting_until_it_is_returned(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    leave(pool, 1, "L", firmly=True)
    assert pool.submit("a") == []
    assert pool(Drain()) == []
    assert pool(ReturnLease("L"))[:2] == [
        Finish("L", Outcome.DONE, 1),
        StopWorker(1, kill=False, why=StopReason.DRAINED),
    ]


def test_a_firm_one_stays_also_where_somebody_waits(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    assert pool(RequestDone(1, "a", None, "L", False)) == [Finish("a", Outcome.DONE, 1)]
    assert pool(ReturnLease("L")) == [Finish("L", Outcome.DONE, 1), Reset(1)]
