"""The end of the process: finish what was submitted, then close every pool.

As CPython's own executors do: before the interpreter stops other threads, so that work which is
still queued can run to its end. A forked child inherits nothing to close.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .face import PoolFace

_open: weakref.WeakSet[PoolFace] = weakref.WeakSet()
_pid = os.getpid()
_over = False


def is_over() -> bool:
    """Whether this process is about to end, and takes nothing more."""
    return _over


def remember(pool: PoolFace) -> None:
    """A pool has workers now."""
    _open.add(pool)


def forget(pool: PoolFace) -> None:
    """A pool is closed."""
    _open.discard(pool)


def _close_all() -> None:
    global _over
    if os.getpid() != _pid:
        return
    _over = True
    closing = [(pool, pool.begin_close(now=False)) for pool in list(_open)]
    for pool, driver in closing:
        if driver is not None:
            try:
                pool.see_closed(driver, None)
            except BaseException:  # noqa: BLE001 - Ctrl-C at exit: it has finished nothing more
                pass


def _after_fork() -> None:
    global _pid
    _pid = os.getpid()
    _open.clear()


# What concurrent.futures uses; runs before the interpreter waits for threads, while new ones may
# still be started. Absent it, atexit comes late but comes.
_register = getattr(threading, "_register_atexit", atexit.register)
_register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
