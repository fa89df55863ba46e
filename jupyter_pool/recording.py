"""A recording of what a pool did, and its picture in the trace format of Chrome and Perfetto.

lanes     queue      each request, while it waits ┐ a flow
worker 1   its start; each request ◀────┘ while it runs
worker 1, leased    the leases that held it
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Callable
from typing import Any

from jupyter_pool.telemetry import SCHEMA_VERSION, PoolEvent

__all__ = ["Recording", "chrome_trace"]

_ENDS = ("request_finished", "request_failed", "request_timed_out", "request_cancelled")
_PID = 1
#: Lanes of the queue have numbers from here on, so that they come first; workers' ids follow.
_WORKER_LANES, _LEASE_LANES = 1_000, 1_000_000
_POOL_LANE = 0


class Recording:
    """The events of a pool between the beginning and the end of a ``with pool.record() as recording:``.

    Attributes
    ----------
    events
        A list of `PoolEvent`, in order.
    """

    def __init__(
        self, pool: str, subscribe: Callable[[Callable[[PoolEvent], object]], Any]
    ) -> None:
        self.events: list[PoolEvent] = []
        self._pool = pool
        self._subscribe = subscribe
        self._subscription: Any = None

    def __enter__(self) -> Recording:
        if self._subscription is not None:
            raise RuntimeError("a recording is made once: call pool.record() again")
        self._subscription = self._subscribe(self.events.append)
        return self

    def __exit__(self, *how: object) -> None:
        self._subscription.close()

    @property
    def dropped(self) -> int:
        """How many events are missing because they came too fast."""
        return 0 if self._subscription is None else int(self._subscription.dropped)

    def trace(self) -> dict[str, Any]:
        """What happened up to now, as an object in the Chrome trace format."""
        if self._subscription is not None:
            self._subscription.flush()
        return chrome_trace(self._pool, list(self.events))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `trace` as JSON, for https://ui.perfetto.dev or chrome://tracing.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        text = json.dumps(self.trace(), ensure_ascii=False)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


def chrome_trace(pool: str, events: list[PoolEvent]) -> dict[str, Any]:
    """Events as an object in the Chrome trace format: complete events in lanes, with flows."""
    drawing = _Drawing(pool, events[0].time if events else 0.0)
    for event in events:
        drawing.add(event)
    if events:
        drawing.finish(events[-1].time)
    return {
        "traceEvents": drawing.named_lanes() + drawing.items,
        "displayTimeUnit": "ms",
        "otherData": {"pool": pool, "schema_version": SCHEMA_VERSION},
    }


class _Drawing:
    """Slices under way, and those that are done. Times are in seconds from the first event on."""

    def __init__(self, pool: str, began: float) -> None:
        self._pool = pool
        self._began = began
        self.items: list[dict[str, Any]] = []
        self._lanes: dict[int, str] = {_POOL_LANE: "pool"}
        self._starting: dict[int, float] = {}
        self._queued: dict[str, tuple[float, PoolEvent]] = {}
        self._running: dict[str, tuple[float, PoolEvent]] = {}
        #: The requests whose way has begun in the queue.
        self._flows: set[str] = set()
        #: Until when lanes of the queue are in use; and the free ones.
        self._queue_lanes: list[tuple[float, int]] = []
        #: Where a lane's last slice ended: clocks have no say in whether slices overlap.
        self._until: dict[int, float] = {}

    def named_lanes(self) -> list[dict[str, Any]]:
        """What the process and its lanes are called, and their order."""
        named = [_meta("process_name", _POOL_LANE, name=f"pool {self._pool}")]
        for lane, name in sorted(self._lanes.items()):
            named.append(_meta("thread_name", lane, name=name))
            named.append(_meta("thread_sort_index", lane, sort_index=lane))
        return named

    def add(self, event: PoolEvent) -> None:
        """Draw one event."""
        at, worker_id, request_id = event.time - self._began, event.worker_id, event.request_id
        if event.type == "worker_starting" and worker_id is not None:
            self._starting[worker_id] = at
        elif event.type == "request_queued" and request_id is not None:
            self._queued[request_id] = (at, event)
        elif event.type in ("request_started", "request_retried") and request_id is not None:
            self._end_run(request_id, at, event)
            self._end_wait(request_id, at)
            self._running[request_id] = (at, event)
        elif event.type in _ENDS and request_id is not None:
            self._end_run(request_id, at, event)
            self._end_wait(request_id, at)
        else:
            self._end_start(event, at)
            self._instant(event, at)

    def finish(self, last: float) -> None:
        """Draw what has not ended up to its latest moment."""
        at = last - self._began
        for request_id in list(self._running):
            self._end_run(request_id, at, None)
        for request_id in list(self._queued):
            self._end_wait(request_id, at)

    def _end_start(self, event: PoolEvent, at: float) -> None:
        began = self._starting.pop(event.worker_id or 0, None)
        if began is not None and event.worker_id is not None:
            args = {"became": event.type, **event.data}
            self._slice(self._worker_lane(event.worker_id), "start", "worker", began, at, args)

    def _end_wait(self, request_id: str, at: float) -> None:
        began, event = self._queued.pop(request_id, (None, None))
        if began is None or event is None or "lease" in event.data:
            return
        lane = self._queue_lane(began, at)
        began, _ = self._slice(lane, _name(event), "queue", began, at, _ids(event))
        # From there an arrow leads to where it runs.
        self._flows.add(request_id)
        self._item("s", lane, began, name="dispatch", cat="flow", id=request_id)

    def _end_run(self, request_id: str, at: float, end: PoolEvent | None) -> None:
        began, event = self._running.pop(request_id, (None, None))
        if began is None or event is None or event.worker_id is None:
            return
        lane = self._worker_lane(event.worker_id)
        if event.kind == "lease":
            lane += _LEASE_LANES
            self._lanes[lane] = f"worker {event.worker_id}, leased"
        args = _ids(event)
        if end is not None:
            # A second attempt ends the first.
            args["end"] = end.type.removeprefix("request_")
            args.update(end.data)
        began, until = self._slice(lane, _name(event), event.kind or "", began, at, args)
        if request_id in self._flows and event.type == "request_started":
            self._item("f", lane, began, name="dispatch", cat="flow", id=request_id, bp="e")
        first = ((end.data.get("timeline") or {}) if end is not None else {}).get("first_output")
        if end is not None and first is not None:
            # Relative to when it was queued, as is `waited`.
            then = min(until, max(began, began + first - (end.waited or 0.0)))
            self._item("i", lane, then, name="first output", cat="output", s="t")

    def _instant(self, event: PoolEvent, at: float) -> None:
        if event.type in ("worker_ready", "session_started", "session_expired"):
            return
        lane = _POOL_LANE if event.worker_id is None else self._worker_lane(event.worker_id)
        scope = "p" if event.worker_id is None else "t"
        self._item("i", lane, at, name=event.type, cat="pool", s=scope, args=dict(event.data))

    def _worker_lane(self, worker_id: int) -> int:
        lane = _WORKER_LANES + worker_id
        self._lanes[lane] = f"worker {worker_id}"
        return lane

    def _queue_lane(self, began: float, until: float) -> int:
        """The first that is free: those who wait at the same time are in lanes of their own."""
        if self._queue_lanes and self._queue_lanes[0][0] <= began:
            _, lane = heapq.heappop(self._queue_lanes)
        else:
            lane = len(self._queue_lanes) + 1
            self._lanes[lane] = "queue" if lane == 1 else f"queue {lane}"
        heapq.heappush(self._queue_lanes, (until, lane))
        return lane

    def _slice(
        self, lane: int, name: str, category: str, began: float, until: float, args: dict[str, Any]
    ) -> tuple[float, float]:
        began = max(began, self._until.get(lane, 0.0))
        until = self._until[lane] = max(began, until)
        self._item("X", lane, began, dur=_micro(until - began), name=name, cat=category, args=args)
        return began, until

    def _item(self, phase: str, lane: int, at: float, **more: Any) -> None:
        self.items.append({"ph": phase, "pid": _PID, "tid": lane, "ts": _micro(at), **more})


def _micro(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e6, 3)


def _meta(what: str, lane: int, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": _PID, "tid": lane, "ts": 0, "args": args}


def _name(event: PoolEvent) -> str:
    return f"{event.kind} {event.request_id}"


def _ids(event: PoolEvent) -> dict[str, Any]:
    ids = {"request_id": event.request_id, "session_id": event.session_id, "waited": event.waited}
    return {name: value for name, value in ids.items() if value is not None}
