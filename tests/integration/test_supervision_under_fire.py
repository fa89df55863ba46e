"""Workers that are killed or stopped in every state, a full disk, lost folders, a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from unittest.mock import patch

import pytest

from jupyter_pool import Cancelled, ExecutionResult, KernelPool, OperationTimeout, WorkerStartError
from jupyter_pool.engine.loop import Engine
from jupyter_pool.reports import WorkerInfo
from support.cells import DEADLINE, THERE_BY_THEN, Watcher, pid, states, value
from support.conditions import eventually, gone
from support.tiny_disk import TinyDisk, tiny_disk

DEAF = (
    "import signal, time\n"
    "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    "print('on', flush=True)\n"
    "time.sleep(600)"
)


def worker_in(pool: KernelPool, state: str, *besides: int) -> Callable[[], WorkerInfo | None]:
    """A condition: a worker is in that state and has a process; none of `besides`."""
    return lambda: next(
        (
            worker
            for worker in pool.get_status().workers
            if worker.state == state and worker.pid is not None and worker.pid not in besides
        ),
        None,
    )


def kill(worker: WorkerInfo | None, signum: signal.Signals = signal.SIGKILL) -> int:
    assert worker is not None
    assert worker.pid is not None
    os.kill(worker.pid, signum)
    return worker.pid


def busy(pool: KernelPool, code: str, **options: float) -> tuple[Future[ExecutionResult], str]:
    """A future whose code runs, and its request's id."""
    watcher = Watcher()
    future = pool.submit_code(code, on_output=watcher, **options)  # type: ignore[arg-type]
    watcher.wait_for("on")
    return future, future.request_id  # type: ignore[attr-defined]


# --- killed in every state ------------------------------------------------------------------------


class SlowStarts:
    """Workers that start with `env` are not ready before `end`."""

    def __init__(self, folder: Path) -> None:
        self._go = folder / "go"
        startup = folder / "ipython" / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "00-wait.py").write_text(
            f"import os, time\nwhile not os.path.exists({str(self._go)!r}): time.sleep(0.001)\n"
        )
        self.env = {"IPYTHONDIR": str(folder / "ipython")}
        self.end()

    def begin(self) -> None:
        self._go.unlink()

    def end(self) -> None:
        self._go.touch()


@pytest.fixture
def slow_starts(tmp_path: Path) -> SlowStarts:
    return SlowStarts(tmp_path)


def test_a_worker_that_is_killed_each_time_it_starts_is_started_until_it_lives(
    slow_starts: SlowStarts,
) -> None:
    slow_starts.begin()
    with KernelPool(size=1, env=slow_starts.env) as pool:
        pool.start()
        killed: list[int] = []
        for _ in range(5):
            killed.append(kill(eventually(worker_in(pool, "starting", *killed), within=60)))
            eventually(gone(killed))
        slow_starts.end()
        eventually(lambda: states(pool) == ["idle"], within=60)
        assert value(pool.execute("6 * 7")) == "42"
        eventually(lambda: pool.get_status().state == "running")
        stats = pool.get_stats()
        assert (stats.workers_started, stats.workers_lost) == (6, {"failed to start": 5})


def test_who_waits_does_not_hear_of_a_start_that_was_killed_where_others_succeeded(
    slow_starts: SlowStarts,
) -> None:
    with KernelPool(size=1, env=slow_starts.env) as pool:
        pool.execute("1")
        slow_starts.begin()
        idle = kill(worker_in(pool, "idle")())
        starting = eventually(worker_in(pool, "starting", idle))
        future = pool.submit_code("6 * 7")
        kill(starting)
        slow_starts.end()
        assert value(future.result(DEADLINE)) == "42"
        assert pool.get_stats().workers_lost == {"SIGKILL": 1, "failed to start": 1}


def test_a_worker_that_is_killed_while_it_is_stopped_is_gone_and_replaced_once() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True, timeout=60)
        first = kill(worker_in(pool, "idle")(), signal.SIGSTOP)  # so that it takes its time
        pool.restart_worker(pool.get_status().workers[0].id)
        kill(eventually(worker_in(pool, "stopping")))
        eventually(gone([first]))
        assert value(pool.execute("6 * 7")) == "42"
        assert states(pool) == ["idle"]
        stats = pool.get_stats()
        assert (stats.workers_started, stats.workers_lost) == (2, {})


def test_a_worker_that_is_killed_while_it_is_interrupted_ends_its_request_at_once() -> None:
    with KernelPool(size=1, interrupt_grace=600) as pool:
        future, request_id = busy(pool, DEAF)
        pool.cancel(request_id)
        kill(eventually(worker_in(pool, "interrupting")))
        error = future.exception(DEADLINE)
        assert isinstance(error, Cancelled)
        assert value(pool.execute("6 * 7")) == "42"


def test_a_worker_that_is_killed_in_the_grace_of_a_timeout_ends_its_request_at_once() -> None:
    with KernelPool(size=1, interrupt_grace=600) as pool:
        future, _ = busy(pool, DEAF, timeout=THERE_BY_THEN)
        kill(eventually(worker_in(pool, "interrupting")))
        error = future.exception(DEADLINE)
        assert isinstance(error, OperationTimeout)
        assert value(pool.execute("6 * 7")) == "42"


def test_a_worker_that_is_killed_while_it_is_reset_is_replaced() -> None:
    with KernelPool(size=1) as pool:
        with pool.checkout() as lease:
            lease.execute("x = 1")
            (worker,) = pool.get_status().workers
            kill(worker, signal.SIGSTOP)  # so that the reset takes its time
        kill(eventually(worker_in(pool, "resetting")))
        assert pool.execute("'x' in globals()").data["text/plain"] == "False"
        assert pool.get_stats().workers_lost == {"SIGKILL": 1}


# --- stopped, not ended ---------------------------------------------------------------------------


def test_a_busy_worker_that_stands_still_does_not_hold_up_the_timeout() -> None:
    with KernelPool(size=1, interrupt_grace=0.5) as pool:
        future, _ = busy(pool, "print('on', flush=True)\nwhile True: pass", timeout=2.0)
        stopped = kill(worker_in(pool, "busy")(), signal.SIGSTOP)
        error = future.exception(DEADLINE)
        assert isinstance(error, OperationTimeout)
        assert "killed" in str(error)
        assert gone([stopped])()
        assert value(pool.execute("6 * 7")) == "42"


def test_a_busy_worker_that_stands_still_can_be_cancelled() -> None:
    with KernelPool(size=1, interrupt_grace=0.5) as pool:
        future, request_id = busy(pool, "print('on', flush=True)\nwhile True: pass")
        stopped = kill(worker_in(pool, "busy")(), signal.SIGSTOP)
        pool.cancel(request_id)
        assert isinstance(future.exception(DEADLINE), Cancelled)
        assert gone([stopped])()


def test_a_worker_that_stands_still_while_it_starts_is_given_up_in_time(
    slow_starts: SlowStarts,
) -> None:
    slow_starts.begin()  # so that it is met while it starts
    with KernelPool(size=1, start_timeout=3, env=slow_starts.env) as pool:
        future = pool.submit_code("1")
        stopped = kill(eventually(worker_in(pool, "starting")), signal.SIGSTOP)
        error = future.exception(DEADLINE)
        assert isinstance(error, WorkerStartError)
        assert "start_timeout=3 s" in str(error)
        eventually(gone([stopped]))


def test_a_worker_that_stands_still_does_not_hold_up_the_close() -> None:
    pool = KernelPool(size=2, interrupt_grace=0.5)
    pool.start(wait=True, timeout=60)
    stopped = [kill(worker, signal.SIGSTOP) for worker in pool.get_status().workers]
    future = pool.submit_code("1")  # nobody will ever answer it
    pool.close(timeout=0)
    assert isinstance(future.exception(timeout=0), Cancelled)
    assert gone(stopped)()


# --- disks and folders ----------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyDisk]:
    """The disk of the runtime folder."""
    assert Engine._current is None
    # pytest's own folders have long names, too long for sockets.
    folder = Path(tempfile.mkdtemp(prefix="disk-"))
    with tiny_disk(folder / "d") as disk:
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(disk.path))
        yield disk
        assert [path.name for path in disk.path.iterdir() if path.name.startswith("pool-")] == []
    shutil.rmtree(folder)


def failure(pool: KernelPool) -> str:
    with pytest.raises(WorkerStartError) as caught:
        pool.execute("1")
    assert caught.value.context["pool"] == pool.name
    return str(caught.value)


def test_a_full_disk_is_named_and_the_pool_heals_when_there_is_room(disk: TinyDisk) -> None:
    disk.fill()
    with KernelPool(size=1) as pool:
        message = failure(pool)
        assert f"nothing can be written to the runtime folder {disk.path}/pool-" in message
        assert "No space left on device" in message
        assert "JUPYTER_RUNTIME_DIR" in message
        eventually(lambda: pool.get_status().state == "degraded", within=60)
        assert "No space left on device" in str(pool.get_status().reason)
        again = failure(pool)  # at once
        assert again.startswith(message)
        assert "Starts keep failing" in again
        disk.make_room()
        eventually(lambda: pool.get_status().state == "running", within=60)
        assert value(pool.execute("6 * 7")) == "42"


def test_a_disk_that_fills_up_harms_no_worker_that_runs(disk: TinyDisk) -> None:
    with KernelPool(size=1) as pool:
        before = pid(pool)
        disk.fill()
        disk.fill_with_files()
        pool.resize(size=2)
        eventually(lambda: pool.get_stats().workers_lost.get("failed to start", 0) >= 1)
        assert [pid(pool) for _ in range(10)] == [before] * 10
        disk.make_room()
        eventually(lambda: states(pool) == ["idle", "idle"], within=60)
        assert before in [worker.pid for worker in pool.get_status().workers]


def test_a_disk_without_room_for_a_file_is_named_before_anything_is_started(
    disk: TinyDisk,
) -> None:
    disk.fill_with_files()
    with contextlib.closing(KernelPool(size=1)) as pool:
        descriptors = len(os.listdir("/proc/self/fd"))
        for use in (pool.start, lambda: pool.submit_code("1"), pool.checkout().__enter__):
            with pytest.raises(WorkerStartError, match=f"the runtime folder {disk.path}: No space"):
                use()
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert Engine._current is None
        disk.make_room()
        assert value(pool.execute("6 * 7")) == "42"


def test_a_runtime_folder_that_was_removed_is_made_again() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True, timeout=60)
        assert Engine._current is not None
        folder = Path(Engine._current.folder)
        shutil.rmtree(folder)
        assert value(pool.execute("6 * 7")) == "42"  # its connections stand
        pool.restart_worker(pool.get_status().workers[0].id)
        assert value(pool.execute("6 * 7")) == "42"
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_a_working_folder_that_was_removed_harms_no_worker_and_no_start(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with KernelPool(size=1, cwd=str(folder)) as pool:
        before = pid(pool)
        shutil.rmtree(folder)
        assert pid(pool) == before
        # A new worker has to start somewhere.
        pool.restart_worker(pool.get_status().workers[0].id)
        result = pool.execute("import os; os.getcwd()")
        assert value(result) == repr(os.path.expanduser("~"))
        folder.mkdir()
        assert result.worker_id is not None
        pool.restart_worker(result.worker_id)
        assert value(pool.execute("import os; os.getcwd()")) == repr(str(folder))


# --- a clock that jumps ---------------------------------------------------------------------------

DAY = 86_400.0


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_clock_that_jumps_changes_no_limit_and_forgets_no_session(jump: float) -> None:
    real = time.time
    with KernelPool(
        size=1,
        session_ttl=600,
        max_lifetime=600,
        max_idle=600,
        operation_timeout=600,
        interrupt_grace=10,  # a slow worker is not replaced for it
    ) as pool:
        before = pid(pool)
        pool.execute("1", session_id="early")
        future, request_id = busy(pool, "print('on', flush=True)\nwhile True: pass")
        waiting = pool.submit_code("6 * 7", checkout_timeout=600)
        with patch("time.time", lambda: real() + jump):
            assert states(pool) == ["busy"]
            assert pool.get_status().queue_length == 1
            pool.cancel(request_id)
            assert isinstance(future.exception(DEADLINE), Cancelled)
            assert value(waiting.result(DEADLINE)) == "42"
            assert pid(pool) == before
            begun = time.monotonic()
            with pytest.raises(OperationTimeout):
                pool.execute("while True: pass", timeout=0.5, session_id="late")
            assert time.monotonic() - begun >= 0.5
            assert list(pool.sessions) == ["early", "late"]
            assert pool.get_stats().workers_recycled == {}
            assert pool.health_check().status == "healthy"


def test_a_session_expires_in_its_time_however_the_clock_is_set_back() -> None:
    real = time.time
    with KernelPool(size=1, session_ttl=0.2) as pool:
        pool.execute("1", session_id="stale")
        with patch("time.time", lambda: real() - DAY):
            eventually(lambda: not pool.sessions)
