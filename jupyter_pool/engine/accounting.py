"""What a pool counts: outcomes, durations, workers, sessions. Lives on the I/O thread."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from jupyter_pool.reports import Distribution, SessionInfo

#: Percentiles are of this many latest durations; counts, means and maxima are of all.
_RECENT = 4096


class Durations:
    """Durations in seconds: exact count, mean and maximum, percentiles of the latest."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._count = 0
        self._sum = 0.0
        self._max = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._recent.append(seconds)
        self._count += 1
        self._sum += seconds
        self._max = max(self._max, seconds)

    def summary(self) -> Distribution:
        """All of them in short."""
        if not self._count:
            return Distribution()
        return replace(
            Distribution.of(self._recent),
            count=self._count,
            mean=self._sum / self._count,
            max=self._max,
        )


@dataclass(slots=True)
class _Session:
    # Wall clock, for people to read.
    first_seen: float
    last_activity: float
    #: The same on a clock that nobody sets: what decides when a session is stale.
    active_at: float = 0.0
    #: Its requests that have come and not ended yet.
    open: int = 0
    requests: int = 0
    failures: int = 0
    busy_time: float = 0.0
    last_worker: int | None = None


class Sessions:
    """Sessions by id: labels that are counted, never places where requests must go."""

    def __init__(
        self, ttl: float | None, most: int, tell: Callable[[str, str], None] | None = None
    ) -> None:
        self._ttl = ttl
        #: Gets an event's type and a session's id.
        self._tell = tell
        self._most = most
        # In the order of their last activity, so that the stale ones are in front.
        self._known: OrderedDict[str, _Session] = OrderedDict()

    def touch(self, session_id: str) -> None:
        """A request with this label has come."""
        session = self._known.get(session_id)
        if session is None:
            now = time.time()
            session = self._known[session_id] = _Session(now, now)
            if self._tell is not None:
                self._tell("session_started", session_id)
        session.open += 1
        self._mark(session_id, session)

    def count(self, session_id: str, *, ok: bool, busy: float, worker_id: int | None) -> None:
        """A request with this label has ended; unless the session was ended before it."""
        session = self._known.get(session_id)
        if session is None:
            return
        session.open -= 1
        session.requests += 1
        session.failures += not ok
        session.busy_time += busy
        if worker_id is not None:
            session.last_worker = worker_id
        self._mark(session_id, session)

    def _mark(self, session_id: str, session: _Session) -> None:
        session.last_activity = time.time()
        session.active_at = time.monotonic()
        self._known.move_to_end(session_id)
        self.expire()

    def forget(self, session_id: str) -> bool:
        """End a session; False if there is none of that id."""
        return self._known.pop(session_id, None) is not None

    def next_expiry(self) -> float | None:
        """When the next session may be stale, by time.monotonic(); None: never."""
        if self._ttl is None:
            return None
        return next((s.active_at + self._ttl for s in self._known.values() if not s.open), None)

    def expire(self) -> None:
        """Forget the sessions that are stale, or too many."""
        now = time.monotonic()
        surplus = len(self._known) - self._most
        gone: list[str] = []
        for name, session in self._known.items():
            stale = self._ttl is not None and now - session.active_at > self._ttl
            if not stale and len(gone) >= surplus:
                break
            if not session.open:  # one that still has work is in use, however long that takes
                gone.append(name)
        for name in gone:
            del self._known[name]
            if self._tell is not None:
                self._tell("session_expired", name)

    def snapshot(self) -> dict[str, SessionInfo]:
        """What is known of each, the latest active last."""
        self.expire()
        return {
            name: SessionInfo(
                name,
                session.first_seen,
                session.last_activity,
                session.requests,
                session.failures,
                session.busy_time,
                session.last_worker,
            )
            for name, session in self._known.items()
        }


class Accounting:
    """A pool's counters."""

    def __init__(
        self,
        ttl: float | None,
        max_sessions: int,
        tell: Callable[[str, str], None] | None = None,
    ) -> None:
        self.sessions = Sessions(ttl, max_sessions, tell)
        self.started_at: float | None = None
        self.reset()

    def reset(self) -> None:
        """Begin counting anew; sessions stay."""
        self.outcomes: Counter[str] = Counter()
        self.waits = Durations()
        self.runs = Durations()
        self.workers_started = 0
        self.lost: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.recycled: Counter[str] = Counter()
