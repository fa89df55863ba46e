"""Large values on one machine go through shared memory, both ways, and leave nothing of it behind."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_pool import (
    AsyncKernelPool,
    Cancelled,
    ExecutionError,
    KernelPool,
    OperationTimeout,
    SerializationError,
    WorkerDied,
    shared,
)
from jupyter_pool.engine.loop import Engine
from support.cells import DEADLINE, Gate, Watcher, states, value
from support.conditions import eventually
from support.owners import Owner
from support.tiny_disk import tiny_disk

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: shared memory is used on Linux"
)

KB = 1 << 10
#: Every array of the tests that is to be shared has more bytes.
SHARE_FROM = 64 * KB

# In a cell: where the memory of an array is.
IS_SHARED = """
def is_shared(array):
    return is_shared_at(array.__array_interface__["data"][0])

def is_shared_at(address):
    with open("/proc/self/maps") as maps:
        for line in maps:
            begin, end = (int(x, 16) for x in line.split()[0].split("-"))
            if begin <= address < end:
                return "jupyter-pool-" in line
"""
exec(IS_SHARED)


@pytest.fixture(scope="module", autouse=True)
def _small_arrays_are_large() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "SHARE_FROM", SHARE_FROM)
        yield


@pytest.fixture(scope="module")
def pool(pyzmqs_thread: None, _small_arrays_are_large: None) -> Iterator[KernelPool]:
    with KernelPool(1) as pool:
        yield pool


def folder() -> Path:
    engine = Engine._current
    assert engine is not None
    assert engine.shared is not None
    return Path(engine.shared.folder)


def files() -> list[str]:
    return sorted(path.name for path in folder().iterdir() if path.name != "lock")


def nothing_shared() -> bool:
    return not files()


def mapped() -> int:
    """How much of the folder this process has mapped."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("/jupyter-pool-")


@pytest.fixture(autouse=True)
def nothing_under_way(request: pytest.FixtureRequest) -> None:
    """The worker is there, and what earlier tests had is freed, which a thread of its own does."""
    if "pool" in request.fixturenames:
        pool: KernelPool = request.getfixturevalue("pool")
        eventually(lambda: states(pool) == ["idle"])
        eventually(nothing_shared)


def array(kilobytes: int = 100) -> np.ndarray[Any, Any]:
    return np.random.default_rng().random(kilobytes * KB // 8)


# --- values -------------------------------------------------------------------------------------


def cases() -> dict[str, Any]:
    base = np.random.default_rng(1).random((300, 200))
    read_only = base.copy()
    read_only.flags.writeable = False
    fields = np.zeros(20_000, dtype=[("a", "f8"), ("b", "i4")])
    fields["b"] = np.arange(20_000)
    return {
        "C order": base,
        "Fortran order": np.asfortranarray(base),
        "strided view": base[::2, 1:],
        "contiguous view": base[100:250],
        "reversed": base[::-1],
        "read-only": read_only,
        "empty": base[:0],
        "fields": fields,
        "dates": np.arange(20_000).astype("M8[s]"),
        "text": np.array(["a", "bc"] * 20_000),
        "objects": np.array([None, "x"] * 20_000, dtype=object),
    }


@pytest.mark.parametrize("name", cases())
def test_an_array_goes_there_and_comes_back_as_it_was(pool: KernelPool, name: str) -> None:
    sent = cases()[name]
    result = pool.execute("y, flags = x, str(x.flags)", inputs={"x": sent}, outputs=["y", "flags"])
    y = result.outputs["y"]
    np.testing.assert_array_equal(y, sent)
    assert y.dtype == sent.dtype
    assert y.flags.writeable == sent.flags.writeable
    assert y.flags.f_contiguous == sent.flags.f_contiguous or name in ("strided view", "reversed")
    assert ("WRITEABLE : True" in result.outputs["flags"]) == sent.flags.writeable
    eventually(nothing_shared, "all of it was passed on")


@pytest.mark.parametrize("kilobytes", [63, 64, 65, 3000])
def test_bytes_of_any_size_travel(pool: KernelPool, kilobytes: int) -> None:
    data = os.urandom(kilobytes * KB)
    both = {"b": data, "a": bytearray(data)}
    result = pool.execute("c, d = b, a", inputs=both, outputs=["c", "d"])
    assert (result.outputs["c"], result.outputs["d"]) == (data, data)


def test_a_data_frame_travels(pool: KernelPool) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "x": np.random.default_rng(2).random(20_000),
            "n": np.arange(20_000),
            "when": pd.date_range("2020", periods=20_000, freq="s"),
            "kind": pd.Categorical(["a", "b"] * 10_000),
            "text": ["some", "text"] * 10_000,
        }
    )
    result = pool.execute("g = f.copy(); g['x'] += 1", inputs={"f": frame}, outputs=["f", "g"])
    pd.testing.assert_frame_equal(result.outputs["f"], frame)
    assert (result.outputs["g"]["x"] == frame["x"] + 1).all()


@pytest.mark.requires("module:pyarrow")
def test_an_arrow_table_travels_without_its_buffers_being_copied(pool: KernelPool) -> None:
    import pyarrow as pa

    table = pa.table({"x": np.random.default_rng(3).random(50_000), "n": np.arange(50_000)})
    code = f"{IS_SHARED}\nseen = is_shared_at(t['x'].chunk(0).buffers()[1].address); u = t"
    result = pool.execute(code, inputs={"t": table}, outputs=["u", "seen"])
    assert result.outputs["seen"] is True
    back = result.outputs["u"]
    assert back.equals(table)
    address = back["n"].chunk(0).buffers()[1].address
    assert is_shared_at(address)  # type: ignore[name-defined]  # noqa: F821 - from IS_SHARED


def test_many_small_buffers_travel(pool: KernelPool) -> None:
    arrays = [np.full(n, n % 256, dtype=np.uint8) for n in range(2000)]
    result = pool.execute("b = [x + 1 for x in a]", inputs={"a": arrays}, outputs=["b"])
    assert all((b == (n + 1) % 256).all() for n, b in enumerate(result.outputs["b"]))


# --- shared -------------------------------------------------------------------------------------


def test_arguments_and_results_are_in_shared_memory_and_writable(pool: KernelPool) -> None:
    x = array()
    code = f"{IS_SHARED}\nseen = is_shared(x); x += 1; y = x * 2"
    result = pool.execute(code, inputs={"x": x}, outputs=["seen", "y"])
    assert result.outputs["seen"] is True
    y = result.outputs["y"]
    assert is_shared(y)  # type: ignore[name-defined]  # noqa: F821 - from IS_SHARED
    np.testing.assert_array_equal(y, (x + 1) * 2)
    y[:] = 0
    assert (y == 0).all()


def test_what_shares_memory_in_the_caller_shares_it_in_the_worker(pool: KernelPool) -> None:
    x = array()
    code = "a[0] = -1; same = b[0] == -1"
    result = pool.execute(code, inputs={"a": x, "b": x}, outputs=["same"])
    assert result.outputs["same"]
    assert x[0] >= 0


def test_what_is_changed_after_submitting_does_not_travel(pool: KernelPool) -> None:
    x = np.ones(50 * KB)
    future = pool.submit_code("s = float(x.sum())", inputs={"x": x}, outputs=["s"])
    x[:] = 0
    assert future.result(DEADLINE).outputs["s"] == 50 * KB


def test_small_values_are_not_shared(pool: KernelPool) -> None:
    code = f"{IS_SHARED}\nseen = is_shared(x)"
    small = np.zeros(SHARE_FROM // 8 - 100)
    assert pool.execute(code, inputs={"x": small}, outputs=["seen"]).outputs["seen"] is False


def test_a_result_outlives_its_pool(pyzmqs_thread: None) -> None:
    with KernelPool(1) as pool:
        code = "import numpy as np; y = np.arange(20_000)"
        result = pool.execute(code, outputs=["y"])
        other = pool.execute(code, outputs=["y"])
        read = other.outputs["y"]
    np.testing.assert_array_equal(result.outputs["y"], np.arange(20_000))
    np.testing.assert_array_equal(read, np.arange(20_000))
    read += 1


def test_memory_is_freed_when_its_last_holder_lets_go(pool: KernelPool) -> None:
    before = mapped()
    result = pool.execute("import numpy as np; y = np.ones(20_000)", outputs=["y"])
    assert nothing_shared()
    y = result.outputs["y"]
    part = y[5:10]
    del result, y
    assert mapped() == before + 1
    assert part.sum() == 5
    del part
    eventually(lambda: mapped() == before, "all of it is freed")


def test_a_result_that_nobody_looks_at_is_freed(pool: KernelPool) -> None:
    before = mapped()
    for _ in range(5):
        pool.execute("import numpy as np; y = np.ones(20_000)", outputs=["y"])
    eventually(lambda: mapped() == before, "all of it is freed")
    assert nothing_shared()


def test_a_worker_lets_go_of_its_arguments_after_the_request(pool: KernelPool) -> None:
    for _ in range(3):
        pool.execute("x.sum()", inputs={"x": array()})
    count = "n = open('/proc/self/maps').read().count('/jupyter-pool-')"
    assert pool.execute(count, outputs=["n"]).outputs["n"] == 0


def test_in_a_lease_arguments_stay_as_variables_do(pool: KernelPool) -> None:
    x = array()
    with pool.checkout() as worker:
        worker.execute("", inputs={"x": x})
        worker.execute("x += 1")
        np.testing.assert_array_equal(worker.execute("", outputs=["x"]).outputs["x"], x + 1)


def test_thousands_of_segments_take_no_descriptors(pool: KernelPool) -> None:
    arrays = [np.full(SHARE_FROM, n % 256, dtype=np.uint8) for n in range(1500)]
    descriptors = len(os.listdir("/proc/self/fd"))
    code = (
        "import os; before = len(os.listdir('/proc/self/fd')); b = [x + 1 for x in a];"
        "more = len(os.listdir('/proc/self/fd')) - before"
    )
    result = pool.execute(code, inputs={"a": arrays}, outputs=["b", "more"])
    assert result.outputs["more"] == 0
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert all((b == (n + 1) % 256).all() for n, b in enumerate(result.outputs["b"]))
    eventually(nothing_shared, "all were passed on")


# --- when things go wrong -----------------------------------------------------------------------


def test_a_worker_that_dies_with_its_arguments_leaves_nothing(pool: KernelPool) -> None:
    with pytest.raises(WorkerDied):
        pool.execute("import os; x.sum(); os.kill(os.getpid(), 9)", inputs={"x": array()})
    eventually(nothing_shared, "the arguments are freed")


# A cell after which its worker dies at the last moment, when the result is in shared memory.
DIES_BEFORE_ITS_REPLY = """
import numpy as np
def send(frames):
    import os
    assert [f for f in frames if hasattr(f, "path")]
    os.kill(os.getpid(), 9)
get_ipython().kernel.data.send = send
y = np.ones(20_000)
"""


def test_a_worker_that_dies_with_its_result_written_leaves_nothing(pool: KernelPool) -> None:
    with pytest.raises(WorkerDied):
        pool.execute(DIES_BEFORE_ITS_REPLY, outputs=["y"])
    eventually(nothing_shared, "the result that was never sent is freed")


def test_a_request_that_is_tried_again_has_its_arguments_again(
    pool: KernelPool, tmp_path: Path
) -> None:
    x = array()
    code = (
        "import os, pathlib; x[:] = x + 1\n"
        f"mark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "if not mark.exists(): mark.touch(); os.kill(os.getpid(), 9)\n"
    )
    result = pool.execute(code, inputs={"x": x}, outputs=["x"], retries=1)
    np.testing.assert_array_equal(result.outputs["x"], x + 1)
    eventually(nothing_shared, "the arguments are freed")


def test_a_timeout_frees_the_arguments(pool: KernelPool) -> None:
    with pytest.raises(OperationTimeout):
        pool.execute("import time; time.sleep(600)", inputs={"x": array()}, timeout=0.5)
    eventually(nothing_shared, "the arguments are freed")


def test_an_error_in_the_code_frees_arguments_and_sends_no_result(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError):
        pool.execute("y = x; 1 / 0", inputs={"x": array()}, outputs=["y"])
    eventually(nothing_shared, "the arguments are freed")


def test_an_output_that_cannot_be_pickled_does_not_keep_the_others(pool: KernelPool) -> None:
    code = "import numpy as np; y = np.ones(20_000); z = (i for i in y)"
    with pytest.raises(SerializationError) as caught:
        pool.execute(code, outputs=["y", "z"])
    result: Any = caught.value.result
    assert result.outputs["y"].sum() == 20_000
    assert nothing_shared()


def test_cancelled_requests_free_their_arguments(pool: KernelPool, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        running = pool.submit_code(gate.code, inputs={"x": array()}, on_output=watcher)
        watcher.wait_for()
        queued = [pool.submit_code("x", inputs={"x": array()}) for _ in range(3)]
        assert len(files()) == 4
        assert all(future.cancel() for future in queued)
        eventually(lambda: len(files()) == 1, "what never ran is freed")
        pool.cancel(running.request_id)  # type: ignore[attr-defined]
        with pytest.raises(Cancelled):
            running.result(DEADLINE)
    eventually(nothing_shared, "the arguments are freed")


def test_closing_with_requests_under_way_leaves_nothing(
    pyzmqs_thread: None, tmp_path: Path
) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        pool = KernelPool(1)
        futures = [
            pool.submit_code(gate.code, inputs={"x": array()}, on_output=watcher) for _ in range(3)
        ]
        handle = pool.put(array())
        watcher.wait_for()
        mine = folder()
        pool.close(timeout=0)
    assert all(isinstance(future.exception(DEADLINE), Exception) for future in futures)
    assert handle.nbytes > SHARE_FROM
    if Engine._current is None:
        assert not mine.exists()
    else:
        eventually(nothing_shared, "all of it is freed")


OWNER = f"""
import numpy as np
from jupyter_pool import shared
shared.SHARE_FROM = {SHARE_FROM}
pool = KernelPool(1).start(wait=True)
stored = pool.put(np.ones(20_000))
at_work = threading.Event()
cell = "print('at work', flush=True); import time; time.sleep(600)"
futures = [
    pool.submit_code(cell, inputs={{"x": np.ones(20_000)}}, on_output=lambda event: at_work.set())
    for _ in range(5)
]
at_work.wait(30)
memory = Engine._current.shared.folder
say([memory, len(os.listdir(memory))])
listen()
"""


def test_an_owner_that_is_killed_leaves_no_shared_memory() -> None:
    with Owner(OWNER) as owner:
        memory, count = owner.hear()
        assert count == 7
        owner.process.kill()
        owner.process.wait(DEADLINE)
        eventually(lambda: not os.path.exists(memory), "the guardian has removed it")


def test_on_a_tiny_file_system_values_travel_as_frames_and_nobody_dies(
    pyzmqs_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_disk(tmp_path / "shm", "1m") as disk:
        monkeypatch.setattr(shared, "ROOT", str(disk.path))
        script_sees = f"{IS_SHARED}\nseen = is_shared(x); y = x + 1"
        with _own_engine(), KernelPool(1) as pool:
            worker = value(pool.execute("import os; os.getpid()"))
            large = array(3000)
            for x, expected in ((large, False), (array(100), True), (large, False)):
                result = pool.execute(script_sees, inputs={"x": x}, outputs=["seen", "y"])
                assert result.outputs["seen"] is expected
                np.testing.assert_array_equal(result.outputs["y"], x + 1)
            disk.fill()
            x = array(200)
            result = pool.execute(script_sees, inputs={"x": x}, outputs=["seen", "y"])
            assert result.outputs["seen"] is False
            np.testing.assert_array_equal(result.outputs["y"], x + 1)
            handle = pool.put(x)
            for _ in range(2):
                result = pool.execute(script_sees, inputs={"x": handle}, outputs=["y"])
                np.testing.assert_array_equal(result.outputs["y"], x + 1)
            assert value(pool.execute("import os; os.getpid()")) == worker
            disk.make_room()


def test_values_travel_as_frames_where_the_folder_was_removed(
    pyzmqs_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "ROOT", str(tmp_path))
    x = array()
    with _own_engine(), KernelPool(1) as pool:
        np.testing.assert_array_equal(
            pool.execute("", inputs={"x": x}, outputs=["x"]).outputs["x"], x
        )
        for path in folder().iterdir():
            path.unlink()
        folder().rmdir()
        np.testing.assert_array_equal(
            pool.execute("", inputs={"x": x}, outputs=["x"]).outputs["x"], x
        )


def test_arguments_that_somebody_removed_are_said_to_be_gone(
    pool: KernelPool, tmp_path: Path
) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        running = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        future = pool.submit_code("x", inputs={"x": array()})
        for name in files():
            (folder() / name).unlink()
        gate.open()
        running.result(DEADLINE)
        with pytest.raises(SerializationError, match="somebody has removed it"):
            future.result(DEADLINE)
    assert value(pool.execute("1 + 1")) == "2"


class _own_engine:
    """Within it pools have an engine of their own, beside that of the module's pool."""

    def __enter__(self) -> None:
        self._other = Engine._current
        Engine._current = None

    def __exit__(self, *exc: object) -> None:
        Engine._current = self._other


async def test_an_async_pool_shares_as_well(pyzmqs_thread: None) -> None:
    x = array()
    async with AsyncKernelPool(1) as pool:
        code = f"{IS_SHARED}\nseen = is_shared(x); y = x + 1"
        result = await pool.execute(code, inputs={"x": x}, outputs=["seen", "y"])
        assert result.outputs["seen"] is True
        np.testing.assert_array_equal(result.outputs["y"], x + 1)
