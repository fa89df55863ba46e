"""All workers, sorted by state, and who of them has a seat.

A *seat* is a place among the workers that serve: there are `size` base seats and `overflow` more.
Starting, standby and stopping workers have none. Seats are not tied to workers: which of them is
called an overflow worker is a label, handed on when a base worker leaves.

Of the idle workers the most recently used is taken first. It is the one whose caches are warm, and
the surplus sinks to the bottom, where it grows old enough to be stopped. Preferring base workers
would gain nothing, as the labels are handed on.
"""

from __future__ import annotations

from collections import OrderedDict

from .events import WorkerId
from .state import SEATED, WorkerRecord, WorkerState

__all__ = ["Roster", "newest", "oldest"]


class Roster:
    """The workers that are not gone. Everything is O(1) but `relabel`."""

    __slots__ = (
        "_by_state",
        "_last_id",
        "_overflow",
        "_size",
        "_taken",
        "idle",
        "records",
        "seated",
        "standby",
        "starting",
    )

    def __init__(self, size: int) -> None:
        self.records: dict[WorkerId, WorkerRecord] = {}
        self.seated = 0
        self._size = size
        self._last_id = 0
        # Each in the order in which they entered that state.
        self._by_state: dict[WorkerState, OrderedDict[WorkerId, WorkerRecord]] = {
            state: OrderedDict() for state in WorkerState if state is not WorkerState.GONE
        }
        self.idle = self._by_state[WorkerState.IDLE]
        self.standby = self._by_state[WorkerState.STANDBY]
        self.starting = self._by_state[WorkerState.STARTING]
        self._taken = [
            self._by_state[state]
            for state in (WorkerState.BUSY, WorkerState.LEASED, WorkerState.INTERRUPTING)
        ]
        self._overflow: OrderedDict[WorkerId, WorkerRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self.records)

    def count(self, state: WorkerState) -> int:
        """How many are in this state."""
        return len(self._by_state[state])

    @property
    def taken(self) -> int:
        """How many have something to do: a request, a lease, or one that is being interrupted."""
        return sum(map(len, self._taken))

    def add(self, now: float) -> WorkerRecord:
        """Make a new worker, which starts now."""
        self._last_id += 1
        worker = WorkerRecord(self._last_id, WorkerState.STARTING, since=now, started_at=now)
        self.records[worker.id] = worker
        self._by_state[worker.state][worker.id] = worker
        return worker

    def move(self, worker: WorkerRecord, state: WorkerState, now: float) -> None:
        """Take one step of its lifecycle."""
        before = worker.state
        worker.move(state, now)
        del self._by_state[before][worker.id]
        if state is WorkerState.GONE:
            del self.records[worker.id]
        else:
            self._by_state[state][worker.id] = worker
        if (state in SEATED) is not (before in SEATED):
            if state in SEATED:
                self._take_seat(worker)
            else:
                self._leave_seat(worker)

    def relabel(self, size: int) -> None:
        """Hand out the labels anew for another number of base seats, the eldest first. O(n)."""
        self._size = size
        seated = [worker for worker in self.records.values() if worker.state in SEATED]
        self._overflow = OrderedDict((worker.id, worker) for worker in seated[size:])
        for worker in seated:
            worker.overflow = worker.id in self._overflow

    def _take_seat(self, worker: WorkerRecord) -> None:
        self.seated += 1
        if self.seated > self._size:
            worker.overflow = True
            self._overflow[worker.id] = worker

    def _leave_seat(self, worker: WorkerRecord) -> None:
        self.seated -= 1
        if worker.overflow:
            worker.overflow = False
            del self._overflow[worker.id]
        elif self._overflow:
            _, heir = self._overflow.popitem(last=False)
            heir.overflow = False


def oldest(workers: OrderedDict[WorkerId, WorkerRecord]) -> WorkerRecord:
    """The one that has been in its state for longest: the least recently used of the idle."""
    return next(iter(workers.values()))


def newest(workers: OrderedDict[WorkerId, WorkerRecord]) -> WorkerRecord:
    """The one that entered its state last: the most recently used of the idle."""
    return next(reversed(workers.values()))
