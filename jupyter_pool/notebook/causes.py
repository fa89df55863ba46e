"""Which cell causes a request: noted while a cell runs, for those who later want to find it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_pool.engine.onlookers import CELL

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Causes"]


class Causes:
    """Notes the cell that runs where requests look for it, until closed.

    The note goes along into tasks that the cell begins, and not into threads.

    Parameters
    ----------
    running
        The id of the cell that loads the extension: it has begun already. None: nobody says.
    """

    def __init__(self, shell: InteractiveShell, running: object) -> None:
        self._events = shell.events
        self._events.register("pre_run_cell", self._begins)
        self._events.register("post_run_cell", self._ended)
        CELL.set(running if isinstance(running, str) else None)

    def close(self) -> None:
        """Note nothing any more."""
        self._events.unregister("pre_run_cell", self._begins)
        self._events.unregister("post_run_cell", self._ended)
        CELL.set(None)

    # Code that runs inside of a cell, as a notebook's by %run, has no id and changes nothing.

    def _begins(self, info: Any) -> None:
        if info.cell_id is not None:
            CELL.set(info.cell_id)

    def _ended(self, result: Any) -> None:
        if result.info is not None and result.info.cell_id is not None:
            CELL.set(None)
