"""How much memory this process has, read cheaply enough to be read around every cell."""

from __future__ import annotations

import os
import sys

__all__ = ["resident"]

_PAGE = os.sysconf("SC_PAGE_SIZE") if sys.platform.startswith("linux") else 0


def resident() -> int | None:
    """The resident bytes of this process; None where that would be dear (not Linux)."""
    if not _PAGE:
        return None
    try:
        # Opened anew: a file of /proc that was opened before a fork is the parent's.
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(256).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None
