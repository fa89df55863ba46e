"""The worker side of the pool: how many there are, and what becomes of each.

The staff knows nothing of requests but how many wait. It keeps the seats filled:

    waiters, size, overflow ──▶ seats to fill ──▶ promote standby workers, start what is missing
    reserve                 ──▶ standby workers to have ─┘   (as far as supervision lets it)

and decides what a worker does next when it is free: serve on, be reset, or be replaced.
"""

from __future__ import annotations

from dataclasses import replace

from .commands import (
    Breaker,
    BreakerMoved,
    Command,
    Degraded,
    Recovered,
    Reset,
    SetUp,
    StartWorker,
    StopReason,
    StopWorker,
    TakeBack,
)
from .events import WorkerId
from .roster import Roster, newest, oldest
from .state import CoreConfig, WorkerRecord, WorkerState
from .supervision import Supervision
from .timers import TimerKind, Timers

__all__ = ["Staff"]

_GOLDEN_RATIO = 0.6180339887498949
_OWN_TIMERS = (
    TimerKind.START,
    TimerKind.PROOF,
    TimerKind.GRACE,
    TimerKind.RESET,
    TimerKind.SETUP,
    TimerKind.LIFETIME,
)


class Staff:
    """The workers of a pool. `out` takes the commands."""

    def __init__(self, config: CoreConfig, timers: Timers, out: list[Command]) -> None:
        self.config = config
        self.roster = Roster(config.size)
        self.supervision = Supervision(config)
        self.maintained = False
        """Base and standby workers are kept; without it, only as many as the waiters need."""
        # Started and neither a success nor a failure yet.
        self._on_trial: set[WorkerId] = set()
        # The latest start that a degraded pool has tried.
        self._probe: WorkerId | None = None
        self._timers = timers
        self._out = out

    # --- how many ------------------------------------------------------------------------------

    @property
    def usable(self) -> int:
        """Workers that serve now or will without another start."""
        return self.roster.seated + len(self.roster.standby)

    @property
    def hopeless(self) -> bool:
        """No worker lives and none is being started."""
        return not self.usable and not self.roster.starting

    @property
    def hopeful(self) -> bool:
        """A start is under way that began before the others failed: it is no mere probe."""
        began = self.supervision.degraded_at
        return any(worker.started_at < began for worker in self.roster.starting.values())

    def available(self, now: float) -> WorkerRecord | None:
        """An idle worker, if need be a promoted standby one."""
        roster = self.roster
        if roster.idle:
            return newest(roster.idle)
        if roster.standby and roster.seated < self.config.capacity:
            return self._promote(now)
        return None

    def pristine(self, now: float) -> WorkerRecord | None:
        """A free worker that has served nobody, if need be a standby one in a used one's seat. O(n)."""
        roster = self.roster
        for worker in reversed(roster.idle.values()):
            if worker.pristine:
                return worker
        if roster.standby and roster.seated >= self.config.capacity and roster.idle:
            self._retire_longest_idle(now)
        if roster.standby and roster.seated < self.config.capacity:
            return self._promote(now)
        return None

    def lacking(self, waiting: int) -> int:
        """How many used workers are to make way for so many who want one that has served nobody."""
        if self.supervision.degraded:
            return 0
        seats = self.config.capacity - self.roster.seated
        return waiting - seats - self._missing_reserve()

    def make_way(self, waiting: int, now: float) -> None:
        """Have workers start for so many who want one that has served nobody, and found none.

        Free seats and the reserve are filled by starts anyway. What is lacking beyond that costs
        used workers, as far as they idle; but not while starts fail, for those might be the last.
        """
        for _ in range(min(self.lacking(waiting), len(self.roster.idle))):
            self._retire_longest_idle(now)

    def _retire_longest_idle(self, now: float) -> None:
        self.retire(oldest(self.roster.idle), StopReason.RECYCLED, "isolation", now)

    def fill(self, waiting: int, now: float) -> None:
        """Fill the seats and the reserve. `waiting`: how many requests no worker was found for."""
        if self.roster.seated >= self.config.capacity and not self._missing_reserve():
            self._watch_surplus()  # the rule, and asked for after every event
            return
        missing = self._missing_seats(waiting)
        while missing and self.roster.standby:
            self._promote(now)
            missing -= 1
        self._start(self._missing_starts(missing), now)
        self._watch_surplus()

    def _promote(self, now: float) -> WorkerRecord:
        """Give a seat to a standby worker: the oldest, lest any of them grows stale in the reserve."""
        worker = oldest(self.roster.standby)
        self.roster.move(worker, WorkerState.IDLE, now)
        return worker

    def _missing_seats(self, waiting: int) -> int:
        config, roster = self.config, self.roster
        base = config.size if self.maintained and not config.lazy else 0
        # Who waits although workers idle wants one that has served nobody: these are of no use to it.
        at_work = roster.seated if waiting else roster.seated - len(roster.idle)
        return max(0, min(config.capacity, max(base, at_work + waiting)) - roster.seated)

    def _missing_reserve(self) -> int:
        if not self.maintained:
            return 0
        return max(0, self.config.reserve - len(self.roster.standby))

    def _missing_starts(self, missing_seats: int) -> int:
        """How many more starts are needed. Negative: so many too many are under way."""
        wanted = missing_seats + self._missing_reserve()
        if (
            self.supervision.degraded
            and self.maintained
            and self.roster.seated < self.config.capacity
        ):
            # Without need there would be no probe, and a lazy pool would never learn that it is well.
            wanted = max(wanted, 1)
        return wanted - len(self.roster.starting)

    @property
    def _whole(self) -> bool:
        """It has all the workers that it may have, and their starts were successes. O(n)."""
        return (
            self.roster.seated >= self.config.capacity
            and not self._missing_reserve()
            and all(worker.proven for worker in self.roster.records.values())
        )

    def _start(self, missing: int, now: float) -> None:
        if missing <= 0:
            return
        roster, supervision = self.roster, self.supervision
        missing = min(missing, self.config.max_processes - len(roster))
        if supervision.degraded:
            missing = min(missing, 1 - len(self._on_trial))
        if missing <= 0:
            return
        if now < supervision.retry_at:
            self._timers.set(TimerKind.BACKOFF, None, supervision.retry_at)
            return
        for _ in range(missing):
            worker = roster.add(now)
            self._on_trial.add(worker.id)
            if supervision.degraded:
                self._probe = worker.id
            self._timers.set(TimerKind.START, worker.id, now + self.config.start_timeout)
            self._out.append(StartWorker(worker.id))

    # --- getting fewer -------------------------------------------------------------------------

    def _watch_surplus(self) -> None:
        config, roster = self.config, self.roster
        if config.max_idle is None or roster.seated <= config.size or not roster.idle:
            return
        if (TimerKind.SHRINK, None) not in self._timers:
            self._timers.set(TimerKind.SHRINK, None, oldest(roster.idle).since + config.max_idle)

    def shrink(self, now: float) -> None:
        """Stop the workers above `size` that have idled for `max_idle`."""
        config, roster = self.config, self.roster
        while config.max_idle is not None and roster.seated > config.size and roster.idle:
            worker = oldest(roster.idle)
            if worker.since + config.max_idle > now:
                return
            self.stop(worker, StopReason.SHRUNK, now)

    def resize(self, size: int | None, overflow: int | None, waiting: int, now: float) -> None:
        """Change the figures; what idles or starts beyond them stops now, what is busy when free.

        Raises ValueError, and changes nothing, if no pool could work with them.
        """
        old, roster = self.config, self.roster
        self.config = config = replace(
            old,
            size=old.size if size is None else size,
            overflow=old.overflow if overflow is None else overflow,
        )
        self.shed(old.size, now)
        roster.relabel(config.size)
        while roster.starting and self._missing_starts(self._missing_seats(waiting)) < 0:
            self.stop(newest(roster.starting), StopReason.SHRUNK, now)
        if self.supervision.degraded and self._whole:
            self._recovered()  # there is nothing left to start that could prove it

    def shed(self, old_size: int, now: float) -> None:
        """Stop what idles beyond the figures."""
        # Who asks for a smaller size wants it now; who only takes overflow away keeps the base.
        smaller = self.config.size < old_size
        limit = self.config.size if smaller else self.config.capacity
        while self.roster.seated > limit and self.roster.idle:
            self.stop(oldest(self.roster.idle), StopReason.SHRUNK, now)

    def retire(self, worker: WorkerRecord, why: StopReason, detail: str | None, now: float) -> None:
        """Replace it: now if it serves nobody, else as soon as it is free."""
        if worker.state in (WorkerState.IDLE, WorkerState.STANDBY, WorkerState.STARTING):
            self.stop(worker, why, now, detail=detail)
        else:
            mark_for_replacement(worker, why, detail)

    def stop(
        self,
        worker: WorkerRecord,
        why: StopReason,
        now: float,
        *,
        kill: bool = False,
        detail: str | None = None,
    ) -> None:
        """End it, unless that is under way. Its seat is free at once."""
        if worker.state is not WorkerState.STOPPING:
            self._forget(worker)
            self.roster.move(worker, WorkerState.STOPPING, now)
            self._out.append(StopWorker(worker.id, kill, why, detail))

    # --- one worker's way ----------------------------------------------------------------------

    def ready(self, worker: WorkerRecord, waiting: int, now: float) -> None:
        """Take it in: to a seat that needs somebody, else to the reserve, else to a free seat."""
        config, roster, timers = self.config, self.roster, self._timers
        timers.cancel(TimerKind.START, worker.id)
        worker.ready_at = now
        if self._missing_seats(waiting):
            roster.move(worker, WorkerState.IDLE, now)
        elif self._missing_reserve():
            roster.move(worker, WorkerState.STANDBY, now)
        elif roster.seated < config.capacity:
            roster.move(worker, WorkerState.IDLE, now)
        else:
            self.stop(worker, StopReason.SHRUNK, now)
            return
        timers.set(TimerKind.PROOF, worker.id, now + config.early_death)
        if config.max_lifetime is not None:
            lifetime = config.max_lifetime * (1 - 0.1 * (worker.id * _GOLDEN_RATIO % 1))
            timers.set(TimerKind.LIFETIME, worker.id, now + lifetime)

    def release(self, worker: WorkerRecord, now: float) -> None:
        """It is free: replace it, reset it, or let it serve on."""
        max_tasks = self.config.max_tasks
        if max_tasks is not None and worker.served >= max_tasks:
            mark_for_replacement(worker, StopReason.RECYCLED, "max_tasks")
        if worker.retire is not None:
            why, detail = worker.retire
            self.stop(worker, why, now, detail=detail)
        elif self.roster.seated > self.config.capacity:
            self.stop(worker, StopReason.SHRUNK, now)
        elif worker.needs_reset:
            worker.needs_reset = False
            self.roster.move(worker, WorkerState.RESETTING, now)
            self._timers.set(TimerKind.RESET, worker.id, now + self.config.reset_timeout)
            self._out.append(Reset(worker.id))
        elif worker.needs_setup:
            self._set_up(worker, now)
        else:
            self.roster.move(worker, WorkerState.IDLE, now)

    def set_up(self, worker: WorkerRecord, now: float) -> None:
        """It lacks a setup: it runs it before it serves on, at once if it is free."""
        match worker.state:
            case WorkerState.IDLE:
                self._set_up(worker, now)
            case WorkerState.STANDBY:
                self.stop(worker, StopReason.RECYCLED, now, detail="setup")
            case WorkerState.STARTING | WorkerState.STOPPING:
                pass  # whoever starts runs what there is
            case _:
                worker.needs_setup = True
                if worker.riders:  # others run them, or it does when it has run the setup
                    self._out.append(TakeBack(worker.id))

    def _set_up(self, worker: WorkerRecord, now: float) -> None:
        worker.needs_setup = False
        self.roster.move(worker, WorkerState.SETTING_UP, now)
        self._timers.set(TimerKind.SETUP, worker.id, now + self.config.start_timeout)
        self._out.append(SetUp(worker.id))

    def gone(self, worker: WorkerRecord, now: float) -> None:
        """Its process is no more."""
        self._forget(worker)
        self.roster.move(worker, WorkerState.GONE, now)

    # --- was its start a success? --------------------------------------------------------------

    def proved(self, worker: WorkerRecord) -> None:
        """It ran something or lived long enough."""
        if worker.proven is None:
            worker.proven = True
            self._on_trial.discard(worker.id)
            self._timers.cancel(TimerKind.PROOF, worker.id)
            self._recovered()

    def _recovered(self) -> None:
        if self.supervision.succeeded():
            self._out.append(Recovered())

    def failed(self, worker: WorkerRecord, reason: object, now: float) -> None:
        """It went wrong by itself: a failed start, unless it had proved otherwise."""
        if worker.proven is None:
            worker.proven = False
            self._on_trial.discard(worker.id)
            if self.supervision.failed(worker.started_at, reason, now):
                self._out.append(Degraded(reason))

    def watch_breaker(self, now: float) -> None:
        """Say if the breaker has moved, as follows from how starts go."""
        supervision = self.supervision
        if not supervision.degraded:
            if supervision.breaker is Breaker.CLOSED:
                return
            state = Breaker.CLOSED
        elif self._probe in self._on_trial:
            state = Breaker.HALF_OPEN
        else:
            state = Breaker.OPEN
        if state is supervision.breaker:
            return
        if state is Breaker.OPEN or supervision.breaker is Breaker.CLOSED:
            # Also for no time: the next try may have been due when the pool was found degraded.
            self._out.append(BreakerMoved(Breaker.OPEN, supervision.last_reason))
        if state is not Breaker.OPEN:
            self._out.append(BreakerMoved(state))
        supervision.breaker, supervision.breaker_since = state, now

    def _forget(self, worker: WorkerRecord) -> None:
        self._on_trial.discard(worker.id)
        for kind in _OWN_TIMERS:
            self._timers.cancel(kind, worker.id)


def mark_for_replacement(worker: WorkerRecord, why: StopReason, detail: str | None) -> None:
    """Replace it as soon as it is free. The first reason stands."""
    if worker.retire is None:
        worker.retire = (why, detail)
