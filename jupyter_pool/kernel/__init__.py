"""What runs inside a worker: the kernel, its streams, the reset between requests.

It is a complete Jupyter kernel; requests that carry the metadata key
``jupyter_pool`` also get inputs, outputs and a reset. Nothing in here is
imported by the owner, except `command`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["PRELOAD", "command"]


#: How `command` says what to import first.
PRELOAD = "--PoolKernelApp.preload="


def command(preload: Iterable[str] = (), python: str = sys.executable) -> list[str]:
    """Return the command line of a worker, as a kernelspec's ``argv``.

    Parameters
    ----------
    preload
        Names of modules that it imports before it is ready.

    The same as ``python -m jupyter_pool.kernel -f {connection_file}``, but by
    path: `-m` looks for the package with the working folder first on the path,
    where a user's `typing.py` would be taken for the standard library's.
    """
    script = str(Path(__file__).with_name("__main__.py"))
    return [python, script, "-f", "{connection_file}", *(f"{PRELOAD}{name}" for name in preload)]
