"""One pool on the I/O thread: feeds its core with events and carries out its commands.

submit, cancel, …  ─┐                  ┌─▶ StartWorker  launcher
worker's messages  ─┼─▶ core.handle ───┼─▶ Dispatch     link.run → execute_request
launcher's news    ─┤                  ├─▶ Interrupt    link.interrupt → SIGINT
time               ─┘                  └─▶ Finish       request.sink.finish
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
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jupyter_pool._cpus import usable_cpus
from jupyter_pool.config import PoolConfig
from jupyter_pool.core import (
    START_TIMED_OUT,
    Breaker,
    BreakerMoved,
    Cancel,
    Close,
    Closed,
    Command,
    CoreConfig,
    Degraded,
    Dispatch,
    Drain,
    Event,
    Finish,
    GivenBack,
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
    SetUpDone,
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
    WorkerUnresponsive,
)
from jupyter_pool.core.commands import Riders
from jupyter_pool.core.state import SEATED
from jupyter_pool.errors import InvalidRequest, PoolError, PoolNotAvailable, WorkerStartError
from jupyter_pool.handles import Handle, Puts
from jupyter_pool.reports import HealthReport
from jupyter_pool.serialize import pack_alone

from .accounting import Accounting
from .activity import Activity
from .answers import breaker, busy_workers, degraded_reason
from .comms import CommMessage
from .events import Hub
from .health import HEALTH_TIMEOUT, HealthCheck
from .link import Flight, Link
from .log import LOGGER, PoolLog
from .memory import OomWatch
from .memory_watch import Excess, MemoryWatch
from .programs import Programs
from .request import LONGEST_WAIT, Completion, Request
from .settle import start_error, succeeded
from .setups import Setups
from .staffing import StartFailure, hanging_setup, start_worker, stop_worker
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
        self._cpus = usable_cpus()
        self.core = PoolCore(_core_config(config, foreign=self.foreign))
        self.accounting = Accounting(config.session_ttl, config.max_sessions, self.teller.session)
        self.activity = Activity()
        self.closed = threading.Event()
        self.links: dict[int, Link] = {}
        self.requests: dict[str, Request] = {}
        self._flights: dict[str, Flight] = {}
        self._pending: deque[Event] = deque()
        self._feeding = False
        self._watches_sessions = False
        self.degraded_by: object = None
        self._waiting_for_ready: list[Callable[[PoolError | None], None]] = []
        self._oom = OomWatch()
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
                for command in self.core.handle(event, time.monotonic()):
                    self._carry_out(command)
                if self._waiting_for_ready:
                    self._answer_ready(
                        event.reason if isinstance(event, WorkerStartFailed) else None
                    )
        finally:
            self._feeding = False
            self.activity.note()

    def watch_health(self) -> None:
        """Check the idle workers now and then, and replace those that do not answer."""
        interval = self.config.health_check_interval
        if interval is None or self.closed.is_set():
            return

        def heal(report: HealthReport) -> None:
            for verdict in report.workers:
                if verdict.status != "healthy":
                    worker_id, _, reason = verdict
                    self.log(
                        logging.WARNING, "worker %d %s", worker_id, reason, worker_id=worker_id
                    )
                    self.feed(WorkerUnresponsive(verdict.worker_id))
            self.engine.after(interval, self.watch_health)

        self.health_check(HEALTH_TIMEOUT, heal)

    def _watch_sessions(self) -> None:
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
                me._watch_sessions()

        # Past it, not at it: what is just as old as it may be is not too old.
        self.engine.after(max(0.0, due - time.monotonic()) + 0.01, look)

    def _carry_out(self, command: Command) -> None:
        try:
            _CARRY_OUT[type(command)](self, command)
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

    def send_comm(self, request_id: str, message: CommMessage) -> str | None:
        """Send a comm message to the worker of a request; its id, or None if there is none."""
        request = self.requests.get(request_id)
        if request is None or not request.comms or request.first_dispatched is None:
            return None
        link = self.links.get(request.worker_id or 0)
        return None if link is None or link.exited else link.traffic.send(request, message)

    def keep_listening(self, flight: Flight) -> None:
        """A run has ended: within a lease that takes comm messages, it may have left something."""
        request = flight.request
        lease = self.requests.get(request.lease) if request and request.lease else None
        if lease is not None and lease.comms:
            self.links[lease.worker_id or 0].traffic.keep(flight.message_id, lease)

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

    def envelope(self, request: Request) -> dict[str, Any]:
        """What our kernel is told beside the code."""
        envelope: dict[str, Any] = {"v": 1, "outputs": list(request.outputs), **request.context}
        if request.frames:
            envelope["inputs"] = True
        if request.output_limit is not None:
            envelope["output_limit"] = request.output_limit
        if request.comms:
            envelope["comms"] = True
        if (threads := self._threads()) is not None:
            envelope["threads"] = threads
        if request.seed is not None:
            envelope["seed"] = request.seed
        if request.execution_count is not None:
            envelope["execution_count"] = request.execution_count
        if request.lease is not None or request.isolation == "none":
            envelope["keep"] = True
            envelope["scope"] = request.lease or "none"
        return envelope

    def _threads(self) -> int | None:
        """How many native threads a request gets that starts now."""
        wanted = self.config.threads_per_worker
        if wanted != "auto":
            return None if wanted is None else int(wanted)
        if self.surroundings.bounds_threads:
            return None
        return max(1, self._cpus // max(1, self.core.taken))

    def baseline(self) -> dict[str, Any]:
        """What a new worker is told first."""
        return self.surroundings.baseline()

    def landed(self, flight: Flight) -> None:
        """A link's request has its reply and its idle status."""
        assert flight.request is not None
        if flight.request.id in self.requests:
            self._flights[flight.request.id] = flight

    def _dispatch(self, command: Dispatch) -> None:
        request = self.requests[str(command.request_id)]
        previous, request.worker_id = request.worker_id, command.worker_id
        request.attempt = command.attempt
        if LOGGER.isEnabledFor(logging.DEBUG):
            self.log(logging.DEBUG, "request goes to worker %d", command.worker_id, request=request)
        first = request.first_dispatched is None
        if first and not request.sink.granted(command.worker_id):
            self.engine.janitor.clear(request)
            request.blank()
        if not request.is_lease:
            self._send(self.links[command.worker_id], request, command.riders)
        if first:
            self._note_wait(request)
        self.teller.dispatched(request, previous)
        if self.memory is not None:
            self._watch_memory(command.worker_id)

    def _send(self, link: Link, request: Request, riders: Riders) -> None:
        """Send a request; a call that may ride with those that ride along, and if none does, in a way
        that tells how long it took, if others may want to.
        """
        together = request.pace is not None and link.can_ride(request)
        if together and (riders or self.core.queue_length):
            link.ride([request, *self._boarding(link.worker_id, riders)], first=True)
            return
        link.run(request)
        if riders:
            self._ride(Ride(link.worker_id, riders))

    def _ride(self, command: Ride) -> None:
        link = self.links[command.worker_id]
        requests = self._boarding(link.worker_id, command.riders)
        if requests and all(map(link.can_ride, requests)):
            link.ride(requests)
        elif requests:
            self._pending.append(
                GivenBack(link.worker_id, tuple(request.id for request in requests))
            )

    def _boarding(self, worker_id: int, riders: Riders) -> list[Request]:
        """The requests that ride along, but for those that were given up in the last moment."""
        boarding = []
        logged = LOGGER.isEnabledFor(logging.DEBUG)
        for request_id, attempt in riders:
            request = self.requests[str(request_id)]
            previous, request.worker_id = request.worker_id, worker_id
            request.attempt = attempt
            if logged:
                self.log(logging.DEBUG, "request goes to worker %d", worker_id, request=request)
            if request.first_dispatched is None:
                if not request.sink.granted(worker_id):
                    self._pending += (Cancel(request.id), GivenBack(worker_id, (request.id,)))
                    continue
                self._note_wait(request)
            self.teller.dispatched(request, previous)
            boarding.append(request)
        return boarding

    def _note_wait(self, request: Request) -> None:
        """It has got a worker."""
        request.first_dispatched = time.monotonic()
        if not request.is_lease:
            self.accounting.waits.add(request.first_dispatched - request.created)

    def _take_back(self, command: TakeBack) -> None:
        self.links[command.worker_id].take_back()

    def _interrupt(self, command: Interrupt) -> None:
        request = self.requests.get(str(command.request_id))
        self.links[command.worker_id].interrupt(request)

    def _reset(self, command: Reset) -> None:
        self.links[command.worker_id].reset()

    def _set_up(self, command: SetUp) -> None:
        self.links[command.worker_id].prepare()

    def _finish(self, command: Finish) -> None:
        request = self.requests.pop(str(command.request_id))
        if self.memory is not None and command.worker_id is not None:
            self._watch_memory(command.worker_id)
            if request.comms and (link := self.links.get(command.worker_id)) is not None:
                link.traffic.end(request)
        flight = self._flights.pop(request.id, None)
        if flight is None and command.worker_id is not None:
            flight = self._unfinished_flight(command.worker_id, request)
        now = time.monotonic()
        well = went_well(command, flight)
        completion = Completion(
            request,
            self.name,
            command.outcome,
            flight.collector if flight else None,
            flight.reply if flight else None,
            None if well else self._reason(command),
            command.clean,
            now,
            {} if well else self._facts(command),
            flight.marks if flight else None,
        )
        self._count(completion, ok=well)
        if not well or request.traces or self.hub.wanted:
            self.teller.ended(completion)
        if not well or LOGGER.isEnabledFor(logging.DEBUG):
            self._log_end(completion)
        self.engine.janitor.clear(request)
        request.sink.finish(completion)
        self.activity.ended(completion)

    def _log_end(self, completion: Completion) -> None:
        request, outcome = completion.request, completion.outcome
        held = request.is_lease and request.first_dispatched is not None
        if held and outcome is Outcome.CANCELLED and request.borrower:
            self.log(
                logging.WARNING,
                "worker %s was taken back from a lease. Borrowed at (most recent call last):",
                request.worker_id,
                request=request,
                stack=request.borrower.stack(source=False),
            )
        self.log(logging.DEBUG, "request ended: %s", outcome.value, request=request)

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

    def _unfinished_flight(self, worker_id: int, request: Request) -> Flight | None:
        """What a request that ended without an answer had put out."""
        link = self.links.get(worker_id)
        flight = None if link is None else link.flight_of(request)
        if flight is None:
            return None
        self.engine.forget(flight.message_id)
        return flight

    def _reason(self, command: Finish) -> object:
        """Why, as well as it is known by now."""
        if command.reason is START_TIMED_OUT:
            # The worker is only about to be killed, but what it said is there.
            return StartFailure(
                None,
                None,
                self._words_of_starting(),
                timed_out=True,
                setup=next(
                    filter(None, map(partial(hanging_setup, self), self.links.values())), None
                ),
            )
        link = self.links.get(command.worker_id or 0)
        exited = link.exited if link is not None else None
        if isinstance(command.reason, Excess) and exited is not None:
            return replace(command.reason, stderr=exited.stderr)
        if command.reason is None and not command.clean:
            return exited
        return command.reason

    def _words_of_starting(self) -> str:
        said = [
            bytes(link.process.stderr).decode("utf-8", "replace")
            for link in self.links.values()
            if not link.ready and link.process is not None
        ]
        return next((words for words in reversed(said) if words), "")

    def _facts(self, command: Finish) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "queued": self.core.queue_length,
            "busy": busy_workers(self),
        }
        if command.outcome is Outcome.CHECKOUT_TIMEOUT:
            facts["leases"] = self._leases()
        if command.outcome is Outcome.START_FAILED:
            facts["start_timeout"] = self.config.start_timeout
            now = breaker(self)
            facts["breaker"], facts["next_probe"] = now.state, now.next_probe
        if command.outcome is Outcome.WORKER_DIED and self._oom.happened():
            facts["out_of_memory"] = True
        return facts

    def _leases(self) -> list[str]:
        """Where the leases were taken that hold workers now."""
        ids = [record.lease_id for record in self.core.workers.values()]
        holders = [self.requests.get(str(lease)) for lease in ids if lease is not None]
        return [str(holder.borrower) for holder in holders if holder and holder.borrower]

    def _count(self, completion: Completion, *, ok: bool) -> None:
        request = completion.request
        busy = 0.0
        if request.first_dispatched is not None:
            busy = completion.finished - request.first_dispatched
        if not request.is_lease:
            if completion.outcome is not Outcome.DONE or completion.reply is None:
                outcome = completion.outcome.value
            else:
                outcome = "ok" if ok else "failed"
            self.accounting.outcomes[outcome] += 1
            if request.first_dispatched is not None:
                self.accounting.runs.add(busy)
        if request.program is not None:
            request.program.count(ok=ok)
        if request.session_id is not None and not request.is_lease:
            self.accounting.sessions.count(
                request.session_id, ok=ok, busy=busy, worker_id=request.worker_id
            )
            self._watch_sessions()

    # -- workers -----------------------------------------------------------------------------

    def start_refused(self, link: Link, content: dict[str, Any]) -> None:
        """The probe of a new worker failed: it runs but it does not work."""
        assert link.process is not None
        link.refusal = (
            f"it started, but could not execute: {content.get('ename')}: {content.get('evalue')}"
        )
        self.launcher.stop(link.process, kill=True)

    def setup_failed(self, link: Link, error: WorkerStartError) -> None:
        """A setup that is to stay went wrong: the worker goes, by a failed start if it is starting."""
        if link.ready:
            self.feed(SetUpDone(link.worker_id, "its setup failed"))
            return
        assert link.process is not None
        link.setup_failure = error
        self.launcher.stop(link.process, kill=True)

    # -- memory ------------------------------------------------------------------------------

    def _watch_memory(self, worker_id: int) -> None:
        """Somebody has got a worker, or has it no more."""
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

    def _degraded(self, command: Degraded) -> None:
        self.degraded_by = command.reason
        self.log(logging.ERROR, "degraded: its workers keep failing to start")
        self.teller.pool("pool_degraded", cause=degraded_reason(self))

    def _recovered(self, command: Recovered) -> None:
        self.degraded_by = None
        self.log(logging.INFO, "recovered")
        self.teller.pool("pool_recovered")

    def _breaker_moved(self, command: BreakerMoved) -> None:
        data: dict[str, Any] = {}
        if command.state is Breaker.OPEN:
            self.degraded_by = command.reason
            retry_at = self.core.breaker[2]
            data["cause"] = degraded_reason(self)
            data["next_probe"] = max(0.0, retry_at - time.monotonic())
        self.teller.breaker(command.state, **data)

    def _closed(self, command: Closed) -> None:
        self.engine.remove(self)
        self._end()

    def abort(self) -> None:
        """The I/O thread has failed: nobody may be left waiting."""
        for request in list(self.requests.values()):
            self._finish(Finish(request.id, Outcome.CLOSED, request.worker_id))
        self._end()

    def _end(self) -> None:
        if self.memory is not None:
            self.memory.close()
        self.programs.clear()
        self.setups.close()
        self.puts.close()
        self.hub.finish()
        self.closed.set()

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

    def when_ready(self, answer: Callable[[PoolError | None], None]) -> None:
        """Answer once as many workers are ready as were to be started, or cannot be."""
        self._waiting_for_ready.append(answer)
        self._answer_ready(None)

    def _answer_ready(self, failure: object) -> None:
        if not self._waiting_for_ready:
            return
        counts = self.core.counts()
        error: PoolError | None = None
        if self.core.state in (PoolState.CLOSING, PoolState.CLOSED):
            error = PoolNotAvailable(f"pool {self.name!r} is closed", context={"pool": self.name})
        elif failure is not None and not counts.get(WorkerState.STARTING):
            error = start_error(failure, self.config.start_timeout, {"pool": self.name})
        elif not self._is_complete():
            return
        waiting, self._waiting_for_ready = self._waiting_for_ready, []
        for answer in waiting:
            answer(error)

    def _is_complete(self) -> bool:
        counts, config = self.core.counts(), self.core.config
        ready = sum(counts.get(state, 0) for state in (*SEATED, WorkerState.STANDBY))
        return ready >= (0 if config.lazy else config.size) + config.reserve

    def health_check(self, timeout: float, answer: Callable[[HealthReport], None]) -> None:
        """Have every idle worker answer within `timeout` seconds, then report."""
        HealthCheck(self, list(self.links.values()), timeout, answer)


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


def went_well(command: Finish, flight: Flight | None) -> bool:
    """Whether no error will have to be explained."""
    reply = flight.reply if flight is not None else None
    return command.outcome is Outcome.DONE and (reply is None or succeeded(reply))


def _left(deadline: float | None) -> float:
    return math.inf if deadline is None else max(0.0, deadline - time.monotonic())


def _core_config(config: PoolConfig, *, foreign: bool) -> CoreConfig:
    # A kernel that we cannot reset is stateless by being replaced, with a spare warmed meanwhile.
    replaced = config.isolation == "process" or (foreign and config.isolation != "none")
    return CoreConfig(
        size=config.size,
        overflow=config.overflow,
        lazy=config.lazy,
        reserve=max(config.reserve, 1) if replaced else config.reserve,
        max_waiting=config.max_waiting,
        max_tasks=config.max_tasks,
        max_lifetime=config.max_lifetime,
        max_idle=config.max_idle,
        interrupt_grace=config.interrupt_grace,
        start_timeout=config.start_timeout,
        replace_after_request=replaced,
    )


_CARRY_OUT: dict[type[Command], Callable[[Driver, Any], None]] = {
    StartWorker: start_worker,
    StopWorker: stop_worker,
    Dispatch: Driver._dispatch,
    Ride: Driver._ride,
    TakeBack: Driver._take_back,
    Interrupt: Driver._interrupt,
    Reset: Driver._reset,
    SetUp: Driver._set_up,
    Finish: Driver._finish,
    Degraded: Driver._degraded,
    Recovered: Driver._recovered,
    BreakerMoved: Driver._breaker_moved,
    Closed: Driver._closed,
}
