"""Who listens to a pool, and how events reach them.

    I/O thread ── send ──▶ Hub ──▶ a bounded queue and a thread for each subscription ──▶ callback

Nothing is made where nobody listens to it. A subscription whose queue is full loses events, and counts
them; what its callback does harms neither the pool nor other subscriptions.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import difflib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol

from jupyter_pool.errors import InvalidRequest
from jupyter_pool.telemetry import EVENT_TYPES, PoolEvent

from .log import PoolLog

__all__ = ["Hub", "OnLoop", "Subscription", "check_types"]

#: How many events may wait for a slow callback.
QUEUE_LIMIT = 10_000
#: How long a callback that has just seen events rests before it sees what came meanwhile, in seconds.
BATCH = 0.005
#: How long closing a subscription waits for a callback that does not return, in seconds.
CLOSE_PATIENCE = 5.0

Callback = Callable[[PoolEvent], object]


def check_types(types: Iterable[str] | str | None) -> frozenset[str]:
    """The types of events that are wanted; None: all.

    Raises
    ------
    InvalidRequest
        Names what is no type of event.
    """
    if types is None:
        return frozenset(EVENT_TYPES)
    try:
        wanted = frozenset([types] if isinstance(types, str) else types)
    except TypeError:
        raise InvalidRequest(f"types={types!r} is not possible: it takes names of events") from None
    for name in sorted(map(str, wanted - frozenset(EVENT_TYPES))):
        close = difflib.get_close_matches(name, EVENT_TYPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InvalidRequest(
            f"no event is called {name!r}.{hint} There are {', '.join(EVENT_TYPES)}"
        )
    if not wanted:
        raise InvalidRequest("types=() asks for nothing: leave it out for all events")
    return wanted


class Clocked(Protocol):
    """A callback that also wants to be called when time has passed."""

    #: Whom it calls itself.
    callback: Callable[[Any], object]

    def due(self) -> float | None:
        """When `tick` is wanted, by time.monotonic(); None: not at all."""

    def tick(self) -> None:
        """That time has come."""

    def __call__(self, event: PoolEvent) -> object:
        """An event."""


class Subscription:
    """A callback that gets a pool's events, in order, on a thread of its own, until `close`.

    Attributes
    ----------
    dropped
        How many events were lost because the callback was too slow for them.
    errors
        How many exceptions the callback has raised. The first is logged with its traceback.
    """

    def __init__(
        self,
        hub: Hub,
        callback: Callback,
        types: frozenset[str],
        *,
        limit: int = QUEUE_LIMIT,
        clock: Clocked | None = None,
    ) -> None:
        self.types = types
        self.dropped = 0
        self.errors = 0
        self._hub = hub
        self._callback = callback
        self._limit = limit
        self._clock = clock
        self._queue: queue.SimpleQueue[PoolEvent | threading.Event | None] = queue.SimpleQueue()
        # Each is written by one thread only: how many came, and how many were seen.
        self._taken = self._seen = 0
        self._thread = threading.Thread(
            target=self._main, name=f"jupyter_pool events of {hub.pool}", daemon=True
        )
        hub.add(self)

    def __repr__(self) -> str:
        state = "open" if self._hub.has(self) else "closed"
        dropped = f", {self.dropped} dropped" if self.dropped else ""
        return f"<Subscription to pool {self._hub.pool!r}, {state}{dropped}>"

    def start(self) -> None:
        self._thread.start()

    def take(self, event: PoolEvent) -> None:
        """Queue an event, on the I/O thread: never waits."""
        if self._taken - self._seen < self._limit:
            self._taken += 1
            self._queue.put(event)
            return
        self.dropped += 1
        if self.dropped == 1:
            self._hub.log(
                logging.WARNING,
                "a subscriber is too slow: it loses events, see `subscription.dropped`",
            )

    def end(self) -> None:
        """Nothing more comes: the thread ends when its callback has seen everything."""
        self._queue.put(None)

    def flush(self, timeout: float = CLOSE_PATIENCE) -> bool:
        """Wait until the callback has seen what has happened up to now; whether it has."""
        if not self._may_wait() or not self._thread.is_alive():
            return not self._thread.is_alive()
        done = threading.Event()
        self._queue.put(done)
        deadline = time.monotonic() + timeout
        # In slices: the thread may end by itself meanwhile.
        while not done.wait(min(0.1, max(0.0, deadline - time.monotonic()))):
            if not self._thread.is_alive() or time.monotonic() >= deadline:
                return not self._thread.is_alive()
        return True

    def close(self, timeout: float = CLOSE_PATIENCE) -> None:
        """Unsubscribe. The callback first sees what has happened up to now, within `timeout` seconds.

        From the callback itself, or from the event loop that it runs in, this does not wait.
        """
        self._hub.remove(self)
        self.end()
        if self._may_wait():
            self.join(time.monotonic() + timeout)

    def join(self, deadline: float, besides: Collection[threading.Thread] = ()) -> None:
        """Wait for the thread, which was told to end; not if it waits itself (`besides`)."""
        thread = self._thread
        while thread.is_alive() and thread not in (threading.current_thread(), *besides):
            left = deadline - time.monotonic()
            if left <= 0:
                return
            thread.join(min(left, 0.1))

    def _may_wait(self) -> bool:
        if threading.current_thread() is self._thread:
            return False
        callback = getattr(self._clock, "callback", self._callback)
        return not (isinstance(callback, OnLoop) and callback.is_here())

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *how: object) -> None:
        self.close()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The callback may need this loop.
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def _main(self) -> None:
        get, callback, clock = self._queue.get, self._callback, self._clock
        idle = True
        while True:
            try:
                if not idle:
                    item = get(block=False)
                else:
                    item = get() if clock is None else get(timeout=_left(clock.due()))
                    idle = False
            except queue.Empty:
                if idle:
                    assert clock is not None
                    self._guard(clock.tick)
                # Waking for each event by itself would cost a request more than all else here.
                elif self._queue.empty():
                    time.sleep(BATCH)
                    idle = self._queue.empty()
                continue
            if type(item) is PoolEvent:
                self._seen += 1
                self._guard(callback, item)
            elif isinstance(item, threading.Event):
                item.set()
            else:
                return

    def _guard(self, call: Callable[..., object], *args: Any) -> None:
        try:
            call(*args)
        except Exception:  # noqa: BLE001 - users' code: told, and survived
            self.errors += 1
            # Once: what fails, fails for each event.
            level = logging.ERROR if self.errors == 1 else logging.DEBUG
            self._hub.log(level, "exception in a subscriber of events", exc_info=True)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


class OnLoop:
    """A coroutine function as a callback: it runs in its event loop, one event after another."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        callback: Callable[[Any], Coroutine[Any, Any, object]],
    ) -> None:
        self._loop = loop
        self._callback = callback

    def is_here(self) -> bool:
        """Whether this thread is its loop's, which must not wait for it."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def __call__(self, event: Any) -> object:
        done: concurrent.futures.Future[object] = concurrent.futures.Future()

        def start() -> None:
            task = self._loop.create_task(self._callback(event))
            task.add_done_callback(finish)

        def finish(task: asyncio.Task[object]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(start)
        except RuntimeError:
            return None  # the loop is closed: nobody is there any more
        while not self._loop.is_closed():
            try:
                return done.result(timeout=1.0)
            except concurrent.futures.TimeoutError:
                if done.done():  # it was the callback's own
                    raise
        return None


class Hub:
    """The subscriptions of one pool. It is there before the pool's driver, and ends with the pool."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.log = PoolLog(pool)
        #: Types of events that somebody wants.
        self.wanted: frozenset[str] = frozenset()
        #: A driver will say when the pool is closed.
        self.driven = False
        self._subscriptions: tuple[Subscription, ...] = ()
        self._ended = False
        self._lock = threading.Lock()

    def has(self, subscription: Subscription) -> bool:
        return subscription in self._subscriptions

    def add(self, subscription: Subscription) -> None:
        """Let somebody in. After the end there is nothing to hear."""
        try:
            with self._lock:
                subscription.start()
                self._set((*self._subscriptions, subscription))
                if self._ended:
                    subscription.end()
        except BaseException:  # Ctrl-C: whoever asked for it has no handle to end it by
            self.remove(subscription)
            subscription.end()
            raise

    def remove(self, subscription: Subscription) -> None:
        with self._lock:
            self._set(tuple(one for one in self._subscriptions if one is not subscription))

    def _set(self, subscriptions: tuple[Subscription, ...]) -> None:
        self._subscriptions = subscriptions
        self.wanted = frozenset().union(*(one.types for one in subscriptions))

    def send(
        self,
        event_type: str,
        worker_id: int | None = None,
        request_id: str | None = None,
        session_id: str | None = None,
        kind: str | None = None,
        waited: float | None = None,
        ran: float | None = None,
        duration: float | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell those who want it. Ask `wanted` before making the fields."""
        event = PoolEvent(
            event_type,
            time.time(),
            self.pool,
            worker_id,
            request_id,
            session_id,
            kind,
            waited,
            ran,
            duration,
            data,
        )
        for subscription in self._subscriptions:
            if event_type in subscription.types:
                subscription.take(event)

    def finish(self) -> None:
        """The pool is closed: say so, and nothing more."""
        # Without the lock, which a caller may hold who is being interrupted: the I/O thread never waits.
        if self._ended:
            return
        self._ended = True
        if "pool_closed" in self.wanted:
            self.send("pool_closed")
        for subscription in self._subscriptions:
            subscription.end()

    def join(self, deadline: float, besides: Collection[threading.Thread] = ()) -> None:
        """Wait for the callbacks that have not seen the end yet, until `deadline`."""
        for subscription in self._subscriptions:
            subscription.join(deadline, besides)
            self.remove(subscription)
