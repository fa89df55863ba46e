"""What a pool says of itself: its status, its statistics, its sessions, why a request waits.

Read on the I/O thread, so that every answer is of one moment.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from jupyter_pool.core import Breaker, PoolState, WorkerState
from jupyter_pool.reports import BreakerStatus, PoolStats, PoolStatus, SessionInfo, WorkerInfo
from jupyter_pool.results import WaitInfo

if TYPE_CHECKING:
    from .driver import Driver
    from .request import Request


def busy_workers(driver: Driver) -> int:
    """How many workers are taken: by a request, a lease, or one that is being interrupted."""
    return driver.core.taken


def wait_info(driver: Driver, request: Request) -> WaitInfo:
    """Why a request still waits."""
    counts = driver.core.counts()
    starting = counts.get(WorkerState.STARTING, 0) + counts.get(WorkerState.SETTING_UP, 0)
    idle = counts.get(WorkerState.IDLE, 0)
    busy = busy_workers(driver)
    if request.first_dispatched is not None:
        state = "running"
    else:
        state = "starting" if starting and not busy and not idle else "queued"
    return WaitInfo(
        state=state,  # type: ignore[arg-type]
        elapsed=time.monotonic() - request.created,
        starting=starting,
        busy=busy,
        idle=idle,
        ahead=driver.core.queue_position(request.id) or 0,
    )


def workers(driver: Driver) -> tuple[WorkerInfo, ...]:
    """Every worker there is, by id."""
    shift = time.time() - time.monotonic()
    found = []
    for worker_id, record in sorted(driver.core.workers.items()):
        link = driver.links.get(worker_id)
        request = driver.holder(worker_id)
        found.append(
            WorkerInfo(
                id=worker_id,
                pid=link.pid if link else None,
                state=record.state.value,
                request_id=request.id if request else None,
                session_id=request.session_id if request else None,
                since=record.since + shift,
                served=record.served,
                started_at=record.started_at + shift,
                overflow=record.overflow,
            )
        )
    return tuple(found)


def degraded_reason(driver: Driver) -> str | None:
    """Why workers keep failing to start, if they do."""
    if driver.core.state is not PoolState.DEGRADED:
        return None
    failure = driver.condition.degraded_by
    error: str | None = getattr(failure, "error", None)
    if (setup := getattr(failure, "setup", None)) is not None:
        error = str(setup).partition("\n")[0]
    last = str(getattr(failure, "stderr", "")).strip().splitlines()[-1:]
    return error or (last[0] if last else "starts keep failing")


def breaker(driver: Driver) -> BreakerStatus:
    """Whether starts are trusted to succeed, and if not, when one is tried."""
    state, since, retry_at = driver.core.breaker
    now = time.monotonic()
    return BreakerStatus(
        state=state.value,
        cause=None if state is Breaker.CLOSED else degraded_reason(driver),
        since=None if since == -math.inf else time.time() - (now - since),
        next_probe=max(0.0, retry_at - now) if state is Breaker.OPEN else None,
    )


def status(driver: Driver) -> PoolStatus:
    """The pool at this moment."""
    return PoolStatus(
        name=driver.name,
        state=driver.core.state.value,
        config={**driver.config.as_dict(), "name": driver.name},
        workers=workers(driver),
        queue_length=driver.core.queue_length,
        overflow_in_use=driver.core.overflow_in_use,
        reason=degraded_reason(driver),
        breaker=breaker(driver),
    )


def stats(driver: Driver, *, pop: bool = False) -> tuple[PoolStats, dict[int, int | None]]:
    """The counters, and the workers' process ids; with `pop` the counters begin anew."""
    counters = driver.accounting
    uptime = 0.0
    if counters.started_at is not None:
        uptime = time.monotonic() - counters.started_at
    stats = PoolStats(
        name=driver.name,
        uptime=uptime,
        workers={state.value: count for state, count in driver.core.counts().items() if count},
        requests=dict(counters.outcomes),
        queued=driver.core.queue_length,
        queue_high_water=driver.core.high_water,
        overflow_in_use=driver.core.overflow_in_use,
        waits=counters.waits.summary(),
        runs=counters.runs.summary(),
        workers_started=counters.workers_started,
        workers_lost=dict(counters.lost),
        workers_killed=dict(counters.killed),
        workers_recycled=dict(counters.recycled),
    )
    if pop:
        counters.reset()
    return stats, {worker_id: link.pid for worker_id, link in sorted(driver.links.items())}


def sessions(driver: Driver) -> dict[str, SessionInfo]:
    """The tracked sessions by id."""
    return driver.accounting.sessions.snapshot()
