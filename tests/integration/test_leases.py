"""`checkout`: one worker for oneself; its state lasts as long as the lease, and no longer."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import (
    AsyncKernelPool,
    Cancelled,
    CheckoutTimeout,
    ExecutionError,
    ExecutionResult,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    PoolError,
    PoolNotAvailable,
    WorkerDied,
)
from support.cells import DEADLINE, THERE_BY_THEN, Gate, Watcher, pid, states, value
from support.conditions import eventually


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(1, interrupt_grace=10) as pool:  # a slow worker is not replaced for it
        yield pool


@pytest.fixture
def two() -> Iterator[KernelPool]:
    with KernelPool(2) as pool:
        yield pool.start(wait=True, timeout=DEADLINE)


def test_state_lasts_while_the_lease_is_held(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        worker.execute("x = 1\nimport os; os.chdir('/')\ndef f(): return x")
        result = worker.execute("x += f()\nos.getcwd()", outputs=["x"])
        assert result.outputs["x"] == 2
        assert value(result) == "'/'"
        assert value(worker.execute("_")) == "'/'"


def test_the_worker_is_reset_when_it_is_returned(pool: KernelPool) -> None:
    before = pid(pool)
    with pool.checkout() as worker:
        worker.execute("x = 1\nimport os; os.chdir('/')\nos.environ['LEFT'] = '1'")
    look = "import os; ('x' in globals(), os.getcwd() == '/', 'LEFT' in os.environ)"
    assert value(pool.execute(look)) == "(False, False, False)"
    with pool.checkout() as worker:
        assert value(worker.execute(look)) == "(False, False, False)"
    assert pid(pool) == before


def test_cells_of_a_lease_are_numbered_as_in_a_notebook(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        counts = [worker.execute("1").execution_count for _ in range(3)]
        with pytest.raises(ExecutionError) as caught:
            worker.execute("1/0")
    assert counts == [1, 2, 3]
    assert "In[4]" in "".join(caught.value.traceback).replace("\x1b[32m", "")


def test_a_lease_says_which_worker_it_holds(two: KernelPool) -> None:
    lease = two.checkout()
    assert lease.worker_id is None
    with lease as worker:
        assert worker is lease
        assert worker.worker_id in {w.id for w in two.get_status().workers}
        assert worker.execute("1").worker_id == worker.worker_id
    assert lease.worker_id is None


def test_nobody_else_gets_the_worker(two: KernelPool) -> None:
    with two.checkout() as first:
        mine = value(first.execute("import os; os.getpid()"))
        others = [two.submit_code("import os; os.getpid()") for _ in range(10)]
        assert mine not in {value(other.result(DEADLINE)) for other in others}
        with two.checkout() as second:
            assert second.worker_id != first.worker_id
            assert states(two) == ["leased", "leased"]
            with pytest.raises(CheckoutTimeout):
                two.execute("1", checkout_timeout=0.1)
            with pytest.raises(CheckoutTimeout), two.checkout(checkout_timeout=0.1):
                pass
    assert value(two.execute("1")) == "1"


def test_who_waits_is_served_when_the_lease_ends(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        waiting = pool.submit_code("'x' in globals()")
        worker.execute("x = 1")
        assert not waiting.running()
    assert value(waiting.result(DEADLINE)) == "False"


def test_a_lease_waits_for_its_turn(pool: KernelPool, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        got: list[ExecutionResult] = []

        def hold() -> None:
            with pool.checkout() as worker:
                got.append(worker.execute("'held'"))

        thread = threading.Thread(target=hold)
        thread.start()
        eventually(lambda: pool.get_status().queue_length == 1)
        assert got == []
        gate.open()
        first.result(DEADLINE)
        thread.join(DEADLINE)
    assert [value(result) for result in got] == ["'held'"]


def test_an_exception_of_the_code_ends_neither_lease_nor_state(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        worker.execute("x = 1")
        with pytest.raises(ExecutionError):
            worker.execute("1/0")
        assert worker.execute("1/0", check=False).status == "error"
        assert value(worker.execute("x")) == "1"


def test_a_timeout_that_was_clean_ends_neither_lease_nor_state(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        worker.execute("x = 1")
        with pytest.raises(OperationTimeout) as caught:
            worker.execute("x = 2\nwhile True: pass", timeout=THERE_BY_THEN)
        assert caught.value.line == 2
        assert value(worker.execute("x")) == "2"


def test_a_lease_takes_inputs_outputs_and_watchers(pool: KernelPool) -> None:
    watcher = Watcher()
    with pool.checkout() as worker:
        result = worker.execute(
            "print(a)\nb = a + 1", inputs={"a": 1}, outputs=["b"], on_output=watcher, seed=3
        )
        assert result.outputs["b"] == 2
        assert value(worker.execute("a")) == "1"
        with pytest.raises(InvalidRequest, match="never set"):
            worker.execute("pass", outputs=["c"])
    assert watcher.outputs == [{"output_type": "stream", "name": "stdout", "text": "1\n"}]


def test_two_threads_that_share_a_lease_take_turns(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        worker.execute("seen = []")
        threads = [
            threading.Thread(target=worker.execute, args=("seen.append(1)",)) for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert value(worker.execute("len(seen)")) == "10"


def test_a_worker_that_dies_in_a_lease_ends_it(pool: KernelPool) -> None:
    before = pid(pool)
    with pool.checkout() as worker:
        worker.execute("x = 1")
        with pytest.raises(WorkerDied):
            worker.execute("import os; os._exit(1)")
        # The state is lost, and silently going on in another worker would hide that.
        with pytest.raises(PoolError) as caught:
            worker.execute("x")
        assert "lease" in str(caught.value)
    assert pid(pool) != before


def test_a_timeout_that_killed_the_worker_ends_the_lease() -> None:
    with KernelPool(1, interrupt_grace=0.2) as pool:
        before = pid(pool)
        with pool.checkout() as worker:
            code = "import itertools; sum(itertools.repeat(1))"
            with pytest.raises(OperationTimeout, match="killed"):
                worker.execute(code, timeout=THERE_BY_THEN)
            with pytest.raises(PoolError) as caught:
                worker.execute("1")
            assert "lease" in str(caught.value)
        assert pid(pool) != before


def test_a_lease_that_is_left_by_an_exception_returns_its_worker(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(ZeroDivisionError), pool.checkout() as worker:
        worker.execute("x = 1")
        raise ZeroDivisionError
    assert value(pool.execute("'x' in globals()")) == "False"
    assert pid(pool) == before


def test_what_still_runs_when_the_lease_is_left_is_interrupted(pool: KernelPool) -> None:
    before = pid(pool)
    watcher = Watcher()
    caught: list[BaseException] = []
    with pool.checkout() as worker:

        def run() -> None:
            try:
                worker.execute("print('on')\nwhile True: pass", on_output=watcher)
            except BaseException as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        watcher.wait_for("on")
    thread.join(DEADLINE)
    assert [type(error) for error in caught] == [Cancelled]
    assert pid(pool) == before


def test_a_lease_is_used_within_with_only(pool: KernelPool) -> None:
    lease = pool.checkout()
    with pytest.raises(InvalidRequest, match="not held"):
        lease.execute("1")
    with lease:
        pass
    with pytest.raises(InvalidRequest, match="not held"):
        lease.execute("1")


def test_a_returned_lease_can_be_taken_anew(pool: KernelPool) -> None:
    lease = pool.checkout()
    for _ in range(2):
        with lease as worker:
            assert value(worker.execute("'x' in globals()")) == "False"
            worker.execute("x = 1")


def test_the_status_shows_the_lease_and_its_session(pool: KernelPool) -> None:
    with pool.checkout(session_id="holder") as worker:
        (info,) = pool.get_status().workers
        assert (info.state, info.session_id) == ("leased", "holder")
        assert info.request_id is not None
        result = worker.execute("1")
        assert result.session_id == "holder"
        worker.execute("1/0", check=False)
        assert (pool.sessions["holder"].requests, pool.sessions["holder"].failures) == (2, 1)
    (info,) = pool.get_status().workers
    assert info.request_id is None


def test_a_pool_that_closes_at_once_ends_its_leases(two: KernelPool) -> None:
    with two.checkout() as worker:
        two.close(0)
        with pytest.raises(PoolNotAvailable):
            worker.execute("1")
    assert two.get_status().state == "closed"


@pytest.mark.parametrize("options", [{"timeout": 0}, {"inputs": [1]}, {"outputs": "x"}])
def test_impossible_arguments_are_named_in_a_lease_too(
    pool: KernelPool, options: dict[str, Any]
) -> None:
    with pool.checkout() as worker:
        with pytest.raises(InvalidRequest):
            worker.execute("1", **options)
        assert value(worker.execute("1")) == "1"


def test_many_short_leases_in_many_threads(two: KernelPool) -> None:
    found: list[str] = []

    def use(number: int) -> None:
        for _ in range(5):
            with two.checkout() as worker:
                worker.execute("x = n", inputs={"n": number})
                found.append(f"{number}={value(worker.execute('x'))}")

    threads = [threading.Thread(target=use, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(found) == sorted(f"{n}={n}" for n in range(5) for _ in range(5))
    assert {worker.state for worker in two.get_status().workers} <= {"idle", "resetting"}


# --- forgotten ----------------------------------------------------------------------------------


def forget(pool: KernelPool) -> int:
    worker = borrow(pool)
    gc.collect()
    return worker


def borrow(pool: KernelPool) -> int:
    lease = pool.checkout(session_id="forgetful").__enter__()
    lease.execute("x = 1")
    assert lease.worker_id is not None
    return lease.worker_id


def test_a_forgotten_lease_is_taken_back_and_its_borrower_named(
    pool: KernelPool, caplog: pytest.LogCaptureFixture
) -> None:
    before = pid(pool)
    with pytest.warns(ResourceWarning, match="a lease was never given back") as caught:
        worker = forget(pool)
    # The innermost frame of the borrower, its line of code, and who called it.
    text = str(caught[0].message)
    assert "in borrow\n" in text
    assert 'pool.checkout(session_id="forgetful").__enter__()' in text
    assert "in test_a_forgotten_lease_is_taken_back" in text
    assert "jupyter_pool/" not in text
    record = next(r for r in caplog.records if "never given back" in r.message)
    assert (record.worker_id, record.session_id) == (worker, "forgetful")  # type: ignore[attr-defined]
    # It serves others again, as new.
    assert value(pool.execute("'x' in globals()", checkout_timeout=DEADLINE)) == "False"
    assert pid(pool) == before


async def test_a_forgotten_async_lease_is_taken_back_and_its_borrower_named() -> None:
    async def forget(pool: AsyncKernelPool) -> None:
        lease = await pool.checkout().__aenter__()
        await lease.execute("x = 1")
        del lease
        gc.collect()

    async with AsyncKernelPool(1) as pool:
        with pytest.warns(ResourceWarning, match="(?s)never given back.*in forget\n"):
            await forget(pool)
        assert value(await pool.execute("'x' in globals()", checkout_timeout=DEADLINE)) == "False"


def test_who_holds_the_workers_is_told_to_whom_waits_in_vain(pool: KernelPool) -> None:
    with pool.checkout(), pytest.raises(CheckoutTimeout) as caught:
        pool.execute("1", checkout_timeout=0)
    (where,) = caught.value.context["leases"]
    assert where.startswith(f"{__file__}:")
    assert where.endswith(" in test_who_holds_the_workers_is_told_to_whom_waits_in_vain")
    assert f"1 held by a lease: {where}" in str(caught.value)


def test_a_lease_is_entered_once_at_a_time(pool: KernelPool) -> None:
    lease = pool.checkout()
    with lease, pytest.raises(InvalidRequest, match="held already"), lease:
        raise AssertionError("entered twice")
    with lease as worker:  # but again, once it was given back
        assert value(worker.execute("1")) == "1"


def test_a_pool_that_closes_over_a_lease_says_who_has_it(caplog: pytest.LogCaptureFixture) -> None:
    pool = KernelPool(1)
    with pool.checkout() as worker:
        worker.execute("1")
        pool.close(timeout=0)
        with pytest.raises((Cancelled, PoolNotAvailable)):
            worker.execute("2")
    record = next(r for r in caplog.records if "taken back from a lease" in r.message)
    assert "in test_a_pool_that_closes_over_a_lease_says_who_has_it" in record.message
