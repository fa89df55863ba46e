"""The memory of workers: measured, limited while a request runs, given back by replacement."""

from __future__ import annotations

import asyncio
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import AsyncKernelPool, Cancelled, KernelPool, MemoryLimitExceeded
from jupyter_pool.engine import memory_watch
from support.cells import DEADLINE, Gate, Watcher, pid, pids, states, value
from support.conditions import eventually, gone

MB = 1_000_000
LIMIT = 150 * MB

#: Comes to far more than the limit in steps, and stays there.
GROW = """
import time
held = []
for _ in range(100):
    held.append(b'x' * 5_000_000)  # grows
while True:
    time.sleep(0.01)  # has grown
"""


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(2, memory_limit=LIMIT) as pool:
        yield pool


@pytest.fixture(autouse=True)
def complete(request: pytest.FixtureRequest) -> None:
    """Both workers are there when a test begins, and nothing is counted yet."""
    if "pool" in request.fixturenames:
        pool: KernelPool = request.getfixturevalue("pool")
        pool.start(wait=True, timeout=DEADLINE)
        eventually(lambda: states(pool) == ["idle", "idle"])
        pool.pop_stats()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Wait until the running requests were looked at so often from now on."""
    seen = threading.Semaphore(0)
    look = memory_watch.MemoryWatch._look

    def counted(*args: Any) -> None:
        look(*args)
        seen.release()

    monkeypatch.setattr(memory_watch.MemoryWatch, "_look", counted)

    def wait(times: int) -> None:
        while seen.acquire(blocking=False):
            pass
        for _ in range(times):
            assert seen.acquire(timeout=DEADLINE)

    return wait


def exceed(run: Any, code: str, **options: Any) -> MemoryLimitExceeded:
    with pytest.raises(MemoryLimitExceeded) as caught:
        run(code, timeout=DEADLINE, **options)
    return caught.value


# --- the limit ----------------------------------------------------------------------------------


def test_a_request_that_exceeds_the_limit_ends_with_its_peak_line_and_output_and_no_other_suffers(
    pool: KernelPool, tmp_path: Path
) -> None:
    # What a worker says just before it is killed may die with it: it grows once it was heard.
    with Gate(tmp_path) as gate, Gate(tmp_path, "heard") as heard:
        watcher = Watcher()
        other = pool.submit_code(gate.code + "6 * 7", on_output=watcher)
        watcher.wait_for()
        error = exceed(
            pool.execute, heard.code + GROW, session_id="s", on_output=lambda event: heard.open()
        )
        gate.open()
        assert value(other.result(DEADLINE)) == "42"
    assert (error.category, error.type) == ("resource_error", "memory_limit_exceeded")
    assert error.limit == LIMIT
    assert error.peak is not None
    assert error.peak > LIMIT
    assert (error.context["peak"], error.context["limit"]) == (error.peak, LIMIT)
    assert error.context["session_id"] == "s"
    assert error.result is not None
    assert (error.result.status, error.result.stdout) == ("died", "waiting\n")
    first, facts, *rest = error.message.split("\n")
    assert first == (
        f"worker {error.context['worker_id']} used more memory than memory_limit allows and was killed"
    )
    assert " of 150 MB · after " in facts
    assert "line 10: held.append" in facts or "line 12: time.sleep" in facts
    assert any("Only this request is lost" in line for line in rest)
    assert "memory_limit" in rest[-1]

    stats = pool.get_stats()
    assert stats.requests == {"memory_limit_exceeded": 1, "ok": 1}
    assert stats.workers_killed == {"memory_limit": 1}
    assert not stats.workers_lost
    assert pool.sessions["s"].failures == 1
    assert value(pool.execute("1 + 1", checkout_timeout=DEADLINE)) == "2"
    assert pool.get_status().state == "running"


def test_it_is_not_tried_again(pool: KernelPool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    exceed(pool.execute, f"open({str(trace)!r}, 'a').write('.')\n{GROW}", retries=3)
    assert trace.read_text() == "."


@pytest.mark.parametrize("own_session", [False, True])
def test_what_child_processes_have_counts_and_they_end_too(
    pool: KernelPool, own_session: bool, tmp_path: Path
) -> None:
    with Gate(tmp_path) as heard:
        code = f"""
import subprocess, sys
grow = "import sys, time; sys.stdin.read(); held = b'x' * 300_000_000; time.sleep(1000)"
child = subprocess.Popen(
    [sys.executable, "-c", grow], stdin=subprocess.PIPE, start_new_session={own_session}
)
print(child.pid)
{heard.code}
child.stdin.close(); child.wait()
"""
        error = exceed(pool.execute, code, on_output=lambda event: heard.open())
    assert error.result is not None
    eventually(gone([int(error.result.stdout.split()[0])]))
    assert ": child.stdin.close(); child.wait()" in error.message


def test_a_lease_ends_with_its_worker_and_what_waits_in_it(
    pool: KernelPool, tmp_path: Path
) -> None:
    with Gate(tmp_path) as gate, pool.checkout() as worker, ThreadPoolExecutor(2) as threads:
        watcher = Watcher()
        first = threads.submit(worker.execute, gate.code + GROW, on_output=watcher)
        watcher.wait_for()
        second = threads.submit(worker.execute, "print('never')")
        # The lease and both runs.
        eventually(lambda: pool.ask(lambda driver: len(driver.requests)) == 3)
        gate.open()
        assert isinstance(first.exception(DEADLINE), MemoryLimitExceeded)
        error = second.exception(DEADLINE)
        assert isinstance(error, MemoryLimitExceeded)
        assert error.message.startswith("the worker of the lease used more memory than")
        assert "This code did not run" in error.message
        assert error.result is None
        with pytest.raises(Cancelled, match="the lease has ended"):
            worker.execute("1")
    assert value(pool.execute("1 + 1", checkout_timeout=DEADLINE)) == "2"


def test_a_worker_that_a_lease_holds_is_watched_between_runs_too(
    pool: KernelPool, tmp_path: Path
) -> None:
    with Gate(tmp_path) as gate, pool.checkout() as worker:
        code = f"{gate.code}held = b'x' * 300_000_000\n"
        process = int(value(worker.execute("import os; os.getpid()")))
        worker.execute(
            f"import threading\nthreading.Thread(target=exec, args=({code!r}, globals())).start()"
        )
        gate.open()
        eventually(lambda: pool.get_stats().workers_killed == {"memory_limit": 1})
        eventually(lambda: process not in pids(pool).values())
        with pytest.raises(Cancelled, match="the lease has ended"):
            worker.execute("1", timeout=DEADLINE)


def test_the_memory_of_a_kernel_that_is_not_ours_is_limited_too() -> None:
    with KernelPool(1, kernel_name="python3", memory_limit="200MB") as pool:
        error = exceed(pool.start(wait=True, timeout=60).execute, GROW)
        assert error.limit == 200 * MB
        assert value(pool.execute("1 + 1", checkout_timeout=60)) == "2"


def test_an_async_pool_has_the_same_limit_and_measures_too() -> None:
    async def main() -> None:
        async with AsyncKernelPool(1, memory_limit=LIMIT) as pool:
            with pytest.raises(MemoryLimitExceeded):
                await pool.execute(GROW, timeout=DEADLINE)
            assert value(await pool.execute("1 + 1", checkout_timeout=DEADLINE)) == "2"
            (worker,) = (await pool.get_status()).workers
            assert worker.unshared

    asyncio.run(main())


# --- within the limit ---------------------------------------------------------------------------


def test_below_the_limit_nothing_happens(
    pool: KernelPool, tmp_path: Path, looks: Callable[[int], None]
) -> None:
    before = pids(pool)
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        code = "held = b'x' * 60_000_000\n" + gate.code + "len(held)"
        future = pool.submit_code(code, on_output=watcher)
        watcher.wait_for()
        looks(3)
        gate.open()
        assert value(future.result(DEADLINE)) == "60000000"
    assert pids(pool) == before


def test_what_others_have_as_well_does_not_count(
    pool: KernelPool, tmp_path: Path, looks: Callable[[int], None]
) -> None:
    """A file that this process has mapped too: its pages are resident in the worker, not its own."""
    path = tmp_path / "data"
    path.write_bytes(b"x" * 2 * LIMIT)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as ours:
        assert ours[:: mmap.PAGESIZE].count(b"x") == -(-2 * LIMIT // mmap.PAGESIZE)
        with Gate(tmp_path) as gate:
            watcher = Watcher()
            code = (
                f"import mmap\nfile = open({str(path)!r}, 'rb')\n"
                "pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
                "pages[::mmap.PAGESIZE].count(b'x')\n"
            )
            future = pool.submit_code(f"{code}{gate.code}len(pages)", on_output=watcher)
            watcher.wait_for()
            looks(3)
            (busy,) = [w for w in pool.get_status().workers if w.state == "busy"]
            assert busy.memory is not None
            assert busy.unshared is not None
            assert busy.memory > 2 * LIMIT
            assert busy.unshared < LIMIT
            gate.open()
            assert value(future.result(DEADLINE)) == str(2 * LIMIT)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: a fork server")
def test_what_workers_share_with_each_other_does_not_count(
    tmp_path: Path, looks: Callable[[int], None]
) -> None:
    """Preloaded beyond the limit; what a worker writes to is its own, though no more is resident."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "heavy_data.py").write_text("held = bytearray(b'x' * 300_000_000)")
    ours = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([str(tmp_path / "heavy"), *([ours] if ours else [])])
    with (
        KernelPool(
            1, memory_limit=LIMIT, preload=["heavy_data"], env={"PYTHONPATH": paths}
        ) as pool,
        Gate(tmp_path) as gate,
    ):
        (worker,) = pool.start(wait=True, timeout=DEADLINE).get_status().workers
        assert worker.memory is not None
        assert worker.unshared is not None
        assert worker.unshared < LIMIT < worker.memory
        watcher = Watcher()
        future = pool.submit_code(
            f"{gate.code}import heavy_data\nlen(heavy_data.held)", on_output=watcher
        )
        watcher.wait_for()
        looks(3)
        gate.open()
        assert value(future.result(DEADLINE)) == "300000000"
        assert pids(pool) == {worker.id: worker.pid}
        error = exceed(
            pool.execute,
            "import heavy_data, time\n"
            "for i in range(0, 300_000_000, 1000):\n"
            "    heavy_data.held[i] = 0\n"
            "while True:\n"
            "    time.sleep(0.01)\n",
        )
        assert "A new worker already has" in error.message


def test_without_a_limit_nobody_looks() -> None:
    with KernelPool(1, name="unlimited") as pool:
        assert value(pool.execute("len(b'x' * 200_000_000)")) == "200000000"
        assert f"jupyter_pool memory of {pool.name}" not in {t.name for t in threading.enumerate()}


# --- growth -------------------------------------------------------------------------------------

#: Out of the reach of the reset between requests.
LEAVE_BEHIND = "import json; json.held = b'x' * 100_000_000; import os; os.getpid()"


def test_a_worker_that_has_grown_by_half_the_limit_is_replaced_when_it_is_free(
    pool: KernelPool,
) -> None:
    grown = int(value(pool.execute(LEAVE_BEHIND)))
    eventually(lambda: pool.get_stats().workers_recycled == {"memory": 1})
    eventually(gone([grown]))
    assert not pool.get_stats().workers_killed
    eventually(lambda: states(pool) == ["idle", "idle"])
    assert grown not in pids(pool).values()


def test_a_worker_that_gives_back_what_it_had_stays(pool: KernelPool) -> None:
    before = pids(pool)
    for _ in range(3):
        pool.execute("held = b'x' * 100_000_000")
    assert pids(pool) == before


def test_what_a_lease_keeps_is_its_own_until_it_ends(pool: KernelPool) -> None:
    before = pids(pool)
    with pool.checkout() as worker:
        worker.execute("held = b'x' * 100_000_000")
        assert value(worker.execute("len(held)")) == "100000000"
    pool.start(wait=True, timeout=DEADLINE)
    eventually(lambda: states(pool) == ["idle", "idle"])
    assert pids(pool) == before
    with pool.checkout() as worker:
        worker.execute(LEAVE_BEHIND)
        assert value(worker.execute("len(json.held)")) == "100000000"
    eventually(lambda: pool.get_stats().workers_recycled == {"memory": 1})


def test_what_is_kept_without_isolation_counts_as_growth() -> None:
    with KernelPool(1, memory_limit=LIMIT, isolation="none") as pool:
        pool.execute("small = b'x' * 1_000_000")
        first = pid(pool)
        assert value(pool.execute("large = b'x' * 100_000_000; len(small)")) == "1000000"
        assert pid(pool) != first
        assert pool.get_stats().workers_recycled == {"memory": 1}


# --- the status ---------------------------------------------------------------------------------


def test_the_status_shows_what_each_worker_has_for_itself() -> None:
    with KernelPool(1, isolation="none") as pool:
        (before,) = pool.start(wait=True, timeout=DEADLINE).get_status().workers
        pool.execute("held = b'x' * 50_000_000")
        (after,) = pool.get_status().workers
        assert before.memory is not None
        assert after.memory is not None
        assert before.unshared is not None
        assert after.unshared is not None
        assert 0 < before.unshared <= before.memory
        assert before.unshared + 45 * MB < after.unshared <= after.memory
        if sys.platform.startswith("linux"):
            assert after.proportional is not None
            assert after.unshared <= after.proportional <= after.memory
        assert " unshared)" in repr(pool.get_status())
