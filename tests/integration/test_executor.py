"""A pool is an executor as `concurrent.futures` has it (PEP 3148): `submit` and its futures."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import (
    ExecutionError,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    PoolNotAvailable,
    SerializationError,
    WorkerDied,
)
from jupyter_pool.calling import RemoteTraceback
from support.calls import Door, by_value, pass_through
from support.cells import DEADLINE, Watcher, pids
from support.conditions import eventually


@pytest.fixture(scope="module", autouse=True)
def _travels_whole() -> Iterator[None]:
    with by_value(__name__), by_value("support.calls"):
        yield


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    # As long as an interrupted call takes to end on a busy machine; nothing may be killed here.
    with KernelPool(1, interrupt_grace=DEADLINE) as pool:
        yield pool.start(wait=True, timeout=DEADLINE)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


def hold(pool: KernelPool, door: Door) -> Future[Any]:
    """Keep the worker busy until the door opens."""
    before = door.count()
    future = pool.submit(pass_through, door.key, "held")
    eventually(lambda: door.count() > before)
    return future


class Point:
    def __init__(self, x: int) -> None:
        self.x = x

    def plus(self, y: int) -> int:
        return self.x + y

    @classmethod
    def at(cls, x: int) -> Point:
        return cls(x)


class TwoArguments(Exception):
    """Pickle rebuilds it with one argument, which it refuses."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def fail(error: BaseException) -> None:
    raise error


# --- values and exceptions ----------------------------------------------------------------------


def test_it_is_an_executor_and_so_are_its_views(pool: KernelPool) -> None:
    assert isinstance(pool, Executor)
    assert isinstance(pool.options(timeout=5), Executor)
    future = pool.submit(pow, 2, exp=5)
    assert isinstance(future, Future)
    assert future.result(DEADLINE) == 32
    assert future.exception(0) is None
    assert future.request_id
    assert pool.options(timeout=DEADLINE).submit(pow, 2, 3).result(DEADLINE) == 8


def test_names_of_keywords_are_the_functions_own(pool: KernelPool) -> None:
    def given(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert pool.submit(given, 1, self=2, fn=3).result(DEADLINE) == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        pool.submit(fn=given)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="cannot be called"):
        pool.submit(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "args", "value"),
    [
        (lambda x: x + 1, (1,), 2),
        (functools.partial(pow, 2), (5,), 32),
        (Point(3).plus, (4,), 7),
        (str.upper, ("a",), "A"),
        (Point, (3,), None),
        (os.getpid, (), None),
    ],
    ids=["lambda", "partial", "bound method", "method of a type", "class", "builtin"],
)
def test_whatever_can_be_called_can_be_sent(
    pool: KernelPool, function: Any, args: Any, value: Any
) -> None:
    result = pool.submit(function, *args).result(DEADLINE)
    if value is not None:
        assert result == value
    elif function is Point:
        assert isinstance(result, Point)
        assert result.x == 3
    else:
        assert result in pids(pool).values()


def test_a_closure_takes_its_cells_along(pool: KernelPool) -> None:
    factor = 3

    def inner(x: int) -> int:
        return x * factor

    def outer(x: int) -> int:
        return inner(x) + 1

    assert pool.submit(outer, 2).result(DEADLINE) == 7


def test_an_exception_comes_back_as_itself_with_the_remote_traceback_as_cause(
    pool: KernelPool,
) -> None:
    future = pool.submit(fail, KeyError("key", 3))
    with pytest.raises(KeyError) as caught:
        future.result(DEADLINE)
    assert caught.value.args == ("key", 3)
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "in fail\n    raise error\n" in cause.tb  # though it has travelled by value
    assert f'File "{__file__}", line' in cause.tb
    assert "run_call" not in cause.tb
    assert future.exception(0) is caught.value


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("mine")])
def test_exits_and_interrupts_of_the_function_are_its_own_and_spare_the_worker(
    pool: KernelPool, error: BaseException
) -> None:
    before = pids(pool)
    found = pool.submit(fail, error).exception(DEADLINE)
    assert type(found) is type(error)
    assert found.args == error.args
    assert pids(pool) == before


def test_an_exception_that_cannot_be_rebuilt_is_told_of(pool: KernelPool) -> None:
    def refuse() -> None:
        raise TwoArguments("one", "two")

    error = pool.submit(refuse).exception(DEADLINE)
    assert isinstance(error, ExecutionError)
    assert (error.ename, error.evalue) == ("TwoArguments", "onetwo")


def test_what_cannot_be_pickled_is_the_futures_failure(pool: KernelPool) -> None:
    lock = threading.Lock()
    error = pool.submit(print, lock).exception(DEADLINE)
    assert isinstance(error, SerializationError)
    assert isinstance(error, pickle.PicklingError)
    assert "lock" in str(error)
    error = pool.submit(lambda: lock).exception(DEADLINE)
    assert isinstance(error, SerializationError)
    error = pool.submit(lambda: threading.Lock()).exception(DEADLINE)
    assert isinstance(error, SerializationError)
    assert "ran to its end" in str(error)
    assert pool.submit(pow, 2, 2).result(DEADLINE) == 4


def test_a_value_that_cannot_be_unpickled_here_fails_where_it_is_asked_for(
    pool: KernelPool,
) -> None:
    class Wayward:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    future = pool.submit(Wayward)
    concurrent.futures.wait([future], DEADLINE)
    assert future.done()
    with pytest.raises(SerializationError, match="no number"):
        future.result(DEADLINE)
    assert isinstance(future.exception(0), SerializationError)


def test_a_value_is_unpickled_once_by_the_thread_that_asks(pool: KernelPool) -> None:
    class Tell:
        def __reduce__(self) -> Any:
            return (eval, ("[__import__('threading').get_ident()]",))

    future: Future[Any] = pool.submit(Tell)
    concurrent.futures.wait([future], DEADLINE)
    assert future.result() == [threading.get_ident()]
    assert future.result() is future.result()


def test_a_call_finds_nothing_of_another(pool: KernelPool) -> None:
    def count(seen: list[int] = []) -> int:  # noqa: B006 - that is what is tested
        seen.append(1)
        globals()["_left_behind"] = True
        return len(seen)

    def look() -> bool:
        return "_left_behind" in globals()

    assert [pool.submit(count).result(DEADLINE) for _ in range(3)] == [1, 1, 1]
    assert not pool.submit(look).result(DEADLINE)


def test_nothing_keeps_the_arguments_alive(pool: KernelPool) -> None:
    point = Point(1)
    collected = threading.Event()
    watch = weakref.ref(point, lambda _: collected.set())
    pool.submit(point.plus, 1)
    del point
    gc.collect()
    assert collected.wait(DEADLINE), watch()


# --- states -------------------------------------------------------------------------------------


def test_a_future_is_pending_then_running_then_done(pool: KernelPool, door: Door) -> None:
    first = hold(pool, door)
    second = pool.submit(pow, 1, 1)
    assert (first.running(), first.done()) == (True, False)
    assert (second.running(), second.done()) == (False, False)
    with pytest.raises(concurrent.futures.TimeoutError):
        first.result(timeout=0.01)
    door.open()
    assert first.result(DEADLINE) == "held"
    assert second.result(DEADLINE) == 1
    assert (first.running(), first.done()) == (False, True)


def test_a_queued_call_that_is_cancelled_never_runs(
    pool: KernelPool, door: Door, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    first = hold(pool, door)
    futures = [pool.submit(trace.write_text, "x") for _ in range(5)]
    assert all(future.cancel() for future in futures)
    assert all(future.cancelled() and future.done() for future in futures)
    with pytest.raises(CancelledError):
        futures[0].result(0)
    assert set(concurrent.futures.wait(futures, DEADLINE).done) == set(futures)
    door.open()
    first.result(DEADLINE)
    pool.submit(pow, 1, 1).result(DEADLINE)
    assert not trace.exists()


def test_a_call_that_is_cancelled_while_it_gets_its_worker_never_runs(
    pool: KernelPool, tmp_path: Path
) -> None:
    """Between the cancel and the pool's hearing of it the worker may be given."""
    for number in range(30):
        trace = tmp_path / str(number)
        future = pool.submit(trace.write_text, "x")
        if future.cancel():
            pool.submit(pow, 1, 1).result(DEADLINE)
            assert not trace.exists()
        else:
            assert future.result(DEADLINE) == 1


def test_a_running_call_is_not_cancelled_unless_asked_for(pool: KernelPool, door: Door) -> None:
    first = hold(pool, door)
    assert not first.cancel()
    door.open()
    assert first.result(DEADLINE) == "held"
    assert not first.cancel()


def test_cancel_running_interrupts(pool: KernelPool, door: Door) -> None:
    before = pids(pool)
    view = pool.options(cancel_running=True)
    future = view.submit(pass_through, door.key)
    eventually(lambda: door.count() == 1)
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    waiter = threading.Thread(target=concurrent.futures.wait, args=([future],))
    waiter.start()
    assert future.cancel()
    assert future.cancelled()
    assert called.wait(DEADLINE)
    waiter.join(DEADLINE)
    assert not waiter.is_alive()
    with pytest.raises(CancelledError):
        future.result(0)
    assert pool.submit(pow, 2, 2).result(DEADLINE) == 4
    assert pids(pool) == before


def test_the_pool_cancels_a_call_by_its_id(pool: KernelPool, door: Door) -> None:
    running = pool.submit(pass_through, door.key)
    eventually(lambda: door.count() == 1)
    queued = pool.submit(pow, 1, 1)
    pool.cancel(queued.request_id)
    pool.cancel(running.request_id)
    for future in (queued, running):
        with pytest.raises(CancelledError):
            future.result(DEADLINE)
    assert queued.cancelled()


def test_wait_and_as_completed_know_its_states(pool: KernelPool, door: Door) -> None:
    first = hold(pool, door)
    failing, last = pool.submit(fail, OSError()), pool.submit(pow, 1, 1)
    cancelled = pool.submit(pow, 1, 1)
    cancelled.cancel()
    done, not_done = concurrent.futures.wait(
        [first, cancelled], DEADLINE, concurrent.futures.FIRST_COMPLETED
    )
    assert (done, not_done) == ({cancelled}, {first})
    door.open()
    done, _ = concurrent.futures.wait(
        [first, failing, last], DEADLINE, concurrent.futures.FIRST_EXCEPTION
    )
    assert failing in done
    seen = list(concurrent.futures.as_completed([first, failing, last, cancelled], DEADLINE))
    assert set(seen) == {first, failing, last, cancelled}


def test_a_callback_may_submit_map_and_wait(pool: KernelPool) -> None:
    answers: list[Any] = []
    finished = threading.Event()

    def go_on(future: Future[int]) -> None:
        answers.append(pool.submit(pow, future.result(), 2).result(DEADLINE))
        answers.append(list(pool.map(abs, [-1, -2])))
        finished.set()

    pool.submit(pow, 2, 2).add_done_callback(go_on)
    assert finished.wait(DEADLINE)
    assert answers == [16, [1, 2]]


# --- limits and deaths --------------------------------------------------------------------------


def test_a_call_that_kills_its_worker_fails_alone(pool: KernelPool) -> None:
    before = pool.submit(os.getpid)
    error = pool.submit(os._exit, 3).exception(DEADLINE)
    assert isinstance(error, WorkerDied)
    assert error.exitcode == 3
    assert before.result(DEADLINE) != pool.submit(os.getpid).result(DEADLINE)


def test_options_limit_calls(pool: KernelPool, door: Door) -> None:
    error = pool.options(timeout=0.2).submit(pass_through, door.key).exception(DEADLINE)
    assert isinstance(error, OperationTimeout)


def test_retries_run_a_call_again_whose_worker_died(pool: KernelPool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    def die_once() -> str:
        if not trace.exists():
            trace.touch()
            os._exit(1)
        return "alive"

    assert pool.options(retries=1).submit(die_once).result(DEADLINE) == "alive"


def test_what_a_call_prints_appears_here_before_its_future_is_done(
    pool: KernelPool, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak() -> None:
        print("one")
        print("two", file=sys.stderr)

    pool.submit(speak).result(DEADLINE)
    assert capsys.readouterr() == ("one\n", "two\n")
    watcher = Watcher()
    pool.options(on_output=watcher).submit(speak).result(DEADLINE)
    # `print` makes two writes, which may be sent one by one.
    said = {"stdout": "", "stderr": ""}
    for event in watcher.events:
        said[event["name"]] += event["text"]
    assert said == {"stdout": "one\n", "stderr": "two\n"}
    pool.options(on_output=None).submit(speak).result(DEADLINE)
    assert capsys.readouterr() == ("", "")


def test_in_a_terminal_lines_say_whose_they_are(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    pool.submit(lambda: print("one\ntwo")).result(DEADLINE)
    (worker,) = pids(pool)
    assert capsys.readouterr().out == f"[worker {worker}] one\n[worker {worker}] two\n"


def test_a_pool_within_a_worker_works(pool: KernelPool) -> None:
    def nested() -> list[int]:
        from jupyter_pool import KernelPool

        with KernelPool(1) as inner:
            return list(inner.map(abs, [-1, -2]))

    assert pool.submit(nested).result(DEADLINE) == [1, 2]


def test_a_pool_does_not_travel_where_its_calls_would_wait_for_themselves(
    pool: KernelPool,
) -> None:
    error = pool.submit(lambda: pool.submit(abs, -1).result()).exception(DEADLINE)
    assert isinstance(error, SerializationError)
    assert "stays in its process" in str(error)


def test_a_forked_child_cannot_call(pool: KernelPool) -> None:
    pool.submit(pow, 1, 1).result(DEADLINE)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"called"
        try:
            pool.submit(pow, 1, 1)
        except PoolNotAvailable:
            try:
                pool.map(abs, [1])
            except PoolNotAvailable:
                answer = b"refused"
        finally:
            os.write(write, answer)
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert stream.read() == b"refused"
    assert pool.submit(pow, 2, 2).result(DEADLINE) == 4


def test_other_kernels_take_no_functions(bash_kernel: str) -> None:
    with KernelPool(1, kernel_name=bash_kernel) as pool:
        with pytest.raises(InvalidRequest, match="own Python kernel"):
            pool.submit(pow, 2, 2)
        with pytest.raises(InvalidRequest, match="own Python kernel"):
            pool.map(abs, [1])


# --- options of other executors -----------------------------------------------------------------


def test_max_workers_is_another_word_for_size() -> None:
    with KernelPool(max_workers=2) as pool:
        assert pool.config.size == 2
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            KernelPool(max_workers=number)


def test_an_initializer_is_called_before_each_call() -> None:
    def begin(value: int) -> None:
        os.environ["BEGUN"] = str(value)

    def look(_: object = None) -> str:
        return os.environ["BEGUN"]

    with KernelPool(1, initializer=begin, initargs=(3,)) as pool:
        assert [pool.submit(look).result(DEADLINE) for _ in range(2)] == ["3", "3"]
        assert list(pool.map(look, range(50))) == ["3"] * 50
    with pytest.raises(InvalidRequest, match="initializer"):
        KernelPool(1, initializer=3)
