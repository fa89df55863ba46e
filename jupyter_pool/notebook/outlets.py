"""Where a worker's outputs come out: through the notebook's shell, or straight in a cell."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from IPython.core.displaypub import CapturingDisplayPublisher

from .publishing import publish

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["CellOutlet", "Outlet", "ShellOutlet"]


class Outlet(Protocol):
    """Takes outputs."""

    def is_captured(self) -> bool:
        """Whether somebody collects the outputs, so that no front end sees them now."""

    def write(self, name: str, text: str) -> None:
        """Text of ``stdout`` or ``stderr``."""

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        transient: Mapping[str, Any],
        *,
        update: bool,
    ) -> None:
        """A display, or the update of one."""

    def clear(self, *, wait: bool) -> None:
        """Clear what there is, at once or with the next output."""


class ShellOutlet:
    """Through the notebook's own shell, as if the code had run here."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    def is_captured(self) -> bool:
        return isinstance(self._shell.display_pub, CapturingDisplayPublisher)

    def write(self, name: str, text: str) -> None:
        # Looked up each time: %%capture and output widgets put streams of their own there.
        stream = sys.stderr if name == "stderr" else sys.stdout
        stream.write(text)
        stream.flush()

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        transient: Mapping[str, Any],
        *,
        update: bool,
    ) -> None:
        # Looked up each time: %%capture puts a publisher of its own there.
        self._shell.display_pub.publish(
            dict(data), dict(metadata), transient=dict(transient), update=update
        )

    def clear(self, *, wait: bool) -> None:
        self._shell.display_pub.clear_output(wait)


class CellOutlet:
    """Straight to the cell that runs now, later and from any thread.

    What other cells do to the streams and the display publisher meanwhile, as %%capture does, is
    theirs. Leans on ipykernel's `Kernel.iopub_socket`, into which any thread may send (checked on
    ipykernel 7.4).
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        #: The request that ran the cell.
        self.parent: dict[str, Any] = kernel.get_parent()

    def is_captured(self) -> bool:
        return False

    def write(self, name: str, text: str) -> None:
        self.send("stream", {"name": name, "text": text})

    def publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        transient: Mapping[str, Any],
        *,
        update: bool,
    ) -> None:
        content = {"data": dict(data), "metadata": dict(metadata), "transient": dict(transient)}
        self.send("update_display_data" if update else "display_data", content)

    def clear(self, *, wait: bool) -> None:
        self.send("clear_output", {"wait": wait})

    def send(
        self,
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        parent: dict[str, Any] | None = None,
        buffers: Any = None,
        topic: str | None = None,
    ) -> None:
        """Publish any message for the cell, or for another request."""
        publish(
            self._kernel,
            kind,
            content,
            self.parent if parent is None else parent,
            (topic or kind).encode(),
            metadata=metadata,
            buffers=buffers,
        )
