"""Alerts: told once when a pool's failures, waits or losses cross a threshold, and once when they are back.

All is of a sliding window: what happened in the last so many seconds. Time itself clears an alert, also
where nothing happens any more.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from jupyter_pool.errors import InvalidRequest
from jupyter_pool.telemetry import PoolEvent

__all__ = ["Alert", "AlertMonitor", "check_thresholds"]

_OK = "request_finished"
_FAILED = ("request_failed", "request_timed_out")
_ENDED = (_OK, *_FAILED, "request_cancelled")

#: Kills that are a loss: the others are what a timeout or a cancel asks for.
_LOSSES = ("start_timeout", "memory_limit", "unresponsive", "protocol", "reset_failed")

#: The events that are needed to know.
WATCHED = frozenset((*_ENDED, "request_queued", "request_started", "worker_lost", "worker_killed"))


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold was crossed, or is not crossed any more.

    Attributes
    ----------
    kind
        ``"failure_rate"``, ``"queue_wait"`` or ``"worker_losses"``.
    value, threshold
        What it is now, and from where on that is too much: a fraction of the requests, seconds, a number.
    window
        Of how many seconds.
    active
        True: it has reached the threshold. False: it is below again.
    pool
        The pool's name.
    time
        When, as Unix time.
    """

    kind: str
    value: float
    threshold: float
    window: float
    active: bool
    pool: str
    time: float


def check_thresholds(
    *,
    failure_rate: float | None,
    queue_wait: float | None,
    worker_losses: int | None,
    window: float,
    min_requests: int,
) -> dict[str, float]:
    """The thresholds that were given, by kind.

    Raises
    ------
    InvalidRequest
        Names the argument that is impossible, or says that none was given.
    """
    given = {
        "failure_rate": failure_rate,
        "queue_wait": queue_wait,
        "worker_losses": worker_losses,
    }
    numbers = {**given, "window": window, "min_requests": min_requests}
    for name, value in numbers.items():
        if value is None and name in given:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:  # type: ignore[operator]
            raise InvalidRequest(f"{name}={value!r} is not possible: it takes a number above 0")
    if failure_rate is not None and failure_rate > 1:
        raise InvalidRequest(
            f"failure_rate={failure_rate!r} is not possible: it takes a fraction, such as 0.2"
        )
    thresholds = {name: value for name, value in given.items() if value is not None}
    if not thresholds:
        raise InvalidRequest("on_alert takes failure_rate=, queue_wait= or worker_losses=")
    return thresholds


class AlertMonitor:
    """Turns events into alerts. Belongs to the thread that calls it.

    Parameters
    ----------
    pool, callback
        The pool's name; who is told.
    thresholds
        By kind; see `Alert`.
    window, min_requests
        In seconds; how many requests must have ended in it before their failure rate means anything.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        pool: str,
        callback: Callable[[Alert], object],
        thresholds: dict[str, float],
        window: float,
        min_requests: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.callback = callback
        self._pool = pool
        self._thresholds = thresholds
        self._window = window
        self._min_requests = min_requests
        self._clock = clock
        self._active: set[str] = set()
        #: When requests ended, and whether in failure.
        self._ends: deque[tuple[float, bool]] = deque()
        self._failures = 0
        #: Waits that are over: none is longer than those before it, so the first is the longest.
        self._waits: deque[tuple[float, float]] = deque()
        #: Who waits, since when, the first in front.
        self._waiting: OrderedDict[str, float] = OrderedDict()
        self._losses: deque[float] = deque()

    def __call__(self, event: PoolEvent) -> None:
        """Take in an event."""
        now = self._clock()
        kind, request_id = event.type, event.request_id
        if kind in ("worker_lost", "worker_killed"):
            if kind == "worker_lost" or event.data["cause"] in _LOSSES:
                self._losses.append(now)
        elif kind == "request_queued":
            # Within a lease nobody waits for a worker.
            if request_id is not None and "lease" not in event.data:
                self._waiting[request_id] = now
        else:
            if self._waiting.pop(str(request_id), None) is not None:
                self._note_wait(now, event.waited or 0.0)
            if kind in _ENDED and kind != "request_cancelled" and event.kind != "lease":
                failed = kind in _FAILED
                self._ends.append((now, failed))
                self._failures += failed
        self._look(now)

    def _note_wait(self, now: float, waited: float) -> None:
        while self._waits and self._waits[-1][1] <= waited:
            self._waits.pop()
        self._waits.append((now, waited))

    def due(self) -> float | None:
        """When time alone may change something."""
        oldest = [times[0] for times in (self._losses,) if times]
        oldest += [times[0][0] for times in (self._ends, self._waits) if times]
        due = [then + self._window for then in oldest] if self._active else []
        limit = self._thresholds.get("queue_wait")
        if limit is not None and self._waiting and "queue_wait" not in self._active:
            due.append(next(iter(self._waiting.values())) + limit)
        return min(due, default=None)

    def tick(self) -> None:
        """Time has passed."""
        self._look(self._clock())

    def _look(self, now: float) -> None:
        self._forget(now - self._window)
        for kind, threshold in self._thresholds.items():
            value = self._value(kind, now)
            if (value >= threshold) is (kind in self._active):
                continue
            active = kind not in self._active
            (self._active.add if active else self._active.discard)(kind)
            self.callback(
                Alert(kind, value, threshold, self._window, active, self._pool, time.time())
            )

    def _forget(self, horizon: float) -> None:
        while self._ends and self._ends[0][0] <= horizon:
            self._failures -= self._ends.popleft()[1]
        while self._waits and self._waits[0][0] <= horizon:
            self._waits.popleft()
        while self._losses and self._losses[0] <= horizon:
            self._losses.popleft()

    def _value(self, kind: str, now: float) -> float:
        if kind == "worker_losses":
            return float(len(self._losses))
        if kind == "failure_rate":
            ended = len(self._ends)
            return self._failures / ended if ended and ended >= self._min_requests else 0.0
        # The longest wait, those included that go on: a queue that stands still is the worst of all.
        over = self._waits[0][1] if self._waits else 0.0
        first = next(iter(self._waiting.values()), now)
        return max(over, now - first)
