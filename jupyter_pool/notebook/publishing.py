"""Messages of a kernel's own on iopub."""

from __future__ import annotations

from typing import Any

__all__ = ["publish"]


def publish(kernel: Any, kind: str, content: dict[str, Any], parent: Any, ident: Any) -> None:
    """Send a message on iopub from any thread, with this parent; {}: it belongs to no request.

    ipykernel (7.4) would take whatever the main thread runs now. Copied, however large:
    without, pyzmq needs a thread that has ended when a pool tells of its end at the interpreter's.
    """
    session = kernel.session
    frames = session.serialize(session.msg(kind, content, parent=parent), ident)
    kernel.iopub_socket.send_multipart(frames, copy=True)
