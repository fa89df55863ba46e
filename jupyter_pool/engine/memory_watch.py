"""Watching that no worker exceeds `memory_limit`, in a thread of its own.

    every 0.1 s, while somebody holds a worker
        resident sizes of the worker and its children    one small file each, what is shared included
          below the limit ─▶ nothing
          above it ────────▶ the exact figure ── above the limit ─▶ told, once

What is resident is never less than what counts, so nothing need be measured exactly below the limit.
Above it workers may still be within it, by what they share with others: that difference is remembered,
and measured again when it no longer explains the excess, or after a while.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jupyter_pool.provisioning import processes

from .memory import of_family, resident

_LINUX = sys.platform.startswith("linux")

#: How often the workers that run something are looked at, in seconds.
INTERVAL = 0.1
#: How often their children are looked for, in seconds: that costs a look at every process there is.
FAMILY_INTERVAL = 0.25
#: After what time the exact figure is read again although nothing asks for it, in seconds.
EXACT_INTERVAL = 1.0
#: What takes long is done so much less often: it takes at most one part in so many of a processor.
_SHARE = 10


@dataclass(frozen=True, slots=True)
class Excess:
    """How much memory a worker had when it was found to have too much, in bytes."""

    peak: int
    limit: int
    #: What was resident when it became ready.
    at_ready: int
    #: The last words of its process, with the stacks at its end.
    stderr: str = ""


@dataclass(slots=True, eq=False)
class _Account:
    """What is known of one worker."""

    worker_id: int
    pid: int
    at_ready: int
    holder: str | None = None
    #: The holder that was found to exceed the limit. It may have been over by then, and the next one,
    #: such as the lease that it ran in, must be looked at again.
    told: str | None = None
    #: By how much the resident sizes exceeded what counts, when that was last measured.
    shared: int = 0
    exact_at: float = 0.0


class MemoryWatch:
    """The memory of a pool's workers. Its thread lives from the first request to `close`.

    `exceeded` is called there, with the worker's id, its holder's, and how much it was.
    """

    def __init__(self, name: str, limit: int, exceeded: Callable[[int, str, Excess], None]) -> None:
        self.limit = limit
        self._name = name
        self._exceeded = exceeded
        self._accounts: dict[int, _Account] = {}
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._families: dict[int, set[int]] = {}
        self._families_at = 0.0

    # -- on the I/O thread -------------------------------------------------------------------

    def ready(self, worker_id: int, pid: int) -> None:
        """A worker of this machine can be used from now on."""
        with self._lock:
            self._accounts[worker_id] = _Account(worker_id, pid, resident(pid) or 0)

    def hold(self, worker_id: int, holder: str | None) -> None:
        """That request or lease has the worker now, or nobody."""
        with self._lock:
            account = self._accounts.get(worker_id)
            if account is None:
                return
            account.holder = holder
        if holder is None or self._work.is_set():
            return
        self._work.set()
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(
                target=self._run, name=f"jupyter_pool memory of {self._name}", daemon=True
            )
            self._thread.start()

    def grown(self, worker_id: int) -> bool:
        """Whether a worker has got too large to go on, by what is resident since it was ready."""
        account = self._accounts.get(worker_id)
        now = resident(account.pid) if account is not None else None
        if account is None or now is None:
            return False
        return now - account.at_ready > self.limit / 2

    def forget(self, worker_id: int) -> None:
        """A worker is gone."""
        with self._lock:
            self._accounts.pop(worker_id, None)

    def close(self) -> None:
        """End the thread; does not wait for it."""
        self._closed.set()
        self._work.set()

    # -- in the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        while self._work.wait() and not self._closed.is_set():
            # In this order: who comes after the look at who is there sets it again.
            self._work.clear()
            while self._held():
                # First the pause, so that short requests cost nothing.
                if self._closed.wait(INTERVAL):
                    return
                self._look(self._held())

    def _held(self) -> list[tuple[_Account, str]]:
        with self._lock:
            return [
                (account, account.holder)
                for account in self._accounts.values()
                if account.holder is not None and account.holder != account.told
            ]

    def _look(self, held: list[tuple[_Account, str]]) -> None:
        self._find_families([account.pid for account, _ in held])
        for account, holder in held:
            family = [account.pid, *self._families.get(account.pid, ())]
            size = sum(resident(pid) or 0 for pid in family)
            if size <= self.limit:
                continue
            now = time.monotonic()
            if size - account.shared <= self.limit and now < account.exact_at:
                continue
            exact = of_family(family, account.at_ready)
            took = time.monotonic() - now
            account.shared = size - exact
            account.exact_at = now + max(EXACT_INTERVAL, _SHARE * took)
            if exact > self.limit:
                account.told = holder
                self._exceeded(
                    account.worker_id, holder, Excess(exact, self.limit, account.at_ready)
                )

    def _find_families(self, pids: list[int]) -> None:
        now = time.monotonic()
        if now >= self._families_at:
            self._families = _families(pids)
            took = time.monotonic() - now
            self._families_at = now + max(FAMILY_INTERVAL, _SHARE * took)


def _families(pids: Iterable[int]) -> dict[int, set[int]]:
    if _LINUX:
        return processes.families(pids)
    import psutil

    found: dict[int, set[int]] = {}
    for pid in pids:
        try:
            found[pid] = {child.pid for child in psutil.Process(pid).children(recursive=True)}
        except psutil.Error:
            found[pid] = set()
    return found
