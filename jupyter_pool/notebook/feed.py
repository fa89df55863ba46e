"""Snapshots of a pool for its monitors, and the one thread that hands them out.

I/O thread ── something has changed ──▶ Publisher ── refresh() ──▶ every monitor that is displayed

The notebook's main thread takes no part: monitors are live while it is busy. Nothing happens while
nothing changes: then the thread sleeps for as long as it takes.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_pool.engine import activity, onlookers
from jupyter_pool.engine.log import LOGGER
from jupyter_pool.engine.memory import resident
from jupyter_pool.engine.registry import get_pool, list_pools
from jupyter_pool.errors import PoolNotAvailable

from . import underway

if TYPE_CHECKING:
    from jupyter_pool.engine.driver import Driver
    from jupyter_pool.engine.registry import AnyPool

__all__ = ["Feed", "Monitor", "Publisher", "meant"]

#: At least so long between two snapshots, in seconds.
INTERVAL = 1 / 3
#: While anything runs, at most so long: elapsed times and memory go on.
_BEAT = 1.0
#: How often memory is measured, and how often errors, sessions and statistics are sent, in seconds.
_MEASURE, _DETAILS = 1.0, 3.0
#: Every so often a snapshot holds all that is kept, for a view that missed some, in seconds.
_WHOLE = 30.0

State = dict[str, Any]


class Feed:
    """The states of the pool of one name, one after the other.

    A snapshot with ``"full": True`` stands for itself. The others hold of the ended requests only
    those that are new since the one before the last, and of errors, sessions and statistics None
    where they were not looked at: a view that has missed at most one snapshot has lost nothing.

    Parameters
    ----------
    name
        Returns the pool's name. There need not be a pool of that name.
    size
        How many workers a pool would get that is started now.
    """

    def __init__(self, name: Callable[[], str], size: int = 0) -> None:
        self._name = name
        self._size = size
        self._seq = 0
        self._seen: tuple[object, int] | None = None
        self._lively = True
        self._marks = (0.0, 0.0)
        self._whole_at = self._details_at = self._measured_at = -1e9
        self._memory: dict[int, int] = {}
        self._peaks: dict[str, int] = {}
        self._driver: Driver | None = None
        # The main thread asks for all there is, the publisher for what is new.
        self._lock = threading.Lock()

    def name(self) -> str:
        """The name of the pool that is shown."""
        return self._name()

    def next(self) -> State | None:
        """The next snapshot; None if nothing has changed since the last one."""
        with self._lock:
            return self._next()

    def _next(self) -> State | None:
        driver = self._find()
        seen = (
            (driver, driver.activity.version) if driver is not None else (None, len(list_pools()))
        )
        if seen == self._seen and not self._lively:
            return None
        whole = driver is not self._driver or time.monotonic() - self._whole_at > _WHOLE
        return self._make(driver, seen, whole=whole)

    def whole(self) -> State:
        """All there is to show, now."""
        with self._lock:
            driver = self._find()
            version = driver.activity.version if driver is not None else len(list_pools())
            return self._make(driver, (driver, version), whole=True)

    @property
    def lively(self) -> bool:
        """Whether the next snapshot will differ although nothing happens: something runs."""
        return self._lively

    @property
    def closing(self) -> bool:
        """Whether the pool that was shown last closes: it has given its name back, and still runs."""
        driver = self._driver
        return driver is not None and driver.name == self.name() and not driver.closed.is_set()

    def pool(self) -> AnyPool:
        """The pool, to have an order carried out.

        Raises
        ------
        PoolNotAvailable
            There is none, or it is closing.
        """
        name = self.name()
        try:
            return get_pool(name)
        except PoolNotAvailable:
            if not self.closing:
                raise
            raise PoolNotAvailable(
                f"pool {name!r} is closing: it ends what it runs, and takes no more orders",
                context={"pool": name},
            ) from None

    def _find(self) -> Driver | None:
        try:
            return get_pool(self.name())._driver
        except PoolNotAvailable:
            return self._driver if self.closing else None

    def _make(self, driver: Driver | None, seen: tuple[object, int], *, whole: bool) -> State:
        now = time.monotonic()
        self._seen = seen
        self._seq += 1
        details = whole or now - self._details_at > _DETAILS
        state = self._without_workers() if driver is None else self._ask(driver, whole, details)
        if driver is None and self._driver is not None and self._driver.closed.is_set():
            # What it did at the end, since it was looked at last; nobody writes there any more.
            last = self._driver.activity
            state |= {"blocks": last.ended_after(self._marks[0]), "error_count": last.error_count}
        if whole:
            self._whole_at = now
        if details:
            self._details_at = now
        self._driver = driver
        self._marks = (self._marks[1], now)
        busy = any(worker["state"] not in ("idle", "standby") for worker in state["workers"])
        # While the rate falls to nothing, and until what changed last is told in full.
        pending = driver is not None and not details and self._details_at < now
        self._lively = busy or state["waiting"] > 0 or state["rate"] > 0 or pending
        return {**state, "seq": self._seq, "full": whole, "lively": self._lively,
                "pools": list_pools(), "jobs": self._jobs()}  # fmt: skip

    def _jobs(self) -> list[dict[str, Any]]:
        try:
            return underway.jobs_of(get_pool(self.name()))
        except PoolNotAvailable:
            return []

    def _ask(self, driver: Driver, whole: bool, details: bool) -> State:
        after = None if whole else self._marks[0]
        question = partial(activity.observe, driver, after, details=details)
        state, pids = driver.engine.ask(question)
        now = time.monotonic()
        if now - self._measured_at > _MEASURE or pids.keys() != self._memory.keys():
            self._measured_at = now
            measured = ((worker, resident(pid)) for worker, pid in pids.items())
            self._memory = {worker: size for worker, size in measured if size is not None}
            self._note_peaks(state)
        for worker in state["workers"]:
            worker["memory"] = self._memory.get(worker["id"])
        for block in state["blocks"]:
            block["peak"] = self._peaks.get(block["id"])
        for waiter in state["waiters"]:
            waiter["peak"] = None
        for error in state["errors"] or ():
            error["peak"] = self._peaks.get(error["id"])
        return state

    def _note_peaks(self, state: State) -> None:
        """What requests used at most, as far as anybody looked while they ran."""
        for worker in state["workers"]:
            request, size = worker["request"], self._memory.get(worker["id"])
            if request is not None and size is not None:
                self._peaks[request] = max(size, self._peaks.pop(request, 0))
        while len(self._peaks) > 1000:
            del self._peaks[next(iter(self._peaks))]

    def _without_workers(self) -> State:
        name = self.name()
        try:
            config = get_pool(name).config
            state, size, overflow = "new", config.size, config.overflow
        except PoolNotAvailable:
            state, size, overflow = "none", self._size, 0
        return {
            "type": "pool_state", "v": onlookers.VERSION, "now": time.time(), "pool": name,
            "state": state, "reason": None, "log": None, "size": size, "overflow": overflow,
            "memory_limit": None, "counts": {}, "waiting": 0, "waiting_since": None, "rate": 0.0,
            "last_ended": None, "workers": [], "blocks": [], "waiters": [],
            "error_count": 0, "errors": [], "sessions": [], "stats": None,
        }  # fmt: skip


def meant(name: str) -> str:
    """The pool that somebody means who names none: this one or else the only one there is."""
    there = list_pools()
    return there[0] if name not in there and len(there) == 1 else name


class Monitor(Protocol):
    """Something on display that wants snapshots."""

    def refresh(self) -> bool:
        """Show what has changed; whether there is more to show soon although nothing happens.

        One that fails is refreshed again when something else has changed.
        """


class Publisher:
    """The thread that refreshes what is displayed, at most every `INTERVAL` seconds.

    It starts with the first monitor and ends with the last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._monitors: list[Monitor] = []
        #: Those whose last refresh failed, which was told.
        self._failing: list[Monitor] = []
        #: The latest; it may be about to end, and is waited for all the same.
        self._thread: threading.Thread | None = None
        self._runs = False
        # The only thing shared with the I/O thread: whole under signals, and nobody ever waits.
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = False

    def attach(self, monitor: Monitor) -> None:
        """Refresh it from now on."""
        with self._lock:
            if monitor not in self._monitors:
                self._monitors.append(monitor)
            if not self._runs:
                self._runs = True
                self._thread = threading.Thread(
                    target=self._main, name="jupyter_pool monitor", daemon=True
                )
                onlookers.watch(self._wake)
                self._thread.start()
        self._news.put(None)

    def detach(self, monitor: Monitor) -> None:
        """Leave it as it is."""
        with self._lock:
            for monitors in (self._monitors, self._failing):
                if monitor in monitors:
                    monitors.remove(monitor)
        self._news.put(None)

    def hurry(self) -> None:
        """Look again now: a monitor wants more than the news."""
        self._news.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, if the last monitor was detached."""
        thread = self._thread
        if thread is not None and not self._monitors:
            thread.join(timeout)

    def _wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._news.put(None)

    def _main(self) -> None:
        lively = True
        while True:
            # Said before the last look at the pools, so that either this thread sees a change or the
            # one who makes it sees that this thread must be woken.
            self._asleep = True
            lively = self._refresh_all()
            if self._is_over():
                return
            began = time.monotonic()
            self._sleep(_BEAT if lively else None)
            self._pause(INTERVAL - (time.monotonic() - began))

    def _sleep(self, timeout: float | None) -> None:
        try:
            self._news.get(timeout=timeout)
        except queue.Empty:
            pass

    def _pause(self, seconds: float) -> None:
        """What comes in the meantime is shown together; but a monitor that is new need not wait."""
        if seconds > 0:
            time.sleep(seconds)
        while not self._news.empty():
            self._news.get()

    def _refresh_all(self) -> bool:
        lively = False
        for monitor in [*self._monitors]:
            try:
                lively = monitor.refresh() or lively
            except Exception:  # noqa: BLE001 - one that fails must not stop the others
                if self._note(monitor, fails=True):
                    LOGGER.exception(
                        "a monitor cannot be refreshed; it is tried again with the next change"
                    )
            else:
                self._note(monitor, fails=False)
        return lively

    def _note(self, monitor: Monitor, *, fails: bool) -> bool:
        """Note how its refresh went; whether that is news. It may have been detached meanwhile."""
        with self._lock:
            if (monitor in self._failing) is fails:
                return False
            if not fails:
                self._failing.remove(monitor)
            elif monitor in self._monitors:
                self._failing.append(monitor)
            return True

    def _is_over(self) -> bool:
        with self._lock:
            if self._monitors:
                return False
            onlookers.watch(None)
            self._runs = False
            return True


#: The process's own.
publisher = Publisher()


def _after_fork() -> None:
    global publisher
    publisher = Publisher()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
