"""What a cell shows while it waits for a worker, and takes away again.

A stored notebook should not depend on whether a worker happened to be busy, so the
notice has to leave no trace. In a notebook it is a display that begins *empty*, is
filled by an update and emptied by another: tools that compare outputs look at displays
and not at updates. Where the whole cell is the magic, `clear_output` then removes the
empty display as well; elsewhere it could remove what the cell showed before.
"""

from __future__ import annotations

import html
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from IPython.core.displaypub import CapturingDisplayPublisher

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.results import WaitInfo

__all__ = ["Notice", "WaitNotice", "wait_text"]

_ERASE_LINE = "\r\x1b[2K"
# Cell magics that show nothing of their own before the cell below them has run.
_SILENT_BEFORE = ("%%time", "%%capture")


def wait_text(info: WaitInfo, *, first_use: bool = False, held: int = 0) -> str:
    """Say in one line why a request waits. `held`: how many workers cells hold for their widgets."""
    if info.state == "starting":
        workers = f"{info.starting} worker{'s' if info.starting != 1 else ''}"
        return f"Starting {workers}{' (first use)' if first_use else ''}…"
    parts = [f"{info.busy} busy"]
    if info.starting:
        parts.append(f"{info.starting} starting")
    if held:
        parts.append(f"{held} of them held for widgets (--hold)")
    parts.append(f"{info.ahead} ahead of you" if info.ahead else "you are next")
    return f"Waiting for a worker: {', '.join(parts)}."


class Notice:
    """A line, or a bit more, that is shown for a while and leaves no trace."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._text = ""
        self._display_id = ""
        self._on_terminal = False

    def show(self, text: str, html: str = "") -> None:
        """Show this instead of what it showed before."""
        if text == self._text:
            return
        if hasattr(self._shell, "kernel"):
            if isinstance(self._shell.display_pub, CapturingDisplayPublisher):
                return
            self._text = text  # before it is seen: a Ctrl-C may come as soon as it is
            if not self._display_id:
                self._display_id = uuid4().hex
                self._publish({}, update=False)
            bundle = {"text/plain": text, "text/html": html} if html else _bundle(text)
            self._publish(bundle, update=True)
        elif sys.stderr.isatty():
            self._text, self._on_terminal = text, True
            sys.stderr.write(f"{_ERASE_LINE}{text}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the notice away if there is one."""
        if not self._text:
            return
        self._text = ""
        if self._on_terminal:
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()
        elif self._display_id:
            self._publish({}, update=True)
            if is_whole_cell(self._shell):
                self._shell.display_pub.clear_output()
            self._display_id = ""

    def _publish(self, data: dict[str, Any], *, update: bool) -> None:
        self._shell.display_pub.publish(
            data, {}, transient={"display_id": self._display_id}, update=update
        )


class WaitNotice(Notice):
    """Shows the waiting of one request; call it with each `WaitInfo`."""

    def __init__(self, shell: InteractiveShell, *, first_use: bool = False, held: int = 0) -> None:
        super().__init__(shell)
        self._first_use = first_use
        self._held = held

    def __call__(self, info: WaitInfo) -> None:
        """Show the state of waiting, or that it is over."""
        if info.state == "running":
            self.clear()
        elif info.state == "interrupting":
            # It stays: what it precedes is there to see as well.
            sys.stderr.write("Interrupting the worker…\n")
            sys.stderr.flush()
        else:
            self.show(wait_text(info, first_use=self._first_use, held=self._held))


def _bundle(text: str) -> dict[str, Any]:
    colour = "var(--jp-content-font-color2, gray)"
    return {
        "text/plain": text,
        "text/html": f'<div style="color:{colour}">{html.escape(text)}</div>',
    }


def is_whole_cell(shell: InteractiveShell) -> bool:
    """Tell whether the cell that runs is ``%%pool_exec`` and nothing else.

    Only then nothing can have been shown before.
    """
    try:
        # Not every shell has a kernel, and its type does not know of it.
        code = getattr(shell, "kernel").get_parent()["content"]["code"]  # noqa: B009
    except (AttributeError, KeyError, TypeError):
        return False
    for line in code.lstrip().splitlines():
        magic = line.split(None, 1)[0] if line.strip() else ""
        if magic not in _SILENT_BEFORE:
            return bool(magic == "%%pool_exec")
    return False
