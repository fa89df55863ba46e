"""`AsyncKernelPool` does what `KernelPool` does, awaited; and what only an event loop can ask for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_pool import (
    AsyncKernelPool,
    Cancelled,
    CheckoutTimeout,
    ExecutionError,
    ExecutionResult,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    PoolNotAvailable,
    PoolSaturated,
    SerializationError,
    WorkerDied,
    get_pool,
)
from support.cells import DEADLINE, Gate, value

# --- one behaviour, two faces -------------------------------------------------------------------


class Face:
    """A pool of either kind, called as if it were synchronous."""

    def __init__(self, kind: str) -> None:
        self._loop = asyncio.new_event_loop() if kind == "async" else None
        self.pool: Any = (AsyncKernelPool if kind == "async" else KernelPool)(
            1, name=f"{kind} face", interrupt_grace=DEADLINE, max_waiting=5
        )
        self.call("start", wait=True, timeout=DEADLINE)

    def call(self, name: str, *args: Any, **options: Any) -> Any:
        answer = getattr(self.pool, name)(*args, **options)
        return self._loop.run_until_complete(answer) if self._loop is not None else answer

    def execute(self, code: str, **options: Any) -> ExecutionResult:
        result: ExecutionResult = self.call("execute", code, **options)
        return result

    def in_lease(self, *codes: str) -> list[ExecutionResult]:
        if self._loop is None:
            with self.pool.checkout() as worker:
                return [worker.execute(code) for code in codes]

        async def run() -> list[ExecutionResult]:
            async with self.pool.checkout() as worker:
                return [await worker.execute(code) for code in codes]

        return self._loop.run_until_complete(run())

    def through_view(self, code: str, **presets: Any) -> ExecutionResult:
        answer = self.pool.options(**presets).execute(code)
        result: ExecutionResult = (
            self._loop.run_until_complete(answer) if self._loop is not None else answer
        )
        return result

    @property
    def pid(self) -> str:
        return value(self.execute("import os; os.getpid()"))

    def close(self) -> None:
        self.call("close")
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


@pytest.fixture(scope="module", params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    face = Face(request.param)
    yield face
    face.close()


def test_inputs_outputs_and_displays(face: Face) -> None:
    result = face.execute(
        "print('out')\ny = x.sum()\nf = lambda a: a + 1\ny",
        inputs={"x": np.arange(5)},
        outputs=["y", "f"],
        session_id="s",
        execution_count=7,
    )
    assert (result.outputs["y"], result.outputs["f"](1)) == (10, 2)
    assert [output["output_type"] for output in result.display_outputs] == [
        "stream",
        "execute_result",
    ]
    assert (result.status, result.session_id, result.execution_count) == ("ok", "s", 7)
    assert result.timings.total >= result.timings.ran > 0


def test_an_exception(face: Face) -> None:
    before = face.pid
    with pytest.raises(ExecutionError) as caught:
        face.execute("print('x')\n1/0")
    assert caught.value.ename == "ZeroDivisionError"
    assert caught.value.result is not None
    assert caught.value.result.stdout == "x\n"
    assert face.execute("1/0", check=False).status == "error"
    assert face.pid == before


def test_a_timeout(face: Face) -> None:
    before = face.pid
    with pytest.raises(OperationTimeout) as caught:
        face.execute("print('x')\nwhile True: pass", timeout=2)
    assert (caught.value.line, caught.value.result.stdout) == (2, "x\n")  # type: ignore[union-attr]
    assert face.pid == before


def test_a_death(face: Face) -> None:
    before = face.pid
    with pytest.raises(WorkerDied) as caught:
        face.execute("import os; os._exit(5)")
    assert caught.value.exitcode == 5
    assert face.pid != before


def test_a_retry(face: Face, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    code = f"import os\nif not os.path.exists({mark!r}):\n    open({mark!r}, 'w'); os._exit(1)\n1"
    assert value(face.execute(code, retries=1)) == "1"


def test_what_cannot_travel(face: Face) -> None:
    before = face.pid
    with pytest.raises(SerializationError, match="'lock'"):
        face.execute("1", inputs={"lock": threading.Lock()})
    with pytest.raises(SerializationError, match="'g'"):
        face.execute("g = (i for i in [])", outputs=["g"])
    with pytest.raises(InvalidRequest, match="never set the output 'n'"):
        face.execute("1", outputs=["n"])
    with pytest.raises(InvalidRequest, match="timeout"):
        face.execute("1", timeout=-1)
    assert face.pid == before


def test_a_lease(face: Face) -> None:
    before = face.pid
    first, second = face.in_lease("x = 1", "x + 1")
    assert value(second) == "2"
    assert first.worker_id == second.worker_id
    assert value(face.execute("'x' in globals()")) == "False"
    assert face.pid == before


def test_a_view_has_other_defaults(face: Face) -> None:
    result = face.through_view("1/0", session_id="viewed", check=False)
    assert (result.status, result.session_id) == ("error", "viewed")
    with pytest.raises(InvalidRequest, match="chek"):
        face.pool.options(chek=False)


def test_the_origins_names(face: Face) -> None:
    assert face.call("execute_in_session", "s9", "1").session_id == "s9"
    assert face.call("execute_anonymous", "1").session_id is None
    assert face.pool.sessions["s9"].requests == 1


def test_status_stats_and_health(face: Face) -> None:
    face.call("pop_stats")
    face.execute("1")
    assert face.call("get_stats").requests == {"ok": 1}
    status = face.call("get_status")
    # One that was replaced in another test may still be on its way out.
    workers = [worker for worker in status.workers if worker.state != "stopping"]
    assert (status.state, len(workers)) == ("running", 1)
    assert face.call("health_check").status == "healthy"
    assert get_pool(face.pool.name) is face.pool


def test_restarting_and_cancelling_what_is_not_there(face: Face) -> None:
    with pytest.raises(InvalidRequest, match="has no worker 999"):
        face.call("restart_worker", 999)
    face.call("cancel", "no such request")
    assert face.call("end_session", "no such session") is False
    with pytest.raises(InvalidRequest):
        face.call("resize")


def test_a_restart_gives_another_worker(face: Face) -> None:
    before = face.pid
    (worker,) = face.call("get_status").workers
    face.call("restart_worker", worker.id)
    assert face.pid != before


def test_outputs_are_seen_as_they_happen_in_the_callers_thread(face: Face) -> None:
    seen: list[tuple[str, str]] = []

    def look(event: dict[str, Any]) -> None:
        seen.append((event["output_type"], threading.current_thread().name))

    # One write: `print` writes the line's end by itself, which may be sent by itself.
    face.execute("import sys; _ = sys.stdout.write('1\\n')\ndisplay(2)", on_output=look)
    here = threading.current_thread().name
    assert seen == [("stream", here), ("display_data", here)]


def test_a_raising_on_output_is_logged(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: dict[str, Any]) -> None:
        raise RuntimeError("from the callback")

    with caplog.at_level(logging.ERROR, logger="jupyter_pool"):
        # One write: `print` makes two, which may be sent one by one.
        assert face.execute("print('1', end='')\n2", on_output=fail).stdout == "1"
    assert caplog.text.count("RuntimeError: from the callback") == 2


# --- asyncio's own ------------------------------------------------------------------------------


class Watch:
    """An `on_output` that a coroutine can wait on."""

    def __init__(self) -> None:
        self.seen = asyncio.Event()

    def __call__(self, event: dict[str, Any]) -> None:
        self.seen.set()

    async def wait(self) -> None:
        await asyncio.wait_for(self.seen.wait(), DEADLINE)


@pytest.fixture(scope="module")
def pool() -> Iterator[AsyncKernelPool]:
    """It belongs to no event loop: each test uses it from a loop of its own."""
    # As long as interrupted code takes to end on a busy machine; nothing may be killed here.
    pool = AsyncKernelPool(2, interrupt_grace=DEADLINE)
    asyncio.run(pool.start(wait=True, timeout=DEADLINE))
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


async def hold(pool: AsyncKernelPool, gate: Gate) -> list[asyncio.Task[ExecutionResult]]:
    """Both workers are busy until the gate opens twice."""
    watches = [Watch(), Watch()]
    tasks = [pool.submit_code(gate.code, on_output=watch) for watch in watches]
    for watch in watches:
        await watch.wait()
    return tasks


async def until(condition: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async def poll() -> None:
        while not await condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), DEADLINE)


async def test_requests_run_at_once_on_all_workers(pool: AsyncKernelPool, gate: Gate) -> None:
    tasks = await hold(pool, gate)
    gate.open(2)
    results = await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)
    assert len({result.worker_id for result in results}) == 2


async def test_the_loop_goes_on_while_a_request_runs(pool: AsyncKernelPool, gate: Gate) -> None:
    tasks = await hold(pool, gate)
    ticks = 0
    for _ in range(100):
        await asyncio.sleep(0)
        ticks += 1
    assert not any(task.done() for task in tasks)
    gate.open(2)
    await asyncio.gather(*tasks)
    assert ticks == 100


async def test_many_coroutines_get_their_own_answers(pool: AsyncKernelPool) -> None:
    results = await asyncio.gather(*(pool.execute("x * x", inputs={"x": i}) for i in range(100)))
    assert [int(value(result)) for result in results] == [i * i for i in range(100)]


async def test_submit_code_queues_at_once_and_gives_a_task(
    pool: AsyncKernelPool, gate: Gate
) -> None:
    tasks = await hold(pool, gate)
    third = pool.submit_code("'third'")
    assert (await pool.get_status()).queue_length == 1  # before anybody awaits it
    assert isinstance(third, asyncio.Task)
    gate.open(2)
    assert value(await asyncio.wait_for(third, DEADLINE)) == "'third'"
    await asyncio.gather(*tasks)


async def test_cancelling_a_task_that_waits_takes_it_out_of_the_queue(
    pool: AsyncKernelPool, gate: Gate, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    tasks = await hold(pool, gate)
    third = asyncio.create_task(pool.execute(f"open({str(trace)!r}, 'w')"))

    async def queued() -> bool:
        return (await pool.get_status()).queue_length == 1

    async def not_queued() -> bool:
        return (await pool.get_status()).queue_length == 0

    await until(queued)
    third.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await third
    assert type(caught.value) is asyncio.CancelledError
    await until(not_queued)
    gate.open(2)
    await asyncio.gather(*tasks)
    await pool.execute("1")
    assert not trace.exists()


async def test_cancelling_a_task_that_runs_interrupts_its_worker_and_keeps_it(
    pool: AsyncKernelPool,
) -> None:
    before = {worker.pid for worker in (await pool.get_status()).workers}
    watch = Watch()
    task = asyncio.create_task(pool.execute("print('on')\nwhile True: pass", on_output=watch))
    await watch.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert type(caught.value) is asyncio.CancelledError

    async def idle() -> bool:
        return all(worker.state == "idle" for worker in (await pool.get_status()).workers)

    await until(idle)
    assert {worker.pid for worker in (await pool.get_status()).workers} == before


async def test_a_timeout_of_asyncio_gives_the_request_up_too(pool: AsyncKernelPool) -> None:
    begun = time.monotonic()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pool.execute("while True: pass", timeout=None), 0.3)
    assert time.monotonic() - begun < DEADLINE

    async def idle() -> bool:
        return all(worker.state == "idle" for worker in (await pool.get_status()).workers)

    await until(idle)


async def test_the_pools_own_cancel_is_an_error_of_the_request_not_of_the_task(
    pool: AsyncKernelPool,
) -> None:
    watch = Watch()
    task = pool.submit_code("print('on')\nwhile True: pass", on_output=watch)
    await watch.wait()
    (busy,) = [w for w in (await pool.get_status()).workers if w.state == "busy"]
    assert busy.request_id is not None
    await pool.cancel(busy.request_id)
    with pytest.raises(Cancelled, match="interrupted cleanly"):
        await asyncio.wait_for(task, DEADLINE)
    assert not task.cancelled()


async def test_cancelling_one_who_waits_for_a_lease_takes_no_worker(
    pool: AsyncKernelPool,
) -> None:
    entered = False

    async def take() -> None:
        nonlocal entered
        async with pool.checkout():
            entered = True

    async with pool.checkout(), pool.checkout():
        task = asyncio.create_task(take())

        async def queued() -> bool:
            return (await pool.get_status()).queue_length == 1

        await until(queued)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(CheckoutTimeout):
            async with pool.checkout(checkout_timeout=0.05):
                pass
    assert not entered
    await asyncio.gather(*(pool.execute("1", checkout_timeout=DEADLINE) for _ in range(4)))


async def test_cancelling_the_holder_of_a_lease_returns_the_worker(pool: AsyncKernelPool) -> None:
    watch = Watch()

    async def use() -> None:
        async with pool.checkout() as worker:
            await worker.execute("print('on')\nwhile True: pass", on_output=watch)

    task = asyncio.create_task(use())
    await watch.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with pool.checkout(checkout_timeout=DEADLINE), pool.checkout(checkout_timeout=DEADLINE):
        pass


async def test_the_state_of_a_lease_lasts_over_awaits(pool: AsyncKernelPool) -> None:
    async with pool.checkout() as worker:
        await worker.execute("x = 1")
        await asyncio.gather(*(worker.execute("x += 1") for _ in range(5)))
        result = await worker.execute("x", outputs=["x"], inputs={"y": 1})
        assert result.outputs["x"] == 6
    with pytest.raises(InvalidRequest, match="not held"):
        await worker.execute("1")


async def test_outputs_come_in_order_and_before_the_result(pool: AsyncKernelPool) -> None:
    seen: list[str] = []
    result = await pool.execute(
        "for i in range(50): print(i, flush=True)",
        on_output=lambda event: seen.append(event["text"]),
    )
    assert "".join(seen) == result.stdout


async def test_leaving_the_pool_finishes_what_was_submitted() -> None:
    async with AsyncKernelPool(1) as pool:
        tasks = [pool.submit_code("x", inputs={"x": i}) for i in range(3)]
        await asyncio.sleep(0)
    results = await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE)
    assert [value(result) for result in results] == ["0", "1", "2"]
    with pytest.raises(PoolNotAvailable):
        await pool.execute("1")
    with pytest.raises(PoolNotAvailable):
        pool.submit_code("1")


async def test_leaving_the_pool_by_an_exception_cancels_what_runs_and_waits() -> None:
    with pytest.raises(LookupError):
        async with AsyncKernelPool(1) as pool:
            watch = Watch()
            running = pool.submit_code("print('on')\nwhile True: pass", on_output=watch)
            queued = pool.submit_code("1")
            await watch.wait()
            raise LookupError
    for task in (running, queued):
        with pytest.raises(Cancelled):
            await asyncio.wait_for(task, DEADLINE)


async def test_a_full_queue_is_said_at_once(gate: Gate) -> None:
    async with AsyncKernelPool(1, max_waiting=1) as pool, pool.checkout():
        waiting = pool.submit_code("1")
        with pytest.raises(PoolSaturated):
            await pool.execute("2")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


def test_a_pool_serves_one_event_loop_after_another(pool: AsyncKernelPool) -> None:
    for i in range(3):
        assert value(asyncio.run(pool.execute("x", inputs={"x": i}))) == str(i)


def test_a_pool_serves_loops_in_several_threads_at_once(pool: AsyncKernelPool) -> None:
    answers: list[str] = []

    def run(number: int) -> None:
        async def ask() -> None:
            for _ in range(5):
                result = await pool.execute("x", inputs={"x": number})
                answers.append(value(result))

        asyncio.run(ask())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(answers) == sorted(str(n) for n in range(4) for _ in range(5))


def test_a_loop_that_ends_while_a_request_runs_gives_it_up(pool: AsyncKernelPool) -> None:
    async def leave() -> None:
        watch = Watch()
        task = pool.submit_code("print('on')\nwhile True: pass", on_output=watch)
        await watch.wait()
        assert not task.done()  # asyncio.run cancels it at its end

    asyncio.run(leave())

    async def all_idle() -> None:
        async def idle() -> bool:
            return all(w.state == "idle" for w in (await pool.get_status()).workers)

        await until(idle)

    asyncio.run(all_idle())
