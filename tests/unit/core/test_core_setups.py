"""Setups: each worker runs a new one before it serves on, and none is lost over it."""

from __future__ import annotations

from jupyter_pool.core import (
    Dispatch,
    Finish,
    Outcome,
    PoolState,
    RequestDone,
    ReturnLease,
    SetUp,
    SetUpAll,
    SetUpDone,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
)
from support.scripted_pool import MakePool


def test_idle_workers_run_it_now_and_serve_nobody_meanwhile(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    assert pool(SetUpAll()) == [SetUp(1)]
    assert pool.submit("r") == []
    assert repr(pool) == "<PoolCore running [Workers: 1 setting up | Requests: 1 queued]>"
    assert pool(SetUpDone(1)) == [Dispatch("r", 1, 1, None)]


def test_a_busy_worker_runs_it_before_its_next_request(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("a")
    pool.submit("b")
    assert pool(SetUpAll()) == []
    assert pool(RequestDone(1, "a")) == [Finish("a", Outcome.DONE, 1), SetUp(1)]
    assert pool(SetUpDone(1)) == [Dispatch("b", 1, 1, None)]


def test_a_lease_keeps_its_worker_as_it_is_until_it_ends(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool.submit("L", lease=True, isolation="none")
    assert pool(SetUpAll()) == []
    assert pool.run("x", "L") == [Dispatch("x", 1, 1, None)]
    pool(RequestDone(1, "x"))
    assert pool(ReturnLease("L")) == [Finish("L", Outcome.DONE, 1), SetUp(1)]


def test_standby_workers_are_replaced(make_pool: MakePool) -> None:
    pool = make_pool(reserve=1)
    pool.start(1, 2)
    commands = pool(SetUpAll())
    assert commands[0] == SetUp(1)
    assert StopWorker(2, False, StopReason.RECYCLED, "setup") in commands
    assert StartWorker(3) in commands


def test_another_one_that_comes_meanwhile_is_run_too(make_pool: MakePool) -> None:
    pool = make_pool()
    pool.start(1)
    pool(SetUpAll())
    assert pool(SetUpAll()) == []
    assert pool(SetUpDone(1)) == [SetUp(1)]


def test_a_worker_that_failed_is_replaced_and_that_is_no_failed_start(make_pool: MakePool) -> None:
    pool = make_pool(failure_limit=1)
    pool.start(1)
    pool(SetUpAll())
    assert pool(SetUpDone(1, "its setup failed")) == [
        StopWorker(1, False, StopReason.RECYCLED, "its setup failed"),
        StartWorker(2),
    ]
    assert pool.core.state is PoolState.RUNNING


def test_neither_is_one_that_dies_of_it(make_pool: MakePool) -> None:
    pool = make_pool(failure_limit=1)
    pool.start(1)
    pool(SetUpAll())
    assert pool(WorkerDied(1, "segfault")) == [StartWorker(2)]
    assert pool.core.state is PoolState.RUNNING


def test_one_that_takes_longer_than_a_start_may_is_killed(make_pool: MakePool) -> None:
    pool = make_pool(start_timeout=8.0)
    pool.start(1)
    pool(SetUpAll())
    assert pool.at(17.9) == []
    assert StopWorker(1, True, StopReason.SETUP_FAILED) in pool.at(18.0)
    assert pool.core.state is PoolState.RUNNING
