"""What a process holds: descriptors, threads, children, memory, shared memory."""

from __future__ import annotations

import fcntl
import gc
import os
import re
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
    """Segments and semaphores such as Python makes, and what pools have there or have left.

    Other programs of this machine use other names; pools in other processes hold locks.
    """
    folder = Path("/dev/shm")
    paths = list(folder.iterdir()) if folder.is_dir() else []
    return {
        path.name
        for path in paths
        if path.name.startswith(("psm_", "sem.", "pool", "jupyter"))
        and not _is_anothers(path)
        and not _is_of_another_loky(path.name)
    }


def _is_of_another_loky(name: str) -> bool:
    """Whether it is a semaphore that another process that lives has made: other tests may run there."""
    made_by = re.match(r"sem\.loky-(\d+)-", name)
    if made_by is None:
        return False
    ours = psutil.Process()
    maker = int(made_by[1])
    family = {ours.pid, *(child.pid for child in ours.children(recursive=True))}
    return maker not in family and psutil.pid_exists(maker)


def _is_anothers(folder: Path) -> bool:
    """Whether another process that lives has this folder."""
    lock = folder / "lock"
    try:
        with lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        ours = (os.readlink(f"/proc/self/fd/{fd}") for fd in _own_descriptors())
        return str(lock) not in ours
    except OSError:
        return False  # none of a pool's, or half made, or half gone
    return False


def _own_descriptors() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]


def memory() -> float:
    """What this process alone takes, in MiB."""
    gc.collect()
    return float(psutil.Process().memory_full_info().uss) / 2**20
