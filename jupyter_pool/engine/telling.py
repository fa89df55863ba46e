"""What a pool's driver tells those who listen: from what it knows to events.

Each method is called at the one place where the thing happens, and does nothing but ask whether
anybody wants to hear of it, if nobody does.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import Breaker, Outcome, StopReason

from .events import Hub
from .settle import status_of

if TYPE_CHECKING:
    from .link import Link
    from .request import Completion, Request

__all__ = ["Teller", "end_of"]

_ENDS = {
    "ok": "request_finished",
    "timeout": "request_timed_out",
    "cancelled": "request_cancelled",
    "error": "request_failed",
    "died": "request_failed",
}

#: The errors' types, as in `errors`.
_ERRORS = {
    Outcome.CHECKOUT_TIMEOUT: "checkout_timeout",
    Outcome.OPERATION_TIMEOUT: "operation_timeout",
    Outcome.CANCELLED: "cancelled",
    Outcome.RESTARTED: "cancelled",
    Outcome.WORKER_DIED: "worker_died",
    Outcome.START_FAILED: "worker_start_failed",
    Outcome.SATURATED: "pool_saturated",
    Outcome.CLOSED: "pool_not_available",
    Outcome.PROTOCOL_ERROR: "protocol_error",
    Outcome.MEMORY_LIMIT_EXCEEDED: "memory_limit_exceeded",
}

_BREAKER = {
    Breaker.OPEN: "breaker_opened",
    Breaker.HALF_OPEN: "breaker_half_open",
    Breaker.CLOSED: "breaker_closed",
}


def end_of(completion: Completion) -> tuple[str, dict[str, Any]]:
    """How a request ended: a result's status, and the error's type and the exception's name."""
    status = status_of(completion)
    if status == "ok":
        return status, {}
    error = _ERRORS.get(completion.outcome)
    if error is not None:
        return status, {"error": error}
    reply = completion.reply
    ours = (reply.metadata.get("jupyter_pool") or {}) if reply is not None else {}
    if ours.get("failed"):
        return status, {"error": "unexpected_error"}
    if ours.get("bad_inputs") or ours.get("unpicklable"):
        return status, {"error": "serialization_failed"}
    if ours.get("missing"):
        return status, {"error": "invalid_request"}
    name = str(reply.content.get("ename", "")) if reply is not None else ""
    return status, {"error": "user_exception", "exception": name}


class Teller:
    """Makes one pool's events, on the I/O thread."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._saturated = False
        #: The workers that there were when the pool was drained, and since when.
        self._draining: set[int] = set()
        self._drain_began = 0.0

    # -- requests ----------------------------------------------------------------------------

    def queued(self, request: Request) -> None:
        if "request_queued" in self.hub.wanted:
            data = {} if request.lease is None else {"lease": request.lease}
            self._of_request("request_queued", request, None, data)

    def dispatched(self, request: Request, previous: int | None) -> None:
        """A worker has got it; `previous`: the one that had it before."""
        self._saturated = False
        wanted = self.hub.wanted
        if previous is None:
            if "request_started" in wanted:
                waited = (request.first_dispatched or time.monotonic()) - request.created
                self._of_request("request_started", request, request.worker_id, {}, waited=waited)
        elif "request_retried" in wanted:
            data = {"attempt": request.attempt, "previous_worker": previous}
            self._of_request("request_retried", request, request.worker_id, data)

    def ended(self, completion: Completion) -> None:
        for trace in completion.request.traces:
            trace.ended(completion)
        if completion.outcome is Outcome.SATURATED and not self._saturated:
            self._saturated = True
            if "pool_saturated" in self.hub.wanted:
                self.hub.send("pool_saturated", data={"queued": completion.facts.get("queued")})
        wanted = self.hub.wanted
        if not wanted:
            return
        status, data = end_of(completion)
        event_type = _ENDS[status]
        if event_type not in wanted:
            return
        request, began = completion.request, completion.request.first_dispatched
        if (timeline := completion.timeline) is not None:
            data["timeline"] = timeline.as_dict()
        self._of_request(
            event_type,
            request,
            request.worker_id,
            data,
            waited=(began or completion.finished) - request.created,
            ran=None if began is None else completion.finished - began,
        )

    def _of_request(
        self,
        event_type: str,
        request: Request,
        worker_id: int | None,
        data: dict[str, Any],
        *,
        waited: float | None = None,
        ran: float | None = None,
    ) -> None:
        self.hub.send(
            event_type,
            worker_id,
            request.id,
            request.session_id,
            request.kind,
            waited,
            ran,
            None,
            data,
        )

    # -- workers -----------------------------------------------------------------------------

    def starting(self, link: Link) -> None:
        self._of_worker("worker_starting", link)

    def ready(self, link: Link) -> None:
        self._of_worker("worker_ready", link, {"pid": link.pid}, aged=True)

    def lost(self, link: Link, cause: str, holder: Request | None = None) -> None:
        self._of_worker("worker_lost", link, {"cause": cause}, holder, aged=True)

    def stopped(
        self,
        link: Link,
        why: StopReason,
        detail: str | None,
        *,
        killed: bool,
        holder: Request | None,
    ) -> None:
        """The pool ends a worker."""
        if killed:
            self._of_worker("worker_killed", link, {"cause": why.value}, holder, aged=True)
        elif why in (StopReason.RECYCLED, StopReason.DRAINED):
            self._of_worker("worker_recycled", link, {"cause": detail or why.value}, aged=True)
        else:
            self._of_worker("worker_stopped", link, {"cause": why.value}, aged=True)

    def gone(self, worker_id: int) -> None:
        """A worker's process is no more, whatever the reason."""
        if worker_id in self._draining:
            self._draining.remove(worker_id)
            self._say_drained()

    def _of_worker(
        self,
        event_type: str,
        link: Link,
        data: dict[str, Any] | None = None,
        holder: Request | None = None,
        *,
        aged: bool = False,
    ) -> None:
        if event_type in self.hub.wanted:
            self.hub.send(
                event_type,
                worker_id=link.worker_id,
                request_id=holder.id if holder is not None else None,
                session_id=holder.session_id if holder is not None else None,
                kind=holder.kind if holder is not None else None,
                duration=time.monotonic() - link.born if aged else None,
                data=data or {},
            )

    # -- sessions and the pool ---------------------------------------------------------------

    def session(self, event_type: str, session_id: str) -> None:
        if event_type in self.hub.wanted:
            self.hub.send(event_type, session_id=session_id)

    def pool(self, event_type: str, **data: Any) -> None:
        if event_type in self.hub.wanted:
            self.hub.send(event_type, data=data)

    def breaker(self, state: Breaker, **data: Any) -> None:
        self.pool(_BREAKER[state], **data)

    def draining(self, worker_ids: set[int]) -> None:
        """All of these are to be replaced."""
        self._draining, self._drain_began = worker_ids, time.monotonic()
        self._say_drained()

    def _say_drained(self) -> None:
        if not self._draining and "pool_drained" in self.hub.wanted:
            self.hub.send("pool_drained", duration=time.monotonic() - self._drain_began)
