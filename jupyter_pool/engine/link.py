"""The connection to one worker: what was sent to it, what it has answered, whether it is ready.

A reply belongs to one request: shell replies, iopub messages and idle status are matched by their
parent's id, and a request is done when both its reply and its idle status have come.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import (
    Event,
    GivenBack,
    InterruptDelivered,
    ProtocolViolation,
    RequestDone,
    RequestRefused,
    RequestsDone,
    RequestStarted,
    ResetDone,
    SetUpDone,
    WorkerReady,
    WorkerSpent,
)
from jupyter_pool.outputs import OutputCollector
from jupyter_pool.provisioning import processes
from jupyter_pool.shared import LostSegment, SharedMemory

from . import wire
from .comms import COMM_TYPES, CommMessage, CommTraffic, comm_event
from .data import Outbox
from .marks import Marks
from .riding import PATIENCE, RiddenCall, Rides, pack_calls, read_answers, read_entries
from .setups import SettingUp
from .sockets import Channels, send
from .wire import Buffer, Message, Signer

if TYPE_CHECKING:
    from jupyter_pool.errors import WorkerStartError
    from jupyter_pool.provisioning.launcher import Exited, Launched, Worker

    from .driver import Driver
    from .request import Request
    from .setups import Setup

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


@dataclass(slots=True, eq=False)
class Flight:
    """One execute_request on its way: sent, not yet both answered and idle."""

    message_id: str
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

    def mark(self) -> Marks:
        """Where to note that something came."""
        if self.marks is None:
            self.marks = Marks()
        return self.marks


class Link:
    """One worker, from its launch to its end. Lives on the I/O thread."""

    def __init__(self, driver: Driver, worker_id: int, *, foreign: bool) -> None:
        self.driver = driver
        self.engine = driver.engine
        self.worker_id = worker_id
        self.foreign = foreign
        self.name = f"w{worker_id}@{driver.serial}".encode()
        self.born = time.monotonic()
        self.process: Worker | None = None
        self.launched: Launched | None = None
        self.ready = False
        self.info_seen = False
        #: The setups that it has run.
        self.set_up: list[Setup] = []
        self._setting_up = SettingUp(self)
        #: Why its probe failed, if it did.
        self.refusal: str | None = None
        #: Which setup failed in it while it was starting, and how, if one did.
        self.setup_failure: WorkerStartError | None = None
        self.stop: Any = None
        #: What it was sent and has not answered, by message id, in the order in which it serves them.
        self.flights: dict[str, Flight] = {}
        self.exited: Exited | None = None
        #: Names of the functions that it was sent.
        self._functions: set[str] = set()
        #: What the last call said of itself, and its frames.
        self._said: tuple[Any, bytes, bytes] = (None, b"", b"")
        #: Shared memory, if the worker can have a part in it.
        self.shared: SharedMemory | None = None
        self.outbox = Outbox(None)
        #: What the names of its segments begin with.
        self.sender = f"w{worker_id}-{driver.serial}"
        self._local = False
        #: None: it takes one call at a time.
        self._rides: Rides | None = None
        self._sent = 0
        #: How many requests it has answered.
        self._progress = 0
        self._watched = False
        self._pings: dict[str, Callable[[int], None]] = {}
        self.traffic = CommTraffic(self, OUTPUT_TYPES)
        self._signer: Signer | None = None
        self._channels: Channels | None = None

    @property
    def pid(self) -> int | None:
        """The process id of a worker on this machine, once it runs."""
        return self.launched.pid if self.launched is not None else None

    @property
    def flight(self) -> Flight | None:
        """The first of what it has to answer: all that it has, unless calls were sent together."""
        return next(iter(self.flights.values()), None)

    def flight_of(self, request: Request) -> Flight | None:
        """The way of a request that this worker has."""
        return next((each for each in self.flights.values() if each.request is request), None)

    def _take_off(self, flight: Flight) -> Flight:
        self.flights[flight.message_id] = flight
        return flight

    # -- coming up ---------------------------------------------------------------------------

    def connect(self, launched: Launched) -> None:
        """The process runs: connect to it and prove that it executes."""
        self.launched = launched
        self._signer = Signer(launched.key, self.engine.token)
        self._channels = self.engine.channels(
            curve=bool(launched.connection.get("curve_publickey"))
        )
        self._channels.connect(self.name, launched.connection)
        # Others may be on another machine, and what they are told not be private.
        self._local = launched.pid is not None and launched.connection["transport"] == "ipc"
        self.shared = self.driver.shared if self._local else None
        self.outbox = Outbox(self.shared)
        self.engine.attach(self)
        self._send("kernel_info_request", self.engine.new_id(), {})
        self._probe()

    def _probe(self) -> None:
        """Execute something; its reply and its idle status show that every channel works."""
        if self.ready or self.exited is not None:
            return
        self.flights.clear()
        flight = self._take_off(Flight(self.engine.new_id(), None))
        metadata = None if self.foreign else {"jupyter_pool": self.driver.baseline()}
        if metadata is not None and self.shared is not None:
            # Signed as all metadata, and on ipc read by nobody else.
            metadata["jupyter_pool"]["shared"] = self.shared.invitation(self.sender)
        self._execute(flight.message_id, "", metadata, silent=True)

    # -- sending -----------------------------------------------------------------------------

    def _send(
        self,
        msg_type: str,
        message_id: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Buffer] = (),
        *,
        control: bool = False,
    ) -> None:
        assert self._signer is not None
        assert self._channels is not None
        frames = self._signer.pack(
            message_id,
            msg_type,
            content,
            date=datetime.now(timezone.utc).isoformat(),
            metadata=metadata,
            buffers=buffers,
        )
        # A peer that is gone is found out by its process, which is watched.
        send(self._channels.control if control else self._channels.shell, self.name, frames)

    def _execute(
        self,
        message_id: str,
        code: str,
        metadata: dict[str, Any] | None,
        *,
        silent: bool = False,
        allow_stdin: bool = False,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        self.engine.expect(message_id, self)
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": allow_stdin,
            "stop_on_error": False,
        }
        self._send("execute_request", message_id, content, metadata, buffers)

    def run(self, request: Request) -> None:
        """Send a request's code."""
        message_id = f"{request.id}.{request.attempt}"
        if request.split is not None:
            flight = self._take_off(Flight(message_id, request, reply_type="call_reply"))
            self._call(flight, request, request.split)
            return
        self._take_off(Flight(message_id, request))
        frames, said = self.outbox.pack(request)
        envelope = {**self.driver.envelope(request), **said}
        metadata = None if self.foreign else {"jupyter_pool": envelope}
        # There is no stdin channel: our kernel asks on iopub and is answered on control.
        asks = request.ask is not None and not self.foreign
        self._execute(message_id, request.code, metadata, allow_stdin=asks, buffers=frames)

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
            self._sent += 1
            # Sent again, it must be told from what it was before.
            message_id = f"{request.id}.{request.attempt}r{self._sent}"
            begin = 0
            if (name := request.function) is not None and name in self._functions:
                begin = request.split
            frames, more = self.outbox.pack(request, begin)
            if alike is None or not _are_told_the_same(request, alike):
                told, alike = self.driver.envelope(request), request
            envelope = {**told, **more} if more else told
            calls.append((message_id, envelope, request, request.split - begin, frames))
        number = rides.issue([call[0] for call in calls[first:]])
        content, metadata, buffer = pack_calls(number, first, calls)
        for message_id, _, request, _, _ in calls:
            if request.function is not None:
                self._functions.add(request.function)
            self.flights[message_id] = Flight(message_id, request, reply_type="call_reply")
            self.engine.expect(message_id, self)
        self._send("calls_request", self.engine.new_id(), content, metadata, [buffer])
        if not self._watched and rides.ticketed:
            self._watched = True
            self._watch()

    def _watch(self) -> None:
        """Take back what waits behind a call that takes long."""
        assert self._rides is not None
        before = self._progress, self._rides.left()

        def look() -> None:
            rides = self._rides
            self._watched = rides is not None and bool(rides.ticketed)
            if not self._watched:
                return
            # Not the answers alone: those of quick calls come together, and not at once.
            if rides is not None and before == (self._progress, rides.left()):
                self.take_back()
            self._watch()

        self.engine.after(PATIENCE, look)

    def take_back(self) -> None:
        """Have the worker not begin what it has not begun, and see what it has done."""
        rides = self._rides
        back = [] if rides is None else [self.flights.pop(each) for each in rides.take_back()]
        for flight in back:
            self.engine.forget(flight.message_id)
        ids = tuple(flight.request.id for flight in back if flight.request is not None)
        # First, or the worker would get what comes after these.
        self.tell(GivenBack(self.worker_id, ids))
        if rides is not None:
            # It is known what has begun, so all before that is entered by now.
            self._arrived(rides.answers(self.flights))

    def _arrived(self, answers: Sequence[tuple[Message, float]]) -> None:
        """Take answers that came together."""
        for message, seconds in answers:
            flight = self.flights.get(message.parent_id)
            if flight is None or flight.reply is not None or not self._resolve(message):
                continue
            flight.reply, flight.seconds = message, seconds
            if message.well or not message.metadata["jupyter_pool"].get("idle"):
                flight.idle = True
        self._land()

    def _call(self, flight: Flight, request: Request, split: int) -> None:
        """Send a function call, with its function unless the worker should have it."""
        message_id = flight.message_id
        self.engine.expect(message_id, self)
        first = 0
        content: dict[str, Any] = {"v": 1, "split": split}
        program = request.program
        sent: list[Buffer] = []
        if program is not None:
            sent = self.outbox.pack_program(program)
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
        frames, more = self.outbox.pack(request, first)
        if sent:
            frames = [*sent, *frames]
        assert self._signer is not None
        assert self._channels is not None
        # Calls mostly say the same of themselves as those before them.
        envelope = self.driver.envelope(request)
        envelope.update(more)
        said = (envelope, content)
        if said != self._said[0]:
            self._said = (said, wire.dump({"jupyter_pool": said[0]}), wire.dump(content))
        date = datetime.now(timezone.utc).isoformat()
        packed, flight.header = self._signer.pack_call(message_id, date, *self._said[1:], frames)
        send(self._channels.shell, self.name, packed)

    def _ship(self, flight: Flight, name: str) -> None:
        """The worker has lost a function or program, or never had it: send the call again, with it."""
        request = flight.request
        assert request is not None
        assert request.split is not None
        self.engine.forget(flight.message_id)
        self._functions.discard(name)
        self.outbox.lost(name)
        if self._rides is not None and flight.message_id in self._rides.ticketed:
            self._rides.ticketed.remove(flight.message_id)
        flight.message_id += "f"
        # In its place: what it has is answered in order.
        self.flights = {each.message_id: each for each in self.flights.values()}
        self._call(flight, request, request.split)

    def prepare(self) -> None:
        """Have the worker run the setups that it lacks."""
        self._setting_up.go_on()

    def run_setup(self, setup: Setup) -> None:
        """Have the worker run one setup; what it leaves is there for every request."""
        flight = self._take_off(Flight(self.engine.new_id(), None, setup=setup))
        frames, more = self.outbox.pack(setup)
        said: dict[str, Any] = {**more, **setup.context, "v": 1, "setup": True}
        said["output_limit"] = self.driver.config.output_limit
        metadata = {"jupyter_pool": said}
        if setup.code is not None:
            self._execute(flight.message_id, setup.code, metadata, silent=True, buffers=frames)
            return
        flight.reply_type = "call_reply"
        self.engine.expect(flight.message_id, self)
        content = {"v": 1, "split": len(setup.frames) - 1}
        self._send("call_request", flight.message_id, content, metadata, frames)

    def is_set_up(self) -> None:
        """It lacks no setup."""
        if self.driver.memory is not None and self.pid is not None:
            self.driver.memory.ready(self.worker_id, self.pid)
        was_ready, self.ready = self.ready, True
        if not was_ready:
            self.driver.teller.ready(self)
        self.tell(SetUpDone(self.worker_id) if was_ready else WorkerReady(self.worker_id))

    def reset(self) -> None:
        """Have the kernel forget what a lease left in it."""
        flight = self._take_off(Flight(self.engine.new_id(), None))
        metadata = {"jupyter_pool": {"v": 1, "reset": True}}
        self._execute(flight.message_id, "", metadata, silent=True)

    def interrupt(self, request: Request | None) -> None:
        """Interrupt a request that runs, as soon as an interrupt can reach it.

        Before the cell's code runs the kernel ignores SIGINT, so one sent too early would be lost. When
        something has begun that was sent along behind it, it is over, and only its answer is to come.
        """
        if self._rides is not None and self._rides.ticketed:
            self.take_back()
        flight = next(reversed(self.flights.values()), None)
        if flight is None or flight.request is not request:
            self.tell(InterruptDelivered(self.worker_id))
            return
        flight.interrupt = True
        if flight.interruptible:
            self._deliver_interrupt()

    def _deliver_interrupt(self) -> None:
        assert self.launched is not None
        assert self.process is not None
        if self.launched.interrupt_mode == "message":
            # Its reply on the control channel is what proves delivery.
            self._send("interrupt_request", self.engine.new_id(), {}, control=True)
        elif self.launched.pid is not None:
            processes.send(self.launched.pid, signal.SIGINT)
            self.tell(InterruptDelivered(self.worker_id))
        else:
            delivered = InterruptDelivered(self.worker_id)
            self.driver.launcher.interrupt(
                self.process, lambda: self.engine.post(lambda: self.tell(delivered))
            )

    def answer(self, request: Request, content: dict[str, Any]) -> None:
        """Answer what a request's code has asked, if it still runs here."""
        flight = self.flight
        if flight is not None and flight.request is request:
            content = {**content, "request": flight.message_id}
            self._send("input_reply", self.engine.new_id(), content, control=True)

    def send_comm(self, message_id: str, message: CommMessage) -> None:
        """Send a comm message; the worker takes it when it runs nothing."""
        self._send(message.msg_type, message_id, message.content, message.metadata, message.buffers)

    def ping(self, answered: Callable[[int], None]) -> None:
        """Ask for a sign of life; `answered` gets the worker's id."""
        message_id = self.engine.new_id()
        self._pings[message_id] = answered
        self._send("kernel_info_request", message_id, {})

    def shut_down(self) -> None:
        """Ask the kernel to end by itself."""
        if self._channels is not None and self.exited is None:
            self._send("shutdown_request", self.engine.new_id(), {"restart": False}, control=True)

    # -- receiving ---------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Tell the pool's core what happened."""
        self.driver.feed(event)

    def _unpack(self, frames: Sequence[Buffer]) -> Message | None:
        assert self._signer is not None
        try:
            return self._signer.unpack(frames)
        except wire.WireError as error:
            self.tell(ProtocolViolation(self.worker_id, str(error)))
            return None

    def _resolve(self, message: Message) -> bool:
        """Take what the worker put into shared memory; False if it is gone."""
        if self.shared is not None:
            try:
                message.buffers = self.shared.receive(message.buffers)
            except LostSegment as error:
                what = f"a result whose shared memory is gone: {error}"
                self.tell(ProtocolViolation(self.worker_id, what))
                return False
        return True

    def on_shell(self, frames: Sequence[Buffer]) -> None:
        """A reply on the shell channel."""
        flight = self.flight
        if (
            len(self.flights) == 1
            and flight is not None
            and flight.header
            and bytes(frames[0]) == wire.DELIMITER
        ):
            assert self._signer is not None
            message = self._signer.read_call(frames[1:], flight.header, flight.message_id)
            if message is not None:
                if self._resolve(message):
                    flight.idle = True  # and nothing was put out
                    flight.reply = message
                    self._landed(flight)
                return
        try:
            _, rest = wire.split(frames)
        except wire.WireError as error:
            self.tell(ProtocolViolation(self.worker_id, str(error)))
            return
        message = self._unpack(rest)
        if message is not None and message.msg_type == "calls_reply":
            try:
                answers = read_answers(message)
            except (KeyError, TypeError, ValueError) as error:
                what = f"answers that cannot be read: {error!r}"
                self.tell(ProtocolViolation(self.worker_id, what))
                return
            self._arrived(answers)
            return
        # Also of an answer that nobody waits for, whose shared memory goes with it.
        if message is None or not self._resolve(message):
            return
        if message.msg_type == "kernel_info_reply":
            self.info_seen = True
            answered = self._pings.pop(message.parent_id, None)
            if answered is not None:
                answered(self.worker_id)
            probe = self.flight
            if not self.ready and probe is not None and probe.idle and probe.reply is not None:
                self._land()
            return
        if message.msg_type == "recycle_notice":
            self.tell(WorkerSpent(self.worker_id, str(message.metadata["jupyter_pool"]["recycle"])))
            return
        flight = self.flights.get(message.parent_id)
        if flight is None or flight.reply is not None:
            return  # late: that request was given up, and its worker with it
        if message.msg_type != flight.reply_type:
            self.tell(
                ProtocolViolation(
                    self.worker_id, f"a {message.msg_type} where a {flight.reply_type} was due"
                )
            )
            return
        if flight.reply_type == "call_reply":
            ours = message.metadata["jupyter_pool"]
            if "lacks" in ours:
                self._ship(flight, ours["lacks"])
                return
            if not ours.get("idle"):
                flight.idle = True  # and nothing was put out
        flight.reply = message
        flight.mark().reply = time.monotonic()
        if flight.idle:
            self._land()
        else:
            probes = not self.ready and flight.setup is None
            grace = PROBE_AGAIN if probes else IDLE_GRACE
            # By its id: a timer must not keep the values of an answer for as long as it runs.
            message_id = flight.message_id
            self.engine.after(grace, lambda: self._idle_overdue(message_id))

    def on_control(self, frames: Sequence[Buffer]) -> None:
        """A reply on the control channel."""
        message = self._unpack(wire.split(frames)[1])
        if message is not None and message.msg_type == "interrupt_reply":
            self.tell(InterruptDelivered(self.worker_id))

    def on_iopub(self, frames: Sequence[Buffer]) -> None:
        """Something that the worker published for a request."""
        message = self._unpack(frames)
        if message is None or self.traffic.heard(message):
            return
        kind = message.msg_type
        flight = self.flights.get(message.parent_id)
        if flight is None:
            first = self.flight
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
                self._started(flight, interruptible=self.foreign or called)
            elif state == "idle":
                flight.idle = True
                flight.mark().idle = time.monotonic()
                if flight.reply is not None:
                    self._land()
        elif kind == "input_request":
            if flight.request is not None and flight.request.ask is not None:
                content = message.content
                flight.request.ask(str(content.get("prompt", "")), bool(content.get("password")))
        elif kind == "execute_input":
            # Our kernel publishes it once SIGINT reaches the cell.
            self._started(flight, interruptible=True)

    def _started(self, flight: Flight, *, interruptible: bool) -> None:
        if not flight.started:
            flight.started = True
            if flight.request is not None:
                self.tell(RequestStarted(self.worker_id, flight.request.id))
        if interruptible and not flight.interruptible:
            flight.interruptible = True
            if flight.interrupt:
                self._deliver_interrupt()

    def _idle_overdue(self, message_id: str) -> None:
        flight = self.flights.get(message_id)
        if flight is None or flight.idle:
            return
        if not self.ready and flight.setup is None:
            self._probe()
        elif flight.fence is None:
            # Late, or lost? What a worker publishes keeps its order, so it is lost when the status
            # of something later is here.
            flight.fence = self.engine.new_id()
            self.engine.expect(flight.fence, self)
            self._send("kernel_info_request", flight.fence, {})
            self.engine.after(FENCE_TIMEOUT, lambda: self._idle_overdue(message_id))
        else:
            self._idle_lost(flight)

    def _idle_lost(self, flight: Flight) -> None:
        # Answered, so not running: good enough to end the request, not to trust the worker with
        # another one.
        flight.idle = True
        self._land("its idle status was lost")

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
            self._leave(flight)
            self.driver.landed(flight)
            ids.append(flight.request.id)
            seconds.append(flight.seconds or 0.0)
        self.tell(RequestsDone(self.worker_id, tuple(ids), tuple(seconds)))

    def _leave(self, flight: Flight) -> None:
        self._progress += 1
        message_id = flight.message_id
        self.flights.pop(message_id, None)
        self.engine.forget(message_id)
        if flight.fence is not None:
            self.engine.forget(flight.fence)
        if (
            self._rides is not None
            and self._rides.ticketed
            and self._rides.ticketed[0] == message_id
        ):
            self._rides.ticketed.popleft()

    def _landed(self, flight: Flight, recycle: str | None = None) -> None:
        """Reply and idle status are there."""
        reply = flight.reply
        assert reply is not None
        if flight.setup is not None:
            self._leave(flight)
            self._setting_up.landed(flight.setup, reply)
            return
        if not self.ready:
            if self.info_seen:
                self._probed(flight, reply)
            return
        self._leave(flight)
        ours = reply.metadata.get("jupyter_pool") or {}
        recycle = recycle or ours.get("recycle")
        if flight.request is None:
            self.tell(ResetDone(self.worker_id, recycle or self.driver.grown(self.worker_id)))
        else:
            if flight.interrupt and not flight.interruptible:
                self.tell(InterruptDelivered(self.worker_id))  # nothing was left to interrupt
            refused = ours.get("refused")
            if refused is not None:
                self.tell(RequestRefused(self.worker_id, flight.request.id, str(refused)))
            else:
                self.driver.landed(flight)
                self.driver.keep_listening(flight)
                if flight.request.lease is None:  # what a lease has is its own until it ends
                    recycle = recycle or self.driver.grown(self.worker_id)
                self.tell(RequestDone(self.worker_id, flight.request.id, recycle))

    def _probed(self, probe: Flight, reply: wire.Message) -> None:
        """It has executed something, and said who it is."""
        self._leave(probe)
        if reply.content.get("status") != "ok":
            self.driver.start_refused(self, reply.content)
            return
        ours = reply.metadata.get("jupyter_pool") or {}
        fd = ours.get("stderr_fd")
        if ours.get("rides") and self._local and self.launched is not None:
            self._rides = Rides(self.launched.connection["ip"])
        if fd is not None and self.process is not None:
            self.process.tap(fd)
        self.prepare()

    # -- going down --------------------------------------------------------------------------

    def note_last_work(self, exited: Exited) -> None:
        """The worker died: learn from its note what its last messages would have said."""
        self._arrived(read_entries(exited.ledger, self.flights))
        flight = self.flights.get(exited.worked_on)
        if flight is not None:
            self._started(flight, interruptible=False)

    def close(self) -> None:
        """Let go of the connection; the worker is gone."""
        self.flights.clear()  # whoever still waits for something of it need not
        self.engine.detach(self)
        if self._rides is not None:
            self._rides.close()
            self._rides = None
        if self.shared is not None:
            self.shared.clear(self.sender)
        if self._channels is not None and self.launched is not None:
            self._channels.disconnect(self.launched.connection)
            self._channels = None


def _are_told_the_same(one: Request, other: Request) -> bool:
    """Whether the envelopes of two calls that may ride along say the same."""
    return (
        one.output_limit == other.output_limit
        and one.context == other.context
        and one.seed == other.seed
        and bool(one.comms) == bool(other.comms)
    )


def _is_plain(reply: Message) -> bool:
    """Whether an answer wants nothing but to be handed on."""
    if reply.well:
        return True
    ours = reply.metadata["jupyter_pool"]
    return len(ours) == 1 or not ("recycle" in ours or "refused" in ours)
