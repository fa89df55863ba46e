"""Chrome traces of made-up runs: lanes, slices that do not overlap, flows that have two ends."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import KernelPool
from jupyter_pool.recording import chrome_trace
from jupyter_pool.telemetry import PoolEvent
from support.traces import check_trace, lane_names, slices


def event(event_type: str, at: float, **fields: Any) -> PoolEvent:
    return PoolEvent(event_type, 5000.0 + at, "p", **fields)


def request(name: str, worker: int, queued: float, began: float, ended: float) -> list[PoolEvent]:
    ids: dict[str, Any] = {"request_id": name, "kind": "cell"}
    return [
        event("request_queued", queued, **ids),
        event("request_started", began, worker_id=worker, waited=began - queued, **ids),
        event(
            "request_finished",
            ended,
            worker_id=worker,
            waited=began - queued,
            ran=ended - began,
            data={"timeline": {"first_output": began - queued + 0.1}},
            **ids,
        ),
    ]


def trace_of(*events: PoolEvent) -> dict[str, Any]:
    trace = chrome_trace("p", sorted(events, key=lambda e: e.time))
    check_trace(trace)
    return trace


def test_a_request_is_a_slice_in_the_queue_and_one_of_its_worker_with_an_arrow_between() -> None:
    trace = trace_of(*request("a", 1, 0.0, 1.0, 3.0))
    assert [(s["lane"], s["name"], s["ts"], s["dur"]) for s in slices(trace)] == [
        ("queue", "cell a", 0.0, 1e6),
        ("worker 1", "cell a", 1e6, 2e6),
    ]
    flow = [(e["ph"], e["ts"], e["id"]) for e in trace["traceEvents"] if e["ph"] in "sf"]
    assert flow == [("s", 0.0, "a"), ("f", 1e6, "a")]
    (output,) = [e for e in trace["traceEvents"] if e["name"] == "first output"]
    assert output["ts"] == pytest.approx(1.1e6)


def test_those_who_wait_at_the_same_time_have_lanes_of_their_own() -> None:
    trace = trace_of(
        *request("a", 1, 0.0, 2.0, 3.0),
        *request("b", 2, 1.0, 2.5, 3.0),
        *request("c", 3, 2.25, 2.5, 3.0),
    )
    assert {s["lane"] for s in slices(trace) if s["cat"] == "queue"} == {"queue", "queue 2"}


def test_clocks_that_disagree_make_no_slices_that_overlap() -> None:
    trace = trace_of(*request("a", 1, 0.0, 1.0, 3.0), *request("b", 1, 0.5, 2.999, 4.0))
    runs = [s for s in slices(trace) if s["lane"] == "worker 1"]
    assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in pairwise(runs))


def test_a_retry_is_a_slice_on_each_worker_and_a_start_is_one() -> None:
    ids: dict[str, Any] = {"request_id": "a", "kind": "cell"}
    trace = trace_of(
        event("worker_starting", 0.0, worker_id=1),
        event("worker_ready", 1.0, worker_id=1, data={"pid": 5}),
        event("request_queued", 1.0, **ids),
        event("request_started", 1.5, worker_id=1, waited=0.5, **ids),
        event("worker_lost", 2.0, worker_id=1, data={"cause": "SIGKILL"}, **ids),
        event("request_retried", 2.0, worker_id=2, data={"attempt": 2}, **ids),
        event("request_failed", 4.0, worker_id=2, data={"error": "worker_died"}, **ids),
        event("pool_closed", 5.0),
    )
    found = [(s["lane"], s["name"], s["args"].get("end")) for s in slices(trace)]
    assert found == [
        ("worker 1", "start", None),
        ("queue", "cell a", None),
        ("worker 1", "cell a", "retried"),
        ("worker 2", "cell a", "failed"),
    ]
    instants = [e["name"] for e in trace["traceEvents"] if e["ph"] == "i"]
    assert instants == ["worker_lost", "pool_closed"]


def test_a_lease_has_a_lane_beside_its_workers() -> None:
    trace = trace_of(
        event("request_queued", 0.0, request_id="l", kind="lease"),
        event("request_started", 0.0, request_id="l", kind="lease", worker_id=1),
        event("request_queued", 1.0, request_id="r", kind="cell", data={"lease": "l"}),
        event("request_started", 1.0, request_id="r", kind="cell", worker_id=1),
        event("request_cancelled", 2.0, request_id="l", kind="lease", worker_id=1),
        event("request_cancelled", 3.0, request_id="r", kind="cell", worker_id=1),
    )
    lanes = {s["name"]: s["lane"] for s in slices(trace) if s["cat"] != "queue"}
    assert lanes == {"lease l": "worker 1, leased", "cell r": "worker 1"}


def test_what_has_not_ended_is_drawn_up_to_the_last_event() -> None:
    trace = trace_of(
        *request("a", 1, 0.0, 1.0, 9.0)[:2], event("request_queued", 4.0, request_id="b")
    )
    assert [(s["lane"], s["dur"]) for s in slices(trace)] == [
        ("queue", 1e6),
        ("worker 1", 3e6),
        ("queue", 0.0),
    ]


def test_nothing_is_an_empty_trace(tmp_path: Path) -> None:
    pool = KernelPool(1, name="idle")
    with pool.record() as recording:
        pass
    recording.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    check_trace(trace)
    assert lane_names(trace) == {0: "pool"}
    with pytest.raises(RuntimeError, match="once"):
        recording.__enter__()
    pool.close()
