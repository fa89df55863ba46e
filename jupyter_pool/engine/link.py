"""The connection to one worker: what was sent to it, what it has answered, whether it is ready.

A reply belongs to one request: shell replies, iopub messages and idle status are matched by their
parent's id, and a request is done when both its reply and its idle status have come.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import (
    Event,
    InterruptDelivered,
    ProtocolViolation,
    RequestDone,
    RequestRefused,
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
from .data import Outbox
from .marks import Marks
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
    collector: OutputCollector = field(default_factory=OutputCollector)
    reply: Message | None = None
    reply_type: str = "execute_reply"
    #: Of a call, as sent.
    header: bytes = b""
    #: Of a cell: when what came.
    marks: Marks = field(default_factory=Marks)
    started: bool = False
    interruptible: bool = False
    interrupt: bool = False
    idle: bool = False
    #: What is run, if it is a setup.
    setup: Setup | None = None
    #: A later request whose status shows that an idle status which is not here by then is lost.
    fence: str | None = None


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
        self.flight: Flight | None = None
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
        self._pings: dict[str, Callable[[int], None]] = {}
        self._signer: Signer | None = None
        self._channels: Channels | None = None

    @property
    def pid(self) -> int | None:
        """The process id of a worker on this machine, once it runs."""
        return self.launched.pid if self.launched is not None else None

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
        local = launched.pid is not None and launched.connection["transport"] == "ipc"
        self.shared = self.driver.shared if local else None
        self.outbox = Outbox(self.shared)
        self.engine.attach(self)
        self._send("kernel_info_request", self.engine.new_id(), {})
        self._probe()

    def _probe(self) -> None:
        """Execute something; its reply and its idle status show that every channel works."""
        if self.ready or self.exited is not None:
            return
        self.flight = Flight(self.engine.new_id(), None)
        metadata = None if self.foreign else {"jupyter_pool": self.driver.baseline()}
        if metadata is not None and self.shared is not None:
            # Signed as all metadata, and on ipc read by nobody else.
            metadata["jupyter_pool"]["shared"] = self.shared.invitation(self.sender)
        self._execute(self.flight.message_id, "", metadata, silent=True)

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
        buffers: Sequence[Buffer] = (),
    ) -> None:
        self.engine.expect(message_id, self)
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        self._send("execute_request", message_id, content, metadata, buffers)

    def run(self, request: Request) -> None:
        """Send a request's code."""
        message_id = f"{request.id}.{request.attempt}"
        if request.split is not None:
            self.flight = Flight(message_id, request, reply_type="call_reply")
            self._call(message_id, request, request.split)
            return
        self.flight = Flight(message_id, request)
        frames, said = self.outbox.pack(request)
        envelope = {**self.driver.envelope(request), **said}
        metadata = None if self.foreign else {"jupyter_pool": envelope}
        self._execute(self.flight.message_id, request.code, metadata, buffers=frames)

    def _call(self, message_id: str, request: Request, split: int) -> None:
        """Send a function call, with its function unless the worker should have it."""
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
        assert self.flight is not None
        # Calls mostly say the same of themselves as those before them.
        envelope = self.driver.envelope(request)
        envelope.update(more)
        said = (envelope, content)
        if said != self._said[0]:
            self._said = (said, wire.dump({"jupyter_pool": said[0]}), wire.dump(content))
        date = datetime.now(timezone.utc).isoformat()
        packed, self.flight.header = self._signer.pack_call(
            message_id, date, *self._said[1:], frames
        )
        send(self._channels.shell, self.name, packed)

    def _ship(self, flight: Flight, name: str) -> None:
        """The worker has lost a function or program, or never had it: send the call again, with it."""
        request = flight.request
        assert request is not None
        assert request.split is not None
        self.engine.forget(flight.message_id)
        self._functions.discard(name)
        self.outbox.lost(name)
        flight.message_id += "f"
        self._call(flight.message_id, request, request.split)

    def prepare(self) -> None:
        """Have the worker run the setups that it lacks."""
        self._setting_up.go_on()

    def run_setup(self, setup: Setup) -> None:
        """Have the worker run one setup; what it leaves is there for every request."""
        flight = self.flight = Flight(self.engine.new_id(), None, setup=setup)
        frames, said = self.outbox.pack(setup)
        said.update(setup.context, v=1, setup=True)
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
        self.flight = None
        if self.driver.memory is not None and self.pid is not None:
            self.driver.memory.ready(self.worker_id, self.pid)
        was_ready, self.ready = self.ready, True
        if not was_ready:
            self.driver.teller.ready(self)
        self.tell(SetUpDone(self.worker_id) if was_ready else WorkerReady(self.worker_id))

    def reset(self) -> None:
        """Have the kernel forget what a lease left in it."""
        self.flight = Flight(self.engine.new_id(), None)
        metadata = {"jupyter_pool": {"v": 1, "reset": True}}
        self._execute(self.flight.message_id, "", metadata, silent=True)

    def interrupt(self) -> None:
        """Interrupt what runs, as soon as an interrupt can reach it.

        Before the cell's code runs the kernel ignores SIGINT, so one sent too early would be lost.
        """
        flight = self.flight
        if flight is None:
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
        if flight is not None and flight.header and bytes(frames[0]) == wire.DELIMITER:
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
                self._landed(probe)
            return
        if message.msg_type == "recycle_notice":
            self.tell(WorkerSpent(self.worker_id, str(message.metadata["jupyter_pool"]["recycle"])))
            return
        flight = self.flight
        if flight is None or message.parent_id != flight.message_id:
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
        flight.marks.reply = time.monotonic()
        if flight.idle:
            self._landed(flight)
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
        flight = self.flight
        if message is None or flight is None:
            return
        kind = message.msg_type
        if message.parent_id != flight.message_id:
            if message.parent_id == flight.fence and kind == "status":
                self._idle_lost(flight)
            return
        if kind in OUTPUT_TYPES:
            if flight.marks.first_output is None:
                flight.marks.first_output = time.monotonic()
            event = flight.collector.add(kind, message.content)
            request = flight.request
            if event is not None and request is not None and request.sink.wants_output:
                request.sink.output(event)
        elif kind == "status":
            state = message.content.get("execution_state")
            if state == "busy":
                flight.marks.started = time.monotonic()
                # A call remembers an interrupt from before its busy status on, a cell from
                # execute_input on; of a foreign kernel nothing better is known.
                called = flight.reply_type == "call_reply"
                self._started(flight, interruptible=self.foreign or called)
            elif state == "idle":
                flight.idle = True
                flight.marks.idle = time.monotonic()
                if flight.reply is not None:
                    self._landed(flight)
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
        flight = self.flight
        if flight is None or flight.message_id != message_id or flight.idle:
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
        self._landed(flight, "its idle status was lost")

    def _landed(self, flight: Flight, recycle: str | None = None) -> None:
        """Reply and idle status are there."""
        reply = flight.reply
        assert reply is not None
        if flight.setup is not None:
            self.engine.forget(flight.message_id)
            if flight.fence is not None:
                self.engine.forget(flight.fence)
            self.flight = None
            self._setting_up.landed(flight.setup, reply)
            return
        if not self.ready:
            if self.info_seen:
                self._probed(flight, reply)
            return
        self.engine.forget(flight.message_id)
        if flight.fence is not None:
            self.engine.forget(flight.fence)
        ours = reply.metadata.get("jupyter_pool") or {}
        recycle = recycle or ours.get("recycle")
        self.flight = None
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
                if flight.request.lease is None:  # what a lease has is its own until it ends
                    recycle = recycle or self.driver.grown(self.worker_id)
                self.tell(RequestDone(self.worker_id, flight.request.id, recycle))

    def _probed(self, probe: Flight, reply: wire.Message) -> None:
        """It has executed something, and said who it is."""
        self.engine.forget(probe.message_id)
        self.flight = None
        if reply.content.get("status") != "ok":
            self.driver.start_refused(self, reply.content)
            return
        fd = (reply.metadata.get("jupyter_pool") or {}).get("stderr_fd")
        if fd is not None and self.process is not None:
            self.process.tap(fd)
        self.prepare()

    # -- going down --------------------------------------------------------------------------

    def note_last_work(self, exited: Exited) -> None:
        """The worker died: learn from its note what its last messages would have said."""
        flight = self.flight
        if flight is not None and exited.worked_on == flight.message_id:
            self._started(flight, interruptible=False)

    def close(self) -> None:
        """Let go of the connection; the worker is gone."""
        self.flight = None  # whoever still waits for something of it need not
        self.engine.detach(self)
        if self.shared is not None:
            self.shared.clear(self.sender)
        if self._channels is not None and self.launched is not None:
            self._channels.disconnect(self.launched.connection)
            self._channels = None
