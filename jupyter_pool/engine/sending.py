"""Function calls on their way to one worker: alone, or several in one message; see `riding`.

    Driver ── send ──────────────▶ call_request ═══▶ worker
           ── ride ──▶ tickets, calls_request ═════▶
           ◀── take_back ── what it has not begun

A worker keeps the functions that it was sent, so that most calls are sent without theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import GivenBack

from . import wire
from .flights import Flight
from .riding import PATIENCE, RiddenCall, Rides, pack_calls
from .sockets import send

if TYPE_CHECKING:
    from .connection import Connection
    from .data import Outbox
    from .driver import Driver
    from .receiving import Receiver
    from .request import Request
    from .wire import Buffer

__all__ = ["CallSender"]


class CallSender:
    """Sends one worker its calls. Lives on the I/O thread."""

    def __init__(
        self,
        driver: Driver,
        worker_id: int,
        connection: Connection,
        receiver: Receiver,
        outbox: Outbox,
    ) -> None:
        self._driver = driver
        self._worker_id = worker_id
        self._connection = connection
        self._receiver = receiver
        self._flights = receiver.flights
        self._outbox = outbox
        #: Names of the functions that the worker was sent.
        self._functions: set[str] = set()
        #: What the last call said of itself, and its frames.
        self._said: tuple[Any, bytes, bytes] = (None, b"", b"")
        #: None: it takes one call at a time.
        self._rides: Rides | None = None
        #: How many calls were sent by `ride`.
        self.ridden = 0
        self._watched = False

    def send(self, flight: Flight, request: Request, split: int) -> None:
        """Send a call, with its function unless the worker should have it."""
        first = 0
        content: dict[str, Any] = {"v": 1, "split": split}
        program = request.program
        sent: list[Buffer] = []
        if program is not None:
            sent = self._outbox.pack_program(program)
            content["split"] = len(sent)
            content["program"] = {
                "name": program.name,
                "outputs": program.outputs,
                "reload": program.reload,
                "size": program.size,
            }
        elif (name := request.function) is not None:
            content["function"] = name
            if name in self._functions:
                first, content["split"] = split, 0
            self._functions.add(name)
        frames, more = self._outbox.pack(request, first)
        if sent:
            frames = [*sent, *frames]
        # Calls mostly say the same of themselves as those before them.
        envelope = self._driver.envelopes.of(request)
        envelope.update(more)
        said = (envelope, content)
        if said != self._said[0]:
            self._said = (said, wire.dump({"jupyter_pool": said[0]}), wire.dump(content))
        date = datetime.now(timezone.utc).isoformat()
        connection = self._connection
        packed, flight.header = connection.signer.pack_call(
            flight.message_id, date, *self._said[1:], frames
        )
        send(connection.shell, connection.name, packed)

    def send_again(self, flight: Flight, name: str) -> None:
        """The worker has lost a function or program, or never had it: send the call with it."""
        request = flight.request
        assert request is not None
        assert request.split is not None
        self._functions.discard(name)
        self._outbox.lost(name)
        flight.ticketed = False
        self._flights.rename(flight, f"{flight.message_id}f")
        self.send(flight, request, request.split)

    # -- several together --------------------------------------------------------------------

    def allow_rides(self, sockets: str) -> None:
        """The worker takes several calls in one message; `sockets`: what its files are named after."""
        self._rides = Rides(sockets)

    def can_ride(self, request: Request) -> bool:
        """Whether this request can be sent together with others."""
        return self._rides is not None and request.split is not None

    def ride(self, requests: Sequence[Request], *, first: bool = False) -> None:
        """Send calls together, to be served after what it has; `first`: it has nothing yet.

        Raises
        ------
        OSError
            That cannot be done: none was sent.
        """
        rides = self._rides
        assert rides is not None
        calls: list[RiddenCall] = []
        told: dict[str, Any] = {}
        alike: Request | None = None
        for request in requests:
            assert request.split is not None
            self.ridden += 1
            # Sent again, it must be told from what it was before.
            message_id = f"{request.id}.{request.attempt}r{self.ridden}"
            begin = 0
            if (name := request.function) is not None and name in self._functions:
                begin = request.split
            frames, more = self._outbox.pack(request, begin)
            if alike is None or not _are_told_the_same(request, alike):
                told, alike = self._driver.envelopes.of(request), request
            envelope = {**told, **more} if more else told
            calls.append((message_id, envelope, request, request.split - begin, frames))
        number = rides.issue(len(calls) - first)
        content, metadata, buffer = pack_calls(number, first, calls)
        flights = []
        for message_id, _, request, _, _ in calls:
            if request.function is not None:
                self._functions.add(request.function)
            flight = Flight(message_id, request, reply_type="call_reply", ticketed=True)
            flights.append(flight)
        if first:
            flights[0].ticketed = False
        self._flights.add_all(flights)
        message_id = self._driver.engine.new_id()
        self._connection.send("calls_request", message_id, content, metadata, [buffer])
        if not self._watched and flights[-1].ticketed:
            self._watched = True
            self._watch()

    def _watch(self) -> None:
        """Take back what waits behind a call that takes long."""
        assert self._rides is not None
        before = self._flights.done, self._rides.left()

        def look() -> None:
            rides = self._rides
            self._watched = rides is not None and bool(self._flights.ticketed())
            if not self._watched:
                return
            # Not the answers alone: those of quick calls come together, and not at once.
            if rides is not None and before == (self._flights.done, rides.left()):
                self.take_back()
            self._watch()

        self._driver.engine.after(PATIENCE, look)

    def take_back(self) -> None:
        """Have the worker not begin what it has not begun, and see what it has done."""
        rides, flights = self._rides, self._flights
        back: list[Flight] = []
        if rides is not None and (unbegun := rides.take_back()):
            back = flights.ticketed()[-unbegun:]
        for flight in back:
            flights.give_back(flight)
        ids = tuple(flight.request.id for flight in back if flight.request is not None)
        # First, or the worker would get what comes after these.
        self._driver.feed(GivenBack(self._worker_id, ids))
        if rides is not None:
            # It is known what has begun, so all before that is entered by now.
            self._receiver.take_answers(rides.answers(flights))

    def close(self) -> None:
        """The worker is gone."""
        if self._rides is not None:
            self._rides.close()
            self._rides = None


def _are_told_the_same(one: Request, other: Request) -> bool:
    """Whether the envelopes of two calls that may ride along say the same."""
    return (
        one.output_limit == other.output_limit
        and one.context == other.context
        and one.seed == other.seed
        and bool(one.comms) == bool(other.comms)
    )
