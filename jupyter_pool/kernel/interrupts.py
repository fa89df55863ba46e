"""When an interrupt may strike.

SIGINT must stop the user's code at any moment, and nothing else: not the reply,
not the reset, not half of a multipart message. So the handler asks the gate:

    request arrives    arm()      an interrupt is remembered, not raised
    user code starts   open()     a remembered one is raised now, later ones at once
    user code is over  close()    the request is being answered: remembered, then dropped
    idle               disarm()   ignored

Inside ``with GATE.hold:`` (sending, draining a pipe) an interrupt waits for the
end of the block.

CPython loses an interrupt that arrives in the microseconds between its last look
and a blocking system call, such as the one of `time.sleep`: the call is entered
and nothing ends it. So a second thread watches (`watch_delivery`), and sends the
signal again when the handler was not called for it, or when Python swallowed what it
raised: in a fork hook, a ``__del__``, a callback of the garbage collector.

While a cell awaits, no code of the user's may be on the stack. Then the cell's task
is cancelled instead, which arrives in the cell as CancelledError; the shell shows
it as the KeyboardInterrupt that it is. That needs the loop, which a task that never
awaits may keep: until the loop has got so far, the interrupt counts as not handled,
and the one that is sent again strikes the task.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import weakref
from types import FrameType, TracebackType
from typing import Any

__all__ = ["GATE", "InterruptGate", "getsignal"]

# The public one makes enum members, for a handler by way of an exception: 2 µs instead of 0.1.
getsignal: Any = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)
_SIGINT = int(signal.SIGINT)

_ASYNCIO = os.path.dirname(asyncio.__file__)

# Seconds after which an interrupt that reached no handler is sent again. Not for
# ever: C code that does not return to the interpreter cannot be helped this way.
_RESEND_AFTER = (0.02, 0.05, 0.1, 0.3, 1.0)


class InterruptGate:
    """Decides what SIGINT does. One per process, because signals are."""

    def __init__(self) -> None:
        self._main = threading.main_thread().ident
        self._armed = False
        self._open = False
        self._pending = False
        self._held = 0
        self._cell: asyncio.Task[Any] | None = None
        #: The loop has been told to cancel it, and has not got so far.
        self._cancelling = False
        self._request = 0
        self._unhandled = False
        #: How often one was handled.
        self._handled = 0
        self._wakeup = (-1, -1)
        #: The cell's task was cancelled because of an interrupt.
        self.cancelled_cell = False
        #: Tasks of the kernel itself on the main loop, not to be interrupted.
        self.kernel_tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        #: A context manager for what must not be torn apart.
        self.hold = _Hold(self)

    def install(self) -> None:
        """Take SIGINT over; also again, after user code replaced the handler."""
        if getsignal(_SIGINT) != self._on_sigint:
            signal.signal(signal.SIGINT, self._on_sigint)
        if self._wakeup[1] != -1:
            signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)

    def watch_delivery(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let another thread's running loop see to it that interrupts are noticed."""
        if not hasattr(signal, "pthread_kill"):
            return
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._wakeup = (read, write)
        os.register_at_fork(after_in_child=self._forget_wakeup)
        loop.call_soon_threadsafe(loop.add_reader, read, self._on_wakeup, loop)

    def _forget_wakeup(self) -> None:
        # A forked child must not report its signals to its parent.
        signal.set_wakeup_fd(-1)
        self._wakeup = (-1, -1)

    def _on_wakeup(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._read_wakeups() and self._armed:
            self._check_later(loop, self._request, 0)

    def _read_wakeups(self) -> bool:
        """Return whether a signal has arrived that the handler was not called for yet.

        The interpreter writes a signal's number when it arrives, the handler a
        zero when it is called: whichever is last in the pipe decides.
        """
        try:
            data = os.read(self._wakeup[0], 4096)
        except BlockingIOError:
            return self._unhandled
        arrived, handled = data.rfind(signal.SIGINT), data.rfind(0)
        if arrived != handled:
            self._unhandled = arrived > handled
        return self._unhandled

    def _check_later(self, loop: asyncio.AbstractEventLoop, request: int, tries: int) -> None:
        def check() -> None:
            handled = self._handled
            if not self._read_wakeups() or not self._armed:
                return
            if self._request != request:
                # What was read here is the next request's, and nobody else is told of it.
                self._check_later(loop, self._request, 0)
            elif signal.getsignal(signal.SIGINT) == self._on_sigint:
                assert self._main is not None
                # Reading let go of the GIL. If a main thread that was but slow has handled it
                # meanwhile, a second one would tear the traceback of the first.
                if self._handled == handled:
                    signal.pthread_kill(self._main, signal.SIGINT)
                self._check_later(loop, request, tries + 1)

        if tries < len(_RESEND_AFTER):
            loop.call_later(_RESEND_AFTER[tries], check)

    def watch_swallowed(self) -> None:
        """Notice a KeyboardInterrupt that was raised where Python only prints exceptions."""
        report = sys.unraisablehook

        def hook(unraisable: Any) -> None:
            if unraisable.exc_type is KeyboardInterrupt and self._open and self._wakeup[1] != -1:
                self._note(_SIGINT)
            else:
                report(unraisable)

        sys.unraisablehook = hook

    def arm(self) -> None:
        """Remember interrupts from now on: a request arrived."""
        self._pending = False
        self.cancelled_cell = self._cancelling = False
        self._request += 1
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

    def watch(self, task: asyncio.Task[Any] | None) -> None:
        """The user code is this task, until `close`; None: it is not in a task."""
        self._cell = task

    def _note(self, number: int) -> None:
        """Tell who watches: 0, a handler was called; SIGINT, as if it had come just now and none was."""
        if self._wakeup[1] != -1:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wakeup[1], bytes([number]))

    def _note_handled(self) -> None:
        self._handled += 1
        self._note(0)

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        self._note_handled()
        if not self._armed:
            return
        if self._held or not self._open:
            self._pending = True
            return
        self._deliver(frame)

    def _raise_pending(self) -> None:
        if self._pending and self._open:
            self._pending = False
            self._deliver(sys._getframe(1))

    def _deliver(self, frame: FrameType | None) -> None:
        cell = self._cell
        if cell is not None:
            loop = cell.get_loop()
            running = asyncio.current_task(loop)
            # asyncio itself must not be hit: a task that ends wakes the one that
            # waits for it, and an exception in there would lose the wake-up.
            may_raise = (
                running is not None and running not in self.kernel_tasks and _is_in_coroutine(frame)
            )
            if (running is not cell or not may_raise) and not self._cancelling:
                self.cancelled_cell = self._cancelling = True
                loop.call_soon_threadsafe(self._cancel, cell)
            if not may_raise:
                self._note(_SIGINT)
                return
        raise KeyboardInterrupt

    def _cancel(self, cell: asyncio.Task[Any]) -> None:
        """Called by the loop."""
        self._cancelling = False
        self._note_handled()
        cell.cancel()


def _is_in_coroutine(frame: FrameType | None) -> bool:
    """Whether anything but asyncio's own code is between this frame and the loop."""
    while frame is not None and frame.f_code is not asyncio.Handle._run.__code__:
        if os.path.dirname(frame.f_code.co_filename) != _ASYNCIO:
            return True
        frame = frame.f_back
    return False


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
