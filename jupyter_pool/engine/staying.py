"""What a request leaves behind: its worker stays with whoever ran it, for the widgets it has made.

    worker ── reply: "kept" ──▶ leave_behind ── RequestDone(lease=…) ──▶ core
                                     └─ a lease, with the sink of `Stay`: it gets what the worker
                                        publishes from then on, and its end

To the holder nothing changes with the handover, which is one step on the I/O thread: comm messages are
still sent by the id of the request.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jupyter_pool.core import Occupied

from .request import Request, Sink

if TYPE_CHECKING:
    from .driver import Driver
    from .flights import Flight
    from .holding import Borrower
    from .link import Link

__all__ = ["Stay", "lease_of", "leave_behind", "note_use", "return_of"]


@dataclass(frozen=True)
class Stay:
    """That a request's worker stays when its code has ended well.

    It does so if the worker has comms open by then; for a given time in any case.
    """

    #: Told `granted` when the worker is kept; then gets what it publishes, and the end.
    sink: Sink
    #: How long, in seconds; infinity: no limit; None: for as long as nobody needs a worker.
    seconds: float | None
    #: Who wanted it.
    borrower: Borrower | None = None

    @property
    def on_sufferance(self) -> bool:
        """Whether it is over as soon as somebody needs a worker."""
        return self.seconds is None


def lease_of(request_id: str) -> str:
    """The id of the lease that a request leaves behind."""
    return f"{request_id}-stay"


def return_of(driver: Driver, request_id: str) -> None:
    """End what a request has left behind, from any thread; no matter if there is nothing."""
    driver.engine.post(lambda: driver.return_lease(lease_of(request_id)))


def leave_behind(link: Link, flight: Flight) -> str | None:
    """A request is done: make the lease that it leaves behind; its id, None if it leaves none."""
    request, reply, driver = flight.request, flight.reply, link.driver
    assert request is not None
    assert reply is not None
    stay = request.stay
    if stay is None:
        return None
    ours = reply.metadata.get("jupyter_pool") or {}
    # A foreign kernel is not reset, so it has kept everything; but not what of it is open.
    kept = ours.get("kept") or (link.foreign and not stay.on_sufferance)
    if not kept or reply.content.get("status") != "ok":
        return None
    lease = Request(
        lease_of(request.id),
        request.code,
        stay.sink,
        request.group,
        session_id=request.session_id,
        isolation=request.isolation,
        is_lease=True,
        kind="lease",
        borrower=stay.borrower,
        comms=True,
        lasts=True,
        on_sufferance=stay.on_sufferance,
        first_dispatched=time.monotonic(),
        worker_id=link.worker_id,
        title=request.title,
    )
    driver.requests[lease.id] = lease
    driver.teller.queued(lease)
    driver.teller.dispatched(lease, None)
    link.receiver.traffic.hand_over(request, lease)
    link.receiver.traffic.keep(flight.message_id, lease)
    stay.sink.granted(link.worker_id)
    if stay.seconds is not None and not math.isinf(stay.seconds):
        driver.engine.after(stay.seconds, partial(driver.return_lease, lease.id))
    return lease.id


def note_use(driver: Driver, request: Request, used: bool) -> None:
    """Comm messages to a worker are not answered yet, or all are."""
    if request.on_sufferance:
        driver.feed(Occupied(request.id, used))
