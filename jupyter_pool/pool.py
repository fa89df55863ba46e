"""`KernelPool` and `AsyncKernelPool`: what users call. Two thin faces of one engine.

A request is made and checked in the caller's thread, queued and run by the engine's I/O thread, and
made readable in the caller's thread again. How a caller waits is all that the two differ in.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jupyter_pool.engine.calls import DEFAULT, Guarded, check_presets
from jupyter_pool.engine.driver import Driver
from jupyter_pool.engine.face import SETTLE_SLACK, PoolFace, prepare
from jupyter_pool.engine.futures import (
    FutureSink,
    PoolFuture,
    StreamingFutureSink,
    resolve_with,
)
from jupyter_pool.engine.health import HEALTH_TIMEOUT
from jupyter_pool.engine.registry import get_pool, list_pools
from jupyter_pool.engine.request import Mailbox
from jupyter_pool.engine.settle import settle
from jupyter_pool.engine.waiting import OnOutput, run, wait_for
from jupyter_pool.errors import PoolError
from jupyter_pool.executor import Calls
from jupyter_pool.handles import Handle
from jupyter_pool.lease import Lease
from jupyter_pool.programs import ProgramCalls

if TYPE_CHECKING:
    from jupyter_pool.reports import HealthReport, PoolStats, PoolStatus
    from jupyter_pool.results import ExecutionResult, WaitInfo

__all__ = ["KernelPool", "Lease", "PoolView", "get_pool", "list_pools"]


class _Requests(Calls, ProgramCalls):
    """Making requests of a pool, with presets: what a pool and its views have in common."""

    @property
    def _pool(self) -> KernelPool:
        raise NotImplementedError

    def execute(
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
        on_wait: Callable[[WaitInfo], None] | None = None,
        on_input: Callable[[str, bool], str] | None = None,
    ) -> ExecutionResult:
        """Run code as a notebook cell on a free worker, and wait for it.

        Parameters
        ----------
        code
            Anything that a Jupyter cell may hold: magics, ``!commands``, ``await``.
        inputs
            Values by variable name, pickled now and there before the code runs. Arrays travel
            beside the pickle and are writable there.
        outputs
            Names of variables to bring back, as ``result.outputs["name"]``.
        session_id
            A label for statistics; it does not choose the worker.
        timeout
            How long the code may run, in seconds (or ``"10m"``); None: no limit. By default the
            pool's `operation_timeout`. Retries do not prolong it.
        checkout_timeout
            How long to wait for a worker; by default the pool's `checkout_timeout`.
        on_output
            Called with each output as it comes, in this thread: a dict like the notebook format's,
            or one of output_type ``update_display_data`` or ``clear_output``. Its exceptions are
            logged.
        check
            Raise errors. With False, look at ``result.status`` and ``result.error``.
        retries
            How often to run the code again after its worker died; nothing else is retried.
        isolation
            ``"process"`` takes a worker that has served nobody, and replaces it afterwards;
            ``"none"`` leaves everything as it is for the next ``"none"`` request on that worker;
            by default the pool's.
        output_limit
            How much output the worker sends, in bytes or as ``"20MB"``; None: no limit. By default
            the pool's. What is left out, and where, is said in the output and by
            ``result.left_out``.
        seed
            Makes ``random`` and NumPy's global generator reproducible in this request.
        execution_count
            The number that tracebacks show as ``Cell In[n]``.
        on_wait
            Called in this thread when the request has waited for a second, and every second from
            then on until it runs; and when a Ctrl-C begins to interrupt what runs.
        on_input
            Called in this thread when the code asks with ``input()`` or ``getpass()``: with the
            prompt and whether the answer is a password. It returns the answer. Without it, asking
            is an error there.

        Returns
        -------
        ExecutionResult

        Raises
        ------
        ExecutionError
            The code raised; the remote traceback is shown as Jupyter shows its own.
        CheckoutTimeout, OperationTimeout, Cancelled
            No worker in time; ran too long; cancelled by `cancel`.
        WorkerDied, WorkerStartError, ProtocolError
            The worker died under it; none could be started; it spoke nonsense.
        SerializationError, InvalidRequest
            An input or output that cannot be pickled; anything impossible.
        PoolNotAvailable, PoolSaturated
            The pool is closed; `max_waiting` requests wait already.
        """
        pool = self._pool
        on_output = self._preset("on_output", on_output, None)
        check = self._preset("check", check, True)
        show = Guarded(on_output, pool.log) if on_output is not None else None
        mailbox = Mailbox(wants_output=show is not None)
        request = prepare(
            pool,
            self._presets,
            mailbox,
            code,
            limits=True,
            show=show,
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
        return settle(run(pool, request, mailbox, show, on_wait, on_input), check=check)

    def submit_code(
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
    ) -> Future[ExecutionResult]:
        """Run code as `execute` does, without waiting.

        There are no time limits unless given here. `on_output` is called on a thread of this
        request's own, before the future is done.

        Returns
        -------
        concurrent.futures.Future
            Of the `ExecutionResult`, with a `request_id` attribute. ``cancel()`` works until a
            worker runs it (PEP 3148); `KernelPool.cancel` interrupts it also then.
        """
        pool = self._pool
        on_output = self._preset("on_output", on_output, None)
        show = Guarded(on_output, pool.log) if on_output is not None else None
        finish = resolve_with(partial(settle, check=self._preset("check", check, True)))
        future: PoolFuture[ExecutionResult] = PoolFuture(pool.running().cancel_soon)
        sink = (
            FutureSink(future, finish, pool.callbacks)
            if show is None
            else StreamingFutureSink(future, finish, pool.callbacks, show, pool.streaming)
        )
        request = prepare(
            pool,
            self._presets,
            sink,
            code,
            limits=False,
            show=show,
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
            # All futures of a pool take turns with whoever waits for a single cell.
            group="submitted",
            # The caller goes on and may change its arrays before they are sent.
            snapshot=True,
        )
        future.request_id = request.id
        pool.tell(lambda driver: driver.submit(request))
        return future

    def put(self, value: Any) -> Handle:
        """Store a value once for many requests: the handle, given to one, arrives as the value.

        ``data = pool.put(array)``, then ``pool.submit(f, data)`` or ``pool.execute("…",
        inputs={"x": data})`` as often as wanted, also within other arguments and inputs. A worker is
        sent the value at most once; each request gets it as it was put, to do with as it likes. On one
        machine large arrays are in shared memory, once for all workers. Starts the pool if need be.

        Returns
        -------
        Handle
            ``delete()`` frees the value; so does letting go of the handle, or closing the pool.

        Raises
        ------
        SerializationError, InvalidRequest
            It cannot be pickled; the pool's kernel is not Python's.
        PoolNotAvailable
            The pool is closed.
        """
        return self._pool.running().put(value)

    def setup(self, setup: Callable[[], object] | str) -> None:
        """Run code or a function on every worker, now and before a new one takes requests.

        What it leaves stays: the namespace that it fills is where every cell begins, and the objects
        there are live and shared by the requests on a worker. Functions assign with ``global``; what
        they return is not kept. Several setups run in their order. Returns when the workers that were
        free have run it; busy ones run it when they are free, which is only waited for if all are busy.

        Parameters
        ----------
        setup
            A cell, or a function without parameters, pickled as it is now. It has `start_timeout` on
            each worker.

        Raises
        ------
        WorkerStartError
            It failed on a worker; has its traceback. It is taken back: workers that have run it are
            replaced, and the pool is as it was.
        InvalidRequest, SerializationError
            Neither code nor a function; it cannot be pickled; the pool's kernel is not Python's.
        PoolNotAvailable
            The pool is closed.
        """
        answer: queue.SimpleQueue[PoolError | None] = queue.SimpleQueue()
        made = self._pool.make_setup(setup)
        try:
            self._pool.tell(lambda driver: driver.setups.add(made, answer.put))
            error = wait_for(answer)
        except BaseException:  # Ctrl-C: as if it had never been asked for
            self._pool.tell(lambda driver: driver.setups.give_up(made))
            raise
        if error is not None:
            raise error

    def execute_in_session(self, session_id: str, code: str, **options: Any) -> ExecutionResult:
        """`execute` under a session's label."""
        return self.execute(code, session_id=session_id, **options)

    def execute_anonymous(self, code: str, **options: Any) -> ExecutionResult:
        """`execute` without a session: nothing is tracked."""
        return self.execute(code, session_id=None, **options)

    def checkout(
        self,
        *,
        session_id: str | None = DEFAULT,
        checkout_timeout: float | str | None = DEFAULT,
    ) -> Lease:
        """Hold one worker exclusively: ``with pool.checkout() as worker: worker.execute(…)``.

        What the code defines stays from one `execute` to the next while the lease is held; the
        worker is reset when it is returned.
        """
        return Lease(
            self._pool,
            self._presets,
            {"session_id": session_id, "checkout_timeout": checkout_timeout},
        )

    def options(self, **presets: Any) -> PoolView:
        """A view of this pool with other defaults: ``fast = pool.options(timeout=5)``.

        Parameters
        ----------
        presets
            timeout, checkout_timeout, session_id, retries, isolation, output_limit, seed,
            on_output, check; as in `execute`. cancel_running: the ``cancel()`` of futures, and a
            `map` that ends early, interrupt also what runs.
        """
        return PoolView(self._pool, {**self._presets, **check_presets(presets)})

    def _preset(self, name: str, given: Any, default: Any) -> Any:
        return self._presets.get(name, default) if given is DEFAULT else given


class PoolView(_Requests):
    """A pool seen with other defaults. It has no life of its own: close the pool."""

    def __init__(self, pool: KernelPool, presets: Mapping[str, Any]) -> None:
        self._owner = pool
        self._presets = presets

    @property
    def _pool(self) -> KernelPool:
        return self._owner

    def __repr__(self) -> str:
        presets = ", ".join(f"{name}={value!r}" for name, value in self._presets.items())
        return f"<{self._owner!r} with {presets}>"


class KernelPool(PoolFace, _Requests):
    """A pool of real Jupyter kernels that runs code statelessly: any worker serves any request.

    ``with KernelPool(size=4) as pool:`` starts it and closes it again. An unstarted pool starts on
    first use; a closed one stays closed.

    Parameters
    ----------
    size
        How many workers; by default the usable CPUs, at most 8. Also as `max_workers`, which is
        what other executors call it.
    **options
        Any option of `PoolConfig`, such as ``overflow=2`` or ``kernel_name="bash"``. `initializer`
        and `initargs` as of other executors: called before each call of `submit` and each chunk of
        `map`, as no request finds what another one has left.

    Raises
    ------
    InvalidRequest
        An option that is unknown or impossible, or a name in use.
    """

    @property
    def _pool(self) -> KernelPool:
        return self

    def start(self, *, wait: bool = False, timeout: float | None = None) -> KernelPool:
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
            answer: queue.SimpleQueue[PoolError | None] = queue.SimpleQueue()
            self.tell(lambda driver: driver.condition.when_ready(answer.put))
            try:
                error = answer.get(timeout=timeout)
            except queue.Empty:
                raise TimeoutError(f"{self!r} was not ready within {timeout:g} s") from None
            if error is not None:
                raise error
        return self

    def close(self, timeout: float | None = None) -> None:
        """Close the pool: finish what was submitted, stop the workers, verify that they are gone.

        Parameters
        ----------
        timeout
            After so many seconds what still waits is cancelled and what still runs is interrupted,
            then killed. 0: at once. None: never.
        """
        self.close_and_see(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept nothing more, finish what was submitted, and stop the workers.

        Parameters
        ----------
        wait
            Return when all that is done; without it, it goes on meanwhile.
        cancel_futures
            Cancel what waits. What runs is finished, and so is what a worker that is starting is
            about to take.
        """
        if wait:
            self.close_and_see(None, cancel_futures=cancel_futures)
        else:
            self.begin_close(now=False, cancel_futures=cancel_futures)

    def __enter__(self) -> KernelPool:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Left normally, what was submitted is finished; left by an exception, nobody wants it.
        self.close(None if kind is None else 0)

    def health_check(self) -> HealthReport:
        """Have every idle worker answer, and say how healthy the pool is, and why.

        A busy worker is not a sick one. Takes at most some five seconds.
        """
        answer: queue.SimpleQueue[HealthReport] = queue.SimpleQueue()
        self.begin_health_check(answer.put)
        return answer.get(timeout=HEALTH_TIMEOUT + SETTLE_SLACK)

    def get_status(self) -> PoolStatus:
        """Configuration, state and every worker, at this moment."""
        return self.read_status()

    def get_stats(self) -> PoolStats:
        """The counters since the start or the last `pop_stats`, and some gauges."""
        return self.read_stats()

    def pop_stats(self) -> PoolStats:
        """As `get_stats`; the counters begin anew."""
        return self.read_stats(pop=True)

    def resize(self, size: int | None = None, overflow: int | None = None) -> None:
        """Change how many workers there are.

        More start at once; fewer: idle ones are stopped now, busy ones after their request.

        Raises
        ------
        InvalidRequest
            An impossible number, or none given.
        """
        self.order_resize(size, overflow)

    def restart_worker(self, worker_id: int) -> None:
        """Replace one worker now. What runs on it is cancelled.

        Raises
        ------
        InvalidRequest
            There is no such worker; the message lists those there are.
        """
        self.order_restart(worker_id)

    def drain(self) -> None:
        """Replace every worker by a fresh one: idle ones now, busy ones after their request."""
        self.order_drain()

    def cancel(self, request_id: str) -> None:
        """Cancel a request: queued it never runs, running it is interrupted.

        An unknown id is that of a request which has ended: nothing happens.
        """
        self.order_cancel(request_id)

    def end_session(self, session_id: str) -> bool:
        """Forget a session; False if there is none of that id. Its requests go on."""
        return self.order_end_session(session_id)
