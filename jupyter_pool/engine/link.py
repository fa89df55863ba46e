"""One worker, as its pool knows it: whether it is ready, and what it is told to do.

                     ┌─▶ CallSender (sending) ─┐
    Driver ──▶ Link ─┤                         ├─▶ Connection ══▶ worker
                     └─────────────────────────┘                    ║
    Driver ◀──────────── Receiver (receiving) ◀═════════════════════╝
                            └── Flights: what was sent and is not answered

It comes up in steps: launched, connected, introduced (it has said who it is), probed (it has executed
something), set up; then it is ready.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import InterruptDelivered, SetUpDone, WorkerReady
from jupyter_pool.provisioning import processes

from .comms import CommMessage
from .connection import Connection
from .data import Outbox
from .flights import Flight
from .receiving import Receiver
from .sending import CallSender
from .setups import SettingUp

if TYPE_CHECKING:
    from jupyter_pool.errors import WorkerStartError
    from jupyter_pool.provisioning.launcher import Exited, Launched, Worker
    from jupyter_pool.shared import SharedMemory

    from .driver import Driver
    from .request import Request
    from .setups import Setup
    from .wire import Message

__all__ = ["Link"]


class Link:
    """One worker, from its launch to its end. Lives on the I/O thread."""

    #: The ways to it; there once it is launched.
    connection: Connection
    calls: CallSender
    outbox: Outbox

    def __init__(self, driver: Driver, worker_id: int, *, foreign: bool) -> None:
        self.driver = driver
        self.engine = driver.engine
        self.worker_id = worker_id
        self.foreign = foreign
        self.born = time.monotonic()
        self.process: Worker | None = None
        self.launched: Launched | None = None
        self.exited: Exited | None = None
        self.stop: Any = None
        self.ready = False
        #: The setups that it has run.
        self.set_up: list[Setup] = []
        self.setting_up = SettingUp(self)
        #: Why its probe failed, if it did.
        self.refusal: str | None = None
        #: Which setup failed in it while it was starting, and how, if one did.
        self.setup_failure: WorkerStartError | None = None
        self.receiver = Receiver(self)
        #: What it was sent and has not answered, by message id, in the order in which it serves them.
        self.flights = self.receiver.flights
        #: Shared memory, if the worker can have a part in it; and what the names of its segments there
        #: begin with.
        self.shared: SharedMemory | None = None
        self._sender = f"w{worker_id}-{driver.serial}"

    @property
    def pid(self) -> int | None:
        """The process id of a worker on this machine, once it runs."""
        return self.launched.pid if self.launched is not None else None

    @property
    def flight(self) -> Flight | None:
        """The first of what it has to answer: all that it has, unless calls were sent together."""
        return self.flights.first

    # -- coming up ---------------------------------------------------------------------------

    def connect(self, launched: Launched) -> None:
        """The process runs: connect to it and prove that it executes."""
        driver = self.driver
        name = f"w{self.worker_id}@{driver.serial}".encode()
        self.connection = Connection(self.engine, name, launched)
        self.shared = driver.shared if self.connection.local else None
        self.outbox = Outbox(self.shared)
        self.calls = CallSender(driver, self.worker_id, self.connection, self.receiver, self.outbox)
        self.launched = launched
        self.connection.open()
        self.receiver.listen(self.connection, self.shared)
        self.connection.send("kernel_info_request", self.engine.new_id(), {})
        self.probe()

    def probe(self) -> None:
        """Execute something; its reply and its idle status show that every channel works."""
        if self.ready or self.exited is not None:
            return
        self.flights.clear()
        flight = self.flights.add(Flight(self.engine.new_id(), None))
        metadata = None if self.foreign else {"jupyter_pool": self.driver.surroundings.baseline()}
        if metadata is not None and self.shared is not None:
            # Signed as all metadata, and on ipc read by nobody else.
            metadata["jupyter_pool"]["shared"] = self.shared.invitation(self._sender)
        self.connection.execute(flight.message_id, "", metadata, silent=True)

    def probed(self, reply: Message) -> None:
        """It has executed something, and said who it is."""
        if reply.content.get("status") != "ok":
            error = f"{reply.content.get('ename')}: {reply.content.get('evalue')}"
            self.refusal = f"it started, but could not execute: {error}"
            self._kill()
            return
        ours = reply.metadata.get("jupyter_pool") or {}
        fd = ours.get("stderr_fd")
        if ours.get("rides") and self.connection.local and self.launched is not None:
            self.calls.allow_rides(self.launched.connection["ip"])
        if fd is not None and self.process is not None:
            self.process.tap(fd)
        self.prepare()

    def prepare(self) -> None:
        """Have the worker run the setups that it lacks."""
        self.setting_up.go_on()

    def run_setup(self, setup: Setup) -> None:
        """Have the worker run one setup; what it leaves is there for every request."""
        reply_type = "call_reply" if setup.code is None else "execute_reply"
        flight = Flight(self.engine.new_id(), None, reply_type=reply_type, setup=setup)
        self.flights.add(flight)
        frames, more = self.outbox.pack(setup)
        said: dict[str, Any] = {**more, **setup.context, "v": 1, "setup": True}
        said["output_limit"] = self.driver.config.output_limit
        metadata = {"jupyter_pool": said}
        if setup.code is not None:
            self.connection.execute(
                flight.message_id, setup.code, metadata, silent=True, buffers=frames
            )
            return
        content = {"v": 1, "split": len(setup.frames) - 1}
        self.connection.send("call_request", flight.message_id, content, metadata, frames)

    def fail_setup(self, error: WorkerStartError) -> None:
        """A setup that is to stay went wrong: the worker goes, by a failed start if it is starting."""
        if self.ready:
            self.driver.feed(SetUpDone(self.worker_id, "its setup failed"))
            return
        self.setup_failure = error
        self._kill()

    def is_set_up(self) -> None:
        """It lacks no setup."""
        if self.driver.memory is not None and self.pid is not None:
            self.driver.memory.ready(self.worker_id, self.pid)
        was_ready, self.ready = self.ready, True
        if not was_ready:
            self.driver.teller.ready(self)
        self.driver.feed(SetUpDone(self.worker_id) if was_ready else WorkerReady(self.worker_id))

    # -- being told --------------------------------------------------------------------------

    def run(self, request: Request) -> None:
        """Send a request's code, or its call."""
        message_id = f"{request.id}.{request.attempt}"
        if request.split is not None:
            flight = self.flights.add(Flight(message_id, request, reply_type="call_reply"))
            self.calls.send(flight, request, request.split)
            return
        self.flights.add(Flight(message_id, request))
        frames, said = self.outbox.pack(request)
        envelope = {**self.driver.envelopes.of(request), **said}
        metadata = None if self.foreign else {"jupyter_pool": envelope}
        # There is no stdin channel: our kernel asks on iopub and is answered on control.
        asks = request.ask is not None and not self.foreign
        self.connection.execute(
            message_id, request.code, metadata, allow_stdin=asks, buffers=frames
        )

    def reset(self) -> None:
        """Have the kernel forget what a lease left in it."""
        flight = self.flights.add(Flight(self.engine.new_id(), None))
        metadata = {"jupyter_pool": {"v": 1, "reset": True}}
        self.connection.execute(flight.message_id, "", metadata, silent=True)

    def interrupt(self, request: Request | None) -> None:
        """Interrupt a request that runs, as soon as an interrupt can reach it.

        Before the cell's code runs the kernel ignores SIGINT, so one sent too early would be lost. When
        something has begun that was sent along behind it, it is over, and only its answer is to come.
        """
        if self.flights.ticketed():
            self.calls.take_back()
        flight = self.flights.last
        if flight is None or flight.request is not request:
            self.driver.feed(InterruptDelivered(self.worker_id))
            return
        flight.interrupt = True
        if flight.interruptible:
            self.deliver_interrupt()

    def deliver_interrupt(self) -> None:
        """Interrupt it, now that this reaches what it runs."""
        assert self.launched is not None
        assert self.process is not None
        delivered = InterruptDelivered(self.worker_id)
        if self.launched.interrupt_mode == "message":
            # Its reply on the control channel is what proves delivery.
            self.connection.send("interrupt_request", self.engine.new_id(), {}, control=True)
        elif self.launched.pid is not None:
            processes.send(self.launched.pid, signal.SIGINT)
            self.driver.feed(delivered)
        else:
            self.driver.launcher.interrupt(
                self.process, lambda: self.engine.post(lambda: self.driver.feed(delivered))
            )

    def answer(self, request: Request, content: dict[str, Any]) -> None:
        """Answer what a request's code has asked, if it still runs here."""
        flight = self.flights.first
        if flight is not None and flight.request is request:
            content = {**content, "request": flight.message_id}
            self.connection.send("input_reply", self.engine.new_id(), content, control=True)

    def send_comm(self, message_id: str, message: CommMessage) -> None:
        """Send a comm message; the worker takes it when it runs nothing."""
        self.connection.send(
            message.msg_type, message_id, message.content, message.metadata, message.buffers
        )

    def ping(self, answered: Callable[[int], None]) -> None:
        """Ask for a sign of life; `answered` gets the worker's id."""
        message_id = self.engine.new_id()
        self.receiver.expect_pong(message_id, answered)
        self.connection.send("kernel_info_request", message_id, {})

    # -- going down --------------------------------------------------------------------------

    def shut_down(self) -> None:
        """Ask the kernel to end by itself."""
        if self.launched is not None and self.exited is None:
            message_id = self.engine.new_id()
            self.connection.send("shutdown_request", message_id, {"restart": False}, control=True)

    def _kill(self) -> None:
        assert self.process is not None
        self.driver.launcher.stop(self.process, kill=True)

    def close(self) -> None:
        """Let go of the connection; the worker is gone."""
        self.receiver.close()
        if self.shared is not None:
            self.shared.clear(self._sender)
        if self.launched is not None:
            self.calls.close()
            self.connection.close()
