"""What can happen to a pool: the inputs of the state machine.

An event is a fact, told by the engine after it happened, or a wish of the pool's user. Events carry
no time of their own: `PoolCore.handle(event, now)` gets it. All times are seconds on one monotonic
clock; a *deadline* is a point on that clock, a *timeout* is a length.

Late and duplicate events are normal (a reply can cross a kill on its way): those about requests that
are finished or workers that are gone are ignored.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TypeAlias

__all__ = [
    "Cancel",
    "Close",
    "Drain",
    "Event",
    "GivenBack",
    "InterruptDelivered",
    "MemoryExceeded",
    "Occupied",
    "ProtocolViolation",
    "RequestDone",
    "RequestId",
    "RequestRefused",
    "RequestStarted",
    "RequestsDone",
    "ResetDone",
    "Resize",
    "RestartWorker",
    "ReturnLease",
    "SetUpAll",
    "SetUpDone",
    "Start",
    "Submit",
    "SubmitAll",
    "SubmitInLease",
    "Tick",
    "WorkerDied",
    "WorkerId",
    "WorkerReady",
    "WorkerSpent",
    "WorkerStartFailed",
    "WorkerStopped",
    "WorkerUnresponsive",
]

RequestId: TypeAlias = Hashable
"""Made by the engine, opaque here, never used twice."""

WorkerId: TypeAlias = int
"""Made by the core: 1, 2, 3, … never used twice."""


# --- wishes: what the pool's user asks for -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Start the base workers (a lazy pool starts none of them yet). Idempotent."""


@dataclass(slots=True)  # not frozen, as others: there is one for every call, and that costs
class Submit:
    """A request wants a worker. An unstarted pool starts.

    `group`: waiters of one group are served in order, groups take turns.
    `checkout_deadline`: the latest time at which a worker may be found.
    `run_timeout`: seconds from the first dispatch; retries do not prolong it.
    `retries`: how often to run again after a worker died under it.
    `lease`: hold the worker exclusively until `ReturnLease`, instead of running one thing.
    `isolation`: `"process"` takes a worker that has served nobody, which is replaced afterwards;
    `"none"` spares a lease its reset.
    `kind`: requests of one kind take about the same time; where more wait than workers are free, those
    that are known to be quick ride along with another one. `None`: it never does.
    """

    request_id: RequestId
    group: Hashable
    checkout_deadline: float | None
    run_timeout: float | None
    retries: int = 0
    lease: bool = False
    isolation: str = "namespace"
    kind: Hashable = None


@dataclass(frozen=True, slots=True)
class SubmitAll:
    """These in this order, as if one by one at the same time; cheaper, where many come together."""

    submits: tuple[Submit, ...]


@dataclass(frozen=True, slots=True)
class SubmitInLease:
    """Run something on the worker that a lease holds; one after another, in order."""

    request_id: RequestId
    lease_id: RequestId
    run_timeout: float | None


@dataclass(frozen=True, slots=True)
class ReturnLease:
    """The holder is done with the worker.

    Runs still pending are cancelled, a running one is interrupted; then the worker is reset, or with
    `discard` replaced.
    """

    lease_id: RequestId
    discard: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Nobody wants this request any more. A held lease is taken back."""

    request_id: RequestId


@dataclass(frozen=True, slots=True)
class Resize:
    """Change the number of workers; `None` leaves a figure as it is."""

    size: int | None = None
    overflow: int | None = None


@dataclass(frozen=True, slots=True)
class SetUpAll:
    """There is a new setup: each worker runs it before it serves on, idle ones now.

    Standby workers are replaced; those that start run all setups before they are ready.
    """


@dataclass(frozen=True, slots=True)
class Drain:
    """Replace every worker by a fresh one: idle ones now, busy ones when they come back."""


@dataclass(frozen=True, slots=True)
class RestartWorker:
    """Replace one worker now, whatever it is doing."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class Close:
    """Accept nothing more, finish what there is, stop all workers. May be sent again, stronger."""

    cancel_queued: bool
    cancel_running: bool


# --- facts: what the engine has seen -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The worker has proved that it can execute."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class WorkerStartFailed:
    """The worker did not become ready, and its process is verified gone."""

    worker_id: WorkerId
    reason: object


@dataclass(frozen=True, slots=True)
class RequestStarted:
    """The worker said `busy` for this request: from here on user code may have run."""

    worker_id: WorkerId
    request_id: RequestId


@dataclass(frozen=True, slots=True)
class RequestDone:
    """Reply *and* idle status were seen. `recycle`: why the kernel wants to be replaced, if it does.

    `lease`: the worker has kept what the request left in it; it is to stay with whoever ran it, as a
    lease of this id, which ends as others do, and at once if the worker cannot stay.
    `on_sufferance`: it stays only for as long as nobody needs a worker, and nothing is run in it.
    """

    worker_id: WorkerId
    request_id: RequestId
    recycle: str | None = None
    lease: RequestId | None = None
    on_sufferance: bool = False


@dataclass(frozen=True, slots=True)
class Occupied:
    """The worker of a lease on sufferance does something for its holder now, or does no more."""

    lease_id: RequestId
    occupied: bool


@dataclass(frozen=True, slots=True)
class RequestsDone:
    """`RequestDone` of several that a worker had together, in order, and how many seconds each took."""

    worker_id: WorkerId
    request_ids: tuple[RequestId, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """The worker has begun none of these, and never will; others that it has it may have begun."""

    worker_id: WorkerId
    request_ids: tuple[RequestId, ...]


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The worker has run nothing of it and wants to be replaced first; it is idle.

    As when a module that it has imported was edited since: the request needs another worker. So do
    those that ride along: a worker that refuses one refuses all that come after.
    """

    worker_id: WorkerId
    request_id: RequestId
    reason: str


@dataclass(frozen=True, slots=True)
class InterruptDelivered:
    """The interrupt was really sent: it cannot hit a later request any more."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class ResetDone:
    """The answer to `Reset`. `recycle`: why the kernel wants to be replaced, if it does."""

    worker_id: WorkerId
    recycle: str | None = None


@dataclass(frozen=True, slots=True)
class SetUpDone:
    """The worker has run the setups that it lacked. `recycle`: why it wants to be replaced instead."""

    worker_id: WorkerId
    recycle: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The process is gone, unasked."""

    worker_id: WorkerId
    reason: object


@dataclass(frozen=True, slots=True)
class WorkerStopped:
    """The process is verified gone, after `StopWorker`."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class ProtocolViolation:
    """The worker said something that it must not say; nothing it says is trusted any more."""

    worker_id: WorkerId
    reason: object


@dataclass(frozen=True, slots=True)
class MemoryExceeded:
    """The worker has more memory than it may, while this request or lease holds it."""

    worker_id: WorkerId
    request_id: RequestId
    reason: object


@dataclass(frozen=True, slots=True)
class WorkerSpent:
    """A worker says, apart from any answer, that it should be replaced before it serves again."""

    worker_id: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerUnresponsive:
    """An idle worker has not answered a health check in time."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: `next_deadline()` was reached."""


Event: TypeAlias = (
    Start
    | Submit
    | SubmitAll
    | SubmitInLease
    | ReturnLease
    | Cancel
    | Resize
    | Drain
    | RestartWorker
    | Close
    | WorkerReady
    | WorkerStartFailed
    | RequestStarted
    | RequestDone
    | Occupied
    | RequestsDone
    | RequestRefused
    | GivenBack
    | InterruptDelivered
    | ResetDone
    | SetUpAll
    | SetUpDone
    | WorkerDied
    | WorkerStopped
    | ProtocolViolation
    | MemoryExceeded
    | WorkerSpent
    | WorkerUnresponsive
    | Tick
)
