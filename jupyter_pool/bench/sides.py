"""What the rows measure: both sides opened and warmed up, and one round of each.

A side is a peer, or the pool, that was opened; what is done there is a function that takes it, warms it
up and returns a round. `both` makes a row's opener of it: the peer is opened first, for it may fork,
which a process with threads, as the pool makes it one, should not do.

    both(work) ─▶ opener(peer, scale) ─▶ Sides(work(pool), work(peer))
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from jupyter_pool import KernelPool
from jupyter_pool.bench import peers, tasks

__all__ = ["FULL", "QUICK", "Opener", "Scale", "Side", "Sides", "WrongResult", "both"]

_MB = 1 << 20

#: How long workers may take to be ready, in seconds.
_START_TIMEOUT = 120.0

#: Calls before those that are measured.
_WARM_UP = 30


class WrongResult(Exception):
    """Somebody gave another result than the right one."""


@dataclass(frozen=True)
class Scale:
    """How much there is to do.

    Attributes
    ----------
    workers
        On each side.
    calls
        Calls in a round, one after another, where a round is the median of some.
    in_flight, mapped
        Numbers of calls.
    array_mb, shared_mb
        Sizes of arrays, in MiB.
    tasks
        How many use the shared array.
    idle
        How many workers stand by.
    """

    workers: int = 2
    calls: int = 20
    in_flight: int = 2_000
    mapped: int = 20_000
    array_mb: int = 100
    shared_mb: int = 200
    tasks: int = 16
    idle: int = 32


FULL = Scale()
QUICK = Scale(calls=10, in_flight=200, mapped=2_000, array_mb=10, shared_mb=20, tasks=4, idle=8)


#: Does one round and returns its seconds.
Round: TypeAlias = "Callable[[], float]"


class Sides(NamedTuple):
    """Both do one round and return its seconds; `note` says how the peer is used, if not as by default."""

    ours: Round
    theirs: Round
    note: str = ""


class Side(NamedTuple):
    """One of them: its name among the peers, what opening it has given, and how much there is to do."""

    name: str
    opened: Any
    scale: Scale


#: Takes the name of the peer and the scale.
Opener: TypeAlias = "Callable[[str, Scale], AbstractContextManager[Sides]]"


def _open(name: str, workers: int) -> AbstractContextManager[Any]:
    """Open a peer, or the pool."""
    if name == "jupyter_client":
        from jupyter_pool.bench.stock import StockKernel

        return StockKernel()
    opener: Callable[[int], AbstractContextManager[Any]] = {
        "processpool": peers.process_pool,
        "loky": peers.loky_pool,
        "joblib": peers.joblib_parallel,
        "ipyparallel": peers.ipyparallel_view,
        "dask": peers.dask_client,
        "pool": _pool,
    }[name]
    return opener(workers)


@contextmanager
def _pool(workers: int) -> Iterator[KernelPool]:
    with KernelPool(size=workers) as pool:
        pool.start(wait=True, timeout=_START_TIMEOUT)
        yield pool


def both(
    ours: Callable[[Side], Round],
    theirs: Callable[[Side], Round] | None = None,
    *,
    sizes: Callable[[Scale], tuple[int, int]] = lambda scale: (scale.workers, scale.workers),
) -> Opener:
    """An opener of two sides that do the same, if not `theirs` something else.

    `sizes`: how many workers the pool has, and how many the peer.
    """

    @contextmanager
    def opener(peer: str, scale: Scale) -> Iterator[Sides]:
        own, other = sizes(scale)
        with _open(peer, other) as opened, _open("pool", own) as pool:
            our_round = ours(Side("pool", pool, scale))
            yield Sides(our_round, (theirs or ours)(Side(peer, opened, scale)))

    return opener


def _check(found: object, expected: object) -> None:
    if found != expected:
        raise WrongResult(f"expected {str(expected)[:100]}, got {str(found)[:100]}")


def _check_sum(found: float, expected: float) -> None:
    # Sums of the same numbers in the same order: only libraries of another build may differ.
    if abs(found - expected) > 1e-9 * abs(expected):
        raise WrongResult(f"the sum is {found!r}, not {expected!r}")


def _p50(call: Callable[[], None], calls: int) -> Callable[[], float]:
    """Rounds of so many calls one after another; each gives the time of half of them."""

    def run() -> float:
        times = []
        for _ in range(calls):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
        return statistics.median(times)

    for _ in range(3):
        run()
    return run


def _timed(work: Callable[[], object], warm_up: int = 1) -> Callable[[], float]:
    def run() -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    for _ in range(warm_up):
        run()
    return run


# --- calls --------------------------------------------------------------------------------------

#: One call of `abs(-1)`, as it is quickest at those that are no executors.
_CALLS: dict[str, Callable[[Any], Any]] = {
    # Pure functions are called only once by dask; this is to be a call each time.
    "dask": lambda client: client.submit(abs, -1, pure=False).result(),
    "ipyparallel": lambda view: view.apply_async(abs, -1).get(),
}


def _call(side: Side) -> Callable[[], None]:
    call = partial(_CALLS.get(side.name, _submit_one), side.opened)
    return lambda: _check(call(), 1)


def _submit_one(executor: Any) -> Any:
    return executor.submit(abs, -1).result()


def one_call(side: Side) -> Round:
    """One call each in turn: each comes after what the other side did, and may still be doing."""
    return _timed(_call(side), _WARM_UP)


def calls_in_a_row(side: Side) -> Round:
    """Some calls in one go: single ones, both of this process, have nothing in common."""
    return _p50(_call(side), side.scale.calls)


def in_flight(side: Side) -> Round:
    """Many calls that are all submitted before the first result is waited for."""
    executor, count = side.opened, side.scale.in_flight
    expected = list(range(count))

    def work() -> None:
        futures = [executor.submit(abs, -number) for number in range(count)]
        _check([future.result() for future in futures], expected)

    return _timed(work)


def mapped(side: Side, **options: int) -> Round:
    """`map` of a function that does nearly nothing."""
    executor, count = side.opened, side.scale.mapped
    numbers, expected = range(-count, 0), list(range(count, 0, -1))
    return _timed(lambda: _check(list(executor.map(abs, numbers, **options)), expected))


@contextmanager
def open_map_best(peer: str, scale: Scale) -> Iterator[Sides]:
    """`mapped`, by the peer with the chunks that suit it best."""
    with _open(peer, scale.workers) as executor, _open("pool", scale.workers) as pool:
        theirs = Side(peer, executor, scale)
        by_size = {size: mapped(theirs, chunksize=size) for size in (1, 16, 256)}
        # Warm by now. Which one is best is seen beforehand; then it alone is measured in pairs.
        best = min(by_size, key=lambda size: min(by_size[size]() for _ in range(2)))
        yield Sides(mapped(Side("pool", pool, scale)), by_size[best], f"chunksize {best}")


# --- data ---------------------------------------------------------------------------------------


def _wait_until_freed(side: Side) -> None:
    """Clean-up is part of the pool's work: until nothing is in shared memory any more."""
    if side.name != "pool":
        return
    shared = side.opened.running().engine.shared
    while shared is not None and os.listdir(shared.folder) != ["lock"]:
        time.sleep(0.0002)


def _length(megabytes: int) -> int:
    """How many floats that is."""
    return megabytes * _MB // 8


def _with_new_array(work: Callable[[Any], float], length: int) -> Round:
    """Rounds with a new random array each, which costs nothing; `work` returns its sum."""
    import numpy as np

    def run() -> float:
        x = np.random.default_rng().random(length)
        begun = time.perf_counter()
        found = work(x)
        took = time.perf_counter() - begun
        _check_sum(found, tasks.total(x))
        return took

    run()
    return run


def argument(side: Side) -> Round:
    """A large array goes to a worker."""

    def work(x: Any) -> float:
        found: float = side.opened.submit(tasks.total, x).result()
        _wait_until_freed(side)
        return found

    return _with_new_array(work, _length(side.scale.array_mb))


def result(side: Side) -> Round:
    """A large new array comes from a worker. Making it is not counted: it costs both the same."""
    import numpy as np

    length = _length(side.scale.array_mb)

    def run() -> float:
        seed = int(np.random.default_rng().integers(1 << 62))
        begun = time.perf_counter()
        y, making = side.opened.submit(tasks.timed_make, seed, length).result()
        found = tasks.total(y)
        del y
        _wait_until_freed(side)
        took = time.perf_counter() - begun
        _check_sum(found, tasks.total(tasks.make(seed, length)))
        return float(took - making)

    run()
    return run


def put(side: Side) -> Round:
    """Tasks over an array that is stored once."""

    def work(x: Any) -> float:
        handle = side.opened.put(x)
        futures = [side.opened.submit(tasks.total, handle) for _ in range(side.scale.tasks)]
        found = _only({future.result() for future in futures})
        handle.delete()
        _wait_until_freed(side)
        return found

    return _with_new_array(work, _length(side.scale.shared_mb))


def put_with_joblib(side: Side) -> Round:
    """The same tasks; joblib stores a large array by itself."""
    import joblib

    one = joblib.delayed(tasks.total)

    def work(x: Any) -> float:
        return _only(set(side.opened(one(x) for _ in range(side.scale.tasks))))

    return _with_new_array(work, _length(side.scale.shared_mb))


def _only(values: set[float]) -> float:
    if len(values) != 1:
        raise WrongResult(f"tasks over the same array found {sorted(values)[:3]}")
    return values.pop()


# --- kernels ------------------------------------------------------------------------------------


def cell(side: Side) -> Round:
    """A cell with a result that is displayed."""

    def work() -> None:
        shown: list[dict[str, Any]] = []
        result = side.opened.execute("1 + 1", on_output=shown.append)
        _check(result.data, {"text/plain": "2"})
        _check(len(shown), 1)

    return _timed(work, _WARM_UP)


def cell_in_stock_kernel(side: Side) -> Round:
    """The same, by a kernel's own client."""

    def work() -> None:
        seen: list[dict[str, Any]] = []
        side.opened.execute_interactive("1 + 1", timeout=60, output_hook=seen.append)
        data = [m["content"]["data"] for m in seen if m["msg_type"] == "execute_result"]
        _check(data, [{"text/plain": "2"}])

    return _timed(work, _WARM_UP)


def _until_ready(workers: int) -> float:
    pool = KernelPool(size=workers)
    try:
        begun = time.perf_counter()
        pool.start(wait=True, timeout=_START_TIMEOUT)
        return time.perf_counter() - begun
    finally:
        pool.close(timeout=0)


@contextmanager
def open_start(peer: str, scale: Scale) -> Iterator[Sides]:
    """No other pool is there: each start includes that of the process that workers are forked from."""

    def theirs() -> float:
        if peer == "jupyter_client":
            from jupyter_pool.bench.stock import start_together

            return start_together(scale.workers)
        begun = time.perf_counter()
        with _open(peer, scale.workers):
            return time.perf_counter() - begun

    ours = partial(_until_ready, scale.workers)
    # What is imported here, on both sides, is no part of it.
    importlib.import_module(peers.PEERS[peer].module)
    ours()
    yield Sides(ours, theirs)
