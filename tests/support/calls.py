"""Functions that tests call in workers. Modules under tests travel by value: see `by_value`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import cloudpickle


@contextmanager
def by_value(name: str) -> Iterator[None]:
    """Workers do not have the tests' modules: what they define travels whole, as from a notebook."""
    module: ModuleType = sys.modules[name]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


class Door:
    """Calls wait in front of it until the test opens it; they say that they are there.

    Attributes
    ----------
    inside
        A file that has a line for each call that has come to it.
    """

    def __init__(self, folder: Path, name: str = "door") -> None:
        self.path = str(folder / name)
        self.inside = folder / f"{name}.inside"
        self.inside.touch()
        os.mkfifo(self.path)
        self._fd = os.open(self.path, os.O_RDWR)

    def open(self, calls: int = 1) -> None:
        """Let so many calls go on."""
        os.write(self._fd, b"." * calls)

    def count(self) -> int:
        """How many calls have come."""
        return len(self.inside.read_text().splitlines())

    def close(self) -> None:
        os.close(self._fd)

    @property
    def key(self) -> tuple[str, str]:
        """What `pass_through` takes."""
        return self.path, str(self.inside)


def pass_through(key: tuple[str, str], value: object = None) -> object:
    """Say that the call is here, wait until the door is opened, and return the value."""
    path, inside = key
    with open(inside, "a") as file:
        file.write(f"{value}\n")
    with open(path, "rb", buffering=0) as door:
        door.read(1)
    return value
