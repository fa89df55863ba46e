"""Programs in a worker: the documented exception to "no request finds what another one left".

A program is unpickled when a worker first executes it, in a namespace of its own, and stays alive from
one execution to the next: what it loads or computes once, later executions on this worker find. Those
least recently used give way. An execution that was interrupted may have left it in the middle of
something, so the next one begins with a new one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from jupyter_pool.calling import Outcome
from jupyter_pool.errors import SerializationError
from jupyter_pool.kernel.classes import CLASSES
from jupyter_pool.kernel.request import BadRequest
from jupyter_pool.serialize import Share, pack, unpack

__all__ = ["LivePrograms", "ProgramCall", "fit", "run_program"]

#: What is kept at most: how many programs, and how large they are, pickled, in bytes.
_MOST = 32
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class ProgramCall:
    """What the request says of the program. Raises BadRequest for what makes no sense."""

    name: str
    #: None: the value itself, as ``result``.
    outputs: tuple[str, ...] | None
    reload: bool
    size: int

    @classmethod
    def parse(cls, found: Any) -> ProgramCall:
        """Read it from a call's content."""
        try:
            outputs = found["outputs"]
            return cls(
                str(found["name"]),
                None if outputs is None else tuple(outputs),
                bool(found["reload"]),
                int(found["size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest(f"misshapen request for a program: {error!r}") from error


class _Kept:
    """One program that is here."""

    __slots__ = ("classes", "frames", "program", "size")

    def __init__(self, size: int, frames: Sequence[Any] = (), program: Any = None) -> None:
        self.size = size
        #: Of one that is unpickled for each execution.
        self.frames = frames
        self.program = program
        #: The classes that came with it, as cloudpickle knows them.
        self.classes: Mapping[str, type] = {}


class LivePrograms:
    """The programs that this worker has. The least recently used give way."""

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._known: OrderedDict[str, _Kept] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str) -> _Kept | None:
        """The program of that name, which was used last from now on."""
        found = self._known.get(name)
        if found is not None:
            self._known.move_to_end(name)
        return found

    def put(self, name: str, kept: _Kept) -> None:
        """Keep a program; one that is larger than allowed is kept alone."""
        self._known[name] = kept
        self._known.move_to_end(name)
        while len(self._known) > 1 and (
            len(self._known) > self._most
            or sum(one.size for one in self._known.values()) > self._most_bytes
        ):
            self._known.popitem(last=False)

    def drop(self, name: str) -> None:
        """Nobody needs it any more."""
        self._known.pop(name, None)

    def load(
        self,
        wanted: ProgramCall,
        frames: Sequence[Any],
        data: Any,
        fetching: AbstractContextManager[None],
    ) -> Any:
        """The program itself: the live one, or what is unpickled now.

        Raises
        ------
        SerializationError, BadRequest
            It cannot be rebuilt here.
        """
        kept = self.get(wanted.name)
        if kept is None:
            kept = _Kept(wanted.size)
            if wanted.reload:
                # Copied out of the message: what is kept must not hold all of it.
                kept.frames = [bytes(getattr(frame, "buffer", frame)) for frame in frames]
                self.put(wanted.name, kept)
        if wanted.reload:
            frames = kept.frames
        elif kept.program is not None:
            CLASSES.recall(kept.classes)
            return kept.program
        known = CLASSES.known()
        with fetching:
            program = unpack(data.receive(frames))["program"]
        if not wanted.reload:
            kept.program = program
            kept.classes = CLASSES.since(known)
            self.put(wanted.name, kept)  # only now: an interrupt leaves nothing half-made
        return program


def run_program(
    live: LivePrograms,
    wanted: ProgramCall,
    frames: Sequence[Any],
    arguments: Sequence[Any],
    data: Any,
    share: Share,
) -> Outcome:
    """Execute a program, in the worker, and pack its outputs. Raises nothing but an interrupt.

    Returns
    -------
    Outcome
        Of the kind ``"outputs"``, with facts as in a cell's report; ``"error"``; or ``"refused"``, whose
        fact ``bad_inputs`` says why nothing was run.
    """
    try:
        try:
            what = "the program"
            program = live.load(wanted, frames, data, data.fetching())
            what = "the inputs"
            # In a namespace of their own: a class that the program knows gets its methods with them, and
            # those must not lose their globals with the request's namespace.
            with data.fetching():
                values = unpack(arguments)
        except (SerializationError, BadRequest) as error:
            return Outcome("refused", {"bad_inputs": f"{what}: {error}"}, [])
        value = program(*values["args"], **values["kwargs"])
    except BaseException as error:  # noqa: BLE001 - SystemExit too is the caller's, not the worker's
        if not isinstance(error, Exception):
            live.drop(wanted.name)
        return Outcome.of_error(error)
    found, missing = fit(value, wanted.outputs)
    facts: dict[str, Any] = {"missing": missing, "unpicklable": {}}
    if missing:
        facts["returned"] = _described(value)
    while found:
        try:
            return Outcome("outputs", {**facts, "outputs": list(found)}, pack(found, share=share))
        except SerializationError as error:
            reason = str(error.context.get("reason") or error)
            culprit = error.context.get("variable")
            for name in [culprit] if culprit in found else list(found):
                facts["unpicklable"][name] = reason
                del found[name]
    return Outcome("outputs", {**facts, "outputs": []}, [])


def fit(value: Any, names: Sequence[str] | None) -> tuple[dict[str, Any], list[str]]:
    """A result by the names of the outputs, and the names that it has nothing for.

    One name takes the value as it is, unless that is a record that has such a field, as DSPy's
    predictions are. Several take the items of a tuple or list, of a mapping, or attributes.
    """
    if names is None:
        return {"result": value}, []
    fields = _fields(value)
    if len(names) == 1 and (fields is None or names[0] not in fields):
        return {names[0]: value}, []
    if fields is None and isinstance(value, Mapping):
        fields = value
    if fields is not None:
        found = {name: fields[name] for name in names if name in fields}
    elif isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        found = dict(zip(names, value, strict=True)) if len(value) == len(names) else {}
    else:
        unset = object()
        got = {name: getattr(value, name, unset) for name in names}
        found = {name: item for name, item in got.items() if item is not unset}
        if not found and isinstance(value, tuple) and len(value) == len(names):
            found = dict(zip(names, value, strict=True))
    return found, [name for name in names if name not in found]


def _fields(value: Any) -> Mapping[str, Any] | None:
    """The fields of a value that says of itself that it is a record."""
    if isinstance(value, type) or not callable(getattr(type(value), "toDict", None)):
        return None
    fields = value.toDict()
    return fields if isinstance(fields, Mapping) else None


def _described(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, (tuple, list)):
        return f"a {kind} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a {kind} with {', '.join(map(str, list(value)[:10])) or 'nothing in it'}"
    return kind
