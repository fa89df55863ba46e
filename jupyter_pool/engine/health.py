"""A health check: every idle worker answers for itself within a deadline, or it does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from jupyter_pool.core import PoolState, WorkerState, WorkerUnresponsive
from jupyter_pool.reports import HealthReport, WorkerVerdict

from .answers import breaker, degraded_reason

if TYPE_CHECKING:
    from .driver import Driver
    from .link import Link

#: How long an idle worker may take to answer, in seconds.
HEALTH_TIMEOUT = 5.0

#: States in which a worker has other things to do than to answer; that is not a sickness.
_OCCUPIED = frozenset(
    {
        WorkerState.BUSY,
        WorkerState.LEASED,
        WorkerState.INTERRUPTING,
        WorkerState.RESETTING,
        WorkerState.SETTING_UP,
        WorkerState.STOPPING,
        WorkerState.STARTING,
    }
)


def watch_health(driver: Driver) -> None:
    """Check the idle workers now and then, and replace those that do not answer."""
    interval = driver.config.health_check_interval
    if interval is None or driver.closed.is_set():
        return

    def heal(report: HealthReport) -> None:
        for verdict in report.workers:
            if verdict.status != "healthy":
                worker_id, _, reason = verdict
                driver.log(logging.WARNING, "worker %d %s", worker_id, reason, worker_id=worker_id)
                driver.feed(WorkerUnresponsive(worker_id))
        driver.engine.after(interval, lambda: watch_health(driver))

    check_health(driver, heal)


def check_health(driver: Driver, answer: Callable[[HealthReport], None]) -> None:
    """Have every idle worker answer within `HEALTH_TIMEOUT` seconds, then report."""
    _HealthCheck(driver, answer)


class _HealthCheck:
    """One check, on the I/O thread, from its questions to its report."""

    def __init__(self, driver: Driver, answer: Callable[[HealthReport], None]) -> None:
        self._driver = driver
        self._answer: Callable[[HealthReport], None] | None = answer
        self._links = list(driver.links.values())
        self._silent: set[int] = set()
        for link in self._links:
            record = driver.core.workers.get(link.worker_id)
            if record is not None and record.state in (WorkerState.IDLE, WorkerState.STANDBY):
                self._silent.add(link.worker_id)
                link.ping(self._answered)
        driver.engine.after(HEALTH_TIMEOUT, self._report)
        if not self._silent:
            self._report()

    def _answered(self, worker_id: int) -> None:
        self._silent.discard(worker_id)
        if not self._silent:
            self._report()

    def _verdict(self, link: Link) -> WorkerVerdict | None:
        record = self._driver.core.workers.get(link.worker_id)
        if record is None:
            return None
        if link.worker_id in self._silent and record.state not in _OCCUPIED:
            return WorkerVerdict(
                link.worker_id, "unhealthy", f"did not answer within {HEALTH_TIMEOUT:g} s"
            )
        return WorkerVerdict(link.worker_id, "healthy", record.state.value)

    def _report(self) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        core, config = self._driver.core, self._driver.config
        verdicts = tuple(v for link in self._links if (v := self._verdict(link)) is not None)
        serving = [
            v
            for v in verdicts
            if v.status == "healthy" and v.reason not in ("starting", "stopping")
        ]
        reasons = [f"worker {v.worker_id} {v.reason}" for v in verdicts if v.status != "healthy"]
        if core.state is PoolState.DEGRADED:
            reasons.append(f"workers keep failing to start: {degraded_reason(self._driver)}")
            reasons.append(f"the breaker is {breaker(self._driver)}")
        elif core.state in (PoolState.CLOSING, PoolState.CLOSED):
            reasons.append(f"the pool is {core.state.value}")
        elif not config.lazy and len(serving) < config.size:
            reasons.append(f"{len(serving)} of {config.size} workers are ready")
        status = "healthy"
        if reasons:
            status = "degraded" if serving and core.state is not PoolState.CLOSED else "unhealthy"
        answer(HealthReport(status, tuple(reasons), verdicts))  # type: ignore[arg-type]
