"""The pools that the magics use: found by name, started on first use, kept alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from jupyter_pool.errors import InvalidRequest, PoolNotAvailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_pool.pool import KernelPool

__all__ = ["Pools"]

#: How long unloading waits for the default pool to end, in seconds.
_UNLOAD_TIMEOUT = 10.0

# A pool lives as long as somebody holds it. Those that a person started with
# %pool_start are theirs: they outlive the extension.
_kept: dict[str, KernelPool] = {}


class Pools:
    """Finds and starts pools for the magics of one shell.

    Parameters
    ----------
    default
        Returns the name of the pool that is used if none is named.
    """

    def __init__(self, default: Callable[[], str]) -> None:
        self._default = default
        self._own: dict[str, KernelPool] = {}

    @property
    def default(self) -> str:
        """The name of the pool that is used if none is named."""
        return self._default()

    def find(self, name: str | None = None) -> KernelPool:
        """Return a pool that is there.

        Raises
        ------
        UsageError
            There is none of that name; says which there are.
        """
        from jupyter_pool.pool import KernelPool, get_pool

        name = name or self.default
        try:
            pool = get_pool(name)
        except PoolNotAvailable as error:
            advice = "" if error.context.get("pools") else "; %pool_start starts one"
            raise UsageError(f"{_first_line(error).rstrip('.')}{advice}") from None
        if not isinstance(pool, KernelPool):
            raise UsageError(f"pool {name!r} is an AsyncKernelPool: only coroutines can use it")
        return pool

    def for_running(self, name: str | None = None) -> tuple[KernelPool, bool]:
        """Return the pool to run in, and whether it was started for that.

        The default pool is started if it is not there; others are not.
        """
        from jupyter_pool.pool import list_pools

        name = name or self.default
        if name == self.default and name not in list_pools():
            pool = self._start({"name": name})
            self._own[name] = pool
            return pool, True
        return self.find(name), False

    def start(self, options: dict[str, Any]) -> KernelPool:
        """Start a pool for the user and wait until it is ready; it lives until it is stopped.

        Raises
        ------
        UsageError
            The name is taken, or an option is impossible.
        WorkerStartError
            Its kernels cannot be started.
        """
        pool = self._start({"name": self.default, **options})
        try:
            pool.start(wait=True)
        except BaseException:  # also Ctrl-C: what cannot be used should not be there
            pool.close(timeout=0)
            raise
        _kept[pool.name] = pool
        return pool

    def stop(self, pool: KernelPool, timeout: float | None) -> None:
        """Close a pool."""
        try:
            pool.close(timeout=timeout)
        finally:
            _kept.pop(pool.name, None)
            self._own.pop(pool.name, None)

    def unload(self) -> None:
        """Close what the magics have started by themselves."""
        own, self._own = self._own, {}
        for pool in own.values():
            pool.close(timeout=_UNLOAD_TIMEOUT)

    @staticmethod
    def _start(options: dict[str, Any]) -> KernelPool:
        from jupyter_pool.pool import KernelPool

        try:
            pool = KernelPool(**options)
        except InvalidRequest as error:
            raise UsageError(_first_line(error)) from None
        pool.start()
        return pool


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
