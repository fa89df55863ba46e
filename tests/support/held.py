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


def shared_memory(owner: int | None = None) -> set[str]:
    """The folders that pools of a process, this one if none is named, have in shared memory."""
    root = Path("/dev/shm")
    mine = f"jupyter-pool-{owner or os.getpid()}-*"
    return {path.name for path in root.glob(mine)} if root.is_dir() else set()


def memory() -> float:
    """What this process alone takes, in MiB."""
    gc.collect()
    return float(psutil.Process().memory_full_info().uss) / 2**20
