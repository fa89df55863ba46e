"""One pool's state machine: `handle(event, now) -> commands`, and nothing else.

    engine ── events ──▶ PoolCore ── commands ──▶ engine
                            ├─ desk     the requests: the queue, what runs, what is leased
                            ├─ staff    the workers: how many, and what becomes of each
                            └─ timers   all deadlines; the engine sends `Tick` at the next

No I/O, no clock, no threads, no randomness: the same events at the same times give the same commands.
Each handler is one clause: first what must be so for the event to mean anything, then what changes.
After each, `_settle` gives free workers to waiters, starts workers that are missing, and winds down
what is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from . import events as ev
from .commands import START_TIMED_OUT, Breaker, Closed, Command, Outcome, StopReason
from .desk import Desk
from .events import RequestId, WorkerId
from .staff import Staff, mark_for_replacement
from .state import (
    CoreConfig,
    LeaseRecord,
    PoolState,
    RequestState,
    WorkerRecord,
    WorkerState,
)
from .timers import TimerKind, Timers

__all__ = ["PoolCore"]


class PoolCore:
    """The state of one pool. All times are seconds on one monotonic clock."""

    def __init__(self, config: CoreConfig) -> None:
        self._out: list[Command] = []
        self._timers = Timers()
        self._staff = Staff(config, self._timers, self._out)
        self._desk = Desk(self._staff, self._timers, self._out)
        self._workers = self._staff.roster.records
        self._phase = PoolState.NEW
        self._high_water = 0

    # --- the engine's whole interface ----------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take note of an event and of all deadlines reached; return what is to be done, in order.

        Late and duplicate events are ignored. Raises ValueError only for a `Resize` to figures that
        no pool could work with; nothing is changed or lost by that.
        """
        timers = self._timers
        if now >= timers.not_before:
            self._fire_timers(now)
        _CLAUSES[type(event)](self, event, now)
        self._settle(now)
        if now >= timers.not_before:
            self._fire_timers(now)
        if not self._ending:
            self._staff.watch_breaker(now)
        commands = self._out[:]
        self._out.clear()
        return commands

    def next_deadline(self) -> float | None:
        """When to send `Tick` if no other event comes before. Always later than the last event."""
        return self._timers.next()

    @property
    def quiet_until(self) -> float:
        """No deadline is before this. Cheaper than `next_deadline`, and sometimes too early."""
        return self._timers.not_before

    # --- views ---------------------------------------------------------------------------------

    @property
    def config(self) -> CoreConfig:
        """The options, as they are now."""
        return self._staff.config

    @property
    def state(self) -> PoolState:
        """What the pool as a whole is up to."""
        if self._phase is PoolState.RUNNING and self._staff.supervision.degraded:
            return PoolState.DEGRADED
        return self._phase

    @property
    def workers(self) -> Mapping[WorkerId, WorkerRecord]:
        """All workers whose process may exist, by id. Live: look, do not keep."""
        return MappingProxyType(self._workers)

    @property
    def queue_length(self) -> int:
        """How many requests wait for a worker."""
        return len(self._desk.queue)

    @property
    def breaker(self) -> tuple[Breaker, float, float]:
        """Its state, since when, and when the next start may be tried if it is open."""
        supervision = self._staff.supervision
        return supervision.breaker, supervision.breaker_since, supervision.retry_at

    @property
    def set_aside(self) -> tuple[RequestId, ...]:
        """Of those that wait, who waits for a worker that has served nobody, next first. O(them)."""
        return tuple(self._desk.queue.aside)

    @property
    def high_water(self) -> int:
        """The longest that the queue has been."""
        return self._high_water

    @property
    def overflow_in_use(self) -> int:
        """How many workers serve beyond `size`."""
        return max(0, self._staff.roster.seated - self.config.size)

    def counts(self) -> dict[WorkerState, int]:
        """How many workers are in each state; every state but `GONE` is there."""
        count = self._staff.roster.count
        return {state: count(state) for state in WorkerState if state is not WorkerState.GONE}

    def count(self, state: WorkerState) -> int:
        """How many workers are in one state."""
        return self._staff.roster.count(state)

    @property
    def taken(self) -> int:
        """How many workers have a request or a lease, or one that is being interrupted.

        Without those that are held on sufferance, which are as good as idle.
        """
        return self._staff.roster.taken - len(self._desk.lingering)

    def queue_position(self, request_id: RequestId) -> int | None:
        """How many are ahead of it, 0 for the next; `None` if it waits for no worker. O(waiters)."""
        request = self._desk.requests.get(request_id)
        if request is None or request not in self._desk.queue:
            return None
        return self._desk.queue.position(request)

    def __repr__(self) -> str:
        by_state = dict.fromkeys(RequestState, 0)
        for request in self._desk.requests.values():
            by_state[request.state] += 1
        workers, requests = (
            ", ".join(f"{n} {state.value}" for state, n in counts.items() if n) or "none"
            for counts in (self.counts(), by_state)
        )
        return f"<PoolCore {self.state.value} [Workers: {workers} | Requests: {requests}]>"

    # --- before and after every clause ---------------------------------------------------------

    def _fire_timers(self, now: float) -> None:
        while (due := self._timers.pop_due(now)) is not None:
            kind, subject = due
            _DEADLINES[kind](self, subject, now)
            self._settle(now)

    def _settle(self, now: float) -> None:
        desk, staff = self._desk, self._staff
        if self._phase is PoolState.CLOSING and not desk.requests:
            self._wind_down(now)
        elif self._phase is PoolState.RUNNING or self._phase is PoolState.CLOSING:
            if desk.lingering:
                desk.review_lingering(now)
            desk.serve(now)
            waiting = len(desk.queue)
            self._high_water = max(self._high_water, waiting)
            staff.fill(waiting, now)

    def _wind_down(self, now: float) -> None:
        for worker in list(self._workers.values()):
            self._staff.stop(worker, StopReason.CLOSED, now)
        if not self._workers:
            self._phase = PoolState.CLOSED
            self._timers.clear()
            self._out.append(Closed())

    # --- requests ------------------------------------------------------------------------------

    def _submit(self, event: ev.Submit, now: float) -> None:
        if event.request_id in self._desk.requests:
            return
        if self._ending:
            self._desk.refuse(event.request_id, Outcome.CLOSED)
            return
        self._open()
        self._desk.submit(event)

    def _submit_all(self, event: ev.SubmitAll, now: float) -> None:
        for submit in event.submits:
            self._submit(submit, now)
            if self.config.max_waiting:
                self._settle(now)  # who is let in depends on who waits by then

    def _submit_in_lease(self, event: ev.SubmitInLease, now: float) -> None:
        if event.request_id in self._desk.requests:
            return
        if self._ending and event.lease_id not in self._desk.requests:
            self._desk.refuse(event.request_id, Outcome.CLOSED)
            return
        self._desk.submit_in_lease(event, now)

    def _return_lease(self, event: ev.ReturnLease, now: float) -> None:
        lease = self._desk.requests.get(event.lease_id)
        if not isinstance(lease, LeaseRecord):
            return
        if lease.state is RequestState.QUEUED:
            self._desk.withdraw(lease, Outcome.CANCELLED)
        else:
            self._desk.end_lease(lease, Outcome.DONE, now, discard=event.discard)

    def _cancel(self, event: ev.Cancel, now: float) -> None:
        if event.request_id in self._desk.requests:
            self._end_early(event.request_id, Outcome.CANCELLED, now)

    def _checkout_deadline(self, request_id: RequestId, now: float) -> None:
        self._desk.withdraw(self._desk.requests[request_id], Outcome.CHECKOUT_TIMEOUT)

    def _run_deadline(self, request_id: RequestId, now: float) -> None:
        self._end_early(request_id, Outcome.OPERATION_TIMEOUT, now)

    def _end_early(self, request_id: RequestId, outcome: Outcome, now: float) -> None:
        request = self._desk.requests[request_id]
        if request.state is RequestState.QUEUED:
            self._desk.withdraw(request, outcome)
        elif request.state is RequestState.RIDING:
            self._desk.unwant_rider(request, outcome)
        elif isinstance(request, LeaseRecord):
            self._desk.end_lease(request, outcome, now)
        else:
            self._desk.interrupt(request, outcome, now)

    def _request_started(self, event: ev.RequestStarted, now: float) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None:
            return
        if worker.request_id == event.request_id:
            self._desk.requests[event.request_id].started = True
        elif not self._desk.rider_started(worker, event.request_id):
            return
        self._staff.proved(worker)

    def _request_done(self, event: ev.RequestDone, now: float) -> None:
        worker = self._runner(event)
        if worker is None:
            if event.lease is not None and event.lease not in self._desk.requests:
                self._desk.refuse(event.lease, Outcome.DONE)
            return
        self._staff.proved(worker)
        self._note_recycle(worker, event.recycle)
        self._desk.done(event, worker, now, stays=not self._ending)

    def _occupied(self, event: ev.Occupied, now: float) -> None:
        self._desk.lingering.occupy(event.lease_id, event.occupied)

    def _requests_done(self, event: ev.RequestsDone, now: float) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is not None and self._desk.all_done(worker, event, now):
            self._staff.proved(worker)

    def _given_back(self, event: ev.GivenBack, now: float) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is not None:
            self._desk.given_back(worker, event.request_ids, now)

    def _request_refused(self, event: ev.RequestRefused, now: float) -> None:
        worker = self._runner(event)
        if worker is None:
            return
        self._staff.proved(worker)
        self._note_recycle(worker, event.reason)
        self._desk.refused(self._desk.requests[event.request_id], worker, now)

    def _runner(self, event: ev.RequestDone | ev.RequestRefused) -> WorkerRecord | None:
        """The worker that has answered, if it is not too late: it may be being killed for it."""
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.request_id != event.request_id:
            return None
        return None if worker.state is WorkerState.STOPPING else worker

    def _interrupt_delivered(self, event: ev.InterruptDelivered, now: float) -> None:
        if worker := self._worker(event.worker_id, WorkerState.INTERRUPTING):
            self._desk.interrupt_delivered(worker, now)

    def _grace_over(self, worker_id: WorkerId, now: float) -> None:
        worker = self._workers[worker_id]
        why = worker.interrupted_for
        assert why is not None
        self._desk.kill(worker, why, Outcome.WORKER_DIED, why, now)

    # --- workers -------------------------------------------------------------------------------

    def _worker_ready(self, event: ev.WorkerReady, now: float) -> None:
        if worker := self._worker(event.worker_id, WorkerState.STARTING):
            self._staff.ready(worker, len(self._desk.queue), now)

    def _start_deadline(self, worker_id: WorkerId, now: float) -> None:
        worker = self._workers[worker_id]
        self._staff.stop(worker, StopReason.START_TIMEOUT, now, kill=True)
        self._failed(worker, START_TIMED_OUT, now)

    def _proof(self, worker_id: WorkerId, now: float) -> None:
        self._staff.proved(self._workers[worker_id])

    def _lifetime_over(self, worker_id: WorkerId, now: float) -> None:
        self._staff.retire(self._workers[worker_id], StopReason.RECYCLED, "lifetime", now)

    def _reset_done(self, event: ev.ResetDone, now: float) -> None:
        if worker := self._worker(event.worker_id, WorkerState.RESETTING):
            self._timers.cancel(TimerKind.RESET, worker.id)
            self._note_recycle(worker, event.recycle)
            self._staff.release(worker, now)

    def _reset_deadline(self, worker_id: WorkerId, now: float) -> None:
        worker = self._workers[worker_id]
        self._staff.stop(worker, StopReason.RESET_FAILED, now, kill=True)
        self._failed(worker, StopReason.RESET_FAILED, now)

    def _worker_gone(
        self, event: ev.WorkerDied | ev.WorkerStartFailed | ev.WorkerStopped, now: float
    ) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None:
            return
        reason = None if isinstance(event, ev.WorkerStopped) else event.reason
        # Nor is it the start that failed where a new setup did: see `_setup_deadline`.
        unasked = worker.state not in (WorkerState.STOPPING, WorkerState.SETTING_UP)
        self._staff.gone(worker, now)
        if unasked:
            self._failed(worker, reason, now)
        self._desk.bereave(worker, reason)

    def _failed(self, worker: WorkerRecord, reason: object, now: float) -> None:
        staff = self._staff
        staff.failed(worker, reason, now)
        if worker.ready_at is None and staff.hopeless and not staff.supervision.trusted:
            # Rather tell the waiters why than let them wait for one start after another; but where
            # starts have succeeded, the next one probably will.
            self._desk.finish_queued(Outcome.START_FAILED, reason)

    def _protocol_violation(self, event: ev.ProtocolViolation, now: float) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.state is WorkerState.STOPPING:
            return
        self._desk.kill(worker, StopReason.PROTOCOL, Outcome.PROTOCOL_ERROR, event.reason, now)
        self._failed(worker, event.reason, now)

    def _memory_exceeded(self, event: ev.MemoryExceeded, now: float) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.state is WorkerState.STOPPING:
            return
        if event.request_id not in (worker.request_id, worker.lease_id):
            return  # it is over: who has the worker now is not to blame
        self._desk.kill(
            worker, StopReason.MEMORY_LIMIT, Outcome.MEMORY_LIMIT_EXCEEDED, event.reason, now
        )

    def _worker_spent(self, event: ev.WorkerSpent, now: float) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is not None and worker.state is not WorkerState.STOPPING:
            self._staff.retire(worker, StopReason.RECYCLED, event.reason, now)

    def _worker_unresponsive(self, event: ev.WorkerUnresponsive, now: float) -> None:
        # One that has got something to do meanwhile answers by doing it, or runs into its timeout.
        worker = self._workers.get(event.worker_id)
        if worker is not None and worker.state in (WorkerState.IDLE, WorkerState.STANDBY):
            self._staff.stop(worker, StopReason.UNRESPONSIVE, now, kill=True)

    def _restart_worker(self, event: ev.RestartWorker, now: float) -> None:
        worker = self._workers.get(event.worker_id)
        if worker is None or worker.state is WorkerState.STOPPING:
            return
        if worker.state in (WorkerState.IDLE, WorkerState.STANDBY):
            self._staff.stop(worker, StopReason.RESTARTED, now)
        else:
            self._desk.kill(worker, StopReason.RESTARTED, Outcome.RESTARTED, None, now)

    def _worker(self, worker_id: WorkerId, state: WorkerState) -> WorkerRecord | None:
        worker = self._workers.get(worker_id)
        return worker if worker is not None and worker.state is state else None

    def _note_recycle(self, worker: WorkerRecord, recycle: str | None) -> None:
        if recycle is not None:
            mark_for_replacement(worker, StopReason.RECYCLED, recycle)

    def _set_up_all(self, event: ev.SetUpAll, now: float) -> None:
        for worker in list(self._workers.values()):
            self._staff.set_up(worker, now)

    def _set_up_done(self, event: ev.SetUpDone, now: float) -> None:
        if worker := self._worker(event.worker_id, WorkerState.SETTING_UP):
            self._timers.cancel(TimerKind.SETUP, worker.id)
            self._note_recycle(worker, event.recycle)
            self._staff.release(worker, now)

    def _setup_deadline(self, worker_id: WorkerId, now: float) -> None:
        # No failed start: the one that takes its place is, if the setup is to stay and hangs there too.
        worker = self._workers[worker_id]
        self._staff.stop(worker, StopReason.SETUP_FAILED, now, kill=True)

    # --- the pool as a whole -------------------------------------------------------------------

    @property
    def _ending(self) -> bool:
        return self._phase is PoolState.CLOSING or self._phase is PoolState.CLOSED

    def _open(self) -> None:
        if self._phase is PoolState.NEW:
            self._phase = PoolState.RUNNING
            self._staff.maintained = True

    def _start(self, event: ev.Start, now: float) -> None:
        self._open()

    def _resize(self, event: ev.Resize, now: float) -> None:
        old = self.config
        self._staff.resize(event.size, event.overflow, len(self._desk.queue), now)
        if self.config.size < old.size or self.config.capacity < old.capacity:
            self._desk.end_lingering(now)
            self._staff.shed(old.size, now)

    def _drain(self, event: ev.Drain, now: float) -> None:
        for worker in list(self._workers.values()):
            self._staff.retire(worker, StopReason.DRAINED, None, now)

    def _close(self, event: ev.Close, now: float) -> None:
        if self._phase is PoolState.CLOSED:
            return
        self._phase = PoolState.CLOSING
        self._staff.maintained = False
        desk = self._desk
        desk.end_lingering(now)
        if event.cancel_queued:
            desk.takes_back = False
            desk.finish_queued(Outcome.CANCELLED)
        if event.cancel_running:
            for request in list(desk.requests.values()):
                if request.state in (RequestState.HELD, RequestState.RIDING) or (
                    request.state is RequestState.RUNNING and request.lease_id is None
                ):
                    self._end_early(request.id, Outcome.CANCELLED, now)

    def _tick(self, event: ev.Tick, now: float) -> None:
        """Only the timers matter, and they are looked at for every event."""

    def _shrink(self, subject: None, now: float) -> None:
        self._staff.shrink(now)

    def _backoff_over(self, subject: None, now: float) -> None:
        """`_settle` starts what is missing."""


_Clause = Callable[[PoolCore, Any, float], None]

_CLAUSES: Final[Mapping[type[ev.Event], _Clause]] = {
    ev.Start: PoolCore._start,
    ev.Submit: PoolCore._submit,
    ev.SubmitAll: PoolCore._submit_all,
    ev.SubmitInLease: PoolCore._submit_in_lease,
    ev.ReturnLease: PoolCore._return_lease,
    ev.Cancel: PoolCore._cancel,
    ev.Resize: PoolCore._resize,
    ev.Drain: PoolCore._drain,
    ev.RestartWorker: PoolCore._restart_worker,
    ev.Close: PoolCore._close,
    ev.WorkerReady: PoolCore._worker_ready,
    ev.WorkerStartFailed: PoolCore._worker_gone,
    ev.WorkerDied: PoolCore._worker_gone,
    ev.WorkerStopped: PoolCore._worker_gone,
    ev.RequestStarted: PoolCore._request_started,
    ev.RequestDone: PoolCore._request_done,
    ev.Occupied: PoolCore._occupied,
    ev.RequestsDone: PoolCore._requests_done,
    ev.RequestRefused: PoolCore._request_refused,
    ev.GivenBack: PoolCore._given_back,
    ev.InterruptDelivered: PoolCore._interrupt_delivered,
    ev.ResetDone: PoolCore._reset_done,
    ev.SetUpAll: PoolCore._set_up_all,
    ev.SetUpDone: PoolCore._set_up_done,
    ev.ProtocolViolation: PoolCore._protocol_violation,
    ev.MemoryExceeded: PoolCore._memory_exceeded,
    ev.WorkerSpent: PoolCore._worker_spent,
    ev.WorkerUnresponsive: PoolCore._worker_unresponsive,
    ev.Tick: PoolCore._tick,
}

_DEADLINES: Final[Mapping[TimerKind, _Clause]] = {
    TimerKind.CHECKOUT: PoolCore._checkout_deadline,
    TimerKind.RUN: PoolCore._run_deadline,
    TimerKind.GRACE: PoolCore._grace_over,
    TimerKind.START: PoolCore._start_deadline,
    TimerKind.PROOF: PoolCore._proof,
    TimerKind.RESET: PoolCore._reset_deadline,
    TimerKind.SETUP: PoolCore._setup_deadline,
    TimerKind.LIFETIME: PoolCore._lifetime_over,
    TimerKind.SHRINK: PoolCore._shrink,
    TimerKind.BACKOFF: PoolCore._backoff_over,
}
