"""What the state machine wants done: its outputs, carried out by the engine in order.

Three promises hold the other side together: every `Submit` and `SubmitInLease` gets exactly one
`Finish`, and so does every lease that a `RequestDone` asks for; every worker gets at most one `StopWorker`; `Closed` comes once, when nothing is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from .events import RequestId, WorkerId

__all__ = [
    "START_TIMED_OUT",
    "Breaker",
    "BreakerMoved",
    "Closed",
    "Command",
    "Degraded",
    "Dispatch",
    "Finish",
    "Interrupt",
    "Outcome",
    "Recovered",
    "Reset",
    "Ride",
    "SetUp",
    "StartWorker",
    "StopReason",
    "StopWorker",
    "TakeBack",
]


class Outcome(Enum):
    """How a request ended."""

    DONE = "done"
    CHECKOUT_TIMEOUT = "checkout_timeout"
    OPERATION_TIMEOUT = "operation_timeout"
    CANCELLED = "cancelled"
    WORKER_DIED = "worker_died"
    START_FAILED = "start_failed"
    SATURATED = "saturated"
    CLOSED = "closed"
    RESTARTED = "restarted"
    PROTOCOL_ERROR = "protocol_error"
    MEMORY_LIMIT_EXCEEDED = "memory_limit_exceeded"


class StopReason(Enum):
    """Why the pool stops a worker."""

    CLOSED = "closed"
    SHRUNK = "shrunk"
    RECYCLED = "recycled"
    DRAINED = "drained"
    RESTARTED = "restarted"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    START_TIMEOUT = "start_timeout"
    PROTOCOL = "protocol"
    MEMORY_LIMIT = "memory_limit"
    UNRESPONSIVE = "unresponsive"
    RESET_FAILED = "reset_failed"
    SETUP_FAILED = "setup_failed"


class Breaker(Enum):
    """Whether starts are trusted to succeed."""

    CLOSED = "closed"
    OPEN = "open"
    """Starts keep failing: none before the pause is over."""
    HALF_OPEN = "half_open"
    """One start is let through; what becomes of it decides."""


START_TIMED_OUT: Final = StopReason.START_TIMEOUT
"""The reason of a failed start that no event explained better than by its deadline."""


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a process; answer with `WorkerReady` or `WorkerStartFailed`. The core watches the time."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class StopWorker:
    """End a worker, at once if `kill`; answer with `WorkerStopped` when its process is gone.

    `detail` says more about `RECYCLED`: `"max_tasks"`, `"lifetime"`, `"isolation"`, `"discarded"`,
    `"memory"`, or the kernel's own words.
    """

    worker_id: WorkerId
    kill: bool
    why: StopReason
    detail: str | None = None


Riders: TypeAlias = tuple[tuple[RequestId, int], ...]
"""Requests in order, each with its attempt."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send this request to this worker now; for a lease: hand the worker over.

    `attempt`: 1, and one more for each retry. `run_deadline`: absolute, kept over retries.
    `riders`: requests to be sent along, to be run after it, each with its attempt.
    """

    request_id: RequestId
    worker_id: WorkerId
    attempt: int
    run_deadline: float | None
    riders: Riders = ()


@dataclass(frozen=True, slots=True)
class Ride:
    """Send these to a worker that still has something to do, to be run after that."""

    worker_id: WorkerId
    riders: Riders


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Have the worker not begin what it has not begun yet; answer with `GivenBack`."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Interrupt what runs; answer with `InterruptDelivered`. At most once per request.

    What the worker has not begun yet is given back before. If it has begun something that came after
    this request, this one is over, and there is nothing to interrupt.
    """

    worker_id: WorkerId
    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Reset:
    """Clean up after a lease; answer with `ResetDone`. The core watches the time."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class SetUp:
    """Run the setups that it lacks; answer with `SetUpDone`. The core watches the time."""

    worker_id: WorkerId


@dataclass(slots=True)  # not frozen, as others: there is one for every call, and that costs
class Finish:
    """The request is over. `worker_id`: the worker that held it last, if one did.

    `reason`: what the deciding event said. `clean=False`: its worker is lost, killed for it or dead.
    """

    request_id: RequestId
    outcome: Outcome
    worker_id: WorkerId | None
    reason: object = None
    clean: bool = True


@dataclass(frozen=True, slots=True)
class Degraded:
    """Starts keep failing: one probing start at a time from here on."""

    reason: object


@dataclass(frozen=True, slots=True)
class Recovered:
    """A start has succeeded again after `Degraded`."""


@dataclass(frozen=True, slots=True)
class BreakerMoved:
    """The breaker is in another state; `reason`: the failure that opened it."""

    state: Breaker
    reason: object = None


@dataclass(frozen=True, slots=True)
class Closed:
    """No request and no process is left. Nothing follows but the refusal of a late `Submit`."""


Command: TypeAlias = (
    StartWorker
    | StopWorker
    | Dispatch
    | Ride
    | TakeBack
    | Interrupt
    | Reset
    | SetUp
    | Finish
    | Degraded
    | Recovered
    | BreakerMoved
    | Closed
)
