"""Reports of a pool about itself: workers, sessions, statistics, status, health.

Frozen snapshots that show themselves as HTML in a notebook and as aligned text
elsewhere. Durations are in seconds, points in time are Unix times in seconds,
sizes are in bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jupyter_pool import _reprs

__all__ = [
    "BreakerStatus",
    "Distribution",
    "HealthReport",
    "PoolStats",
    "PoolStatus",
    "SessionInfo",
    "WorkerInfo",
    "WorkerVerdict",
]


class _Report:
    """Gives a report its text and HTML from its title, facts and tables."""

    __slots__ = ()

    def _title(self) -> str:
        raise NotImplementedError

    def _facts(self) -> list[tuple[str, Any]]:
        return []

    def _tables(self) -> list[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        return []

    def __repr__(self) -> str:
        facts = _reprs.text_table(("", ""), self._facts())
        tables = [_reprs.text_table(headers, rows) for headers, rows in self._tables() if rows]
        body = [
            "\n".join(f"  {line}" for line in block.split("\n"))
            for block in [facts, *tables]
            if block
        ]
        return "\n".join([self._title(), "\n\n".join(body)]) if body else self._title()

    def _repr_html_(self) -> str:
        facts = self._facts()
        blocks = [_reprs.heading(self._title())]
        if facts:
            blocks.append(_reprs.table(("", ""), facts))
        blocks += [_reprs.table(headers, rows) for headers, rows in self._tables() if rows]
        return f"<div>{''.join(blocks)}</div>"


def _ago(then: float | None) -> str:
    return "–" if then is None else f"{_reprs.seconds(max(0.0, time.time() - then))} ago"


@dataclass(frozen=True, slots=True, repr=False)
class WorkerInfo(_Report):
    """One worker at one moment.

    Attributes
    ----------
    id, pid
        The pool's number for it, never reused; its process id, None before it has one.
    state
        ``"starting"``, ``"standby"``, ``"idle"``, ``"busy"``, ``"leased"``,
        ``"interrupting"``, ``"resetting"``, ``"setting up"`` or ``"stopping"``.
    request_id, session_id
        What it runs, for whom, or None.
    since
        When it entered the state, as Unix time.
    served
        How many requests it has finished.
    started_at
        When it was started, as Unix time.
    memory
        Resident bytes, or None if not measured; what it shares with other processes counts in full.
    unshared
        Of these, the bytes that no other process has (unique set size): what would be free if it
        ended. None if not measured.
    proportional
        The bytes with each page divided by how many processes share it (proportional set size), so
        that a sum over workers counts nothing twice. None if not measured, as on macOS and Windows.
    overflow
        Whether it is one of those beyond `size`.
    """

    id: int
    pid: int | None
    state: str
    request_id: str | None = None
    session_id: str | None = None
    since: float | None = None
    served: int = 0
    started_at: float | None = None
    memory: int | None = None
    overflow: bool = False
    unshared: int | None = None
    proportional: int | None = None

    def _title(self) -> str:
        return f"Worker {self.id}: {self.state}"

    def _facts(self) -> list[tuple[str, Any]]:
        return list(zip(_WORKER_HEADERS[1:], _worker_row(self)[1:], strict=True))


_WORKER_HEADERS = (
    "worker", "pid", "state", "since", "request", "session", "served", "started", "memory", "overflow",
)  # fmt: skip


def _worker_row(worker: WorkerInfo) -> tuple[Any, ...]:
    return (
        worker.id,
        worker.pid,
        worker.state,
        _ago(worker.since),
        worker.request_id,
        worker.session_id,
        worker.served,
        _ago(worker.started_at),
        _memory(worker),
        worker.overflow,
    )


def _memory(worker: WorkerInfo) -> str:
    own = "" if worker.unshared is None else f" ({_reprs.size(worker.unshared)} unshared)"
    return f"{_reprs.size(worker.memory)}{own}"


@dataclass(frozen=True, slots=True, repr=False)
class SessionInfo(_Report):
    """What is known of a session, which is a label and no more.

    Attributes
    ----------
    first_seen, last_activity
        Unix times.
    requests, failures
        How many requests bore the label and have ended, and how many of them
        not with ``"ok"``.
    busy_time
        Seconds that workers spent on them.
    last_worker
        The id of the worker that had the latest, or None.
    """

    id: str
    first_seen: float
    last_activity: float
    requests: int = 0
    failures: int = 0
    busy_time: float = 0.0
    last_worker: int | None = None

    def _title(self) -> str:
        return f"Session {self.id}"

    def _facts(self) -> list[tuple[str, Any]]:
        return [
            ("requests", self.requests),
            ("failures", self.failures),
            ("busy", _reprs.seconds(self.busy_time)),
            ("first seen", _ago(self.first_seen)),
            ("last activity", _ago(self.last_activity)),
            ("last worker", self.last_worker),
        ]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations in short, in seconds; all zero if there were none."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, durations: Iterable[float]) -> Distribution:
        """Summarise durations; percentiles by nearest rank, so each is one that occurred."""
        ordered = sorted(durations)
        if not ordered:
            return cls()

        def at(percent: int) -> float:
            return ordered[math.ceil(len(ordered) * percent / 100) - 1]

        return cls(
            count=len(ordered),
            mean=math.fsum(ordered) / len(ordered),
            p50=at(50),
            p95=at(95),
            p99=at(99),
            max=ordered[-1],
        )


@dataclass(frozen=True, slots=True, repr=False)
class PoolStats(_Report):
    """A pool's counters and gauges.

    Attributes
    ----------
    uptime
        Seconds since the pool was started.
    workers
        How many are in each state now.
    requests
        How many have ended with each outcome.
    queued, queue_high_water
        How many wait now, and the most that ever did.
    overflow_in_use
        Workers beyond `size` now.
    waits, runs
        Seconds that requests waited for a worker, and ran on it.
    workers_started
        How many were started, replacements included.
    workers_lost, workers_killed, workers_recycled
        How many ended by themselves, were killed by the pool, were replaced on
        purpose, by cause.
    memory
        Resident bytes of each worker by its id, where they can be measured. What workers share with
        one another counts in each.
    """

    name: str
    uptime: float = 0.0
    workers: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    queued: int = 0
    queue_high_water: int = 0
    overflow_in_use: int = 0
    waits: Distribution = Distribution()
    runs: Distribution = Distribution()
    workers_started: int = 0
    workers_lost: dict[str, int] = field(default_factory=dict)
    workers_killed: dict[str, int] = field(default_factory=dict)
    workers_recycled: dict[str, int] = field(default_factory=dict)
    memory: dict[int, int] = field(default_factory=dict)

    def _title(self) -> str:
        return f"Pool {self.name}: statistics"

    def _facts(self) -> list[tuple[str, Any]]:
        return [
            ("uptime", _reprs.seconds(self.uptime)),
            ("workers", self.workers),
            ("requests", self.requests),
            ("queued", f"{self.queued} (at most {self.queue_high_water})"),
            ("overflow in use", self.overflow_in_use),
            ("workers started", self.workers_started),
            ("workers lost", self.workers_lost),
            ("workers killed", self.workers_killed),
            ("workers recycled", self.workers_recycled),
            ("memory", {f"worker {who}": _reprs.size(size) for who, size in self.memory.items()}),
        ]

    def _tables(self) -> list[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        rows = [
            (label, spread.count, *map(_reprs.seconds, (spread.mean, spread.p50, spread.p95,
                                                        spread.p99, spread.max)))
            for label, spread in (("waited", self.waits), ("ran", self.runs))
            if spread.count
        ]  # fmt: skip
        return [(("", "count", "mean", "p50", "p95", "p99", "max"), rows)]


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """The circuit breaker: whether starts of workers are trusted to succeed.

    While it is not closed and no worker is there, requests fail at once, with the cause.

    Attributes
    ----------
    state
        ``"closed"`` (all is well), ``"open"`` (starts keep failing, none is tried before the pause is
        over) or ``"half_open"`` (one start is let through: if it succeeds all is well again, else the
        next pause begins).
    cause
        Why it is not closed, in a line, or None.
    since
        When it entered the state, as Unix time; None if it was never open.
    next_probe
        If open: in how many seconds the next start is tried; else None.
    """

    state: Literal["closed", "open", "half_open"] = "closed"
    cause: str | None = None
    since: float | None = None
    next_probe: float | None = None

    def __str__(self) -> str:
        if self.state == "open" and self.next_probe is not None:
            return f"open, next start in {_reprs.seconds(self.next_probe)}"
        return "half open: one start is under way" if self.state == "half_open" else self.state


@dataclass(frozen=True, slots=True, repr=False)
class PoolStatus(_Report):
    """A pool at one moment: its configuration, its state, every worker.

    Attributes
    ----------
    state
        ``"new"``, ``"running"``, ``"degraded"``, ``"closing"`` or ``"closed"``.
    config
        Every option's value by name.
    workers
        In the order of their ids.
    queue_length
        How many requests wait for a worker.
    overflow_in_use
        Workers beyond `size`.
    reason
        Why the pool is degraded, or None.
    breaker
        The circuit breaker: a `BreakerStatus`.
    """

    name: str
    state: str
    config: dict[str, Any] = field(default_factory=dict)
    workers: tuple[WorkerInfo, ...] = ()
    queue_length: int = 0
    overflow_in_use: int = 0
    reason: str | None = None
    breaker: BreakerStatus = BreakerStatus()

    def _title(self) -> str:
        return f"Pool {self.name}: {self.state}" + (f" ({self.reason})" if self.reason else "")

    def _facts(self) -> list[tuple[str, Any]]:
        counts: dict[str, int] = {}
        for worker in self.workers:
            counts[worker.state] = counts.get(worker.state, 0) + 1
        shown = [
            (name, self.config[name])
            for name in ("size", "overflow", "isolation", "kernel_name")
            if name in self.config
        ]
        return [
            ("workers", counts),
            ("queued", self.queue_length),
            ("overflow in use", self.overflow_in_use),
            *([] if self.breaker.state == "closed" else [("breaker", self.breaker)]),
            *shown,
        ]

    def _tables(self) -> list[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        return [(_WORKER_HEADERS, [_worker_row(worker) for worker in self.workers])]


class WorkerVerdict(NamedTuple):
    """One worker's health: ``"healthy"``, ``"degraded"`` or ``"unhealthy"``, and why."""

    worker_id: int
    status: str
    reason: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class HealthReport(_Report):
    """Whether a pool can serve, and if not fully, why.

    Attributes
    ----------
    status
        ``"healthy"``, ``"degraded"`` (it serves, but not as configured) or
        ``"unhealthy"`` (it cannot serve).
    reasons
        What is wrong, in words; empty if healthy.
    workers
        A verdict on each.
    """

    status: Literal["healthy", "degraded", "unhealthy"]
    reasons: tuple[str, ...] = ()
    workers: tuple[WorkerVerdict, ...] = ()

    def _title(self) -> str:
        return "; ".join([f"Health: {self.status}", *self.reasons])

    def _tables(self) -> list[tuple[tuple[str, ...], list[tuple[Any, ...]]]]:
        return [(("worker", "status", "reason"), [tuple(verdict) for verdict in self.workers])]
