"""Where a display was shown that goes on changing, and how it can be changed there.

A front end that shows widgets finds them by their model, also after its page was loaded anew; any
other one finds a display by its id. JupyterLab must not be told both: for each update by id it
builds the widget's view anew, and keeps the old one until the cell is cleared (4.6,
``OutputArea._setOutput`` and the widget manager's ``renderModel``). No request says which kind of
front end sent it, so each place is judged:

========== =================================== ===============================================
front end  how its requests are known          updates by id
========== =================================== ===============================================
runner     they take no input                  always; it gets no widget
VS Code    a URI names the cell                always, where the widget can be done without; or
                                               else until a view of it has given a sign
notebook   an id names the cell                when it has closed the widget's comm: as Jupyter's
                                               messaging asks of a side that knows no widgets
other                                          until a view of the widget has given a sign
========== =================================== ===============================================

Both signs are messages, which wait while cells run; so what a front end has once shown is remembered.
Checked on nbclient 0.11, JupyterLab 4.6, Notebook 7.6, and the sources of VS Code's Jupyter extension
(``src/kernels/execution/cellExecution.ts``), which keeps a single output for each display id: so
every place has an id of its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from .outlets import CellOutlet

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["FrontEnd", "Place", "front_end"]

FrontEnd = Literal["runner", "vscode", "notebook", "other"]

#: The beginning and the end of a cell.
_EVENTS = ("pre_run_cell", "post_run_cell")
#: For each kernel, what its front ends have shown to know of a sort of widgets: by session, and sort.
_known: weakref.WeakKeyDictionary[Any, dict[tuple[str, str], bool]] = weakref.WeakKeyDictionary()


def front_end(request: Mapping[str, Any]) -> FrontEnd:
    """Which kind of front end has sent an ``execute_request``."""
    # Voilà runs a notebook as nbclient does, and then shows its widgets in a page.
    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")
    if request.get("content", {}).get("allow_stdin") is False and not voila:
        return "runner"
    cell = request.get("metadata", {}).get("cellId")
    if not isinstance(cell, str):
        return "other"
    return "vscode" if cell.startswith("vscode-") else "notebook"


class Place:
    """A display below the cell that runs now.

    Parameters
    ----------
    sort
        Which package's views show the widget there is: a front end may know one and not the other.
    needs_widget
        Whether HTML would be a poor stand-in.
    """

    def __init__(self, shell: InteractiveShell, sort: str, *, needs_widget: bool) -> None:
        self._shell = shell
        kernel: Any = getattr(shell, "kernel")  # noqa: B009 - not every shell has one
        self._kernel = kernel
        self._cell = CellOutlet(kernel)
        self._lock = threading.Lock()
        self._again: Mapping[str, Any] | None = None
        self._id = uuid4().hex
        self._front_end = front_end(self._cell.parent)
        self._known = _known.setdefault(kernel, {})
        self._key = (self._cell.parent.get("header", {}).get("session", ""), sort)
        #: Whether to show the widget here.
        self.takes_widget = (
            self._front_end != "runner"
            and (needs_widget or self._front_end != "vscode")
            and self._known.get(self._key) is not False
        )

    def show(self, data: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> None:
        """Show it, through the shell's publisher, as a cell's own displays."""
        self._shell.display_pub.publish(
            dict(data), dict(metadata or {}), transient={"display_id": self._id}, update=False
        )

    def update(self, data: Mapping[str, Any]) -> None:
        """Show this instead. From any thread, past the shell and the cell that runs meanwhile."""
        sure = threading.current_thread() is threading.main_thread()
        with self._lock:  # also while it is sent: what is newer comes later
            self._say_again(data if self._front_end == "runner" and not sure else None)
            self._send(data)

    def _say_again(self, data: Mapping[str, Any] | None) -> None:
        """Have this repeated at the next cell's beginning or end, instead of what was to be."""
        if (data is None) is not (self._again is None):
            events = self._shell.events
            for event in _EVENTS:
                (events.unregister if data is None else events.register)(event, self._repeat)
        self._again = data

    def _send(self, data: Mapping[str, Any]) -> None:
        # nbclient takes only what belongs to the cell that runs (``_async_poll_output_msg``).
        parent = self._kernel.get_parent() if self._front_end == "runner" else None
        content = {"data": dict(data), "metadata": {}, "transient": {"display_id": self._id}}
        self._cell.send("update_display_data", content, parent=parent)

    def _repeat(self, _: object = None) -> None:
        """Say again, now that a cell runs, what may have been said between two."""
        with self._lock:
            data = self._again
            if data is None:
                return  # something newer was said in the meantime
            self._say_again(None)
            self._send(data)

    def wants_updates(self) -> bool:
        """Whether updates of the widget, if there is one, do not reach it."""
        if not self.takes_widget:
            return True
        return not self._known.get(self._key, self._front_end == "notebook")

    def has_view(self) -> None:
        """A view of the widget has given a sign."""
        if self.takes_widget:
            self._known[self._key] = True

    def has_no_view(self) -> None:
        """The front end has closed the widget's comm."""
        if self.takes_widget:
            self.takes_widget = False
            self._known[self._key] = False
