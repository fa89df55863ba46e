"""A worker kernel as its owner sees it: the standard protocol over ipc, with deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.session import Session

from jupyter_pool import kernel
from jupyter_pool.provisioning import fork
from jupyter_pool.provisioning.templates import Templates
from jupyter_pool.serialize import pack, unpack

#: Seconds for anything that should happen at all. What takes longest, the first import of matplotlib,
#: pandas and scikit-learn, takes 8 s on a machine that does other things too.
DEADLINE = 60.0

Message = dict[str, Any]


class _Manager(AsyncKernelManager):
    #: Where `ForkProvisioner` gets its kernels from.
    templates: Templates | None = None


class _OneSpec(KernelSpecManager):
    """Knows one kernelspec, which is not installed anywhere."""

    spec: KernelSpec

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return self.spec


@dataclass
class Answer:
    """What came back for one request."""

    reply: Message
    messages: list[Message] = field(default_factory=list)  # iopub, in order

    @property
    def content(self) -> dict[str, Any]:
        return self.reply["content"]  # type: ignore[no-any-return]

    @property
    def report(self) -> dict[str, Any]:
        return self.reply["metadata"]["jupyter_pool"]  # type: ignore[no-any-return]

    @property
    def values(self) -> dict[str, Any]:
        return unpack(self.reply["buffers"])

    @property
    def types(self) -> list[str]:
        return [_describe(message) for message in self.messages]

    @property
    def order(self) -> list[str]:
        """The types, each once in a row: what a print writes may leave in several messages."""
        return [kind for kind, _ in groupby(self.types)]

    @property
    def stdout(self) -> str:
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        return self._text("stderr")

    @property
    def result(self) -> str | None:
        for message in self.messages:
            if message["msg_type"] == "execute_result":
                return str(message["content"]["data"]["text/plain"])
        return None

    def _text(self, name: str) -> str:
        return "".join(
            message["content"]["text"]
            for message in self.messages
            if message["msg_type"] == "stream" and message["content"]["name"] == name
        )


def _describe(message: Message) -> str:
    if message["msg_type"] == "status":
        return str(message["content"]["execution_state"])
    return str(message["msg_type"])


class Worker:
    """One kernel process, with sockets of its own."""

    def __init__(self, folder: Path, templates: Templates | None = None) -> None:
        specs = _OneSpec()
        specs.spec = KernelSpec(
            argv=kernel.command(),
            display_name="worker",
            language="python",
            metadata={"kernel_provisioner": {"provisioner_name": fork.NAME}} if templates else {},
        )
        self.stderr_path = folder / "stderr"
        # A loop of our own: the synchronous manager leaves one behind.
        self._loop = asyncio.new_event_loop()
        self.manager = _Manager(
            kernel_spec_manager=specs,
            kernel_name="worker",
            transport="ipc",
            ip=str(folder / "k"),
            connection_file=str(folder / "c.json"),
        )
        self.manager.templates = templates
        with open(self.stderr_path, "wb") as stderr:
            self._do(self.manager.start_kernel(cwd=str(folder), stderr=stderr))
        # The manager's own connection to the kernel, which comes some time later: a test that
        # counts the worker's descriptors would see it or not.
        self.manager._close_control_socket()
        info = self.manager.get_connection_info()
        self.session = Session(key=info["key"], signature_scheme=str(info["signature_scheme"]))
        self.session.copy_threshold = 1 << 40  # sending without a copy starts a thread for good
        self._context = zmq.Context()
        self.shell = self._connect(zmq.DEALER, "shell")
        self.control = self._connect(zmq.DEALER, "control")
        self.stdin = self._connect(zmq.DEALER, "stdin")
        self.iopub = self._connect(zmq.SUB, "iopub")
        self.iopub.subscribe(b"")
        self._early: list[Message] = []
        self.ready = self._probe()

    def _connect(self, kind: int, channel: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = 0
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        if channel in ("shell", "stdin"):
            socket.setsockopt(zmq.IDENTITY, self.session.bsession)
        info: dict[str, Any] = {**self.manager.get_connection_info()}
        connected = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.connect(f"ipc://{info['ip']}-{info[channel + '_port']}")
        # A test that counts the worker's descriptors, or waits to be asked, needs it to stand.
        stands = connected.poll(int(DEADLINE * 1000))
        socket.disable_monitor()
        connected.close()
        assert stands, f"no {channel} channel; the kernel's stderr: {self.real_stderr[-2000:]}"
        return socket

    def _probe(self) -> Message:
        """Return kernel_info's reply, once iopub is heard."""
        reply = self.receive(self.shell, self.send(self.shell, "kernel_info_request", {}))
        # Heard once the subscription is there; what was published before it is lost.
        deadline = time.monotonic() + DEADLINE
        while self._get(self.iopub, deadline)["msg_type"] != "iopub_welcome":
            pass
        self.run("")
        return reply

    # -- messages ---------------------------------------------------------------

    def send(
        self,
        socket: zmq.Socket[bytes],
        kind: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Any] = (),
    ) -> str:
        message = self.session.msg(kind, content, metadata=metadata)
        self.session.send(socket, message, buffers=list(buffers))
        return str(message["header"]["msg_id"])

    def _get(self, socket: zmq.Socket[bytes], deadline: float) -> Message:
        left = max(0.0, deadline - time.monotonic())
        if not socket.poll(int(left * 1000) + 1):
            raise TimeoutError(f"no answer; the kernel's stderr: {self.real_stderr[-2000:]}")
        _, message = self.session.recv(socket)
        assert message is not None
        return message

    def receive(
        self, socket: zmq.Socket[bytes], request: str, timeout: float = DEADLINE
    ) -> Message:
        deadline = time.monotonic() + timeout
        while True:
            message = self._get(socket, deadline)
            if message["parent_header"].get("msg_id") == request:
                return message

    def submit(
        self,
        code: str,
        *,
        inputs: dict[str, Any] | None = None,
        outputs: Sequence[str] = (),
        plain: bool = False,
        silent: bool = False,
        allow_stdin: bool = False,
        user_expressions: dict[str, str] | None = None,
        buffers: Sequence[Any] = (),
        **request: Any,
    ) -> str:
        """Send an execute request; the keywords are the pool's metadata. Return its id."""
        metadata: dict[str, Any] = {}
        if not plain:
            has_inputs = inputs is not None or bool(buffers)
            metadata["jupyter_pool"] = {
                "v": 1,
                "inputs": has_inputs,
                "outputs": list(outputs),
                **request,
            }
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": user_expressions or {},
            "allow_stdin": allow_stdin,
            "stop_on_error": True,
        }
        if inputs is not None:
            buffers = pack(inputs)
        return self.send(self.shell, "execute_request", content, metadata, buffers)

    def drain(self, request: str, timeout: float = DEADLINE) -> list[Message]:
        """Return the iopub messages of a request, up to idle. No other may come."""
        deadline = time.monotonic() + timeout
        messages, self._early = self._early, []
        while not messages or _describe(messages[-1]) != "idle":
            message = self._get(self.iopub, deadline)
            parent = message["parent_header"].get("msg_id")
            if parent == request:
                messages.append(message)
            else:
                assert message["msg_type"] == "status", message
        return messages

    def listen_until_idle(self, request: str, timeout: float = DEADLINE) -> list[Message]:
        """Return all iopub messages, of any request, up to this one's idle."""
        deadline = time.monotonic() + timeout
        messages = []
        while True:
            message = self._get(self.iopub, deadline)
            messages.append(message)
            if _describe(message) == "idle" and message["parent_header"]["msg_id"] == request:
                return messages

    def wait_for(
        self, request: str, test: Callable[[Message], bool], timeout: float = DEADLINE
    ) -> Message:
        """Wait for one of a request's iopub messages; `drain` still returns it."""
        deadline = time.monotonic() + timeout
        while True:
            message = self._get(self.iopub, deadline)
            if message["parent_header"].get("msg_id") == request:
                self._early.append(message)
                if test(message):
                    return message

    def wait_for_text(self, request: str, text: str) -> None:
        self.wait_for(request, lambda message: text in message["content"].get("text", ""))

    def finish(self, request: str, timeout: float = DEADLINE) -> Answer:
        messages = self.drain(request, timeout)
        return Answer(self.receive(self.shell, request, timeout), messages)

    def run(self, code: str, **options: Any) -> Answer:
        return self.finish(self.submit(code, **options))

    def be_patient(self) -> None:
        """Have resets wait for threads and children that are about to end for as long as it takes.

        They wait 50 ms otherwise: on a busy machine what is about to end may take longer.
        """
        self.run(
            "from jupyter_pool.kernel import leftovers\n"
            f"assert leftovers._JOIN_TIMEOUT\nleftovers._JOIN_TIMEOUT = {DEADLINE / 3}"
        )

    # -- the process ------------------------------------------------------------

    def _do(self, work: Awaitable[Any]) -> None:
        async def in_time() -> None:
            await asyncio.wait_for(work, DEADLINE)

        self._loop.run_until_complete(in_time())

    @property
    def pid(self) -> int:
        return int(self.manager.provisioner.pid)  # type: ignore[union-attr]

    @property
    def real_stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def interrupt(self) -> None:
        self._do(self.manager.interrupt_kernel())

    def wait_dead(self, timeout: float = DEADLINE) -> int:
        """Wait for the end of the process; return its exit code."""
        process = self.manager.provisioner.process  # type: ignore[union-attr]
        return int(process.wait(timeout))

    def close_process(self) -> None:
        """End the process, and with its group what it has started."""
        self._do(self.manager.shutdown_kernel(now=True))

    def close(self) -> None:
        for socket in (self.shell, self.control, self.stdin, self.iopub):
            socket.close()
        self._context.term()
        try:
            self.close_process()
        finally:
            self._loop.close()


@contextmanager
def start_worker(folder: Path, **options: Any) -> Iterator[Worker]:
    worker = Worker(folder, **options)
    try:
        yield worker
    finally:
        worker.close()


def exists(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
