"""How much memory workers use, and whether the system killed somebody for lack of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_LINUX = sys.platform.startswith("linux")
_PAGE = os.sysconf("SC_PAGE_SIZE") if _LINUX else 0


def resident(pid: int | None) -> int | None:
    """The bytes of memory that a process of this machine has; None if that cannot be told.

    Cheap on Linux: one small file, which the system need not compute.
    """
    if pid is None:
        return None
    if _LINUX:
        try:
            with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
                return int(file.read(256).split()[1]) * _PAGE
        except (OSError, IndexError):
            return None
    import psutil  # late: importing the package stays cheap

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process has, in bytes: in all, alone, and with shared pages divided among the sharers."""

    resident: int
    unshared: int | None = None
    proportional: int | None = None


def measure(pid: int | None) -> Memory | None:
    """Measure a process of this machine exactly; None if that cannot be done.

    It takes time, as the system looks at every page: some 50 to 100 ms for each GB.
    """
    if pid is None:
        return None
    if _LINUX:
        found = _read_rollup(pid)
        if found is not None:
            return found
        # It has just ended, or this Linux is older than the file (4.14), or forbids it.
        rss = resident(pid)
        return None if not rss else Memory(rss)
    import psutil

    try:
        info = psutil.Process(pid).memory_full_info()
        return Memory(int(info.rss), int(info.uss), getattr(info, "pss", None))
    except psutil.Error:
        size = resident(pid)
        return None if size is None else Memory(size)


def _read_rollup(pid: int) -> Memory | None:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    sizes: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, value = line.partition(":")
        sizes[name] = int(value.split()[0]) * 1024
    if "Rss" not in sizes:
        return None
    unshared = sum(sizes.get(name, 0) for name in ("Private_Clean", "Private_Dirty"))
    unshared += sizes.get("Private_Hugetlb", 0)  # which are no part of Rss
    return Memory(sizes["Rss"], unshared, sizes.get("Pss"))


def of_family(pids: Collection[int], shared: int) -> int:
    """How many bytes processes have that belong together, without what others have as well.

    `shared`: at most so much do they share with others. What they share among themselves is nobody's
    alone, else a worker could hide its memory behind a forked child; so where there are several,
    their proportional sizes tell, of which at most `shared` is others' too. Never too much is counted.
    """
    found = [memory for memory in map(measure, pids) if memory is not None]
    alone = sum(m.resident if m.unshared is None else m.unshared for m in found)
    if len(found) < 2:
        return alone
    return max(alone, sum(m.proportional or 0 for m in found) - shared)


class OomWatch:
    """Counts the kernel's out-of-memory kills in our control group and on the machine (Linux)."""

    def __init__(self) -> None:
        self._seen = _oom_kills()

    def happened(self) -> bool:
        """Whether there was one since the last call."""
        now = _oom_kills()
        seen, self._seen = self._seen, now
        return now > seen


def _oom_kills() -> int:
    """Read cgroup v2's ``memory.events``, cgroup v1's ``memory.oom_control``, else ``/proc/vmstat``."""
    for path in (
        *_own_group("memory.events"),
        _CGROUP / "memory" / "memory.oom_control",
        Path("/proc/vmstat"),
    ):
        try:
            text = path.read_text(encoding="ascii")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _own_group(file: str) -> list[Path]:
    try:
        text = Path("/proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return []
    # A v2 line is "0::/path"; inside a container the path may be that of the outside.
    groups = [line[3:].lstrip("/") for line in text.splitlines() if line.startswith("0::")]
    return [path for group in groups for path in (_CGROUP / group / file, _CGROUP / file)]
