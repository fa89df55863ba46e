"""A request on its way through the engine, and how a caller may wait for it.

A thread waits at a `Mailbox`, a coroutine at a `LoopSink`; futures are in `engine.futures`.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .marks import Marks, make_timeline
from .onlookers import CELL

if TYPE_CHECKING:
    from types import CodeType

    from jupyter_pool.core import Outcome
    from jupyter_pool.handles import Stored
    from jupyter_pool.outputs import OutputCollector
    from jupyter_pool.results import Timeline
    from jupyter_pool.shared import Segment

    from .holding import Borrower
    from .programs import Program
    from .staying import Stay
    from .tracing import Trace
    from .wire import Buffer, Message

Event = dict[str, Any]

#: How long a caller may be deaf to Ctrl-C, in seconds.
LONGEST_WAIT = 1.0


class Sink(Protocol):
    """Where a request's outputs and its end go. Called on the I/O thread: must never block."""

    #: Whether `output` wants to be called at all.
    wants_output: bool

    def output(self, event: Event) -> None:
        """One output, as it happens."""

    def granted(self, worker_id: int) -> bool:
        """It gets a worker. False: it was given up in the last moment, and must not run."""

    def finish(self, completion: Completion) -> None:
        """The request's one and only end."""


@dataclass(slots=True, eq=False)
class Request:
    """One cell or lease: what was asked, and what is known of it so far.

    Times are of the monotonic clock, in seconds.
    """

    id: str
    code: str
    sink: Sink
    group: Hashable
    frames: Sequence[Buffer | Segment] = ()
    #: What `pool.put` stored that it needs.
    puts: Sequence[Stored] = ()
    outputs: tuple[str, ...] = ()
    session_id: str | None = None
    timeout: float | None = None
    checkout_timeout: float | None = None
    retries: int = 0
    isolation: str = "namespace"
    output_limit: int | None = None
    seed: int | None = None
    execution_count: int | None = None
    context: dict[str, Any] = field(default_factory=dict)
    is_lease: bool = False
    lease: str | None = None
    #: What events call it: cell, call, program or lease.
    kind: str = "cell"
    #: What ends with it elsewhere; see `tracing`.
    traces: Sequence[Trace] = ()
    #: Of a lease: who took it.
    borrower: Borrower | None = None
    #: Its sink takes comm messages too, and each event says which message it belongs to.
    comms: bool = False
    #: Of a lease: nothing runs in it any more, it only waits for comm messages, and ends with its pool.
    lasts: bool = False
    #: That its worker is to stay when it is done, if it is.
    stay: Stay | None = None
    #: Of a lease: it is over as soon as somebody needs a worker.
    on_sufferance: bool = False
    created: float = field(default_factory=time.monotonic)
    first_dispatched: float | None = None
    attempt: int = 1
    worker_id: int | None = None

    #: Where the code's ``input()`` asks: called with the prompt and whether it is a password, on the
    #: I/O thread. None: it is an error there.
    ask: Callable[[str, bool], None] | None = None

    #: Of a function call: how many of the frames are the function, the others being its arguments.
    #: The worker's call lane serves it. None: a cell, or a lease.
    split: int | None = None
    #: The name of the call's function, if a worker should keep its bytes.
    function: str | None = None
    #: What is executed, if it is a registered program: a callable in the call's place of a function
    #: (which then is not among the frames), or the source that is the code.
    program: Program | None = None
    #: Of a small call: what stands for all those that take about as long (see `core.riding`).
    pace: Hashable = None
    #: Of a function call: the function's code, if workers do not have its source. Nothing of users'
    #: that could be finalized on the I/O thread.
    codes: Sequence[CodeType] = ()
    #: What people call it, if not by its code.
    title: str = ""
    #: The id of the notebook cell that has caused it.
    cell: str | None = field(default_factory=CELL.get)

    def blank(self) -> None:
        """Given up when it already has a worker: that gets something to do that does nothing."""
        self.code, self.frames, self.outputs, self.split = "", (), (), None
        self.puts = ()

    @property
    def checkout_deadline(self) -> float | None:
        """When waiting for a worker ends."""
        return None if self.checkout_timeout is None else self.created + self.checkout_timeout


@dataclass(slots=True, eq=False)
class Completion:
    """How a request ended, as the engine knows it; made readable in the caller's thread."""

    request: Request
    pool: str
    outcome: Outcome
    collector: OutputCollector | None
    reply: Message | None
    reason: object
    clean: bool
    finished: float
    #: Facts about the pool at that moment, for the error's context.
    facts: dict[str, Any]
    #: When what came from its worker, if it had one.
    marks: Marks | None = None

    @property
    def timeline(self) -> Timeline | None:
        """When what happened, of a cell; else None."""
        request = self.request
        if request.is_lease or request.split is not None:
            return None
        reply = self.reply
        ours = (reply.metadata.get("jupyter_pool") or {}) if reply is not None else {}
        return make_timeline(
            request.created, request.first_dispatched, self.marks, ours.get("memory_delta")
        )


# -- sinks -----------------------------------------------------------------------------------


class Mailbox:
    """A caller that blocks in its own thread.

    Only a SimpleQueue is shared with the I/O thread: its C code is whole under signals, so a
    Ctrl-C at any moment leaves no lock behind that the I/O thread could wait for.
    """

    def __init__(self, *, wants_output: bool = False) -> None:
        self.wants_output = wants_output
        self._items: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def output(self, event: Event) -> None:
        self._items.put(("output", event))

    def granted(self, worker_id: int) -> bool:
        self._items.put(("granted", worker_id))
        return True

    def ask(self, prompt: str, password: bool) -> None:
        """The code wants an answer from a person."""
        self._items.put(("ask", (prompt, password)))

    def finish(self, completion: Completion) -> None:
        self._items.put(("finish", completion))

    def end(self) -> None:
        """Nothing more comes, and the one who gave up need not know how it ended."""
        self._items.put(("finish", None))

    def get(self, timeout: float | None) -> tuple[str, Any] | None:
        """The next ``("output" | "granted" | "ask" | "finish", value)``; None after `timeout` seconds."""
        while True:
            try:
                # Never for ever: a signal that comes just before the wait does not end it, and its
                # handler (that of Ctrl-C) runs only when the wait is over.
                return self._items.get(timeout=LONGEST_WAIT if timeout is None else timeout)
            except queue.Empty:
                if timeout is not None:
                    return None


class LoopSink:
    """A coroutine that waits in an asyncio event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_output: Callable[[Event], None] | None = None
    ) -> None:
        self._loop = loop
        self._on_output = on_output
        self.wants_output = on_output is not None
        self.lease: asyncio.Future[int] = loop.create_future()
        self.done: asyncio.Future[Completion] = loop.create_future()

    def _call(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def output(self, event: Event) -> None:
        assert self._on_output is not None
        self._call(self._on_output, event)

    def granted(self, worker_id: int) -> bool:
        self._call(_set_unless_done, self.lease, worker_id)
        return True

    def finish(self, completion: Completion) -> None:
        self._call(_set_unless_done, self.done, completion)


def _set_unless_done(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
