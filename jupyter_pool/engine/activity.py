"""What a pool has done lately and does now, for those who look on.

I/O thread ── note(), ended() ──▶ Activity ── observe() ──▶ a snapshot, read on the I/O thread
     └──────── the onlooker's waker: something has changed

Costs two appends for each request. A snapshot is plain data, ready for JSON; points in time are Unix
times in seconds, sizes are bytes. What it holds is written down once, for Python and TypeScript, in
``labextension/schema/pool_state.json``.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import Outcome, PoolState

from . import answers
from .onlookers import VERSION, changed
from .settle import error_text, succeeded

if TYPE_CHECKING:
    from .driver import Driver
    from .request import Completion, Request

__all__ = ["Activity", "Block", "observe"]

#: How many ended requests are kept, and how many that went wrong.
_RECENT, _ERRORS = 4096, 50
#: How many ended requests a snapshot has at most that stands for itself.
_WHOLE = 1000
#: How much of a request's code is kept: lines, and characters.
_LINES, _CHARACTERS = 6, 400
#: How much of an error's text is kept, in characters.
_ERROR_TEXT = 2000
#: The rate is of so many seconds.
RATE_WINDOW = 5.0
#: How many waiting requests and sessions a snapshot lists.
_WAITERS, _SESSIONS = 20, 50


@dataclass(slots=True, eq=False)
class Block:
    """One request that has ended. Times are of the monotonic clock."""

    id: str
    kind: str
    worker: int | None
    queued: float
    started: float | None
    ended: float
    outcome: str
    code: str
    session: str | None
    cell: str | None
    error: str | None
    #: How many requests that are no leases have ended, with this one.
    number: int


class Activity:
    """The latest requests of a pool. Written on the I/O thread; `version` may be read anywhere."""

    def __init__(self) -> None:
        #: Counts changes of any kind.
        self.version = 0
        self.recent: deque[Block] = deque(maxlen=_RECENT)
        self.errors: deque[Block] = deque(maxlen=_ERRORS)
        self.error_count = 0
        self._count = 0

    def note(self) -> None:
        """The pool may have changed."""
        self.version += 1
        changed()

    def ended(self, completion: Completion) -> None:
        """A request has ended."""
        request, reply = completion.request, completion.reply
        outcome = completion.outcome.value
        if completion.outcome is Outcome.DONE:
            outcome = "ok" if reply is None or succeeded(reply) else "failed"
        self._count += not request.is_lease
        block = Block(
            request.id,
            _kind(request),
            request.worker_id,
            request.created,
            request.first_dispatched,
            completion.finished,
            outcome,
            _excerpt(request),
            request.session_id,
            request.cell,
            None if outcome == "ok" else error_text(completion)[:_ERROR_TEXT],
            self._count,
        )
        self.recent.append(block)
        if outcome not in ("ok", Outcome.CANCELLED.value):
            self.errors.append(block)
            self.error_count += 1

    def ended_after(self, moment: float | None) -> list[dict[str, Any]]:
        """What ended after this point of the monotonic clock, for a snapshot; None: the latest thousand."""
        shift = time.time() - time.monotonic()
        return [_ended_block(block, shift) for block in self._ended_after(moment)]

    def rate(self, now: float) -> float:
        """Requests that ended per second lately; leases are none."""
        recent = self.recent
        first = bisect.bisect_left(recent, now - RATE_WINDOW, key=attrgetter("ended"))
        if first == len(recent):
            return 0.0
        oldest = recent[first]
        count = self._count - oldest.number + (oldest.kind != "lease")
        if first == 0 and len(recent) == _RECENT:  # more than are kept
            return count / max(now - oldest.ended, 1e-3)
        return count / RATE_WINDOW

    def _ended_after(self, moment: float | None) -> list[Block]:
        if moment is None:
            return [*self.recent][-_WHOLE:]
        found = []
        for block in reversed(self.recent):
            if block.ended <= moment:
                break
            found.append(block)
        return found[::-1]


def _kind(request: Request) -> str:
    if request.is_lease:
        return "lease"
    return "cell" if request.split is None else "call"


def _excerpt(request: Request) -> str:
    """The first lines of its code, or the name of its function."""
    text = request.title or request.code[: 4 * _CHARACTERS].strip()
    while text.startswith("# %%"):  # the magics above a notebook's cell, which say little of it
        text = text.partition("\n")[2].lstrip()
    if len(text) > _CHARACTERS or "\n" in text:
        text = "\n".join(text.split("\n", _LINES)[:_LINES])[:_CHARACTERS]
    return text


def observe(
    driver: Driver, after: float | None, *, details: bool
) -> tuple[dict[str, Any], dict[int, int | None]]:
    """The pool at this moment, and the workers' process ids.

    Parameters
    ----------
    after
        Of ended requests only those that ended after this point of the monotonic clock; None: the
        latest thousand.
    details
        With errors, sessions and statistics, which otherwise are None: not looked at.
    """
    now, shift = time.monotonic(), time.time() - time.monotonic()
    core, activity = driver.core, driver.activity
    waiters = [*itertools.islice(_waiting(driver), _WAITERS)]
    last = activity.recent[-1].ended if activity.recent else None
    failure = driver.condition.degraded_by if core.state is PoolState.DEGRADED else None
    state = {
        "type": "pool_state",
        "v": VERSION,
        "now": now + shift,
        "pool": driver.name,
        "state": core.state.value,
        "reason": answers.degraded_reason(driver),
        "log": str(getattr(failure, "stderr", "") or "")[-4000:] or None,
        "size": core.config.size,
        "overflow": core.config.overflow,
        "memory_limit": driver.config.memory_limit,
        "counts": {state.value: count for state, count in core.counts().items() if count},
        "waiting": core.queue_length,
        "waiting_since": round(waiters[0].created + shift, 3)
        if waiters and core.queue_length
        else None,
        "rate": activity.rate(now),
        "last_ended": None if last is None else last + shift,
        "workers": [_worker(driver, worker_id, shift) for worker_id in sorted(core.workers)],
        "blocks": [
            *activity.ended_after(after),
            *(_running_block(request, shift) for request in _running(driver)),
        ],
        "waiters": [_running_block(request, shift) for request in waiters],
        "error_count": activity.error_count,
        "errors": None,
        "sessions": None,
        "stats": None,
    }
    if details:
        state["errors"] = [_ended_block(block, shift) for block in activity.errors]
        sessions = [*answers.sessions(driver).values()][-_SESSIONS:]
        state["sessions"] = [asdict(session) for session in reversed(sessions)]
        state["stats"] = _stats(driver)
    return state, {worker_id: link.pid for worker_id, link in driver.links.items()}


def _worker(driver: Driver, worker_id: int, shift: float) -> dict[str, Any]:
    record = driver.core.workers[worker_id]
    request = driver.holder(worker_id)
    return {
        "id": worker_id,
        "state": record.state.value,
        "since": round(record.since + shift, 3),
        "overflow": record.overflow,
        "request": request.id if request else None,
        "served": record.served,
        "memory": None,  # measured by whoever asks: not for the I/O thread
    }


def _running(driver: Driver) -> list[Request]:
    """What workers run, and the leases that hold them."""
    found = []
    for record in driver.core.workers.values():
        for request_id in (record.lease_id, record.request_id):
            request = driver.requests.get(str(request_id)) if request_id is not None else None
            if request is not None and request.first_dispatched is not None:
                found.append(request)
    return found


def _waiting(driver: Driver) -> Iterator[Request]:
    """Who waits for a worker, the oldest first. (Requests are kept in the order they came in.)"""
    for request in driver.requests.values():
        if request.first_dispatched is None and request.lease is None:
            yield request


def _ended_block(block: Block, shift: float) -> dict[str, Any]:
    return {
        "id": block.id,
        "kind": block.kind,
        "worker": block.worker,
        "queued": round(block.queued + shift, 3),
        "started": None if block.started is None else round(block.started + shift, 3),
        "ended": round(block.ended + shift, 3),
        "outcome": block.outcome,
        "code": block.code,
        "session": block.session,
        "cell": block.cell,
        "error": block.error,
    }


def _running_block(request: Request, shift: float) -> dict[str, Any]:
    started = request.first_dispatched
    return {
        "id": request.id,
        "kind": _kind(request),
        "worker": request.worker_id,
        "queued": round(request.created + shift, 3),
        "started": None if started is None else round(started + shift, 3),
        "ended": None,
        "outcome": None,
        "code": _excerpt(request),
        "session": request.session_id,
        "cell": request.cell,
        "error": None,
    }


def _stats(driver: Driver) -> dict[str, Any]:
    stats, _ = answers.stats(driver)
    return {
        "uptime": stats.uptime,
        "requests": stats.requests,
        "queue_high_water": stats.queue_high_water,
        "waits": asdict(stats.waits),
        "runs": asdict(stats.runs),
        "workers_started": stats.workers_started,
        "workers_lost": stats.workers_lost,
        "workers_killed": stats.workers_killed,
        "workers_recycled": stats.workers_recycled,
    }
