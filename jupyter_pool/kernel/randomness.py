"""Random numbers: fresh for each request, or the same for the same seed.

To seed `random` takes longer than anything else between two requests, most of which do not draw from
it. So its state is compared with what it was when it was seeded, and kept if nobody has drawn a number,
and nobody has looked at the state either, from which the next request's numbers could be told.

Leans on how CPython's `_random.Random` lies in memory: the index and the 624 words of its state, one
after another behind the object's head (3.10 to 3.14). Where a look at both ways to read it finds that
they differ, it is seeded each time.
"""

from __future__ import annotations

import _random
import functools
import os
import random
import struct
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["RANDOMNESS", "Randomness", "seed_random"]


def seed_random(seed: int | None) -> None:
    """Seed `random` and NumPy's legacy generator; None: with fresh entropy.

    With a seed, NumPy is also seeded when the request is the first to import it,
    so that a request draws the same numbers in a warm and in a new worker.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is not _SeedNumPy]
    if seed is None:
        _seed_afresh()
    else:
        random.seed(seed)
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and hasattr(numpy, "seed"):
        _seed_numpy(numpy, seed)
    elif seed is not None:
        sys.meta_path.insert(0, _SeedNumPy(seed))


def _seed_afresh() -> None:
    random.seed(int.from_bytes(os.urandom(32), "little"))


class Randomness:
    """`random` and NumPy's legacy generator, between two requests."""

    def __init__(self) -> None:
        self._generator: Any = vars(random)["_inst"]
        #: Where its state lies, once that is watched.
        self._memory: Any = None
        #: What was there when it was seeded; nothing equals None.
        self._seeded: bytes | None = None
        self._looked = False
        self._getstate: Any = None

    def watch(self) -> None:
        """From here on notice who looks at the state; before anybody has imported what looks.

        Whoever copies or pickles the generator does it in this way, too.
        """
        if self._getstate is not None:
            return
        kind: Any = random.Random
        look = kind.getstate

        @functools.wraps(look)
        def getstate(generator: random.Random) -> Any:
            if generator is self._generator:
                self._looked = True
            return look(generator)

        self._memory = _memory_of(self._generator)
        kind.getstate = self._getstate = getstate
        random.getstate = self._generator.getstate

    def refresh(self) -> None:
        """Fresh entropy: a request can neither see nor foretell what another one drew."""
        if not self._is_untouched():
            seed_random(None)
            self._seeded = None if self._memory is None else self._memory.raw
            self._looked = False
            return
        numpy = sys.modules.get("numpy.random")
        if numpy is not None and hasattr(numpy, "seed"):
            _seed_numpy(numpy, None)

    def _is_untouched(self) -> bool:
        generator = self._generator
        return (
            self._memory is not None
            and not self._looked
            and vars(random)["_inst"] is generator
            and random.Random.getstate is self._getstate
            and generator.gauss_next is None
            and self._memory.raw == self._seeded
        )


def _memory_of(generator: Any) -> Any:
    """Where the state of a generator lies, as an array of ctypes; None: it lies otherwise."""
    import ctypes

    _, state, _ = generator.getstate()
    layout = struct.Struct(f"=i{len(state) - 1}I")
    if sys.implementation.name != "cpython" or layout.size > _random.Random.__basicsize__:
        return None
    memory = (ctypes.c_char * layout.size).from_address(id(generator) + object.__basicsize__)
    return memory if layout.unpack(memory.raw) == (state[-1], *state[:-1]) else None


def _seed_numpy(module: Any, seed: int | None) -> None:
    if seed is None:
        words = os.urandom(32)
        module.seed([int.from_bytes(words[i : i + 4], "little") for i in range(0, 32, 4)])
    else:
        module.seed(seed % 2**32)


#: The one of this process.
RANDOMNESS = Randomness()


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
