"""Where and when figures were measured: without that they say little."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from jupyter_pool._cpus import usable_cpus

__all__ = ["cpu_model", "describe", "facts", "load_now"]

#: Whose versions matter to the figures.
_PACKAGES = (
    "jupyter-pool",
    "ipykernel",
    "jupyter_client",
    "pyzmq",
    "cloudpickle",
    "numpy",
    "loky",
    "joblib",
    "ipyparallel",
    "distributed",
)


def facts() -> dict[str, Any]:
    """The machine, the interpreter, versions and the present, as JSON can hold them."""
    return {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cpus": usable_cpus(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": _versions(),
        "load": load_now(),
    }


def describe(machine: dict[str, Any]) -> str:
    """One line of it for people."""
    cpus = machine["cpus"]
    return (
        f"{machine['cpu']}, {cpus} {'CPU' if cpus == 1 else 'CPUs'}, "
        f"{machine['memory'] / 2**30:.0f} GB, Python {machine['python']}, "
        f"{machine['system'].split('-')[0]}, {machine['date'][:10]}"
    )


def load_now() -> float:
    """How many processes wanted a CPU, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def cpu_model() -> str:
    """The processor's own name, or the kind of machine where the system does not tell."""
    if sys.platform == "darwin":
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"],
            capture_output=True,
            text=True,
            check=False,
        )
        return asked.stdout.strip() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
