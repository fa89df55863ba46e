"""A disk so small that a test can fill it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class TinyDisk:
    """A small mounted tmpfs, of 200 files at most."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"
        self._files: list[Path] = []

    def fill(self) -> None:
        """Not a byte more."""
        descriptor = os.open(self._filler, os.O_WRONLY | os.O_CREAT)
        try:
            while True:
                os.write(descriptor, bytes(1024))
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def fill_with_files(self) -> None:
        """Not a file more."""
        try:
            while True:
                path = self.path / f"file-{len(self._files)}"
                path.touch()
                self._files.append(path)
        except OSError:
            pass

    def make_room(self) -> None:
        for path in (self._filler, *self._files):
            path.unlink(missing_ok=True)
        self._files.clear()


@contextmanager
def tiny_disk(path: Path, size: str = "64k") -> Iterator[TinyDisk]:
    """One mounted there; skips where that is not allowed."""
    if not sys.platform.startswith("linux"):
        pytest.skip("platform: tmpfs is Linux's")
    path.mkdir()
    options = f"size={size},nr_inodes=200,mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("platform: a small file system can only be mounted with the right to do so")
    try:
        yield TinyDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
