"""The pools of this process by name."""

from __future__ import annotations

import difflib
import itertools
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeAlias

from jupyter_pool.errors import InvalidRequest, PoolNotAvailable

from .onlookers import stir

if TYPE_CHECKING:
    from jupyter_pool.async_pool import AsyncKernelPool
    from jupyter_pool.pool import KernelPool

    from .face import PoolFace

    AnyPool: TypeAlias = KernelPool | AsyncKernelPool

_lock = threading.Lock()
_pools: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


def register(pool: PoolFace, name: str | None) -> str:
    """Give a pool its name, ``pool-1``, ``pool-2``, … by default.

    From now on it is found; whoever makes it says so, with `stir`, when it can be looked at.

    Raises
    ------
    InvalidRequest
        Another pool has this name.
    """
    with _lock:
        if name is None:
            name = next(n for i in _numbers if (n := f"pool-{i}") not in _pools)
        elif name in _pools:
            raise InvalidRequest(
                f"a pool named {name!r} exists already: get_pool({name!r}) returns it; "
                "close it first, or choose another name",
                context={"pool": name},
            )
        _pools[name] = pool
    return name


def unregister(pool: PoolFace) -> None:
    """A pool is closed; its name is free again."""
    with _lock:
        if _pools.get(pool.name) is pool:
            del _pools[pool.name]
    stir()


def all_pools() -> list[PoolFace]:
    """The pools of this process that are not closed."""
    with _lock:
        return list(_pools.values())


def list_pools() -> list[str]:
    """The names of the pools of this process that are not closed."""
    with _lock:
        return sorted(_pools)


def get_pool(name: str = "default") -> AnyPool:
    """Return the pool of this name.

    Raises
    ------
    PoolNotAvailable
        There is none; the message lists the names there are.
    """
    with _lock:
        pool: AnyPool | None = _pools.get(name)
        names = sorted(_pools)
    if pool is None:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        there = f"there are {', '.join(map(repr, names))}" if names else "there is none"
        raise PoolNotAvailable(
            f"no pool is named {name!r}: {there}.{hint}", context={"pool": name, "pools": names}
        )
    return pool


def _after_fork() -> None:
    # The parent's pools stay the parent's; names are free in the child.
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
