"""What `KernelPool` and `AsyncKernelPool` share: configuration, name, life, questions, requests."""

from __future__ import annotations

import contextvars
import logging
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jupyter_pool.config import PoolConfig
from jupyter_pool.errors import InvalidRequest, PoolError, PoolNotAvailable, WorkerStartError
from jupyter_pool.provisioning.kernelspecs import check_kernel_name

from . import answers, exits, tracing
from .calls import DEFAULT, REQUEST_PRESETS, Guarded, make_call, make_request
from .comms import CommRoute
from .driver import Driver
from .futures import CallbackThread, FutureSink, StreamingFutureSink
from .health import check_health, watch_health
from .listening import Listening
from .log import PoolLog
from .loop import Engine
from .memory import measure, resident
from .onlookers import stir
from .programs import make_execution
from .registry import register, unregister
from .setups import pack_setup

if TYPE_CHECKING:
    from jupyter_pool.calling import PackedCall
    from jupyter_pool.config import SetupCode
    from jupyter_pool.reports import (
        HealthReport,
        PoolStats,
        PoolStatus,
        SessionInfo,
        WorkerInfo,
    )

    from .mapping import Mapping as MapRun
    from .programs import Program
    from .request import Request, Sink
    from .setups import Setup
    from .showing import CallOutput

#: How much longer than the interrupt's grace a cancelled request or a forced close may take,
#: in seconds: the worker is killed, its last words read, its session searched.
SETTLE_SLACK = 10.0
#: How long a forced close waits for callbacks that do not return, in seconds.
CALLBACK_SLACK = 2.0


class PoolFace(Listening):
    """A pool as its owner holds it. The driver on the I/O thread comes with first use."""

    def __init__(self, size: int | None = None, **options: Any) -> None:
        if "max_workers" in options:  # what other executors call it
            workers = options.pop("max_workers")
            if size is None and isinstance(workers, int) and workers < 1:
                raise InvalidRequest(f"max_workers must be greater than 0, not {workers}")
            size = workers if size is None else size
        #: Called before a call, in its request: a request finds nothing that another one left.
        self.initializer: Callable[[], object] | None = initializer_from(
            options.pop("initializer", None), options.pop("initargs", ())
        )
        if size is not None:
            options["size"] = size
        #: The validated options.
        self.config = PoolConfig.build(options)
        check_kernel_name(self.config.kernel_name)
        # First what monitors look at: as soon as it has its name, they may.
        self._mappings: set[MapRun] = set()
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._driver: Driver | None = None
        self._closed = False
        #: The name by which `get_pool` finds it.
        self.name: str = register(self, self.config.name)
        self.log = PoolLog(self.name)
        self._begin_listening()
        self.callbacks = CallbackThread(f"jupyter_pool callbacks of {self.name}")
        #: Shows what calls print.
        self.shower = CallbackThread(f"jupyter_pool output of {self.name}")
        #: Futures whose `on_output` has not seen everything yet, each with a thread of its own.
        self.streaming: set[StreamingFutureSink] = set()
        # Two callbacks that both close the pool must not wait for each other.
        self._closing: set[threading.Thread] = set()
        stir()

    def __repr__(self) -> str:
        if self._closed:
            state = "closed"
        elif self._driver is None:
            state = f"not started, size {self.config.size}"
        else:
            state = repr(self._driver.core)
        return f"<{type(self).__name__} {self.name!r}: {state}>"

    def _ipython_display_(self) -> None:
        from jupyter_pool.notebook.monitor import display  # needs IPython, as whoever asks has

        display(self)

    def __reduce__(self) -> str | tuple[Any, ...]:
        # In a worker, calls of a call would wait for the workers that wait for them.
        raise TypeError(
            f"a pool stays in its process: make one of its own there, with {type(self).__name__}()"
        )

    # -- life --------------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise PoolNotAvailable if this pool is closed, or another process's."""
        if os.getpid() != self._pid:
            raise PoolNotAvailable(
                f"pool {self.name!r} belongs to the parent process; a forked child needs its own",
                context={"pool": self.name},
            )
        if self._closed:
            raise PoolNotAvailable(
                f"pool {self.name!r} is closed; a closed pool stays closed: make a new one",
                context={"pool": self.name},
            )
        if exits.is_over():
            raise PoolNotAvailable(
                f"pool {self.name!r} takes nothing more: this process is ending",
                context={"pool": self.name},
            )

    def running(self) -> Driver:
        """The driver, started if it is not yet."""
        self.check_open()
        driver = self._driver
        if driver is None:
            try:
                uninterrupted(self._make_driver)
            except WorkerStartError as error:
                error.context["pool"] = self.name
                raise
            driver = self._driver
            if driver is None:
                self.check_open()  # closed meanwhile
                raise PoolNotAvailable(f"pool {self.name!r} could not be started")
        return driver

    def _make_driver(self) -> None:
        with self._lock:
            if self._driver is None and not self._closed:
                # First: there is nothing to undo if one cannot be pickled.
                setups = list(map(pack_setup, self.config.setup))
                driver = Engine.acquire(
                    lambda engine: Driver(engine, self.name, self.config, self.hub)
                )
                for setup in setups:
                    driver.setups.keep(self.placed(driver, setup))
                self._driver = driver
                self.hub.driven = True
                driver.engine.post(partial(watch_health, driver))
                driver.engine.post(driver.activity.note)
                exits.remember(self)
                # A pool that nobody holds any more must not keep its workers.
                threads = (self.shower, self.callbacks)
                for thread in threads:
                    thread.be_ready()
                self._finalizer = weakref.finalize(self, _abandoned, driver, self.name, threads)
                self._finalizer.atexit = False

    def begin_close(self, *, now: bool, cancel_futures: bool = False) -> Driver | None:
        """Accept nothing more. None: nothing to close.

        With `now` cancel what is queued and runs, with `cancel_futures` the calls that wait.
        """
        if os.getpid() != self._pid:
            return None  # the parent's pool is the parent's to close
        with self._lock:
            self._closed = True
            driver = self._driver
            mappings = list(self._mappings)
        unregister(self)
        if driver is None:
            self.hub.finish()
            self.hub.join(time.monotonic() + CALLBACK_SLACK, self._closing)
            return None
        self._finalizer.detach()
        for mapping in mappings:
            if now or cancel_futures:
                mapping.cancel_rest()
            else:
                mapping.close()
        if cancel_futures:
            driver.engine.post(lambda: driver.withdraw_all(_is_future))
        if now or not mappings:
            driver.engine.post(lambda: driver.close(cancel_queued=now, cancel_running=now))
        return driver

    @property
    def mappings(self) -> list[MapRun]:
        """The maps that are under way."""
        with self._lock:
            return list(self._mappings)

    def mapping_begins(self, mapping: MapRun) -> None:
        """The pool stays open for it until `mapping_ended`."""
        with self._lock:
            self.check_open()
            self._mappings.add(mapping)

    def mapping_ended(self, mapping: MapRun) -> None:
        """It sends nothing more; a pool that is closing may go on with that."""
        with self._lock:
            self._mappings.discard(mapping)
            driver = self._driver if self._closed and not self._mappings else None
        if driver is not None:
            driver.engine.post(lambda: driver.close(cancel_queued=False, cancel_running=False))

    def close_and_see(self, timeout: float | None, *, cancel_futures: bool = False) -> None:
        """Close, and wait until that is done: `begin_close` and `see_closed` in one.

        A Ctrl-C may come anywhere in it, also while nobody waits yet.
        """
        try:
            driver = self.begin_close(now=timeout == 0, cancel_futures=cancel_futures)
            if driver is not None:
                self.see_closed(driver, timeout)
        except BaseException:
            driver = self._driver
            if driver is not None and os.getpid() == self._pid and not driver.closed.is_set():
                self._force_close(driver)
            raise

    def see_closed(self, driver: Driver, timeout: float | None) -> None:
        """Wait until the last worker is gone; what runs for longer than `timeout` is given up.

        Giving up takes at most `force_close_timeout`, and callbacks that never return delay the end
        by at most some seconds, all together. A thread that others need for it does not wait: the
        garbage collector may have called us anywhere.
        """
        if not driver.engine.may_wait():
            threading.Thread(
                target=self.see_closed, args=(driver, timeout), name="jupyter_pool close"
            ).start()
            return
        me = threading.current_thread()
        self._closing.add(me)
        try:
            if timeout != 0 and driver.wait_closed(timeout):
                self._end_close(driver, SETTLE_SLACK)
            else:
                self._force_close(driver)
        except BaseException:  # Ctrl-C: finish nothing more, but leave nothing behind
            self._force_close(driver)
            raise
        finally:
            self._closing.discard(me)

    def _force_close(self, driver: Driver) -> None:
        self.begin_close(now=True)
        driver.wait_closed(self.force_close_timeout())
        self._end_close(driver, CALLBACK_SLACK)

    def _end_close(self, driver: Driver, patience: float) -> None:
        """The last worker is gone; so are callbacks soon, and with the last pool its engine."""
        exits.forget(self)
        if not driver.closed.is_set():
            self.log(logging.ERROR, "could not be closed in time: %r", driver.core)
        deadline = time.monotonic() + patience
        self.hub.join(min(deadline, time.monotonic() + CALLBACK_SLACK), self._closing)
        for sink in list(self.streaming):
            sink.close(deadline, besides=self._closing)
        self.shower.close(deadline, besides=self._closing)
        self.callbacks.close(deadline, besides=self._closing)
        driver.engine.join(SETTLE_SLACK)

    def force_close_timeout(self) -> float:
        """How long a close that cancels everything may take, in seconds."""
        return float(self.config.interrupt_grace) + SETTLE_SLACK

    @property
    def driver(self) -> Driver | None:
        """Its life on the I/O thread, once it has begun."""
        return self._driver

    # -- questions ---------------------------------------------------------------------------

    def ask(self, question: Callable[[Driver], Any]) -> Any:
        """Put a question to the I/O thread, or to the driver that a new pool will have."""
        driver = self._driver
        if driver is None:
            return question(Driver(None, self.name, self.config))
        return driver.engine.ask(lambda: question(driver))

    def read_status(self) -> PoolStatus:
        status: PoolStatus = self.ask(answers.status)
        # Measured here, in the caller's thread: reading /proc is not for the I/O thread.
        workers = [_measured(worker) for worker in status.workers]
        return replace(status, workers=tuple(workers))

    def read_stats(self, *, pop: bool = False) -> PoolStats:
        stats, pids = self.ask(partial(answers.stats, pop=pop))
        memory = {worker_id: resident(pid) for worker_id, pid in pids.items()}
        found: PoolStats = replace(stats, memory={k: v for k, v in memory.items() if v is not None})
        return found

    def begin_health_check(self, answer: Callable[[HealthReport], None]) -> None:
        """Probe the idle workers; `answer` is called on the I/O thread."""
        self.tell(lambda driver: check_health(driver, answer))

    @property
    def sessions(self) -> Mapping[str, SessionInfo]:
        """The tracked sessions by id, as they are now."""
        found: dict[str, SessionInfo] = self.ask(answers.sessions)
        return found

    # -- orders ------------------------------------------------------------------------------

    def tell(self, order: Callable[[Driver], None]) -> None:
        """Give an order to the I/O thread."""
        driver = self.running()
        driver.engine.post(lambda: order(driver))

    def make_setup(self, setup: SetupCode) -> Setup:
        """A setup that `Setups.add` takes."""
        driver = self.running()
        if driver.foreign:
            raise InvalidRequest(
                "setup works with the pool's own Python kernel, not with "
                f"{self.config.kernel_name!r}: run the code with each request"
            )
        made = pack_setup(setup, driver.puts)
        made.context = driver.surroundings.difference()
        return self.placed(driver, made)

    @staticmethod
    def placed(driver: Driver, setup: Setup) -> Setup:
        """The setup, with what is large in it where all workers can have it."""
        if setup.code is None:
            handle = driver.puts.keep(driver.share(setup.frames))
            setup.stored = handle.take(driver.puts)
            # A call has arguments, if only none.
            setup.frames = [*setup.stored.frames, b""]
        return setup

    def order_end_session(self, session_id: str) -> bool:
        def forget(driver: Driver) -> bool:
            known = driver.accounting.sessions.forget(session_id)
            if known:
                driver.activity.note()  # for who looks on, also where the pool rests
            return known

        return bool(self.ask(forget))

    def order_resize(self, size: int | None, overflow: int | None) -> None:
        self.check_open()
        changes = {k: v for k, v in (("size", size), ("overflow", overflow)) if v is not None}
        if not changes:
            raise InvalidRequest("resize() takes size=, overflow= or both")
        for name, value in changes.items():
            self.config.change(name, value)
        if self._driver is not None:
            self.tell(lambda driver: driver.resize(size, overflow))

    def order_restart(self, worker_id: int) -> None:
        driver = self.running()
        known = driver.engine.ask(lambda: driver.restart(worker_id))
        if known is not None:
            raise InvalidRequest(
                f"pool {self.name!r} has no worker {worker_id!r}; it has "
                f"{', '.join(map(str, known)) or 'none at the moment'}",
                context={"pool": self.name, "worker_id": worker_id, "workers": known},
            )

    def order_cancel(self, request_id: str) -> None:
        self.tell(lambda driver: driver.cancel(request_id))

    def order_drain(self) -> None:
        self.tell(Driver.drain)

    def order_close(self) -> None:
        """Cancel everything and close; nobody waits for that."""
        driver = self.begin_close(now=True)
        if driver is not None:
            threading.Thread(
                target=self.see_closed, args=(driver, 0), name="jupyter_pool close"
            ).start()


def initializer_from(initializer: Any, initargs: Any) -> Callable[[], object] | None:
    """What is to be called, if anything.

    Raises
    ------
    InvalidRequest
        It cannot be called.
    """
    if initializer is None:
        return None
    if not callable(initializer):
        raise InvalidRequest(f"initializer={initializer!r} is not possible: it takes a function")
    if getattr(initializer, "__name__", "") == "set_lock" and "tqdm" in sys.modules:
        # tqdm hands its own executors the lock of its progress bars, which cannot be pickled and is
        # not wanted: a worker's bars are written here, by one thread.
        return None
    return partial(initializer, *initargs)


def prepare(
    pool: PoolFace,
    presets: Mapping[str, Any],
    sink: Sink,
    code: str,
    *,
    limits: bool,
    show: Guarded | None = None,
    **given: Any,
) -> Request:
    """One request from the call's own options, the view's presets and the configuration.

    `limits`: whether the configured timeouts hold where none is given. `show`: who sees its outputs.
    """
    options = _merge(pool, presets, given)
    if limits:
        options.setdefault("timeout", pool.config.operation_timeout)
        options.setdefault("checkout_timeout", pool.config.checkout_timeout)
    return _make(pool, options, show, lambda: make_request(pool.running(), sink, code, **options))


def prepare_call(
    pool: PoolFace,
    driver: Driver,
    presets: Mapping[str, Any],
    sink: Sink,
    fn: Callable[..., Any] | PackedCall,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    show: Guarded | CallOutput | None = None,
    **given: Any,
) -> Request:
    """As `prepare`, for a function call, which has no time limits unless preset."""
    options = _merge(pool, presets, given)
    return _make(pool, options, show, lambda: make_call(driver, sink, fn, args, kwargs, **options))


def prepare_execution(
    pool: PoolFace,
    driver: Driver,
    presets: Mapping[str, Any],
    sink: Sink,
    program: Program,
    inputs: Mapping[str, Any] | None,
    *,
    show: Guarded | None = None,
    **given: Any,
) -> Request:
    """As `prepare`, for an execution of a registered program."""
    options = _merge(pool, presets, given)
    options.setdefault("timeout", pool.config.operation_timeout)
    options.setdefault("checkout_timeout", pool.config.checkout_timeout)
    return _make(
        pool, options, show, lambda: make_execution(driver, sink, program, inputs, **options)
    )


def _is_future(request: Request) -> bool:
    return isinstance(request.sink, FutureSink)


def _merge(pool: PoolFace, presets: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in given.items() if value is not DEFAULT}
    if presets:
        for name in REQUEST_PRESETS:
            if name in presets:
                options.setdefault(name, presets[name])
    options.setdefault("output_limit", pool.config.output_limit)
    return options


def _make(
    pool: PoolFace,
    options: Mapping[str, Any],
    show: Guarded | CallOutput | None,
    make: Callable[[], Request],
) -> Request:
    try:
        request = make()
    except PoolError as error:
        where = {"pool": pool.name, "session_id": options.get("session_id")}
        error.context = {**where, **error.context}
        raise
    if show is not None:
        show.request = request
        if show.connect is not None:
            request.comms = show.connect(CommRoute(pool, request.lease or request.id))
            if request.comms and isinstance(show, Guarded):
                request.stay = show.stay
    tracing.begin(pool, request)
    return request


def uninterrupted(call: Callable[[], None]) -> None:
    """Run it in this context, where no Ctrl-C can stop it halfway, and raise what it raises."""
    if threading.current_thread() is not threading.main_thread():
        call()
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            raised.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="jupyter_pool start")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _measured(worker: WorkerInfo) -> WorkerInfo:
    found = measure(worker.pid)
    if found is None:
        return worker
    return replace(
        worker,
        memory=found.resident,
        unshared=found.unshared,
        proportional=found.proportional,
    )


def _abandoned(driver: Driver, name: str, threads: tuple[CallbackThread, ...]) -> None:
    """Nobody holds the pool any more. What was submitted is finished, as by other executors."""
    if os.getpid() != driver.engine.pid:
        return

    def close() -> None:
        driver.wait_closed(None)
        for thread in threads:
            thread.close()

    driver.engine.post(lambda: driver.close(cancel_queued=False, cancel_running=False))
    # No daemon: the process ends after it. Finalizers may run in any thread, so here none waits.
    threading.Thread(target=close, name="jupyter_pool close").start()
    warnings.warn(
        f"pool {name!r} was dropped without close(); its workers are stopped when they are done",
        ResourceWarning,
        stacklevel=2,
    )
