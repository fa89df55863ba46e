"""`jupyter pool …`: the command line.

jupyter_core runs the script `jupyter-pool` for `jupyter pool`; each subcommand is an application of
its own, so that options work as in every other Jupyter command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the script `jupyter-pool`."""
    try:
        from .app import PoolApp

        PoolApp.launch_instance(None if argv is None else list(argv))
    except KeyboardInterrupt:  # while nothing runs yet, as at the import of what it takes
        sys.exit(130)
