"""Deadlines, the next of which is always at hand.

A timer is named by its kind and its subject, so there is at most one of each, and whoever sets it
need not keep a handle.

Timeouts hardly vary, so the deadlines of one kind mostly come in order: each kind has a *lane*, in
which the first is the next, setting appends and cancelling removes, all O(1) however many there are.
A deadline that comes out of order goes to a heap that all kinds share. There, cancelling only forgets
the name; the dead entry is skipped when it comes up, or swept out when the dead outnumber the living:
O(log n), amortised, and cancelled timers cannot pile up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

__all__ = ["TimerKind", "Timers"]


class TimerKind(IntEnum):
    """What is due. Of those due at the same time, the kinds fire in this order."""

    CHECKOUT = 0
    """A queued request has not got a worker in time."""
    RUN = 1
    """A request has used up its run timeout."""
    GRACE = 2
    """An interrupted worker has not proved idle in time."""
    START = 3
    """A worker has not become ready in time."""
    PROOF = 4
    """A worker has lived long enough for its start to count as a success."""
    RESET = 5
    """A worker has not answered a reset in time."""
    SETUP = 6
    """A worker has not run a setup in time."""
    LIFETIME = 7
    """A worker is old."""
    SHRINK = 8
    """The longest idle worker may be one too many."""
    BACKOFF = 9
    """Starts are allowed again."""


_Key: TypeAlias = tuple[TimerKind, Hashable]

_NEVER: Final = float("inf")
_SWEEP_ABOVE: Final = 64  # sweeping a small heap gains nothing


class Timers:
    """Deadlines by kind and subject."""

    __slots__ = ("_heap", "_in_heap", "_lanes", "_serial", "not_before")

    def __init__(self) -> None:
        self._lanes: dict[TimerKind, OrderedDict[Hashable, float]] = {
            kind: OrderedDict() for kind in TimerKind
        }
        # By time, then by kind.
        self._heap: list[tuple[float, TimerKind, int, _Key]] = []
        self._in_heap: dict[_Key, int] = {}  # the serial number of the entry that counts
        self._serial = 0
        self.not_before = _NEVER
        """Nothing is due before, which spares most searches. Others only read it."""

    def __len__(self) -> int:
        """How many timers are set."""
        return sum(map(len, self._lanes.values())) + len(self._in_heap)

    def __contains__(self, key: _Key) -> bool:
        kind, subject = key
        return subject in self._lanes[kind] or key in self._in_heap

    def set(self, kind: TimerKind, subject: Hashable, when: float) -> None:
        """Set the timer, or move it."""
        self.cancel(kind, subject)
        lane = self._lanes[kind]
        if not lane or when >= next(reversed(lane.values())):
            lane[subject] = when
        else:
            self._push(when, (kind, subject))
        self.not_before = min(self.not_before, when)

    def _push(self, when: float, key: _Key) -> None:
        self._serial += 1
        self._in_heap[key] = self._serial
        heappush(self._heap, (when, key[0], self._serial, key))
        if len(self._heap) > 2 * len(self._in_heap) + _SWEEP_ABOVE:
            self._heap = [entry for entry in self._heap if self._in_heap.get(entry[3]) == entry[2]]
            heapify(self._heap)

    def cancel(self, kind: TimerKind, subject: Hashable) -> None:
        """Forget the timer; no matter if there is none."""
        if self._lanes[kind].pop(subject, None) is None and self._in_heap:
            self._in_heap.pop((kind, subject), None)

    def clear(self) -> None:
        """Forget all timers."""
        for lane in self._lanes.values():
            lane.clear()
        self._heap.clear()
        self._in_heap.clear()

    def next(self) -> float | None:
        """When the next timer is due."""
        when, _ = self._first()
        self.not_before = when
        return None if when == _NEVER else when

    def pop_due(self, now: float) -> _Key | None:
        """Take out the next timer if it is due: never before its time."""
        if now < self.not_before:
            return None
        when, key = self._first()
        if key is None or when > now:
            self.not_before = when
            return None
        self.cancel(*key)
        return key

    def _first(self) -> tuple[float, _Key | None]:
        first, key = self._first_in_heap()
        for kind, lane in self._lanes.items():
            if lane:
                subject, when = next(iter(lane.items()))
                # The lanes come in the order of their kinds, but what the heap has may be of any.
                if when < first or (when == first and key is not None and kind < key[0]):
                    first, key = when, (kind, subject)
        return first, key

    def _first_in_heap(self) -> tuple[float, _Key | None]:
        heap = self._heap
        while heap:
            when, _, serial, key = heap[0]
            if self._in_heap.get(key) == serial:
                return when, key
            heappop(heap)
        return _NEVER, None
