"""When an interrupt may strike.

SIGINT must stop the user's code at any moment, and nothing else: not the reply,
not the reset, not half of a multipart message. So the handler asks the gate:

    request arrives    arm()      an interrupt is remembered, not raised
    user code starts   open()     a remembered one is raised now, later ones at once
    user code is over  close()    the request is being answered: remembered, then dropped
    idle               disarm()   ignored

Inside ``with GATE.hold:`` (sending, draining a pipe) an interrupt waits for the
end of the block.

While a cell awaits, no user code may be on the stack. Then the cell's task is
cancelled instead, which arrives in the cell as CancelledError; the shell shows
it as the KeyboardInterrupt that it is.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import weakref
from types import FrameType, TracebackType
from typing import Any

__all__ = ["GATE", "InterruptGate"]


class InterruptGate:
    """Decides what SIGINT does. One per process, because signals are."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self._armed = False
        self._open = False
        self._pending = False
        self._held = 0
        self._cell: asyncio.Task[Any] | None = None
        #: The cell's task was cancelled because of an interrupt.
        self.cancelled_cell = False
        #: Tasks of the kernel itself on the main loop, not to be interrupted.
        self.kernel_tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        #: A context manager for what must not be torn apart.
        self.hold = _Hold(self)

    def install(self) -> None:
        """Take SIGINT over; also again, after user code replaced the handler."""
        if signal.getsignal(signal.SIGINT) != self._on_sigint:
            signal.signal(signal.SIGINT, self._on_sigint)

    def arm(self) -> None:
        """Remember interrupts from now on: a request arrived."""
        self._pending = False
        self.cancelled_cell = False
        self._armed = True

    def open(self) -> None:
        """Let interrupts through. Raises KeyboardInterrupt if one came since `arm`."""
        self._open = True
        self._raise_pending()

    def close(self) -> None:
        """Stop letting interrupts through. Never raises."""
        self._open = False
        self._cell = None

    def disarm(self) -> None:
        """Ignore interrupts: the request is answered."""
        self._open = self._armed = self._pending = False
        self._cell = None

    def watch(self, task: asyncio.Task[Any]) -> None:
        """The user code is this task, until `close`."""
        self._cell = task

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._held or not self._open:
            self._pending = True
            return
        self._deliver()

    def _raise_pending(self) -> None:
        if self._pending and self._open:
            self._pending = False
            self._deliver()

    def _deliver(self) -> None:
        cell = self._cell
        if cell is not None:
            loop = cell.get_loop()
            running = asyncio.current_task(loop)
            if running is None or running in self.kernel_tasks:
                # The cell sleeps in an await: nothing on the stack is the user's.
                self.cancelled_cell = True
                loop.call_soon_threadsafe(cell.cancel)
                return
        raise KeyboardInterrupt


class _Hold:
    """``with hold:`` delays interrupts of the main thread to the end of the block."""

    __slots__ = ("_gate",)

    def __init__(self, gate: InterruptGate) -> None:
        self._gate = gate

    def __enter__(self) -> None:
        gate = self._gate
        if threading.get_ident() == gate._main:
            gate._held += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        gate = self._gate
        if threading.get_ident() == gate._main:
            gate._held -= 1
            if not gate._held:
                gate._raise_pending()


GATE = InterruptGate()
