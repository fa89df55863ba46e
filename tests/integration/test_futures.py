"""`submit_code` gives a future as `concurrent.futures` has it (PEP 3148)."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import Cancelled, ExecutionError, ExecutionResult, KernelPool, PoolNotAvailable
from support.cells import DEADLINE, Gate, Watcher, joined, pid, value
from support.conditions import eventually


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(1, interrupt_grace=10) as pool:  # a slow worker is not replaced for it
        yield pool


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def hold(pool: KernelPool, gate: Gate) -> Future[ExecutionResult]:
    """Keep the worker busy until the gate opens."""
    watcher = Watcher()
    future = pool.submit_code(gate.code, on_output=watcher)
    watcher.wait_for()
    return future


def test_a_future_of_the_result_is_returned_at_once(pool: KernelPool, gate: Gate) -> None:
    future = pool.submit_code(gate.code + "x = 1\nx + 1", outputs=["x"])
    assert isinstance(future, Future)
    assert not future.done()
    gate.open()
    result = future.result(DEADLINE)
    assert (value(result), result.outputs["x"]) == ("2", 1)
    assert future.done()
    assert future.exception(0) is None
    assert future.request_id == result.request_id  # type: ignore[attr-defined]


def test_a_failure_is_raised_by_the_future(pool: KernelPool) -> None:
    future = pool.submit_code("1/0")
    with pytest.raises(ExecutionError, match="ZeroDivisionError"):
        future.result(DEADLINE)
    assert isinstance(future.exception(0), ExecutionError)
    told = pool.submit_code("1/0", check=False).result(DEADLINE)
    assert (told.status, type(told.error)) == ("error", ExecutionError)


def test_running_and_done_tell_where_it_is(pool: KernelPool, gate: Gate) -> None:
    first = hold(pool, gate)
    second = pool.submit_code("1")
    assert (first.running(), first.done()) == (True, False)
    assert (second.running(), second.done()) == (False, False)
    with pytest.raises(concurrent.futures.TimeoutError):
        second.result(timeout=0.01)
    gate.open()
    second.result(DEADLINE)
    first.result(DEADLINE)  # with its `on_output`, on a thread of its own, it may be done after
    assert (first.running(), first.done()) == (False, True)
    assert (second.running(), second.done()) == (False, True)


def test_what_waits_can_be_cancelled_and_never_runs(
    pool: KernelPool, gate: Gate, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    first = hold(pool, gate)
    second = pool.submit_code(f"open({str(trace)!r}, 'w')")
    assert second.cancel()
    assert (second.cancelled(), second.done(), second.running()) == (True, True, False)
    with pytest.raises(CancelledError):
        second.result(0)
    assert second.cancel()  # again: still cancelled
    eventually(lambda: pool.get_status().queue_length == 0)
    gate.open()
    first.result(DEADLINE)
    assert value(pool.execute("1")) == "1"
    assert not trace.exists()


def test_what_runs_or_is_done_cannot_be_cancelled_by_the_future(
    pool: KernelPool, gate: Gate
) -> None:
    first = hold(pool, gate)
    assert not first.cancel()
    gate.open()
    assert first.result(DEADLINE).status == "ok"
    assert not first.cancel()
    assert not first.cancelled()


def test_the_pool_cancels_also_what_runs(pool: KernelPool) -> None:
    before = pid(pool)
    watcher = Watcher()
    future = pool.submit_code("print('on')\nwhile True: pass", on_output=watcher)
    watcher.wait_for("on")
    pool.cancel(future.request_id)  # type: ignore[attr-defined]
    with pytest.raises(Cancelled) as caught:
        future.result(DEADLINE)
    # The caller may catch it as the standard library's.
    assert isinstance(caught.value, CancelledError)
    assert pid(pool) == before


def test_wait_wakes_for_one_that_was_cancelled(pool: KernelPool, gate: Gate) -> None:
    """CPython's executors notify those who wait; so must we."""
    first = hold(pool, gate)
    second = pool.submit_code("2")
    woken: list[concurrent.futures._base.DoneAndNotDoneFutures[ExecutionResult]] = []
    waiter = threading.Thread(
        target=lambda: woken.append(concurrent.futures.wait([second], timeout=DEADLINE))
    )
    waiter.start()
    assert second.cancel()
    waiter.join(5)
    assert not waiter.is_alive()
    assert woken[0].done == {second}
    gate.open()
    first.result(DEADLINE)


def test_as_completed_yields_all_those_cancelled_too(pool: KernelPool, gate: Gate) -> None:
    first = hold(pool, gate)
    others = [pool.submit_code("x", inputs={"x": i}) for i in range(5)]
    assert others[2].cancel()
    assert others[4].cancel()
    gate.open()
    seen = list(concurrent.futures.as_completed([first, *others], timeout=DEADLINE))
    assert set(seen) == {first, *others}
    # One worker: those that ran did so in order. The first has an `on_output`, and may be done later.
    ran = [others[0], others[1], others[3]]
    assert [f for f in seen if f in ran] == ran


def test_wait_returns_at_the_first_exception(pool: KernelPool, gate: Gate) -> None:
    failing = pool.submit_code("1/0")
    second = pool.submit_code(gate.code)
    done, not_done = concurrent.futures.wait(
        [failing, second], timeout=DEADLINE, return_when=concurrent.futures.FIRST_EXCEPTION
    )
    assert (done, not_done) == ({failing}, {second})
    gate.open()
    second.result(DEADLINE)


# --- callbacks ----------------------------------------------------------------------------------


def test_a_callback_gets_the_future_when_it_is_done(pool: KernelPool) -> None:
    called = threading.Event()
    seen: list[Future[ExecutionResult]] = []

    def note(future: Future[ExecutionResult]) -> None:
        seen.append(future)
        called.set()

    future = pool.submit_code("1")
    future.add_done_callback(note)
    assert called.wait(DEADLINE)
    assert seen == [future]
    assert future.done()


def test_a_callback_added_late_is_called_at_once(pool: KernelPool) -> None:
    future = pool.submit_code("1")
    future.result(DEADLINE)
    seen: list[str] = []
    future.add_done_callback(lambda f: seen.append(threading.current_thread().name))
    assert seen == [threading.current_thread().name]


def test_a_callback_that_submits_and_waits_does_not_wait_for_itself(pool: KernelPool) -> None:
    answers: list[str] = []
    finished = threading.Event()

    def go_on(future: Future[ExecutionResult]) -> None:
        answers.append(value(pool.submit_code("6 * 7").result(DEADLINE)))
        answers.append(value(pool.execute("x + 1", inputs={"x": 42}, timeout=DEADLINE)))
        with pool.checkout() as worker:
            answers.append(value(worker.execute("44")))
        finished.set()

    pool.submit_code("1").add_done_callback(go_on)
    assert finished.wait(DEADLINE)
    assert answers == ["42", "43", "44"]


@pytest.mark.parametrize("watched", [False, True])
def test_a_callback_that_hangs_holds_up_no_other_request(pool: KernelPool, watched: bool) -> None:
    go = threading.Event()
    entered = threading.Event()
    left = threading.Event()

    def hang(future: Future[ExecutionResult]) -> None:
        entered.set()
        go.wait(DEADLINE)
        left.set()

    options: dict[str, Any] = {"on_output": Watcher()} if watched else {}
    pool.submit_code("print(1)", **options).add_done_callback(hang)
    assert entered.wait(DEADLINE)
    assert value(pool.execute("1", timeout=DEADLINE)) == "1"
    assert value(pool.submit_code("2").result(DEADLINE)) == "2"
    assert value(pool.submit_code("3", on_output=Watcher()).result(DEADLINE)) == "3"
    go.set()
    assert left.wait(DEADLINE)


def test_a_raising_callback_is_logged_and_the_others_are_called(
    pool: KernelPool, caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()
    with caplog.at_level(logging.ERROR):
        future = pool.submit_code("1")
        future.add_done_callback(lambda f: 1 / 0)
        future.add_done_callback(lambda f: called.set())
        assert called.wait(DEADLINE)
    assert "ZeroDivisionError" in caplog.text
    assert value(pool.submit_code("2").result(DEADLINE)) == "2"


def test_a_chain_of_callbacks_goes_through(pool: KernelPool) -> None:
    end: Future[int] = Future()

    def step(future: Future[ExecutionResult]) -> None:
        number = int(value(future.result(0)))
        if number == 20:
            end.set_result(number)
        else:
            pool.submit_code("x + 1", inputs={"x": number}).add_done_callback(step)

    pool.submit_code("0").add_done_callback(step)
    assert end.result(DEADLINE) == 20


def test_callbacks_run_neither_on_the_io_thread_nor_on_the_callers(
    pool: KernelPool, gate: Gate
) -> None:
    names: list[str] = []
    called = threading.Event()

    def note(future: Future[ExecutionResult]) -> None:
        names.append(threading.current_thread().name)
        called.set()

    future = pool.submit_code(gate.code)
    future.add_done_callback(note)
    gate.open()  # not before: of what is done the caller's thread calls it
    assert called.wait(DEADLINE)
    assert names == [f"jupyter_pool callbacks of {pool.name}"]


# --- the end of the pool ------------------------------------------------------------------------


def test_leaving_the_pool_normally_finishes_what_was_submitted() -> None:
    with KernelPool(1) as pool:
        futures = [pool.submit_code("x", inputs={"x": i}) for i in range(5)]
    assert all(future.done() for future in futures)
    assert [value(future.result(0)) for future in futures] == list("01234")


def test_leaving_the_pool_by_an_exception_cancels_what_waits_and_interrupts_what_runs() -> None:
    begun = time.monotonic()
    with pytest.raises(LookupError), KernelPool(1) as pool:
        watcher = Watcher()
        running = pool.submit_code("print('on')\nimport time; time.sleep(100)", on_output=watcher)
        queued = pool.submit_code("1")
        watcher.wait_for("on")
        raise LookupError
    assert time.monotonic() - begun < DEADLINE
    for future in (running, queued):
        assert future.done()
        assert isinstance(future.exception(0), Cancelled)
    with pytest.raises(PoolNotAvailable):
        pool.submit_code("1")


def test_many_futures_are_each_answered_with_their_own(pool: KernelPool) -> None:
    futures = [pool.submit_code("x * x", inputs={"x": i}) for i in range(300)]
    results = [future.result(DEADLINE) for future in futures]
    assert [int(value(result)) for result in results] == [i * i for i in range(300)]
    assert [r.request_id for r in results] == [f.request_id for f in futures]  # type: ignore[attr-defined]


def test_when_a_pool_is_closed_every_future_is_done_also_one_with_a_slow_on_output() -> None:
    seen: list[dict[str, Any]] = []

    def slow(event: dict[str, Any]) -> None:
        time.sleep(0.3)
        seen.append(event)

    with KernelPool(size=1) as pool:
        future = pool.submit_code("print(1)\n2", on_output=slow)
    assert future.done()
    assert [output["output_type"] for output in joined(seen)] == ["stream", "execute_result"]
