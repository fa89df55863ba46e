"""The lines of a cell, numbered in the worker as the notebook shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.pool import KernelPool

__all__ = ["as_numbered_here", "cell_above"]


def as_numbered_here(shell: InteractiveShell, pool: KernelPool, body: str) -> str:
    """Return a cell's code below the lines of the magics above it, as comments.

    So tracebacks, and errors that name a line, name the one that the notebook shows.
    """
    if pool.config.kernel_name is not None:
        return body  # perhaps not even Python
    return "".join(f"# {line}\n" for line in cell_above(_running_cell(shell), body)) + body


def cell_above(cell: str, body: str) -> list[str]:
    """The lines of a cell above its body; none if they are not to be told, or would be in the way."""
    end = body.rstrip()
    whole = cell.rstrip()
    # A magic has to be in the first line.
    if not end or end.lstrip().startswith("%%") or not whole.endswith(f"\n{end}"):
        return []
    return whole[: -len(end)].splitlines()


def _running_cell(shell: InteractiveShell) -> str:
    try:
        # Not every shell has a kernel, and its type does not know of it.
        return str(getattr(shell, "kernel").get_parent()["content"]["code"])  # noqa: B009
    except (AttributeError, KeyError, TypeError):
        return ""
