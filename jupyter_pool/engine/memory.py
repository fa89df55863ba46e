"""How much memory workers use, and whether the system killed somebody for lack of it."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def resident(pid: int | None) -> int | None:
    """The bytes of memory that a process of this machine has; None if that cannot be told."""
    if pid is None:
        return None
    import psutil  # late: importing the package stays cheap

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


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
