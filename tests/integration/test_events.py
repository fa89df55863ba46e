"""What a pool of real kernels tells of itself: each type of event, where it is due, and no other."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool import (
    AsyncKernelPool,
    CheckoutTimeout,
    ExecutionError,
    KernelPool,
    OperationTimeout,
    PoolSaturated,
    WorkerDied,
)
from jupyter_pool.alerts import Alert
from jupyter_pool.telemetry import EVENT_TYPES, PoolEvent
from support.cells import Watcher, pid, states
from support.conditions import eventually
from support.traces import check_trace, slices


class Log:
    """Events as they come."""

    def __init__(self, pool: KernelPool, types: list[str] | None = None) -> None:
        self.events: list[PoolEvent] = []
        self.subscription = pool.subscribe(self.events.append, types)

    def of(self, request_id: str) -> list[PoolEvent]:
        """What has been told of one request."""
        self.subscription.flush()
        return [event for event in self.events if event.request_id == request_id]

    def all(self, event_type: str) -> list[PoolEvent]:
        """Those of one type."""
        self.subscription.flush()
        return [event for event in self.events if event.type == event_type]

    def types(self, *beginnings: str) -> list[str]:
        self.subscription.flush()
        return [e.type for e in self.events if e.type.startswith(beginnings or ("",))]

    def last(self, event_type: str) -> PoolEvent:
        def find() -> PoolEvent | None:
            return next((e for e in reversed(self.events) if e.type == event_type), None)

        return eventually(find, event_type)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(1, name="telling", interrupt_grace=2) as pool:
        yield pool


@pytest.fixture
def log(pool: KernelPool) -> Iterator[Log]:
    log = Log(pool)
    with log.subscription:
        yield log


def types(events: list[PoolEvent]) -> list[str]:
    return [event.type for event in events]


def test_a_pools_whole_life_is_told_from_before_its_start() -> None:
    pool = KernelPool(1, name="whole")
    log = Log(pool)
    began = time.time()
    with pool:
        result = pool.execute("1", session_id="ada")
    ended = time.time()
    told = log.types()
    # The worker may be ready before the request comes, or after it.
    assert [event_type for event_type in told if event_type != "worker_ready"] == [
        "worker_starting",
        "request_queued",
        "session_started",
        "request_started",
        "request_finished",
        "worker_stopped",
        "pool_closed",
    ]
    assert told.count("worker_ready") == 1
    assert 0 < told.index("worker_ready") < told.index("request_started")
    assert {event.pool for event in log.events} == {"whole"}
    assert all(began <= event.time <= ended for event in log.events)
    times = [event.time for event in log.events]
    assert times == sorted(times)
    ready = log.last("worker_ready")
    assert ready.worker_id == result.worker_id
    assert 0 < (ready.duration or 0) < ended - began
    assert log.last("session_started").session_id == "ada"
    assert log.last("worker_stopped").data == {"cause": "closed"}


def test_a_request_says_how_long_it_waited_and_ran(pool: KernelPool, log: Log) -> None:
    result = pool.execute("import time; time.sleep(0.05)", session_id="s")
    queued, started, finished = log.of(result.request_id)
    assert types([queued, started, finished]) == [
        "request_queued",
        "request_started",
        "request_finished",
    ]
    assert {e.session_id for e in (queued, started, finished)} == {"s"}
    assert {e.kind for e in (queued, started, finished)} == {"cell"}
    assert (queued.worker_id, started.worker_id) == (None, result.worker_id)
    assert started.waited == finished.waited == result.timings.waited
    assert finished.ran == result.timings.ran
    timeline = finished.data["timeline"]
    assert timeline["reply"] == result.timeline.reply
    assert timeline["memory_delta"] == result.timeline.memory_delta


def test_the_end_has_been_told_when_the_caller_has_its_result(pool: KernelPool) -> None:
    for _ in range(20):
        log = Log(pool)
        pool.execute("1")
        log.subscription.close()
        assert log.events[-1].type == "request_finished"


def test_calls_and_leases_have_kinds_of_their_own(pool: KernelPool, log: Log) -> None:
    pool.submit(pow, 2, 3).result()
    with pool.checkout() as worker:
        inside = worker.execute("1")
    eventually(lambda: log.types("request_").count("request_finished") == 3)
    kinds = [event.kind for event in log.all("request_finished")]
    assert kinds == ["call", "cell", "lease"]
    lease = next(e for e in log.events if e.type == "request_queued" and e.kind == "lease")
    assert log.of(inside.request_id)[0].data == {"lease": lease.request_id}


def test_code_and_calls_that_raise_have_failed(pool: KernelPool, log: Log) -> None:
    with pytest.raises(ExecutionError):
        pool.execute("1/0")
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()
    pool.execute("1", outputs=["y"], check=False)
    failed = log.all("request_failed")
    assert [(e.kind, e.data["error"], e.data.get("exception")) for e in failed] == [
        ("cell", "user_exception", "ZeroDivisionError"),
        ("call", "user_exception", "ZeroDivisionError"),
        ("cell", "invalid_request", None),
    ]


def test_timeouts_say_which_one(pool: KernelPool, log: Log) -> None:
    with pytest.raises(OperationTimeout):
        pool.execute("import time; time.sleep(60)", timeout=0.1)
    with pool.checkout(), pytest.raises(CheckoutTimeout):
        pool.execute("1", checkout_timeout=0)
    ends = log.all("request_timed_out")
    assert [(e.data["error"], e.ran is None) for e in ends] == [
        ("operation_timeout", False),
        ("checkout_timeout", True),
    ]


def test_a_cancelled_request_is_told(pool: KernelPool, log: Log) -> None:
    watcher = Watcher()
    future = pool.submit_code(
        "print('on', flush=True)\nimport time; time.sleep(60)", on_output=watcher
    )
    watcher.wait_for("on")
    request_id: str = future.request_id  # type: ignore[attr-defined]
    pool.cancel(request_id)
    assert future.exception(60) is not None
    assert log.of(request_id)[-1].type == "request_cancelled"
    assert log.of(request_id)[-1].data["error"] == "cancelled"


def test_a_death_is_a_lost_worker_a_retry_and_at_last_a_failure(pool: KernelPool, log: Log) -> None:
    with pytest.raises(WorkerDied) as caught:
        pool.execute("import os; os._exit(3)", retries=1)
    told = log.of(caught.value.context["request_id"])
    assert types(told) == [
        "request_queued",
        "request_started",
        "worker_lost",
        "request_retried",
        "worker_lost",
        "request_failed",
    ]
    assert told[2].data == {"cause": "exit code 3"}
    assert told[2].worker_id == told[1].worker_id == told[3].data["previous_worker"]
    assert told[3].data["attempt"] == 2
    assert told[5].data["error"] == "worker_died"
    assert (told[2].duration or 0) > 0


def test_a_worker_that_dies_idle_is_told_of_nobody(pool: KernelPool, log: Log) -> None:
    os.kill(pid(pool), signal.SIGKILL)
    lost = log.last("worker_lost")
    assert (lost.data, lost.request_id, lost.session_id) == ({"cause": "SIGKILL"}, None, None)
    eventually(lambda: states(pool) == ["idle"])


def test_kills_and_replacements_say_why(pool: KernelPool, log: Log) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    with pytest.raises(OperationTimeout) as caught:
        pool.execute(deaf, timeout=2, session_id="deaf")
    killed = log.last("worker_killed")
    assert killed.data == {"cause": "timed_out"}
    assert (killed.request_id, killed.session_id) == (caught.value.context["request_id"], "deaf")
    pool.execute("1", isolation="process")
    assert log.last("worker_recycled").data == {"cause": "isolation"}


def test_a_pool_is_drained_when_its_last_old_worker_is_gone(pool: KernelPool, log: Log) -> None:
    watcher = Watcher()
    future = pool.submit_code(
        "print('on', flush=True)\nimport time; time.sleep(0.3)", on_output=watcher
    )
    watcher.wait_for("on")
    pool.drain()
    future.result()
    drained = log.last("pool_drained")
    assert (drained.duration or 0) > 0
    told = log.types()
    assert told.index("request_finished") < told.index("pool_drained")
    assert log.last("worker_recycled").data == {"cause": "drained"}


def test_saturation_is_told_once_until_something_runs() -> None:
    with KernelPool(1, max_waiting=1) as pool, pool.subscribe(print):
        log = Log(pool, ["pool_saturated", "request_failed"])
        for _ in range(2):
            with pool.checkout():
                future = pool.submit_code("1")
                for _ in range(3):
                    with pytest.raises(PoolSaturated):
                        pool.execute("1")
            future.result()
        assert log.types() == ["pool_saturated", *["request_failed"] * 3] * 2


def test_a_session_expires_by_itself_and_starts_anew() -> None:
    with KernelPool(1, session_ttl=0.1) as pool:
        log = Log(pool, ["session_started", "session_expired"])
        pool.execute("1", session_id="a")
        assert log.last("session_expired").session_id == "a"
        pool.execute("1", session_id="a")
        eventually(lambda: log.types().count("session_expired") == 2)
        assert log.types() == ["session_started", "session_expired"] * 2


def test_a_callback_that_blocks_or_uses_the_pool_does_not_harm_it(pool: KernelPool) -> None:
    go, results = threading.Event(), []

    def use(event: PoolEvent) -> None:
        results.append(pool.execute("6 * 7").data["text/plain"])

    with pool.subscribe(lambda event: go.wait()), pool.subscribe(use, ["session_started"]):
        pool.execute("1", session_id="uses")
        assert pool.submit(pow, 2, 3).result() == 8
        eventually(lambda: results == ["42"])
        go.set()


def test_a_callback_may_close_the_pool() -> None:
    pool, closed = KernelPool(1), threading.Event()

    def close(event: PoolEvent) -> None:
        pool.close()
        closed.set()

    pool.subscribe(close, ["worker_ready"])
    pool.start()
    assert closed.wait(60)


async def test_an_async_pool_tells_coroutine_functions_in_its_loop() -> None:
    seen: list[str] = []

    async def note(event: PoolEvent) -> None:
        await asyncio.sleep(0)
        seen.append(event.type)

    pool = AsyncKernelPool(1)
    pool.subscribe(note, types=["request_finished", "pool_closed"])
    async with pool:
        await asyncio.gather(*(pool.execute("1") for _ in range(3)))
    assert seen == ["request_finished"] * 3 + ["pool_closed"]


def test_no_event_holds_code_or_values(pool: KernelPool, log: Log) -> None:
    secret = "s3cr3t-marker"
    pool.execute(f"x = '{secret}' + y; print(x); x", inputs={"y": secret}, outputs=["x"])
    pool.execute(f"raise ValueError('{secret}')", check=False)
    with pytest.raises(KeyError):
        pool.submit(lambda key: {}[key], secret).result()
    assert set(log.types()) <= set(EVENT_TYPES)
    assert secret not in repr(log.events)


# --- alerts -------------------------------------------------------------------------------------


def test_alerts_of_failures_losses_and_waits_fire_once_and_clear_once() -> None:
    alerts: list[Alert] = []
    with KernelPool(1, name="alarmed") as pool:
        handle = pool.on_alert(
            alerts.append, failure_rate=0.5, worker_losses=1, window=1.0, min_requests=2
        )
        pool.execute("1/0", check=False)
        handle.flush()
        assert alerts == []
        # On a busy machine the one before may be too long ago.
        while not alerts:
            pool.execute("1/0", check=False)
            handle.flush()
        pool.execute("import os; os._exit(1)", check=False)
        eventually(lambda: len(alerts) == 4)
    told = {(alert.kind, alert.active) for alert in alerts}
    assert told == {(k, a) for k in ("failure_rate", "worker_losses") for a in (True, False)}
    assert {(a.pool, a.window) for a in alerts} == {("alarmed", 1.0)}
    fired = next(alert for alert in alerts if alert.kind == "failure_rate")
    assert (fired.value, fired.threshold, fired.active) == (1.0, 0.5, True)


def test_an_alert_of_waiting_comes_while_it_lasts_and_its_handle_ends_it(pool: KernelPool) -> None:
    alerts: list[Alert] = []
    with pool.checkout():  # which may have had to wait itself, but is over
        handle = pool.on_alert(alerts.append, queue_wait=0.05, window=0.2)
        future = pool.submit_code("1")
        eventually(lambda: alerts)
        assert alerts[0].active
    future.result()
    eventually(lambda: [alert.active for alert in alerts] == [True, False])
    handle.close()
    with pool.checkout():
        future = pool.submit_code("import time; time.sleep(0.1)")
    future.result()
    assert len(alerts) == 2


async def test_an_alert_of_an_async_pool_may_be_a_coroutine_function() -> None:
    alerts: list[Alert] = []

    async def note(alert: Alert) -> None:
        alerts.append(alert)

    async with AsyncKernelPool(1) as pool:
        async with pool.on_alert(note, failure_rate=0.1, min_requests=1):
            await pool.execute("1/0", check=False)
        assert [alert.kind for alert in alerts] == ["failure_rate"]


# --- recordings ---------------------------------------------------------------------------------


def test_a_recording_of_a_run_is_a_valid_trace(pool: KernelPool, tmp_path: Path) -> None:
    with pool.record() as recording:
        results = [pool.submit_code(f"print({n})") for n in range(4)]
        ran = [future.result() for future in results]
        list(pool.map(abs, range(3)))
        pool.execute("import os; os._exit(1)", retries=1, check=False)
        with pool.checkout() as worker:
            worker.execute("1")
    pool.execute("'not any more'")
    recording.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    check_trace(trace)
    assert recording.dropped == 0
    for result in ran:
        mine = [s for s in slices(trace) if s["args"].get("request_id") == result.request_id]
        assert [s["lane"].split()[0] for s in mine] == ["queue", "worker"]
        assert mine[1]["lane"] == f"worker {result.worker_id}"
        started, finished = (
            next(e for e in recording.events if (e.request_id, e.type) == (result.request_id, kind))
            for kind in ("request_started", "request_finished")
        )
        assert mine[1]["dur"] == pytest.approx((finished.time - started.time) * 1e6, abs=1)
        assert finished.ran == result.timings.ran
        assert mine[1]["args"]["timeline"]["reply"] == result.timeline.reply
    assert {s["cat"] for s in slices(trace)} == {"queue", "cell", "call", "lease", "worker"}


def test_a_recording_may_span_a_pools_whole_life(tmp_path: Path) -> None:
    pool = KernelPool(2, name="whole-life")
    with pool.record() as recording, pool:
        pool.execute("1")
    trace = recording.trace()
    check_trace(trace)
    assert recording.events[-1].type == "pool_closed"
    # The other one may not have been ready when the pool closed.
    assert "start" in {s["name"] for s in slices(trace)}


# --- nobody listens -----------------------------------------------------------------------------


def test_nothing_is_made_where_nobody_listens(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    monkeypatch.setattr(type(pool.hub), "send", lambda *args, **fields: made.append(args))
    with caplog.at_level(logging.ERROR):
        pool.execute("1", session_id="unheard")
        pool.execute("1/0", check=False)
        pool.submit(pow, 2, 3).result()
    assert made == []
    assert caplog.records == []
