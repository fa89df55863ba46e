"""What a background cell puts out: all of it is kept, and what is no HTML is shown by itself.

A job's handle is HTML, which is replaced as it changes. Widgets, plots of plotly and Vega and the
like are not to be replaced, nor can HTML hold them: each is a display of its own below the handle,
wherever that is shown, and is updated there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jupyter_pool.outputs import OutputCollector

from .comms import CellComms
from .live import WIDGET_VIEW
from .outlets import CellOutlet
from .pace import Pace

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.engine.comms import CommRoute
    from jupyter_pool.engine.staying import Stay

__all__ = ["JobOutputs"]

Event = Mapping[str, Any]

_OTHERS = frozenset(("application/geo+json", "application/javascript"))


@dataclass(eq=False)
class _Rich:
    """A display of its own."""

    display_id: str
    #: The worker's id of it, if it has one.
    known_as: str
    data: dict[str, Any]
    metadata: dict[str, Any]


class JobOutputs:
    """An `on_output` that keeps what comes.

    Parameters
    ----------
    quiet
        Show nothing by itself.
    """

    def __init__(self, shell: InteractiveShell, *, quiet: bool = False) -> None:
        self._kernel: Any = getattr(shell, "kernel", None)
        self._lock = threading.RLock()
        self._collector = OutputCollector()
        self._rich: list[_Rich] = []
        self._clear_before_next = False
        #: The cells that show it.
        self._cells: list[CellOutlet] = []
        self._pace = Pace()
        #: The widgets; None: there is no front end, or nothing is shown.
        self.comms: CellComms | None = None
        #: That the worker is to stay for the widgets when the code has ended.
        self.stay: Stay | None = None
        if self._kernel is not None and not quiet:
            outlet = CellOutlet(self._kernel)
            self.comms = CellComms(self._kernel, outlet, lambda: self._pace.wait(0))
        #: Called when there is something new.
        self.changed: Callable[[], None] = _nothing

    def connect(self, route: CommRoute) -> bool:
        """Take the comm messages of the request too, if there is a front end for them."""
        if self.comms is None:
            return False
        self.comms.connect(route)
        return True

    def __call__(self, event: Event) -> None:
        """Take in an event of `OutputCollector.add`, or a comm message."""
        if self.comms is not None and self.comms.take(event):
            return
        with self._lock:
            self._show_what_is_rich(event)
            self._collector.add(event["output_type"], event)
        self.changed()

    def end(self) -> None:
        """The worker serves others now."""
        if self.comms is not None:
            self.comms.end()

    def show(self) -> None:
        """Show what is rich in the cell that runs: what there is, and what comes."""
        if self.comms is None:
            return
        with self._lock:
            cell = CellOutlet(self._kernel)
            self._cells.append(cell)
            for rich in self._rich:
                self._publish(rich, cell)

    def outputs(self) -> list[dict[str, Any]]:
        """What the handle shows."""
        with self._lock:
            outputs = self._collector.display_outputs
        return [one for one in outputs if not self._is_rich(one)]

    # -- what is a display of its own --------------------------------------------------------

    def _is_rich(self, output: Event) -> bool:
        if self.comms is None or output["output_type"] not in ("display_data", "execute_result"):
            return False
        view = output["data"].get(WIDGET_VIEW)
        if view is not None:
            return isinstance(view, Mapping) and self.comms.knows(view.get("model_id"))
        return any(
            mime.startswith("application/vnd.") or mime in _OTHERS for mime in output["data"]
        )

    def _show_what_is_rich(self, event: Event) -> None:
        kind = event["output_type"]
        if kind == "clear_output":
            self._clear_before_next = event["wait"]
            if not event["wait"]:
                self._clear()
            return
        if kind == "update_display_data":
            self._update(event)
            return
        if self._clear_before_next:
            self._clear_before_next = False
            self._clear()
        if self._is_rich(event):
            known_as = (event.get("transient") or {}).get("display_id") or ""
            if known_as:
                self._update(event)  # as showing a display anew does everywhere
            rich = _Rich(uuid4().hex, known_as, dict(event["data"]), dict(event["metadata"]))
            self._rich.append(rich)
            for cell in self._cells:
                self._publish(rich, cell)

    def _update(self, event: Event) -> None:
        shown = (event.get("transient") or {}).get("display_id")
        for rich in self._rich:
            if shown and rich.known_as == shown:
                rich.data, rich.metadata = dict(event["data"]), dict(event["metadata"])
                self._replace(rich)

    def _clear(self) -> None:
        for rich in self._rich:
            # A display cannot be taken away again.
            rich.data, rich.metadata = {"text/html": "", "text/plain": ""}, {}
            self._replace(rich)
        self._rich.clear()

    def _replace(self, rich: _Rich) -> None:
        if self._cells:  # front ends find the others by the id
            self._publish(rich, self._cells[0], update=True)

    def _publish(self, rich: _Rich, cell: CellOutlet, *, update: bool = False) -> None:
        self._pace.wait(0)
        transient = {"display_id": rich.display_id}
        cell.publish(rich.data, rich.metadata, transient, update=update)


def _nothing() -> None:
    pass
