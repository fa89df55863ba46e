"""Who waits, and who is next: first come first served in a group, groups take turns.

    groups in turn      waiters in order
    sweep           ──▶ item 17, item 18, item 19, …
    session "ada"   ──▶ cell
    session "bob"   ──▶ cell, cell

The next is the first waiter of the first group; then that group goes to the back. So a person's next
cell waits for at most one request of every other group, never for somebody's whole sweep.

Whoever had the turn and cannot use what is free is *set aside*: out of the line, so that those behind
may use it, but waiting all the same, and ahead of all of them. All operations are O(1) but `position`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from .events import RequestId
from .state import RequestRecord

__all__ = ["FairQueue"]


class FairQueue:
    """The requests that wait for a worker."""

    __slots__ = ("_groups", "aside", "in_line")

    def __init__(self) -> None:
        # An OrderedDict, not a dict: taking its first key again and again stays O(1).
        self._groups: OrderedDict[Hashable, OrderedDict[RequestId, RequestRecord]] = OrderedDict()
        self.aside: OrderedDict[RequestId, RequestRecord] = OrderedDict()
        """Those set aside, in the order in which they were. Others only read it."""
        self.in_line = 0
        """How many wait for their turn."""

    def __len__(self) -> int:
        return len(self.aside) + self.in_line

    def __iter__(self) -> Iterator[RequestRecord]:
        """All waiters: those set aside, then group by group."""
        yield from self.aside.values()
        for waiters in self._groups.values():
            yield from waiters.values()

    def __contains__(self, request: RequestRecord) -> bool:
        return request.id in self.aside or request.id in self._groups.get(request.group, ())

    def push(self, request: RequestRecord) -> None:
        """Come last in its group; a new group comes last in turn."""
        self._groups.setdefault(request.group, OrderedDict())[request.id] = request
        self.in_line += 1

    def push_front(self, request: RequestRecord) -> None:
        """Give back its turn to a request that had it and could not use it."""
        self.push(request)
        self._groups[request.group].move_to_end(request.id, last=False)
        self._groups.move_to_end(request.group, last=False)

    def pop(self) -> RequestRecord:
        """Take out the next in line. Raises StopIteration if there is none."""
        group, waiters = next(iter(self._groups.items()))
        _, request = waiters.popitem(last=False)
        self.in_line -= 1
        if not waiters:
            del self._groups[group]
        elif len(self._groups) > 1:
            self._groups.move_to_end(group)
        return request

    def set_aside(self, request: RequestRecord) -> None:
        """Have one that was popped wait outside the line, behind those that do already."""
        self.aside[request.id] = request

    def pop_aside(self) -> RequestRecord:
        """Take out the first of those set aside. Raises KeyError if there is none."""
        _, request = self.aside.popitem(last=False)
        return request

    def remove(self, request: RequestRecord) -> None:
        """Take out one that waits."""
        if self.aside.pop(request.id, None) is not None:
            return
        waiters = self._groups[request.group]
        del waiters[request.id]
        self.in_line -= 1
        if not waiters:
            del self._groups[request.group]

    def position(self, request: RequestRecord) -> int:
        """How many will be served before it, as things stand: 0 for the next. O(n)."""
        if request.id in self.aside:
            return list(self.aside).index(request.id)
        own = list(self._groups[request.group]).index(request.id)
        ahead = len(self.aside) + own
        turns = own + 1  # groups in front of its own get one turn more than it has waited
        for group, waiters in self._groups.items():
            if group == request.group:
                turns = own
            else:
                ahead += min(len(waiters), turns)
        return ahead
