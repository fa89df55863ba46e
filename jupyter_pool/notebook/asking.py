"""``input()`` and ``getpass()`` of a pool cell: asked here, answered there."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["input_of"]


def input_of(shell: InteractiveShell) -> Callable[[str, bool], str] | None:
    """Return what asks the person in front of the running cell; None if there is nobody.

    Leans on the kernel's `_allow_stdin`, which is what the front end has said with the cell (checked
    on ipykernel 7.4).
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return _ask if _is_terminal() else None
    return _ask if getattr(kernel, "_allow_stdin", False) else None


def _ask(prompt: str, password: bool) -> str:
    # In a kernel both are its own, which ask the front end.
    return getpass.getpass(prompt) if password else input(prompt)


def _is_terminal() -> bool:
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # closed
        return False
