"""The worker's kernel: an IPython kernel that also serves pool requests.

    shell ─┬─ execute_request ─────────────▶ CellLane (cells) ─┐
           ├─ call_request, calls_request ─▶ CallLane (calls) ─┼─▶ Freshness (freshness)
           └─ anything else ───────────────▶ ipykernel         │   prepares, resets
                                 GATE (interrupts), streams ◀──┘

Here is what ipykernel's Kernel is told to do otherwise: which way a message takes, in which context
it runs, and how code asks a person.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
import getpass
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Coroutine
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelbase import Kernel
from jupyter_client.session import DELIM
from tornado import ioloop
from traitlets import Type

from jupyter_pool.kernel.asking import Asking
from jupyter_pool.kernel.calls import CallLane
from jupyter_pool.kernel.cells import CellLane
from jupyter_pool.kernel.comms import serve_comm
from jupyter_pool.kernel.contexts import create_task
from jupyter_pool.kernel.data import WorkerData
from jupyter_pool.kernel.freshness import Freshness
from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.ledger import Ledger, Tickets
from jupyter_pool.kernel.ledger import beside as tickets_beside
from jupyter_pool.kernel.modules import ModuleWatch
from jupyter_pool.kernel.request import KEY
from jupyter_pool.kernel.shell import CellCompiler, PoolShell, no_debugger, no_stdin
from jupyter_pool.kernel.started import Note, beside
from jupyter_pool.kernel.streams import PoolOutStream
from jupyter_pool.kernel.streams import finish_request as finish_streams
from jupyter_pool.kernel.threads import NativeThreads

__all__ = ["PoolKernel"]

_INPUT_HINT = "nobody can answer it. Pass values with inputs=… (in a notebook: --in NAMES)."


class PoolKernel(IPythonKernel):
    """A conforming Jupyter kernel with the pool's extensions.

    Leans on ipykernel's Kernel: `shell_main` and `dispatch_control` handle every
    other message; `set_parent`, `_publish_status`, `_publish_execute_input`,
    `_publish_status_and_flush`, `_abort_queues`, `_send_abort_reply`,
    `_main_asyncio_lock` (checked on ipykernel 7.4).
    """

    shell_class = Type(PoolShell)
    compiler_class = Type(CellCompiler)

    # Traits that are set for as long as messages come.
    shell: Any
    session: Any
    shell_stream: Any
    control_stream: Any
    parent: Any

    #: Of what it runs, for whoever finds it dead.
    note: Note
    #: Of the calls that it was sent together.
    ledger: Ledger
    tickets: Tickets

    #: A pool request is being served.
    in_pool_request = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threads = NativeThreads()
        self.freshness = Freshness(self.shell, self.comm_manager, self.threads)
        #: How large values come and go.
        self.data = WorkerData()
        #: What is being served, but for calls, which need no task.
        self.tasks: set[asyncio.Task[Any]] = set()
        self._asking = Asking()
        self.control_handlers["input_reply"] = self._asking.on_answer
        for kind in ("comm_msg", "comm_close"):
            self.shell_handlers[kind] = serve_comm(self, self.shell_handlers[kind])
        # For good, not per request: the methods themselves know whether they may ask.
        builtins.input = self.raw_input
        getpass.getpass = self.getpass
        sys.breakpointhook = self._breakpoint

    def attach(self, **channels: Any) -> None:
        """Take the channels, and this process's own identity."""
        for name, value in channels.items():
            setattr(self, name, value)
        self.ident = str(uuid.uuid4())
        self.iopub_thread.status_topic = self._topic("status")
        note = beside(self.parent.abs_connection_file)
        self.note, self.ledger = Note(note), Ledger(note)
        self.tickets = Tickets(tickets_beside(note))
        self._stdout, self._stderr = sys.stdout, sys.stderr
        shell = self.shell
        shell.compile.folder = os.path.join(tempfile.gettempdir(), f"ipykernel_{os.getpid()}")
        shell.displayhook.session = shell.display_pub.session = self.session
        shell.displayhook.pub_socket = shell.display_pub.pub_socket = self.iopub_socket
        shell.displayhook.topic = self._topic("execute_result")
        if session_name := os.environ.get("JPY_SESSION_NAME"):
            shell.user_ns["__session__"] = session_name

    @property
    def _supports_kernel_subshells(self) -> bool:
        return False

    @property
    def kernel_info(self) -> dict[str, Any]:
        """As ipykernel's, without a debugger: looking for one would import debugpy."""
        return {
            "protocol_version": _PROTOCOL_VERSION,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": [],
        }

    def start(self) -> None:
        """Listen. Past IPythonKernel's own start, which serves the debugger."""
        if self.shell:
            self.shell.exit_now = False
        self.io_loop = ioloop.IOLoop.current()
        self._control_lock = asyncio.Lock()
        #: For what may leave its context variables to those after it.
        self.lasting_context = contextvars.copy_context()
        self._fresh_context = self.lasting_context.copy()
        self._cells = CellLane(self)
        self._calls = CallLane(self, self._fresh_context)
        self.control_stream.on_recv(self.dispatch_control, copy=False)
        self.shell_stream.on_recv(self._on_shell_message, copy=False)
        self._publish_status("starting", "shell")

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """Agree. ipykernel's own also stops the main loop, 0.1 s later, whether or not the control
        thread is done by then; `shutdown_request` stops it as its last act anyway.
        """
        return {"status": "ok", "restart": restart}

    def capture_baseline(self, preloaded: ModuleWatch | None = None) -> None:
        """Remember how this worker looks before any request, with the modules that it has by then."""
        GATE.install()
        GATE.watch_swallowed()
        self.freshness.capture(preloaded)

    # -- receiving ---------------------------------------------------------------

    def _on_shell_message(self, frames: list[Any]) -> None:
        """Serve a call; start a task for any other message. Execute requests go our own, shorter way."""
        try:
            if len(frames) > 6 and frames[1].bytes == DELIM:
                idents, rest = [frames[0].bytes], frames[2:]
            else:
                idents, rest = self.session.feed_identities(frames, copy=False)
            # This look at the unverified type only decides who verifies.
            ours = _OURS.search(rest[1].bytes)
            if ours is not None and ours[1] == b"call":
                message = self.session.open_call(rest)
                if message["msg_type"] != "call_request":
                    raise ValueError("a header that says two things")
                self._calls.take(idents, message)
                return
            if ours is not None and ours[1] == b"calls":
                message = self.session.open_request(rest)
                if message["msg_type"] != "calls_request":
                    raise ValueError("a header that says two things")
                self._calls.take_all(idents, message)
                return
            message = self.session.open_request(rest) if ours else {}
        except Exception:
            self.log.exception("Invalid Message")
            return
        if ours:
            # Context variables (decimal's and NumPy's settings among them) are
            # part of what a stateless request must not hand on.
            metadata = message["metadata"].get(KEY)
            stateless = isinstance(metadata, dict) and not metadata.get("keep")
            context = self._fresh_context.copy() if stateless else self.lasting_context
            self.start_task(self._cells.serve(idents, message), context)
        else:
            self.start_task(self.shell_main(None, frames), self.lasting_context)

    def start_task(self, coro: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        """Have the main loop run something of the kernel's own; calls wait until it is done."""
        task = create_task(coro, context)
        GATE.kernel_tasks.add(task)
        # The loop itself keeps no task alive.
        self.tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not self.tasks:
            self._calls.resume()

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        """After an error of a plain client: abort what it has already sent."""
        self._aborting = True
        self.shell_stream.flush()

        async def stop_aborting() -> None:
            async with self._main_asyncio_lock:  # first come, first served
                self._aborting = False

        self.start_task(stop_aborting(), self.lasting_context)

    def finish_streams(self) -> None:
        """Send what is still in stdout and stderr, whatever these are by now."""
        out, err = sys.stdout, sys.stderr
        if isinstance(out, PoolOutStream) and isinstance(err, PoolOutStream):
            finish_streams(out, err)
            return
        for stream in (out, err):
            if isinstance(stream, PoolOutStream):
                stream.finish_request()
            elif stream is not None:
                with contextlib.suppress(Exception):
                    stream.flush()

    async def execute_request(
        self, stream: Any, ident: list[bytes], parent: dict[str, Any]
    ) -> None:
        """Ipykernel's handler: the lane has its own way to it, without a look at the type."""
        await self._cells.execute(ident, parent)

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: Any = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        """Run a cell as the pool does, for whoever calls a kernel by ipykernel's names."""
        return await self._cells.run(
            code, silent, store_history, user_expressions, allow_stdin, cell_id=cell_id
        )

    # -- what would wait for a person ----------------------------------------------

    def raw_input(self, prompt: Any = "") -> str:
        """``input()``: ask the client, or fail at once where it cannot answer."""
        if not self._allow_stdin:
            raise no_stdin("input()", _INPUT_HINT)
        return str(super().raw_input(prompt))

    def getpass(self, prompt: str = "Password: ", stream: Any = None, **kwargs: Any) -> str:
        """``getpass()``: ask the client, or fail at once where it cannot answer."""
        if not self._allow_stdin:
            raise no_stdin("getpass()", _INPUT_HINT)
        return str(super().getpass(prompt, stream, **kwargs))

    def _input_request(
        self, prompt: str, ident: Any, parent: dict[str, Any], password: bool = False
    ) -> str:
        """Ask. The owner of a pool has no stdin channel: it is asked on iopub, answers on control."""
        if not self.in_pool_request:
            return str(super()._input_request(prompt, ident, parent, password))
        return self._asking.ask(self.session, self.iopub_socket, parent, prompt, password)

    def _breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        if not self._allow_stdin:
            raise no_debugger("breakpoint()")
        return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100 - a client that can answer


_OURS = re.compile(rb'"msg_type"\s*:\s*"(execute|calls?)_request"')
_PROTOCOL_VERSION = sys.modules[Kernel.__module__].kernel_protocol_version
