"""Futures of a pool: resolved at once, their callbacks off the I/O thread.

A future is set by the I/O thread itself, so that whoever waits for it wakes directly. Done-callbacks
are users' code: they may be slow, and they may submit and wait. They run on a thread of their own,
where waiting for another future cannot wait for oneself.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any

from .log import LOGGER
from .request import Completion, Event


class CallbackThread:
    """Runs callables in order, started on first use; ends when told and idle."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, call: Callable[[], None]) -> None:
        """Have it called soon."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
                self._thread.start()
        self._queue.put(call)

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
            thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._queue.put(None)
        while thread.is_alive() and thread not in (threading.current_thread(), *besides):
            left = math.inf if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            thread.join(min(left, 0.1))  # it may turn to waiting meanwhile
        return True


class PoolFuture(Future[Any]):
    """A future whose `cancel` reaches the pool and whose callbacks stay off the I/O thread."""

    #: The request's id, as in `ExecutionResult.request_id`.
    request_id = ""

    def __init__(self, cancel: Callable[[str], None]) -> None:
        super().__init__()
        self._cancel_request = cancel
        self._callback_thread: CallbackThread | None = None

    def cancel(self) -> bool:
        """Cancel the request if it still waits for a worker (PEP 3148)."""
        cancelled = super().cancel()
        if cancelled:
            self._cancel_request(self.request_id)
        return cancelled

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
            self.set_exception(error)
        else:
            self.set_result(result)


class FutureSink:
    """The caller holds a future and wants no outputs as they happen."""

    wants_output = False

    def __init__(
        self,
        future: PoolFuture,
        settle: Callable[[Completion], Any],
        callbacks: CallbackThread,
    ) -> None:
        self._future = future
        self._settle = settle
        self._callbacks = callbacks
        self._granted = False

    def output(self, event: Event) -> None:
        """Not wanted."""

    def granted(self, worker_id: int) -> None:
        """Dispatched: from now on PEP 3148's `cancel` answers False."""
        self._granted = True
        self._future.set_running_or_notify_cancel()

    def finish(self, completion: Completion) -> None:
        self._end(completion, self._callbacks)

    def _end(self, completion: Completion, callbacks: CallbackThread | None) -> None:
        # The first call tells those who wait() that it was cancelled; a second one is an error.
        wanted = self._granted or self._future.set_running_or_notify_cancel()
        if wanted and not self._future.cancelled():
            self._future.resolve(lambda: self._settle(completion), callbacks)


class StreamingFutureSink(FutureSink):
    """The caller holds a future and gave an `on_output`, which has a thread of its own here.

    A slow callback holds up its own request's future only, and that future is done after the last
    output was seen.
    """

    wants_output = True

    def __init__(
        self,
        future: PoolFuture,
        settle: Callable[[Completion], Any],
        callbacks: CallbackThread,
        on_output: Callable[[Event], None],
        unfinished: set[StreamingFutureSink],
    ) -> None:
        super().__init__(future, settle, callbacks)
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
            self._unfinished.discard(self)
            self._tell_stuck()
            self._end_once(self._callbacks)
