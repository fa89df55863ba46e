"""Quick calls that are sent together keep what is promised for each: order, reset, limits, deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_pool import AsyncKernelPool, Cancelled, KernelPool, OperationTimeout, WorkerDied
from support.calls import Door, by_value, pass_through
from support.conditions import eventually

pytestmark = pytest.mark.skipif(os.name != "posix", reason="platform: FIFOs and signals")

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def _by_value() -> Iterator[None]:
    with by_value(__name__), by_value("support.calls"):
        yield


@pytest.fixture
def pool() -> Iterator[KernelPool]:
    # As long as an interrupted call takes to end on a busy machine; nothing may be killed here.
    with KernelPool(size=1, interrupt_grace=PATIENCE) as pool:
        yield pool


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.open(1000)
    door.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Door]:
    gate = Door(tmp_path, "gate")
    yield gate
    gate.open(1000)
    gate.close()


def sent_together(pool: Any) -> int:
    """How many calls the workers were sent along with others."""
    driver = pool._driver
    assert driver is not None
    return sum(driver.engine.ask(lambda: [link.calls.ridden for link in driver.links.values()]))


class Queue:
    """Calls that wait until all of them are there: the worker is held by another one meanwhile."""

    def __init__(self, pool: KernelPool, door: Door) -> None:
        self._door = door
        before = door.count()
        self._holders = [
            pool.submit(pass_through, door.key) for _ in range(pool.get_status().config["size"])
        ]
        eventually(lambda: door.count() == before + len(self._holders), within=PATIENCE)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._door.open(len(self._holders))


def note(log: str, item: int) -> int:
    with open(log, "a") as file:
        file.write(f"{item}\n")
    return item


def lines(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().splitlines()]


def test_they_run_in_order_each_once_and_give_their_values(
    pool: KernelPool, door: Door, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with Queue(pool, door):
        futures = [pool.submit(note, str(log), n) for n in range(200)]
    assert [future.result(PATIENCE) for future in futures] == list(range(200))
    assert lines(log) == list(range(200))
    assert sent_together(pool) > 100


def litter(number: int) -> list[Any]:
    import decimal

    import __main__

    found: list[Any] = [hasattr(__main__, "left"), "LEFT" in os.environ, os.getcwd() == "/"]
    found.append(decimal.getcontext().prec)
    __main__.left = os.environ["LEFT"] = str(number)
    os.chdir("/")
    decimal.getcontext().prec = 5
    return found


def test_nothing_is_left_from_one_to_the_next(pool: KernelPool, door: Door) -> None:
    with Queue(pool, door):
        futures = [pool.submit(litter, n) for n in range(60)]
    assert [future.result(PATIENCE) for future in futures] == [[False, False, False, 28]] * 60
    assert sent_together(pool) > 30


def die_at(log: str, item: int, at: int, how: int) -> int:
    note(log, item)
    if item == at:
        os.kill(os.getpid(), how)
    return item


@pytest.mark.parametrize("at", [20, 45])
def test_when_the_worker_is_killed_only_the_call_that_ran_is_lost(
    pool: KernelPool, door: Door, tmp_path: Path, at: int
) -> None:
    log = tmp_path / "log"
    with Queue(pool, door):
        futures = [pool.submit(die_at, str(log), n, at, int(signal.SIGKILL)) for n in range(80)]
    wait(futures, PATIENCE)
    assert sent_together(pool) > 0
    died = [n for n, future in enumerate(futures) if future.exception() is not None]
    assert died == [at]
    assert isinstance(futures[at].exception(), WorkerDied)
    assert [f.result() for n, f in enumerate(futures) if n != at] == [
        n for n in range(80) if n != at
    ]
    assert Counter(lines(log)) == Counter(range(80))


def die_once(mark: str, item: int) -> int:
    if item == 30 and not os.path.exists(mark):
        open(mark, "w").close()
        os._exit(1)
    return item


def test_the_one_that_was_lost_is_tried_again_where_that_is_allowed(
    pool: KernelPool, door: Door, tmp_path: Path
) -> None:
    with Queue(pool, door):
        view = pool.options(retries=1)
        futures = [view.submit(die_once, str(tmp_path / "mark"), n) for n in range(60)]
    assert [future.result(PATIENCE) for future in futures] == list(range(60))
    assert sum(pool.get_stats().workers_lost.values()) == 1


def wait_or_not(key: tuple[str, str], item: int, slow: int) -> int:
    if item == slow:
        pass_through(key)
    return item


def test_what_ended_before_a_slow_call_is_there_while_that_runs(
    pool: KernelPool, door: Door, gate: Door, tmp_path: Path
) -> None:
    with Queue(pool, door):
        futures = [pool.submit(wait_or_not, gate.key, n, 40) for n in range(60)]
    eventually(lambda: gate.count() == 1, within=PATIENCE)
    assert [future.result(PATIENCE) for future in futures[:40]] == list(range(40))
    assert not any(future.done() for future in futures[40:])
    gate.open()
    assert [future.result(PATIENCE) for future in futures] == list(range(60))


def test_a_slow_call_holds_up_no_other(door: Door, gate: Door) -> None:
    with KernelPool(size=2) as pool:
        pool.start(wait=True, timeout=PATIENCE)
        with Queue(pool, door):
            futures = [pool.submit(wait_or_not, gate.key, n, 70) for n in range(140)]
        others = [future for n, future in enumerate(futures) if n != 70]
        assert not wait(others, PATIENCE).not_done
        assert not futures[70].done()
        gate.open()
        assert futures[70].result(PATIENCE) == 70
        assert sent_together(pool) > 30


def stop_at(log: str, item: int, at: int) -> int:
    note(log, item)
    if item == at:
        os.kill(os.getpid(), signal.SIGSTOP)
    return item


def test_a_worker_that_does_nothing_at_all_holds_up_no_other(door: Door, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with KernelPool(size=2) as pool:
        pool.start(wait=True, timeout=PATIENCE)
        with Queue(pool, door):
            futures = [pool.submit(stop_at, str(log), n, 70) for n in range(140)]
        others = [future for n, future in enumerate(futures) if n != 70]
        assert not wait(others, PATIENCE).not_done
        workers = [psutil.Process(worker.pid) for worker in pool.get_status().workers]

        def stopped() -> list[psutil.Process]:
            return [worker for worker in workers if worker.status() == psutil.STATUS_STOPPED]

        # The others may all be done before this one has even begun.
        (worker,) = eventually(stopped, within=PATIENCE)
        worker.resume()
        assert futures[70].result(PATIENCE) == 70
    assert Counter(lines(log)) == Counter(range(140))


def test_one_that_waits_behind_a_slow_one_is_cancelled_without_running(
    pool: KernelPool, door: Door, gate: Door, tmp_path: Path
) -> None:
    with Queue(pool, door):
        futures = [pool.submit(wait_or_not, gate.key, n, 30) for n in range(40)]
        last = pool.submit(note, str(tmp_path / "log"), 1)
    eventually(lambda: gate.count() == 1, within=PATIENCE)
    pool.cancel(last.request_id)
    wait([last], PATIENCE)
    assert last.cancelled() or isinstance(last.exception(0), Cancelled)
    gate.open()
    assert [future.result(PATIENCE) for future in futures] == list(range(40))
    assert not (tmp_path / "log").exists()


def test_what_runs_is_interrupted_and_nothing_else(
    pool: KernelPool, door: Door, gate: Door, tmp_path: Path
) -> None:
    with Queue(pool, door):
        futures = [pool.submit(wait_or_not, gate.key, n, 30) for n in range(60)]
    eventually(lambda: gate.count() == 1, within=PATIENCE)
    pool.cancel(futures[30].request_id)
    wait(futures, PATIENCE)
    failed = [n for n, f in enumerate(futures) if f.cancelled() or f.exception() is not None]
    assert failed == [30]
    assert sum(pool.get_stats().workers_killed.values()) == 0


def sleep_at(item: int, at: int) -> int:
    if item == at:
        time.sleep(PATIENCE)
    return item


def test_a_time_limit_ends_the_one_that_it_is_for(pool: KernelPool, door: Door) -> None:
    with Queue(pool, door):
        view = pool.options(timeout=2)
        futures = [view.submit(sleep_at, n, 30) for n in range(60)]
    with pytest.raises(OperationTimeout, match="interrupted cleanly"):
        futures[30].result(PATIENCE)
    assert [f.result(PATIENCE) for n, f in enumerate(futures) if n != 30] == [
        n for n in range(60) if n != 30
    ]


def say(item: int) -> int:
    if item % 10 == 0:
        print(f"this is {item}")
    return item


def test_what_one_prints_is_its_own(
    pool: KernelPool, door: Door, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: dict[int, list[str]] = {n: [] for n in range(50)}
    with Queue(pool, door):
        futures = [
            pool.options(on_output=lambda event, n=n: shown[n].append(event["text"])).submit(say, n)
            for n in range(50)
        ]
    assert [future.result(PATIENCE) for future in futures] == list(range(50))
    assert {n: "".join(texts) for n, texts in shown.items()} == {
        n: f"this is {n}\n" if n % 10 == 0 else "" for n in range(50)
    }
    assert capsys.readouterr().out == ""


def fail_at_odd(item: int) -> int:
    if item % 2:
        raise LookupError(f"number {item}")
    return item


def test_exceptions_come_back_each_from_its_own(pool: KernelPool, door: Door) -> None:
    with Queue(pool, door):
        futures = [pool.submit(fail_at_odd, n) for n in range(60)]
    for n, future in enumerate(futures):
        if n % 2:
            error = future.exception(PATIENCE)
            assert isinstance(error, LookupError)
            assert str(error) == f"number {n}"
            assert "fail_at_odd" in str(error.__cause__)
        else:
            assert future.result(PATIENCE) == n
    assert sent_together(pool) > 30


def test_large_functions_and_results_go_along(pool: KernelPool, door: Door) -> None:
    table = bytes(range(256)) * 100

    def look_up(index: int, times: int) -> bytes:
        return table[index : index + 1] * times

    look_up.__module__ = "__main__"
    with Queue(pool, door):
        small = [pool.submit(look_up, n, 1) for n in range(40)]
        large = [pool.submit(look_up, n, 20_000) for n in range(40)]
    assert [future.result(PATIENCE) for future in small] == [bytes([n]) for n in range(40)]
    assert [future.result(PATIENCE) for future in large] == [bytes([n]) * 20_000 for n in range(40)]
    assert sent_together(pool) > 20


def test_what_was_put_is_there_for_calls_between_them(pool: KernelPool, door: Door) -> None:
    handle = pool.put([1, 2, 3])
    with Queue(pool, door):
        futures = [
            pool.submit(sum, handle) if n % 5 == 0 else pool.submit(abs, -n) for n in range(50)
        ]
    assert [future.result(PATIENCE) for future in futures] == [
        6 if n % 5 == 0 else n for n in range(50)
    ]


def test_a_worker_serves_no_more_than_it_may(door: Door) -> None:
    with KernelPool(size=1, max_tasks=7) as pool:
        with Queue(pool, door):
            futures = [pool.submit(os.getpid) for _ in range(30)]
        served = Counter(future.result(PATIENCE) for future in futures)
    assert sorted(served.values(), reverse=True)[:3] == [7, 7, 7]
    assert max(served.values()) == 7


def leave_a_thread_at(item: int, at: int) -> int:
    if item == at:
        import threading

        threading.Thread(target=threading.Event().wait, args=(600,), daemon=True).start()
    return os.getpid()


def test_a_worker_that_one_has_spoilt_serves_none_of_those_that_came_along(
    pool: KernelPool, door: Door
) -> None:
    with Queue(pool, door):
        futures = [pool.submit(leave_a_thread_at, n, 30) for n in range(60)]
    pids = [future.result(PATIENCE) for future in futures]
    assert pids[:31] == [pids[0]] * 31
    assert pids[0] not in pids[31:]


def test_statistics_and_sessions_count_each(pool: KernelPool, door: Door) -> None:
    with Queue(pool, door):
        view = pool.options(session_id="s")
        futures = [view.submit(fail_at_odd, n) for n in range(60)]
    wait(futures, PATIENCE)
    stats = pool.get_stats()
    assert stats.requests == {"ok": 31, "failed": 30}
    assert stats.runs.count == stats.waits.count == 61
    assert (pool.sessions["s"].requests, pool.sessions["s"].failures) == (60, 30)
    assert pool.get_status().workers[0].served == 61


def test_everybody_is_answered_when_the_pool_closes_amid_them(door: Door) -> None:
    with KernelPool(size=1) as pool:
        with Queue(pool, door):
            futures = [pool.submit(abs, -n) for n in range(300)]
        pool.shutdown(wait=True, cancel_futures=True)
    assert all(future.done() for future in futures)
    assert all(f.cancelled() or f.result() == n for n, f in enumerate(futures))


def test_coroutines_gather_them() -> None:
    async def gather() -> list[int]:
        async with AsyncKernelPool(size=2) as pool:
            values = await asyncio.gather(*(pool.submit(abs, -n) for n in range(500)))
            assert sent_together(pool) > 0
            return list(values)

    assert asyncio.run(gather()) == list(range(500))
