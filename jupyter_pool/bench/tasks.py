"""What workers are given to do: functions that every kind of worker can import by name."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

__all__ = ["make", "timed_make", "total"]


def total(x: Array) -> float:
    """Add up all of it, which reads every page."""
    return float(x.sum())


def make(seed: int, length: int) -> Array:
    """So many random numbers: 8 bytes each, the same ones for the same seed."""
    import numpy as np

    return np.random.default_rng(seed).random(length)


def timed_make(seed: int, length: int) -> tuple[Array, float]:
    """Like `make`, and how many seconds it took."""
    begun = time.perf_counter()
    x = make(seed, length)
    return x, time.perf_counter() - begun
