"""The call lane: a function call is one message, and one more back.

A `call_request` on the shell channel is signed and routed like any other request. It is
served where it is received, without a task of its own:

    arm → shared memory mapped → place (folder, path, environment), seed → function and arguments
        unpickled, called, value pickled (see `jupyter_pool.calling`) → reply → reset

The reset comes while the reply travels, and before anything else is served. If it finds that the
process must be replaced, the owner gets a `recycle_notice`, and whatever comes before it acts on that
is refused.

    request   content   {"v": 1, "split": how many buffers are the function,
                         "function": the name of its bytes if they are to be kept,
                         "program": in its place, what is kept live (see `programs`)}
              metadata  {"jupyter_pool": as of a cell}
              buffers   the function's frames, none if the worker should have them; the arguments';
                        values that were put (see `data`)
    reply     content   {"status": "ok", "kind", "facts"}, or ename, evalue and traceback as of a cell
              metadata  {"jupyter_pool": {"v": 1, …}}; beside what a cell's says:
                        idle: an idle status follows; lacks: a function that must be sent
              buffers   the frames of the outcome

Several calls may come in one message, where more wait than workers are free. They are served one after
another, each as if it had come alone, and those that are answered about the same time are answered
together. See `ledger` for how those that have not begun are taken back, and why no answer is lost.

    request   calls_request
              content   {"v": 1, "number": of the message, "first": 1 if the first needs no ticket,
                         "calls": [[id, which of the requests, split, function, bytes of each frame]]}
              metadata  {"jupyter_pool": {"v": 1, "requests": [as of a call]}}
              buffers   all the calls' frames, in one
    reply     calls_reply
              content   {"v": 1, "calls": [[id, microseconds, bytes of each frame, what a call's reply has
                         as metadata, content]]}, without the last two where it went well
              buffers   all the outcomes' frames, in one

On iopub a call that shows nothing and takes no time leaves no trace, for two statuses would cost as
much as all the rest. One that puts something out, or lasts, is announced as busy before that, and
ends with idle after its reply, as the reply says; so whoever gets a reply knows whether to wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from jupyter_client.session import DELIM

from jupyter_pool.calling import Outcome, PackedCall, run_call, run_setup
from jupyter_pool.kernel.functions import FunctionCache
from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.leftovers import cancel_at_once
from jupyter_pool.kernel.parents import CallParent
from jupyter_pool.kernel.programs import ProgramCall, run_program
from jupyter_pool.kernel.request import KEY, VERSION, BadRequest, PoolRequest
from jupyter_pool.kernel.shell import text_of
from jupyter_pool.kernel.tracing import in_context_of

if TYPE_CHECKING:
    from jupyter_pool.kernel.kernel import PoolKernel

__all__ = ["CallLane"]

_sched_yield = getattr(os, "sched_yield", None)

#: Frames from this size on, in bytes, are sent without a copy.
_LARGE = 1 << 16
#: How long an answer may wait for others to go with, in seconds.
_TOGETHER = 0.002
#: An outcome of more bytes is sent alone.
_SMALL = 1 << 13
_OK = b'{"status":"ok","kind":"value","facts":{}}'  # as the engine's `wire` knows them
_PLAIN_REPORT = b'{"jupyter_pool":{"v":1}}'


class CallLane:
    """Serves the calls of one kernel, on its main thread."""

    def __init__(self, kernel: PoolKernel, context: contextvars.Context) -> None:
        self._kernel = kernel
        self._freshness = kernel.freshness
        #: What is in a call's context, besides who its output belongs to.
        self._parents = CallParent(kernel, context)
        self._functions = FunctionCache()
        # As attributes of our own: the kernel's are traits, each look at which costs a microsecond.
        self._session, self._stream = kernel.session, kernel.shell_stream
        self._iopub, self._shell = kernel.iopub_thread, kernel.shell
        self._heads: dict[str, str] = {}
        self._number = 0
        #: What the requests of late said of themselves, and what was read from it.
        self._read: tuple[Any, PoolRequest | None] = (None, None)
        self._waiting: deque[tuple[list[bytes], dict[str, Any], int | None]] = deque()
        #: Answers that are to be sent together: to whom, what they say, their frames.
        self._ended: list[tuple[list[bytes], bytes, bytes]] = []
        self._ended_at = 0.0
        #: When the last of the calls that came together was answered.
        self._mark = 0.0

    def take(self, idents: list[bytes], message: dict[str, Any]) -> None:
        """Serve a call now, or as soon as nothing else is served."""
        self._waiting.append((idents, message, None))
        self.resume()

    def take_all(self, idents: list[bytes], message: dict[str, Any]) -> None:
        """Serve several calls, as `take`; whatever is wrong with their message is an exception."""
        content, requests = message["content"], message["metadata"][KEY]["requests"]
        if content["v"] != VERSION:
            raise ValueError(f"version {content['v']!r} of calls")
        number, first = content["number"], content["first"]
        metadata = [{KEY: request} for request in requests]
        (buffer,) = message["buffers"]
        position = 0
        header = {**message["header"], "msg_type": "call_request"}
        for call_id, which, split, function, sizes in content["calls"]:
            frames = []
            for size in sizes:
                frames.append(buffer[position : position + size])
                position += size
            call = {
                "header": {**header, "msg_id": call_id},
                "msg_id": call_id,
                "msg_type": "call_request",
                "parent_header": {},
                "metadata": metadata[which],
                "content": {"v": VERSION, "split": split, "function": function},
                "buffers": frames,
                "together": number,
            }
            self._waiting.append((idents, call, None if first else number))
            first = 0
        self.resume()

    def resume(self) -> None:
        """Serve the calls that wait, unless something else is being served."""
        kernel = self._kernel
        self._mark = time.perf_counter()
        while self._waiting and not kernel.tasks:
            idents, message, ticket = self._waiting.popleft()
            if ticket is not None and not self._may_begin(ticket):
                continue
            metadata = message["metadata"].get(KEY)
            keep = isinstance(metadata, dict) and metadata.get("keep")
            context = kernel.lasting_context if keep else self._parents.new_context()
            context.run(self._serve, idents, message, context)
        self._send_ended()

    def _may_begin(self, ticket: int) -> bool:
        try:
            return self._kernel.tickets.take(ticket)
        except OSError as error:
            # Nobody could tell what has begun. All that waits is refused.
            self._freshness.spent = f"it has closed a descriptor of its kernel ({error.strerror})"
            return True

    # -- one call ------------------------------------------------------------------------

    def _serve(
        self, idents: list[bytes], message: dict[str, Any], context: contextvars.Context
    ) -> None:
        kernel = self._kernel
        call = _Call(idents, message)
        GATE.arm()
        if context is kernel.lasting_context:
            kernel.set_parent(idents, message, channel="shell")
        else:
            self._parents.set(idents, message)
        try:
            request = self._parse(message)
            message["buffers"] = kernel.data.begin(request, message["buffers"])
            call.keep = request.keep or request.setup
            self._run(call, request)
        except BadRequest as error:
            call.refuse("InvalidRequest", str(error))
            call.report["bad_inputs"] = str(error)
        except (Exception, KeyboardInterrupt, SystemExit, asyncio.CancelledError) as error:  # noqa: BLE001
            self._fail(call, error)
        if not call.ran or call.keep:
            self._answer(call)
        elif cancel_at_once():
            self._answer(call)
            if _sched_yield is not None and not self._waiting:
                # Let ZMQ's thread send it now: where processors are few, a quarter more calls.
                _sched_yield()
            self._reset(call)
        else:
            kernel.start_task(self._end_later(call), context)
            return
        self._end()

    async def _end_later(self, call: _Call) -> None:
        """End a call that has left tasks: what they still do and say is its own."""
        async with self._kernel._main_asyncio_lock:
            recycle = await self._freshness.cancel_tasks()
            if recycle is not None:
                self._freshness.spent = call.report["recycle"] = recycle
            self._answer(call)
            self._reset(call)
            self._end()

    def _fail(self, call: _Call, error: BaseException) -> None:
        # Nothing should come here; but whoever waits must get an answer.
        GATE.close()
        self._kernel.log.error("Error while serving a call", exc_info=error)
        call.refuse(type(error).__name__, text_of(error))
        call.report.update(failed=repr(error), recycle=f"the kernel failed: {error!r}")

    def _answer(self, call: _Call) -> None:
        """Reply, and an idle status if there was a busy one."""
        kernel = self._kernel
        kernel.finish_streams()
        announced, left_out = self._iopub.finish_call()
        if announced:
            call.report["idle"] = True
        if left_out:
            call.report["left_out"] = left_out
        call.frames = kernel.data.send(call.frames)
        number = call.message.get("together")
        if number is not None and self._end_together(call, number):
            return
        self._send(
            "call_reply",
            call,
            _PLAIN_REPORT if len(call.report) == 1 else self._session.pack({KEY: call.report}),
            _OK if call.content is None else self._session.pack(call.content),
        )
        if announced:
            kernel._publish_status("idle", "shell")

    def _end_together(self, call: _Call, number: int) -> bool:
        """Have the answer sent with others; False if it must be sent alone, now that those are."""
        now = time.perf_counter()
        took, self._mark = now - self._mark, now
        sizes = [memoryview(frame).nbytes for frame in call.frames]
        said = f'["{call.message["msg_id"]}",{took * 1e6:.0f},{sizes}'
        if len(call.report) > 1 or call.content is not None:
            pack = self._session.pack
            content = _OK if call.content is None else pack(call.content)
            said += f",{pack(call.report).decode()},{content.decode()}"
        entry = f"{said}]".encode()
        small = sum(sizes) <= _SMALL
        frames = b"".join(call.frames) if small else b""
        kept = small and self._kernel.ledger.enter(number, entry + b"\n" + frames)
        if not kept or "idle" in call.report or "lacks" in call.report or "refused" in call.report:
            self._send_ended()
            return False
        if not self._ended:
            self._ended_at = now
        self._ended.append((call.idents, entry, frames))
        if not self._waiting or now - self._ended_at >= _TOGETHER:
            self._send_ended()
        return True

    def _send_ended(self) -> None:
        """Send the answers that are to go together."""
        ended, self._ended = self._ended, []
        if not ended:
            return
        parts = [
            self._header("calls_reply"),
            b"{}",
            _PLAIN_REPORT,
            b'{"v":1,"calls":[' + b",".join([entry for _, entry, _ in ended]) + b"]}",
        ]
        frames = [*ended[0][0], DELIM, self._session.sign(parts), *parts]
        frames.append(b"".join([frames for _, _, frames in ended]))
        self._stream.send_multipart(frames, copy=len(frames[-1]) < _LARGE)

    def _reset(self, call: _Call) -> None:
        try:
            recycle = self._freshness.restore()
        except Exception as error:  # noqa: BLE001 - whatever it is, the process is not as new
            recycle = f"the kernel failed: {error!r}"
        if recycle is not None:
            self._freshness.spent = recycle
            call.frames = []
            report = self._session.pack({KEY: {"v": VERSION, "recycle": recycle}})
            self._send("recycle_notice", call, report, b"{}")

    def _end(self) -> None:
        self._kernel.in_pool_request = False
        GATE.disarm()
        GATE.install()

    def _parse(self, message: dict[str, Any]) -> PoolRequest:
        """Read what the request says of itself; mostly the same as the one before."""
        metadata, content = message["metadata"], message["content"]
        seen, request = self._read
        if request is None or metadata is not seen:
            request = PoolRequest.parse(metadata) or PoolRequest()
            self._read = (metadata, request)
        if not isinstance(content, dict) or content.get("v") != VERSION:
            raise BadRequest(f"this worker speaks version {VERSION} of calls")
        return request

    def _run(self, call: _Call, request: PoolRequest) -> None:
        kernel, message = self._kernel, call.message
        header = message["header"]
        self._iopub.begin_call(request.output_limit, header, comms=request.comms)
        refusal = self._freshness.find_refusal(request)
        if refusal is not None:
            call.refuse("StaleWorker", refusal)
            call.report.update(refused=refusal, recycle=refusal)
            if "together" in message:
                self._freshness.spent = refusal  # nor does it begin what came along
            return
        wanted = None
        if (program := message["content"].get("program")) is not None:
            wanted = ProgramCall.parse(program)
        function, arguments = self._take_apart(call, wanted)
        if function is None:
            return
        arguments = kernel.data.receive(arguments)
        call.ran = True
        kernel.note.put(header["msg_id"])
        kernel.in_pool_request = True
        kernel._allow_stdin = False
        self._freshness.prepare(request)
        self._freshness.kept_for = request.scope if request.keep else None
        data, main = kernel.data, self._shell.user_ns
        run: Callable[[], Outcome]
        if request.setup:
            self._set_up(
                call, partial(run_setup, data.receive(function), main, data.fetching(main))
            )
            return
        if wanted is not None:
            run = partial(run_program, data.programs, wanted, function, arguments, data, data.share)
        else:
            fetching = data.fetching(main) if request.puts else None
            packed = PackedCall(function, arguments)
            run = partial(run_call, packed, main, fetching, data.share)
        if request.trace is None:
            self._call(call, run)
            return
        with in_context_of(request.trace):
            self._call(call, run)

    def _set_up(self, call: _Call, run: Callable[[], Outcome]) -> None:
        baseline = self._freshness.baseline
        if baseline is not None:
            baseline.setup_begins()
        self._call(call, run)
        # One that failed is the end of this process.
        if call.content is None and baseline is not None:
            baseline.setup_ends()
            # What does not belong to it: where it ran, standard streams.
            recycle = self._freshness.restore()
            if recycle is not None:
                call.report["recycle"] = recycle

    def _take_apart(
        self, call: _Call, wanted: ProgramCall | None
    ) -> tuple[Sequence[Any] | None, Sequence[Any]]:
        """The frames of the function, None if they must be sent first, and of the arguments."""
        content, frames = call.message["content"], call.message["buffers"]
        split, name = content.get("split"), content.get("function")
        if not isinstance(split, int) or not 0 <= split < len(frames):
            raise BadRequest("a call without a function, or without arguments")
        function, arguments = frames[:split], frames[split:]
        if wanted is not None and not function and wanted.name not in self._kernel.data.programs:
            call.refuse("ProgramMissing", "the program must be sent")
            call.report["lacks"] = wanted.name
            return None, arguments
        if name is None:
            return function, arguments
        if function:
            found, function = self._functions.put(function)
            if found != name:
                raise BadRequest("the function is not the one that was named")
            return function, arguments
        kept = self._functions.get(name)
        if kept is None:
            call.refuse("FunctionMissing", "the function must be sent")
            call.report["lacks"] = name
        return kept, arguments

    def _call(self, call: _Call, run: Callable[[], Outcome]) -> None:
        loop = asyncio.get_running_loop()
        outcome: Outcome | None = None
        # A function may run a loop of its own, as in any other process pool.
        asyncio._set_running_loop(None)
        try:
            try:
                GATE.open()
                outcome = run()
            except BaseException as struck:  # noqa: BLE001 - an interrupt, outside users' code
                outcome = Outcome.of_error(struck)
            GATE.close()
        except BaseException as struck:  # noqa: BLE001 - an interrupt, in the lines above
            GATE.close()
            outcome = outcome or Outcome.of_error(struck)
        finally:
            asyncio._set_running_loop(loop)
        call.frames = list(outcome.frames)
        if outcome.kind == "error":
            facts = outcome.facts
            call.content = {
                "status": "error",
                "ename": facts["name"],
                "evalue": facts["text"],
                "traceback": facts["traceback"].splitlines(keepends=True),
            }
            self._iopub.limit.shorten_error(call.content)
        elif outcome.kind == "refused":
            call.report.update(outcome.facts)
            call.refuse("InvalidRequest", outcome.facts["bad_inputs"])
        elif outcome.kind == "outputs":
            call.report.update(outcome.facts)
            call.content = {"status": "ok", "kind": "outputs", "facts": {}}
        elif outcome.kind != "value":
            call.content = {"status": "ok", "kind": outcome.kind, "facts": outcome.facts}

    # -- answering -----------------------------------------------------------------------

    def _header(self, kind: str) -> bytes:
        session = self._session
        head = self._heads.get(kind)
        if head is None:
            fixed = session.msg_header(kind)
            names = ("username", "session", "version", "msg_type")
            start = session.pack({name: fixed[name] for name in names})[:-1].decode()
            head = self._heads[kind] = f'{start},"msg_id":"{session.session}_{os.getpid()}_call_'
        self._number += 1
        date = datetime.now(timezone.utc).isoformat()
        return f'{head}{self._number}","date":"{date}"}}'.encode()

    def _send(self, kind: str, call: _Call, report: bytes, content: bytes) -> None:
        session = self._session
        parts = [
            self._header(kind),
            session.packed_parent(call.message["header"]),
            report,
            content,
        ]
        frames = [*call.idents, DELIM, session.sign(parts), *parts, *call.frames]
        copy = all(len(frame) < _LARGE for frame in call.frames)
        self._stream.send_multipart(frames, copy=copy)


class _Call:
    """One call under way."""

    __slots__ = ("content", "frames", "idents", "keep", "message", "ran", "report")

    def __init__(self, idents: list[bytes], message: dict[str, Any]) -> None:
        self.idents = idents
        self.message = message
        self.keep = False
        #: It may have left something, so the worker must be reset.
        self.ran = False
        self.report: dict[str, Any] = {"v": VERSION}
        #: None: it went well.
        self.content: dict[str, Any] | None = None
        self.frames: list[Any] = []

    def refuse(self, ename: str, evalue: str) -> None:
        self.content = {"status": "error", "ename": ename, "evalue": evalue, "traceback": []}
