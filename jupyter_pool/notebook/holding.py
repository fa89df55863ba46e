"""Which cells of a notebook hold a worker. Light to import: a worker that is held is `hold.Hold`.

Those of background cells belong to their jobs, see `job`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .live import elapsed

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .hold import Hold

__all__ = ["Holds", "cell_id", "how_long"]


def cell_id(shell: InteractiveShell) -> object:
    """Which cell runs, if the front end says so."""
    kernel = getattr(shell, "kernel", None)
    return kernel and (kernel.get_parent().get("metadata") or {}).get("cellId")


def how_long(seconds: float | None) -> str:
    """For how long a worker is held, to come after "widgets live"; None: see `hold.JobHold`."""
    if seconds is None:
        return "until a worker is needed"
    if math.isinf(seconds):
        return "without limit"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"for {seconds // size:.0f} {unit}"
    return f"for {elapsed(seconds)}" if seconds >= 1 else f"for {seconds:g} s"


class Holds:
    """The workers that the cells of a notebook hold; one for each cell."""

    def __init__(self) -> None:
        self._by_cell: dict[object, Hold] = {}
        self._names: dict[Hold, str] = {}

    def add(self, cell: object, hold: Hold, name: str) -> None:
        """A cell holds a worker from now on. What it held before ends: its widgets are shown no more.

        `cell` is None where the front end does not say which cell it runs. `name` is for people.
        """
        self._by_cell = {key: held for key, held in self._by_cell.items() if not held.over.is_set()}
        self._by_cell[hold if cell is None else cell] = hold
        self._names = {held: self._names.get(held, name) for held in self._by_cell.values()}

    @property
    def by_name(self) -> dict[str, Hold]:
        """Those that are not over, by the names of their cells."""
        held = [hold for hold in self._by_cell.values() if not hold.over.is_set()]
        return {self._names[hold]: hold for hold in held}

    def count(self, pool: object) -> int:
        """How many workers of a pool are held."""
        return sum(hold.pool is pool and not hold.over.is_set() for hold in self._by_cell.values())

    def end(self, cell: object) -> None:
        """End what a cell holds, if it does."""
        hold = self._by_cell.pop(cell, None)
        if hold is not None:
            hold.end()

    def end_all(self) -> None:
        """End them all."""
        holds, self._by_cell = self._by_cell, {}
        for hold in holds.values():
            hold.end()
