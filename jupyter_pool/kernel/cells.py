"""The cell lane: an execute request, from its busy status to its idle status.

One with the metadata key ``jupyter_pool`` runs like this; one without it is an ordinary one, and
nothing is reset.

    busy → place (folder, path, environment), seed, inputs → execute_input
         → the cell, as IPython runs it → outputs packed → reset → reply → idle

An interrupt may strike between "inputs" and "outputs packed", and nowhere else
(see `interrupts`); whatever happens there, a reply follows.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import SerializationError
from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.memory import resident
from jupyter_pool.kernel.request import (
    KEY,
    VERSION,
    BadRequest,
    PoolRequest,
    collect_outputs,
)
from jupyter_pool.kernel.shell import text_of
from jupyter_pool.kernel.tracing import in_context_of
from jupyter_pool.serialize import unpack

if TYPE_CHECKING:
    from jupyter_pool.kernel.kernel import PoolKernel

__all__ = ["CellLane"]


class CellLane:
    """Serves the execute requests of one kernel, on its main thread, one at a time."""

    def __init__(self, kernel: PoolKernel) -> None:
        self._kernel = kernel
        self._freshness = kernel.freshness
        self._data = kernel.data
        self._session, self._stream = kernel.session, kernel.shell_stream
        self._iopub = kernel.iopub_thread
        self._replied = False

    @property
    def _shell(self) -> Any:
        # The kernel's own: where somebody has taken that away, a cell must fail rather than run and
        # say nothing.
        return self._kernel.shell

    async def serve(self, idents: list[bytes], message: dict[str, Any]) -> None:
        """Take one execute request from busy to idle."""
        kernel = self._kernel
        async with kernel._main_asyncio_lock:
            GATE.arm()
            self._replied = False
            self._iopub.cork()
            kernel.set_parent(idents, message, channel="shell")
            kernel._publish_status("busy", "shell")
            try:
                if kernel._aborting and KEY not in message["metadata"]:
                    kernel._send_abort_reply(self._stream, message, idents)
                else:
                    await self.execute(idents, message)
            except (Exception, KeyboardInterrupt, SystemExit, asyncio.CancelledError) as error:
                # Nothing should come here; but whoever waits must get an answer.
                GATE.close()
                kernel.log.exception("Error while serving a request")
                if not self._replied:
                    report = {
                        "v": VERSION,
                        "failed": repr(error),
                        "recycle": f"the kernel failed: {error!r}",
                    }
                    self._reply(idents, message, _describe_error(error, []), {KEY: report})
            finally:
                GATE.disarm()
                GATE.install()
                kernel.in_pool_request = False
            kernel.finish_streams()
            kernel._publish_status("idle", "shell")
            self._iopub.uncork()

    async def execute(self, idents: list[bytes], message: dict[str, Any]) -> None:
        """Serve an execute request, the pool's or a plain one, up to its reply."""
        try:
            request = PoolRequest.parse(message["metadata"])
            if request is not None:
                message["buffers"] = self._data.begin(request, message["buffers"])
        except BadRequest as error:
            report = {"v": VERSION, "bad_inputs": str(error)}
            self._reply(idents, message, _describe_bad(error), {KEY: report})
            return
        limit = None if request is None else request.output_limit
        comms = request is not None and request.comms
        self._iopub.begin_request(limit, message["header"], comms=comms)
        if request is None:
            await self._execute_plain(idents, message)
        else:
            self._kernel.in_pool_request = True
            await self._execute_pooled(idents, message, request)

    def _reply(
        self,
        idents: list[bytes],
        message: dict[str, Any],
        content: dict[str, Any],
        metadata: dict[str, Any],
        frames: list[Any] | None = None,
    ) -> None:
        self._replied = True
        self._session.send(
            self._stream,
            "execute_reply",
            content,
            message,
            metadata=metadata,
            ident=idents,
            buffers=frames or [],
        )

    async def _execute_plain(self, idents: list[bytes], message: dict[str, Any]) -> None:
        kernel, content = self._kernel, message["content"]
        silent = content.get("silent", False)
        metadata = kernel.init_metadata(message)
        if not silent:
            kernel._publish_execute_input(content["code"], message, kernel.execution_count)
        reply = await self.run(
            content["code"],
            silent,
            content.get("store_history", not silent),
            content.get("user_expressions", {}),
            content.get("allow_stdin", False),
            cell_id=message["metadata"].get("cellId"),
        )
        kernel.finish_streams()
        metadata = kernel.finish_metadata(message, metadata, reply)
        self._reply(idents, message, reply, metadata)
        if not silent and reply["status"] == "error" and content.get("stop_on_error", True):
            kernel._abort_queues()

    # -- a pool's request --------------------------------------------------------------------

    async def _execute_pooled(
        self, idents: list[bytes], message: dict[str, Any], request: PoolRequest
    ) -> None:
        kernel, fresh = self._kernel, self._freshness
        report: dict[str, Any] = {
            "v": VERSION,
            "outputs": [],
            "missing": [],
            "unpicklable": {},
            "bad_inputs": None,
            "at": None,
        }
        frames: list[Any] = []
        recycle = await fresh.find_refusal_of_cell(request)
        if recycle is not None and not request.reset:
            report.update(refused=recycle, recycle=recycle)
            self._reply(idents, message, _describe_refusal(recycle), {KEY: report})
            return
        kernel.note.put(message["header"]["msg_id"])
        try:
            if not request.reset:
                self._prepare(request, message["buffers"])
            if request.setup and fresh.baseline is not None:
                fresh.baseline.setup_begins()
        except BadRequest as error:
            reply = _describe_bad(error)
            report["bad_inputs"] = str(error)
        else:
            if request.reset:
                reply = self._describe_success({})
            else:
                reply = await self._run_pooled(message, request, report, frames)
        stays = request.stays(reply["status"], kernel.comm_manager.comms)
        fresh.kept_for = request.scope if request.keep or stays else None
        took = 0.0
        if request.setup:
            # One that failed is the end of this process.
            if reply["status"] == "ok" and fresh.baseline is not None:
                fresh.baseline.setup_ends()
                # What does not belong to it: where it ran, standard streams, tasks.
                recycle = await fresh.reset() or recycle
        elif stays:
            report["kept"] = True
        elif not request.keep:
            started = time.perf_counter()
            recycle = await fresh.reset() or recycle
            took = time.perf_counter() - started
        if request.baseline:
            report["stderr_fd"] = getattr(sys.stderr, "captured_fd", None)
            report["rides"] = kernel.ledger.usable and kernel.tickets.usable
        report["recycle"] = recycle
        report["reset_ms"] = took * 1e3
        kernel.finish_streams()
        report["left_out"] = self._iopub.finish_request()
        self._reply(idents, message, reply, {KEY: report}, self._data.send(frames))

    def _prepare(self, request: PoolRequest, buffers: list[Any]) -> None:
        """Make the worker look as the request wants it. Raises BadRequest."""
        self._freshness.prepare(request)
        if request.baseline and self._freshness.baseline is not None:
            self._freshness.baseline.capture_place()
        if request.inputs:
            try:
                namespace = self._shell.user_ns
                frames = self._data.receive(buffers)
                with self._data.fetching(namespace):
                    namespace.update(unpack(frames, main_globals=namespace))
            except SerializationError as error:
                raise BadRequest(str(error)) from error

    async def _run_pooled(
        self,
        message: dict[str, Any],
        request: PoolRequest,
        report: dict[str, Any],
        frames: list[Any],
    ) -> dict[str, Any]:
        kernel, content = self._kernel, message["content"]
        code, silent = content["code"], content.get("silent", False)
        if not silent:
            kernel._publish_execute_input(code, message, kernel.execution_count)
        before = resident()
        with in_context_of(request.trace):
            reply = await self.run(
                code,
                silent,
                not silent,
                content.get("user_expressions", {}),
                content.get("allow_stdin", False),
                cell_id=message["metadata"].get("cellId"),
                wanted=(request.outputs, report, frames),
            )
        after = resident()
        if before is not None and after is not None:
            report["memory_delta"] = after - before
        return reply

    # -- the cell ----------------------------------------------------------------------------

    async def run(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
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
        shell = self._shell
        self._kernel._allow_stdin = allow_stdin
        shell._last_traceback = None
        shell._last_traceback_during_displayhook = False
        error: BaseException | None = None
        expressions: dict[str, Any] = {}
        self._iopub.uncork()  # busy must be out before user code can kill us
        try:
            try:
                GATE.open()
                error = await shell.run_cell_here(code, silent, store_history, cell_id)
                if error is None:
                    expressions = shell.user_expressions(user_expressions or {})
                    if wanted is not None and wanted[0]:
                        self._iopub.uncork()  # packing may take its time
                        collect_outputs(self._set_names(), *wanted, self._data.share)
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
            self._iopub.limit.shorten_error(reply)
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
        namespace = self._shell.user_ns
        hidden = self._shell.user_ns_hidden
        unset = object()
        return {
            name: value for name, value in namespace.items() if value is not hidden.get(name, unset)
        }

    def _describe_success(self, expressions: dict[str, Any]) -> dict[str, Any]:
        return {
            "status": "ok",
            "execution_count": self._shell.execution_count - 1,
            "user_expressions": expressions,
            "payload": self._shell.payload_manager.read_payload(),
        }


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
