"""`map`: results in order, chunks that adapt, prompt ends, and only the poisonous item fails."""

from __future__ import annotations

import concurrent.futures
import gc
import itertools
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tqdm.std

from jupyter_pool import (
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    SerializationError,
    WorkerDied,
)
from support.calls import Door, by_value, pass_through
from support.cells import DEADLINE
from support.conditions import eventually


@pytest.fixture(scope="module", autouse=True)
def _travels_whole() -> Iterator[None]:
    with by_value(__name__), by_value("support.calls"):
        yield


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(2) as pool:
        yield pool.start(wait=True, timeout=DEADLINE)


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


class Counter:
    """An endless input that knows how far it was read, and by whom."""

    def __init__(self) -> None:
        self.read = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        while True:
            self.threads.add(threading.get_ident())
            self.read += 1
            yield self.read


class Thing:
    pass


def requests(pool: KernelPool, session: str) -> int:
    return pool.sessions[session].requests


def test_results_are_those_of_map_in_order(pool: KernelPool) -> None:
    assert list(pool.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(pool.map(lambda x: -x, range(5000))) == [-x for x in range(5000)]
    assert list(pool.map(abs, (x for x in [-1, -2, -3]))) == [1, 2, 3]
    assert list(pool.map(abs, [])) == []
    assert list(pool.map(abs)) == []
    assert list(pool.map(pow, [1, 2, 3], itertools.count())) == [1, 2, 9]
    assert list(pool.options(session_id="mapped").map(abs, [-1])) == [1]
    assert "mapped" in pool.sessions


@pytest.mark.parametrize("chunksize", [1, 3, 40, 100])
def test_a_chunksize_makes_so_many_messages(pool: KernelPool, chunksize: int) -> None:
    name = f"chunks of {chunksize}"
    view = pool.options(session_id=name)
    assert list(view.map(abs, range(40), chunksize=chunksize)) == list(range(40))
    assert requests(pool, name) == -(-40 // chunksize)


def test_quick_items_share_messages(pool: KernelPool) -> None:
    view = pool.options(session_id="quick")
    assert list(view.map(abs, range(20_000))) == list(range(20_000))
    assert requests(pool, "quick") < 400


def test_slow_items_spread_over_all_workers(pool: KernelPool, tmp_path: Path) -> None:
    """Two items that wait for each other end only if they run at once."""
    doors = [Door(tmp_path, "a"), Door(tmp_path, "b")]

    def meet(number: int) -> int:
        with open(doors_keys[1 - number][0], "wb", buffering=0) as other:
            other.write(b".")
        pass_through(doors_keys[number])
        return number

    doors_keys = [door.key for door in doors]
    assert list(pool.map(meet, [0, 1], timeout=DEADLINE)) == [0, 1]
    for door in doors:
        door.close()


def test_a_worker_gives_back_what_a_slow_item_holds_up(pool: KernelPool, tmp_path: Path) -> None:
    """After many quick items a chunk is large; a slow one in it must not keep the rest."""

    def work(x: int) -> int:
        if x >= 3000:
            (tmp_path / str(os.getpid())).touch()
            # Longer than a chunk's budget, until the other worker has come for one of them too.
            deadline = time.monotonic() + 0.2
            while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        return os.getpid()

    last = list(pool.map(work, range(3030)))[3000:]
    assert len(set(last)) == 2


@pytest.mark.parametrize("impossible", [0, -1, 1.5, "3", True])
@pytest.mark.parametrize("option", ["chunksize", "buffersize"])
def test_impossible_sizes_are_refused_at_once(
    pool: KernelPool, option: str, impossible: Any
) -> None:
    with pytest.raises(InvalidRequest, match=option) as caught:
        pool.map(abs, [1], **{option: impossible})
    assert isinstance(caught.value, ValueError)


def test_a_function_that_cannot_be_pickled_is_refused_at_once(pool: KernelPool) -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="lock"):
        pool.map(lambda x: lock, [1])


# --- ends ---------------------------------------------------------------------------------------


def test_an_exception_comes_in_its_place_and_ends_the_map(pool: KernelPool) -> None:
    results = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert caught.value.__cause__ is not None
    with pytest.raises(StopIteration):
        next(results)


def test_the_traceback_of_an_item_has_the_lines_of_a_function_that_travels_by_value(
    pool: KernelPool,
) -> None:
    def check(item: int) -> None:
        if item == 2:
            raise ValueError(item)

    with pytest.raises(ValueError) as caught:
        list(pool.map(check, range(4)))
    assert "in check\n    raise ValueError(item)\n" in str(caught.value.__cause__)


def test_after_an_exception_the_rest_is_given_up(pool: KernelPool, tmp_path: Path) -> None:
    def work(x: int) -> None:
        if x == 5:
            raise OSError(x)
        if x > 5:
            with open(tmp_path / "ran", "a") as file:
                file.write(".")
            time.sleep(0.01)

    (tmp_path / "ran").touch()  # it may be that none has
    with pytest.raises(OSError, match="5"):
        list(pool.map(work, range(2000)))
    eventually(lambda: pool.get_status().queue_length == 0)
    pool.submit(abs, 1).result(DEADLINE)
    assert (tmp_path / "ran").stat().st_size < 500


def test_items_that_cannot_be_pickled_fail_in_their_place(pool: KernelPool) -> None:
    results = pool.map(type, [1, 2, threading.Lock(), 4])
    assert [next(results), next(results)] == [int, int]
    with pytest.raises(SerializationError):
        next(results)


def test_values_that_cannot_be_sent_back_fail_in_their_place(pool: KernelPool) -> None:
    results = pool.map(lambda x: threading.Lock() if x == 30 else x, range(60), chunksize=60)
    assert list(itertools.islice(results, 30)) == list(range(30))
    with pytest.raises(SerializationError, match="cannot be sent back"):
        next(results)


def test_what_is_not_done_in_time_is_a_timeout(pool: KernelPool, door: Door) -> None:
    key = door.key

    def work(x: int) -> int:
        if x == 2:
            pass_through(key)
        return x

    results = pool.map(work, [0, 1, 2], timeout=3.0)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(concurrent.futures.TimeoutError):
        next(results)
    door.open()


def test_a_consumer_that_stops_ends_the_map(pool: KernelPool) -> None:
    endless = Counter()
    results = pool.map(abs, endless)
    assert list(itertools.islice(results, 3)) == [1, 2, 3]
    del results
    gc.collect()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "jupyter_pool map"])
    eventually(lambda: pool.get_status().queue_length == 0)
    assert pool.submit(abs, -1).result(DEADLINE) == 1


def test_what_nobody_takes_runs_all_the_same(tmp_path: Path) -> None:
    with KernelPool(1) as pool:
        pool.map(lambda x: (tmp_path / str(x)).touch(), range(10))
        pool.map(lambda x: (tmp_path / str(x)).touch(), (x for x in range(10, 20)))
    assert len(list(tmp_path.iterdir())) == 20


def test_ctrl_c_gives_up_the_rest_and_is_raised(pool: KernelPool, door: Door) -> None:
    key = door.key
    results = pool.map(lambda x: pass_through(key, x), range(100))
    ident = threading.main_thread().ident
    assert ident is not None

    def strike() -> None:
        eventually(lambda: door.count() == 2 and _waits_for_results(ident))
        signal.pthread_kill(ident, signal.SIGINT)

    thread = threading.Thread(target=strike)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    thread.join()
    # What ran was interrupted: nobody opens the door.
    assert pool.submit(abs, -1).result(DEADLINE) == 1
    eventually(lambda: {worker.state for worker in pool.get_status().workers} == {"idle"})
    assert door.count() <= 4


def _waits_for_results(ident: int) -> bool:
    """Whether a thread is where a Ctrl-C is the map's: one that comes earlier would end the tests."""
    stack = traceback.extract_stack(sys._current_frames()[ident])
    return any(frame.name == "_next_delivery" for frame in stack)


def test_no_reference_to_a_result_is_kept(pool: KernelPool) -> None:
    for thing in pool.map(lambda _: Thing(), range(10)):
        watch = weakref.ref(thing)
        del thing
        gc.collect()
        assert watch() is None


# --- inputs -------------------------------------------------------------------------------------


def test_an_endless_input_is_read_only_so_far_ahead_and_by_this_thread(pool: KernelPool) -> None:
    endless = Counter()
    results = pool.map(lambda x: x, endless)
    assert endless.read <= 10_001
    assert list(itertools.islice(results, 25_000)) == list(range(1, 25_001))
    assert endless.read <= 25_000 + 10_001
    assert endless.threads == {threading.get_ident()}


def test_large_items_are_read_less_far_ahead(pool: KernelPool) -> None:
    endless = Counter()
    results = pool.map(len, (bytes(4_000_000) for _ in endless))
    assert endless.read <= 20
    assert list(itertools.islice(results, 5)) == [4_000_000] * 5


def test_a_buffersize_is_kept_to_the_item(pool: KernelPool) -> None:
    for size in (1, 3, 10):
        items = iter(range(100))
        results = pool.map(abs, items, buffersize=size)
        assert next(items) == size, "so many were read"
        assert next(results) == 0
        assert next(items) == size + 2
        results.close()  # type: ignore[attr-defined]
    assert list(pool.map(abs, range(30), buffersize=4)) == list(range(30))
    assert list(pool.map(abs, range(2), buffersize=4)) == [0, 1]
    assert list(pool.map(abs, [], buffersize=4)) == []


def test_an_input_that_fails_is_raised_where_it_is_read(pool: KernelPool) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        pool.map(abs, failing())
    results = pool.map(abs, failing(), buffersize=1)
    with pytest.raises(OSError, match="no more"):
        list(results)


def test_what_was_given_may_change_afterwards(pool: KernelPool, door: Door) -> None:
    key = door.key
    items = [1, 2, 3]
    results = pool.map(lambda x: pass_through(key, x), items)
    items[:] = [7]
    door.open(3)
    assert list(results) == [1, 2, 3]


# --- deaths and limits --------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [None, 8])
def test_only_the_poisonous_item_fails(pool: KernelPool, chunksize: int | None) -> None:
    def work(x: int) -> int:
        if x == 40:
            os._exit(9)
        return x

    results = pool.map(work, range(64), chunksize=chunksize)
    assert list(itertools.islice(results, 40)) == list(range(40))
    with pytest.raises(WorkerDied):
        next(results)


def test_items_beside_a_poisonous_one_are_run_though_nobody_takes_them(tmp_path: Path) -> None:
    def work(x: int) -> None:
        if x == 5:
            os._exit(9)
        (tmp_path / str(x)).touch()

    with KernelPool(1) as pool:
        pool.map(work, range(16), chunksize=8)
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(16)) - {5}


def test_only_the_item_that_runs_too_long_fails(pool: KernelPool, door: Door) -> None:
    key = door.key
    view = pool.options(timeout=2.0)
    results = view.map(lambda x: pass_through(key) if x == 3 else x, range(6), chunksize=6)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    with pytest.raises(OperationTimeout):
        next(results)


def test_a_map_takes_turns_with_others(pool: KernelPool, door: Door) -> None:
    """All items of a map wait in one line; whoever comes later has the next turn."""
    key = door.key
    results = pool.map(lambda x: pass_through(key, x), range(8), chunksize=1)
    eventually(lambda: door.count() == 2)
    future = pool.submit(pow, 2, 2)
    door.open(3)  # of those that run two, and one of those that had come before
    assert future.result(DEADLINE) == 4
    door.open(8)
    assert list(results) == list(range(8))


# --- shown --------------------------------------------------------------------------------------


def test_what_items_print_appears_here_and_costs_no_result(
    pool: KernelPool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(pool.map(print, range(5), chunksize=5)) == [None] * 5
    assert capsys.readouterr().out == "0\n1\n2\n3\n4\n"


def test_a_progress_bar_shows_what_is_done(
    pool: KernelPool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # tqdm.auto takes a process that has imported ipykernel for a notebook.
    monkeypatch.setitem(sys.modules, "tqdm.auto", tqdm.std)
    assert list(pool.map(abs, range(30), progress="counting")) == list(range(30))
    shown = capsys.readouterr().err
    assert "counting: 100%" in shown
    assert "30/30" in shown


def test_progress_without_tqdm_says_how_to_get_it(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(InvalidRequest, match="pip install tqdm"):
        pool.map(abs, range(3), progress=True)
