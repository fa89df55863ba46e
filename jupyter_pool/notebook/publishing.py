"""Messages of a kernel's own on iopub."""

from __future__ import annotations

from typing import Any

__all__ = ["publish"]


def publish(kernel: Any, kind: str, content: dict[str, Any], parent: Any, ident: Any) -> None:
    """Send a message on iopub from any thread, as belonging to no request of the moment.

    ipykernel (7.4) would take for its parent whatever the main thread runs now.
    """
    kernel.session.send(kernel.iopub_socket, kind, content, parent=parent, ident=ident)
