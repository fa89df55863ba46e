"""Futures of a pool: resolved at once, their callbacks off the I/O thread.

A future is set by the I/O thread itself, so that whoever waits for it wakes directly. Done-callbacks
are users' code: they may be slow, and they may submit and wait. They run on a thread of their own,
where waiting for another future cannot wait for oneself.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED, FINISHED, RUNNING
from functools import partial
from typing import Any, TypeVar

from jupyter_pool.core import Outcome

from .log import LOGGER
from .request import Completion, Event
from .settle import call_failed, settle_call

_T = TypeVar("_T")

#: Ends of a request that was taken out of the queue.
_WITHDRAWN = (Outcome.CANCELLED, Outcome.CLOSED)

_NOT_OPENED = Exception("not unpickled yet")


#: These refuse new threads as soon as the interpreter begins to end (CPython gh-113964), when what was
#: submitted is still to be finished.
_LATE_THREADS = not (3, 12, 0) <= sys.version_info[:3] < (3, 12, 3)


class CallbackThread:
    """Runs callables in order, started on first use; ends when told and idle."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        #: The one that was told to end, until somebody has waited for it in vain.
        self._ending: threading.Thread | None = None

    def be_ready(self) -> None:
        """Start now, where Python may refuse it later."""
        with self._lock:
            if self._thread is None and not _LATE_THREADS:
                self._start()

    def run(self, call: Callable[[], None]) -> None:
        """Have it called soon."""
        with self._lock:
            if self._thread is None:
                self._start()
        self._queue.put(call)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        self._thread.start()

    def flush(self, timeout: float) -> None:
        """Wait, at most so many seconds, until what was handed in has run."""
        if self._thread not in (None, threading.current_thread()):
            done = threading.Event()
            self.run(done.set)
            done.wait(timeout)

    def _main(self) -> None:
        while (call := self._queue.get()) is not None:
            try:
                call()
            except Exception:  # noqa: BLE001 - users' code: told, and survived
                LOGGER.exception("exception in a callback")

    def close(
        self, deadline: float | None = None, *, besides: Collection[threading.Thread] = ()
    ) -> bool:
        """Run what was handed in, then end. Whether it has, by `deadline` (of time.monotonic).

        Threads that wait for something themselves (`besides`) are not waited for.
        """
        with self._lock:
            if self._thread is not None:
                self._ending, self._thread = self._thread, None
                self._queue.put(None)
            thread = self._ending  # also where another one has told it to end
        if thread is None:
            return True
        while thread.is_alive() and thread not in (threading.current_thread(), *besides):
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                self._ending = None
                return False
            thread.join(min(left, 0.1))  # it may turn to waiting meanwhile
        return True


class PoolFuture(Future[_T]):
    """A future whose `cancel` reaches the pool and whose callbacks stay off the I/O thread.

    Parameters
    ----------
    cancel
        Has the pool cancel a request, by its id; one that runs only if told so.
    cancel_running
        `cancel` also interrupts what runs. Without it, it answers False then (PEP 3148).
    """

    #: The request's id, as in `ExecutionResult.request_id`.
    request_id = ""

    def __init__(
        self, cancel: Callable[[str, bool], None], *, cancel_running: bool = False
    ) -> None:
        super().__init__()
        self._cancel_request = cancel
        #: What the parameter `cancel_running` says.
        self.cancels_running = cancel_running
        self._callback_thread: CallbackThread | None = None
        self._sealed: Callable[[], _T] | None = None
        self._opening = threading.RLock()

    def cancel(self) -> bool:
        """Cancel the request: one that waits never runs; for one that runs see `cancel_running`."""
        if super().cancel():
            self._cancel_request(self.request_id, False)
        elif self.cancels_running and self._cancel_running():
            self._cancel_request(self.request_id, True)
        else:
            return False
        return True

    def _cancel_running(self) -> bool:
        """Make a running future a cancelled one; its request is interrupted meanwhile."""
        with self._condition:
            if self._state != RUNNING:
                return False
            self._state = CANCELLED
            # Tells those who wait() and makes it final.
            self.set_running_or_notify_cancel()
            self._condition.notify_all()
        self._invoke_callbacks()
        return True

    def result(self, timeout: float | None = None) -> _T:
        """The value, unpickled by the first thread that asks; or what the call raised."""
        if self._sealed is not None or self._state != FINISHED:
            self._open(timeout)
        # It is final now, so that no lock is needed to look.
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        try:
            return super().result(0)
        finally:
            del self  # an exception's traceback holds this frame, and we hold the exception

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None."""
        if self._sealed is not None or self._state != FINISHED:
            self._open(timeout)
        return super().exception(0)

    def _open(self, timeout: float | None) -> None:
        if self._state != FINISHED:
            super().exception(timeout)  # waits
        if self._sealed is None:
            return
        with self._opening:
            sealed = self._sealed
            if sealed is None:  # another thread was first
                return  # type: ignore[unreachable]
            try:
                self._result, self._exception = sealed(), None
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt) and error.__cause__ is None:
                    raise  # somebody's Ctrl-C, not the call's: ask again
                self._result, self._exception = None, error
            self._sealed = None

    # The one hook that Future has for this (unchanged since Python 3.2).
    def _invoke_callbacks(self) -> None:
        runner, self._callback_thread = self._callback_thread, None
        if runner is None:
            super()._invoke_callbacks()  # type: ignore[misc]
        elif self._done_callbacks:  # type: ignore[attr-defined]
            runner.run(super()._invoke_callbacks)  # type: ignore[misc]

    def resolve(self, make: Callable[[], Any], callbacks: CallbackThread | None = None) -> None:
        """Set what `make` returns or raises. With `callbacks`, done-callbacks run there."""
        self._callback_thread = callbacks
        try:
            result = make()
        except BaseException as error:  # noqa: BLE001 - it is handed on
            self._end(partial(self.set_exception, error))
        else:
            self._end(partial(self.set_result, result))

    def seal(
        self, opener: Callable[[], _T], *, failed: bool, callbacks: CallbackThread | None = None
    ) -> None:
        """Set what `opener` returns or raises when somebody asks, in the thread of that one."""
        self._callback_thread = callbacks
        self._sealed = opener
        try:
            # Whoever waits for the first exception must know.
            if failed:
                self.set_exception(_NOT_OPENED)
            else:
                self.set_result(None)  # type: ignore[arg-type]
        except InvalidStateError:  # cancelled while it ran
            self._sealed = None

    def _end(self, end: Callable[[], None]) -> None:
        try:
            end()
        except InvalidStateError:  # cancelled while it ran
            self._sealed = None

    def drop(self, callbacks: CallbackThread | None = None) -> None:
        """Cancelled by the pool: whoever waits is told so."""
        self._callback_thread = callbacks
        self._cancel_running()


Resolve = Callable[[PoolFuture[Any], Completion, "CallbackThread | None"], None]


def resolve_with(settle: Callable[[Completion], Any]) -> Resolve:
    """How a cell's future ends: with what `settle` returns or raises."""

    def resolve(
        future: PoolFuture[Any], completion: Completion, callbacks: CallbackThread | None
    ) -> None:
        future.resolve(lambda: settle(completion), callbacks)

    return resolve


def resolve_call(
    future: PoolFuture[Any], completion: Completion, callbacks: CallbackThread | None
) -> None:
    """How a call's future ends: what came back is unpickled by whoever asks."""
    request = completion.request
    if request.first_dispatched is None and completion.outcome in _WITHDRAWN:
        future.drop(callbacks)
    else:
        request.frames = ()
        failed = call_failed(completion)
        future.seal(partial(settle_call, completion), failed=failed, callbacks=callbacks)


class FutureSink:
    """The caller holds a future and wants no outputs as they happen."""

    __slots__ = ("_callbacks", "_future", "_granted", "_resolve")

    wants_output = False

    def __init__(
        self, future: PoolFuture[Any], resolve: Resolve, callbacks: CallbackThread
    ) -> None:
        self._future = future
        self._resolve = resolve
        self._callbacks = callbacks
        self._granted = False

    def output(self, event: Event) -> None:
        """Not wanted."""

    def granted(self, worker_id: int) -> bool:
        """Dispatched: from now on PEP 3148's `cancel` answers False."""
        self._granted = True
        return self._future.set_running_or_notify_cancel()

    def finish(self, completion: Completion) -> None:
        self._end(completion, self._callbacks)

    def _end(self, completion: Completion, callbacks: CallbackThread | None) -> None:
        # The first call tells those who wait() that it was cancelled; a second one is an error.
        future = self._future
        wanted = self._granted or future.set_running_or_notify_cancel()
        # Not under its lock: should it be cancelled from here on, to end it is refused.
        if wanted and future._state == RUNNING:
            self._resolve(future, completion, callbacks)


class CallSink(FutureSink):
    """The future of a function call, whose outputs are shown where the caller's own appear.

    They are shown by a thread that all calls of a pool share, and a call that printed something is
    done when that was shown. One that printed nothing never comes near it.
    """

    __slots__ = ("_show", "_shower", "_shown")

    wants_output = True

    def __init__(
        self,
        future: PoolFuture[Any],
        callbacks: CallbackThread,
        shower: CallbackThread,
        show: Callable[[Event], None],
    ) -> None:
        super().__init__(future, resolve_call, callbacks)
        self._shower = shower
        self._show = show
        self._shown = False

    def output(self, event: Event) -> None:
        self._shown = True
        self._shower.run(lambda: self._show(event))

    def finish(self, completion: Completion) -> None:
        if self._shown:
            self._shower.run(lambda: self._end(completion, self._callbacks))
        else:
            self._end(completion, self._callbacks)


class StreamingFutureSink(FutureSink):
    """The caller holds a future and gave an `on_output`, which has a thread of its own here.

    A slow callback holds up its own request's future only, and that future is done after the last
    output was seen.
    """

    __slots__ = ("_completion", "_lock", "_on_output", "_thread", "_unfinished")

    wants_output = True

    def __init__(
        self,
        future: PoolFuture[Any],
        resolve: Resolve,
        callbacks: CallbackThread,
        on_output: Callable[[Event], None],
        unfinished: set[StreamingFutureSink],
    ) -> None:
        super().__init__(future, resolve, callbacks)
        self._thread = CallbackThread("jupyter_pool on_output")
        self._on_output = on_output
        #: Whose end a pool waits for when it closes, so that every future is done then.
        self._unfinished = unfinished
        self._lock = threading.Lock()
        self._completion: Completion | None = None

    def _run(self, call: Callable[[], None]) -> None:
        self._unfinished.add(self)
        self._thread.run(call)

    def output(self, event: Event) -> None:
        self._run(lambda: self._on_output(event))

    def finish(self, completion: Completion) -> None:
        self._completion = completion

        def last() -> None:
            self._end_once(None)
            self._unfinished.discard(self)
            self._thread.close()

        self._run(last)

    def _end_once(self, callbacks: CallbackThread | None) -> None:
        with self._lock:
            completion, self._completion = self._completion, None
        if completion is not None:
            self._end(completion, callbacks)

    def _tell_stuck(self) -> None:
        request_id, completion = self._future.request_id, self._completion
        where: dict[str, Any] = {"request_id": request_id}
        if completion is not None:
            where |= {"pool": completion.pool, "session_id": completion.request.session_id}
        LOGGER.warning("an on_output callback of %s did not return", request_id, extra=where)

    def close(self, deadline: float, *, besides: Collection[threading.Thread]) -> None:
        """Wait for the callbacks; the future of one that does not return is done without it."""
        if not self._thread.close(deadline, besides=besides):
            if self in self._unfinished:  # else somebody else has told it
                self._unfinished.discard(self)
                self._tell_stuck()
            self._end_once(self._callbacks)
