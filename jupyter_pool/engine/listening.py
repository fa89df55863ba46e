"""How a pool's owner listens to it: subscriptions, alerts, recordings. Before its start as after it."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from jupyter_pool.alerts import WATCHED, Alert, AlertMonitor, check_thresholds
from jupyter_pool.errors import InvalidRequest
from jupyter_pool.recording import Recording

from .events import Callback, Hub, Subscription, check_types

__all__ = ["Listening"]

#: How many events may wait for a recording, which only appends them to a list.
_RECORDING_LIMIT = 1_000_000


class Listening:
    """The part of a pool that tells what happens."""

    #: The pool's name.
    name: str

    def check_open(self) -> None:
        """Raise PoolNotAvailable if there is nothing to hear."""
        raise NotImplementedError

    def _begin_listening(self) -> None:
        #: Who listens to what happens.
        self.hub = Hub(self.name)
        # Of a pool that is dropped before it has started nobody else would end the subscriptions.
        weakref.finalize(self, _unheard, self.hub).atexit = False

    def subscribe(
        self, callback: Callback, types: Iterable[str] | str | None = None
    ) -> Subscription:
        """Have `callback` called with each event, a `PoolEvent`, in order; also before the pool starts.

        It is called on a thread of its own, some milliseconds later. What it raises is logged; if it is slow events wait for it,
        some thousands of them, and further ones are lost and counted: the pool never waits for it.

        Parameters
        ----------
        callback
            A function of one event; of an `AsyncKernelPool` also a coroutine function, which runs in
            the event loop that subscribes.
        types
            Which events, by the types that `jupyter_pool.telemetry` lists; by default all.

        Returns
        -------
        Subscription
            Ended by its ``close()``, by leaving it as a context, or by the pool's end.

        Raises
        ------
        InvalidRequest
            A callback that cannot be called, an event that does not exist.
        PoolNotAvailable
            The pool is closed.
        """
        return self._listen(self._callback(callback), check_types(types))

    def _callback(self, callback: Any) -> Callback:
        if not callable(callback):
            raise InvalidRequest(f"callback={callback!r} is not possible: it takes a function")
        if inspect.iscoroutinefunction(callback):
            raise InvalidRequest(
                f"{callback!r} is a coroutine function, which only an AsyncKernelPool can run"
            )
        return callback  # type: ignore[no-any-return]

    def _listen(self, callback: Callback, types: frozenset[str], **how: Any) -> Subscription:
        self.check_open()
        return Subscription(self.hub, callback, types, **how)

    def on_alert(
        self,
        callback: Callable[[Alert], object],
        *,
        failure_rate: float | None = None,
        queue_wait: float | None = None,
        worker_losses: int | None = None,
        window: float = 60.0,
        min_requests: int = 10,
    ) -> Subscription:
        """Have `callback` called with an `Alert` when a threshold is reached, and when it is not any more.

        Parameters
        ----------
        callback
            Called as by `subscribe`, once for each crossing, either way.
        failure_rate
            The fraction of the requests that ended in the window which failed or timed out. Cancelled
            ones do not count. 0 while fewer than `min_requests` have ended.
        queue_wait
            Seconds: the longest wait for a worker in the window, also of requests that still wait.
        worker_losses
            How many workers died, failed to start, or were killed for `memory_limit` or silence.
        window
            Seconds.

        Returns
        -------
        Subscription
            Ended by its ``close()``, by leaving it as a context, or by the pool's end.

        Raises
        ------
        InvalidRequest
            No threshold, or an impossible one; a callback that cannot be called.
        """
        thresholds = check_thresholds(
            failure_rate=failure_rate,
            queue_wait=queue_wait,
            worker_losses=worker_losses,
            window=window,
            min_requests=min_requests,
        )
        tell: Any = self._callback(callback)
        monitor = AlertMonitor(self.name, tell, thresholds, window, min_requests)
        return self._listen(monitor, WATCHED, clock=monitor)

    def record(self) -> Recording:
        """Record what happens: ``with pool.record() as recording: …``, then ``recording.save(path)``.

        The file shows what each worker did when, who waited, and why; it opens in
        https://ui.perfetto.dev and chrome://tracing. Also of an `AsyncKernelPool` this is a plain
        ``with``.
        """
        return Recording(
            self.name,
            lambda append: self._listen(append, check_types(None), limit=_RECORDING_LIMIT),
        )


def _unheard(hub: Hub) -> None:
    if not hub.driven:
        hub.finish()
