"""What is under way that is more than one request: jobs, sweeps and maps, for the monitors.

Jobs and sweeps are entered here while they run; of its maps a pool knows itself.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from jupyter_pool.errors import InvalidRequest

if TYPE_CHECKING:
    from jupyter_pool.engine.face import PoolFace
    from jupyter_pool.pool import KernelPool

__all__ = ["Kind", "begin", "cancel", "end", "jobs_of", "under_way"]

Kind = Literal["background", "each", "map"]

#: Maps that take less than this are not worth a line, in seconds.
_SHORT = 1.0


class Run(Protocol):
    """Something of many requests."""

    @property
    def state(self) -> str:
        """``"waiting"`` or ``"running"``, while it is under way."""

    @property
    def progress(self) -> tuple[int, int | None]:
        """How many of its items are done, and how many there are, if that is known."""

    def cancel(self) -> None:
        """Give it up."""


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    name: str
    kind: Kind
    pool: KernelPool
    run: Run
    #: A cell waits for it: orders of monitors arrive after it, and the stop button ends it.
    is_awaited: bool
    #: By the monotonic clock.
    began: float


_entries: dict[str, _Entry] = {}
_numbers = itertools.count(1)


def begin(name: str, kind: Kind, pool: KernelPool, run: Run, *, is_awaited: bool = False) -> str:
    """Enter it, from any thread; the id to end it by."""
    entry = _Entry(f"{kind}-{next(_numbers)}", name, kind, pool, run, is_awaited, time.monotonic())
    _entries[entry.id] = entry
    return entry.id


def end(entry_id: str) -> None:
    """It is under way no more."""
    _entries.pop(entry_id, None)


@contextmanager
def under_way(name: str, kind: Kind, pool: KernelPool, run: Run) -> Iterator[None]:
    """It is under way for as long as the block takes, in which it is waited for."""
    entry_id = begin(name, kind, pool, run, is_awaited=True)
    try:
        yield
    finally:
        end(entry_id)


def jobs_of(pool: PoolFace) -> list[dict[str, Any]]:
    """What is under way in a pool, the oldest first, as monitors are told of it.

    ``started`` is a Unix time; ``left`` an estimate, in seconds; ``total`` is None where there is
    nothing to count, and where a map's input has not come to its end.
    """
    now = time.monotonic()
    found = [
        (
            entry.began,
            {
                **_told(entry.id, entry.name, entry.kind, entry.run, entry.began, now),
                "cancellable": not entry.is_awaited,
            },
        )
        for entry in [*_entries.values()]
        if entry.pool is pool
    ]
    for mapping in pool.mappings:
        if now - mapping.began > _SHORT:
            told = _told(_map_id(mapping), mapping.name, "map", mapping, mapping.began, now)
            found.append((mapping.began, told))
    found.sort(key=lambda one: one[0])
    return [told for _, told in found]


def _map_id(mapping: object) -> str:
    return f"map-{id(mapping)}"


def _told(
    entry_id: str, name: str, kind: Kind, run: Run, began: float, now: float
) -> dict[str, Any]:
    done, total = run.progress
    if kind == "background":
        total = None  # one cell: there is nothing to count
    left = (now - began) / done * (total - done) if done and total is not None else None
    return {
        "id": entry_id,
        "name": name,
        "kind": kind,
        "state": run.state,
        "done": done,
        "total": total,
        "started": round(time.time() - now + began, 3),
        "left": None if left is None else round(left, 1),
        "cancellable": True,
    }


def cancel(pool: PoolFace, entry_id: str) -> None:
    """Give one of them up.

    Raises
    ------
    InvalidRequest
        It is under way no more.
    """
    entry = _entries.get(entry_id)
    if entry is not None and entry.pool is pool:
        entry.run.cancel()
        return
    for mapping in pool.mappings:
        if _map_id(mapping) == entry_id:
            mapping.cancel()
            return
    raise InvalidRequest("that job has ended already")
