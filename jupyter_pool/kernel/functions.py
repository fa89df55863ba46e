"""Functions that were sent once, kept as bytes by their content.

Never as live functions: those would carry default arguments, globals and class attributes from one
request to the next.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["FunctionCache", "digest"]

#: What is kept at most: bytes, and how many functions.
_MOST_BYTES = 64 << 20
_MOST = 256


def digest(frames: Iterable[Any]) -> str:
    """The name of a pickled function: a hash of its frames."""
    found = hashlib.blake2b(digest_size=16)
    for frame in frames:
        found.update(b"%d:" % memoryview(frame).nbytes)
        found.update(frame)
    return found.hexdigest()


class FunctionCache:
    """The least recently used give way; one that is larger than the cache is kept alone."""

    def __init__(self, most_bytes: int = _MOST_BYTES, most: int = _MOST) -> None:
        self._most_bytes = most_bytes
        self._most = most
        self._known: OrderedDict[str, list[bytes]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str) -> list[bytes] | None:
        """The frames of that name, if they are still here."""
        frames = self._known.get(name)
        if frames is not None:
            self._known.move_to_end(name)
        return frames

    def put(self, frames: Sequence[Any]) -> tuple[str, list[bytes]]:
        """Keep a copy of these frames. Returns their name and the copy."""
        kept = [bytes(frame) for frame in frames]
        name = digest(kept)
        if name not in self._known:
            self._known[name] = kept
            self._size += sum(map(len, kept))
        self._known.move_to_end(name)
        while len(self._known) > 1 and (
            self._size > self._most_bytes or len(self._known) > self._most
        ):
            _, dropped = self._known.popitem(last=False)
            self._size -= sum(map(len, dropped))
        return name, kept
