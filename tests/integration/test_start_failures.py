"""Kernels that cannot start: said why, soon, with their own words; and what becomes of the pool."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jupyter_pool import KernelPool, PoolError, WorkerStartError
from support.cells import THERE_BY_THEN, states, value
from support.conditions import eventually
from support.kernelspecs import kernelspec, python, scripted
from support.processes import marked, new_mark

WELL = "well"  # what `scripted` kernels do that have nothing to do

# For "at once", where the alternative is `start_timeout`. Starting an interpreter is all it takes.
AT_ONCE = 8.0
PATIENCE = 30.0  # the start_timeout that must not be used up


@contextmanager
def pool_of(
    argv: list[str], *, size: int = 1, start_timeout: float = PATIENCE
) -> Iterator[KernelPool]:
    """A pool of kernels with this command, which keep their state."""
    with (
        kernelspec("failing", argv) as name,
        KernelPool(
            size=size, kernel_name=name, start_timeout=start_timeout, isolation="none"
        ) as pool,
    ):
        yield pool


def failure(pool: KernelPool, *, within: float = AT_ONCE, **options: float) -> WorkerStartError:
    """How executing something fails, and that it does soon."""
    began = time.monotonic()
    with pytest.raises(WorkerStartError) as caught:
        pool.execute("1", **options)  # type: ignore[arg-type]
    assert time.monotonic() - began < within
    assert caught.value.context["pool"] == pool.name
    return caught.value


def starts(folder: Path) -> list[float]:
    """When a scripted kernel was started, each time."""
    path = folder / "started"
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- each way to fail -----------------------------------------------------------------------------


def test_a_command_that_does_not_exist() -> None:
    with pool_of(["/nonexistent/kernel", "{connection_file}"]) as pool:
        error = failure(pool)
    assert "could not be started" in str(error)
    assert "/nonexistent/kernel" in str(error)


def test_a_kernel_that_exits_at_once_is_quoted() -> None:
    code = "import sys; sys.stderr.write('no licence\\nfor this host\\n'); sys.exit(3)"
    with pool_of(python(code), size=2) as pool:
        error = failure(pool)
    assert error.stderr == "no licence\nfor this host\n"
    assert "exit code 3" in str(error)
    assert "│ no licence\n  │ for this host" in str(error)
    assert (error.category, error.type) == ("resource_error", "worker_start_failed")


def test_what_a_failing_kernel_says_on_stdout_is_quoted_too() -> None:
    with pool_of(python("import sys; print('usage: …'); sys.exit(2)")) as pool:
        assert failure(pool).stderr == "usage: …\n"


def test_a_kernel_that_is_killed_by_a_signal_before_it_is_ready() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    with pool_of(python(code)) as pool:
        assert "SIGSEGV" in str(failure(pool))


def test_a_kernel_that_hangs_for_ever() -> None:
    code = "import sys, time; sys.stderr.write('waiting for a licence\\n'); time.sleep(600)"
    began = time.monotonic()
    with pool_of(python(code), start_timeout=THERE_BY_THEN) as pool:
        error = failure(pool, within=THERE_BY_THEN + AT_ONCE)
        assert time.monotonic() - began >= THERE_BY_THEN
    assert "start_timeout=1.5 s" in str(error)
    assert error.stderr == "waiting for a licence\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")
def test_a_hanging_kernel_that_ignores_every_signal_it_can_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mark = new_mark()
    monkeypatch.setenv(*mark)
    code = """
import signal, subprocess, sys, time
for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    signal.signal(number, signal.SIG_IGN)
subprocess.Popen(["sleep", "601"])
time.sleep(601)
"""
    with pool_of(python(code), start_timeout=0.3) as pool:
        failure(pool, within=0.3 + AT_ONCE)
        pool.close(timeout=0)
        eventually(lambda: not marked(mark), "the kernel and its child are gone")


def test_a_kernel_that_answers_kernel_info_but_no_probe(tmp_path: Path) -> None:
    # Importing ipykernel takes most of a second, and several where others do the same.
    with pool_of(scripted("patient", tmp_path), start_timeout=6) as pool:
        error = failure(pool, within=6 + AT_ONCE)
        assert (tmp_path / "asked").exists()
        assert "start_timeout=6 s" in str(error)


def test_a_kernel_that_answers_the_probe_with_an_error(tmp_path: Path) -> None:
    with pool_of(scripted("refusing", tmp_path)) as pool:
        error = failure(pool)
    assert "it started, but could not execute: Refused: not today" in str(error)


def test_the_pools_own_kernel_in_a_broken_environment() -> None:
    with KernelPool(size=2, env={"PYTHONHOME": "/nonexistent"}) as pool:
        error = failure(pool)
    assert "encodings" in error.stderr  # Python's own words for it


def test_starting_and_waiting_says_it_too() -> None:
    with (
        pool_of(python("raise SystemExit('no licence')"), size=2) as pool,
        pytest.raises(WorkerStartError, match="no licence"),
    ):
        pool.start(wait=True, timeout=AT_ONCE)


def test_everything_that_waits_is_told() -> None:
    with pool_of(python("import time; time.sleep(0.3); raise SystemExit('no licence')")) as pool:
        futures = [pool.submit_code("1") for _ in range(3)]
        errors = [future.exception(timeout=AT_ONCE) for future in futures]
        with pytest.raises(WorkerStartError, match="no licence"):
            pool.checkout().__enter__()
    assert [type(error) for error in errors] == [WorkerStartError] * 3


def test_without_check_the_error_is_in_the_result() -> None:
    with pool_of(python("raise SystemExit('no licence')")) as pool:
        result = pool.execute("1", check=False)
    assert result.status == "error"
    assert isinstance(result.error, WorkerStartError)
    assert result.worker_id is None


def test_a_pool_whose_kernels_cannot_start_closes_soon() -> None:
    with pool_of(python("import time; time.sleep(600)")) as pool:
        pool.start()
        began = time.monotonic()
        pool.close()
        assert time.monotonic() - began < AT_ONCE


# --- what becomes of the pool ---------------------------------------------------------------------


def test_a_pool_that_cannot_start_workers_is_degraded_and_heals_when_starts_succeed_again(
    tmp_path: Path,
) -> None:
    with pool_of(scripted("refusing", tmp_path), size=2) as pool:
        failure(pool)
        # One more than it takes: two start together, and the second of them may be yet to fail.
        eventually(lambda: pool.get_stats().workers_lost.get("failed to start", 0) >= 4)
        status = pool.get_status()
        assert status.state == "degraded"
        assert status.reason == "it started, but could not execute: Refused: not today"
        health = pool.health_check()
        assert health.status == "unhealthy"
        assert any("Refused: not today" in reason for reason in health.reasons)

        # Reported at once: nobody waits for the next try, not even who would not wait.
        error = failure(pool, checkout_timeout=0)
        assert "Refused: not today" in str(error)

        (tmp_path / "go").touch()
        eventually(lambda: states(pool) == ["idle", "idle"], within=30)
        eventually(lambda: pool.get_status().state == "running")
        assert pool.get_status().reason is None
        assert pool.execute("hello").stdout == "hello"
        assert pool.health_check().status == "healthy"


def test_a_pool_of_our_own_kernels_heals_as_well(tmp_path: Path) -> None:
    # A module of the standard library that is shadowed by a broken one, until that is gone.
    broken = tmp_path / "tempfile.py"
    broken.write_text("raise ImportError('a broken tempfile')\n")
    with KernelPool(size=1, env={"PYTHONPATH": str(tmp_path)}) as pool:
        assert "a broken tempfile" in failure(pool).stderr
        broken.unlink()
        eventually(lambda: states(pool) == ["idle"], within=30)
        assert value(pool.execute("1 + 1")) == "2"


def test_while_one_worker_lives_requests_wait_for_it(tmp_path: Path) -> None:
    # The first to make the folder becomes a kernel; the others fail.
    first = f"""
import os, sys
try:
    os.mkdir({str(tmp_path / "taken")!r})
except FileExistsError:
    sys.exit("there is a licence for one only")
os.execv(sys.executable, {[*scripted(WELL, tmp_path)]!r}[:3] + [sys.argv[1]] + {scripted(WELL, tmp_path)[4:]!r})
"""
    with pool_of(python(first), size=2) as pool:
        eventually(lambda: "idle" in states(pool), within=30)
        results = [pool.submit_code(str(n)) for n in range(5)]
        assert [future.result(timeout=30).stdout for future in results] == list("01234")
        eventually(lambda: pool.get_status().state == "degraded", within=30)
        assert pool.execute("still served").stdout == "still served"
        health = pool.health_check()
        assert health.status == "degraded"
        assert any("licence for one only" in reason for reason in health.reasons)


def test_a_kernel_that_keeps_dying_is_not_started_again_and_again(tmp_path: Path) -> None:
    with pool_of(scripted("dying", tmp_path)) as pool:
        pool.start()
        eventually(lambda: len(starts(tmp_path)) >= 4, within=60)
        assert pool.get_status().state == "degraded"
        times = starts(tmp_path)
        pauses = [after - before for before, after in zip(times, times[1:], strict=False)]
        # Each start waits for twice the time, from the last death on.
        assert pauses[0] >= 0.1
        assert pauses[1] >= 0.2
        assert pauses[2] >= 0.4
        (tmp_path / "go").touch()
        eventually(lambda: pool.get_status().state == "running", within=60)
        assert pool.execute("hello").stdout == "hello"


def test_a_failed_replacement_does_not_cost_the_other_workers(tmp_path: Path) -> None:
    with pool_of(scripted("refusing", tmp_path), size=2) as pool:
        (tmp_path / "go").touch()
        pool.start(wait=True)
        (tmp_path / "go").unlink()
        broken, whole = pool.get_status().workers
        pool.restart_worker(broken.id)
        eventually(lambda: pool.get_stats().workers_lost.get("failed to start"), within=30)
        # The kernel refuses everything now, but it is the one that answers.
        with pytest.raises(PoolError, match="Refused"):
            pool.execute("1")
        assert whole.id in [w.id for w in pool.get_status().workers]
        (tmp_path / "go").touch()
        eventually(lambda: states(pool) == ["idle", "idle"], within=30)
