"""The way of comm messages through one worker's channels, and of what it publishes for them.

See `comms`. Lives on the I/O thread.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from jupyter_pool.outputs import OutputCollector

from .comms import COMM_TYPES, CommMessage, comm_event
from .staying import lease_of, note_use

if TYPE_CHECKING:
    from .driver import Driver
    from .flights import Flight
    from .link import Link
    from .request import Request
    from .wire import Message

__all__ = ["CommTraffic", "keep_listening", "send_comm"]

#: For how many comm messages what is still published is waited for, after their callbacks have
#: returned: they may have left tasks and threads behind.
_REMEMBERED = 256


def send_comm(driver: Driver, request_id: str, message: CommMessage) -> str | None:
    """Send a comm message to the worker of a request; its id, or None if there is none."""
    # It may have ended and left a lease behind, by now.
    request = driver.requests.get(request_id) or driver.requests.get(lease_of(request_id))
    if request is None or not request.comms or request.first_dispatched is None:
        return None
    link = driver.links.get(request.worker_id or 0)
    return None if link is None or link.exited else link.receiver.traffic.send(request, message)


def keep_listening(driver: Driver, flight: Flight) -> None:
    """A run has ended: within a lease that takes comm messages, it may have left something."""
    request = flight.request
    lease = driver.requests.get(request.lease) if request and request.lease else None
    if lease is not None and lease.comms:
        driver.links[lease.worker_id or 0].receiver.traffic.keep(flight.message_id, lease)


class CommTraffic:
    """What one worker publishes beside its requests. Lives on the I/O thread."""

    def __init__(self, link: Link, output_types: frozenset[str]) -> None:
        self._link = link
        self._output_types = output_types
        self._owners: dict[str, Request] = {}
        self._sent: deque[str] = deque()
        #: Those of them that the worker is not done with.
        self._unanswered: set[str] = set()

    def send(self, request: Request, message: CommMessage) -> str:
        """Send a message for a request that has this worker; its id."""
        message_id = self._link.engine.new_id()
        self._sent.append(message_id)
        self._expect(message_id, request)
        self._unanswered.add(message_id)
        note_use(self._link.driver, request, used=True)
        if len(self._sent) > _REMEMBERED:
            self._forget(self._sent.popleft())
        self._link.send_comm(message_id, message)
        return message_id

    def keep(self, message_id: str, lease: Request) -> None:
        """What a lease ran has ended; what it left behind may still publish for its cell."""
        self._expect(message_id, lease)

    def hand_over(self, request: Request, lease: Request) -> None:
        """What was sent for a request belongs to the lease that it leaves behind."""
        for message_id, owner in self._owners.items():
            if owner is request:
                self._owners[message_id] = lease

    @property
    def is_awaited(self) -> bool:
        """Whether the worker has something to answer."""
        return bool(self._unanswered)

    def _expect(self, message_id: str, request: Request) -> None:
        self._owners[message_id] = request
        self._link.engine.expect(message_id, self._link.receiver)

    def _forget(self, message_id: str) -> None:
        self._unanswered.discard(message_id)
        if self._owners.pop(message_id, None) is not None:
            self._link.engine.forget(message_id)

    def heard(self, message: Message) -> bool:
        """Hand on what was published; False if it belongs to no message of ours."""
        request = self._owners.get(message.parent_id)
        if request is None:
            return False
        kind = message.msg_type
        if kind in COMM_TYPES:
            request.sink.output(comm_event(message))
        elif kind in self._output_types:
            event = OutputCollector().add(kind, message.content)
            if event is not None:
                request.sink.output({**event, "parent": message.parent_id})
        elif kind == "status" and message.content.get("execution_state") == "idle":
            request.sink.output({"output_type": "idle", "parent": message.parent_id})
            if message.parent_id in self._unanswered:
                self._unanswered.discard(message.parent_id)
                if not self._unanswered:
                    note_use(self._link.driver, request, used=False)
        return True

    def end(self, request: Request) -> None:
        """The request has this worker no more."""
        for message_id in [key for key, owner in self._owners.items() if owner is request]:
            self._forget(message_id)
