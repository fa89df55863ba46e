"""What one worker says: replies, outputs and statuses, matched by their parent's id.

    shell    reply ──────────────┐
    iopub    busy, outputs, idle ┼──▶ Flight ── reply and idle ──▶ landed ──▶ Driver, core
    control  interrupt_reply ────┘

A reply belongs to one request, which is done when both its reply and its idle status have come. iopub
may lose a status: one that is overdue is either proved lost or ends the probe that it belonged to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jupyter_pool.core import (
    InterruptDelivered,
    Occupied,
    ProtocolViolation,
    RequestDone,
    RequestRefused,
    RequestsDone,
    RequestStarted,
    ResetDone,
    WorkerSpent,
)
from jupyter_pool.outputs import OutputCollector
from jupyter_pool.shared import LostSegment, SharedMemory

from . import wire
from .comms import COMM_TYPES, comm_event
from .flights import Flight, Flights
from .riding import read_answers, read_entries
from .staying import leave_behind
from .traffic import CommTraffic, keep_listening
from .wire import Buffer, Message

if TYPE_CHECKING:
    from jupyter_pool.provisioning.launcher import Exited

    from .connection import Connection
    from .link import Link
    from .request import Request

__all__ = ["Receiver"]

#: How long an idle status may come after its reply, in seconds, before the kernel is asked for a
#: sign of its order; iopub may have dropped it.
IDLE_GRACE = 1.0
#: How long that sign may take, in seconds.
FENCE_TIMEOUT = 10.0
#: A probe whose idle status did not come (the subscription was too late) is sent again after this.
PROBE_AGAIN = 0.05

OUTPUT_TYPES = frozenset(
    {"stream", "display_data", "update_display_data", "execute_result", "clear_output", "error"}
)


class Receiver:
    """Hears one worker, and ends what it has answered. Lives on the I/O thread.

    Attributes
    ----------
    flights
        What the worker was sent and has not answered.
    traffic
        What it publishes for comm messages.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._worker_id = link.worker_id
        self._driver = link.driver
        self._endings = link.driver.endings
        self._engine = link.engine
        self.flights: Flights = Flights(link.engine, self)
        self.traffic = CommTraffic(link, OUTPUT_TYPES)
        self._connection: Connection | None = None
        self._shared: SharedMemory | None = None
        self._introduced = False
        self._pings: dict[str, Callable[[int], None]] = {}

    def listen(self, connection: Connection, shared: SharedMemory | None) -> None:
        """From now on messages may come; `shared`: where their large frames are, if there."""
        self._connection, self._shared = connection, shared
        self._engine.attach(connection.name, self)

    def expect_pong(self, message_id: str, answered: Callable[[int], None]) -> None:
        """The reply to a kernel_info_request with this id is a sign of life."""
        self._pings[message_id] = answered

    def note_last_work(self, exited: Exited) -> None:
        """The worker died: learn from its note what its last messages would have said."""
        self.take_answers(read_entries(exited.ledger, self.flights))
        flight = self.flights.get(exited.worked_on)
        if flight is not None:
            self._started(flight, interruptible=False)

    def close(self) -> None:
        """The worker is gone: whoever still waits for something of it need not."""
        self.flights.clear()
        if self._connection is not None:
            self._engine.detach(self._connection.name, self)

    # -- reading -----------------------------------------------------------------------------

    def _violated(self, what: str) -> None:
        self._driver.feed(ProtocolViolation(self._worker_id, what))

    def _unpack(self, frames: Sequence[Buffer]) -> Message | None:
        assert self._connection is not None
        try:
            return self._connection.signer.unpack(frames)
        except wire.WireError as error:
            self._violated(str(error))
            return None

    def _resolve(self, message: Message) -> bool:
        """Take what the worker put into shared memory; False if it is gone."""
        if self._shared is not None:
            try:
                message.buffers = self._shared.receive(message.buffers)
            except LostSegment as error:
                self._violated(f"a result whose shared memory is gone: {error}")
                return False
        return True

    def on_shell(self, frames: Sequence[Buffer]) -> None:
        """A reply on the shell channel."""
        flight = self.flights.first
        if (
            len(self.flights) == 1
            and flight is not None
            and flight.header
            and bytes(frames[0]) == wire.DELIMITER
        ):
            assert self._connection is not None
            signer = self._connection.signer
            message = signer.read_call(frames[1:], flight.header, flight.message_id)
            if message is not None:
                if self._resolve(message):
                    flight.idle = True  # and nothing was put out
                    flight.reply = message
                    self._landed(flight)
                return
        try:
            _, rest = wire.split(frames)
        except wire.WireError as error:
            self._violated(str(error))
            return
        message = self._unpack(rest)
        if message is not None and message.msg_type == "calls_reply":
            try:
                answers = read_answers(message)
            except (KeyError, TypeError, ValueError) as error:
                self._violated(f"answers that cannot be read: {error!r}")
                return
            self.take_answers(answers)
            return
        # Also of an answer that nobody waits for, whose shared memory goes with it.
        if message is None or not self._resolve(message):
            return
        if message.msg_type == "kernel_info_reply":
            self._on_introduction(message)
        elif message.msg_type == "recycle_notice":
            why = str(message.metadata["jupyter_pool"]["recycle"])
            self._driver.feed(WorkerSpent(self._worker_id, why))
        else:
            self._on_reply(message)

    def _on_introduction(self, message: Message) -> None:
        """It has said who it is; also when that was asked as a sign of life."""
        self._introduced = True
        answered = self._pings.pop(message.parent_id, None)
        if answered is not None:
            answered(self._worker_id)
        probe = self.flights.first
        if not self._link.ready and probe is not None and probe.idle and probe.reply is not None:
            self._land()

    def _on_reply(self, message: Message) -> None:
        flight = self.flights.get(message.parent_id)
        if flight is None or flight.reply is not None:
            return  # late: that request was given up, and its worker with it
        if message.msg_type != flight.reply_type:
            self._violated(f"a {message.msg_type} where a {flight.reply_type} was due")
            return
        if flight.reply_type == "call_reply":
            ours = message.metadata["jupyter_pool"]
            if "lacks" in ours:
                self._link.calls.send_again(flight, ours["lacks"])
                return
            if not ours.get("idle"):
                flight.idle = True  # and nothing was put out
        flight.reply = message
        flight.mark().reply = time.monotonic()
        if flight.idle:
            self._land()
        else:
            probes = not self._link.ready and flight.setup is None
            grace = PROBE_AGAIN if probes else IDLE_GRACE
            # By its id: a timer must not keep the values of an answer for as long as it runs.
            message_id = flight.message_id
            self._engine.after(grace, lambda: self._idle_overdue(message_id))

    def take_answers(self, answers: Sequence[tuple[Message, float]]) -> None:
        """Take answers that came together, with how many seconds each took."""
        for message, seconds in answers:
            flight = self.flights.get(message.parent_id)
            if flight is None or flight.reply is not None or not self._resolve(message):
                continue
            flight.reply, flight.seconds = message, seconds
            if message.well or not message.metadata["jupyter_pool"].get("idle"):
                flight.idle = True
        self._land()

    def on_control(self, frames: Sequence[Buffer]) -> None:
        """A reply on the control channel."""
        message = self._unpack(wire.split(frames)[1])
        if message is not None and message.msg_type == "interrupt_reply":
            self._driver.feed(InterruptDelivered(self._worker_id))

    def on_iopub(self, frames: Sequence[Buffer]) -> None:
        """Something that the worker published for a request."""
        message = self._unpack(frames)
        if message is None or self.traffic.heard(message):
            return
        kind = message.msg_type
        flight = self.flights.get(message.parent_id)
        if flight is None:
            first = self.flights.first
            if first is not None and message.parent_id == first.fence and kind == "status":
                self._idle_lost(first)
            return
        request = flight.request
        if kind in OUTPUT_TYPES:
            if flight.collector is None:
                flight.collector = OutputCollector()
            marks = flight.mark()
            if marks.first_output is None:
                marks.first_output = time.monotonic()
            event = flight.collector.add(kind, message.content)
            if event is not None and request is not None and request.sink.wants_output:
                if request.comms:
                    event["parent"] = message.parent_id
                request.sink.output(event)
        elif kind in COMM_TYPES:
            if request is not None and request.comms:
                request.sink.output(comm_event(message))
        elif kind == "status":
            state = message.content.get("execution_state")
            if state == "busy":
                flight.mark().started = time.monotonic()
                # A call remembers an interrupt from before its busy status on, a cell from
                # execute_input on; of a foreign kernel nothing better is known.
                called = flight.reply_type == "call_reply"
                self._started(flight, interruptible=self._link.foreign or called)
            elif state == "idle":
                flight.idle = True
                flight.mark().idle = time.monotonic()
                if flight.reply is not None:
                    self._land()
        elif kind == "input_request":
            if request is not None and request.ask is not None:
                content = message.content
                request.ask(str(content.get("prompt", "")), bool(content.get("password")))
        elif kind == "execute_input":
            # Our kernel publishes it once SIGINT reaches the cell.
            self._started(flight, interruptible=True)

    def _started(self, flight: Flight, *, interruptible: bool) -> None:
        if not flight.started:
            flight.started = True
            if flight.request is not None:
                self._driver.feed(RequestStarted(self._worker_id, flight.request.id))
        if interruptible and not flight.interruptible:
            flight.interruptible = True
            if flight.interrupt:
                self._link.deliver_interrupt()

    # -- an idle status that does not come ---------------------------------------------------

    def _idle_overdue(self, message_id: str) -> None:
        flight = self.flights.get(message_id)
        if flight is None or flight.idle:
            return
        if not self._link.ready and flight.setup is None:
            self._link.probe()
        elif flight.fence is None:
            # Late, or lost? What a worker publishes keeps its order, so it is lost when the status
            # of something later is here.
            assert self._connection is not None
            flight.fence = self._engine.new_id()
            self._engine.expect(flight.fence, self)
            self._connection.send("kernel_info_request", flight.fence, {})
            self._engine.after(FENCE_TIMEOUT, lambda: self._idle_overdue(message_id))
        else:
            self._idle_lost(flight)

    def _idle_lost(self, flight: Flight) -> None:
        # Answered, so not running: good enough to end the request, not to trust the worker with
        # another one.
        flight.idle = True
        self._land("its idle status was lost")

    # -- landing -----------------------------------------------------------------------------

    def _land(self, recycle: str | None = None) -> None:
        """End what is answered, in the order in which it was sent; `recycle` is the first one's."""
        together: list[Flight] = []
        # A copy, for each that ends leaves; mostly there is one.
        for flight in list(self.flights.values()):
            if flight.reply is None or not flight.idle:
                break
            if flight.seconds is not None and not flight.interrupt and _is_plain(flight.reply):
                together.append(flight)
                continue
            self._land_together(together)
            together = []
            self._landed(flight, recycle)
            recycle = None
        self._land_together(together)

    def _land_together(self, flights: list[Flight]) -> None:
        if not flights:
            return
        ids, seconds = [], []
        for flight in flights:
            assert flight.request is not None
            self.flights.leave(flight)
            self._endings.landed(flight)
            ids.append(flight.request.id)
            seconds.append(flight.seconds or 0.0)
        self._driver.feed(RequestsDone(self._worker_id, tuple(ids), tuple(seconds)))

    def _landed(self, flight: Flight, recycle: str | None = None) -> None:
        """Reply and idle status are there."""
        reply, driver = flight.reply, self._driver
        assert reply is not None
        if flight.setup is not None:
            self.flights.leave(flight)
            self._link.setting_up.landed(flight.setup, reply)
            return
        if not self._link.ready:
            if self._introduced:
                self.flights.leave(flight)
                self._link.probed(reply)
            return
        self.flights.leave(flight)
        ours = reply.metadata.get("jupyter_pool") or {}
        recycle = recycle or ours.get("recycle")
        if flight.request is None:
            driver.feed(ResetDone(self._worker_id, recycle or driver.grown(self._worker_id)))
            return
        if flight.interrupt and not flight.interruptible:
            driver.feed(InterruptDelivered(self._worker_id))  # nothing was left to interrupt
        refused = ours.get("refused")
        if refused is not None:
            driver.feed(RequestRefused(self._worker_id, flight.request.id, str(refused)))
            return
        self._endings.landed(flight)
        keep_listening(driver, flight)
        self._done(flight.request, recycle, leave_behind(self._link, flight))

    def _done(self, request: Request, recycle: str | None, lease: str | None) -> None:
        """A request is done, and may leave a lease behind."""
        driver = self._driver
        on_sufferance = request.stay is not None and request.stay.on_sufferance
        # What a lease has is its own until it ends.
        if request.lease is None and (lease is None or on_sufferance):
            recycle = recycle or driver.grown(self._worker_id)
        driver.feed(RequestDone(self._worker_id, request.id, recycle, lease, on_sufferance))
        if lease is not None and on_sufferance and self.traffic.is_awaited:
            driver.feed(Occupied(lease, True))


def _is_plain(reply: Message) -> bool:
    """Whether an answer wants nothing but to be handed on."""
    if reply.well:
        return True
    ours = reply.metadata["jupyter_pool"]
    return len(ours) == 1 or not ("recycle" in ours or "refused" in ours)
