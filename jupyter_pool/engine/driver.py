"""One pool on the I/O thread: feeds its core with events and has its commands carried out.

submit, cancel, …  ─┐                  ┌─▶ StartWorker, StopWorker   staffing → launcher
worker's messages  ─┤                  ├─▶ Dispatch, Ride            Dispatcher → Link
launcher's news    ─┼─▶ core.handle ───┼─▶ Interrupt, Reset, SetUp   Link
time               ─┤                  ├─▶ Finish                    Endings → request.sink
close, resize, …   ─┘                  └─▶ Degraded, BreakerMoved    Condition
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from jupyter_pool.config import PoolConfig
from jupyter_pool.core import (
    BreakerMoved,
    Cancel,
    Close,
    Closed,
    Command,
    Degraded,
    Dispatch,
    Drain,
    Event,
    Finish,
    Interrupt,
    MemoryExceeded,
    Outcome,
    PoolCore,
    PoolState,
    ProtocolViolation,
    Recovered,
    Reset,
    Resize,
    RestartWorker,
    ReturnLease,
    Ride,
    SetUp,
    Start,
    StartWorker,
    StopWorker,
    Submit,
    SubmitAll,
    SubmitInLease,
    TakeBack,
    Tick,
    WorkerStartFailed,
    WorkerState,
)
from jupyter_pool.errors import InvalidRequest
from jupyter_pool.handles import Handle, Puts
from jupyter_pool.serialize import pack_alone

from .accounting import Accounting
from .activity import Activity
from .condition import Condition
from .dispatching import Dispatcher
from .endings import Endings
from .envelopes import Envelopes
from .events import Hub
from .link import Link
from .log import LOGGER, PoolLog
from .memory_watch import Excess, MemoryWatch
from .programs import Programs
from .request import LONGEST_WAIT, Request
from .setups import Setups
from .staffing import core_config, start_worker, stop_worker
from .surroundings import Surroundings
from .telling import Teller

if TYPE_CHECKING:
    from .loop import Engine

_serials = itertools.count(1)


class Driver:
    """A pool's life on the I/O thread. Only `post`-ed calls may touch it from outside."""

    def __init__(
        self, engine: Engine | None, name: str, config: PoolConfig, hub: Hub | None = None
    ) -> None:
        # Without an engine it can only be asked: it stands for a pool that has not started.
        if engine is not None:
            self.engine = engine
            self.launcher = engine.launcher
        self.name = name
        self.log = PoolLog(name)
        self.hub = hub or Hub(name)
        self.teller = Teller(self.hub)
        self.serial = next(_serials)
        self.config = config
        self.foreign = config.kernel_name is not None
        #: Where workers on this machine find large frames; None: there is no such place.
        self.shared = None if engine is None or self.foreign else engine.shared
        self.puts = Puts(name, "" if engine is None else f"{engine.token}-{self.serial}")
        self.programs = Programs(name)
        self.setups = Setups(self)
        self.surroundings = Surroundings(config.cwd, config.env)
        #: The options of the last call, and a request that was made with them.
        self.last_call: tuple[dict[str, Any], Request | None] = ({}, None)
        self.core = PoolCore(core_config(config, foreign=self.foreign))
        self.envelopes = Envelopes(config.threads_per_worker, self.surroundings, self.core)
        self.accounting = Accounting(config.session_ttl, config.max_sessions, self.teller.session)
        self.activity = Activity()
        self.closed = threading.Event()
        self.links: dict[int, Link] = {}
        self.requests: dict[str, Request] = {}
        self.endings = Endings(self)
        self.condition = Condition(self)
        dispatcher = Dispatcher(self)
        self._orders: dict[type[Command], Callable[[Any], None]] = {
            StartWorker: partial(start_worker, self),
            StopWorker: partial(stop_worker, self),
            Dispatch: dispatcher.dispatch,
            Ride: dispatcher.ride,
            TakeBack: lambda command: self.links[command.worker_id].calls.take_back(),
            Interrupt: self._interrupt,
            Reset: lambda command: self.links[command.worker_id].reset(),
            SetUp: lambda command: self.links[command.worker_id].prepare(),
            Finish: self.endings.finish,
            Degraded: self.condition.degraded,
            Recovered: self.condition.recovered,
            BreakerMoved: self.condition.breaker_moved,
            Closed: self._closed,
        }
        self._pending: deque[Event] = deque()
        #: The core's time: when what is being carried out was decided.
        self.now = 0.0
        self._feeding = False
        self._watches_sessions = False
        limit = config.memory_limit
        #: Only where there is a limit to watch.
        self.memory = None if limit is None else MemoryWatch(name, limit, self._memory_exceeded)

    # -- the core ----------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Tell the core, and do what it commands. Events that doing so causes come after."""
        self._pending.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._pending:
                event = self._pending.popleft()
                self.now = now = time.monotonic()
                for command in self.core.handle(event, now):
                    self._carry_out(command)
                if self.condition.awaited:
                    failed = event.reason if isinstance(event, WorkerStartFailed) else None
                    self.condition.look(failed)
        finally:
            self._feeding = False
            self.activity.note()

    def watch_sessions(self) -> None:
        """See to it that sessions expire when their time is over, also where nothing else happens."""
        due = None if self._watches_sessions else self.accounting.sessions.next_expiry()
        if due is None:
            return
        self._watches_sessions = True
        # A timer that runs for an hour must not keep a closed pool.
        driver = weakref.ref(self)

        def look() -> None:
            if (me := driver()) is not None and not me.closed.is_set():
                me._watches_sessions = False
                me.accounting.sessions.expire()
                me.watch_sessions()

        # Past it, not at it: what is just as old as it may be is not too old.
        self.engine.after(max(0.0, due - time.monotonic()) + 0.01, look)

    def _carry_out(self, command: Command) -> None:
        try:
            self._orders[type(command)](command)
        except Exception as error:  # noqa: BLE001 - the other commands must not be lost with it
            name = type(command).__name__
            self.log(logging.ERROR, "cannot carry out %s", name, exc_info=True)
            if isinstance(command, Dispatch | Ride | TakeBack | Reset | SetUp | Interrupt):
                self._pending.append(
                    ProtocolViolation(command.worker_id, f"nothing: it cannot be reached ({error})")
                )

    def quiet_until(self) -> float:
        """Until when the core need not be told that time has passed; inf: no deadline is set."""
        return self.core.quiet_until

    def tick(self, now: float) -> None:
        """Tell the core, if that time has come."""
        if now < self.core.quiet_until:
            return
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= now:
            self.feed(Tick())

    # -- requests ----------------------------------------------------------------------------

    def submit(self, *requests: Request) -> None:
        """Take in requests; the sink of each gets exactly one end, whatever happens."""
        submits: list[Submit] = []
        logged = LOGGER.isEnabledFor(logging.DEBUG)
        if self.accounting.started_at is None:
            self.accounting.started_at = time.monotonic()
        for request in requests:
            self.requests[request.id] = request
            try:
                if logged:
                    self.log(logging.DEBUG, "request queued", request=request)
                self.teller.queued(request)
                if request.session_id is not None and not request.is_lease:
                    self.accounting.sessions.touch(request.session_id)
            except Exception:  # noqa: BLE001 - none of them, nor of the others, must be lost by it
                self.log(logging.ERROR, "cannot tell of a request", exc_info=True)
            if request.lease is None:
                submits.append(_submit_event(request))
                continue
            self._feed_submits(submits)
            submits = []
            self.feed(SubmitInLease(request.id, request.lease, request.timeout))
        self._feed_submits(submits)

    def _feed_submits(self, submits: list[Submit]) -> None:
        if len(submits) > 1:
            self.feed(SubmitAll(tuple(submits)))
        elif submits:
            self.feed(submits[0])

    def cancel(self, request_id: str) -> None:
        """Give up a request; unknown ids are requests that have ended."""
        self.feed(Cancel(request_id))

    def cancel_soon(self, request_id: str, running: bool = True) -> None:
        """`cancel`, from any thread; without `running` only if it still waits."""
        self.engine.post(lambda: self.cancel(request_id) if running else self.withdraw(request_id))

    def withdraw(self, request_id: str) -> None:
        """Cancel a request that no worker has got yet."""
        request = self.requests.get(request_id)
        if request is not None and request.first_dispatched is None:
            self.cancel(request_id)

    def withdraw_all(self, which: Callable[[Request], bool]) -> None:
        """Cancel what waits, but for those requests that starting workers are about to take."""
        starting = self.core.counts().get(WorkerState.STARTING, 0)
        waiting = [
            request
            for request in self.requests.values()
            if request.first_dispatched is None and which(request)
        ]
        for request in waiting[starting:]:
            self.cancel(request.id)

    def return_lease(self, lease_id: str) -> None:
        """The holder of a lease is done with it."""
        self.feed(ReturnLease(lease_id))

    def hold(self, lease_id: str, seconds: float | None) -> None:
        """Nothing more is run in a lease: keep it for comm messages, so long or to the pool's end."""
        lease = self.requests.get(lease_id)
        if lease is None:
            return
        lease.lasts = True
        if self.core.state in (PoolState.CLOSING, PoolState.CLOSED):
            self.return_lease(lease_id)
        elif seconds is not None:
            self.engine.after(seconds, partial(self.return_lease, lease_id))

    def share(self, frames: Iterable[Any]) -> list[Any]:
        """Move the large frames to shared memory, from any thread."""
        return list(frames) if self.shared is None else self.shared.share_large(frames)

    def put(self, value: Any) -> Handle:
        """Store a value for many requests, from any thread.

        Raises
        ------
        InvalidRequest
            The pool's kernel is not Python's, or there is a handle in the value.
        SerializationError
            The value cannot be pickled.
        """
        if self.foreign:
            raise InvalidRequest(
                f"put works with the pool's own Python kernel, not with {self.config.kernel_name!r}"
            )
        return self.puts.put(lambda: pack_alone(value, self.share))

    def _interrupt(self, command: Interrupt) -> None:
        request = self.requests.get(str(command.request_id))
        self.links[command.worker_id].interrupt(request)

    def answer(self, request: Request, content: dict[str, Any]) -> None:
        """Answer what a request's code has asked; too late is no harm."""
        link = self.links.get(request.worker_id or 0)
        if link is not None:
            link.answer(request, content)

    def holder(self, worker_id: int) -> Request | None:
        """The request or lease that has a worker."""
        record = self.core.workers.get(worker_id)
        if record is None:
            return None
        held = record.lease_id if record.request_id is None else record.request_id
        return self.requests.get(str(held))

    # -- memory ------------------------------------------------------------------------------

    def watch_memory(self, worker_id: int) -> None:
        """Somebody has got a worker, or has it no more: whose memory it is that grows there."""
        if self.memory is not None:
            holder = self.holder(worker_id)
            self.memory.hold(worker_id, holder.id if holder is not None else None)

    def _memory_exceeded(self, worker_id: int, request_id: str, excess: Excess) -> None:
        """Said by the watch, from its own thread."""
        self.engine.post(lambda: self.feed(MemoryExceeded(worker_id, request_id, excess)))

    def grown(self, worker_id: int) -> str | None:
        """Why a worker that a request has just left should be replaced, if its memory is a reason."""
        if self.memory is not None and self.memory.grown(worker_id):
            return "memory"
        return None

    # -- the pool ----------------------------------------------------------------------------

    def _closed(self, command: Closed) -> None:
        self.engine.remove(self)
        self._end()

    def abort(self) -> None:
        """The I/O thread has failed: nobody may be left waiting."""
        for request in list(self.requests.values()):
            self.endings.finish(Finish(request.id, Outcome.CLOSED, request.worker_id))
        self._end()

    def _end(self) -> None:
        if self.memory is not None:
            self.memory.close()
        self.programs.clear()
        self.setups.close()
        self.puts.close()
        self.hub.finish()
        self.closed.set()
        self.activity.note()

    def wait_closed(self, timeout: float | None) -> bool:
        """Wait until everything of this pool is gone; False if it is not after `timeout` seconds.

        In slices, since Python does not end a wait by a Ctrl-C that came just before it began.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.closed.wait(min(LONGEST_WAIT, _left(deadline))):
            if not _left(deadline):
                return False
        return True

    def close(self, *, cancel_queued: bool, cancel_running: bool) -> None:
        """Begin to close, or close harder."""
        self.feed(Close(cancel_queued, cancel_running))
        for request in list(self.requests.values()):
            if request.lasts:
                self.return_lease(request.id)

    def resize(self, size: int | None, overflow: int | None) -> None:
        """Change how many workers there are."""
        self.feed(Resize(size, overflow))

    def drain(self) -> None:
        """Replace every worker when it is free."""
        self.teller.draining(set(self.core.workers))
        self.feed(Drain())

    def restart(self, worker_id: int) -> list[int] | None:
        """Replace one worker now; the ids there are, if there is none of that."""
        if worker_id not in self.core.workers:
            return sorted(self.core.workers)
        self.feed(RestartWorker(worker_id))
        return None

    def start(self) -> None:
        """Start the workers."""
        self.accounting.started_at = self.accounting.started_at or time.monotonic()
        self.feed(Start())


def _submit_event(request: Request) -> Submit:
    return Submit(
        request.id,
        request.group,
        request.checkout_deadline,
        request.timeout,
        request.retries,
        request.is_lease,
        request.isolation,
        request.pace,
    )


def _left(deadline: float | None) -> float:
    return math.inf if deadline is None else max(0.0, deadline - time.monotonic())
