"""Comms in a worker: what callbacks put out is limited, and a reset leaves none behind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["forget_comms", "serve_comm"]


def serve_comm(kernel: Any, handle: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the kernel's handler of a comm message: it gets an output limit of its own.

    The limit is that of the cell that made the widget. A callback within a cell that awaits is part
    of that cell.
    """

    def serve(stream: Any, ident: Any, message: dict[str, Any]) -> Any:
        if kernel.in_pool_request:
            try:
                return handle(stream, ident, message)
            finally:
                # ipykernel says nothing of messages that it takes while a cell awaits, and whoever
                # has sent this one waits with the next.
                idle = {"execution_state": "idle"}
                kernel.session.send(kernel.iopub_socket, "status", idle, parent=message)
        iopub = kernel.iopub_thread
        iopub.begin_request(iopub.limit.limit, message["header"], comms=True)
        try:
            return handle(stream, ident, message)
        finally:
            kernel.finish_streams()
            iopub.finish_request()

    return serve


def forget_comms(manager: Any) -> None:
    """Let go of every comm without a word: front ends keep what they show.

    Leans on `_closed` of comms, and on ipywidgets' `_instances`, which keeps every widget (checked on
    comm 0.2.3, ipywidgets 8.1).
    """
    for comm in manager.comms.values():
        comm._closed = True  # or it would close its views when it is collected
    manager.comms.clear()
    widgets = sys.modules.get("ipywidgets.widgets.widget")
    instances = getattr(widgets, "_instances", None)
    if instances:
        instances.clear()
