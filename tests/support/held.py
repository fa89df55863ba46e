"""What a process holds: descriptors, threads, children, memory, shared memory."""

from __future__ import annotations

import gc
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Held:
    """Countable things, which must be the same before and after."""

    descriptors: int
    threads: int
    children: int
    shared_memory: frozenset[str]

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        process = psutil.Process()
        return cls(
            len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd")),
            threading.active_count(),
            len(process.children(recursive=True)),
            frozenset(shared_memory()),
        )


def shared_memory() -> set[str]:
    """Segments and semaphores such as Python makes; other programs of this machine use others."""
    folder = Path("/dev/shm")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if name.startswith(("psm_", "sem.", "pool", "jupyter"))}


def memory() -> float:
    """What this process alone takes, in MiB."""
    gc.collect()
    return float(psutil.Process().memory_full_info().uss) / 2**20
