"""`AsyncKernelPool`: the pool for applications that run an asyncio event loop.

The same engine and the same names as `KernelPool`, awaited. Cancelling a task that awaits a request
gives the request up: queued it never runs, running it is interrupted, and asyncio's own
`CancelledError` is raised again.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jupyter_pool.engine.calls import DEFAULT, Guarded, check_presets
from jupyter_pool.engine.driver import Driver
from jupyter_pool.engine.events import Callback, OnLoop
from jupyter_pool.engine.face import SETTLE_SLACK, PoolFace, prepare
from jupyter_pool.engine.health import HEALTH_TIMEOUT
from jupyter_pool.engine.holding import Holding
from jupyter_pool.engine.request import Event, LoopSink, Request
from jupyter_pool.engine.settle import settle
from jupyter_pool.errors import InvalidRequest, PoolError
from jupyter_pool.executor import AsyncCalls
from jupyter_pool.handles import Handle
from jupyter_pool.programs import AsyncProgramCalls

if TYPE_CHECKING:
    from jupyter_pool.reports import HealthReport, PoolStats, PoolStatus
    from jupyter_pool.results import ExecutionResult

__all__ = ["AsyncKernelPool", "AsyncLease", "AsyncPoolView"]

OnOutput = Callable[[Event], None]


class _AsyncRequests(AsyncCalls, AsyncProgramCalls):
    """Making requests of a pool, with presets: what a pool and its views have in common."""

    @property
    def _pool(self) -> AsyncKernelPool:
        raise NotImplementedError

    async def execute(
        self,
        code: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Iterable[str] = (),
        session_id: str | None = DEFAULT,
        timeout: float | str | None = DEFAULT,
        checkout_timeout: float | str | None = DEFAULT,
        on_output: OnOutput | None = DEFAULT,
        check: bool = DEFAULT,
        retries: int = DEFAULT,
        isolation: str | None = DEFAULT,
        output_limit: float | str | None = DEFAULT,
        seed: int | None = DEFAULT,
        execution_count: int | None = None,
    ) -> ExecutionResult:
        """Run code as a notebook cell on a free worker; as `KernelPool.execute`.

        `on_output` is called in the event loop. Inputs are pickled in this thread.
        """
        return await self._execute(
            code,
            limits=True,
            check=check,
            on_output=on_output,
            inputs=inputs,
            outputs=outputs,
            session_id=session_id,
            timeout=timeout,
            checkout_timeout=checkout_timeout,
            retries=retries,
            isolation=isolation,
            output_limit=output_limit,
            seed=seed,
            execution_count=execution_count,
        )

    def submit_code(self, code: str, **options: Any) -> asyncio.Task[ExecutionResult]:
        """Run code as `execute` does, without time limits unless given, in a task of its own.

        The request is queued at once; ``await`` the task for its `ExecutionResult`, cancel it to
        give the request up.
        """
        start = self._execute(code, limits=False, group="submitted", **options)
        return asyncio.get_running_loop().create_task(start)

    def _execute(
        self,
        code: str,
        *,
        limits: bool,
        check: bool = DEFAULT,
        on_output: OnOutput | None = DEFAULT,
        **options: Any,
    ) -> Coroutine[Any, Any, ExecutionResult]:
        """Check and queue a request now; the coroutine waits for its result."""
        pool = self._pool
        on_output = self._preset("on_output", on_output, None)
        show = Guarded(on_output, pool.log) if on_output is not None else None
        sink = LoopSink(asyncio.get_running_loop(), show)
        request = prepare(
            pool, self._presets, sink, code, limits=limits, show=show, snapshot=True, **options
        )
        driver = pool.running()
        driver.engine.post(lambda: driver.submit(request))
        return _result(driver, request, sink, check=self._preset("check", check, True))

    async def put(self, value: Any) -> Handle:
        """Store a value once for many requests; as `KernelPool.put`. It is pickled in this thread."""
        return self._pool.running().put(value)

    async def setup(self, setup: Callable[[], object] | str) -> None:
        """Run code or a function on every worker; as `KernelPool.setup`."""
        answer: asyncio.Future[PoolError | None] = asyncio.get_running_loop().create_future()
        made = self._pool.make_setup(setup)
        put = _answer_to(answer)
        self._pool.tell(lambda driver: driver.setups.add(made, put))
        try:
            error = await answer
        except BaseException:
            self._pool.tell(lambda driver: driver.setups.give_up(made))
            raise
        if error is not None:
            raise error

    async def execute_in_session(
        self, session_id: str, code: str, **options: Any
    ) -> ExecutionResult:
        """`execute` under a session's label."""
        return await self.execute(code, session_id=session_id, **options)

    async def execute_anonymous(self, code: str, **options: Any) -> ExecutionResult:
        """`execute` without a session: nothing is tracked."""
        return await self.execute(code, session_id=None, **options)

    def checkout(
        self,
        *,
        session_id: str | None = DEFAULT,
        checkout_timeout: float | str | None = DEFAULT,
    ) -> AsyncLease:
        """Hold one worker: ``async with pool.checkout() as worker: await worker.execute(…)``."""
        return AsyncLease(
            self._pool,
            self._presets,
            {"session_id": session_id, "checkout_timeout": checkout_timeout},
        )

    def options(self, **presets: Any) -> AsyncPoolView:
        """A view of this pool with other defaults; as `KernelPool.options`."""
        return AsyncPoolView(self._pool, {**self._presets, **check_presets(presets)})

    def _preset(self, name: str, given: Any, default: Any) -> Any:
        return self._presets.get(name, default) if given is DEFAULT else given


class AsyncPoolView(_AsyncRequests):
    """A pool seen with other defaults. It has no life of its own: close the pool."""

    def __init__(self, pool: AsyncKernelPool, presets: Mapping[str, Any]) -> None:
        self._owner = pool
        self._presets = presets

    @property
    def _pool(self) -> AsyncKernelPool:
        return self._owner

    def __repr__(self) -> str:
        presets = ", ".join(f"{name}={value!r}" for name, value in self._presets.items())
        return f"<{self._owner!r} with {presets}>"


class AsyncKernelPool(PoolFace, _AsyncRequests):
    """A pool of real Jupyter kernels for asyncio: ``async with AsyncKernelPool(size=4) as pool``.

    Parameters and errors are those of `KernelPool`.
    """

    @property
    def _pool(self) -> AsyncKernelPool:
        return self

    def _callback(self, callback: Any) -> Callback:
        if not inspect.iscoroutinefunction(callback):
            return super()._callback(callback)
        try:
            return OnLoop(asyncio.get_running_loop(), callback)
        except RuntimeError:
            raise InvalidRequest(
                f"{callback!r} is a coroutine function: subscribe within the event loop that runs it"
            ) from None

    async def start(self, *, wait: bool = False, timeout: float | None = None) -> AsyncKernelPool:
        """Start the workers, all at once; with `wait` return when they are ready.

        Raises
        ------
        WorkerStartError
            With `wait`: they cannot be started.
        TimeoutError
            With `wait`: not ready within `timeout` seconds.
        """
        self.tell(Driver.start)
        if wait:
            answer: asyncio.Future[PoolError | None] = asyncio.get_running_loop().create_future()
            put = _answer_to(answer)
            self.tell(lambda driver: driver.condition.when_ready(put))
            error = await _in_time(answer, timeout, f"{self!r} was not ready")
            if error is not None:
                raise error
        return self

    async def close(self, timeout: float | None = None) -> None:
        """Close the pool: finish what was submitted, stop the workers, verify that they are gone.

        Parameters
        ----------
        timeout
            After so many seconds what still waits is cancelled and what still runs is interrupted,
            then killed. 0: at once. None: never.
        """
        driver = self.begin_close(now=timeout == 0)
        if driver is not None:
            await self._see_closed(driver, timeout)

    async def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept nothing more, finish what was submitted, stop; as `KernelPool.shutdown`."""
        driver = self.begin_close(now=False, cancel_futures=cancel_futures)
        if wait and driver is not None:
            await self._see_closed(driver, None)

    async def _see_closed(self, driver: Driver, timeout: float | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            # The loop goes on meanwhile. If this task is cancelled the thread finishes alone.
            await loop.run_in_executor(None, self.see_closed, driver, timeout)
        except BaseException:
            self.begin_close(now=True)
            raise

    async def __aenter__(self) -> AsyncKernelPool:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(None if kind is None else 0)

    async def health_check(self) -> HealthReport:
        """Have every idle worker answer, and say how healthy the pool is, and why."""
        answer: asyncio.Future[HealthReport] = asyncio.get_running_loop().create_future()
        self.begin_health_check(_answer_to(answer))
        report: HealthReport = await _in_time(
            answer, HEALTH_TIMEOUT + SETTLE_SLACK, "no health report came"
        )
        return report

    async def get_status(self) -> PoolStatus:
        """Configuration, state and every worker, at this moment."""
        # Measuring memory takes its time.
        return await asyncio.to_thread(self.read_status)

    async def get_stats(self) -> PoolStats:
        """The counters since the start or the last `pop_stats`, and some gauges."""
        return self.read_stats()

    async def pop_stats(self) -> PoolStats:
        """As `get_stats`; the counters begin anew."""
        return self.read_stats(pop=True)

    async def resize(self, size: int | None = None, overflow: int | None = None) -> None:
        """Change how many workers there are; as `KernelPool.resize`."""
        self.order_resize(size, overflow)

    async def restart_worker(self, worker_id: int) -> None:
        """Replace one worker now; as `KernelPool.restart_worker`."""
        self.order_restart(worker_id)

    async def drain(self) -> None:
        """Replace every worker by a fresh one: idle ones now, busy ones after their request."""
        self.tell(Driver.drain)

    async def cancel(self, request_id: str) -> None:
        """Cancel a request; as `KernelPool.cancel`."""
        self.order_cancel(request_id)

    async def end_session(self, session_id: str) -> bool:
        """Forget a session; False if there is none of that id. Its requests go on."""
        return self.order_end_session(session_id)


class AsyncLease(Holding):
    """An exclusive hold on one worker, from ``async with`` to its end; see `Lease`."""

    async def __aenter__(self) -> AsyncLease:
        sink = LoopSink(asyncio.get_running_loop())
        request = self._make_hold(sink)
        driver = self._pool.running()
        driver.engine.post(lambda: driver.submit(request))
        try:
            either: list[asyncio.Future[Any]] = [sink.lease, sink.done]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not sink.lease.done():
                settle(sink.done.result())
            self._take(driver, request)
        except BaseException:
            self._give_up(driver, request)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back()

    async def execute(
        self,
        code: str,
        *,
        timeout: float | str | None = DEFAULT,
        output_limit: float | str | None = DEFAULT,
        on_output: OnOutput | None = None,
        check: bool = True,
        **options: Any,
    ) -> ExecutionResult:
        """Run code on the worker that is held; as `AsyncKernelPool.execute`, but state stays.

        Raises
        ------
        InvalidRequest
            The lease is not held.
        """
        self._check_held("async with")
        driver = self._driver
        assert driver is not None
        show = Guarded(on_output, self._pool.log) if on_output is not None else None
        sink = LoopSink(asyncio.get_running_loop(), show)
        options = {"timeout": timeout, "output_limit": output_limit, "snapshot": True, **options}
        request = self._make_run(sink, code, show, options)
        driver.engine.post(lambda: driver.submit(request))
        try:
            return await _result(driver, request, sink, check=check)
        finally:
            self._ran(request)


async def _result(
    driver: Driver, request: Request, sink: LoopSink, *, check: bool
) -> ExecutionResult:
    """Wait for a queued request; whatever ends the wait early gives the request up."""
    try:
        completion = await sink.done
    except BaseException:
        driver.cancel_soon(request.id)
        raise
    return settle(completion, check=check)


def _answer_to(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    loop = future.get_loop()

    def set_it(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    return lambda value: _call_soon(loop, lambda: set_it(value))


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass  # the loop is closed: nobody waits any more


async def _in_time(future: asyncio.Future[Any], timeout: float | None, what: str) -> Any:
    try:
        return await asyncio.wait_for(future, timeout)
    except asyncio.TimeoutError:
        raise TimeoutError(f"{what} within {timeout:g} s") from None
