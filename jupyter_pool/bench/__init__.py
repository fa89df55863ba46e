"""The benchmark suite: the pool against other ways to run Python code in other processes.

`run` measures, `load` reads what an earlier run saved; both give a `Report`. ``jupyter pool bench`` is
the same as a command.

Whatever is compared is measured in one run, in turn, so that a busy moment of the machine hits both
sides; the result is the median of the pairs' ratios. Results are checked for being right.
"""

from __future__ import annotations

import importlib
from typing import Any

# Workers of all kinds import `bench.tasks`, and with it this module: it must cost them nothing.
_HOMES = {"Report": "report", "load": "report", "run": "runner"}

__all__ = ["Report", "load", "run"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
