"""How an executor ends: `shutdown`, `with`, a dropped pool, the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from jupyter_pool import KernelPool, PoolNotAvailable
from support.calls import Door, by_value, pass_through
from support.cells import DEADLINE
from support.conditions import eventually


@pytest.fixture(scope="module", autouse=True)
def _travels_whole() -> Iterator[None]:
    with by_value(__name__), by_value("support.calls"):
        yield


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


def engine_has_ended() -> bool:
    return not any(t.name.startswith("jupyter_pool") for t in threading.enumerate())


def test_shutdown_finishes_what_was_submitted_and_takes_nothing_more() -> None:
    pool = KernelPool(2)
    futures = [pool.submit(time.sleep, 0.01) for _ in range(20)]
    results = pool.map(abs, range(-100, 0))
    pool.shutdown()
    assert all(future.done() and future.exception() is None for future in futures)
    assert list(results) == list(range(100, 0, -1))
    for call in (lambda: pool.submit(pow, 2, 2), lambda: pool.map(abs, [1])):
        with pytest.raises(PoolNotAvailable) as caught:
            call()
        assert isinstance(caught.value, RuntimeError)
    pool.shutdown()  # again: nothing to do


def test_shutdown_without_waiting_goes_on_meanwhile(door: Door) -> None:
    pool = KernelPool(1)
    first, second = (pool.submit(pass_through, door.key, n) for n in range(2))
    key = door.key
    results = pool.map(lambda x: pass_through(key, x), range(4))
    pool.shutdown(wait=False)
    assert not first.done()
    with pytest.raises(PoolNotAvailable):
        pool.submit(pow, 1, 1)
    door.open(6)
    assert (first.result(DEADLINE), second.result(DEADLINE)) == (0, 1)
    assert list(results) == [0, 1, 2, 3]
    pool.shutdown()


def test_shutdown_may_cancel_what_waits(door: Door) -> None:
    pool = KernelPool(1)
    first = pool.submit(pass_through, door.key)
    eventually(lambda: door.count() == 1)
    others = [pool.submit(pass_through, door.key) for _ in range(5)]
    results = pool.map(abs, range(100))
    pool.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: all(future.cancelled() for future in others))
    with pytest.raises(CancelledError):
        next(results)
    assert not first.done()
    door.open()
    pool.shutdown()
    assert first.exception() is None
    assert door.count() == 1


def test_what_a_starting_worker_is_about_to_take_is_not_cancelled(door: Door) -> None:
    """As other executors: of many calls some run, though no worker was ready yet."""
    key = door.key
    pool = KernelPool(2, setup=lambda: pass_through(key))
    futures = [pool.submit(abs, -1) for _ in range(20)]
    eventually(lambda: door.count() == 2)
    pool.shutdown(wait=False, cancel_futures=True)
    eventually(lambda: sum(future.cancelled() for future in futures) == 18)
    door.open(2)
    pool.shutdown()
    ran = [future for future in futures if not future.cancelled()]
    assert [future.result(0) for future in ran] == [1, 1]


def test_a_call_that_was_cancelled_just_before_does_not_hold_up_shutdown() -> None:
    pool = KernelPool(1)
    pool.submit(int).result(DEADLINE)
    pool.submit(int).cancel()
    pool.shutdown()


def test_leaving_by_an_exception_gives_up_what_waits_and_runs(door: Door) -> None:
    with pytest.raises(ZeroDivisionError), KernelPool(1) as pool:
        running = pool.submit(pass_through, door.key)
        eventually(lambda: door.count() == 1)
        queued = pool.submit(pass_through, door.key)
        key = door.key
        results = pool.map(lambda x: pass_through(key, x), range(10))
        raise ZeroDivisionError
    for future in (running, queued):
        with pytest.raises(CancelledError):
            future.result(0)
    with pytest.raises(CancelledError):
        next(results)
    assert door.count() == 1


def test_a_map_whose_input_goes_on_does_not_hold_up_shutdown() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    with KernelPool(1) as pool:
        results = pool.map(abs, endless(), buffersize=10)
        next(results)
    with pytest.raises(PoolNotAvailable, match="before all of the map's input was read"):
        list(results)


def test_a_dropped_pool_finishes_what_was_submitted() -> None:
    held = [KernelPool(1)]
    futures = [held[0].submit(abs, -n) for n in range(10)]
    with pytest.warns(ResourceWarning, match="dropped without close"):
        held.clear()
    assert [future.result(DEADLINE) for future in futures] == list(range(10))
    eventually(engine_has_ended)


def test_a_call_that_runs_does_not_keep_a_dropped_pool(door: Door) -> None:
    held = [KernelPool(1)]
    running, waiting = (held[0].submit(pass_through, door.key, n) for n in range(2))
    eventually(lambda: door.count() == 1)
    with pytest.warns(ResourceWarning, match="dropped without close"):
        held.clear()
    assert not running.done()
    door.open(2)
    assert (running.result(DEADLINE), waiting.result(DEADLINE)) == (0, 1)
    eventually(engine_has_ended)


# --- the end of the process ---------------------------------------------------------------------


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


SPEAK = """
import time
from jupyter_pool import KernelPool
def speak(word):
    time.sleep(0.3)
    print(word, flush=True)
"""


@pytest.mark.parametrize(
    "end",
    [
        "pool.submit(speak, 'apple')",
        "pool.submit(speak, 'apple'); pool.shutdown(wait=False)",
        "pool.map(speak, ['apple'])",
        "KernelPool(1).submit(speak, 'apple'); del pool",
    ],
    ids=["forgotten", "not waited for", "map", "dropped"],
)
def test_the_end_of_the_process_finishes_what_was_submitted(end: str) -> None:
    done = run(SPEAK + f"pool = KernelPool(2)\n{end}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "apple\n", "")


def test_after_the_end_has_begun_nothing_is_taken() -> None:
    done = run(
        """
import atexit
from jupyter_pool import KernelPool
@atexit.register
def last():
    try:
        pool.submit(id, None)
    except RuntimeError as error:
        print(error)
pool = KernelPool(2)
pool.submit(id, 1).result()
"""
    )
    assert (done.stdout, done.stderr) == (
        "cannot schedule new futures after interpreter shutdown\n",
        "",
    )
