"""Messages of front ends get through while a cell's output is captured.

JupyterLab sends those of widgets to a subshell, which takes them while a cell runs. ipykernel then tells
the shell's display publisher whose output comes next, by `set_parent`, and under ``%%capture`` that is
IPython's CapturingDisplayPublisher, which has no such method: the message would be lost with an
AttributeError (ipykernel 7.4, IPython 9). What is captured belongs to the capturing cell, whoever's turn
it is, so a method that does nothing is all that lacks.
"""

from __future__ import annotations

from typing import Any

from IPython.core.displaypub import CapturingDisplayPublisher

__all__ = ["let_through", "undo"]

_NAME = "set_parent"


def _set_parent(self: Any, parent: Any) -> None:
    """Nothing: all of it is captured."""


def let_through() -> None:
    """Let messages through from now on; idempotent."""
    if not hasattr(CapturingDisplayPublisher, _NAME):
        setattr(CapturingDisplayPublisher, _NAME, _set_parent)


def undo() -> None:
    """Leave IPython as it was."""
    if vars(CapturingDisplayPublisher).get(_NAME) is _set_parent:
        delattr(CapturingDisplayPublisher, _NAME)
