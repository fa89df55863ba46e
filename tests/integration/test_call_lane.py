"""Function calls keep what is promised for cells: time limits, deaths, retries, statistics, reset."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import KernelPool, OperationTimeout, WorkerDied
from support.conditions import eventually

pytestmark = pytest.mark.skipif(os.name != "posix", reason="platform: signals")

PATIENCE = 60.0


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    # As long as an interrupted call takes to end on a busy machine; nothing may be killed here.
    with KernelPool(size=2, interrupt_grace=PATIENCE) as pool:
        pool.start(wait=True, timeout=PATIENCE)
        yield pool


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a function of a notebook: a worker cannot import this module."""
    function.__module__ = "__main__"
    return function


def pids(pool: KernelPool) -> set[int | None]:
    return {worker.pid for worker in pool.get_status().workers}


def whole(pool: KernelPool) -> set[int | None]:
    """The workers, once those that other tests have lost are replaced."""

    def idle() -> bool:
        workers = pool.get_status().workers
        return len(workers) == 2 and all(worker.state == "idle" for worker in workers)

    eventually(idle, within=PATIENCE)
    return pids(pool)


def test_a_call_that_takes_too_long_is_interrupted_and_its_worker_stays(pool: KernelPool) -> None:
    before = whole(pool)
    future = pool.options(timeout=0.1).submit(time.sleep, PATIENCE)
    with pytest.raises(OperationTimeout, match="interrupted cleanly"):
        future.result(PATIENCE)
    assert pids(pool) == before


def test_a_running_call_is_cancelled_however_early(pool: KernelPool) -> None:
    before = whole(pool)
    for _ in range(5):
        future = pool.submit(time.sleep, PATIENCE)
        eventually(future.running)
        pool.cancel(future.request_id)
        assert future.exception(PATIENCE) is not None
    assert pids(pool) == before


def test_a_call_that_ends_its_process_is_the_only_one_lost(pool: KernelPool) -> None:
    lost, kept = pool.submit(os._exit, 3), pool.submit(abs, -1)
    with pytest.raises(WorkerDied) as caught:
        lost.result(PATIENCE)
    assert caught.value.exitcode == 3
    assert kept.result(PATIENCE) == 1


def test_a_call_is_tried_again_where_that_is_allowed(pool: KernelPool, tmp_path: Path) -> None:
    @by_value
    def die_once(mark: str) -> str:
        import os

        if not os.path.exists(mark):
            open(mark, "w").close()
            os._exit(1)
        return "survived"

    future = pool.options(retries=1).submit(die_once, str(tmp_path / "mark"))
    assert future.result(PATIENCE) == "survived"


def test_a_call_whose_worker_died_before_it_began_runs_elsewhere() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True, timeout=PATIENCE)
        (pid,) = pids(pool)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        future = pool.submit(os.getpid)
        eventually(future.running)
        os.kill(pid, signal.SIGKILL)
        assert future.result(PATIENCE) not in (pid, os.getpid())


def test_a_large_function_is_sent_again_to_a_worker_that_has_lost_it(pool: KernelPool) -> None:
    table = bytes(range(256)) * 100

    @by_value
    def look_up(index: int) -> int:
        return table[index]

    assert [pool.submit(look_up, n).result(PATIENCE) for n in range(4)] == [0, 1, 2, 3]

    def forget() -> None:
        driver = pool._driver
        assert driver is not None
        for link in driver.links.values():
            # As if these had been sent long ago, and given way to others since.
            if link.ready:  # another one may be about to take a place
                link.calls._functions.add(name)

    other = bytes(range(256)) * 101

    @by_value
    def look_elsewhere(index: int) -> int:
        return other[index]

    from jupyter_pool.calling import pack_function
    from jupyter_pool.kernel.functions import digest

    name = digest(pack_function(look_elsewhere).frames)
    driver = pool._driver
    assert driver is not None
    driver.engine.ask(forget)
    assert [pool.submit(look_elsewhere, n).result(PATIENCE) for n in range(4)] == [0, 1, 2, 3]


def test_a_worker_that_a_call_has_spoilt_serves_nobody_else(pool: KernelPool) -> None:
    @by_value
    def leave_a_thread() -> int:
        import os
        import threading

        threading.Thread(target=threading.Event().wait, args=(600,), daemon=True).start()
        return os.getpid()

    spoilt = pool.submit(leave_a_thread).result(PATIENCE)
    assert spoilt not in [pool.submit(os.getpid).result(PATIENCE) for _ in range(10)]
    eventually(lambda: spoilt not in pids(pool))
    assert any("thread" in cause for cause in pool.get_stats().workers_recycled)


def test_calls_count_in_statistics_and_sessions() -> None:
    with KernelPool(size=1) as pool:
        in_session = pool.options(session_id="s")
        assert in_session.submit(abs, -1).result(PATIENCE) == 1
        assert isinstance(in_session.submit(abs, "x").exception(PATIENCE), TypeError)
        stats = pool.get_stats()
        assert stats.requests == {"ok": 1, "failed": 1}
        assert stats.runs.count == 2
        assert pool.sessions["s"].requests == 2
        assert pool.sessions["s"].failures == 1


def test_a_class_attribute_set_by_a_call_is_not_there_for_the_next(pool: KernelPool) -> None:
    class Counter:
        count = 0

    Counter.__module__ = "__main__"

    @by_value
    def count() -> int:
        Counter.count += 1
        return Counter.count

    assert [pool.submit(count).result(PATIENCE) for _ in range(4)] == [1, 1, 1, 1]


def test_an_edited_module_is_loaded_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "edited_under_calls.py"
    module.write_text("ANSWER = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    @by_value
    def answer() -> int:
        import importlib

        return int(importlib.import_module("edited_under_calls").ANSWER)

    with KernelPool(size=1) as pool:
        assert pool.submit(answer).result(PATIENCE) == 1
        module.write_text("ANSWER = 22\n")
        assert pool.submit(answer).result(PATIENCE) == 22
