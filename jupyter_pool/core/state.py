"""The nouns of the pool: its configuration, and what it remembers of each worker and request.

Every lifecycle is one enum and one table that lists all its steps; `move` refuses any other.

    worker    STARTING ─┬─▶ STANDBY ─▶ IDLE ◀─▶ BUSY ─▶ INTERRUPTING ─▶ IDLE
                        └───────────▶ IDLE ◀─▶ …
                                      BUSY ◀─ INTERRUPTING          (there are more that rode along)
                                      IDLE ─▶ LEASED ◀─▶ BUSY       (runs inside a lease)
                                      BUSY ─▶ LEASED                (it stays with whoever ran it)
                                              LEASED ─▶ RESETTING ─▶ IDLE
                          IDLE, or about to be ─▶ SETTING_UP ─▶ IDLE
              any ─▶ STOPPING ─▶ GONE,   any ─▶ GONE (it died)

    request   QUEUED ◀─▶ RUNNING ─▶ INTERRUPTING ─▶ FINISHED
              QUEUED ◀─▶ RIDING ─▶ RUNNING                          (sent along with another one)
              QUEUED ◀─▶ HELD ─▶ FINISHED                           (a lease)
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from .commands import Outcome, StopReason
from .events import RequestId, WorkerId

__all__ = [
    "REQUEST_STEPS",
    "SEATED",
    "WORKER_STEPS",
    "CoreConfig",
    "LeaseRecord",
    "PoolState",
    "RequestRecord",
    "RequestState",
    "WorkerRecord",
    "WorkerState",
]


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """The options that the core acts on; all times in seconds.

    Raises ValueError for figures that no pool could work with.
    """

    size: int
    overflow: int = 0
    lazy: bool = False
    reserve: int = 0
    max_waiting: int = 0
    """Longest queue, beyond which requests are refused; 0: unbounded."""
    max_tasks: int | None = None
    max_lifetime: float | None = None
    """From ready; shortened by up to a tenth, differently for each worker, so that they do not all
    go at once."""
    max_idle: float | None = None
    """How long a worker above `size` may idle."""
    interrupt_grace: float = 2.0
    start_timeout: float = 30.0
    reset_timeout: float = 5.0
    backoff_initial: float = 0.1
    backoff_max: float = 30.0
    failure_limit: int = 3
    failure_window: float = 60.0
    early_death: float = 1.0
    """A worker that dies idle sooner than this after it became ready counts as a failed start."""
    replace_after_request: bool = False

    def __post_init__(self) -> None:
        if self.size < 0 or self.overflow < 0 or self.capacity < 1:
            raise ValueError(f"a pool of {self.size} workers and {self.overflow} overflow")
        if self.reserve < 0 or self.max_waiting < 0 or self.failure_limit < 1:
            raise ValueError(
                f"reserve={self.reserve}, max_waiting={self.max_waiting}, "
                f"failure_limit={self.failure_limit}"
            )

    @property
    def capacity(self) -> int:
        """The most workers that may serve at a time."""
        return self.size + self.overflow

    @property
    def max_processes(self) -> int:
        """The most processes that starts may lead to: each serving worker can have one dying
        predecessor. Bounds what a pool costs when stopping is slow.
        """
        return 2 * self.capacity + self.reserve


class PoolState(Enum):
    """The pool as a whole."""

    NEW = "new"
    RUNNING = "running"
    DEGRADED = "degraded"
    """Running, but starts keep failing."""
    CLOSING = "closing"
    CLOSED = "closed"


class WorkerState(Enum):
    """Listed in the order in which the pool's repr shows them."""

    BUSY = "busy"
    """Runs a request."""
    INTERRUPTING = "interrupting"
    """Interrupted; not to be used before it has proved idle."""
    LEASED = "leased"
    """Held by a lease that runs nothing at the moment."""
    RESETTING = "resetting"
    """Being cleaned up after a lease."""
    SETTING_UP = "setting up"
    """Runs a setup that was added after it had become ready."""
    IDLE = "idle"
    STANDBY = "standby"
    """Ready and spare: has no seat among the serving workers yet."""
    STARTING = "starting"
    STOPPING = "stopping"
    GONE = "gone"

    # Members are singletons, and Enum's own hash is a Python call: too slow for keys of hot tables.
    __hash__ = object.__hash__


class RequestState(Enum):
    """Listed in the order in which the pool's repr shows them."""

    RUNNING = "running"
    INTERRUPTING = "interrupting"
    HELD = "held"
    """A lease that has its worker."""
    RIDING = "riding"
    """Sent to a worker that runs another one before it."""
    QUEUED = "queued"
    FINISHED = "finished"

    __hash__ = object.__hash__


_W, _R = WorkerState, RequestState

_END = {_W.STOPPING, _W.GONE}

WORKER_STEPS: Final[Mapping[WorkerState, frozenset[WorkerState]]] = {
    _W.STARTING: frozenset({_W.STANDBY, _W.IDLE} | _END),
    _W.STANDBY: frozenset({_W.IDLE} | _END),
    _W.IDLE: frozenset({_W.BUSY, _W.LEASED, _W.SETTING_UP} | _END),
    _W.BUSY: frozenset({_W.IDLE, _W.LEASED, _W.INTERRUPTING, _W.RESETTING, _W.SETTING_UP} | _END),
    _W.INTERRUPTING: frozenset({_W.IDLE, _W.BUSY, _W.LEASED, _W.RESETTING, _W.SETTING_UP} | _END),
    _W.LEASED: frozenset({_W.BUSY, _W.RESETTING, _W.IDLE, _W.SETTING_UP} | _END),
    _W.RESETTING: frozenset({_W.IDLE, _W.SETTING_UP} | _END),
    _W.SETTING_UP: frozenset({_W.IDLE, _W.SETTING_UP} | _END),
    _W.STOPPING: frozenset({_W.GONE}),
    _W.GONE: frozenset(),
}

REQUEST_STEPS: Final[Mapping[RequestState, frozenset[RequestState]]] = {
    _R.QUEUED: frozenset({_R.RUNNING, _R.RIDING, _R.HELD, _R.FINISHED}),
    _R.RIDING: frozenset({_R.QUEUED, _R.RUNNING, _R.FINISHED}),
    _R.RUNNING: frozenset({_R.QUEUED, _R.INTERRUPTING, _R.FINISHED}),
    _R.INTERRUPTING: frozenset({_R.FINISHED}),
    _R.HELD: frozenset({_R.QUEUED, _R.FINISHED}),
    _R.FINISHED: frozenset(),
}

SEATED: Final = frozenset(
    {_W.IDLE, _W.BUSY, _W.INTERRUPTING, _W.LEASED, _W.RESETTING, _W.SETTING_UP}
)
"""The states that count against `size + overflow`."""


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """What the core knows of one worker. Others read it; only the core writes."""

    id: WorkerId
    state: WorkerState
    since: float
    """When it entered its state."""
    started_at: float
    ready_at: float | None = None
    served: int = 0
    """Requests it has finished, runs inside leases included."""
    request_id: RequestId | None = None
    """What it runs, until that is finished."""
    riders: deque[RequestRecord] = field(default_factory=deque)
    """What it was sent to be run after that, in order."""
    older: int = 0
    """How many of what it has were there before the latest riders were sent."""
    pristine: bool = True
    """It was never given to anybody: no request has run in it, no lease has held it."""
    lease_id: RequestId | None = None
    """The lease that holds it."""
    overflow: bool = False
    """Above `size`. Only a label: when a base worker leaves, an overflow worker takes its place."""
    proven: bool | None = None
    """Whether its start was a success: it ran something or lived long enough. `None`: open yet."""
    interrupted_for: StopReason | None = None
    """Why what it runs was interrupted: also why it is killed if it does not prove idle in time."""
    interrupt_delivered: bool = False
    needs_reset: bool = False
    """A lease has left its state in it."""
    needs_setup: bool = False
    """There is a setup that it has not run."""
    retire: tuple[StopReason, str | None] | None = None
    """Why it is replaced as soon as it is free, if it is."""

    def move(self, state: WorkerState, now: float) -> None:
        """Take one step of the lifecycle; any other is a bug of the core."""
        assert state in WORKER_STEPS[self.state], f"worker {self.id}: {self.state} -> {state}"
        self.state = state
        self.since = now


@dataclass(slots=True, eq=False)
class RequestRecord:
    """What the core knows of one request, lease, or run inside a lease, until it is finished."""

    id: RequestId
    group: Hashable = None
    run_timeout: float | None = None
    retries: int = 0
    isolation: str = "namespace"
    lease_id: RequestId | None = None
    """The lease that it runs inside of."""
    kind: Hashable = None
    """What it takes about as long as; None: it never rides along."""
    checkout_deadline: float | None = None
    state: RequestState = RequestState.QUEUED
    worker_id: WorkerId | None = None
    attempt: int = 1
    started: bool = False
    """User code may have run in this attempt."""
    redispatched: int = 0
    """How often a worker died under it before it started."""
    run_deadline: float | None = None
    fate: Outcome | None = None
    """How it will end, once that is settled but its worker has not let go of it yet."""
    fate_reason: object = None

    def move(self, state: RequestState) -> None:
        """Take one step of the lifecycle; any other is a bug of the core."""
        assert state in REQUEST_STEPS[self.state], f"request {self.id}: {self.state} -> {state}"
        self.state = state


@dataclass(slots=True, eq=False)
class LeaseRecord(RequestRecord):
    """A request that holds its worker, and the runs that wait for that worker."""

    runs: OrderedDict[RequestId, RequestRecord] = field(default_factory=OrderedDict)
