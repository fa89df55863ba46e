"""The request side of the pool: who waits, who runs where, who holds what, and how each one ends.

    submit ──▶ queue ──▶ dispatch ──▶ done ──▶ finish
                 ▲          │
                 └ requeue ◀┤ the worker died, or refused it
                            ├──▶ interrupt ──▶ done in time ──▶ finish, clean
                            └──▶ kill ──▶ the process is gone ──▶ finish, not clean

A request's *fate* is its outcome, once that is settled while a worker still holds it. The first one
stands: a cancel that comes while a timeout is being handled changes nothing. A request that a worker
was killed for finishes only when that worker's process is gone.

A request with isolation "process" wants a *pristine* worker, one that has served nobody. If its turn
comes and those that are free are used, it is set aside in the queue, others may use them, and a start
is seen to: it gets the first pristine worker there is.

Quick requests *ride along* with the one that a worker runs, see `riding`: it has them, in order, and
runs the next when it is done. The first of what it has is the one that counts as running.

A *lease* is a request that runs nothing itself but holds its worker for others, one at a time. What
it stands for is its worker's state, so it ends with its worker. A request that is done may leave one
behind, which keeps its worker; for leases *on sufferance* see `lingering`.
"""

from __future__ import annotations

from collections.abc import Iterable

from .commands import (
    Command,
    Dispatch,
    Finish,
    Interrupt,
    Outcome,
    Ride,
    Riders,
    StopReason,
    TakeBack,
)
from .events import RequestDone, RequestId, RequestsDone, Submit, SubmitInLease
from .lingering import Lingering
from .queue import FairQueue
from .riding import BUDGET, MOST, Paces
from .staff import Staff, mark_for_replacement
from .state import LeaseRecord, RequestRecord, RequestState, WorkerRecord, WorkerState
from .timers import TimerKind, Timers

__all__ = ["Desk"]

# A request whose worker dies before it starts is sent to another one; but if that happens again and
# again, the request may be the cause.
_MAX_REDISPATCHES = 3

_INTERRUPTED_FOR = {
    Outcome.OPERATION_TIMEOUT: StopReason.TIMED_OUT,
    Outcome.CANCELLED: StopReason.CANCELLED,
}


class Desk:
    """The requests of a pool. `out` takes the commands."""

    def __init__(self, staff: Staff, timers: Timers, out: list[Command]) -> None:
        self.requests: dict[RequestId, RequestRecord] = {}
        self.queue = FairQueue()
        self.lingering = Lingering()
        self.takes_back = True
        """A request whose worker died may wait for another one."""
        self._staff = staff
        self._timers = timers
        self._out = out
        self._paces = Paces()

    # --- waiting -------------------------------------------------------------------------------

    def submit(self, event: Submit) -> None:
        """Let a newcomer in, at the end of its group."""
        # Where somebody waits, who is free is used, and no use to one that wants a pristine worker.
        free = self._staff.roster.idle or self.lingering.next() is not None
        must_wait = not free or event.isolation == "process"
        if 0 < self._staff.config.max_waiting <= len(self.queue) and must_wait:
            self.refuse(event.request_id, Outcome.SATURATED)
            return
        kind = LeaseRecord if event.lease else RequestRecord
        request = kind(
            event.request_id, event.group, event.run_timeout, event.retries, event.isolation
        )
        request.kind = event.kind
        request.checkout_deadline = event.checkout_deadline
        self.requests[request.id] = request
        self.queue.push(request)
        if event.checkout_deadline is not None:
            self._timers.set(TimerKind.CHECKOUT, request.id, event.checkout_deadline)

    def refuse(self, request_id: RequestId, outcome: Outcome) -> None:
        """End a request that was not let in."""
        self._out.append(Finish(request_id, outcome, None))

    def serve(self, now: float) -> None:
        """Give free workers to those who wait."""
        staff, queue = self._staff, self.queue
        if queue.aside:
            self._serve_aside(now)
        while queue.in_line and (worker := staff.available(now) or self._take_over(now)):
            request = queue.pop()
            if worker.pristine or request.isolation != "process":
                self._dispatch(request, worker, now)
            else:
                queue.set_aside(request)
                # At once, not when the line has been served: that would take the worker whose turn
                # this was, and so would the next in line again and again.
                self._serve_aside(now)
        if self.lingering and self._clear_occupied(now):
            self.serve(now)
            return
        if staff.supervision.degraded and queue and not staff.hopeful:
            reason = staff.supervision.last_reason
            if not staff.usable:
                self.finish_queued(Outcome.START_FAILED, reason)
            elif not staff.roster.standby:
                self._finish_aside(Outcome.START_FAILED, reason)

    def _serve_aside(self, now: float) -> None:
        """Give pristine workers to those set aside, and see to starts for the others."""
        staff, queue = self._staff, self.queue
        while queue.aside:
            if (worker := staff.pristine(now)) is not None:
                self._dispatch(queue.pop_aside(), worker, now)
            elif not staff.roster.standby or self._take_over(now) is None:
                break  # else one that is spare takes the seat of the one that was given up
        lacking = staff.lacking(len(queue.aside))
        while lacking > len(staff.roster.idle) and self._take_over(now):
            pass
        staff.make_way(len(queue.aside), now)

    def withdraw(self, request: RequestRecord, outcome: Outcome) -> None:
        """End one that waits."""
        lease = self._lease(request.lease_id)
        if lease is not None:
            del lease.runs[request.id]
        else:
            self.queue.remove(request)
        self._finish(request, outcome)

    def finish_queued(self, outcome: Outcome, reason: object = None) -> None:
        """End all that wait."""
        self._finish_aside(outcome, reason)
        while self.queue:
            self._finish(self.queue.pop(), outcome, reason)

    def _finish_aside(self, outcome: Outcome, reason: object) -> None:
        while self.queue.aside:
            self._finish(self.queue.pop_aside(), outcome, reason)

    def _requeue(self, request: RequestRecord, *, clean: bool = False) -> None:
        if self.takes_back:
            request.move(RequestState.QUEUED)
            self.queue.push_front(request)
        else:
            self._finish(request, Outcome.CANCELLED, clean=clean)

    # --- running -------------------------------------------------------------------------------

    def _dispatch(self, request: RequestRecord, worker: WorkerRecord, now: float) -> None:
        if request.checkout_deadline is not None:
            self._timers.cancel(TimerKind.CHECKOUT, request.id)
        self._limit_run(request, now)
        if self._staff.config.replace_after_request or request.isolation == "process":
            mark_for_replacement(worker, StopReason.RECYCLED, "isolation")
        request.worker_id = worker.id
        worker.pristine = False
        riders: Riders = ()
        if request.kind is not None and self.queue.in_line:
            idle = len(self._staff.roster.idle) - 1
            riders = self._board(worker, self._paces.of(request.kind), idle)
        self._out.append(
            Dispatch(request.id, worker.id, request.attempt, request.run_deadline, riders)
        )
        if isinstance(request, LeaseRecord):
            request.move(RequestState.HELD)
            worker.lease_id = request.id
            self._staff.roster.move(worker, WorkerState.LEASED, now)
            self._next_run(request, worker, now)
        else:
            request.move(RequestState.RUNNING)
            request.started = False
            worker.request_id = request.id
            self._staff.roster.move(worker, WorkerState.BUSY, now)

    def _limit_run(self, request: RequestRecord, now: float) -> None:
        if request.run_timeout is not None and request.run_deadline is None:
            request.run_deadline = now + request.run_timeout
            self._timers.set(TimerKind.RUN, request.id, request.run_deadline)

    def done(
        self, event: RequestDone, worker: WorkerRecord, now: float, *, stays: bool = True
    ) -> None:
        """It has been replied to and its worker is idle: it ends, the worker may be free.

        Without `stays` nobody keeps a worker any more.
        """
        request = self.requests[event.request_id]
        worker.request_id = None
        worker.served += 1
        worker.older -= worker.older > 0
        self._finish(request, request.fate or Outcome.DONE)
        if event.lease is not None and self._keep(event, request, worker, now, stays=stays):
            return
        if worker.state is WorkerState.BUSY or worker.interrupt_delivered:
            self._let_go(worker, now)

    def refused(self, request: RequestRecord, worker: WorkerRecord, now: float) -> None:
        """Its worker wants to be replaced before it: another one runs it, as if nothing had been.

        Not counted: each time costs the pool a worker that has served before, and fresh ones have no
        reason to refuse. A lease whose run is refused has nothing in that worker yet, and moves.
        """
        worker.request_id = None
        if worker.riders:  # it refuses them too
            self._out.append(TakeBack(worker.id))
            self._put_back(self._leave(worker, worker.riders), now)
        if request.fate is not None:
            self._finish(request, request.fate)
            if worker.interrupt_delivered:
                self._let_go(worker, now)
            return
        lease = self._lease(request.lease_id)
        if lease is None:
            self._requeue(request, clean=True)
        else:
            worker.lease_id = None
            request.move(RequestState.QUEUED)
            lease.runs[request.id] = request
            lease.runs.move_to_end(request.id, last=False)
            self._requeue(lease, clean=True)
        self._staff.release(worker, now)

    def interrupt(self, request: RequestRecord, outcome: Outcome, now: float) -> None:
        """End one that runs; its worker may stay if it proves idle within the grace."""
        if request.fate is None:
            request.fate = outcome
            self._interrupt(request, outcome, now)

    def _interrupt(self, request: RequestRecord, outcome: Outcome, now: float) -> None:
        worker = self._worker_of(request)
        worker.interrupted_for = _INTERRUPTED_FOR[outcome]
        worker.interrupt_delivered = False
        request.move(RequestState.INTERRUPTING)
        self._staff.roster.move(worker, WorkerState.INTERRUPTING, now)
        grace = self._staff.config.interrupt_grace
        self._timers.set(TimerKind.GRACE, worker.id, now + grace)
        self._out.append(Interrupt(worker.id, request.id))

    def interrupt_delivered(self, worker: WorkerRecord, now: float) -> None:
        """From here on the interrupt cannot hit anything later."""
        worker.interrupt_delivered = True
        if worker.request_id is None:
            self._let_go(worker, now)

    def _let_go(self, worker: WorkerRecord, now: float) -> None:
        """It is idle and no interrupt is on its way to it: the next may come."""
        self._timers.cancel(TimerKind.GRACE, worker.id)
        lease = self._lease(worker.lease_id)
        if lease is not None:
            self._staff.roster.move(worker, WorkerState.LEASED, now)
            self._next_run(lease, worker, now)
        elif worker.riders:
            self._next_rider(worker, now)
        else:
            self._staff.release(worker, now)

    # --- riding along --------------------------------------------------------------------------

    def _board(self, worker: WorkerRecord, seconds: float, idle: int) -> Riders:
        """Let those next in line ride along that are quick: as many as `idle` others leave to it.

        `seconds`: how long what it has will take.
        """
        staff, queue, of = self._staff, self.queue, self._paces.of
        if seconds >= BUDGET or worker.retire is not None or worker.needs_setup:
            return ()
        room = min(MOST, -(-(queue.in_line - idle) // max(1, staff.roster.seated)))
        if staff.config.max_tasks is not None:
            has = len(worker.riders) + 1
            room = min(room, staff.config.max_tasks - worker.served - has)
        boarded: list[tuple[RequestId, int]] = []
        while len(boarded) < room and queue.in_line:
            request = queue.pop()
            if request.kind is None or (seconds := seconds + of(request.kind)) > BUDGET:
                queue.push_front(request)
                break
            if request.checkout_deadline is not None:
                self._timers.cancel(TimerKind.CHECKOUT, request.id)
            request.move(RequestState.RIDING)
            request.started = False
            request.worker_id = worker.id
            boarded.append((request.id, request.attempt))
            worker.riders.append(request)
        return tuple(boarded)

    def _next_rider(self, worker: WorkerRecord, now: float) -> None:
        """What it had to do is done: it goes on with the next that it has."""
        request = worker.riders.popleft()
        request.move(RequestState.RUNNING)
        worker.request_id = request.id
        if worker.state is not WorkerState.BUSY:
            self._staff.roster.move(worker, WorkerState.BUSY, now)
        self._limit_run(request, now)
        if request.fate is not None:
            self._interrupt(request, request.fate, now)
        elif not worker.older and self.queue.in_line:
            # All that it still has came with the last message. Before it has done that, it gets more.
            older = len(worker.riders) + 1
            seconds = sum(self._paces.of(each.kind) for each in (request, *worker.riders))
            if seconds < BUDGET / 2 and (riders := self._board(worker, seconds, 0)):
                worker.older = older
                self._out.append(Ride(worker.id, riders))

    def rider_started(self, worker: WorkerRecord, request_id: RequestId) -> bool:
        """One that rode along has begun: so have all before it. Whether there is such a one."""
        request = self.requests.get(request_id)
        if request is None or request not in worker.riders:
            return False
        if worker.request_id is not None:
            self.requests[worker.request_id].started = True
        for rider in worker.riders:
            rider.started = True
            if rider is request:
                break
        return True

    def all_done(self, worker: WorkerRecord, event: RequestsDone, now: float) -> bool:
        """These are done, in the order in which the worker has them. Whether any was."""
        stopping = worker.state is WorkerState.STOPPING
        count = 0
        for request_id, seconds in zip(event.request_ids, event.seconds, strict=True):
            request = self.requests.get(request_id)
            if request is None:
                continue
            if worker.request_id == request_id:
                if stopping and request.fate is not None:
                    continue  # the worker is being killed for it
                worker.request_id = None
            elif (
                worker.riders
                and worker.riders[0] is request
                and (worker.request_id is None or stopping)
            ):
                worker.riders.popleft()
            else:
                continue
            count += 1
            if request.kind is not None:
                self._paces.learn(request.kind, seconds)
            self._finish(request, request.fate or Outcome.DONE)
        if not count:
            return False
        worker.served += count
        worker.older = max(0, worker.older - count)
        idle = worker.request_id is None and not stopping
        if idle and (worker.state is WorkerState.BUSY or worker.interrupt_delivered):
            self._let_go(worker, now)
        return True

    def unwant_rider(self, request: RequestRecord, outcome: Outcome) -> None:
        """End one that rides along: it is taken back, or interrupted if it has begun."""
        if request.fate is None:
            request.fate = outcome
            self._out.append(TakeBack(self._worker_of(request).id))

    def given_back(self, worker: WorkerRecord, ids: Iterable[RequestId], now: float) -> None:
        """They wait again at the head, as if nothing had been; unless nobody wants them any more."""
        front = worker.request_id
        back = [
            request
            for request_id in ids
            if (request := self.requests.get(request_id)) is not None
            and (request_id == front or request in worker.riders)
        ]
        stopping = worker.state is WorkerState.STOPPING
        if stopping and back and back[0].id == front:
            del back[0]  # the worker is being killed for it
        self._put_back(self._leave(worker, back), now)
        if front is not None and worker.request_id is None and not stopping:
            worker.older = 0
            if worker.state is WorkerState.BUSY or worker.interrupt_delivered:
                self._let_go(worker, now)

    def _leave(
        self, worker: WorkerRecord, requests: Iterable[RequestRecord]
    ) -> list[RequestRecord]:
        """The worker has them no more."""
        leaving = list(requests)
        for request in leaving:
            if request.id == worker.request_id:
                worker.request_id = None
            else:
                worker.riders.remove(request)
        worker.older = min(worker.older, len(worker.riders) + (worker.request_id is not None))
        return leaving

    def _put_back(self, requests: list[RequestRecord], now: float) -> None:
        for request in reversed(requests):
            if request.fate is not None:
                self._finish(request, request.fate)
                continue
            if request.attempt == 1 and request.run_deadline is not None:
                self._timers.cancel(TimerKind.RUN, request.id)  # its time begins when it does
                request.run_deadline = None
            if request.attempt == 1 and request.checkout_deadline is not None and self.takes_back:
                self._timers.set(TimerKind.CHECKOUT, request.id, request.checkout_deadline)
            self._requeue(request, clean=True)

    # --- losing the worker ---------------------------------------------------------------------

    def kill(
        self, worker: WorkerRecord, why: StopReason, outcome: Outcome, reason: object, now: float
    ) -> None:
        """End a worker; what it holds ends with its process, unless its fate is settled so."""
        self.lingering.discard(worker.lease_id)
        for request_id in (worker.request_id, worker.lease_id):
            if request_id is not None:
                request = self.requests[request_id]
                if request.fate is None:
                    request.fate, request.fate_reason = outcome, reason
        self._staff.stop(worker, why, now, kill=True)

    def bereave(self, worker: WorkerRecord, reason: object) -> None:
        """Its process is gone: what it held ends, or waits for another worker."""
        for request in reversed(self._leave(worker, worker.riders)):
            if request.fate is None and not request.started:
                self._requeue(request)  # it was no cause of this
            else:
                self._lose_worker(request, reason)
        for request_id in (worker.request_id, worker.lease_id):
            if request_id is not None:
                self._lose_worker(self.requests[request_id], reason)

    def _lose_worker(self, request: RequestRecord, reason: object) -> None:
        of_lease = request.lease_id is not None or isinstance(request, LeaseRecord)
        if request.fate is not None:
            self._finish(request, request.fate, request.fate_reason, clean=False)
        elif not of_lease and not request.started and request.redispatched < _MAX_REDISPATCHES:
            request.redispatched += 1  # user code has not run: nobody need know
            self._requeue(request)
        elif not of_lease and request.started and request.retries:
            request.retries -= 1
            request.attempt += 1
            self._requeue(request)
        else:
            self._finish(request, Outcome.WORKER_DIED, reason, clean=False)

    # --- leases --------------------------------------------------------------------------------

    def submit_in_lease(self, event: SubmitInLease, now: float) -> None:
        """Run something in a lease, now or when it is its turn."""
        lease = self._lease(event.lease_id)
        if lease is None or lease.id in self.lingering:  # returned or lost by now; or not for this
            self.refuse(event.request_id, Outcome.CANCELLED)
            return
        run = RequestRecord(
            event.request_id, run_timeout=event.run_timeout, lease_id=event.lease_id
        )
        self.requests[run.id] = lease.runs[run.id] = run
        if lease.state is RequestState.HELD:
            self._next_run(lease, self._worker_of(lease), now)

    def _next_run(self, lease: LeaseRecord, worker: WorkerRecord, now: float) -> None:
        if lease.runs and worker.state is WorkerState.LEASED:
            _, run = lease.runs.popitem(last=False)
            self._dispatch(run, worker, now)

    def end_lease(
        self,
        lease: LeaseRecord,
        outcome: Outcome,
        now: float,
        *,
        discard: bool = False,
        reset: bool = True,
    ) -> None:
        """Take back the worker: what it runs is interrupted, then it is reset or replaced.

        Without `reset` what comes next cleans up.
        """
        if lease.fate is not None:
            return
        worker = self._worker_of(lease)
        worker.lease_id = None
        worker.needs_reset = reset and lease.isolation != "none"
        if discard:
            mark_for_replacement(worker, StopReason.RECYCLED, "discarded")
        self._finish(lease, outcome)
        if worker.request_id is not None:
            self.interrupt(self.requests[worker.request_id], Outcome.CANCELLED, now)
        elif worker.state is WorkerState.LEASED:
            self._staff.release(worker, now)

    # --- leases that requests leave behind -----------------------------------------------------

    def _keep(
        self,
        event: RequestDone,
        request: RequestRecord,
        worker: WorkerRecord,
        now: float,
        *,
        stays: bool,
    ) -> bool:
        """The request's worker stays, held by a lease, if it may. Whether it does."""
        assert event.lease is not None
        free = worker.state is WorkerState.BUSY and not worker.riders and request.lease_id is None
        stays = stays and free and request.fate is None
        if event.on_sufferance:
            stays = stays and not self.queue and not self._is_awaited(worker)
        if not stays:
            # Whoever comes next cleans up; but nobody may come for a while.
            if free and not self.queue and request.isolation != "none":
                worker.needs_reset = True
            self._out.append(Finish(event.lease, Outcome.DONE, worker.id))
            return False
        lease = LeaseRecord(event.lease, request.group, isolation=request.isolation)
        lease.state, lease.worker_id = RequestState.HELD, worker.id
        self.requests[lease.id] = lease
        worker.lease_id = lease.id
        self._staff.roster.move(worker, WorkerState.LEASED, now)
        if event.on_sufferance:
            self.lingering.add(lease)
        return True

    def _is_awaited(self, worker: WorkerRecord) -> bool:
        """Something is to be done with it as soon as it is free."""
        max_tasks = self._staff.config.max_tasks
        worn = max_tasks is not None and worker.served >= max_tasks
        return worn or worker.overflow or worker.needs_setup or worker.retire is not None

    def review_lingering(self, now: float) -> None:
        """Those on sufferance whose worker is wanted for something end."""
        for lease in self.lingering:
            if self._is_awaited(self._worker_of(lease)):
                self.end_lease(lease, Outcome.DONE, now, reset=False)

    def end_lingering(self, now: float) -> None:
        """All those on sufferance end."""
        for lease in self.lingering:
            self.end_lease(lease, Outcome.DONE, now, reset=False)

    def _take_over(self, now: float) -> WorkerRecord | None:
        """A worker that was held on sufferance, which is idle now."""
        while (lease := self.lingering.next()) is not None:
            worker = self._worker_of(lease)
            self.end_lease(lease, Outcome.DONE, now, reset=False)
            if worker.state is WorkerState.IDLE:
                return worker
        return None

    def _clear_occupied(self, now: float) -> bool:
        """Somebody waits, and who is held on sufferance is occupied: as many are reset as are needed.

        Whether one is idle at once, as it is with isolation "none".
        """
        staff = self._staff
        wanted = self.queue.in_line + max(0, staff.lacking(len(self.queue.aside)))
        wanted -= staff.roster.count(WorkerState.RESETTING)
        while wanted > 0 and (lease := self.lingering.next(occupied=True)) is not None:
            worker = self._worker_of(lease)
            self.end_lease(lease, Outcome.DONE, now)
            if worker.state is WorkerState.IDLE:
                return True
            wanted -= 1
        return False

    # --- ends ----------------------------------------------------------------------------------

    def _finish(
        self, request: RequestRecord, outcome: Outcome, reason: object = None, clean: bool = True
    ) -> None:
        """The one place where a request ends. Runs that wait in a lease end with it."""
        if isinstance(request, LeaseRecord):
            self.lingering.discard(request.id)
            theirs = Outcome.CANCELLED if outcome is Outcome.DONE else outcome
            while request.runs:
                _, run = request.runs.popitem(last=False)
                self._finish(run, theirs, reason)
        request.move(RequestState.FINISHED)
        del self.requests[request.id]
        if request.checkout_deadline is not None:
            self._timers.cancel(TimerKind.CHECKOUT, request.id)
        if request.run_deadline is not None:
            self._timers.cancel(TimerKind.RUN, request.id)
        self._out.append(Finish(request.id, outcome, request.worker_id, reason, clean))

    def _lease(self, lease_id: RequestId | None) -> LeaseRecord | None:
        lease = self.requests.get(lease_id) if lease_id is not None else None
        return lease if isinstance(lease, LeaseRecord) else None

    def _worker_of(self, request: RequestRecord) -> WorkerRecord:
        assert request.worker_id is not None
        return self._staff.roster.records[request.worker_id]
