"""Alerts: fired once and cleared once, of a sliding window, with a clock that stands until it is moved."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_pool import InvalidRequest, KernelPool
from jupyter_pool.alerts import Alert, AlertMonitor
from jupyter_pool.telemetry import PoolEvent


class Watched:
    """A monitor, its clock, and what it has told."""

    def __init__(self, *, window: float = 60.0, min_requests: int = 4, **thresholds: float) -> None:
        self.now = 1000.0
        self.alerts: list[Alert] = []
        self.monitor = AlertMonitor(
            "p", self.alerts.append, thresholds, window, min_requests, lambda: self.now
        )
        self._number = 0

    def __call__(self, event_type: str, **fields: Any) -> None:
        self.monitor(PoolEvent(event_type, 0.0, "p", **fields))

    def end(self, *types: str, **fields: Any) -> None:
        for name in types:
            self._number += 1
            self(f"request_{name}", request_id=f"r{self._number}", kind="cell", **fields)

    def wait_until_due(self) -> None:
        due = self.monitor.due()
        assert due is not None
        self.now = due
        self.monitor.tick()

    @property
    def told(self) -> list[tuple[str, bool]]:
        return [(alert.kind, alert.active) for alert in self.alerts]


def test_failures_fire_once_and_clear_once() -> None:
    watched = Watched(failure_rate=0.5)
    watched.end("finished", "finished", "failed", "timed_out", "failed", "failed")
    assert watched.alerts[0].value == 0.5
    assert watched.alerts[0].threshold == 0.5
    assert watched.told == [("failure_rate", True)]
    watched.end("finished", "finished", "finished")
    assert watched.told == [("failure_rate", True), ("failure_rate", False)]
    assert watched.alerts[1].value == pytest.approx(4 / 9)


def test_a_few_failures_mean_nothing() -> None:
    watched = Watched(failure_rate=0.5, min_requests=4)
    watched.end("failed", "failed", "failed")
    assert watched.told == []
    watched.end("failed")
    assert watched.told == [("failure_rate", True)]


def test_cancelled_requests_and_leases_are_neither_failures_nor_successes() -> None:
    watched = Watched(failure_rate=0.5, min_requests=1)
    watched.end("cancelled", "cancelled")
    watched("request_failed", request_id="l", kind="lease")
    assert watched.told == []
    watched.end("failed")
    assert watched.alerts[0].value == 1.0


def test_time_alone_clears_an_alert() -> None:
    watched = Watched(worker_losses=2, window=10.0)
    watched("worker_lost", data={"cause": "SIGKILL"})
    watched.now += 4
    watched("worker_lost", data={"cause": "SIGKILL"})
    assert watched.told == [("worker_losses", True)]
    watched.wait_until_due()
    assert watched.now == 1010.0
    assert watched.told == [("worker_losses", True), ("worker_losses", False)]
    assert watched.monitor.due() is None


def test_losses_that_are_too_far_apart_are_no_alert() -> None:
    watched = Watched(worker_losses=2, window=10.0)
    for _ in range(5):
        watched("worker_lost", data={"cause": "SIGKILL"})
        watched.now += 10
    assert watched.told == []


@pytest.mark.parametrize(
    ("cause", "counts"), [("memory_limit", True), ("unresponsive", True), ("timed_out", False)]
)
def test_which_kills_are_losses(cause: str, counts: bool) -> None:
    watched = Watched(worker_losses=1)
    watched("worker_killed", data={"cause": cause})
    assert bool(watched.alerts) is counts


def test_who_still_waits_is_noticed_while_it_waits() -> None:
    watched = Watched(queue_wait=5.0, window=60.0)
    watched("request_queued", request_id="a", kind="cell")
    watched.wait_until_due()
    assert watched.now == 1005.0
    assert watched.told == [("queue_wait", True)]
    watched.now += 2
    watched("request_started", request_id="a", kind="cell", waited=7.0)
    assert watched.told == [("queue_wait", True)]  # it was in the window
    watched.wait_until_due()
    assert watched.now == 1067.0
    assert watched.told == [("queue_wait", True), ("queue_wait", False)]


def test_a_wait_within_a_lease_is_nobodys_queue() -> None:
    watched = Watched(queue_wait=5.0)
    watched("request_queued", request_id="a", kind="cell", data={"lease": "l"})
    watched("request_started", request_id="a", kind="cell", waited=70.0)
    assert watched.told == []
    assert watched.monitor.due() is None


def test_each_kind_has_an_alert_of_its_own() -> None:
    watched = Watched(worker_losses=1, failure_rate=1.0, min_requests=1)
    watched.end("failed")
    watched("worker_lost", data={"cause": "SIGKILL"})
    assert watched.told == [("failure_rate", True), ("worker_losses", True)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "failure_rate=, queue_wait= or worker_losses="),
        ({"failure_rate": 20}, "failure_rate=20"),
        ({"failure_rate": "a lot"}, "failure_rate='a lot'"),
        ({"queue_wait": 0}, "queue_wait=0"),
        ({"worker_losses": True}, "worker_losses=True"),
        ({"worker_losses": 1, "window": -1}, "window=-1"),
        ({"worker_losses": 1, "min_requests": None}, "min_requests=None"),
    ],
)
def test_impossible_thresholds_are_named(arguments: dict[str, Any], said: str) -> None:
    pool = KernelPool(1)
    with pytest.raises(InvalidRequest, match=said):
        pool.on_alert(print, **arguments)
    with pytest.raises(InvalidRequest, match="callback=5"):
        pool.on_alert(5, worker_losses=1)  # type: ignore[arg-type]
    pool.close()
