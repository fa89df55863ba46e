"""The origin system's suite: the promises of a pool that everything else stands on."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import (
    CheckoutTimeout,
    ExecutionError,
    ExecutionResult,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    PoolError,
    PoolNotAvailable,
    SerializationError,
    WorkerDied,
    get_pool,
    list_pools,
)
from jupyter_pool.config import default_size
from jupyter_pool.provisioning.processes import is_running
from jupyter_pool.telemetry import PoolEvent
from support.cells import DEADLINE, Gate, Watcher, pid, pids, states, value
from support.conditions import eventually, gone
from support.kernelspecs import kernelspec, python

pytestmark = pytest.mark.core_pool

NAME = "core"
GETPID = "import os; os.getpid()"


@pytest.fixture(scope="module")
def shared() -> Iterator[KernelPool]:
    # As long as interrupted code takes to end on a busy machine; nothing may be killed here.
    with KernelPool(size=3, name=NAME, interrupt_grace=DEADLINE) as pool:
        yield pool
        pool.close(timeout=5)  # a failed test may have left something running


@pytest.fixture
def pool(shared: KernelPool) -> KernelPool:
    """Three workers, ready and idle; no sessions, counters at zero."""
    shared.start(wait=True, timeout=DEADLINE)
    eventually(lambda: states(shared) == ["idle"] * 3, "three workers are idle")
    for session in list(shared.sessions):
        shared.end_session(session)
    shared.pop_stats()
    return shared


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path) as gate:
        yield gate


def occupy(pool: KernelPool, gate: Gate, **options: Any) -> Future[ExecutionResult]:
    """Have a cell run that waits at the gate; its value is its worker's process id."""
    watcher = Watcher()
    future = pool.submit_code(gate.code + GETPID, on_output=watcher, **options)
    watcher.wait_for("waiting")
    return future


def pid_of(future: Future[ExecutionResult]) -> int:
    return int(value(future.result(timeout=DEADLINE)))


def error_of(kind: type[PoolError], call: Callable[..., object], *args: Any, **options: Any) -> Any:
    """The error of exactly this class that the call raises."""
    with pytest.raises(kind) as caught:
        call(*args, **options)
    assert type(caught.value) is kind
    return caught.value


# --- starting, sizes, names ---------------------------------------------------------------------


def test_a_pool_that_is_told_nothing_starts_a_worker_for_each_cpu() -> None:
    with KernelPool() as pool:
        pool.start(wait=True, timeout=DEADLINE)
        status = pool.get_status()
        assert 1 <= default_size() <= min(8, os.cpu_count() or 8)
        assert [worker.state for worker in status.workers] == ["idle"] * default_size()
        assert (status.state, status.config["overflow"]) == ("running", 0)
        assert len({worker.pid for worker in status.workers}) == default_size()
        assert pid(pool) in pids(pool).values()
        assert pid(pool) != os.getpid()


def test_size_and_overflow_are_how_many_can_be_had_at_a_time() -> None:
    with KernelPool(size=1, overflow=1) as pool:
        pool.start(wait=True, timeout=DEADLINE)
        assert states(pool) == ["idle"]
        with pool.checkout() as one, pool.checkout(checkout_timeout=DEADLINE) as two:
            assert one.worker_id != two.worker_id
            status = pool.get_status()
            assert [worker.overflow for worker in status.workers] == [False, True]
            assert (status.overflow_in_use, status.config["size"]) == (1, 1)
            with pytest.raises(CheckoutTimeout):
                pool.execute("1", checkout_timeout=0.1)
            assert len(pids(pool)) == 2


def test_a_pool_is_found_by_its_name_which_is_its_own_until_it_closes() -> None:
    named, other, third = KernelPool(1, name="mine"), KernelPool(1), KernelPool(1)
    try:
        assert get_pool("mine") is named
        assert get_pool(other.name) is other
        assert other.name.startswith("pool-")
        assert other.name != third.name
        assert {"mine", other.name, third.name} <= set(list_pools())
        assert named.get_status().name == named.get_stats().name == "mine"
        with pytest.raises(InvalidRequest, match="'mine' exists already"):
            KernelPool(1, name="mine")
        named.close()
        assert "mine" not in list_pools()
        again = KernelPool(1, name="mine")
        assert get_pool("mine") is again
        again.close()
    finally:
        for pool in (named, other, third):
            pool.close()


# --- in a session -------------------------------------------------------------------------------


def test_a_session_executes_and_gets_its_values_and_outputs(pool: KernelPool) -> None:
    result = pool.execute_in_session(
        "ada", "print('seen')\ny = x + 1\ny * 2", inputs={"x": 20}, outputs=["y"]
    )
    assert (result.status, result.error, result.session_id) == ("ok", None, "ada")
    assert (result.outputs["y"], value(result), result.stdout) == (21, "42", "seen\n")
    assert result.worker_id in pids(pool)


def test_a_session_that_gets_no_worker_in_time_is_told_which_pool_and_session(
    pool: KernelPool, gate: Gate, tmp_path: Path
) -> None:
    at_work = occupy(pool, gate)
    with pool.checkout(), pool.checkout():
        waiting = pool.submit_code("'patient'")
        began = time.monotonic()
        error = error_of(
            CheckoutTimeout,
            pool.execute_in_session,
            "ada",
            f"open({str(tmp_path / 'ran')!r}, 'w')",
            checkout_timeout=0.2,
        )
        assert 0.2 <= time.monotonic() - began < 0.2 + 5
    assert (error.context["pool"], error.context["session_id"]) == (NAME, "ada")
    assert (error.context["worker_id"], error.context["queued"]) == (None, 1)
    # Nobody could have had a worker that is held by a lease, either.
    assert error.context["busy"] == 3
    assert error.context["waited"] >= 0.2
    assert "0.2 s" in error.message
    assert isinstance(error, TimeoutError)
    gate.open()
    at_work.result(timeout=DEADLINE)
    assert value(waiting.result(timeout=DEADLINE)) == "'patient'"
    assert value(pool.execute_in_session("ada", "1 + 1")) == "2"
    assert not (tmp_path / "ran").exists()


def test_a_pool_that_is_not_there_is_answered_with_those_that_are(pool: KernelPool) -> None:
    other = KernelPool(1, name="another")
    try:
        error = error_of(PoolNotAvailable, get_pool, "corr")
        assert error.context == {"pool": "corr", "pools": list_pools()}
        assert {NAME, "another"} <= set(error.context["pools"])
        for name in list_pools():
            assert repr(name) in error.message
        assert f"Did you mean {NAME!r}?" in error.message
    finally:
        other.close()
    assert get_pool(NAME) is pool


def test_the_session_id_goes_along_to_the_worker_the_result_and_the_error(
    pool: KernelPool, gate: Gate
) -> None:
    at_work = occupy(pool, gate, session_id="ada")
    shown = [w.session_id for w in pool.get_status().workers if w.state == "busy"]
    assert shown == ["ada"]
    gate.open()
    assert at_work.result(timeout=DEADLINE).session_id == "ada"
    assert pool.options(session_id="bob").execute("1").session_id == "bob"
    error = error_of(ExecutionError, pool.execute_in_session, "eve", "1/0")
    assert (error.context["session_id"], error.result.session_id) == ("eve", "eve")
    failed = pool.execute_in_session("eve", "1/0", check=False)
    assert failed.error is not None
    assert (failed.session_id, failed.error.context["session_id"]) == ("eve", "eve")


# --- anonymously --------------------------------------------------------------------------------


def test_without_a_session_code_executes_as_well(pool: KernelPool) -> None:
    result = pool.execute_anonymous("y = x + 1\ny * 2", inputs={"x": 20}, outputs=["y"])
    assert (result.status, result.session_id) == ("ok", None)
    assert (result.outputs["y"], value(result)) == (21, "42")
    error = error_of(ExecutionError, pool.execute_anonymous, "1/0")
    assert (error.ename, error.context["session_id"]) == ("ZeroDivisionError", None)


def test_without_a_session_the_same_timeouts_hold(pool: KernelPool) -> None:
    with pool.checkout(), pool.checkout():
        before = pid(pool)
        began = time.monotonic()
        error = error_of(
            OperationTimeout, pool.execute_anonymous, "print('x')\nwhile True: pass", timeout=2
        )
        assert time.monotonic() - began >= 2
        assert (error.line, error.result.stdout) == (2, "x\n")
        assert (error.context["pool"], error.context["session_id"]) == (NAME, None)
        assert pid(pool) == before  # interrupted, and kept
        with pool.checkout():
            error = error_of(CheckoutTimeout, pool.execute_anonymous, "1", checkout_timeout=0.1)
        assert (error.context["pool"], error.context["session_id"]) == (NAME, None)
        assert value(pool.execute_anonymous("1 + 1")) == "2"


def test_without_a_session_a_pool_that_is_gone_refuses(tmp_path: Path) -> None:
    gone_pool = KernelPool(1, name="gone")
    gone_pool.close()
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    error = error_of(PoolNotAvailable, gone_pool.execute_anonymous, code)
    assert (error.category, error.type) == ("resource_error", "pool_not_available")
    assert error.context["pool"] == "gone"
    assert "closed" in error.message
    with pytest.raises(PoolNotAvailable, match="no pool is named 'gone'"):
        get_pool("gone")
    assert gone_pool.get_stats().workers_started == 0
    assert not (tmp_path / "ran").exists()


def test_without_a_session_nothing_is_tracked_but_it_is_counted(pool: KernelPool) -> None:
    pool.execute_anonymous("1")
    pool.execute("1")
    pool.options(session_id="ada").execute_anonymous("1")
    pool.execute_anonymous("1/0", check=False)
    assert dict(pool.sessions) == {}
    assert pool.get_stats().requests == {"ok": 3, "failed": 1}


# --- sessions are tracked -----------------------------------------------------------------------


def test_a_session_is_tracked_from_its_first_request_on(pool: KernelPool, gate: Gate) -> None:
    assert "ada" not in pool.sessions
    begun = time.time()
    future = occupy(pool, gate, session_id="ada")
    seen = pool.sessions["ada"]
    assert (seen.id, seen.requests, seen.failures, seen.busy_time) == ("ada", 0, 0, 0.0)
    assert begun <= seen.first_seen <= seen.last_activity <= time.time()
    gate.open()
    result = future.result(timeout=DEADLINE)
    ended = pool.sessions["ada"]
    assert (ended.requests, ended.failures, ended.last_worker) == (1, 0, result.worker_id)
    assert ended.busy_time >= result.timings.ran > 0


def test_each_request_updates_its_session_and_no_other(pool: KernelPool) -> None:
    pool.execute_in_session("bob", "1")
    pool.execute_in_session("ada", "1")
    bob, first = pool.sessions["bob"], pool.sessions["ada"]
    pool.execute_in_session("ada", "1/0", check=False)
    second = pool.sessions["ada"]
    assert (first.requests, first.failures) == (1, 0)  # what was looked at stays as it was
    assert (second.requests, second.failures) == (2, 1)
    assert second.first_seen == first.first_seen
    assert second.last_activity > first.last_activity
    assert second.busy_time > first.busy_time
    assert pool.sessions["ada"] == second  # looking is no activity
    assert pool.sessions["bob"] == bob


def test_an_ended_session_is_forgotten_and_begins_anew_when_it_comes_again(
    pool: KernelPool,
) -> None:
    for session in ("ada", "ada", "bob"):
        pool.execute_in_session(session, "1")
    first = pool.sessions["ada"]
    assert pool.end_session("ada") is True
    assert list(pool.sessions) == ["bob"]
    assert pool.end_session("ada") is False
    pool.execute_in_session("ada", "1")
    again = pool.sessions["ada"]
    assert (again.requests, again.first_seen > first.last_activity) == (1, True)
    assert pool.sessions["bob"].requests == 1


def test_the_list_of_sessions_has_all_of_this_pool_and_of_no_other(pool: KernelPool) -> None:
    for session in ("ada", "bob", "eve", "ada"):
        pool.execute_in_session(session, "1")
    assert {s.id: s.requests for s in pool.sessions.values()} == {"ada": 2, "bob": 1, "eve": 1}
    assert all(name == session.id for name, session in pool.sessions.items())
    with KernelPool(1) as other:
        assert dict(other.sessions) == {}
        other.execute_in_session("ada", "1")
        assert {s.id: s.requests for s in other.sessions.values()} == {"ada": 1}
    assert pool.sessions["ada"].requests == 2


# --- status and health --------------------------------------------------------------------------


def test_the_status_is_the_configuration_and_what_every_worker_does(
    pool: KernelPool, gate: Gate
) -> None:
    future = occupy(pool, gate, session_id="ada")
    with pool.checkout(), pool.checkout():
        waiting = pool.submit_code("1")
        status = pool.get_status()
    assert (status.name, status.state, status.reason) == (NAME, "running", None)
    assert (status.config["size"], status.config["overflow"]) == (3, 0)
    assert (status.queue_length, status.overflow_in_use) == (1, 0)
    assert sorted(w.state for w in status.workers) == ["busy", "leased", "leased"]
    (busy,) = [w for w in status.workers if w.state == "busy"]
    assert (busy.request_id, busy.session_id) == (future.request_id, "ada")  # type: ignore[attr-defined]
    gate.open()
    assert pid_of(future) == busy.pid
    waiting.result(timeout=DEADLINE)
    eventually(lambda: states(pool) == ["idle"] * 3)
    later = pool.get_status()
    assert [w.id for w in later.workers] == [w.id for w in status.workers]
    assert all(w.pid is not None and is_running(w.pid) for w in later.workers)
    assert {(w.request_id, w.session_id) for w in later.workers} == {(None, None)}
    # The waiting request ran on whichever worker was free first.
    served = {w.id: w.served for w in later.workers}
    assert sum(served.values()) == sum(w.served for w in status.workers) + 2
    assert served[busy.id] > busy.served


def test_health_is_good_where_every_worker_answers_and_bad_where_none_can_start(
    pool: KernelPool, gate: Gate
) -> None:
    at_work = occupy(pool, gate)
    report = pool.health_check()
    assert (report.status, report.reasons) == ("healthy", ())
    assert {v.worker_id: v.status for v in report.workers} == dict.fromkeys(pids(pool), "healthy")
    gate.open()
    at_work.result(timeout=DEADLINE)
    with (
        kernelspec("broken", python("raise SystemExit('no licence')")) as name,
        KernelPool(size=1, kernel_name=name, isolation="none") as broken,
    ):
        eventually(lambda: broken.get_status().state == "degraded")
        report = broken.health_check()
    assert report.status == "unhealthy"
    cause, breaker = report.reasons
    assert "no licence" in cause
    assert breaker.startswith("the breaker is ")


# --- any worker ---------------------------------------------------------------------------------


def test_any_worker_serves_any_session(pool: KernelPool) -> None:
    known = pids(pool)
    sessions = ("ada", "bob", "eve")
    with ExitStack() as stack:
        held: dict[int | None, ExitStack] = {}
        for _ in known:
            hold = stack.enter_context(ExitStack())
            held[hold.enter_context(pool.checkout()).worker_id] = hold
        assert set(held) == set(known)
        for worker_id, hold in held.items():
            hold.close()  # now this worker is the only free one
            for session in sessions:
                result = pool.execute_in_session(session, GETPID, checkout_timeout=DEADLINE)
                assert (result.worker_id, int(value(result))) == (worker_id, known[worker_id or 0])
                assert pool.sessions[session].last_worker == worker_id
            assert hold.enter_context(pool.checkout()).worker_id == worker_id
    assert {s.requests for s in pool.sessions.values()} == {3}
    assert pids(pool) == known


def test_a_session_neither_keeps_a_worker_nor_leaves_anything_on_it(
    pool: KernelPool, gate: Gate
) -> None:
    with pool.checkout(), pool.checkout():  # one worker is left
        ran_on = int(value(pool.execute_in_session("ada", f"mine = 1\n{GETPID}")))
        look = "import os; (os.getpid(), 'mine' in globals())"
        for session in ("bob", "ada"):
            result = pool.execute_in_session(session, look, checkout_timeout=DEADLINE)
            assert value(result) == f"({ran_on}, False)"
    # Its requests need not wait for the worker that had the last: all run at once.
    at_work = [occupy(pool, gate, session_id="ada") for _ in range(3)]
    gate.open(3)
    assert {pid_of(future) for future in at_work} == set(pids(pool).values())


def test_operations_are_counted_exactly_on_success_and_on_failure(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError):
        pool.execute_in_session("ada", "1/0")
    with pytest.raises(OperationTimeout):
        pool.execute_in_session("ada", "while True: pass", timeout=0.2)
    futures = [
        pool.submit_code(
            "1/0" if n % 3 == 0 else "1", session_id="ada" if n % 2 else None, check=False
        )
        for n in range(18)
    ]
    results = [future.result(timeout=DEADLINE) for future in futures]
    assert [result.status for result in results] == ["error", "ok", "ok"] * 6
    for _ in range(2):  # asking is not counted
        stats = pool.get_stats()
        assert stats.requests == {"ok": 12, "failed": 7, "operation_timeout": 1}
        assert stats.runs.count == 20
        ada = pool.sessions["ada"]
        # Nine of the submitted are hers, three of them fail.
        assert (ada.requests, ada.failures) == (2 + 9, 2 + 3)
        pool.health_check()
    assert list(pool.sessions) == ["ada"]


# --- errors -------------------------------------------------------------------------------------


def test_an_error_has_four_parts_a_category_a_type_a_message_and_a_context(
    pool: KernelPool,
) -> None:
    ada = pool.options(session_id="ada")
    whose = {"pool": NAME, "session_id": "ada"}
    with pool.checkout(), pool.checkout(), pool.checkout():
        starved = error_of(CheckoutTimeout, ada.execute, "1", checkout_timeout=0.1)
    raised = error_of(ExecutionError, ada.execute, "{}['key']")
    too_long = error_of(OperationTimeout, ada.execute, "while True: pass", timeout=0.2)
    crashed = error_of(WorkerDied, ada.execute, "import os; os._exit(3)")
    sent = error_of(SerializationError, ada.execute, "1", inputs={"lock": threading.Lock()})
    unset = error_of(InvalidRequest, ada.execute, "1", outputs=["y"])
    missing = error_of(PoolNotAvailable, get_pool, "nowhere")
    expected = [
        (starved, "timeout_error", "checkout_timeout", "no worker became free", whose),
        (raised, "execution_error", "user_exception", "KeyError: 'key'", whose),
        (too_long, "timeout_error", "operation_timeout", "stopped after 0.2 s", whose),
        (crashed, "communication_error", "worker_died", "ended with exit code 3", whose),
        (sent, "input_error", "serialization_failed", "'lock' cannot", {"variable": "lock"}),
        (unset, "input_error", "invalid_request", "never set the output 'y'", whose),
        (missing, "resource_error", "pool_not_available", "named 'nowhere'", {"pool": "nowhere"}),
    ]
    for error, category, kind, words, facts in expected:
        assert (error.category, error.type) == (category, kind)
        assert words in error.message.splitlines()[0]
        assert facts.items() <= error.context.items()
        assert str(error) == error.message
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert (copy.message, copy.context) == (error.message, error.context)


def test_the_context_of_an_error_says_where_for_whom_and_how_long(pool: KernelPool) -> None:
    known = pids(pool)
    future = pool.submit_code("import time; time.sleep(0.05); 1/0", session_id="ada")
    error = future.exception(timeout=DEADLINE)
    assert isinstance(error, ExecutionError)
    context = error.context
    assert (context["pool"], context["session_id"]) == (NAME, "ada")
    assert context["request_id"] == future.request_id  # type: ignore[attr-defined]
    assert context["worker_id"] in known
    assert context["ran"] >= 0.05
    assert context["waited"] >= 0
    died = error_of(WorkerDied, pool.execute_in_session, "ada", "import os; os._exit(3)")
    assert died.context["worker_id"] in known
    assert died.context["worker_id"] not in pids(pool)
    assert died.context["request_id"] != context["request_id"]
    # Also where the request never came as far as the queue.
    for kind, options in (
        (SerializationError, {"inputs": {"lock": threading.Lock()}}),
        (InvalidRequest, {"timeout": -1}),
    ):
        refused = error_of(kind, pool.execute_in_session, "ada", "1", **options)
        assert (refused.context.get("pool"), refused.context.get("session_id")) == (NAME, "ada")


# --- at once ------------------------------------------------------------------------------------


def test_three_sessions_run_at_once_each_on_its_own_worker(pool: KernelPool, gate: Gate) -> None:
    sessions = ("ada", "bob", "eve")
    at_work = {
        session: occupy(pool, gate, session_id=session, inputs={"me": session}, outputs=["me"])
        for session in sessions
    }
    assert sorted(str(w.session_id) for w in pool.get_status().workers) == list(sessions)
    assert states(pool) == ["busy"] * 3
    gate.open(3)
    assert {pid_of(future) for future in at_work.values()} == set(pids(pool).values())
    for session, future in at_work.items():
        result = future.result(timeout=0)
        assert (result.session_id, result.outputs["me"]) == (session, session)
        assert (pool.sessions[session].requests, pool.sessions[session].failures) == (1, 0)


def test_sessions_and_anonymous_requests_mix_and_nobody_gets_anothers_answer(
    pool: KernelPool,
) -> None:
    everyone = ["ada", None, "bob", None, "eve", None]
    together = threading.Barrier(len(everyone))

    def work(number: int) -> None:
        together.wait(timeout=DEADLINE)
        for step in range(8):
            mine = f"{number}.{step}"
            code = "seen = globals().get('kept')\nkept = me\nif fail: raise ValueError(me)"
            fail = step % 4 == 0
            result = pool.execute(
                code,
                inputs={"me": mine, "fail": fail},
                outputs=() if fail else ["kept", "seen"],
                session_id=everyone[number],
                check=False,
            )
            assert result.session_id == everyone[number]
            if fail:
                assert isinstance(result.error, ExecutionError)
                assert result.error.evalue == mine
            else:
                assert dict(result.outputs) == {"kept": mine, "seen": None}

    with ThreadPoolExecutor(len(everyone)) as threads:
        for done in [threads.submit(work, number) for number in range(len(everyone))]:
            done.result(timeout=DEADLINE)
    counted = {name: (s.requests, s.failures) for name, s in pool.sessions.items()}
    assert counted == dict.fromkeys(("ada", "bob", "eve"), (8, 2))
    assert pool.get_stats().requests == {"ok": 36, "failed": 12}


# --- the end ------------------------------------------------------------------------------------


def test_a_stopped_pool_has_finished_its_work_and_its_workers_and_takes_no_more() -> None:
    pool = KernelPool(size=1, name="stopped").start(wait=True, timeout=DEADLINE)
    known = [worker_pid for worker_pid in pids(pool).values() if worker_pid is not None]
    futures = [pool.submit_code(f"{n} * 10", session_id="ada") for n in range(3)]
    pool.close()
    assert len(known) == 1
    assert gone(known)()
    assert [value(future.result(timeout=0)) for future in futures] == ["0", "10", "20"]
    assert (pool.get_status().state, pool.get_status().workers) == ("closed", ())
    assert pool.sessions["ada"].requests == 3
    error = error_of(PoolNotAvailable, pool.execute_in_session, "ada", "1")
    assert error.context["pool"] == "stopped"
    assert "stopped" not in list_pools()
    pool.close()  # again: nothing to do


def test_a_stale_session_is_forgotten_but_not_one_whose_request_still_runs(gate: Gate) -> None:
    told: list[PoolEvent] = []
    # None but one that is at work can be looked at in time for sure: what becomes of it is told.
    kinds = ["session_started", "request_started", "session_expired"]
    with KernelPool(size=2, session_ttl=1) as pool, pool.subscribe(told.append, kinds):
        at_work = [occupy(pool, gate, session_id="busy")]
        for _ in range(3):
            pool.execute_in_session("busy", "1")
        for _ in range(2):
            pool.execute_in_session("stale", "1")
            eventually(lambda: "stale" not in pool.sessions)
        # At work since before the other was last seen.
        assert pool.sessions["busy"].requests == 3
        at_work.append(occupy(pool, gate, session_id="busy"))
        gate.open()
        eventually(lambda: any(future.done() for future in at_work))
        assert pool.sessions["busy"].requests == 4
        gate.open()
    stale = [event for event in told if event.session_id == "stale"]
    assert [event.type for event in stale] == kinds * 2  # it begins anew when it comes again
    for _, seen, expired in (stale[:3], stale[3:]):
        assert expired.time - seen.time >= 1
    assert [e.type for e in told if e.session_id == "busy"].count("session_started") == 1
