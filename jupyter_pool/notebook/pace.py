"""At what pace a cell may show things.

A Jupyter server drops what a kernel publishes faster than its limits allow (by
default 1000 messages and 1 MB of text per second, counted over 3 seconds; see
`ZMQChannelsWebsocketConnection._limit_rate` in jupyter_server 2). So in a kernel a
flood is shown at a pace that the server lets through, and its end with it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Pace", "is_interrupted"]

#: What may be shown within any `_WINDOW` seconds: a bit less than a server's default.
_WINDOW, _MESSAGES, _TEXT = 3.2, 2800, 2_800_000
#: What a message takes beside its content, in bytes.
_OVERHEAD = 1000


class Pace:
    """Waits until a message may be shown.

    Parameters
    ----------
    clock, sleep
        Seconds that only grow, and how to let some pass.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._shown: deque[tuple[float, int]] = deque()
        self._text = 0
        # Several threads may show what belongs to one cell.
        self._lock = threading.RLock()

    def is_free(self, text: int) -> bool:
        """Whether a message with so many bytes of text need not wait; none for a display."""
        before = self._clock() - _WINDOW
        with self._lock:
            while self._shown and self._shown[0][0] <= before:
                self._text -= self._shown.popleft()[1]
            fits = len(self._shown) < _MESSAGES and self._text + _size(text) <= _TEXT
            return fits or not self._shown

    def wait(self, text: int) -> None:
        """Wait for the turn of a message, and count it as shown. After an interrupt only count."""
        while True:
            with self._lock:
                if self.is_free(text) or is_interrupted():
                    self._shown.append((self._clock(), _size(text)))
                    self._text += _size(text)
                    return
                pause = self._shown[0][0] + _WINDOW - self._clock()
            self._sleep(max(0.001, pause))


def _size(text: int) -> int:
    """What a server counts of a message with so many bytes of text; of a display nothing."""
    return text + _OVERHEAD if text else 0


def is_interrupted() -> bool:
    """Whether a KeyboardInterrupt is being handled: the pool shows what is queued meanwhile."""
    return isinstance(sys.exc_info()[1], KeyboardInterrupt)
