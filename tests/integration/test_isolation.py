"""What `isolation` promises, request by request, seen at the processes and at what is left in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool import CheckoutTimeout, KernelPool
from support.cells import DEADLINE, Gate, Watcher, pid, pids, states, value
from support.conditions import eventually, gone
from support.kernelspecs import kernelspec, scripted

PID = "import os; os.getpid()"


# --- "process" ----------------------------------------------------------------------------------


def test_the_process_has_served_nobody_before_and_serves_nobody_after() -> None:
    with KernelPool(size=1) as pool:
        before = pid(pool)
        own = int(value(pool.execute(PID, isolation="process")))
        after = pid(pool)
        assert len({before, own, after}) == 3
        eventually(gone([before, own]))
        assert pid(pool) == after  # requests that do not ask for it share a process as ever


def test_not_even_the_state_of_imported_modules_is_shared() -> None:
    look = "import email; hasattr(email, 'left')"
    with KernelPool(size=1) as pool:
        pool.execute("import email; email.left = 1")
        assert value(pool.execute(look)) == "True"
        assert value(pool.execute(f"{look}, setattr(email, 'left', 2)", isolation="process")) == (
            "(False, None)"
        )
        assert value(pool.execute(look)) == "False"


def test_a_worker_that_has_served_nobody_is_new_enough() -> None:
    with KernelPool(size=2) as pool:
        known = pids(pool.start(wait=True))
        assert int(value(pool.execute(PID, isolation="process"))) in known.values()
        assert pool.get_stats().workers_recycled == {"isolation": 1}


def test_a_standby_worker_spares_the_wait_for_a_start() -> None:
    with KernelPool(size=1, reserve=1) as pool:
        used = pid(pool.start(wait=True))
        eventually(lambda: states(pool) == ["idle", "standby"])
        (spare,) = {p for p in pids(pool).values() if p != used}
        assert int(value(pool.execute(PID, isolation="process"))) == spare


def test_requests_that_are_queued_together_share_no_process() -> None:
    with KernelPool(size=2) as pool:
        shared = {pid(pool) for _ in range(3)}
        alone = pool.options(isolation="process")
        futures = [alone.submit_code(PID) for _ in range(5)]
        shared.add(pid(pool))
        own = [int(value(future.result(timeout=DEADLINE))) for future in futures]
        assert len(set(own)) == 5
        assert not shared & set(own)
        assert pid(pool) not in own


def test_each_attempt_of_a_retried_request_has_a_process_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import os, signal\n"
        f"with open({str(log)!r}, 'a') as log: print(os.getpid(), file=log)\n"
        f"if len(open({str(log)!r}).readlines()) < 3: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with KernelPool(size=2) as pool:
        used = pid(pool)
        result = pool.execute(code, isolation="process", retries=2)
        assert result.status == "ok"
        tried = [int(line) for line in log.read_text().split()]
        assert len(set(tried)) == 3
        assert used not in tried
        assert pid(pool) not in tried


def test_a_lease_gets_a_process_of_its_own_too() -> None:
    with KernelPool(size=1) as pool:
        before = pid(pool)
        with pool.options(isolation="process").checkout() as worker:
            own = int(value(worker.execute("x = 1\n" + PID)))
            assert value(worker.execute(f"x, {PID[11:]}")) == f"(1, {own})"
        after = pid(pool)
        assert len({before, own, after}) == 3


@pytest.fixture
def held(tmp_path: Path) -> Iterator[KernelPool]:
    """Two workers that have served somebody; others do not come up while ``hold`` is there."""
    with (
        kernelspec("held", scripted("held", tmp_path)) as name,
        KernelPool(size=2, kernel_name=name, isolation="none") as pool,
    ):
        pool.start(wait=True)
        with pool.checkout(), pool.checkout():
            pass
        (tmp_path / "hold").touch()
        try:
            yield pool
        finally:
            (tmp_path / "hold").unlink(missing_ok=True)


def test_others_are_served_while_the_process_starts(held: KernelPool, tmp_path: Path) -> None:
    used = set(pids(held))
    alone = held.submit_code("alone", isolation="process")
    eventually(lambda: states(held) == ["idle", "starting"])
    assert held.get_status().queue_length == 1
    (left,) = used & set(pids(held))
    assert [held.execute("others", timeout=DEADLINE).worker_id for _ in range(3)] == [left] * 3
    assert not alone.done()
    (tmp_path / "hold").unlink()
    assert alone.result(timeout=DEADLINE).worker_id not in used
    assert held.execute("others").worker_id != alone.result().worker_id


def test_who_waits_for_a_process_can_time_out_or_be_cancelled(
    held: KernelPool, tmp_path: Path
) -> None:
    with pytest.raises(CheckoutTimeout):
        held.execute("alone", isolation="process", checkout_timeout=0.1)
    alone = held.submit_code("alone", isolation="process")
    eventually(lambda: held.get_status().queue_length == 1)
    assert alone.cancel()
    eventually(lambda: held.get_status().queue_length == 0)
    assert held.execute("others").stdout == "others"
    (tmp_path / "hold").unlink()
    eventually(lambda: states(held) == ["idle", "idle"])


# --- "none" -------------------------------------------------------------------------------------


def test_none_keeps_state_on_its_worker_until_a_request_of_another_kind_comes_there(
    tmp_path: Path,
) -> None:
    look = "'x' in globals()"
    with KernelPool(size=2) as pool, Gate(tmp_path) as gate:
        pool.start(wait=True)  # of two that idle, the one that was used last serves next
        first = pool.execute("x = 1", isolation="none").worker_id
        watcher = Watcher()
        at_work = pool.submit_code(gate.code + look, isolation="none", on_output=watcher)
        watcher.wait_for("waiting")
        elsewhere = pool.execute(look, isolation="none")
        gate.open()
        there = at_work.result(timeout=DEADLINE)
        assert (there.worker_id, value(there)) == (first, "True")
        assert (elsewhere.worker_id != first, value(elsewhere)) == (True, "False")
        other = pool.execute(look)
        assert (other.worker_id, value(other)) == (first, "False")
        assert value(pool.execute(look, isolation="none")) == "False"


# --- max_tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("max_tasks", [1, 2])
def test_max_tasks_replaces_the_process_after_so_many_requests(max_tasks: int) -> None:
    with KernelPool(size=1, max_tasks=max_tasks) as pool:
        served = [pid(pool) for _ in range(3 * max_tasks)]
        assert len(set(served)) == 3
        assert served == sorted(served, key=served.index)
        eventually(gone(served))
        assert pool.get_stats().workers_recycled == {"max_tasks": 3}
