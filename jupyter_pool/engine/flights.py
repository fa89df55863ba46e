"""What one worker was sent and has not answered yet.

A flight takes off when its message is sent and leaves when it has landed, that is, when both its reply
and its idle status are there:

    add ──▶ Flights, in the order in which the worker serves them ──▶ leave
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .marks import Marks

if TYPE_CHECKING:
    from jupyter_pool.outputs import OutputCollector

    from .loop import Engine
    from .receiving import Receiver
    from .request import Request
    from .setups import Setup
    from .wire import Message

__all__ = ["Flight", "Flights"]


@dataclass(slots=True, eq=False)
class Flight:
    """One request message on its way: sent, not yet both answered and idle."""

    message_id: str
    #: None: a probe, a setup or a reset.
    request: Request | None
    #: None: it has put out nothing yet.
    collector: OutputCollector | None = None
    reply: Message | None = None
    reply_type: str = "execute_reply"
    #: Of a call, as sent.
    header: bytes = b""
    #: Of a cell: when what came. None: nothing has yet.
    marks: Marks | None = None
    started: bool = False
    interruptible: bool = False
    interrupt: bool = False
    idle: bool = False
    #: What is run, if it is a setup.
    setup: Setup | None = None
    #: A later request whose status shows that an idle status which is not here by then is lost.
    fence: str | None = None
    #: How long it took, where the worker says so.
    seconds: float | None = None
    #: It was sent along behind others, and may begin only by a ticket; see `riding`.
    ticketed: bool = False

    def mark(self) -> Marks:
        """Where to note that something came."""
        if self.marks is None:
            self.marks = Marks()
        return self.marks


class Flights(dict[str, Flight]):
    """The flights of one worker by message id, in the order in which it serves them.

    A dict, for nearly every message looks into it. Lives on the I/O thread.
    """

    def __init__(self, engine: Engine, hearer: Receiver) -> None:
        super().__init__()
        self._engine = engine
        self._hearer = hearer
        #: How many have left.
        self.done = 0

    @property
    def first(self) -> Flight | None:
        """What the worker has to answer first: mostly all that it has."""
        return next(iter(self.values()), None)

    @property
    def last(self) -> Flight | None:
        """What the worker has to answer last."""
        return next(reversed(self.values()), None)

    def of(self, request: Request) -> Flight | None:
        """The flight of a request, if this worker has it."""
        return next((each for each in self.values() if each.request is request), None)

    def ticketed(self) -> list[Flight]:
        """Those that need a ticket to begin, as far as they have not left."""
        return [each for each in self.values() if each.ticketed]

    def add(self, flight: Flight) -> Flight:
        """Wait for its answer, and for what is published for it."""
        self[flight.message_id] = flight
        self._engine.expect(flight.message_id, self._hearer)
        return flight

    def add_all(self, flights: Sequence[Flight]) -> None:
        """`add` for each."""
        expect, hearer = self._engine.expect, self._hearer
        for flight in flights:
            self[flight.message_id] = flight
            expect(flight.message_id, hearer)

    def rename(self, flight: Flight, message_id: str) -> None:
        """It is sent again under another id. It keeps its place: what a worker has is answered in order."""
        self._engine.forget(flight.message_id)
        flight.message_id = message_id
        flights = list(self.values())
        self.clear()
        self.update((each.message_id, each) for each in flights)
        self._engine.expect(message_id, self._hearer)

    def leave(self, flight: Flight) -> None:
        """It has landed."""
        self.done += 1
        self.pop(flight.message_id, None)
        self._engine.forget(flight.message_id)
        if flight.fence is not None:
            self._engine.forget(flight.fence)

    def give_back(self, flight: Flight) -> None:
        """The worker will not begin it."""
        del self[flight.message_id]
        self._engine.forget(flight.message_id)
