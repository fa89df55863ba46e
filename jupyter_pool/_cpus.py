"""How many CPUs this process may really use.

`os.cpu_count()` is the machine's. A process may be pinned to some of them
(affinity), and a container or a batch system may give it a quota of CPU time
(cgroup): with 64 CPUs and a quota of 2, more than two workers only wait for
one another.
"""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

MOST_BY_DEFAULT = 8

#: Environment variables that bound the threads of numeric libraries.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def default_size() -> int:
    """Return the number of workers of a pool that is not told: usable CPUs, at most 8."""
    return min(usable_cpus(), MOST_BY_DEFAULT)


def usable_cpus() -> int:
    """Return how many CPUs this process may use, at least one."""
    try:
        membership = Path("/proc/self/cgroup").read_text()
    except OSError:  # not Linux, or no /proc
        membership = ""
    return cpus_within(_affinity(), cgroup_quota(membership, Path("/sys/fs/cgroup")))


def cpus_within(cpus: int, quota: float | None) -> int:
    """Return how many of these CPUs a quota (in CPUs, None: no quota) leaves, at least one."""
    if quota is not None:
        # Upwards: half a CPU of quota is still worth a worker.
        cpus = min(cpus, math.ceil(quota))
    return max(1, cpus)


def cgroup_quota(membership: str, root: Path) -> float | None:
    """Return the CPU quota of a process in CPUs, or None if it has none.

    Parameters
    ----------
    membership
        What ``/proc/<pid>/cgroup`` says: lines ``hierarchy:controllers:path``.
    root
        Where the cgroup file systems are mounted.

    Notes
    -----
    cgroup v2: ``cpu.max`` holds quota (or ``max``) and period in microseconds.
    cgroup v1: ``cpu.cfs_quota_us`` (-1 for none) and ``cpu.cfs_period_us``.
    Every ancestor's quota binds as well. In a container the path may be the
    host's, which does not exist there; the limits are then in the mount's root.
    """
    quotas: list[float] = []
    for entry in membership.splitlines():
        hierarchy, _, rest = entry.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            # "unified" is where the v2 tree is on a machine that has both.
            mounts, read = [root, root / "unified"], _read_v2
        elif "cpu" in controllers.split(","):
            mounts, read = [root / "cpu", root / controllers], _read_v1
        else:
            continue
        parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                quota = read(mount.joinpath(*parts[:depth]))
                if quota is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def _read_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else _ratio(quota, period)
    except (OSError, ValueError):
        return None


def _read_v1(folder: Path) -> float | None:
    try:
        return _ratio(
            (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
        )
    except (OSError, ValueError):
        return None


def _ratio(quota: str, period: str) -> float | None:
    microseconds, each = int(quota), int(period)
    return microseconds / each if microseconds > 0 and each > 0 else None


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
