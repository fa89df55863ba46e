"""The worker's kernel: an IPython kernel that also serves pool requests.

An execute request with the metadata key ``jupyter_pool`` runs like this; one
without it is an ordinary one, and nothing is reset.

    busy → place (folder, path, environment), seed, inputs → execute_input
         → the cell, as IPython runs it → outputs packed → reset → reply → idle

An interrupt may strike between "inputs" and "outputs packed", and nowhere else
(see `interrupts`); whatever happens there, a reply follows.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
import getpass
import os
import queue
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Coroutine
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelbase import Kernel
from jupyter_client.session import DELIM
from tornado import ioloop
from traitlets import Type

from jupyter_pool.errors import SerializationError
from jupyter_pool.kernel.calls import CallLane
from jupyter_pool.kernel.comms import forget_comms, serve_comm
from jupyter_pool.kernel.contexts import create_task
from jupyter_pool.kernel.data import WorkerData
from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.ledger import Ledger, Tickets
from jupyter_pool.kernel.ledger import beside as tickets_beside
from jupyter_pool.kernel.leftovers import cancel_at_once, cancel_tasks
from jupyter_pool.kernel.memory import resident
from jupyter_pool.kernel.modules import ModuleWatch
from jupyter_pool.kernel.randomness import seed_random
from jupyter_pool.kernel.request import (
    KEY,
    VERSION,
    BadRequest,
    PoolRequest,
    collect_outputs,
)
from jupyter_pool.kernel.reset import Baseline
from jupyter_pool.kernel.shell import CellCompiler, PoolShell, no_debugger, no_stdin, text_of
from jupyter_pool.kernel.started import Note, beside
from jupyter_pool.kernel.streams import PoolOutStream, send_streams
from jupyter_pool.kernel.streams import finish_request as finish_streams
from jupyter_pool.kernel.threads import NativeThreads
from jupyter_pool.kernel.tracing import in_context_of
from jupyter_pool.serialize import unpack

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

    #: Why this process should be replaced, once a call has been answered that left it so.
    spent: str | None = None

    #: A pool request is being served.
    in_pool_request = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.baseline: Baseline | None = None
        self.threads = NativeThreads()
        self._replied = False
        #: For whom the last request left its state, if it did.
        self._kept_for: str | None = None
        #: How large values come and go.
        self.data = WorkerData()
        self._tasks: set[asyncio.Task[Any]] = set()
        #: What was answered on the control channel: a message's content.
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.control_handlers["input_reply"] = self._on_answer
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
        self._lasting_context = contextvars.copy_context()
        self._fresh_context = self._lasting_context.copy()
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
        self.baseline = Baseline.capture(self.shell, preloaded, self.threads)

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
            context = self._fresh_context.copy() if stateless else self._lasting_context
            self._start_task(self._serve(idents, message), context)
        else:
            self._start_task(self.shell_main(None, frames), self._lasting_context)

    def _start_task(self, coro: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        task = create_task(coro, context)
        GATE.kernel_tasks.add(task)
        # The loop itself keeps no task alive.
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._calls.resume()

    async def _serve(self, idents: list[bytes], message: dict[str, Any]) -> None:
        """Take one execute request from busy to idle."""
        async with self._main_asyncio_lock:
            GATE.arm()
            self._replied = False
            self.iopub_thread.cork()
            self.set_parent(idents, message, channel="shell")
            self._publish_status("busy", "shell")
            stream = self.shell_stream
            try:
                if self._aborting and KEY not in message["metadata"]:
                    self._send_abort_reply(stream, message, idents)
                else:
                    await self.execute_request(stream, idents, message)
            except (Exception, KeyboardInterrupt, SystemExit, asyncio.CancelledError) as error:
                # Nothing should come here; but whoever waits must get an answer.
                GATE.close()
                self.log.exception("Error while serving a request")
                if not self._replied:
                    report = {
                        "v": VERSION,
                        "failed": repr(error),
                        "recycle": f"the kernel failed: {error!r}",
                    }
                    content = _describe_error(error, [])
                    self._reply(stream, message, idents, content, {KEY: report}, [])
            finally:
                GATE.disarm()
                GATE.install()
                self.in_pool_request = False
            self._finish_streams()
            self._publish_status("idle", "shell")
            self.iopub_thread.uncork()

    def _reply(
        self,
        stream: Any,
        parent: dict[str, Any],
        idents: list[bytes],
        content: dict[str, Any],
        metadata: dict[str, Any],
        buffers: list[Any],
    ) -> None:
        self._replied = True
        self.session.send(
            stream,
            "execute_reply",
            content,
            parent,
            metadata=metadata,
            ident=idents,
            buffers=buffers,
        )

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        """After an error of a plain client: abort what it has already sent."""
        self._aborting = True
        self.shell_stream.flush()

        async def stop_aborting() -> None:
            async with self._main_asyncio_lock:  # first come, first served
                self._aborting = False

        self._start_task(stop_aborting(), self._lasting_context)

    def _finish_streams(self) -> None:
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

    # -- execute -----------------------------------------------------------------

    async def execute_request(
        self, stream: Any, ident: list[bytes], parent: dict[str, Any]
    ) -> None:
        """Serve an execute request, the pool's or a plain one, up to its reply."""
        try:
            request = PoolRequest.parse(parent["metadata"])
            if request is not None:
                parent["buffers"] = self.data.begin(request, parent["buffers"])
        except BadRequest as error:
            report = {"v": VERSION, "bad_inputs": str(error)}
            self._reply(stream, parent, ident, _describe_bad(error), {KEY: report}, [])
            return
        limit = None if request is None else request.output_limit
        comms = request is not None and request.comms
        self.iopub_thread.begin_request(limit, parent["header"], comms=comms)
        if request is None:
            await self._execute_plain(stream, ident, parent)
        else:
            self.in_pool_request = True
            await self._execute_pooled(stream, ident, parent, request)

    async def _execute_plain(self, stream: Any, ident: list[bytes], parent: dict[str, Any]) -> None:
        content = parent["content"]
        silent = content.get("silent", False)
        metadata = self.init_metadata(parent)
        if not silent:
            self._publish_execute_input(content["code"], parent, self.execution_count)
        reply = await self.do_execute(
            content["code"],
            silent,
            content.get("store_history", not silent),
            content.get("user_expressions", {}),
            content.get("allow_stdin", False),
            cell_id=parent["metadata"].get("cellId"),
        )
        self._finish_streams()
        metadata = self.finish_metadata(parent, metadata, reply)
        self._reply(stream, parent, ident, reply, metadata, [])
        if not silent and reply["status"] == "error" and content.get("stop_on_error", True):
            self._abort_queues()

    async def _execute_pooled(
        self, stream: Any, ident: list[bytes], parent: dict[str, Any], request: PoolRequest
    ) -> None:
        content = parent["content"]
        report: dict[str, Any] = {
            "v": VERSION,
            "outputs": [],
            "missing": [],
            "unpicklable": {},
            "bad_inputs": None,
            "at": None,
        }
        frames: list[Any] = []
        recycle = self._find_stale(request)
        if self._kept_for is not None and request.scope != self._kept_for:
            # What the last request was allowed to keep is not for this one.
            recycle = await self._reset() or recycle
        if recycle is not None and not request.reset:
            report.update(refused=recycle, recycle=recycle)
            self._reply(stream, parent, ident, _describe_refusal(recycle), {KEY: report}, frames)
            return
        self.note.put(parent["header"]["msg_id"])
        try:
            if not request.reset:
                self._prepare(request, parent["buffers"])
            if request.setup and self.baseline is not None:
                self.baseline.setup_begins()
        except BadRequest as error:
            reply = _describe_bad(error)
            report["bad_inputs"] = str(error)
        else:
            if request.reset:
                reply = self._describe_success({})
            else:
                code, silent = content["code"], content.get("silent", False)
                if not silent:
                    self._publish_execute_input(code, parent, self.execution_count)
                before = resident()
                with in_context_of(request.trace):
                    reply = await self.do_execute(
                        code,
                        silent,
                        not silent,
                        content.get("user_expressions", {}),
                        content.get("allow_stdin", False),
                        cell_id=parent["metadata"].get("cellId"),
                        wanted=(request.outputs, report, frames),
                    )
                after = resident()
                if before is not None and after is not None:
                    report["memory_delta"] = after - before
        took = 0.0
        self._kept_for = request.scope if request.keep else None
        if request.setup:
            # One that failed is the end of this process.
            if reply["status"] == "ok" and self.baseline is not None:
                self.baseline.setup_ends()
                # What does not belong to it: where it ran, standard streams, tasks.
                recycle = await self._reset() or recycle
        elif not request.keep:
            started = time.perf_counter()
            recycle = await self._reset() or recycle
            took = time.perf_counter() - started
        if request.baseline:
            report["stderr_fd"] = getattr(sys.stderr, "captured_fd", None)
            report["rides"] = self.ledger.usable and self.tickets.usable
        report["recycle"] = recycle
        report["reset_ms"] = took * 1e3
        self._finish_streams()
        report["left_out"] = self.iopub_thread.finish_request()
        self._reply(stream, parent, ident, reply, {KEY: report}, self.data.send(frames))

    def _find_stale(self, request: PoolRequest) -> str | None:
        """Why the request must run in another process; not within a lease, whose state stays."""
        if self.spent is not None:
            return self.spent
        goes_on = request.keep and request.scope == self._kept_for
        if self.baseline is None or request.reset or request.baseline or goes_on:
            return None
        return self.baseline.find_stale(request.path, request.cwd)

    def _prepare(self, request: PoolRequest, buffers: list[Any]) -> None:
        """Make the worker look as the request wants it. Raises BadRequest."""
        self.prepare_place(request)
        if request.baseline and self.baseline is not None:
            self.baseline.capture_place()
        if request.inputs:
            try:
                namespace = self.shell.user_ns
                frames = self.data.receive(buffers)
                with self.data.fetching(namespace):
                    namespace.update(unpack(frames, main_globals=namespace))
            except SerializationError as error:
                raise BadRequest(str(error)) from error

    def prepare_place(self, request: PoolRequest) -> None:
        """Go where the request wants to run, with as many threads, and seed. Raises BadRequest."""
        if request.cwd is not None:
            try:
                os.chdir(request.cwd)
            except OSError as error:
                raise BadRequest(
                    f"the working folder {request.cwd!r} cannot be entered: {error.strerror}"
                ) from error
        if request.path is not None and sys.path != list(request.path):
            sys.path[:] = request.path
        for name, value in (request.env or {}).items():
            try:
                if value is None:
                    os.environ.pop(name, None)
                elif os.environ.get(name) != value:
                    os.environ[name] = value
            except (TypeError, ValueError, OSError) as error:
                raise BadRequest(f"the variable {name!r} cannot be set: {error}") from error
        self.threads.limit(request.threads)
        if request.seed is not None:
            seed_random(request.seed)
        if request.execution_count is not None:
            self.shell.execution_count = request.execution_count
        elif not request.keep and self.shell.execution_count != 1:
            self.shell.execution_count = 1  # a trait, dear to set

    async def _reset(self) -> str | None:
        """Return why this process should be replaced, or None."""
        if self.baseline is None:
            return None
        reasons = (await self.cancel_leftover_tasks(), self.restore_baseline())
        return "; ".join(filter(None, reasons)) or None

    async def cancel_leftover_tasks(self) -> str | None:
        """Return why this process should be replaced, or None."""
        try:
            return await cancel_tasks()
        except Exception as error:  # noqa: BLE001 - whatever it is, they may still run
            return f"its tasks could not be cancelled: {error!r}"

    def restore_baseline(self) -> str | None:
        """Reset all but tasks. Return why this process should be replaced, or None."""
        forget_comms(self.comm_manager)
        return None if self.baseline is None else self.baseline.restore().recycle

    def find_refusal(self, request: PoolRequest) -> str | None:
        """Why a call must run in another process, or None."""
        recycle = self._find_stale(request)
        if self._kept_for is not None and request.scope != self._kept_for:
            # What the last request was allowed to keep is not for this one.
            if not cancel_at_once():
                return "it was left with tasks that run"
            recycle = self.restore_baseline() or recycle
            self._kept_for = None
        return recycle

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
        wanted: tuple[tuple[str, ...], dict[str, Any], list[Any]] | None = None,
    ) -> dict[str, Any]:
        """Run a cell and return the content of its reply.

        Parameters
        ----------
        wanted
            A pool request's names of outputs, its report, and the list for
            their frames; the last two are filled in.
        """
        shell = self.shell
        self._allow_stdin = allow_stdin
        shell._last_traceback = None
        shell._last_traceback_during_displayhook = False
        error: BaseException | None = None
        expressions: dict[str, Any] = {}
        self.iopub_thread.uncork()  # busy must be out before user code can kill us
        try:
            try:
                GATE.open()
                error = await shell.run_cell_here(code, silent, store_history, cell_id)
                if error is None:
                    expressions = shell.user_expressions(user_expressions or {})
                    if wanted is not None and wanted[0]:
                        self.iopub_thread.uncork()  # packing may take its time
                        collect_outputs(self._set_names(), *wanted, self.data.share)
            except (KeyboardInterrupt, SystemExit, asyncio.CancelledError) as struck:
                # Between two lines of the cell, so to say: in IPython or in here.
                error = struck
            GATE.close()
        except KeyboardInterrupt as struck:  # in the lines above
            GATE.close()
            error = error or struck
        if error is None and not shell._last_traceback_during_displayhook:
            reply = self._describe_success(expressions)
        else:
            if isinstance(error, asyncio.CancelledError) and GATE.cancelled_cell:
                error = KeyboardInterrupt().with_traceback(error.__traceback__)
            if shell._last_traceback is None and error is not None:
                shell.show_outside_cell(error)
            reply = _describe_error(error, shell._last_traceback or [], shell.last_shown)
            self.iopub_thread.limit.shorten_error(reply)
            reply["execution_count"] = shell.execution_count - 1
            reply["payload"] = shell.payload_manager.read_payload()
            if wanted is not None and error is not None:
                wanted[1].update(outputs=[], missing=[], unpicklable={})
                wanted[1]["at"] = shell.find_cell_line(error, code)
                wanted[2].clear()
        shell.payload_manager.clear_payload()
        return reply

    def _set_names(self) -> dict[str, Any]:
        """The namespace without what is in every fresh one, as long as it is just that."""
        namespace = self.shell.user_ns
        hidden = self.shell.user_ns_hidden
        unset = object()
        return {
            name: value for name, value in namespace.items() if value is not hidden.get(name, unset)
        }

    def _describe_success(self, expressions: dict[str, Any]) -> dict[str, Any]:
        return {
            "status": "ok",
            "execution_count": self.shell.execution_count - 1,
            "user_expressions": expressions,
            "payload": self.shell.payload_manager.read_payload(),
        }

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
        send_streams()
        asked = parent["header"]["msg_id"]
        content = {"prompt": prompt, "password": password}
        self.session.send(self.iopub_socket, "input_request", content, parent, ident=b"input")
        while True:
            try:
                answer = self._answers.get(timeout=_HEAR_INTERRUPT)
            except queue.Empty:
                continue
            if answer.get("request") != asked:
                continue  # somebody answered too late
            if answer.get("end"):
                raise EOFError("the end of the input")
            if "error" in answer:
                raise no_stdin("input()", f"asking has failed: {answer['error']}")
            return str(answer.get("value", ""))

    async def _on_answer(self, stream: Any, ident: list[bytes], message: dict[str, Any]) -> None:
        self._answers.put(message["content"])

    def _breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        if not self._allow_stdin:
            raise no_debugger("breakpoint()")
        return sys.__breakpointhook__(*args, **kwargs)  # noqa: T100 - a client that can answer


#: A signal that comes just before waiting does not end it: how long it may go unheard, in seconds.
_HEAR_INTERRUPT = 0.5

_OURS = re.compile(rb'"msg_type"\s*:\s*"(execute|calls?)_request"')
_PROTOCOL_VERSION = sys.modules[Kernel.__module__].kernel_protocol_version


def _describe_error(
    error: BaseException | None, traceback: list[str], shown: tuple[str, str] = ("Exception", "")
) -> dict[str, Any]:
    # IPython reports an error while a result is displayed without an exception: as it was shown.
    ename, evalue = shown if error is None else (type(error).__name__, text_of(error))
    return {
        "status": "error",
        "ename": ename,
        "evalue": evalue,
        "traceback": traceback,
        "user_expressions": {},
        "payload": [],
    }


def _describe_refusal(reason: str) -> dict[str, Any]:
    return {
        **_describe_error(None, [], ("StaleWorker", reason)),
        "execution_count": 0,
    }


def _describe_bad(error: BadRequest) -> dict[str, Any]:
    return {
        **_describe_error(error, []),
        "ename": "InvalidRequest",
        "execution_count": 0,
    }
