"""What a pool tells of itself as it happens: events, in a schema that stays.

    with pool.subscribe(print) as subscription:      # or types=["worker_lost", "request_failed"]
        pool.execute("1 + 1")

Every event is a `PoolEvent`. Version 1 (`SCHEMA_VERSION`) of the schema has these types; a later version
may add types, and keys to `data`, but changes none.

    type                 ids                what has happened; keys of `data`
    ───────────────────  ─────────────────  ─────────────────────────────────────────────────────────
    worker_starting      worker             its process is being started
    worker_ready         worker             it can serve; `pid`. duration: since it was started
    worker_lost          worker, request    it died, or did not start; `cause` (a signal, an exit code,
                                            "failed to start"). duration: since it was started
    worker_killed        worker, request    the pool killed it; `cause`. duration: as above
    worker_recycled      worker             the pool replaces it; `cause`. duration: as above
    worker_stopped       worker             not wanted any more; `cause`: "shrunk" or "closed"
    request_queued       request            it has come; `lease`: the id of the lease that it is for
    request_started      request, worker    a worker has got it. waited
    request_retried      request, worker    another worker has got it; `attempt`, `previous_worker`
    request_finished     request, worker    it went well. waited, ran
    request_failed       request, worker    it did not; `error`: the error's type as in the README, or
                                            `exception`: the name of what the code raised. waited, ran
    request_timed_out    request, worker    `error`: "checkout_timeout", "operation_timeout". waited, ran
    request_cancelled    request, worker    `error`: "cancelled" or "pool_not_available". waited, ran
    session_started      session            its first request has come
    session_expired      session            it is forgotten: without a request for `session_ttl`
    pool_saturated                          requests are refused (`max_waiting`); once until one runs
    pool_degraded                           workers keep failing to start; `cause`
    pool_recovered                          a start has succeeded again
    breaker_opened                          nothing is started for a while; `cause`, `next_probe` (s)
    breaker_half_open                       one start is let through
    breaker_closed                          starts succeed
    pool_drained                            all workers that there were at `drain()` are gone. duration
    pool_closed                             nothing is left. The last event

The ends of cells carry their `timeline` in `data`, as in `ExecutionResult.timeline`. Events hold neither
code nor values nor output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from jupyter_pool.alerts import Alert
    from jupyter_pool.engine.events import Subscription
    from jupyter_pool.recording import Recording

__all__ = ["EVENT_TYPES", "SCHEMA_VERSION", "Alert", "PoolEvent", "Recording", "Subscription"]

#: The version of the schema. It grows when types or keys are added.
SCHEMA_VERSION: Final = 1

#: All types of events.
EVENT_TYPES: Final = (
    "worker_starting",
    "worker_ready",
    "worker_lost",
    "worker_killed",
    "worker_recycled",
    "worker_stopped",
    "request_queued",
    "request_started",
    "request_retried",
    "request_finished",
    "request_failed",
    "request_timed_out",
    "request_cancelled",
    "session_started",
    "session_expired",
    "pool_saturated",
    "pool_degraded",
    "pool_recovered",
    "breaker_opened",
    "breaker_half_open",
    "breaker_closed",
    "pool_drained",
    "pool_closed",
)


@dataclass(frozen=True, init=False)
class PoolEvent:
    """Something that happened in a pool.

    Attributes
    ----------
    type
        One of `EVENT_TYPES`; the module's documentation lists them.
    time
        When, as Unix time in seconds.
    pool
        The pool's name.
    worker_id, request_id, session_id
        Whom it concerns; None where nobody.
    kind
        Of a request: ``"cell"``, ``"call"``, ``"program"`` or ``"lease"``; else None.
    waited, ran
        Of a request: seconds until a worker got it (or until it ended without one), and from then until
        it ended.
    duration
        Of workers and of `pool_drained`: how long it took, in seconds.
    data
        More, by the type. Treat it as frozen.
    """

    type: str
    time: float
    pool: str
    worker_id: int | None = None
    request_id: str | None = None
    session_id: str | None = None
    kind: str | None = None
    waited: float | None = None
    ran: float | None = None
    duration: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    # A frozen dataclass sets each attribute by a call, which takes five times as long as all of this:
    # what listening costs per request is mostly this method.
    def __init__(
        self,
        type: str,  # noqa: A002 - the schema's word
        time: float,
        pool: str,
        worker_id: int | None = None,
        request_id: str | None = None,
        session_id: str | None = None,
        kind: str | None = None,
        waited: float | None = None,
        ran: float | None = None,
        duration: float | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        values = self.__dict__
        values["type"] = type
        values["time"] = time
        values["pool"] = pool
        values["worker_id"] = worker_id
        values["request_id"] = request_id
        values["session_id"] = session_id
        values["kind"] = kind
        values["waited"] = waited
        values["ran"] = ran
        values["duration"] = duration
        values["data"] = {} if data is None else data


# Where they live is nobody's business; imported late, as the engine needs the above.
_HOMES = {
    "Alert": "jupyter_pool.alerts",
    "Recording": "jupyter_pool.recording",
    "Subscription": "jupyter_pool.engine.events",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
