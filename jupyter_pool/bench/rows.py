"""The rows of the table: what is done, against whom, and what the ratio is to be at most.

For each peer a row opens both sides, warms them up, and has them measured in turn. The peer is
opened first: it may fork, which a process with threads, as the pool makes it one, should not do.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from jupyter_pool import KernelPool
from jupyter_pool.bench import peers, tasks
from jupyter_pool.bench.paired import Figure, measure

__all__ = ["FULL", "QUICK", "ROWS", "Bar", "Row", "Scale", "Sides", "WrongResult", "compare"]

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


class Bar(NamedTuple):
    """What the ratio is to be at most, and what would be good."""

    at_most: float | None = None
    aim: float | None = None


class Sides(NamedTuple):
    """Both do one round and return its seconds; `note` says how the peer is used, if not as by default."""

    ours: Callable[[], float]
    theirs: Callable[[], float]
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Attributes
    ----------
    title
        With the fields of the scale in braces.
    bars
        Who it is measured against.
    open
        Takes the name of the peer and the scale.
    rounds, quick_rounds
        How many pairs there are by default.
    needs
        Modules without which there is nothing to measure.
    """

    title: str
    bars: Mapping[str, Bar]
    open: Callable[[str, Scale], AbstractContextManager[Sides]]
    rounds: int
    quick_rounds: int = 3
    needs: tuple[str, ...] = ()

    def name_at(self, scale: Scale) -> str:
        """What the table calls it."""
        return self.title.format(**asdict(scale))


def compare(
    name: str,
    peer: str,
    *,
    scale: Scale = FULL,
    rounds: int | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> Figure:
    """Measure one row against one peer, until `go_on` says no.

    Raises
    ------
    WrongResult
        One of the two did something else than it was asked to.
    """
    row = ROWS[name]
    bar = row.bars[peer]
    with row.open(peer, scale) as sides:
        return measure(
            row.name_at(scale),
            sides.ours,
            peers.PEERS[peer].title,
            sides.theirs,
            rounds=rounds or row.rounds,
            at_most=bar.at_most,
            aim=bar.aim,
            row=name,
            note=sides.note,
            go_on=go_on,
        )


def _check(found: object, expected: object) -> None:
    if found != expected:
        raise WrongResult(f"expected {str(expected)[:100]}, got {str(found)[:100]}")


def _check_sum(found: float, expected: float) -> None:
    # Sums of the same numbers in the same order: only libraries of another build may differ.
    if abs(found - expected) > 1e-9 * abs(expected):
        raise WrongResult(f"the sum is {found!r}, not {expected!r}")


@contextmanager
def _pool(workers: int) -> Iterator[KernelPool]:
    with KernelPool(size=workers) as pool:
        pool.start(wait=True, timeout=_START_TIMEOUT)
        yield pool


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


@contextmanager
def _caller(peer: str, workers: int) -> Iterator[Callable[[], Any]]:
    """One call of `abs(-1)` at the peer, as it is quickest there."""
    if peer == "dask":
        with peers.dask_client(workers) as client:
            # Pure functions are called only once by dask; this is to be a call each time.
            yield lambda: client.submit(abs, -1, pure=False).result()
    elif peer == "ipyparallel":
        with peers.ipyparallel_view(workers) as view:
            yield lambda: view.apply_async(abs, -1).get()
    elif peer == "pool":
        with _pool(workers) as pool:
            yield lambda: pool.submit(abs, -1).result()
    else:
        with _executor(peer, workers) as executor:
            yield lambda: executor.submit(abs, -1).result()


def _executor(peer: str, workers: int) -> AbstractContextManager[Executor]:
    return {"processpool": peers.process_pool, "loky": peers.loky_pool}[peer](workers)


def _checked(call: Callable[[], Any]) -> Callable[[], None]:
    return lambda: _check(call(), 1)


@contextmanager
def _open_submit(peer: str, scale: Scale) -> Iterator[Sides]:
    # One call each in turn: each comes after what the other side did, and may still be doing.
    with _caller(peer, scale.workers) as theirs, _caller("pool", scale.workers) as ours:
        yield Sides(_timed(_checked(ours), _WARM_UP), _timed(_checked(theirs), _WARM_UP))


@contextmanager
def _open_submit_loop(peer: str, scale: Scale) -> Iterator[Sides]:
    with _caller(peer, scale.workers) as theirs, _caller("pool", scale.workers) as ours:
        yield Sides(_p50(_checked(ours), scale.calls), _p50(_checked(theirs), scale.calls))


@contextmanager
def _open_idle(peer: str, scale: Scale) -> Iterator[Sides]:
    # Some calls of each in one go: single ones, both of this process, have nothing in common.
    with _caller(peer, 1) as theirs, _caller("pool", scale.idle) as ours:
        yield Sides(_p50(_checked(ours), scale.calls), _p50(_checked(theirs), scale.calls))


def _gather(executor: Executor, count: int) -> Callable[[], float]:
    expected = list(range(count))

    def work() -> None:
        futures = [executor.submit(abs, -number) for number in range(count)]
        _check([future.result() for future in futures], expected)

    return _timed(work)


@contextmanager
def _open_in_flight(peer: str, scale: Scale) -> Iterator[Sides]:
    with _executor(peer, scale.workers) as executor, _pool(scale.workers) as pool:
        yield Sides(_gather(pool, scale.in_flight), _gather(executor, scale.in_flight))


def _mapped(executor: Executor, count: int, **options: int) -> Callable[[], float]:
    numbers, expected = range(-count, 0), list(range(count, 0, -1))
    return _timed(lambda: _check(list(executor.map(abs, numbers, **options)), expected))


@contextmanager
def _open_map(peer: str, scale: Scale) -> Iterator[Sides]:
    with _executor(peer, scale.workers) as executor, _pool(scale.workers) as pool:
        yield Sides(_mapped(pool, scale.mapped), _mapped(executor, scale.mapped))


@contextmanager
def _open_map_best(peer: str, scale: Scale) -> Iterator[Sides]:
    with _executor(peer, scale.workers) as executor, _pool(scale.workers) as pool:
        sizes = {size: _mapped(executor, scale.mapped, chunksize=size) for size in (1, 16, 256)}
        # Warm by now. Which one is best is seen beforehand; then it alone is measured in pairs.
        best = min(sizes, key=lambda size: min(sizes[size]() for _ in range(2)))
        yield Sides(_mapped(pool, scale.mapped), sizes[best], f"chunksize {best}")


# --- data ---------------------------------------------------------------------------------------


def _wait_until_freed(pool: KernelPool) -> None:
    """Clean-up is part of the work: until nothing is in shared memory any more."""
    shared = pool.running().engine.shared
    while shared is not None and os.listdir(shared.folder) != ["lock"]:
        time.sleep(0.0002)


def _with_new_array(work: Callable[[Any], float], length: int) -> Callable[[], float]:
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


@contextmanager
def _open_argument(peer: str, scale: Scale) -> Iterator[Sides]:
    length = scale.array_mb * _MB // 8
    with _executor(peer, scale.workers) as executor, _pool(scale.workers) as pool:

        def ours(x: Any) -> float:
            found = pool.submit(tasks.total, x).result()
            _wait_until_freed(pool)
            return found

        def theirs(x: Any) -> float:
            return executor.submit(tasks.total, x).result()

        yield Sides(_with_new_array(ours, length), _with_new_array(theirs, length))


def _fetch(
    executor: Executor, length: int, clean_up: Callable[[], None] = lambda: None
) -> Callable[[], float]:
    """Rounds that bring a new random array here. Making it is not counted: it costs both the same."""
    import numpy as np

    def run() -> float:
        seed = int(np.random.default_rng().integers(1 << 62))
        begun = time.perf_counter()
        y, making = executor.submit(tasks.timed_make, seed, length).result()
        found = tasks.total(y)
        del y
        clean_up()
        took = time.perf_counter() - begun
        _check_sum(found, tasks.total(tasks.make(seed, length)))
        return took - making

    run()
    return run


@contextmanager
def _open_result(peer: str, scale: Scale) -> Iterator[Sides]:
    length = scale.array_mb * _MB // 8
    with _executor(peer, scale.workers) as executor, _pool(scale.workers) as pool:
        yield Sides(_fetch(pool, length, lambda: _wait_until_freed(pool)), _fetch(executor, length))


@contextmanager
def _open_put(_peer: str, scale: Scale) -> Iterator[Sides]:
    import joblib

    length = scale.shared_mb * _MB // 8
    with peers.joblib_parallel(scale.workers) as parallel, _pool(scale.workers) as pool:

        def ours(x: Any) -> float:
            handle = pool.put(x)
            futures = [pool.submit(tasks.total, handle) for _ in range(scale.tasks)]
            found = _only({future.result() for future in futures})
            handle.delete()
            _wait_until_freed(pool)
            return found

        def theirs(x: Any) -> float:
            one = joblib.delayed(tasks.total)
            return _only(set(parallel(one(x) for _ in range(scale.tasks))))

        yield Sides(_with_new_array(ours, length), _with_new_array(theirs, length))


def _only(values: set[float]) -> float:
    if len(values) != 1:
        raise WrongResult(f"tasks over the same array found {sorted(values)[:3]}")
    return values.pop()


# --- kernels ------------------------------------------------------------------------------------


@contextmanager
def _open_cell(_peer: str, scale: Scale) -> Iterator[Sides]:
    from jupyter_pool.bench.stock import StockKernel

    with StockKernel() as client, _pool(scale.workers) as pool:

        def ours() -> None:
            shown: list[dict[str, Any]] = []
            result = pool.execute("1 + 1", on_output=shown.append)
            _check(result.data, {"text/plain": "2"})
            _check(len(shown), 1)

        def theirs() -> None:
            seen: list[dict[str, Any]] = []
            client.execute_interactive("1 + 1", timeout=60, output_hook=seen.append)
            data = [m["content"]["data"] for m in seen if m["msg_type"] == "execute_result"]
            _check(data, [{"text/plain": "2"}])

        yield Sides(_timed(ours, _WARM_UP), _timed(theirs, _WARM_UP))


def _until_ready(workers: int) -> float:
    pool = KernelPool(size=workers)
    try:
        begun = time.perf_counter()
        pool.start(wait=True, timeout=_START_TIMEOUT)
        return time.perf_counter() - begun
    finally:
        pool.close(timeout=0)


@contextmanager
def _open_start(peer: str, scale: Scale) -> Iterator[Sides]:
    """No other pool is there: each start includes that of the process that workers are forked from."""
    workers = scale.workers

    def opened(opener: Callable[[int], AbstractContextManager[Any]]) -> float:
        begun = time.perf_counter()
        with opener(workers):
            return time.perf_counter() - begun

    def theirs() -> float:
        if peer == "jupyter_client":
            from jupyter_pool.bench.stock import start_together

            return start_together(workers)
        return opened({"ipyparallel": peers.ipyparallel_view, "dask": peers.dask_client}[peer])

    def ours() -> float:
        return _until_ready(workers)

    # What is imported here, on both sides, is no part of it.
    importlib.import_module(peers.PEERS[peer].module)
    ours()
    yield Sides(ours, theirs)


_SUBMIT_BARS = {
    "processpool": Bar(1.2, 0.9),
    "loky": Bar(1.0),
    "ipyparallel": Bar(0.08),
    "dask": Bar(0.07),
}

#: By the name that chooses them, in the order of the table.
ROWS = {
    "submit": Row(
        "submit(f, 1).result(), p50",
        _SUBMIT_BARS,
        _open_submit,
        rounds=500,
        quick_rounds=50,
    ),
    "submit-loop": Row(
        "submit, {calls} in a row, p50",
        _SUBMIT_BARS,
        _open_submit_loop,
        rounds=15,
        quick_rounds=5,
    ),
    "map": Row(
        "{mapped:,} tiny tasks by map",
        {"processpool": Bar(0.25, 0.05)},
        _open_map,
        rounds=5,
    ),
    "map-best": Row(
        "{mapped:,} tiny tasks by map",
        {"processpool": Bar(1.5, 1.0)},
        _open_map_best,
        rounds=11,
    ),
    "in-flight": Row(
        "{in_flight:,} submits in flight",
        {"processpool": Bar(1.0, 0.7)},
        _open_in_flight,
        rounds=5,
    ),
    "argument": Row(
        "{array_mb} MB argument",
        {"processpool": Bar(0.25, 0.1)},
        _open_argument,
        rounds=9,
        needs=("numpy",),
    ),
    "result": Row(
        "{array_mb} MB result",
        {"processpool": Bar(0.25, 0.1)},
        _open_result,
        rounds=9,
        needs=("numpy",),
    ),
    "put": Row(
        "{tasks} tasks over {shared_mb} MB, put",
        {"joblib": Bar(1.0, 0.5)},
        _open_put,
        rounds=7,
        needs=("numpy",),
    ),
    "cell": Row(
        "cell 1 + 1, its result, p50",
        {"jupyter_client": Bar(0.5, 0.35)},
        _open_cell,
        rounds=300,
        quick_rounds=30,
    ),
    "idle": Row(
        "a call, {idle} idle workers",
        {"pool": Bar(1.15, 1.05)},
        _open_idle,
        rounds=25,
        quick_rounds=5,
    ),
    "start": Row(
        "{workers} workers ready",
        {"jupyter_client": Bar(), "ipyparallel": Bar(), "dask": Bar()},
        _open_start,
        rounds=5,
        quick_rounds=1,
    ),
}
