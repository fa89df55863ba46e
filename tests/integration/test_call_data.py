"""Large values of function calls: through shared memory both ways, stored by `put`, nothing left."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_pool import (
    AsyncKernelPool,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    SerializationError,
    WorkerDied,
    shared,
)
from support.calls import Door, by_value, pass_through
from support.cells import DEADLINE
from support.conditions import eventually
from support.segments import files

KB = 1 << 10
#: Every array of the tests that is to be shared has more bytes.
SHARE_FROM = 64 * KB

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def _travels_whole() -> Iterator[None]:
    with by_value(__name__), by_value("support.calls"):
        yield


@pytest.fixture(scope="module", params=["shared memory", "frames"])
def pool(request: pytest.FixtureRequest, pyzmqs_thread: None) -> Iterator[KernelPool]:
    """One whose large values are in shared memory, and one on a machine where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "frames":
            patch.setattr(shared, "ROOT", "/nowhere")
        elif not sys.platform.startswith("linux"):
            pytest.skip("platform: shared memory is used on Linux")
        patch.setattr(shared, "SHARE_FROM", SHARE_FROM)
        with KernelPool(2) as pool:
            yield pool


@pytest.fixture(autouse=True)
def _nothing_is_left(pool: KernelPool) -> Iterator[None]:
    yield
    eventually(nothing_shared, "all of it is freed")


@pytest.fixture
def shares(pool: KernelPool) -> bool:
    """Whether large values go through shared memory."""
    return pool.running().engine.shared is not None


@pytest.fixture
def x() -> Array:
    return np.random.default_rng().random(20_000)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


def idle(pool: KernelPool) -> bool:
    return all(worker.state == "idle" for worker in pool.get_status().workers)


def nothing_shared() -> bool:
    return not files()


# --- called in workers --------------------------------------------------------------------------


def is_shared(array: Any) -> bool:
    """Whether the array's memory is shared memory."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(number, 16) for number in line.split()[0].split("-"))
            if begin <= address < end:
                return "jupyter-pool-" in line
    raise AssertionError("it is nowhere")


def look_and_change(a: Any, *, b: Any) -> tuple[bool, bool, float, Any]:
    found = is_shared(a), is_shared(b["x"]), float(a.sum() + b["x"].sum())
    a[:] = -1
    b["x"][:] = -1
    return (*found, a)


def total(x: Any) -> float:
    return float(x.sum())


def spoil(x: Any) -> float:
    found = float(x.sum())
    x[:] = 0
    return found


def dies_once(mark: str, x: Any) -> Any:
    if not os.path.exists(mark):
        with open(mark, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    return x + 1


def kept_in_worker() -> tuple[int, dict[str, list[int]]]:
    """The worker, and where it keeps what was put."""
    from IPython import get_ipython

    stored = get_ipython().kernel.data._stored
    return os.getpid(), {key: [id(frame) for frame in frames] for key, frames in stored.items()}


# --- arguments and results ----------------------------------------------------------------------


def test_arguments_and_results_are_shared_and_writable(
    pool: KernelPool, shares: bool, x: Array
) -> None:
    first, second, found, back = pool.submit(look_and_change, x, b={"x": x + 1}).result(DEADLINE)
    assert (first, second) == (shares, shares)
    assert found == pytest.approx(2 * x.sum() + len(x))
    assert is_shared(back) == shares
    assert (back == -1).all()
    back[:] = 0
    assert x.min() >= 0


def test_what_is_changed_after_submitting_does_not_travel(pool: KernelPool) -> None:
    x = np.ones(20_000)
    futures = [pool.submit(total, x), pool.submit(functools.partial(total, x))]
    x[:] = 0
    assert [future.result(DEADLINE) for future in futures] == [20_000, 20_000]


def test_items_and_results_of_a_map_are_shared(pool: KernelPool, shares: bool) -> None:
    items = [np.full(20_000, number) for number in range(12)]
    for chunksize in (None, 1, 5):
        results = list(pool.map(lambda a: a + 1, items, chunksize=chunksize))
        assert [int(result[0]) for result in results] == list(range(1, 13))
        assert {is_shared(result) for result in results} == {shares}
        both = list(pool.map(np.add, items, items, chunksize=chunksize))
        assert [int(result[-1]) for result in both] == list(range(0, 24, 2))


def test_a_result_that_nobody_looks_at_is_freed(pool: KernelPool) -> None:
    def unmapped() -> bool:
        gc.collect()
        return "/jupyter-pool-" not in Path("/proc/self/maps").read_text()

    eventually(unmapped, "what earlier tests have had is freed")
    for _ in range(5):
        pool.submit(np.ones, 20_000)
    future = pool.submit(np.ones, 20_000)
    while not future.done():
        future.exception(DEADLINE)
    del future
    eventually(unmapped, "all of it is freed")


def test_a_worker_lets_go_of_arguments_after_the_call(pool: KernelPool, x: Array) -> None:
    for _ in range(3):
        pool.submit(total, x).result(DEADLINE)

    def nothing_mapped() -> bool:
        # What was put may be, for the next call: for half a second.
        maps = pool.submit(lambda: Path("/proc/self/maps").read_text()).result(DEADLINE)
        return "/jupyter-pool-" not in maps

    eventually(nothing_mapped, "all of it is freed")


def test_a_call_that_is_tried_again_has_its_arguments_again(
    pool: KernelPool, x: Array, tmp_path: Path
) -> None:
    mark = str(tmp_path / "mark")
    future = pool.options(retries=1).submit(dies_once, mark, x)
    np.testing.assert_array_equal(future.result(DEADLINE), x + 1)


def test_items_of_a_map_whose_worker_died_have_their_arguments_again(
    pool: KernelPool, x: Array, tmp_path: Path
) -> None:
    call = functools.partial(dies_once, str(tmp_path / "mark"))
    results = list(pool.options(retries=1).map(call, [x] * 6, chunksize=3))
    assert len(results) == 6
    assert all((result == x + 1).all() for result in results)


@pytest.mark.parametrize("how", ["error", "death", "timeout"])
def test_calls_that_fail_leave_nothing(pool: KernelPool, x: Array, how: str) -> None:
    calls: dict[str, tuple[Callable[[Any], Any], type[BaseException]]] = {
        "error": (lambda x: x.no_such_thing, AttributeError),
        "death": (lambda x: os.kill(os.getpid(), signal.SIGKILL), WorkerDied),
        "timeout": (lambda x: time.sleep(600), OperationTimeout),
    }
    call, error = calls[how]
    timeout = 0.3 if how == "timeout" else None
    with pytest.raises(error):
        pool.options(timeout=timeout).submit(call, x).result(DEADLINE)


def test_a_worker_that_dies_with_its_result_written_leaves_nothing(pool: KernelPool) -> None:
    def die_before_the_reply() -> Any:
        from IPython import get_ipython

        def send(frames: list[Any]) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        get_ipython().kernel.data.send = send
        return np.ones(20_000)

    with pytest.raises(WorkerDied):
        pool.submit(die_before_the_reply).result(DEADLINE)


def test_cancelled_calls_free_their_arguments(
    pool: KernelPool, shares: bool, x: Array, door: Door
) -> None:
    running = [pool.submit(pass_through, door.key, number) for number in range(2)]
    eventually(lambda: door.count() == 2, "both workers are busy")
    queued = [pool.submit(total, x) for _ in range(3)]
    assert len(files()) == 3 * shares
    assert all(future.cancel() for future in queued)
    eventually(nothing_shared, "what never ran is freed")
    door.open(2)
    assert [future.result(DEADLINE) for future in running] == [0, 1]


def test_a_map_that_is_given_up_frees_what_was_sent(
    pool: KernelPool, x: Array, door: Door, tmp_path: Path
) -> None:
    first = Door(tmp_path, "first")  # of its own, or others could go through in its place
    keys = [first.key] + [door.key] * 19
    results = pool.map(lambda key, a: pass_through(key, len(a)), keys, [x] * 20)
    eventually(lambda: first.count() + door.count() == 2, "both workers are busy")
    first.open()
    assert next(results) == len(x)  # one that nobody has begun to read is finished
    results.close()  # type: ignore[attr-defined]
    door.open(20)
    eventually(lambda: idle(pool), "what ran has ended")
    eventually(nothing_shared, "nothing is kept")
    first.close()


def test_arguments_that_somebody_removed_are_said_to_be_gone(
    pool: KernelPool, shares: bool, x: Array, door: Door
) -> None:
    if not shares:
        return
    running = [pool.submit(pass_through, door.key) for _ in range(2)]
    eventually(lambda: door.count() == 2, "both workers are busy")
    future = pool.submit(total, x)
    folder = Path(pool.running().engine.shared.folder)  # type: ignore[union-attr]
    for name in files():
        (folder / name).unlink()
    door.open(2)
    for busy in running:
        busy.result(DEADLINE)
    with pytest.raises(SerializationError, match="somebody has removed it"):
        future.result(DEADLINE)
    assert pool.submit(total, x).result(DEADLINE) == x.sum()


# --- functions with large arrays ----------------------------------------------------------------


def test_a_function_with_a_large_array_is_stored_once_for_a_map(
    pool: KernelPool, shares: bool, x: Array
) -> None:
    shared = pool.running().engine.shared
    folder = shared.folder if shared is not None else None

    def add(number: int) -> tuple[bool, float, int]:
        found = is_shared(x), float(x[0] + number), len(files_here())
        x[0] = -1  # nobody else's
        return found

    def files_here() -> list[str]:
        return [name for name in os.listdir(folder) if "." in name] if folder else []

    results = list(pool.map(add, range(50), chunksize=1))
    assert [found for _, found, _ in results] == [x[0] + number for number in range(50)]
    assert {there for there, _, _ in results} == {shares}


def test_a_function_with_a_large_array_keeps_nothing_of_a_call(pool: KernelPool, x: Array) -> None:
    call = functools.partial(spoil, x)
    for _ in range(4):
        assert pool.submit(call).result(DEADLINE) == x.sum()


# --- put ----------------------------------------------------------------------------------------


def test_a_handle_arrives_as_its_value_wherever_it_is(pool: KernelPool, x: Array) -> None:
    def same(a: Any, deep: Any, *rest: Any, named: Any, **more: Any) -> tuple[bool, float]:
        return a is deep["list"][0] is rest[0] is named is more["other"], float(a.sum())

    with_handle = pool.put(x)
    future = pool.submit(
        same,
        with_handle,
        {"list": [with_handle]},
        with_handle,
        named=with_handle,
        other=with_handle,
    )
    assert future.result(DEADLINE) == (True, float(x.sum()))


def test_a_function_may_refer_to_a_handle(pool: KernelPool, x: Array) -> None:
    handle = pool.put(x)

    def same(a: Any) -> tuple[bool, float]:
        return a is handle, total(handle)

    assert pool.submit(same, handle).result(DEADLINE) == (True, float(x.sum()))
    assert list(pool.map(same, [handle] * 5)) == [(True, float(x.sum()))] * 5
    for call in (functools.partial(total, handle), lambda: total(handle)):
        assert pool.submit(call).result(DEADLINE) == x.sum()


def test_what_one_call_does_to_it_no_other_sees(pool: KernelPool, x: Array) -> None:
    handle = pool.put(x)
    futures = [pool.submit(spoil, handle) for _ in range(8)]
    assert {future.result(DEADLINE) for future in futures} == {x.sum()}
    assert set(pool.map(spoil, [handle] * 8, chunksize=1)) == {x.sum()}
    assert set(pool.map(lambda _, a: spoil(a), range(8), [handle] * 8, chunksize=1)) == {x.sum()}


def test_items_of_one_chunk_get_the_same_object(pool: KernelPool, x: Array) -> None:
    # As with any value that is in a chunk twice.
    handle = pool.put(x)
    assert list(pool.map(spoil, [handle] * 3, chunksize=3)) == [x.sum(), 0, 0]
    assert list(pool.map(spoil, [x] * 3, chunksize=3)) == [x.sum(), 0, 0]


def test_each_worker_loads_it_once(pool: KernelPool, x: Array) -> None:
    handle = pool.put(x)

    def kept(a: Any) -> tuple[int, dict[str, list[int]]]:
        time.sleep(0.01)
        return kept_in_worker()

    seen: dict[int, list[list[int]]] = {}
    while len(seen) < 2 or min(map(len, seen.values())) < 3:
        for pid, stored in [f.result(DEADLINE) for f in [pool.submit(kept, handle) for _ in "ab"]]:
            seen.setdefault(pid, []).append(stored[handle.id])
    for found in seen.values():
        assert all(frames == found[0] for frames in found)


def test_calls_and_cells_share_it(pool: KernelPool, x: Array) -> None:
    handle = pool.put(x)
    for _ in range(3):
        assert pool.submit(total, handle).result(DEADLINE) == x.sum()
        result = pool.execute("s = float(x.sum())", inputs={"x": handle}, outputs=["s"])
        assert result.outputs["s"] == x.sum()


def test_a_call_that_is_tried_again_gets_it_again(
    pool: KernelPool, x: Array, tmp_path: Path
) -> None:
    handle = pool.put(x)
    future = pool.options(retries=1).submit(dies_once, str(tmp_path / "mark"), handle)
    np.testing.assert_array_equal(future.result(DEADLINE), x + 1)
    call = functools.partial(dies_once, str(tmp_path / "other mark"))
    for result in pool.options(retries=1).map(call, [handle] * 6, chunksize=2):
        np.testing.assert_array_equal(result, x + 1)


def test_a_process_of_its_own_gets_it(pool: KernelPool, x: Array) -> None:
    handle = pool.put(x)
    alone = pool.options(isolation="process")
    for _ in range(2):
        assert alone.submit(total, handle).result(DEADLINE) == x.sum()
        assert alone.submit(total, x).result(DEADLINE) == x.sum()


def test_a_call_whose_function_must_be_sent_again_does_not_lose_it(
    pool: KernelPool, x: Array
) -> None:
    handle = pool.put(x)
    padding = "large enough to be kept by its worker" * 200

    def call(a: Any) -> tuple[float, int]:
        return float(a.sum()), len(padding)

    def forget() -> None:
        from IPython import get_ipython

        get_ipython().kernel._calls._functions._known.clear()

    expected = (float(x.sum()), len(padding))
    with KernelPool(1) as one:
        mine = one.put(x)
        assert one.submit(call, mine).result(DEADLINE) == expected
        one.submit(forget).result(DEADLINE)
        # The function is missing, and this value comes with the call that finds that out.
        other = one.put(x)
        assert one.submit(call, other).result(DEADLINE) == expected
    assert pool.submit(call, handle).result(DEADLINE) == expected


def test_calls_that_were_submitted_before_it_was_deleted_still_get_it(
    pool: KernelPool, x: Array, door: Door
) -> None:
    handle = pool.put(x)
    running = [pool.submit(pass_through, door.key) for _ in range(2)]
    eventually(lambda: door.count() == 2, "both workers are busy")
    waiting = pool.submit(total, handle)
    results = pool.map(functools.partial(np.add, handle), range(3))
    handle.delete()
    door.open(2)
    assert waiting.result(DEADLINE) == x.sum()
    assert [float(result[0]) for result in results] == [x[0], x[0] + 1, x[0] + 2]
    for future in running:
        future.result(DEADLINE)


def test_a_deleted_handle_is_refused(pool: KernelPool, x: Array) -> None:
    handle = pool.put(x)
    handle.delete()
    with pytest.raises(InvalidRequest, match="was deleted"):
        pool.submit(total, handle)
    with pytest.raises(InvalidRequest, match="was deleted"):
        pool.map(functools.partial(np.add, handle), [1])
    results = pool.map(total, [x, handle, x])
    assert next(results) == x.sum()
    with pytest.raises(InvalidRequest, match="was deleted"):
        next(results)


async def test_an_async_pool_does_all_of_it(
    pool: KernelPool, shares: bool, x: Array, tmp_path: Path
) -> None:
    async with AsyncKernelPool(1) as own:
        first, second, found, back = await own.submit(look_and_change, x, b={"x": x})
        assert (first, second, is_shared(back)) == (shares,) * 3
        assert found == pytest.approx(2 * x.sum())
        handle = await own.put(x)
        assert await own.submit(spoil, handle) == x.sum()
        assert [y async for y in own.map(spoil, [handle] * 3, chunksize=1)] == [x.sum()] * 3
        again = own.options(retries=1).submit(dies_once, str(tmp_path / "mark"), handle)
        np.testing.assert_array_equal(await again, x + 1)
