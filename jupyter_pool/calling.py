"""A function call on its way to a worker, and what became of it on its way back.

    pack_call(f, args)    ─┐                                    ┌─▶ the value
    pack_chunk(f, items)  ─┴─▶ PackedCall ══▶ run_call ══▶ Outcome ─▶ an exception, its traceback as cause
                                                                └─▶ a chunk's values, up to its first exception

Function and arguments are pickled apart: a map pickles its function once, and a worker may keep the
bytes of a function (never the function) from one call to the next. How a call ended can be told from
an `Outcome` without unpickling anything. Both sides use this module, so it imports nothing heavy.
"""

from __future__ import annotations

import math
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import ExecutionError, SerializationError
from jupyter_pool.serialize import Frame, Share, pack, unpack

if TYPE_CHECKING:
    from jupyter_pool.handles import Stored

__all__ = [
    "Initialized",
    "Outcome",
    "PackedCall",
    "PackedFunction",
    "RemoteTraceback",
    "is_found_by_name",
    "pack_call",
    "pack_chunk",
    "pack_function",
    "run_call",
    "run_setup",
]


class RemoteTraceback(Exception):
    """The cause of an exception that a call raised in its worker: the traceback there, as text.

    Attributes
    ----------
    tb
        The text.
    """

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


class PackedFunction:
    """A function as bytes: pickled once, sent with many calls."""

    __slots__ = ("codes", "frames", "name", "puts")

    def __init__(self, frames: Sequence[Any], name: str, puts: Sequence[Stored] = ()) -> None:
        self.frames = frames
        #: Its code, if it travels by value: workers do not have its source.
        self.codes: Sequence[CodeType] = ()
        #: For people.
        self.name = name
        #: What `pool.put` stored that it refers to.
        self.puts = puts


class PackedCall:
    """One call as bytes: the frames of the function, and those of its arguments.

    Attributes
    ----------
    puts
        What `pool.put` stored that they refer to.
    title
        What people call it.
    codes
        The function's code, if it travels by value: workers do not have its source.
    """

    __slots__ = ("arguments", "codes", "function", "puts", "title")

    def __init__(
        self,
        function: Sequence[Any],
        arguments: Sequence[Any],
        puts: Sequence[Stored] = (),
        title: str = "",
        codes: Sequence[CodeType] = (),
    ) -> None:
        self.function = function
        self.codes = codes
        self.arguments = arguments
        self.puts = puts
        self.title = title


class Outcome:
    """How a call ended, as bytes and plain facts.

    Attributes
    ----------
    kind
        ``"value"``, ``"error"`` or ``"chunk"``.
    facts
        Plain values, fit for JSON. Of an error its name, text and traceback. Of a chunk ``count``,
        how many values there are; ``seconds``, how long they took; ``values``, how many frames hold
        them, an exception's coming after; ``error``, what is known of that exception, or None.
    frames
        The pickled values and exceptions; of an exception that cannot be pickled none.
    """

    __slots__ = ("facts", "frames", "kind")

    def __init__(self, kind: str, facts: dict[str, Any], frames: Sequence[Frame]) -> None:
        self.kind = kind
        self.facts = facts
        self.frames = frames

    @classmethod
    def of_error(cls, error: BaseException) -> Outcome:
        """The outcome of a call that ended by this exception. Raises nothing."""
        return cls("error", *_describe(error))

    def open(self, context: Mapping[str, Any]) -> Any:
        """The call's value, unpickled here and now. `context` is for errors of ours.

        Raises
        ------
        BaseException
            What the call raised, with a `RemoteTraceback` as its cause.
        ExecutionError
            In its place, if that cannot be rebuilt in this process.
        """
        if self.kind == "error":
            raise _rebuild(self.facts, self.frames, context)
        return unpack(self.frames)["value"]

    def open_chunk(self, context: Mapping[str, Any]) -> tuple[list[Any], BaseException | None]:
        """A chunk's values, and what the item after them raised."""
        facts, split = self.facts, self.facts["values"]
        values: list[Any] = unpack(self.frames[:split])["values"]
        error = None
        if facts["error"] is not None:
            error = _rebuild(facts["error"], self.frames[split:], context)
        return values, error


class Initialized:
    """A function that has another one called before its first call in a request."""

    def __init__(self, function: Callable[..., Any], initializer: Callable[[], object]) -> None:
        self._function = function
        self._initializer: Callable[[], object] | None = initializer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        initializer, self._initializer = self._initializer, None
        if initializer is not None:
            initializer()
        return self._function(*args, **kwargs)


# -- the caller's side -----------------------------------------------------------------------


def pack_function(function: Callable[..., Any]) -> PackedFunction:
    """Pickle a function, with all that it refers to, as it is now.

    Raises
    ------
    SerializationError
        It cannot be pickled.
    """
    if not is_found_by_name(function):
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        return PackedFunction(pack({"function": function}, snapshot=True), name)
    return _pack_named(function)


def _pack_named(function: Callable[..., Any]) -> PackedFunction:
    name = function.__qualname__
    known, packed = _named.get(name, (None, None))
    if known is not function or packed is None:
        packed = PackedFunction(pack({"function": function}), name)
        if len(_named) >= _MOST_NAMED:
            _named.clear()
        _named[name] = (function, packed)
    return packed


#: Functions that travel as their names, and the bytes of those.
_named: dict[str, tuple[object, PackedFunction]] = {}
_MOST_NAMED = 256


def is_found_by_name(function: object) -> bool:
    """Whether a function of a module is just where its name says, so that its bytes never change.

    As cloudpickle decides it, except that what is not plain is none.
    """
    if type(function) is FunctionType:
        home = function.__globals__.get("__name__")
    elif type(function) is BuiltinFunctionType and isinstance(function.__self__, ModuleType):
        home = function.__self__.__name__
    else:
        return False
    if home == "__main__" or home != function.__module__:
        return False
    if (cloudpickle := sys.modules.get("cloudpickle.cloudpickle")) is not None and getattr(
        cloudpickle, "_PICKLE_BY_VALUE_MODULES", False
    ):
        return False  # somebody wants the functions of some modules to be sent as if of a notebook
    module = sys.modules.get(home)
    return module is not None and vars(module).get(function.__qualname__) is function


def _pack_plain(name: str, value: Any, parts: Sequence[Any]) -> list[Frame] | None:
    """The frames of a value under a name, if its parts are plain ones; as `pack` makes them."""
    for part in parts:
        if type(part) not in _PLAIN:
            return None
    return [pickle.dumps({name: value}, protocol=5)]


def pack_call(
    function: Callable[..., Any] | PackedFunction,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    snapshot: bool = False,
    share: Share | None = None,
) -> PackedCall:
    """Pickle a call; `snapshot` and `share` are for its arguments, as of `pack`.

    Raises
    ------
    SerializationError
        Says whether the function or its arguments cannot be pickled, and why.
    """
    packed = function if isinstance(function, PackedFunction) else pack_function(function)
    values = {"args": tuple(args), "kwargs": dict(kwargs)}
    if not kwargs and _PLAIN.issuperset(map(type, args)) and _are_short(args):
        # What pickle does alike for everybody; making a pickler of ours takes longer than this.
        frames: Sequence[Frame] = [pickle.dumps(values, protocol=5)]
    else:
        frames = pack(values, snapshot=snapshot, share=share)
    return PackedCall(packed.frames, frames, title=f"{packed.name}()", codes=packed.codes)


def pack_plain_call(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> PackedCall | None:
    """As `pack_call`, for a function that is found by its name and plain arguments; None: they are not.

    Nothing of that can refer to a handle, or be large.
    """
    if kwargs:
        return None
    for arg in args:
        kind = type(arg)
        if kind is not int and (kind not in _PLAIN or not _is_short(arg)):
            return None
    if not is_found_by_name(function):
        return None
    packed = _pack_named(function)
    frames = [pickle.dumps({"args": args, "kwargs": {}}, protocol=5)]
    return PackedCall(packed.frames, frames, title=f"{packed.name}()")


#: Types that hold nothing else.
_PLAIN: frozenset[type] = frozenset((int, float, complex, bool, str, bytes, type(None)))


def _are_short(args: Sequence[Any]) -> bool:
    return all(map(_is_short, args))


def _is_short(arg: Any) -> bool:
    return type(arg) not in (str, bytes) or len(arg) < 1000


def pack_chunk(
    function: PackedFunction,
    items: Sequence[Any],
    budget: float | None,
    *,
    star: bool,
    share: Share | None = None,
) -> PackedCall:
    """Pickle many calls of one function, each item being its argument, or with `star` all of them.

    The worker begins no other item when `budget` seconds have passed; None: it does them all.
    """
    values = {"items": list(items), "budget": budget, "star": star}
    title = f"{function.name}() × {len(items)}"
    frames = pack(values, share=share)
    return PackedCall(function.frames, frames, title=title, codes=function.codes)


def _rebuild(
    facts: Mapping[str, Any], frames: Sequence[Frame], context: Mapping[str, Any]
) -> BaseException:
    """What a call raised, or an `ExecutionError` that tells of it."""
    found: object = None
    if frames:
        try:
            found = unpack(frames)["error"]
        except SerializationError:  # its constructor may refuse what pickle gives it
            pass
    if isinstance(found, BaseException):
        error: BaseException = found
    else:
        name, text = facts["name"], facts["text"]
        error = ExecutionError(
            f"{name}: {text}" if text else name,
            context=context,
            ename=name,
            evalue=text,
            traceback=facts["traceback"].splitlines(),
        )
    error.__cause__ = RemoteTraceback(facts["traceback"])
    return error


# -- the worker's side -----------------------------------------------------------------------


def run_call(
    call: PackedCall,
    main: dict[str, Any],
    fetching: AbstractContextManager[None] | None = None,
    share: Share | None = None,
) -> Outcome:
    """Unpickle, call and pickle the value, in the worker; or a chunk of such calls. Raises nothing.

    Parameters
    ----------
    main
        Where functions of a notebook live there.
    fetching
        In it what was put is unpickled as its value; None: there is nothing of that kind.
    share
        What moves the value's large frames to shared memory.
    """
    try:
        with fetching or nullcontext():
            function = _open(call.function, main)["function"]
            values = _open(call.arguments, main)
        if "items" in values:
            return _run_chunk(function, **values, share=share)
        value = function(*values["args"], **values["kwargs"])
    except BaseException as error:  # noqa: BLE001 - SystemExit too is the caller's, not the worker's
        return Outcome("error", *_describe(error))
    return _seal(value, share)


def run_setup(
    frames: Sequence[Any], main: dict[str, Any], fetching: AbstractContextManager[None]
) -> Outcome:
    """Unpickle a setup function and call it, in the worker. Its value is of no interest. Raises nothing."""
    try:
        with fetching:
            function = unpack(frames, main_globals=main)["function"]
        function()
    except BaseException as error:  # noqa: BLE001 - as in `run_call`
        return Outcome("error", *_describe(error))
    return Outcome("value", {}, ())


def _open(frames: Sequence[Any], main: dict[str, Any]) -> dict[str, Any]:
    """Unpickle; by the quick way where nothing can be of a notebook, for that names its module."""
    head = frames[0]
    if len(head) < _SMALL and _HOME not in bytes(getattr(head, "buffer", head)):
        return unpack(frames)
    return unpack(frames, main_globals=main)


_HOME = b"__main__"
_SMALL = 4096


def _seal(value: Any, share: Share | None) -> Outcome:
    try:
        plain = _pack_plain("value", value, (value,))
        return Outcome("value", {}, plain or pack({"value": value}, share=share))
    except SerializationError as error:
        return Outcome("error", *_describe(_unsendable("the call's result", error)))
    except BaseException as error:  # noqa: BLE001 - pickling runs users' code
        return Outcome("error", *_describe(error))


def _unsendable(what: str, error: SerializationError) -> SerializationError:
    reason = error.context.get("reason", str(error))
    return SerializationError(
        f"{what} cannot be sent back: {reason}\n  The call itself ran to its end.",
        context={"reason": reason},
    )


def _run_chunk(
    function: Any, items: Iterable[Any], budget: float | None, star: bool, share: Share | None
) -> Outcome:
    clock = time.perf_counter
    started = clock()
    end = math.inf if budget is None else started + budget
    values: list[Any] = []
    append = values.append
    error: BaseException | None = None
    try:
        if star:
            for args in items:
                append(function(*args))
                if clock() > end:
                    break
        else:
            for item in items:
                append(function(item))
                if clock() > end:
                    break
    except BaseException as raised:  # noqa: BLE001 - see `run_call`
        error = raised
    seconds = clock() - started
    try:
        frames = pack({"values": values}, share=share)
    except Exception:  # noqa: BLE001 - one of them: the others arrive
        values, frames, error = _sendable(values)
    facts: dict[str, Any] = {
        "count": len(values),
        "seconds": seconds,
        "values": len(frames),
        "error": None,
    }
    if error is not None:
        facts["error"], more = _describe(error)
        frames = [*frames, *more]
    return Outcome("chunk", facts, frames)


def _sendable(values: list[Any]) -> tuple[list[Any], list[Any], BaseException]:
    """The values before the first that cannot be pickled, and what is wrong with that one."""
    for number, value in enumerate(values):
        try:
            pack({"value": value})
        except SerializationError as error:
            good = values[:number]
            return good, list(pack({"values": good})), _unsendable("a call's result", error)
    return [], list(pack({"values": []})), _unsendable("results", SerializationError("together"))


def _describe(error: BaseException) -> tuple[dict[str, Any], list[Any]]:
    """What a call raised, so that it can travel: as text in any case, itself if possible."""
    above = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        shown = "".join(traceback.format_exception(type(error), error, above))
    except Exception as own:  # noqa: BLE001 - users' code may be called for it
        shown = f"{type(error).__name__} ({type(own).__name__} while it was shown)\n"
    try:
        text = str(error)
    except Exception as own:  # noqa: BLE001 - users' code
        text = f"<{type(own).__name__} in __str__>"
    # A traceback holds frames with everything in them, and has become text.
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        frames = list(pack({"error": error}))
    except BaseException:  # noqa: BLE001 - exceptions may hold anything
        frames = []
    return {"name": type(error).__name__, "text": text, "traceback": shown}, frames
