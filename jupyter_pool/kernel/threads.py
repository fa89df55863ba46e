"""How many threads numeric libraries use: OpenBLAS, MKL, BLIS and OpenMP.

A request says how many it may have, so that many workers at work do not start more threads than there
are CPUs. A template loads the libraries with one thread each, since a fork copies no others. They read
their environment variables only then: what those of a worker say, it has to be told.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["NativeThreads"]

#: What decides over a library's threads, by its name in threadpoolctl; the first that is set.
_DECIDES = {
    "openblas": ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}

#: Packages that load such libraries, some of them a library each.
_LOADERS = frozenset({"numpy", "scipy", "sklearn", "torch", "mkl", "numba", "xgboost", "lightgbm"})


class NativeThreads:
    """The libraries with threads of their own that this process has loaded by now."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []
        self._limit: int | None = None
        self._outdated = not _LOADERS.isdisjoint(sys.modules)
        self._look()

    def _look(self) -> None:
        if self._outdated:
            # Looks through all shared libraries, which takes some milliseconds.
            self._libraries = ThreadpoolController().lib_controllers
            self._outdated = False

    def loading(self, spec: ModuleSpec) -> None:
        """A module is about to be loaded."""
        if spec.name.partition(".")[0] in _LOADERS:
            self._outdated = True

    def import_ends(self) -> None:
        """Libraries may have been loaded."""
        if self._outdated:
            self._look()
            if self._limit is not None:
                self._apply()

    def adopt_environment(self) -> None:
        """Give each the number of threads that it would have had if it were loaded now."""
        for library in self._libraries:
            _set(library, _by_environment(library.internal_api))

    def limit(self, threads: int | None) -> None:
        """Let each use so many; None: as many as without us."""
        if threads is None and self._limit is not None:
            self.adopt_environment()
        self._limit = threads
        if threads is not None:
            self._apply()

    def _apply(self) -> None:
        for library in self._libraries:
            _set(library, self._limit or 1)


def _set(library: Any, threads: int) -> None:
    if library.num_threads != threads:
        library.set_num_threads(threads)


def _by_environment(library: str) -> int:
    for name in _DECIDES.get(library, ()):
        # OMP_NUM_THREADS may be a list, by level.
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdecimal() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
