"""When to start workers again after starts have failed.

    healthy ──failures──▶ backing off ──too many in the window──▶ degraded
       ▲                       │                                     │
       └────────────────── a success ◀───────────────────────────────┘

A *failure* is a start that did not succeed, or a worker that died before it proved itself. A *success*
is a worker that proved itself: it ran something, or it lived for `early_death` seconds. Becoming ready
is not enough, else a kernel that dies right after it would be started again for ever without a pause.

Seen from outside this is a circuit breaker: *closed* while the pool is not degraded, *open* during the
pauses when it is, *half open* while one start is let through. Whoever waits for a worker while there is
none is told the cause at once, unless the breaker is closed.

Deaths in user code are none of this: those workers are replaced at once.
"""

from __future__ import annotations

from collections import deque

from .commands import Breaker
from .state import CoreConfig

__all__ = ["Supervision"]


class Supervision:
    """The pause between starts, and whether the pool is degraded."""

    __slots__ = (
        "_failures",
        "_initial",
        "_limit",
        "_longest",
        "_streak",
        "_streak_grew_at",
        "_succeeded",
        "_window",
        "breaker",
        "breaker_since",
        "degraded",
        "degraded_at",
        "last_reason",
        "retry_at",
    )

    def __init__(self, config: CoreConfig) -> None:
        self._initial = config.backoff_initial
        self._longest = config.backoff_max
        self._limit = config.failure_limit
        self._window = config.failure_window
        self._failures: deque[float] = deque(maxlen=self._limit)
        self._streak = 0
        self._streak_grew_at = float("-inf")
        self.degraded = False
        self.degraded_at = float("-inf")
        self.last_reason: object = None
        self.retry_at = float("-inf")
        self._succeeded = False
        self.breaker = Breaker.CLOSED
        self.breaker_since = float("-inf")

    @property
    def trusted(self) -> bool:
        """Starts have succeeded, and too few tries have failed since to think them the rule."""
        return self._succeeded and self._streak < self._limit

    def failed(self, started_at: float, reason: object, now: float) -> bool:
        """Note a failure of a worker that was started then. Returns whether it degrades the pool."""
        self.last_reason = reason
        # Workers started together fail together: that is one failed try, not many, and must not
        # push the pause up to its longest at once.
        if not self._streak or started_at > self._streak_grew_at:
            self._streak += 1
            self._streak_grew_at = now
            # The exponent is capped only lest it overflow.
            pause = min(self._longest, self._initial * 2.0 ** min(self._streak - 1, 64))
            self.retry_at = now + pause
        self._failures.append(now)
        full = len(self._failures) == self._limit
        if self.degraded or not full or now - self._failures[0] > self._window:
            return False
        self.degraded = True
        self._succeeded = False
        self.degraded_at = now
        return True

    def succeeded(self) -> bool:
        """Note a success. Returns whether the pool has recovered by it."""
        self._streak = 0
        self.retry_at = float("-inf")
        self._succeeded = True
        self._failures.clear()  # those before it were bad luck
        recovered, self.degraded = self.degraded, False
        return recovered
