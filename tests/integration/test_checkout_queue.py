"""Waiting for a worker: in turn, within limits, and told why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from jupyter_pool import Cancelled, CheckoutTimeout, KernelPool, PoolSaturated
from jupyter_pool.results import ExecutionResult, WaitInfo
from support.cells import DEADLINE, Gate, Watcher, states, value
from support.conditions import eventually
from support.kernelspecs import kernelspec, scripted


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(size=1, checkout_timeout=None) as pool:
        yield pool.start(wait=True)
        pool.close(timeout=5)  # a failed test may have left something running


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def occupy(pool: KernelPool, gate: Gate) -> Future[ExecutionResult]:
    """Have a cell run that waits at the gate."""
    watcher = Watcher()
    future = pool.submit_code(gate.code, on_output=watcher)
    watcher.wait_for("waiting")
    return future


def in_thread(call: object, *arguments: object, **options: object) -> Future[ExecutionResult]:
    """What a call in a thread of its own gives."""
    future: Future[ExecutionResult] = Future()

    def run() -> None:
        try:
            future.set_result(call(*arguments, **options))  # type: ignore[operator]
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="caller").start()
    return future


def queued(pool: KernelPool, count: int) -> None:
    """Wait until so many requests wait."""
    eventually(lambda: pool.get_status().queue_length == count, f"{count} wait")


# --- limits -------------------------------------------------------------------------------------


def test_a_checkout_timeout_says_so_and_the_code_never_runs(
    pool: KernelPool, gate: Gate, tmp_path: Path
) -> None:
    at_work = occupy(pool, gate)
    began = time.monotonic()
    with pytest.raises(CheckoutTimeout) as caught:
        pool.execute(f"open({str(tmp_path / 'ran')!r}, 'w')", checkout_timeout=0.3)
    assert time.monotonic() - began >= 0.3
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.category, error.type) == ("timeout_error", "checkout_timeout")
    assert error.context["worker_id"] is None
    assert error.context["busy"] == 1
    assert error.context["waited"] >= 0.3
    assert "0.3 s" in str(error)
    gate.open()
    at_work.result(timeout=DEADLINE)
    assert value(pool.execute("1 + 1")) == "2"
    assert not (tmp_path / "ran").exists()


def test_a_lease_times_out_in_the_queue_too(pool: KernelPool, gate: Gate) -> None:
    at_work = occupy(pool, gate)
    with pytest.raises(CheckoutTimeout), pool.checkout(checkout_timeout=0.1):
        pytest.fail("nobody was free")
    gate.open()
    at_work.result(timeout=DEADLINE)
    with pool.checkout(checkout_timeout=DEADLINE) as worker:
        assert value(worker.execute("1 + 1")) == "2"


def test_the_pools_own_limit_holds_for_execute_and_not_for_what_is_submitted(
    gate: Gate,
) -> None:
    with KernelPool(size=1, checkout_timeout=0.2) as pool:
        pool.start(wait=True)
        at_work = occupy(pool, gate)
        waiting = pool.submit_code("'patient'")
        with pytest.raises(CheckoutTimeout, match=r"0\.2 s"):
            pool.execute("1")
        assert not waiting.done()
        gate.open()
        assert value(waiting.result(timeout=DEADLINE)) == "'patient'"
        at_work.result(timeout=DEADLINE)


def test_a_timeout_counts_from_when_the_code_runs_not_from_when_it_was_queued(
    pool: KernelPool, gate: Gate
) -> None:
    at_work = occupy(pool, gate)
    # More than the code takes on a busy machine, and less than it waits.
    waiting = pool.submit_code("'ran'", timeout=2)
    eventually(lambda: pool.get_status().queue_length == 1)
    with pytest.raises(CheckoutTimeout):
        pool.execute("1", checkout_timeout=2.1)
    gate.open()
    assert value(waiting.result(timeout=DEADLINE)) == "'ran'"
    at_work.result(timeout=DEADLINE)


def test_a_full_queue_refuses_at_once_and_only_as_long_as_it_is_full(gate: Gate) -> None:
    with KernelPool(size=1, max_waiting=2) as pool:
        pool.start(wait=True)
        at_work = occupy(pool, gate)
        waiting = [pool.submit_code(str(n)) for n in range(2)]
        queued(pool, 2)
        began = time.monotonic()
        with pytest.raises(PoolSaturated) as caught:
            pool.execute("1")
        # Whoever is let in waits for 30 s.
        assert time.monotonic() - began < 15
        assert (caught.value.category, caught.value.type) == ("resource_error", "pool_saturated")
        assert "2 requests waiting" in str(caught.value)
        assert isinstance(pool.submit_code("1").exception(timeout=DEADLINE), PoolSaturated)
        gate.open()
        assert [value(future.result(timeout=DEADLINE)) for future in waiting] == ["0", "1"]
        at_work.result(timeout=DEADLINE)
        assert value(pool.execute("1 + 1")) == "2"


# --- turns --------------------------------------------------------------------------------------


def test_a_single_cell_does_not_wait_behind_a_sweep_of_200(
    pool: KernelPool, gate: Gate, tmp_path: Path
) -> None:
    log = tmp_path / "log"

    def note(word: object) -> str:
        return f"open({str(log)!r}, 'a').write('{word} ')"

    occupy(pool, gate)
    sweep = [pool.submit_code(note(n)) for n in range(200)]
    queued(pool, 200)
    cell = in_thread(pool.execute, note("cell"))
    queued(pool, 201)
    gate.open()
    cell.result(timeout=DEADLINE)
    assert wait(sweep, timeout=DEADLINE).not_done == set()
    order = log.read_text().split()
    assert order.index("cell") <= 1
    order.remove("cell")
    assert order == [str(n) for n in range(200)]


def test_sessions_take_turns(pool: KernelPool, gate: Gate, tmp_path: Path) -> None:
    log = tmp_path / "log"
    occupy(pool, gate)
    calls = []
    for count, session in enumerate(["a", "a", "a", "b", "c", "b"], 1):
        code = f"open({str(log)!r}, 'a').write({session!r})"
        calls.append(in_thread(pool.execute, code, session_id=session))
        queued(pool, count)
    gate.open()
    assert wait(calls, timeout=DEADLINE).not_done == set()
    assert log.read_text() == "abcaba"


def test_a_cancelled_waiter_never_runs_and_the_others_move_up(
    pool: KernelPool, gate: Gate, tmp_path: Path
) -> None:
    at_work = occupy(pool, gate)
    first = pool.submit_code(f"open({str(tmp_path / 'first')!r}, 'w')")
    second = pool.submit_code(f"open({str(tmp_path / 'second')!r}, 'w')")
    third = pool.submit_code("3")
    assert first.cancel()
    pool.cancel(second.request_id)  # type: ignore[attr-defined]
    assert isinstance(second.exception(timeout=DEADLINE), Cancelled)
    queued(pool, 1)
    gate.open()
    assert value(third.result(timeout=DEADLINE)) == "3"
    assert not at_work.cancel()
    assert [path.name for path in tmp_path.iterdir()] == ["gate"]


# --- being told ---------------------------------------------------------------------------------


def test_who_waits_is_told_every_second_why_and_then_that_it_runs(
    pool: KernelPool, gate: Gate
) -> None:
    occupy(pool, gate)
    ahead = pool.submit_code("1")
    told: list[tuple[WaitInfo, str]] = []

    def on_wait(info: WaitInfo) -> None:
        told.append((info, threading.current_thread().name))
        if len(told) == 2:
            gate.open()

    began = time.monotonic()
    pool.execute("1", on_wait=on_wait)
    assert time.monotonic() - began >= 2
    ahead.result(timeout=DEADLINE)
    infos = [info for info, _ in told]
    # What is still before it may take so long that it is told again.
    assert [info.state for info in infos] == ["queued"] * (len(infos) - 1) + ["running"]
    assert len(infos) >= 3
    assert all(info.elapsed >= number for number, info in enumerate(infos[:-1], 1))
    assert (infos[0].busy, infos[0].idle, infos[0].starting, infos[0].ahead) == (1, 0, 0, 1)
    assert {thread for _, thread in told} == {threading.current_thread().name}


def test_who_does_not_wait_is_told_nothing(pool: KernelPool) -> None:
    # The worker may still be made clean after a lease.
    eventually(lambda: states(pool) == ["idle"])
    told: list[WaitInfo] = []
    pool.execute("import time; time.sleep(1.2)", on_wait=told.append)
    assert told == []


def test_who_waits_for_the_first_start_is_told_that(tmp_path: Path) -> None:
    told: list[WaitInfo] = []

    def on_wait(info: WaitInfo) -> None:
        told.append(info)
        (tmp_path / "go").touch()

    with (
        kernelspec("patient", scripted("patient", tmp_path)) as name,
        KernelPool(size=2, kernel_name=name, isolation="none") as pool,
    ):
        assert pool.execute("hello", on_wait=on_wait).stdout == "hello"
    assert told[0].state == "starting"
    assert (told[0].starting, told[0].busy, told[0].ahead) == (2, 0, 0)
    assert told[-1].state == "running"


def test_an_exception_of_on_wait_gives_the_request_up(
    pool: KernelPool, gate: Gate, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def on_wait(info: WaitInfo) -> None:
        raise Enough

    occupy(pool, gate)
    with pytest.raises(Enough):
        pool.execute(f"open({str(tmp_path / 'ran')!r}, 'w')", on_wait=on_wait)
    assert pool.get_status().queue_length == 0
    gate.open()
    assert value(pool.execute("1 + 1")) == "2"
    assert not (tmp_path / "ran").exists()
