"""How many threads numeric libraries use, when they were loaded before a fork.

A template loads them with one thread each, since a fork copies no others. They read their
environment variables only then: what those of a worker say, it has to be told.
"""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["LoadedLibraries"]

#: What decides over a library's threads, by its name in threadpoolctl; the first that is set.
_VARIABLES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}


class LoadedLibraries:
    """The libraries with threads of their own that this process has loaded by now."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []
        if not {"numpy", "scipy", "sklearn", "mkl", "torch"}.isdisjoint(sys.modules):
            # Looks through all shared libraries, which takes some milliseconds: before the fork.
            from threadpoolctl import ThreadpoolController

            self._libraries = ThreadpoolController().lib_controllers

    def adopt_environment(self) -> None:
        """Give each the number of threads that it would have had if it were loaded now."""
        for library in self._libraries:
            wanted = _wanted(library.internal_api)
            if library.num_threads != wanted:
                library.set_num_threads(wanted)


def _wanted(library: str) -> int:
    for name in _VARIABLES.get(library, ()):
        # OMP_NUM_THREADS may be a list, by level.
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0))
