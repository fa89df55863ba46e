"""Random numbers: fresh for each request, or the same for the same seed."""

from __future__ import annotations

import os
import random
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["seed_random"]


def seed_random(seed: int | None) -> None:
    """Seed `random` and NumPy's legacy generator; None: with fresh entropy.

    With a seed, NumPy is also seeded when the request is the first to import it,
    so that a request draws the same numbers in a warm and in a new worker.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is not _SeedNumPy]
    if seed is None:
        random.seed(int.from_bytes(os.urandom(32), "little"))
    else:
        random.seed(seed)
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and hasattr(numpy, "seed"):
        _seed_numpy(numpy, seed)
    elif seed is not None:
        sys.meta_path.insert(0, _SeedNumPy(seed))


def _seed_numpy(module: Any, seed: int | None) -> None:
    if seed is None:
        words = os.urandom(32)
        module.seed([int.from_bytes(words[i : i + 4], "little") for i in range(0, 32, 4)])
    else:
        module.seed(seed % 2**32)


class _SeedNumPy:
    """Import hook for one module and one request: seeds numpy.random once it is there."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "numpy.random":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader, run = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the class's own again
            run(module)
            _seed_numpy(module, self._seed)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
