"""Kernels that are not ours: the standard protocol, and stateless by being replaced."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jupyter_pool import (
    Cancelled,
    ExecutionError,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    WorkerDied,
)
from support.cells import DEADLINE, THERE_BY_THEN, Watcher, states, value
from support.conditions import eventually
from support.kernelspecs import kernelspec, scripted

pytestmark = pytest.mark.requires("kernel:bash")


@pytest.fixture(scope="module")
def bash(bash_kernel: str) -> Iterator[KernelPool]:
    """Fresh kernels for every request."""
    with KernelPool(size=1, kernel_name=bash_kernel, interrupt_grace=5) as pool:
        yield pool.start(wait=True, timeout=60)
        pool.close(timeout=5)  # a failed test may have left something running


@pytest.fixture(scope="module")
def lasting_bash(bash_kernel: str) -> Iterator[KernelPool]:
    """A kernel that stays."""
    with KernelPool(size=1, kernel_name=bash_kernel, isolation="none", interrupt_grace=5) as pool:
        yield pool.start(wait=True, timeout=60)
        pool.close(timeout=5)  # a failed test may have left something running


@pytest.fixture(scope="module")
def stock() -> Iterator[KernelPool]:
    """Stock ipykernel, as any foreign kernel."""
    with KernelPool(size=1, kernel_name="python3") as pool:
        yield pool.start(wait=True, timeout=60)
        pool.close(timeout=5)  # a failed test may have left something running


# --- stateless ----------------------------------------------------------------------------------


def test_a_foreign_kernel_is_replaced_after_each_request_and_nothing_stays(
    bash: KernelPool,
) -> None:
    first = bash.execute("SECRET=1; echo [$SECRET]")
    second = bash.execute("echo [$SECRET]")
    assert (first.stdout, second.stdout) == ("[1]\n", "[]\n")
    assert first.worker_id != second.worker_id


def test_the_next_request_runs_on_a_spare_that_was_warmed_meanwhile(bash: KernelPool) -> None:
    eventually(lambda: states(bash) == ["idle", "standby"])
    known = {worker.state: worker.id for worker in bash.get_status().workers}
    assert bash.execute("echo").worker_id == known["idle"]
    assert bash.execute("echo").worker_id == known["standby"]
    eventually(lambda: states(bash) == ["idle", "standby"])
    assert bash.get_stats().workers_recycled.keys() == {"isolation"}
    assert bash.get_stats().workers_lost == {}


def test_a_foreign_kernel_is_replaced_after_a_lease_within_which_state_stays(
    bash: KernelPool,
) -> None:
    with bash.checkout() as worker:
        held = worker.worker_id
        worker.execute("SECRET=1")
        assert worker.execute("echo [$SECRET]").stdout == "[1]\n"
    result = bash.execute("echo [$SECRET]")
    assert result.stdout == "[]\n"
    assert result.worker_id != held


def test_with_isolation_none_the_kernel_and_its_state_stay(lasting_bash: KernelPool) -> None:
    first = lasting_bash.execute("KEPT=1")
    second = lasting_bash.execute("echo [$KEPT]")
    assert second.stdout == "[1]\n"
    assert first.worker_id == second.worker_id
    assert len(states(lasting_bash)) == 1  # no spare: nobody would need it


# --- what a request gives -----------------------------------------------------------------------


def test_outputs_come_as_they_happen_and_in_order(lasting_bash: KernelPool, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    watcher = Watcher()
    future = lasting_bash.submit_code(
        f"echo first; read word < {fifo}; for n in 1 2; do echo $word $n; done", on_output=watcher
    )
    watcher.wait_for("first")
    assert not future.done()
    fifo.write_text("go\n")
    assert future.result(timeout=30).stdout == "first\ngo 1\ngo 2\n"


def test_an_error_is_an_execution_error_and_what_was_printed_is_there(
    lasting_bash: KernelPool,
) -> None:
    with pytest.raises(ExecutionError) as caught:
        lasting_bash.execute("echo before; (exit 3)")
    assert caught.value.evalue == "3"
    assert caught.value.result is not None
    assert caught.value.result.stdout == "before\n"
    assert caught.value.context["worker_id"] == lasting_bash.get_status().workers[0].id
    assert lasting_bash.execute("echo still there").stdout == "still there\n"


@pytest.mark.parametrize(
    "options", [{"inputs": {"x": 1}}, {"outputs": ["x"]}, {"seed": 1}], ids=lambda o: next(iter(o))
)
def test_what_needs_our_kernel_is_an_invalid_request_before_anything_runs(
    lasting_bash: KernelPool, options: dict[str, object]
) -> None:
    served = lasting_bash.get_status().workers[0].served
    with pytest.raises(InvalidRequest, match="not with 'bash'"):
        lasting_bash.execute("echo", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="not with 'bash'"):
        lasting_bash.submit_code("echo", **options)  # type: ignore[arg-type]
    assert lasting_bash.get_status().workers[0].served == served
    assert lasting_bash.execute("echo 1").stdout == "1\n"


def test_sessions_are_counted_as_for_any_kernel(lasting_bash: KernelPool) -> None:
    lasting_bash.execute_in_session("s1", "echo")
    lasting_bash.execute_in_session("s1", "(exit 1)", check=False)
    session = lasting_bash.sessions["s1"]
    assert (session.requests, session.failures) == (2, 1)


# --- what goes wrong ----------------------------------------------------------------------------


def test_a_timeout_interrupts_a_foreign_kernel(bash: KernelPool) -> None:
    with pytest.raises(OperationTimeout) as caught:
        bash.execute("echo before; sleep 60", timeout=THERE_BY_THEN)
    assert caught.value.result is not None
    assert caught.value.result.stdout.startswith("before\n")
    assert "interrupted cleanly" in str(caught.value)
    assert bash.execute("echo after").stdout == "after\n"


def test_an_interrupted_kernel_that_stays_serves_on(lasting_bash: KernelPool) -> None:
    worker_id = lasting_bash.execute("KEPT=2").worker_id
    with pytest.raises(OperationTimeout):
        lasting_bash.execute("sleep 60", timeout=THERE_BY_THEN)
    result = lasting_bash.execute("echo [$KEPT]")
    assert result.stdout == "[2]\n"
    assert result.worker_id == worker_id


def test_a_cancelled_request_is_interrupted(bash: KernelPool) -> None:
    watcher = Watcher()
    future = bash.submit_code("echo waiting; sleep 60", on_output=watcher)
    watcher.wait_for("waiting")
    bash.cancel(future.request_id)  # type: ignore[attr-defined]
    assert isinstance(future.exception(timeout=15), Cancelled)
    assert bash.execute("echo after").stdout == "after\n"


def test_a_foreign_kernel_that_dies_is_worker_died_and_is_replaced(
    bash: KernelPool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(WorkerDied) as caught:
        bash.execute("kill -9 $PPID")
    assert caught.value.signal == "SIGKILL"
    assert bash.execute("echo after").stdout == "after\n"
    bash.pop_stats()


def test_a_kernel_that_is_not_installed_is_named_with_those_that_are(bash_kernel: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        KernelPool(kernel_name="bsh")
    assert "'bsh'" in str(caught.value)
    assert "Did you mean 'bash'?" in str(caught.value)
    assert "python3" in str(caught.value)


# --- stock ipykernel ----------------------------------------------------------------------------


def test_a_stock_kernel_shows_values_streams_and_displays(stock: KernelPool) -> None:
    result = stock.execute(
        "import sys\nprint('out')\nprint('err', file=sys.stderr)\n"
        "from IPython.display import display, HTML\ndisplay(HTML('<b>shown</b>'))\n6 * 7"
    )
    assert (result.stdout, result.stderr, value(result)) == ("out\n", "err\n", "42")
    assert [output["output_type"] for output in result.display_outputs if "data" in output] == [
        "display_data",
        "execute_result",
    ]


def test_a_stock_kernel_keeps_nothing_and_shows_its_traceback(stock: KernelPool) -> None:
    stock.execute("secret = 1")
    with pytest.raises(ExecutionError) as caught:
        stock.execute("secret")
    assert caught.value.ename == "NameError"
    assert any("secret" in line for line in caught.value.traceback)


def test_a_stock_kernel_is_interrupted(stock: KernelPool) -> None:
    with pytest.raises(OperationTimeout, match="interrupted cleanly"):
        stock.execute("while True: pass", timeout=THERE_BY_THEN)
    assert value(stock.execute("1 + 1")) == "2"


def test_answers_of_several_foreign_workers_are_never_mixed_up() -> None:
    with KernelPool(size=3, kernel_name="python3", isolation="none") as pool:
        pool.start(wait=True, timeout=60)
        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(lambda n: value(pool.execute(f"print({n}); {n}")), range(90)))
    assert found == [str(n) for n in range(90)]


@pytest.mark.parametrize("behaviour", ["losing", "late"])
def test_an_idle_status_that_does_not_come_is_told_from_one_that_is_late(
    behaviour: str, tmp_path: Path
) -> None:
    # Without isolation a worker is only replaced if there is something wrong with it.
    with (
        kernelspec(behaviour, scripted(behaviour, tmp_path)) as name,
        KernelPool(1, kernel_name=name, isolation="none") as pool,
    ):
        pool.start(wait=True, timeout=DEADLINE)
        result = pool.execute("lose")
        lost = behaviour == "losing"
        assert result.stdout == "lose" + ("" if lost else "!")
        recycled = {"its idle status was lost": 1} if lost else {}
        assert pool.get_stats().workers_recycled == recycled
        assert pool.execute("next").stdout == "next"


def test_a_worker_that_dies_before_its_idle_status_is_missed_is_not_asked_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        kernelspec("losing", scripted("losing", tmp_path)) as name,
        KernelPool(1, kernel_name=name, isolation="none") as pool,
    ):
        pool.start(wait=True, timeout=DEADLINE)
        with pytest.raises(WorkerDied):
            pool.execute("lose and end")
        # This one is missed a second after its reply: later than the first would have been.
        pool.execute("lose")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
