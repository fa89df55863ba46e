"""A pool of real Jupyter kernels, checked out statelessly.

    from jupyter_pool import KernelPool

    with KernelPool(size=4) as pool:
        result = pool.execute("y = x + 1; y", inputs={"x": 1}, outputs=["y"])
        result.outputs["y"]  # 2

In a notebook: ``%load_ext jupyter_pool``, then ``%%pool_exec`` above any cell.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from jupyter_pool.joblib_backend import register_when_imported

if TYPE_CHECKING:
    from jupyter_pool.async_pool import AsyncKernelPool
    from jupyter_pool.errors import (
        Cancelled,
        CheckoutTimeout,
        ExecutionError,
        InvalidRequest,
        MemoryLimitExceeded,
        OperationTimeout,
        PoolError,
        PoolNotAvailable,
        PoolSaturated,
        ProtocolError,
        SerializationError,
        UnknownProgram,
        WorkerDied,
        WorkerStartError,
    )
    from jupyter_pool.pool import KernelPool, get_pool, list_pools
    from jupyter_pool.results import ExecutionResult

__version__ = "0.1.0"

# A library speaks where its user listens; without this, Python would print warnings into cells.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Importing the package stays cheap: a worker imports it too, and so does `%load_ext`.
_HOMES = {
    "AsyncKernelPool": "async_pool",
    "KernelPool": "pool",
    "get_pool": "pool",
    "list_pools": "pool",
    "ExecutionResult": "results",
    **dict.fromkeys(
        (
            "Cancelled",
            "CheckoutTimeout",
            "ExecutionError",
            "InvalidRequest",
            "MemoryLimitExceeded",
            "OperationTimeout",
            "PoolError",
            "PoolNotAvailable",
            "PoolSaturated",
            "ProtocolError",
            "SerializationError",
            "UnknownProgram",
            "WorkerDied",
            "WorkerStartError",
        ),
        "errors",
    ),
}

__all__ = [
    "AsyncKernelPool",
    "Cancelled",
    "CheckoutTimeout",
    "ExecutionError",
    "ExecutionResult",
    "InvalidRequest",
    "KernelPool",
    "MemoryLimitExceeded",
    "OperationTimeout",
    "PoolError",
    "PoolNotAvailable",
    "PoolSaturated",
    "ProtocolError",
    "SerializationError",
    "UnknownProgram",
    "WorkerDied",
    "WorkerStartError",
    "__version__",
    "get_pool",
    "list_pools",
    "load_ipython_extension",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


register_when_imported()


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(ip: Any) -> None:
    """``%load_ext jupyter_pool``: register the magics. Starts nothing."""
    from jupyter_pool.notebook import load_ipython_extension as load

    load(ip)


def unload_ipython_extension(ip: Any) -> None:
    """``%unload_ext jupyter_pool``: remove them again."""
    from jupyter_pool.notebook import unload_ipython_extension as unload

    unload(ip)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Where the panel is; `jupyter labextension develop` asks."""
    return [{"src": "labextension", "dest": "jupyter-pool"}]
