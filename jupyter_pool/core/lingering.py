"""Leases on sufferance: whoever has one keeps its worker for as long as nobody needs it.

    request ──done──▶ lease on sufferance ──▶ over, once somebody would have to wait for a worker,
                          │      ▲            or once the worker is to be replaced, set up or spared
                       occupied ─┘

Nothing is run in such a lease, so its worker is as good as idle: whoever comes takes it as it is, and
what was left in it is cleaned up as part of what comes. While it is *occupied* it does something for
its holder that nobody else could interrupt, so others go first; it is then reset, which has its own
time limit. The one that was not occupied for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from .events import RequestId
from .state import LeaseRecord

__all__ = ["Lingering"]


class Lingering:
    """The leases on sufferance, the next to go first."""

    __slots__ = ("_leases", "_occupied")

    def __init__(self) -> None:
        self._leases: OrderedDict[RequestId, LeaseRecord] = OrderedDict()
        self._occupied: set[RequestId] = set()

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[LeaseRecord]:
        """All of them, as they are now: they may go meanwhile."""
        return iter(list(self._leases.values()))

    def __contains__(self, lease_id: RequestId) -> bool:
        return lease_id in self._leases

    def add(self, lease: LeaseRecord) -> None:
        """One more."""
        self._leases[lease.id] = lease

    def discard(self, lease_id: RequestId) -> None:
        """It is over, or is ending for another reason."""
        if self._leases.pop(lease_id, None) is not None:
            self._occupied.discard(lease_id)

    def occupy(self, lease_id: RequestId, occupied: bool) -> None:
        """Note whether its worker does something for its holder."""
        if lease_id not in self._leases:
            return
        self._leases.move_to_end(lease_id)
        if occupied:
            self._occupied.add(lease_id)
        else:
            self._occupied.discard(lease_id)

    def next(self, *, occupied: bool = False) -> LeaseRecord | None:
        """The next to go, of those that are occupied or of the others. O(those passed over)."""
        for lease_id, lease in self._leases.items():
            if (lease_id in self._occupied) is occupied:
                return lease
        return None
