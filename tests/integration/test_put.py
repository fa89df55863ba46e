"""`pool.put`: stored once, given to many requests, each of which gets it as it was."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_pool import (
    AsyncKernelPool,
    InvalidRequest,
    KernelPool,
    PoolNotAvailable,
    SerializationError,
    WorkerDied,
    shared,
)
from jupyter_pool.engine.loop import Engine
from support.cells import DEADLINE, Gate, Watcher, pids, value
from support.conditions import eventually, gone
from support.segments import files

KB = 1 << 10
SHARE_FROM = 64 * KB
HAS_SHARED_MEMORY = sys.platform.startswith("linux")


@pytest.fixture(scope="module", params=["shared memory", "frames"])
def pool(request: pytest.FixtureRequest, pyzmqs_thread: None) -> Iterator[KernelPool]:
    """One whose large values are in shared memory, and one on a machine where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "frames":
            patch.setattr(shared, "ROOT", "/nowhere")
        elif not HAS_SHARED_MEMORY:
            pytest.skip("platform: shared memory is used on Linux")
        patch.setattr(shared, "SHARE_FROM", SHARE_FROM)
        with KernelPool(2) as pool:
            yield pool


@pytest.fixture
def x() -> np.ndarray[Any, Any]:
    return np.random.default_rng().random(20_000)


# What a cell finds that its worker keeps of what was put.
KEPT = "kept = {key: [id(f) for f in frames] for key, frames in get_ipython().kernel.data._stored.items()}"


def total(pool: Any, handle: Any) -> float:
    result = pool.execute("s = float(x.sum())", inputs={"x": handle}, outputs=["s"])
    return float(result.outputs["s"])


def test_a_handle_arrives_as_its_value_wherever_it_is(pool: KernelPool, x: Any) -> None:
    handle = pool.put(x)
    code = "ok = a is b['list'][0] is b['again']; s = float(a.sum())"
    inputs = {"a": handle, "b": {"list": [handle, 1], "again": handle}}
    result = pool.execute(code, inputs=inputs, outputs=["ok", "s"])
    assert result.outputs["ok"]
    assert result.outputs["s"] == x.sum()


@pytest.mark.parametrize("thing", [None, 5, "text", {"a": [1, 2]}, b"x" * 200_000], ids=type)
def test_anything_that_can_be_sent_can_be_put(pool: KernelPool, thing: Any) -> None:
    result = pool.execute("y = x", inputs={"x": pool.put(thing)}, outputs=["y"])
    assert result.outputs["y"] == thing


def test_what_one_request_does_to_it_no_other_sees(pool: KernelPool, x: Any) -> None:
    before = x.copy()
    handle = pool.put({"array": x, "list": [1]})
    x[:] = -1  # what was put is the value as it was
    code = "y, n = d['array'].copy(), len(d['list']); d['array'][:] = 0; d['list'].append(2)"
    for _ in range(4):
        result = pool.execute(code, inputs={"d": handle}, outputs=["y", "n"])
        np.testing.assert_array_equal(result.outputs["y"], before)
        assert result.outputs["n"] == 1


def test_a_class_of_a_notebook_that_was_put_keeps_nothing_of_a_request(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(
        "class C:\n    seen = []\ndef f(x, seen=[]):\n    seen.append(x)\n    return len(seen)",
        main.__dict__,
    )
    handle = pool.put([main.C, main.f])
    for _ in range(4):
        code = "c, f = both; c.seen.append(1); n = (len(c.seen), f(1))"
        result = pool.execute(code, inputs={"both": handle}, outputs=["n"])
        assert result.outputs["n"] == (1, 1)


def test_each_worker_loads_it_once(pool: KernelPool, x: Any) -> None:
    handle = pool.put(x)
    seen: dict[int, list[Any]] = {}
    while len(seen) < 2 or min(map(len, seen.values())) < 3:
        both = [
            pool.submit_code(
                f"import os, time; pid = os.getpid(); {KEPT}; time.sleep(0.01)",
                inputs={"x": handle},
                outputs=["pid", "kept"],
            )
            for _ in range(2)
        ]
        for future in both:
            outputs = future.result(DEADLINE).outputs
            seen.setdefault(outputs["pid"], []).append(outputs["kept"][handle.id])
    for kept in seen.values():
        assert all(frames == kept[0] for frames in kept)


def test_a_new_worker_gets_it_too(pool: KernelPool, x: Any) -> None:
    handle = pool.put(x)
    assert total(pool, handle) == x.sum()
    with pytest.raises(WorkerDied):
        pool.execute("import os; os.kill(os.getpid(), 9)", inputs={"x": handle})
    for worker_id, pid in pids(pool).items():
        pool.restart_worker(worker_id)
        eventually(gone([pid or 0]), "the old one")
    for _ in range(4):
        assert total(pool, handle) == x.sum()
    result = pool.execute(
        "s = float(x.sum())", inputs={"x": handle}, outputs=["s"], isolation="process"
    )
    assert result.outputs["s"] == x.sum()


def test_a_request_that_is_tried_again_gets_it_again(
    pool: KernelPool, x: Any, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    code = (
        "import os, pathlib; s = float(x.sum()); x[:] = 0\n"
        f"mark = pathlib.Path({str(mark)!r})\n"
        "if not mark.exists(): mark.touch(); os.kill(os.getpid(), 9)\n"
    )
    result = pool.execute(code, inputs={"x": pool.put(x)}, outputs=["s"], retries=1)
    assert result.outputs["s"] == x.sum()


def test_a_refused_request_does_not_lose_it_for_the_next(
    pool: KernelPool, x: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = pool.put(x)
    for _ in range(3):
        bad = tmp_path / "gone"
        bad.mkdir()
        with monkeypatch.context() as patch:
            patch.chdir(bad)
            gate = pool.submit_code("x", inputs={"x": handle})
        bad.rmdir()
        gate.exception(DEADLINE)
        assert total(pool, handle) == x.sum()


def test_threads_may_share_a_handle(pool: KernelPool, x: Any) -> None:
    handle = pool.put(x)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: total(pool, handle), range(24))) == {x.sum()}


def test_leases_and_views_take_handles(pool: KernelPool, x: Any) -> None:
    handle = pool.options(timeout=DEADLINE).put(x)
    assert total(pool.options(timeout=DEADLINE), handle) == x.sum()
    with pool.checkout() as worker:
        worker.execute("", inputs={"x": handle})
        worker.execute("x += 1")
        assert value(worker.execute("bool(x.min() >= 1)")) == "True"


# --- letting go ---------------------------------------------------------------------------------


def test_a_deleted_handle_is_refused(pool: KernelPool, x: Any) -> None:
    handle = pool.put(x)
    handle.delete()
    handle.delete()
    assert handle.deleted
    assert "deleted" in repr(handle)
    with pytest.raises(InvalidRequest, match="was deleted"):
        pool.execute("x", inputs={"x": [handle]})
    eventually(lambda: not files(), "it is freed")


def test_requests_that_were_made_before_still_get_it(
    pool: KernelPool, x: Any, tmp_path: Path
) -> None:
    handle = pool.put(x)
    with Gate(tmp_path) as gate:
        watchers = [Watcher(), Watcher()]
        busy = [pool.submit_code(gate.code, on_output=watcher) for watcher in watchers]
        for watcher in watchers:
            watcher.wait_for()
        waiting = pool.submit_code("s = float(x.sum())", inputs={"x": handle}, outputs=["s"])
        handle.delete()
        gate.open(2)
        assert waiting.result(DEADLINE).outputs["s"] == x.sum()
        for future in busy:
            future.result(DEADLINE)
    eventually(lambda: not files(), "it is freed")


def test_a_value_goes_with_its_handle_also_in_the_workers(pool: KernelPool, x: Any) -> None:
    handles = [pool.put(x) for _ in range(3)]
    ids = {handle.id for handle in handles}
    with pool.checkout() as worker:
        for handle in handles:
            worker.execute("", inputs={"x": handle})
        kept = worker.execute(KEPT, outputs=["kept"]).outputs["kept"]
        assert ids <= kept.keys()
        del handle
        handles.clear()
        gc.collect()
        eventually(lambda: not files(), "they are freed")
        kept = worker.execute(KEPT, outputs=["kept"]).outputs["kept"]
        assert not ids & kept.keys()


def test_a_worker_with_nothing_to_do_holds_no_memory_of_it(pool: KernelPool, x: Any) -> None:
    handle = pool.put(x)
    with pool.checkout() as worker:
        worker.execute("x[:] = 0; del x", inputs={"x": handle})
        count = "n = open('/proc/self/maps').read().count('/jupyter-pool-')"
        eventually(lambda: worker.execute(count, outputs=["n"]).outputs["n"] == 0, "it is freed")
    assert total(pool, handle) == x.sum()


def test_a_closed_pool_has_freed_everything(pyzmqs_thread: None, x: Any) -> None:
    with KernelPool(1) as pool:
        handle = pool.put(np.zeros(1 << 20))
        engine = Engine._current
        assert engine is not None
        # Of the module's pool, if that is there already.
        assert bool(files()) == (engine.shared is not None)
    with pytest.raises(PoolNotAvailable):
        pool.put(x)
    with KernelPool(1) as other, pytest.raises(InvalidRequest, match="belongs to pool"):
        other.execute("x", inputs={"x": handle})


# --- what cannot be -----------------------------------------------------------------------------


def test_another_pools_handle_is_refused(pool: KernelPool, x: Any) -> None:
    with KernelPool(1) as other:
        handle = other.put(x)
        with pytest.raises(InvalidRequest, match=rf"belongs to pool '{other.name}'"):
            pool.execute("x", inputs={"x": handle})


def test_a_handle_means_nothing_elsewhere(pool: KernelPool, x: Any) -> None:
    handle = pool.put(x)
    with pytest.raises(InvalidRequest, match="workers of its pool"):
        pickle.dumps(handle)
    with pytest.raises(InvalidRequest, match="part of a value"):
        pool.put({"nested": handle})
    assert copy.copy(handle) is copy.deepcopy(handle) is handle


def test_what_cannot_be_pickled_cannot_be_put(pool: KernelPool) -> None:
    with pytest.raises(SerializationError, match="generator"):
        pool.put(i for i in range(3))


def test_values_that_this_process_cannot_rebuild_are_said_to_be_so(
    pool: KernelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("only_here")
    exec("class C: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    handle = pool.put(module.C())
    with pytest.raises(SerializationError, match="only_here"):
        pool.execute("x", inputs={"x": handle})


@pytest.mark.requires("kernel:bash")
def test_a_foreign_kernel_takes_none(bash_kernel: str) -> None:
    with (
        KernelPool(1, kernel_name=bash_kernel, lazy=True) as pool,
        pytest.raises(InvalidRequest, match="Python kernel"),
    ):
        pool.put(1)


async def test_an_async_pool_takes_handles(pyzmqs_thread: None, x: Any) -> None:
    async with AsyncKernelPool(1) as pool:
        handle = await pool.put(x)
        for _ in range(2):
            code = "s = float(x.sum()); x[:] = 0"
            result = await pool.execute(code, inputs={"x": handle}, outputs=["s"])
            assert result.outputs["s"] == x.sum()
