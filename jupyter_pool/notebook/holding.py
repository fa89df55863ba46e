"""Which cells of a notebook hold a worker. Light to import: a worker that is held is `hold.Hold`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .hold import Hold

__all__ = ["Holds"]


class Holds:
    """The workers that the cells of a notebook hold; one for each cell."""

    def __init__(self) -> None:
        self._by_cell: dict[object, Hold] = {}

    def add(self, cell: object, hold: Hold) -> None:
        """A cell holds a worker from now on. What it held before ends: its widgets are shown no more.

        `cell` is None where the front end does not say which cell it runs.
        """
        self._by_cell = {key: held for key, held in self._by_cell.items() if not held.over.is_set()}
        self._by_cell[hold if cell is None else cell] = hold

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
