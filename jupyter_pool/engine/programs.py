"""The programs of a pool: registered once, executed by id on any worker.

    register_program ─▶ Program ── source: a cell with inputs and outputs
                           │
                           └────── callable: frames, named by content and registration
                                      └─▶ sent to a worker with the first execution there, kept live

An execution holds on to its program, so whoever deletes or replaces one disturbs none that runs. A
name is never used twice: what a worker keeps under one is never taken for another.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import InvalidRequest, SerializationError, UnknownProgram
from jupyter_pool.handles import size_of
from jupyter_pool.kernel.functions import digest
from jupyter_pool.results import ProgramInfo, ProgramResult
from jupyter_pool.serialize import check_names, pack

from .calls import make_request
from .data import pack_lasting
from .request import Completion, Request, Sink
from .settle import settle
from .signatures import Inputs, close_to
from .sources import Sources, codes_of

if TYPE_CHECKING:
    from jupyter_pool.handles import Stored

    from .driver import Driver

__all__ = ["Program", "Programs", "make_execution", "make_program", "settle_program"]

_serials = itertools.count(1)


class Program:
    """One registration. What is counted is counted on the I/O thread."""

    def __init__(
        self,
        program_id: str,
        inputs: Inputs,
        outputs: tuple[str, ...] | None,
        description: str | None,
        *,
        source: str | None = None,
        stored: Stored | None = None,
        puts: tuple[Stored, ...] = (),
        sources: Sources | None = None,
        name: str = "",
        size: int = 0,
        reload: bool = False,
    ) -> None:
        self.id = program_id
        self.inputs = inputs
        #: None: a callable's one result.
        self.outputs = outputs
        self.description = description
        self.source = source
        self.reload = reload
        #: What workers know it by.
        self.name = name
        #: What `pool.put` stored that it refers to.
        self.puts = puts
        #: Of a callable, for its tracebacks.
        self.sources = sources
        self._stored = stored
        #: Pickled, in bytes.
        self.size = size
        self._created_at = datetime.now(timezone.utc)
        self._executions = 0
        self._failures = 0
        self._last_executed: datetime | None = None

    @property
    def frames(self) -> Iterable[Any]:
        """A callable, pickled."""
        return () if self._stored is None else self._stored.frames

    @property
    def output_names(self) -> tuple[str, ...]:
        """What its results will be called."""
        return ("result",) if self.outputs is None else self.outputs

    def count(self, *, ok: bool) -> None:
        """An execution has ended, in whatever way."""
        self._executions += 1
        self._failures += not ok
        self._last_executed = datetime.now(timezone.utc)

    def info(self) -> ProgramInfo:
        """What is known of it, at this moment."""
        outputs = self.output_names
        return ProgramInfo(
            program_id=self.id,
            kind="callable" if self.source is None else "source",
            signature=f"{self.id}({self.inputs.text}) -> {', '.join(outputs) or 'None'}",
            description=self.description,
            inputs=(*self.inputs.required, *self.inputs.optional),
            outputs=outputs,
            created_at=self._created_at,
            size=self.size,
            execution_count=self._executions,
            failures=self._failures,
            last_executed=self._last_executed,
        )


class Programs:
    """The programs of one pool by id. Each operation is a single step of a dict: thread-safe."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._known: dict[str, Program] = {}

    def add(self, program: Program) -> None:
        """Register it, in the place of one that has its id."""
        self._known[program.id] = program

    def get(self, program_id: object) -> Program:
        """The program of that id.

        Raises
        ------
        UnknownProgram
            There is none; says which there are.
        """
        found = self._known.get(program_id) if isinstance(program_id, str) else None
        if found is None:
            raise self._unknown(program_id)
        return found

    def remove(self, program_id: object) -> None:
        """Forget it; executions that were begun go on. Raises UnknownProgram."""
        gone = self._known.pop(program_id, None) if isinstance(program_id, str) else None
        if gone is None:
            raise self._unknown(program_id)

    def ids(self) -> list[str]:
        """All ids, the latest registered last."""
        return list(self._known)

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()

    def _unknown(self, program_id: object) -> UnknownProgram:
        ids = self.ids()
        there = f"it has {', '.join(ids)}" if ids else "it has none: register_program registers one"
        return UnknownProgram(
            f"pool {self._pool!r} has no program {program_id!r}"
            f"{close_to(str(program_id), ids)}; {there}",
            context={"pool": self._pool, "program_id": program_id, "programs": ids},
        )


def make_program(
    driver: Driver,
    program_id: object,
    program: Callable[..., Any] | str,
    *,
    inputs: Iterable[str] | None = None,
    outputs: Iterable[str] | None = None,
    description: object = None,
    reload: object = False,
) -> Program:
    """Check a program and pickle it, in the caller's thread.

    Raises
    ------
    InvalidRequest
        Names the argument that is impossible, and what it may be.
    SerializationError
        It cannot be pickled.
    """
    if not isinstance(program_id, str) or not program_id.strip() or not program_id.isprintable():
        raise InvalidRequest(f"program_id={program_id!r} is not possible: it takes a text")
    if description is not None and not isinstance(description, str):
        raise InvalidRequest(f"description={description!r} is not possible: it takes a text")
    if not isinstance(reload, bool):
        raise InvalidRequest(f"reload={reload!r} is not possible: it takes True or False")
    if driver.foreign:
        raise InvalidRequest(
            "programs work with the pool's own Python kernel, not with "
            f"{driver.config.kernel_name!r}: use execute"
        )
    names = None if outputs is None else tuple(check_names(outputs, what="outputs"))
    if isinstance(program, str):
        if reload:
            raise InvalidRequest(
                "reload=True is for callables: source code begins anew each time by itself"
            )
        taken = Inputs.of_source(inputs)
        size = len(program.encode("utf-8", "replace"))
        return Program(program_id, taken, names or (), description, source=program, size=size)
    if not callable(program):
        raise InvalidRequest(
            f"a program is a function, something else that can be called, or source code as a text, "
            f"not {type(program).__name__}"
        )
    if inspect.iscoroutinefunction(program) or inspect.iscoroutinefunction(
        getattr(program, "__call__", None)  # noqa: B004 - of its class, which may be asynchronous
    ):
        raise InvalidRequest(
            "an async function cannot be a program; source code may `await`, or wrap it: "
            "lambda **inputs: asyncio.run(function(**inputs))"
        )
    if names == ():
        raise InvalidRequest("outputs=[] leaves nothing to bring back: name them, or give None")
    taken = Inputs.of_callable(program, inputs)
    if description is None:
        description = _summary(program)
    frames, needed = pack_lasting(
        {"program": program},
        f"the program {program_id!r}",
        {"program_id": program_id},
        driver.puts,
    )
    size = sum(map(size_of, frames))
    name = f"{digest(frames)}-{next(_serials)}"
    handle = driver.puts.keep(driver.share(frames))
    return Program(
        program_id,
        taken,
        names,
        description,
        stored=handle.take(driver.puts),
        puts=needed,
        sources=Sources(codes_of(program)),
        name=name,
        size=size,
        reload=reload,
    )


def _summary(program: object) -> str | None:
    """The first line of its own documentation."""
    while isinstance(program, functools.partial):
        program = program.func
    try:
        text = inspect.getdoc(program)
    except Exception:  # noqa: BLE001 - users' code
        text = None
    return text.strip().partition("\n")[0] or None if text else None


def make_execution(
    driver: Driver,
    sink: Sink,
    program: Program,
    inputs: Mapping[str, Any] | None,
    *,
    snapshot: bool = False,
    **options: Any,
) -> Request:
    """Check inputs and pack one execution; options are those of `make_request`.

    Raises
    ------
    InvalidRequest
        Inputs are missing, or too many; an impossible option.
    SerializationError
        Names the input that cannot be pickled.
    """
    given = program.inputs.check(program.id, inputs)
    if program.source is not None:
        options.update(inputs=given, outputs=program.outputs, snapshot=snapshot)
        request = make_request(driver, sink, program.source, **options)
    else:
        args, kwargs = program.inputs.split(given)
        request = make_request(driver, sink, "", **options)
        with driver.puts.needed() as needed:
            try:
                values = {"args": args, "kwargs": kwargs}
                request.frames = pack(values, snapshot=snapshot, share=driver.share)
            except SerializationError:
                pack(given)  # says which of them it is
                raise
        request.puts = tuple({*program.puts, *needed.values()})
        request.split = 0
    request.program, request.kind = program, "program"
    return request


def settle_program(completion: Completion, *, check: bool) -> ProgramResult:
    """The result of an execution; with `check`, what went wrong is raised instead.

    Raises
    ------
    PoolError
        As of `settle`, with the program's id in its context.
    """
    program = completion.request.program
    assert program is not None
    result = settle(completion, check=False)
    if result.error is not None:
        result.error.context["program_id"] = program.id
        if check:
            raise result.error
    return ProgramResult(
        program_id=program.id,
        outputs=result.outputs,
        status=result.status,
        error=result.error,
        request_id=result.request_id,
        worker_id=result.worker_id,
        session_id=result.session_id,
        display_outputs=result.display_outputs,
        timings=result.timings,
    )
