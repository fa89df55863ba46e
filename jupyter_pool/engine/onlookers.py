"""Who looks on while pools work: the notebook's monitors and panels. Light to import.

    something has changed ──▶ the waker      (any pool, any thread)
    a pool has come or gone ──▶ the listener too

What they then see is an `activity` snapshot.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar

__all__ = ["CELL", "VERSION", "changed", "listen", "stir", "watch"]

#: Snapshots of another version are not understood by this version's views. It goes up when something
#: is renamed, removed or means something else; not when something is added that views can do without.
VERSION = 1

#: The id of the notebook cell that runs, where somebody notes it: it is what causes a request.
CELL: ContextVar[str | None] = ContextVar("jupyter_pool_cell", default=None)

_waker: Callable[[], None] | None = None
_listener: Callable[[], None] | None = None


def watch(waker: Callable[[], None] | None) -> None:
    """Have it called whenever something has changed in any pool, from any thread; None: nobody.

    It must not block.
    """
    global _waker
    _waker = waker


def listen(listener: Callable[[], None] | None) -> None:
    """Have it called whenever a pool has come or gone, in the thread that did it; None: nobody.

    It must neither block nor raise.
    """
    global _listener
    _listener = listener


def changed() -> None:
    """Something has changed in a pool."""
    if _waker is not None:
        _waker()


def stir() -> None:
    """A pool has come or gone."""
    changed()
    if _listener is not None:
        _listener()


def _after_fork() -> None:
    watch(None)
    listen(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
