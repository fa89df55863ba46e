"""Messages of a kernel's own on iopub."""

from __future__ import annotations

from typing import Any

__all__ = ["publish"]


def publish(
    kernel: Any,
    kind: str,
    content: dict[str, Any],
    parent: Any,
    ident: bytes,
    *,
    metadata: dict[str, Any] | None = None,
    buffers: Any = None,
) -> None:
    """Send a message on iopub from any thread, with this parent; {}: it belongs to no request.

    ipykernel (7.4) would take whatever the main thread runs now. Without buffers it is copied, however
    large: else pyzmq needs a thread that has ended when a pool tells of its end at the interpreter's.
    """
    session = kernel.session
    message = session.msg(kind, content, parent=parent, metadata=metadata)
    frames = [*session.serialize(message, ident), *(buffers or ())]
    copy = not buffers or max(map(len, frames)) < session.copy_threshold
    kernel.iopub_socket.send_multipart(frames, copy=copy)
