"""What a pool gives back: results of requests, and (from `reports`) reports about itself.

All of it is frozen: a snapshot that stays as it is. Durations are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from jupyter_pool import _reprs
from jupyter_pool.errors import ExecutionError, InvalidRequest, PoolError
from jupyter_pool.outputs import OutputCollector
from jupyter_pool.reports import (
    BreakerStatus,
    Distribution,
    HealthReport,
    PoolStats,
    PoolStatus,
    SessionInfo,
    WorkerInfo,
    WorkerVerdict,
)
from jupyter_pool.serialize import LazyOutputs

__all__ = [
    "BreakerStatus",
    "Distribution",
    "ExecutionResult",
    "HealthReport",
    "LazyOutputs",
    "OutputCollector",
    "PoolStats",
    "PoolStatus",
    "ProgramInfo",
    "ProgramResult",
    "SessionInfo",
    "Timeline",
    "Timings",
    "WaitInfo",
    "WorkerInfo",
    "WorkerVerdict",
]

ExecutionStatus = Literal["ok", "error", "timeout", "cancelled", "died"]


@dataclass(frozen=True, slots=True)
class Timings:
    """How long a request took, in seconds.

    `waited` is until a worker was given to it, `ran` from then until its
    worker was done, `total` as the caller saw it.
    """

    waited: float = 0.0
    ran: float = 0.0
    total: float = 0.0

    def __repr__(self) -> str:
        return (
            f"Timings(waited={_reprs.seconds(self.waited)}, ran={_reprs.seconds(self.ran)}, "
            f"total={_reprs.seconds(self.total)})"
        )


@dataclass(frozen=True, slots=True)
class Timeline:
    """When what happened to a request, in seconds since it was queued; None: it did not, or unknown.

    Attributes
    ----------
    queued_at
        When it was queued, as Unix time.
    queued
        0: the beginning.
    dispatched
        A worker was given to it.
    started
        That worker said that it is busy with it. Of a request that was retried, this and what follows
        is of its last attempt.
    first_output, reply, idle
        The first output came; the reply came; the worker said that it is idle. The last two come by
        different ways, at nearly the same time.
    memory_delta
        By how many bytes the worker's resident memory grew while the code ran, less if negative.
        Known on Linux, of the pool's own kernel.
    """

    queued_at: float | None = None
    queued: float = 0.0
    dispatched: float | None = None
    started: float | None = None
    first_output: float | None = None
    reply: float | None = None
    idle: float | None = None
    memory_delta: int | None = None

    def as_dict(self) -> dict[str, float | None]:
        """The attributes by name."""
        return {name: getattr(self, name) for name in self.__slots__}


# Compared by identity: two runs are never the same, and equal outputs could
# only be found by unpickling them. `repr` is ours for the same reason.
@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExecutionResult:
    """What running a piece of code gave.

    Attributes
    ----------
    status
        ``"ok"``, ``"error"`` (the code raised), ``"timeout"``, ``"cancelled"``
        or ``"died"`` (its worker did).
    request_id, worker_id, session_id
        Who ran it for whom; `worker_id` is None if no worker ever did.
    display_outputs
        What a notebook would show: notebook-format (4.5) output dicts, in
        arrival order.
    outputs
        The named values asked for, by name. They are unpickled together when
        the first of them is looked at, in the thread that looks; that raises
        `SerializationError` if something they need is missing here.
    error
        None if status is ``"ok"``.
    timings
        In seconds.
    execution_count
        The number the worker gave to the execution, or None.
    left_out
        How much output is missing because there was more than the `output_limit`: the characters
        of texts and the bytes of displays that the worker did not send; mostly 0. Lines in the
        output say where. (Of a worker that died or was killed only those lines are known.)
    timeline
        When it was queued, dispatched and started, when its first output, reply and idle status came,
        and how the worker's memory changed: a `Timeline`.
    """

    status: ExecutionStatus
    request_id: str
    worker_id: int | None = None
    session_id: str | None = None
    display_outputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: Mapping[str, Any] = field(default_factory=LazyOutputs)
    error: PoolError | None = None
    timings: Timings = Timings()
    execution_count: int | None = None
    left_out: int = 0
    timeline: Timeline = Timeline()

    @property
    def stdout(self) -> str:
        """All that was printed, as it was sent (see `left_out`)."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """All that was written to standard error, as it was sent."""
        return self._stream("stderr")

    @property
    def data(self) -> dict[str, Any]:
        """The last expression's value by MIME type; empty if there was none."""
        for output in reversed(self.display_outputs):
            if output["output_type"] == "execute_result":
                return dict(output["data"])
        return {}

    def to_text(self, max_chars: int | None = 8000) -> str:
        """Return what a terminal would have shown, without colours.

        Parameters
        ----------
        max_chars
            At most so many characters, the middle left out; None for all.
        """
        if max_chars is not None and max_chars < 0:
            raise InvalidRequest(f"max_chars must be at least 0, not {max_chars}")
        parts = [_reprs.outputs_text(self.display_outputs), self._unshown_error()]
        return _reprs.cut_middle("\n".join(filter(None, parts)), max_chars)

    def _stream(self, name: str) -> str:
        return "".join(
            _reprs.joined(output["text"])
            for output in self.display_outputs
            if output["output_type"] == "stream" and output["name"] == name
        )

    def _unshown_error(self) -> str:
        """Return the error as text unless the outputs already end in it."""
        error = self.error
        if error is None:
            return ""
        shown = any(output["output_type"] == "error" for output in self.display_outputs)
        if isinstance(error, ExecutionError) and shown:
            return ""
        return f"{type(error).__name__}: {error}"

    def __repr__(self) -> str:
        parts = [self.status, f"request {self.request_id}"]
        if self.worker_id is not None:
            parts.append(f"worker {self.worker_id}")
        if self.session_id is not None:
            parts.append(f"session {self.session_id}")
        if self.display_outputs:
            parts.append(f"{len(self.display_outputs)} displayed")
        if self.left_out:
            parts.append(f"{_reprs.size(self.left_out)} left out")
        if self.outputs:
            parts.append(f"outputs: {', '.join(self.outputs)}")
        return f"<ExecutionResult {', '.join(parts)}>"

    # Neither times nor ids below: a notebook's stored outputs should not
    # change from run to run.
    def _repr_html_(self) -> str:
        parts = [_reprs.output_html(output) for output in self.display_outputs]
        if error := self._unshown_error():
            parts.append(_reprs.error_block(error))
        if self.outputs:
            parts.append(_reprs.line(f"outputs: {', '.join(self.outputs)}"))
        return f"<div>{''.join(parts) or _reprs.line(f'{self.status}, no output')}</div>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        text = self.to_text()
        if self.outputs:
            text = "\n".join(filter(None, [text, f"outputs: {', '.join(self.outputs)}"]))
        return {
            "text/plain": text or f"{self.status}, no output",
            "text/html": self._repr_html_(),
        }


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ProgramResult:
    """What an execution of a registered program gave.

    Attributes
    ----------
    program_id
        Which program it was.
    outputs
        Its outputs by name, unpickled when the first of them is looked at.
    status, error
        As of an `ExecutionResult`; ``"ok"`` and None unless it was executed with ``check=False``.
    request_id, worker_id, session_id, timings
        Who executed it for whom, and how long it took, in seconds.
    display_outputs
        What it printed and displayed, as notebook-format output dicts.
    """

    program_id: str
    outputs: Mapping[str, Any]
    request_id: str
    worker_id: int | None = None
    session_id: str | None = None
    timings: Timings = Timings()
    status: ExecutionStatus = "ok"
    error: PoolError | None = None
    display_outputs: list[dict[str, Any]] = field(default_factory=list)

    def __repr__(self) -> str:
        parts = [self.program_id, self.status]
        if self.worker_id is not None:
            parts.append(f"worker {self.worker_id}")
        if self.session_id is not None:
            parts.append(f"session {self.session_id}")
        return f"<ProgramResult {', '.join(parts)}, outputs: {', '.join(self.outputs) or 'none'}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        from IPython.lib.pretty import pretty

        # In a notebook the values are what a person wants to see; times and ids change with each run.
        if self.error is not None:
            printer.text(f"{self.status}: {type(self.error).__name__}: {self.error}")
            return
        for number, (name, value) in enumerate(self.outputs.items()):
            # Each for itself: a line break between them would break those within them as well.
            printer.text(f"{chr(10) if number else ''}{name} = {pretty(value)}")


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What a pool knows of a registered program.

    Attributes
    ----------
    program_id
        The name that it was registered under.
    kind
        ``"callable"`` or ``"source"``.
    signature
        What it takes and gives, as text: ``qa(question: str) -> answer``.
    description
        As registered, or the first line of a callable's docstring; None if there is none.
    inputs, outputs
        Their names; inputs that are needed first.
    created_at
        When it was registered (UTC).
    size
        How large it is, in bytes: pickled, or as source text.
    execution_count, failures
        How many executions have ended since then, in whatever way, and how many of them not well.
    last_executed
        When the latest of them ended (UTC), or None.
    """

    program_id: str
    kind: Literal["callable", "source"]
    signature: str
    description: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    created_at: datetime
    size: int
    execution_count: int = 0
    failures: int = 0
    last_executed: datetime | None = None


@dataclass(frozen=True, slots=True)
class WaitInfo:
    """Why a request waits, for whoever shows it.

    Attributes
    ----------
    state
        ``"starting"`` (workers are starting and none is ready), ``"queued"``,
        or, once, ``"running"``. ``"interrupting"``: a Ctrl-C has come while it ran.
    elapsed
        Seconds since the request was made.
    starting, busy, idle
        Numbers of workers.
    ahead
        How many requests go first.
    """

    state: Literal["starting", "queued", "running", "interrupting"]
    elapsed: float
    starting: int = 0
    busy: int = 0
    idle: int = 0
    ahead: int = 0
