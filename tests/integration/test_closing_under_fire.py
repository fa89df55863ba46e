"""Closing a pool at the worst moments: from callbacks, finalizers, threads and tasks, and with all busy."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from jupyter_pool import (
    AsyncKernelPool,
    Cancelled,
    ExecutionResult,
    KernelPool,
    PoolError,
    PoolNotAvailable,
    WorkerDied,
)
from jupyter_pool.engine import face
from jupyter_pool.engine.loop import Engine
from support.cells import DEADLINE, Gate, Watcher, states
from support.conditions import eventually, gone

SLEEP = "import time\nprint('on', flush=True)\ntime.sleep(600)"

#: One write: `print` makes two, which a slow machine may send as two events.
ONE_EVENT = "print('1', end='')"

#: What a loaded machine may take beyond what is promised, in seconds.
SLACK = 5.0


def pids(pool: KernelPool) -> list[int]:
    return [worker.pid for worker in pool.get_status().workers if worker.pid is not None]


def descendants() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


# --- callbacks that do not return -----------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 0])
def test_callbacks_that_are_stuck_delay_the_end_once_and_not_one_after_another(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face, "SETTLE_SLACK", 3.0)
    monkeypatch.setattr(face, "CALLBACK_SLACK", 3.0)
    stuck, over = threading.Barrier(9), threading.Event()

    def block(event: object) -> None:
        stuck.wait(DEADLINE)
        over.wait(120)

    with KernelPool(size=2) as pool:
        try:
            futures = [pool.submit_code(ONE_EVENT, on_output=block) for _ in range(8)]
            stuck.wait(DEADLINE)
            eventually(lambda: states(pool) == ["idle", "idle"])
            begun = time.monotonic()
            pool.close(timeout=timeout)
            took = time.monotonic() - begun
            assert 3.0 <= took < 3.0 + SLACK
            # Nobody who waits for such a future waits for ever.
            assert [future.result(timeout=DEADLINE).stdout for future in futures] == ["1"] * 8
        finally:
            over.set()


def test_a_callback_that_returns_late_changes_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(face, "CALLBACK_SLACK", 0.2)
    stuck, over = threading.Event(), threading.Event()

    def block(event: object) -> None:
        stuck.set()
        over.wait(120)

    done: list[Future[ExecutionResult]] = []
    with KernelPool(size=1) as pool:
        future = pool.submit_code("print(1)", on_output=block)
        future.add_done_callback(done.append)
        try:
            stuck.wait(DEADLINE)
            eventually(lambda: states(pool) == ["idle"])
            pool.close(timeout=0)
            assert future.result(timeout=DEADLINE).stdout == "1\n"
        finally:
            over.set()
    eventually(lambda: "on_output" not in str(threading.enumerate()))
    eventually(lambda: done, "another thread runs the future's callbacks")
    assert done == [future]


# --- from within ----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 0])
def test_closing_from_a_done_callback(timeout: float | None) -> None:
    pool = KernelPool(size=2)
    closed = threading.Event()

    def close(future: object) -> None:
        pool.close(timeout=timeout)
        closed.set()

    later = pool.submit_code("import time; time.sleep(0.3)")
    pool.submit_code("1").add_done_callback(close)
    assert closed.wait(DEADLINE)
    assert later.done()
    assert pool.get_status().state == "closed"
    pool.close()


def test_closing_from_on_output_of_submitted_code_finishes_it() -> None:
    pool = KernelPool(size=1)
    future = pool.submit_code("print(1)\n2", on_output=lambda event: pool.close())
    assert future.result(DEADLINE).data["text/plain"] == "2"
    pool.close()
    assert pool.get_status().state == "closed"


def test_closing_at_once_from_on_output_of_submitted_code_gives_it_up() -> None:
    pool = KernelPool(size=1)
    future = pool.submit_code(SLEEP, on_output=lambda event: pool.close(timeout=0))
    assert isinstance(future.exception(DEADLINE), Cancelled)
    pool.close()
    assert pool.get_status().state == "closed"


def test_closing_from_on_output_of_the_code_that_one_waits_for() -> None:
    pool = KernelPool(size=1)
    known = descendants()
    result = pool.execute("print(1)\n2", on_output=lambda event: pool.close())
    assert (result.stdout, result.data["text/plain"]) == ("1\n", "2")
    assert descendants() <= known


def test_two_callbacks_that_both_close_do_not_wait_for_each_other() -> None:
    both = threading.Barrier(2)

    def close(event: object) -> None:
        both.wait(DEADLINE)
        pool.close()

    pool = KernelPool(size=2).start(wait=True, timeout=60)
    begun = time.monotonic()
    futures = [pool.submit_code(ONE_EVENT, on_output=close) for _ in range(2)]
    for future in futures:
        assert future.result(DEADLINE).stdout == "1"
    pool.close()
    assert time.monotonic() - begun < face.SETTLE_SLACK


class Application:
    """Holds a pool and closes it when it is collected: in a cycle, so only the collector does it."""

    def __init__(self, pool: KernelPool, threads: list[str]) -> None:
        self.pool = pool
        self.threads = threads
        self.me = self

    def __del__(self) -> None:
        self.threads.append(threading.current_thread().name)
        self.pool.get_status()
        self.pool.close()


def collected_on(call: Callable[[Callable[[], object]], object]) -> list[str]:
    """Have an application collected by that thread: on which it was, and that its pool is gone."""
    threads: list[str] = []
    gc.disable()  # so that no other thread finds it first
    try:
        pool = KernelPool(size=1)
        pool.start(wait=True, timeout=60)
        known = pids(pool)
        Application(pool, threads)
        call(gc.collect)
        eventually(lambda: threads, "the collection")
    finally:
        gc.enable()
    eventually(gone(known), "the end of its workers")
    eventually(lambda: Engine._current is None, "the engine's end")
    pool.close()
    return threads


def test_closing_when_the_garbage_collector_says_so() -> None:
    assert collected_on(lambda collect: collect()) == [threading.current_thread().name]


def test_closing_when_the_garbage_collector_says_so_on_the_io_thread_itself() -> None:
    def call(collect: Callable[[], object]) -> None:
        engine = Engine._current
        assert engine is not None
        engine.post(lambda: None if collect() else None)

    assert collected_on(call) == ["jupyter_pool I/O"]


def test_closing_when_the_garbage_collector_says_so_on_the_launchers_thread() -> None:
    def call(collect: Callable[[], object]) -> None:
        engine = Engine._current
        assert engine is not None
        engine.launcher._loop.call_soon_threadsafe(collect)

    assert collected_on(call) == ["jupyter_pool launcher"]


def test_closing_from_the_finalizer_of_something_else() -> None:
    class Holder:
        pass

    pool = KernelPool(size=1)
    pool.start(wait=True, timeout=60)
    known = pids(pool)
    holder = Holder()
    weakref.finalize(holder, pool.close)
    del holder
    assert gone(known)()


# --- with all of it busy --------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_closing_while_everything_is_busy_in_every_way(tmp_path: Path, timeout: float) -> None:
    """One runs, one ignores its interrupt, one is leased, one starts, one just died, some wait."""
    pool = KernelPool(size=4, interrupt_grace=1.0)
    pool.start(wait=True, timeout=60)
    watchers = [Watcher(), Watcher()]
    running = pool.submit_code(SLEEP, on_output=watchers[0])
    deaf = pool.submit_code(
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('on', flush=True)\ntime.sleep(600)",
        on_output=watchers[1],
    )
    for watcher in watchers:
        watcher.wait_for("on")
    pool.cancel(deaf.request_id)  # type: ignore[attr-defined]
    lease = pool.checkout()
    lease.__enter__()
    dead = pool.submit_code("import os; os._exit(1)")
    assert isinstance(dead.exception(DEADLINE), WorkerDied)  # and its replacement starts
    waiting = [pool.submit_code(SLEEP) for _ in range(20)]
    known = pids(pool)
    begun = time.monotonic()
    pool.close(timeout=timeout)
    took = time.monotonic() - begun
    assert took < timeout + 1.0 + SLACK
    assert gone(known)()
    futures = [running, deaf, *waiting]
    assert all(isinstance(future.exception(timeout=0), Cancelled) for future in futures)
    with pytest.raises(PoolError):
        lease.execute("1")
    lease.__exit__(None, None, None)
    assert pool.get_stats().queued == 0


def test_closing_from_many_threads_while_everything_is_busy() -> None:
    pool = KernelPool(size=2)
    watchers = [Watcher(), Watcher()]
    futures = [pool.submit_code(SLEEP, on_output=watcher) for watcher in watchers]
    futures += [pool.submit_code("1") for _ in range(10)]
    for watcher in watchers:
        watcher.wait_for("on")
    known = pids(pool)
    seen: list[bool] = []

    def close(timeout: float | None) -> None:
        pool.close(timeout=timeout)
        seen.append(gone(known)() and all(future.done() for future in futures))

    # Whoever is content to wait for ever sees the end that the hastier ones bring about.
    threads = [threading.Thread(target=close, args=(t,)) for t in (None, None, 0.3, 0.2, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert seen == [True] * 5
    with pytest.raises(PoolNotAvailable):
        pool.submit_code("1")


def test_closing_while_workers_are_being_stopped_and_restarted() -> None:
    pool = KernelPool(size=3)
    pool.start(wait=True, timeout=60)
    known = pids(pool)
    pool.drain()
    pool.restart_worker(pool.get_status().workers[-1].id)
    pool.resize(size=1)
    pool.close()
    assert gone(known)()
    assert pool.get_status().workers == ()


# --- asyncio --------------------------------------------------------------------------------------


async def busy_pool() -> tuple[AsyncKernelPool, list[asyncio.Task[object]], list[int]]:
    pool = AsyncKernelPool(size=2, interrupt_grace=1.0)
    await pool.start(wait=True, timeout=60)
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(pool.execute(SLEEP, timeout=None)) for _ in range(5)
    ]
    while [worker.state for worker in (await pool.get_status()).workers] != ["busy", "busy"]:
        await asyncio.sleep(0.01)
    return pool, tasks, [worker.pid for worker in (await pool.get_status()).workers if worker.pid]


async def test_cancelling_a_task_that_closes_closes_at_once() -> None:
    pool, tasks, known = await busy_pool()
    closing = asyncio.create_task(pool.close())
    while (await pool.get_status()).state != "closing":
        await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), DEADLINE)
    assert [type(end) for end in ends] == [Cancelled] * 5
    await pool.close()
    assert gone(known)()


async def test_cancelling_the_task_that_holds_the_pool_open_closes_it() -> None:
    held: list[int] = []
    inside = asyncio.Event()

    async def application() -> None:
        async with AsyncKernelPool(size=1, interrupt_grace=1.0) as pool:
            await pool.start(wait=True, timeout=60)
            held.extend(worker.pid for worker in (await pool.get_status()).workers if worker.pid)
            inside.set()
            await pool.execute(SLEEP, timeout=None)

    task = asyncio.create_task(application())
    await asyncio.wait_for(inside.wait(), DEADLINE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, DEADLINE)
    assert gone(held)()


async def test_closing_twice_at_once_and_again() -> None:
    pool, tasks, known = await busy_pool()
    await asyncio.gather(pool.close(timeout=0), pool.close(), pool.close(timeout=0.1))
    assert gone(known)()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [Cancelled] * 5
    await pool.close()


def test_a_gate_keeps_nobody_from_closing(tmp_path: Path) -> None:
    """A cell that waits in a system call for something that never comes."""
    with Gate(tmp_path) as gate, KernelPool(size=1) as pool:
        watcher = Watcher()
        future = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        assert states(pool) == ["busy"]
        pool.close(timeout=0)
        assert isinstance(future.exception(timeout=0), Cancelled)
