"""Sessions are labels that are counted exactly; statistics and status say what is."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool import (
    CheckoutTimeout,
    ExecutionError,
    KernelPool,
    OperationTimeout,
    PoolSaturated,
    SerializationError,
    WorkerDied,
)
from support.cells import DEADLINE, THERE_BY_THEN, Gate, Watcher, pids, states, value
from support.conditions import eventually


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelPool]:
    # Nobody else is to find a worker that a test has stopped.
    with KernelPool(2, health_check_interval=None) as pool:
        yield pool


@pytest.fixture
def pool(shared: KernelPool) -> KernelPool:
    """Two workers, ready and idle; counters at zero."""
    shared.start(wait=True, timeout=DEADLINE)
    eventually(lambda: states(shared) == ["idle", "idle"])
    for session in list(shared.sessions):
        shared.end_session(session)
    shared.pop_stats()
    return shared


# --- sessions -----------------------------------------------------------------------------------


def test_a_session_counts_its_requests_failures_and_time(pool: KernelPool) -> None:
    begun = time.time()
    results = [pool.execute("import time; time.sleep(0.05)", session_id="s") for _ in range(3)]
    for _ in range(2):
        with pytest.raises(ExecutionError):
            pool.execute("1/0", session_id="s")
    session = pool.sessions["s"]
    assert (session.id, session.requests, session.failures) == ("s", 5, 2)
    assert begun <= session.first_seen <= session.last_activity <= time.time()
    assert 0.15 <= sum(result.timings.ran for result in results) <= session.busy_time
    assert session.busy_time < time.time() - begun
    assert session.last_worker in pids(pool)


def test_looking_changes_nothing(pool: KernelPool) -> None:
    pool.execute("1", session_id="s")
    first = pool.sessions["s"]
    pool.get_stats()
    pool.get_status()
    assert pool.sessions["s"] == first
    pool.pop_stats()
    assert pool.sessions["s"] == first  # sessions are not counters
    assert pool.get_stats().requests == {}


def test_what_pool_sessions_gave_stays_as_it_was(pool: KernelPool) -> None:
    pool.execute("1", session_id="s")
    before = pool.sessions
    pool.execute("1", session_id="s")
    pool.execute("1", session_id="t")
    assert (list(before), before["s"].requests) == (["s"], 1)
    assert (list(pool.sessions), pool.sessions["s"].requests) == (["s", "t"], 2)


@pytest.mark.parametrize(
    ("code", "options", "kind"),
    [
        ("1/0", {}, ExecutionError),
        ("while True: pass", {"timeout": 0.2}, OperationTimeout),
        ("import os; os._exit(1)", {}, WorkerDied),
        ("x = (i for i in [])", {"outputs": ["x"]}, SerializationError),
        ("exit()", {}, ExecutionError),
    ],
    ids=["exception", "timeout", "death", "output", "exit"],
)
def test_each_kind_of_failure_is_counted_as_one(
    pool: KernelPool, code: str, options: dict[str, object], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        pool.execute(code, session_id="s", **options)  # type: ignore[arg-type]
    session = pool.sessions["s"]
    assert (session.requests, session.failures) == (1, 1)
    pool.execute("1", session_id="s", checkout_timeout=DEADLINE)
    session = pool.sessions["s"]
    assert (session.requests, session.failures) == (2, 1)


def test_failures_before_a_worker_ran_anything_are_counted_too(
    pool: KernelPool, tmp_path: Path
) -> None:
    with pool.checkout(), pool.checkout():
        with pytest.raises(CheckoutTimeout):
            pool.execute("1", session_id="s", checkout_timeout=0.05)
        future = pool.submit_code("1", session_id="s")
        assert future.cancel()
        eventually(lambda: pool.sessions["s"].requests == 2)
    session = pool.sessions["s"]
    assert (session.failures, session.busy_time, session.last_worker) == (2, 0.0, None)


def test_a_retried_request_is_one_request(pool: KernelPool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import os\nif not os.path.exists({str(mark)!r}):\n    open({str(mark)!r}, 'w'); os._exit(1)"
    pool.execute(code, session_id="s", retries=1)
    session = pool.sessions["s"]
    assert (session.requests, session.failures) == (1, 0)
    stats = pool.get_stats()
    assert stats.requests == {"ok": 1}
    assert stats.workers_lost == {"exit code 1": 1}


def test_concurrent_requests_of_many_sessions_are_all_counted(pool: KernelPool) -> None:
    def work(session: str) -> None:
        for step in range(10):
            pool.execute("1/0" if step % 5 == 0 else "1", session_id=session, check=False)

    threads = [threading.Thread(target=work, args=(f"s{i % 4}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert {name: (s.requests, s.failures) for name, s in pool.sessions.items()} == {
        f"s{i}": (20, 4) for i in range(4)
    }
    assert pool.get_stats().requests == {"ok": 64, "failed": 16}


def test_a_session_has_no_worker_of_its_own(pool: KernelPool, tmp_path: Path) -> None:
    """A label, no affinity: two of its requests run at once, on two workers."""
    with Gate(tmp_path) as gate:
        watchers = [Watcher(), Watcher()]
        futures = [
            pool.submit_code(gate.code, session_id="s", on_output=watcher) for watcher in watchers
        ]
        for watcher in watchers:
            watcher.wait_for()
        gate.open(2)
        assert {future.result(DEADLINE).worker_id for future in futures} == set(pids(pool))
    assert pool.sessions["s"].requests == 2


def test_anonymous_requests_are_not_tracked(pool: KernelPool) -> None:
    pool.execute("1")
    pool.execute_anonymous("1")
    assert dict(pool.sessions) == {}
    assert pool.get_stats().requests == {"ok": 2}


def test_a_session_is_there_while_its_first_request_runs(pool: KernelPool, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        future = pool.submit_code(gate.code, session_id="s", on_output=watcher)
        watcher.wait_for()
        assert (pool.sessions["s"].requests, pool.sessions["s"].failures) == (0, 0)
        gate.open()
        future.result(DEADLINE)
    assert pool.sessions["s"].requests == 1


def test_a_session_can_be_ended(pool: KernelPool) -> None:
    pool.execute("1", session_id="s")
    assert pool.end_session("s") is True
    assert "s" not in pool.sessions
    assert pool.end_session("s") is False
    pool.execute("1", session_id="s")
    assert pool.sessions["s"].requests == 1


def test_only_so_many_sessions_are_remembered_the_oldest_go() -> None:
    with KernelPool(1, max_sessions=3) as pool:
        for name in "abc":
            pool.execute("1", session_id=name)
        pool.execute("1", session_id="a")
        pool.execute("1", session_id="d")
        assert list(pool.sessions) == ["c", "a", "d"]
        assert pool.sessions["a"].requests == 2


def test_sessions_without_activity_are_forgotten_after_their_time() -> None:
    with KernelPool(1, session_ttl=0.4) as pool:
        begun = time.monotonic()
        pool.execute("1", session_id="old")
        pool.execute("import time; time.sleep(0.25)", session_id="young")
        eventually(lambda: "old" not in pool.sessions)
        assert time.monotonic() - begun >= 0.4


# --- statistics ---------------------------------------------------------------------------------


def test_every_outcome_is_counted_by_its_name(pool: KernelPool) -> None:
    pool.execute("1")
    pool.execute("1/0", check=False)
    pool.execute("while True: pass", timeout=0.2, check=False)
    pool.execute("import os; os._exit(3)", check=False)
    with pool.checkout(), pool.checkout():
        pool.execute("1", checkout_timeout=0, check=False)
        future = pool.submit_code("1")
        future.cancel()
        eventually(lambda: "cancelled" in pool.get_stats().requests)
    stats = pool.get_stats()
    assert stats.requests == {
        "ok": 1,
        "failed": 1,
        "operation_timeout": 1,
        "worker_died": 1,
        "checkout_timeout": 1,
        "cancelled": 1,
    }
    assert stats.workers_lost == {"exit code 3": 1}


def test_durations_of_waiting_and_running_are_summed_up(pool: KernelPool, tmp_path: Path) -> None:
    results = [pool.execute(f"import time; time.sleep({t})") for t in (0.01, 0.02, 0.2)]
    stats = pool.get_stats()
    ran = sorted(result.timings.ran for result in results)
    assert (stats.runs.count, stats.waits.count) == (3, 3)
    assert stats.runs.max == pytest.approx(ran[2], abs=0.01)
    assert stats.runs.p50 == pytest.approx(ran[1], abs=0.01)
    assert stats.runs.mean == pytest.approx(sum(ran) / 3, abs=0.01)
    assert stats.runs.max >= 0.2


def test_the_queue_and_its_high_water_mark(pool: KernelPool, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        watchers = [Watcher(), Watcher()]
        futures = [pool.submit_code(gate.code, on_output=watcher) for watcher in watchers]
        for watcher in watchers:
            watcher.wait_for()
        futures += [pool.submit_code("1") for _ in range(3)]
        stats = pool.get_stats()
        assert (stats.queued, stats.workers) == (3, {"busy": 2})
        assert stats.queue_high_water >= 3
        assert pool.get_status().queue_length == 3
        gate.open(2)
        for future in futures:
            future.result(DEADLINE)
    eventually(lambda: pool.get_stats().workers == {"idle": 2})
    assert pool.get_stats().queued == 0


def test_pop_stats_gives_the_counters_and_begins_anew(pool: KernelPool) -> None:
    pool.execute("1")
    before = pool.get_stats()
    popped = pool.pop_stats()
    assert popped.requests == before.requests == {"ok": 1}
    after = pool.get_stats()
    assert (after.requests, after.runs.count, after.workers_started) == ({}, 0, 0)
    assert after.uptime >= popped.uptime  # a gauge
    assert after.workers == {"idle": 2}


def test_workers_are_counted_by_how_they_came_and_went() -> None:
    with KernelPool(1, interrupt_grace=0.2, max_tasks=2) as pool:
        pool.start(wait=True, timeout=DEADLINE)
        assert pool.get_stats().workers_started == 1
        pool.execute("1")
        pool.execute("1")  # the second: replaced after it
        pool.execute("import os; os.kill(os.getpid(), 9)", check=False)
        code = "import itertools; sum(itertools.repeat(1))"
        pool.execute(code, timeout=THERE_BY_THEN, check=False)
        eventually(lambda: states(pool) == ["idle"])
        (worker,) = pool.get_status().workers
        pool.restart_worker(worker.id)
        eventually(lambda: pool.get_stats().workers_started == 5)
        stats = pool.get_stats()
        assert stats.workers_recycled == {"max_tasks": 1}
        assert stats.workers_lost == {"SIGKILL": 1}
        assert stats.workers_killed == {"timed_out": 1, "restarted": 1}


def test_saturation_is_counted() -> None:
    with KernelPool(1, max_waiting=1) as pool, pool.checkout():
        waiting = pool.submit_code("1")
        with pytest.raises(PoolSaturated):
            pool.execute("1", session_id="s")
        assert pool.get_stats().requests == {"saturated": 1}
        assert (pool.sessions["s"].requests, pool.sessions["s"].failures) == (1, 1)
        waiting.cancel()


def test_statistics_show_themselves(pool: KernelPool) -> None:
    pool.execute("1", session_id="s")
    for report in (pool.get_stats(), pool.get_status(), pool.sessions["s"], pool.health_check()):
        assert repr(report)
        assert report._repr_html_().startswith("<div>")
    assert "ok: 1" in repr(pool.get_stats())
    assert f"Pool {pool.name}: running" in repr(pool.get_status())


# --- status -------------------------------------------------------------------------------------


def test_the_status_of_a_pool_from_new_to_closed() -> None:
    pool = KernelPool(1, name="life", overflow=2)
    status = pool.get_status()
    assert (status.name, status.state, status.workers) == ("life", "new", ())
    assert (status.config["size"], status.config["overflow"]) == (1, 2)
    assert status.config["isolation"] == "namespace"
    assert pool.get_stats().uptime == 0
    with pool:
        (worker,) = pool.get_status().workers
        assert worker.state in {"starting", "idle"}
        pool.start(wait=True, timeout=DEADLINE)
        assert pool.get_status().state == "running"
        assert pool.get_stats().uptime > 0
        pool.execute("1", session_id="s")
    status = pool.get_status()
    assert (status.state, status.workers) == ("closed", ())
    # What it counted can still be read.
    assert pool.get_stats().requests == {"ok": 1}
    assert pool.sessions["s"].requests == 1


def test_the_status_shows_what_each_worker_does_and_for_whom(
    pool: KernelPool, tmp_path: Path
) -> None:
    begun = time.time()
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        future = pool.submit_code(gate.code, session_id="s", on_output=watcher)
        watcher.wait_for()
        busy, idle = sorted(pool.get_status().workers, key=lambda worker: worker.state)
        assert (busy.state, idle.state) == ("busy", "idle")
        assert busy.request_id == future.request_id  # type: ignore[attr-defined]
        assert busy.session_id == "s"
        assert (idle.request_id, idle.session_id) == (None, None)
        assert busy.since is not None
        assert busy.started_at is not None
        assert begun - 0.01 <= busy.since <= time.time()
        assert busy.started_at < begun
        served = busy.served
        gate.open()
        future.result(DEADLINE)
    eventually(lambda: states(pool) == ["idle", "idle"])
    (now,) = [worker for worker in pool.get_status().workers if worker.id == busy.id]
    assert now.served == served + 1


def test_the_process_ids_are_those_of_the_workers(pool: KernelPool) -> None:
    seen = {int(value(pool.execute("import os; os.getpid()"))) for _ in range(3)}
    assert seen <= set(pids(pool).values())
    assert all(os.getpgid(worker_pid or 0) == worker_pid for worker_pid in pids(pool).values())


def test_the_status_follows_a_resize_and_a_drain() -> None:
    with KernelPool(1) as pool:
        pool.start(wait=True, timeout=DEADLINE)
        pool.resize(size=2)
        pool.start(wait=True, timeout=DEADLINE)
        assert states(pool) == ["idle", "idle"]
        assert pool.get_status().config["size"] == 2
        before = set(pids(pool))
        pool.drain()
        eventually(lambda: not before & set(pids(pool)) and states(pool) == ["idle", "idle"])
        pool.resize(size=1)
        eventually(lambda: states(pool) == ["idle"])
        assert pool.get_stats().workers_recycled == {"drained": 2}


# --- health -------------------------------------------------------------------------------------


def test_a_pool_whose_workers_answer_is_healthy_also_when_they_are_busy(
    pool: KernelPool, tmp_path: Path
) -> None:
    report = pool.health_check()
    assert (report.status, report.reasons) == ("healthy", ())
    assert {verdict.worker_id for verdict in report.workers} == set(pids(pool))
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        future = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        assert pool.health_check().status == "healthy"
        gate.open()
        future.result(DEADLINE)


def test_a_worker_that_does_not_answer_is_found_and_named(pool: KernelPool) -> None:
    worker_id, worker_pid = next(iter(pids(pool).items()))
    assert worker_pid is not None
    os.kill(worker_pid, signal.SIGSTOP)
    try:
        report = pool.health_check()
    finally:
        os.kill(worker_pid, signal.SIGCONT)
    assert report.status == "degraded"
    assert any(f"worker {worker_id}" in reason for reason in report.reasons)
    verdicts = {verdict.worker_id: verdict.status for verdict in report.workers}
    assert verdicts.pop(worker_id) == "unhealthy"
    assert set(verdicts.values()) == {"healthy"}
    assert pool.health_check().status == "healthy"


# --- memory -------------------------------------------------------------------------------------


def test_the_memory_of_each_worker_is_in_status_and_stats(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        worker.execute("kept = bytearray(100_000_000); kept[::4096] = bytes([1]) * 24415")
        sizes = {info.id: info.memory or 0 for info in pool.get_status().workers}
        stats = pool.get_stats().memory
        (other,) = set(sizes) - {worker.worker_id}
        assert set(stats) == set(sizes)
        for memory in (sizes, stats):
            assert memory[worker.worker_id or 0] > 100_000_000
            assert 10_000_000 < memory[other] < 100_000_000
