"""What a notebook shows: magics, the relay of outputs, completion.

Loading is cheap: `load_ipython_extension` imports the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics (``%load_ext jupyter_pool``). Starts nothing; doing it twice is fine."""
    from .magics import load  # `import jupyter_pool` must not load IPython

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take the magics away and close the pool that they started by themselves."""
    from .magics import unload

    unload(shell)
