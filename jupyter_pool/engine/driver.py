"""One pool on the I/O thread: feeds its core with events and carries out its commands.

submit, cancel, …  ─┐                  ┌─▶ StartWorker  launcher
worker's messages  ─┼─▶ core.handle ───┼─▶ Dispatch     link.run → execute_request
launcher's news    ─┤                  ├─▶ Interrupt    link.interrupt → SIGINT
time               ─┘                  └─▶ Finish       request.sink.finish
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jupyter_pool.config import PoolConfig
from jupyter_pool.core import (
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
    Interrupt,
    Outcome,
    PoolCore,
    PoolState,
    Recovered,
    Reset,
    Resize,
    RestartWorker,
    ReturnLease,
    Start,
    StartWorker,
    StopReason,
    StopWorker,
    Submit,
    SubmitInLease,
    Tick,
    WorkerDied,
    WorkerStartFailed,
    WorkerState,
    WorkerStopped,
)
from jupyter_pool.core.state import SEATED
from jupyter_pool.errors import PoolError, PoolNotAvailable
from jupyter_pool.provisioning.launcher import Exited, Launched, LaunchSpec
from jupyter_pool.provisioning.processes import describe_exit
from jupyter_pool.reports import HealthReport, PoolStats, PoolStatus, SessionInfo, WorkerInfo
from jupyter_pool.results import WaitInfo

from .accounting import Accounting
from .health import HealthCheck
from .link import Flight, Link
from .memory import OomWatch
from .request import Completion, Request
from .settle import start_error
from .surroundings import Surroundings

if TYPE_CHECKING:
    from .loop import Engine

_log = logging.getLogger("jupyter_pool")

#: How long the last words of a dead worker may still be on their way, in seconds.
LAST_WORDS = 0.01

_KILLS = {
    StopReason.TIMED_OUT,
    StopReason.CANCELLED,
    StopReason.START_TIMEOUT,
    StopReason.PROTOCOL,
    StopReason.RESET_FAILED,
    StopReason.RESTARTED,
}

_serials = itertools.count(1)


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why a worker did not become ready: as the launcher knows it, or because time was up."""

    error: str | None
    status: int | None
    stderr: str
    timed_out: bool = False


class Driver:
    """A pool's life on the I/O thread. Only `post`-ed calls may touch it from outside."""

    def __init__(self, engine: Engine | None, name: str, config: PoolConfig) -> None:
        # Without an engine it can only be asked: it stands for a pool that has not started.
        if engine is not None:
            self.engine = engine
            self.launcher = engine.launcher
        self.name = name
        self.serial = next(_serials)
        self.config = config
        self.foreign = config.kernel_name is not None
        self.surroundings = Surroundings(config.cwd, config.env)
        self.core = PoolCore(_core_config(config, foreign=self.foreign))
        self.accounting = Accounting(config.session_ttl, config.max_sessions)
        self.closed = threading.Event()
        self._links: dict[int, Link] = {}
        self._requests: dict[str, Request] = {}
        self._flights: dict[str, Flight] = {}
        self._pending: deque[Event] = deque()
        self._feeding = False
        self._degraded_by: object = None
        self._waiting_for_ready: list[Callable[[PoolError | None], None]] = []
        self._oom = OomWatch()

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
                    _CARRY_OUT[type(command)](self, command)
                self._answer_ready(event.reason if isinstance(event, WorkerStartFailed) else None)
        finally:
            self._feeding = False

    def next_deadline(self) -> float | None:
        """When the core wants to be told that time has passed."""
        return self.core.next_deadline()

    def tick(self, now: float) -> None:
        """Tell the core, if that time has come."""
        deadline = self.core.next_deadline()
        if deadline is not None and deadline <= now:
            self.feed(Tick())

    # -- requests ----------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take in a request; its sink gets exactly one end, whatever happens."""
        self._requests[request.id] = request
        if self.accounting.started_at is None:
            self.accounting.started_at = time.monotonic()
        if request.session_id is not None:
            self.accounting.sessions.touch(request.session_id)
        if request.lease is not None:
            self.feed(SubmitInLease(request.id, request.lease, request.timeout))
        else:
            self.feed(
                Submit(
                    request.id,
                    request.group,
                    request.checkout_deadline,
                    request.timeout,
                    request.retries,
                    request.is_lease,
                    request.isolation,
                )
            )

    def cancel(self, request_id: str) -> None:
        """Give up a request; unknown ids are requests that have ended."""
        self.feed(Cancel(request_id))

    def cancel_soon(self, request_id: str) -> None:
        """`cancel`, from any thread."""
        self.engine.post(lambda: self.cancel(request_id))

    def return_lease(self, lease_id: str) -> None:
        """The holder of a lease is done with it."""
        self.feed(ReturnLease(lease_id))

    def envelope(self, request: Request) -> dict[str, Any]:
        """What our kernel is told beside the code."""
        envelope: dict[str, Any] = {"v": 1, "outputs": list(request.outputs), **request.context}
        if request.frames:
            envelope["inputs"] = True
        if request.seed is not None:
            envelope["seed"] = request.seed
        if request.execution_count is not None:
            envelope["execution_count"] = request.execution_count
        if request.lease is not None or request.isolation == "none":
            envelope["keep"] = True
        return envelope

    def baseline(self) -> dict[str, Any]:
        """What a new worker is told first."""
        return self.surroundings.baseline()

    def landed(self, flight: Flight) -> None:
        """A link's request has its reply and its idle status."""
        assert flight.request is not None
        if flight.request.id in self._requests:
            self._flights[flight.request.id] = flight

    def _dispatch(self, command: Dispatch) -> None:
        request = self._requests[str(command.request_id)]
        request.worker_id = command.worker_id
        request.attempt = command.attempt
        if not request.is_lease:
            self._links[command.worker_id].run(request)
        if request.first_dispatched is None:
            request.first_dispatched = time.monotonic()
            self.accounting.waits.add(request.first_dispatched - request.created)
            request.sink.granted(command.worker_id)

    def _interrupt(self, command: Interrupt) -> None:
        self._links[command.worker_id].interrupt()

    def _reset(self, command: Reset) -> None:
        self._links[command.worker_id].reset()

    def _finish(self, command: Finish) -> None:
        request = self._requests.pop(str(command.request_id))
        flight = self._flights.pop(request.id, None)
        if flight is None and command.worker_id is not None:
            flight = self._unfinished_flight(command.worker_id, request)
        now = time.monotonic()
        completion = Completion(
            request,
            self.name,
            command.outcome,
            flight.collector if flight else None,
            flight.reply if flight else None,
            self._reason(command),
            command.clean,
            now,
            self._facts(command),
        )
        self._count(completion)
        request.sink.finish(completion)

    def _unfinished_flight(self, worker_id: int, request: Request) -> Flight | None:
        """What a request that ended without an answer had put out."""
        link = self._links.get(worker_id)
        if link is None or link.flight is None or link.flight.request is not request:
            return None
        flight = link.flight
        self.engine.forget(flight.message_id)
        return flight

    def _reason(self, command: Finish) -> object:
        """For a request that ended with its worker, how the worker ended."""
        if command.reason is None and not command.clean and command.worker_id is not None:
            link = self._links.get(command.worker_id)
            return link.exited if link is not None else None
        return command.reason

    def _facts(self, command: Finish) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "queued": self.core.queue_length,
            "busy": self.core.counts().get(WorkerState.BUSY, 0),
        }
        if command.outcome is Outcome.START_FAILED:
            facts["start_timeout"] = self.config.start_timeout
        if command.outcome is Outcome.WORKER_DIED and self._oom.happened():
            facts["out_of_memory"] = True
        return facts

    def _count(self, completion: Completion) -> None:
        request = completion.request
        ok = completion.outcome is Outcome.DONE and not (
            completion.reply is not None and completion.reply.content.get("status") != "ok"
        )
        outcome = (
            "failed"
            if completion.outcome is Outcome.DONE and not ok
            else ("ok" if ok else completion.outcome.value)
        )
        busy = 0.0
        if request.first_dispatched is not None:
            busy = completion.finished - request.first_dispatched
        if not request.is_lease:
            self.accounting.outcomes[outcome] += 1
            if request.first_dispatched is not None:
                self.accounting.runs.add(busy)
        if request.session_id is not None and not request.is_lease:
            self.accounting.sessions.count(
                request.session_id, ok=ok, busy=busy, worker_id=request.worker_id
            )

    # -- workers -----------------------------------------------------------------------------

    def _start_worker(self, command: StartWorker) -> None:
        link = Link(self, command.worker_id, foreign=self.foreign)
        self._links[link.worker_id] = link
        self.accounting.workers_started += 1
        if self.accounting.started_at is None:
            self.accounting.started_at = time.monotonic()
        cwd = self.surroundings.cwd
        spec = LaunchSpec(
            self.config.kernel_name,
            cwd if os.path.isdir(cwd) else os.path.expanduser("~"),
            self.surroundings.env,
        )

        def post(news: Launched | Exited) -> None:
            self.engine.post(partial(self._heard, link, news))

        link.process = self.launcher.start(f"w{command.worker_id}-{self.serial}", spec, post)

    def _heard(self, link: Link, news: Launched | Exited) -> None:
        if isinstance(news, Launched):
            link.connect(news)
        else:
            link.exited = news
            self.engine.after(LAST_WORDS if link.flight else 0.0, partial(self._gone, link))

    def _gone(self, link: Link) -> None:
        """A worker's process has ended, and what it said last is read."""
        exited = link.exited
        assert exited is not None
        worker_id = link.worker_id
        if not link.ready and link.stop in (None, StopReason.START_TIMEOUT):
            timed_out = link.stop is not None
            self._note_start_failure(link, exited, timed_out)
            self.feed(
                WorkerStartFailed(
                    worker_id,
                    StartFailure(exited.error, exited.status, exited.stderr, timed_out),
                )
            )
        elif link.stop is not None:
            self.feed(WorkerStopped(worker_id))
        else:
            exitcode, signal = describe_exit(exited.status)
            cause = signal or ("unknown" if exitcode is None else f"exit code {exitcode}")
            self.accounting.lost[cause] += 1
            _log.warning(
                "pool %s: worker %d (pid %s) died: %s", self.name, worker_id, _pid(link), cause
            )
            self.feed(WorkerDied(worker_id, exited))
        link.close()
        del self._links[worker_id]

    def _note_start_failure(self, link: Link, exited: Exited, timed_out: bool) -> None:
        self.accounting.lost["start timed out" if timed_out else "failed to start"] += 1
        last = exited.stderr.strip().splitlines()[-1:]
        _log.warning(
            "pool %s: worker %d did not start: %s",
            self.name,
            link.worker_id,
            exited.error or (last[0] if last else f"exit status {exited.status}"),
        )

    def start_refused(self, link: Link, content: dict[str, Any]) -> None:
        """The probe of a new worker failed: it runs but it does not work."""
        assert link.process is not None
        link.process.stderr += (
            f"the probe failed: {content.get('ename')}: {content.get('evalue')}\n".encode()
        )
        self.launcher.stop(link.process, kill=True)

    def _stop_worker(self, command: StopWorker) -> None:
        link = self._links[command.worker_id]
        link.stop = command.why
        assert link.process is not None
        if command.why in _KILLS:
            self.accounting.killed[command.why.value] += 1
        elif command.why is StopReason.RECYCLED:
            self.accounting.recycled[command.detail or command.why.value] += 1
        elif command.why is StopReason.DRAINED:
            self.accounting.recycled[command.why.value] += 1
        running = link.flight is not None and link.ready
        if not command.kill:
            link.shut_down()
        self.launcher.stop(
            link.process,
            kill=command.kill,
            dump=command.kill and running and not self.foreign,
        )

    # -- the pool ----------------------------------------------------------------------------

    def _degraded(self, command: Degraded) -> None:
        self._degraded_by = command.reason
        _log.error("pool %s is degraded: its workers keep failing to start", self.name)

    def _recovered(self, command: Recovered) -> None:
        self._degraded_by = None
        _log.info("pool %s has recovered", self.name)

    def _closed(self, command: Closed) -> None:
        self.engine.remove(self)
        self.closed.set()

    def close(self, *, cancel_queued: bool, cancel_running: bool) -> None:
        """Begin to close, or close harder."""
        self.feed(Close(cancel_queued, cancel_running))

    def resize(self, size: int | None, overflow: int | None) -> None:
        """Change how many workers there are."""
        self.feed(Resize(size, overflow))

    def drain(self) -> None:
        """Replace every worker when it is free."""
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
        HealthCheck(self, list(self._links.values()), timeout, answer)

    # -- questions ---------------------------------------------------------------------------

    def wait_info(self, request: Request) -> WaitInfo:
        """Why a request still waits."""
        counts = self.core.counts()
        starting = counts.get(WorkerState.STARTING, 0)
        idle = counts.get(WorkerState.IDLE, 0)
        busy = sum(
            counts.get(state, 0)
            for state in (WorkerState.BUSY, WorkerState.LEASED, WorkerState.INTERRUPTING)
        )
        if request.first_dispatched is not None:
            state = "running"
        else:
            state = "starting" if starting and not busy and not idle else "queued"
        return WaitInfo(
            state=state,  # type: ignore[arg-type]
            elapsed=time.monotonic() - request.created,
            starting=starting,
            busy=busy,
            idle=idle,
            ahead=self.core.queue_position(request.id) or 0,
        )

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Every worker there is, by id."""
        shift = time.time() - time.monotonic()
        found = []
        for worker_id, record in sorted(self.core.workers.items()):
            link = self._links.get(worker_id)
            request = self._requests.get(
                str(record.lease_id if record.request_id is None else record.request_id)
            )
            found.append(
                WorkerInfo(
                    id=worker_id,
                    pid=_pid(link) if link else None,
                    state=record.state.value,
                    request_id=request.id if request else None,
                    session_id=request.session_id if request else None,
                    since=record.since + shift,
                    served=record.served,
                    started_at=record.started_at + shift,
                    overflow=record.overflow,
                )
            )
        return tuple(found)

    def status(self) -> PoolStatus:
        """The pool at this moment."""
        reason: str | None = None
        if self.core.state is PoolState.DEGRADED:
            failure = self._degraded_by
            last = str(getattr(failure, "stderr", "")).strip().splitlines()[-1:]
            reason = getattr(failure, "error", None) or (last[0] if last else "starts keep failing")
        return PoolStatus(
            name=self.name,
            state=self.core.state.value,
            config={**self.config.as_dict(), "name": self.name},
            workers=self.workers(),
            queue_length=self.core.queue_length,
            overflow_in_use=self.core.overflow_in_use,
            reason=reason,
        )

    def stats(self, *, pop: bool = False) -> PoolStats:
        """The counters; with `pop` they begin anew."""
        counters = self.accounting
        uptime = 0.0
        if counters.started_at is not None:
            uptime = time.monotonic() - counters.started_at
        stats = PoolStats(
            name=self.name,
            uptime=uptime,
            workers={state.value: count for state, count in self.core.counts().items() if count},
            requests=dict(counters.outcomes),
            queued=self.core.queue_length,
            queue_high_water=self.core.high_water,
            overflow_in_use=self.core.overflow_in_use,
            waits=counters.waits.summary(),
            runs=counters.runs.summary(),
            workers_started=counters.workers_started,
            workers_lost=dict(counters.lost),
            workers_killed=dict(counters.killed),
            workers_recycled=dict(counters.recycled),
        )
        if pop:
            counters.reset()
        return stats

    def sessions(self) -> dict[str, SessionInfo]:
        """The tracked sessions by id."""
        return self.accounting.sessions.snapshot()


def _pid(link: Link) -> int | None:
    return link.launched.pid if link.launched is not None else None


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
    StartWorker: Driver._start_worker,
    StopWorker: Driver._stop_worker,
    Dispatch: Driver._dispatch,
    Interrupt: Driver._interrupt,
    Reset: Driver._reset,
    Finish: Driver._finish,
    Degraded: Driver._degraded,
    Recovered: Driver._recovered,
    Closed: Driver._closed,
}
