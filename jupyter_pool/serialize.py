"""How values travel: one pickle for all of them, large buffers beside it.

    pack({"x": array, "f": function})  ->  [pickle, buffer, ...]  ->  unpack  ->  {"x": ..., "f": ...}

The frames go as binary buffers on a Jupyter message. One pickle holds the
whole dict, so what two variables share they still share on the other side.
What is defined in a notebook goes by value (cloudpickle). Large arrays are not
copied into the pickle: they follow as frames of their own (pickle protocol 5,
PEP 574).

Both the owner and its workers use this module, so importing it loads neither
cloudpickle nor anything heavier than `pickle`.
"""

from __future__ import annotations

import functools
import io
import keyword
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

from jupyter_pool.errors import InvalidRequest, SerializationError

__all__ = [
    "Frame",
    "LazyOutputs",
    "Share",
    "check_names",
    "dump",
    "load",
    "pack",
    "pack_alone",
    "unpack",
]

Frame = bytes | bytearray | memoryview
#: Gives back the same frames, some of them in shared memory (see `shared.SharedMemory.share_large`).
Share = Callable[[Iterable[Any]], list[Any]]

# A frame of its own costs a few microseconds on both sides, as much as copying
# this many bytes once.
_OUT_OF_BAND_FROM = 1 << 16  # bytes


def dump(value: Any, *, snapshot: bool = False, share: Share | None = None) -> list[Any]:
    """Serialise one value; parameters and frames as of `pack`.

    Raises
    ------
    Exception
        Whatever pickling raises.
    """
    frames: list[Any] = _dump(value)
    if share is not None:
        frames = share(frames)  # in shared memory it is a copy already
    if snapshot:
        frames = [_copied(frame) if isinstance(frame, memoryview) else frame for frame in frames]
    return frames


def load(frames: Sequence[Any], *, main_globals: dict[str, Any] | None = None) -> Any:
    """The value that `dump` put into these frames; parameters as of `unpack`.

    Raises
    ------
    Exception
        Whatever unpickling raises.
    """
    if main_globals is None and len(frames) == 1 and type(frames[0]) is bytes:
        return pickle.loads(frames[0])
    head, *buffers = (memoryview(getattr(frame, "buffer", frame)) for frame in frames)
    writable = [bytearray(view) if view.readonly else view for view in buffers]
    if main_globals is None:
        return pickle.loads(head, buffers=writable)
    return _MainUnpickler(io.BytesIO(head), buffers=writable, main=main_globals).load()


def pack(
    values: Mapping[str, Any], *, snapshot: bool = False, share: Share | None = None
) -> list[Any]:
    """Serialise named values.

    Parameters
    ----------
    values
        Values by variable name.
    snapshot
        Copy the large buffers. Without it the frames after the first are views
        of the values' own memory: whoever changes an array in place before the
        frames are sent changes what is sent.
    share
        What moves the large frames to shared memory; that is a copy, too.

    Returns
    -------
    list
        The pickle of the dict, then the out-of-band buffers in order, each
        one-dimensional and contiguous.

    Raises
    ------
    SerializationError
        Names the variable that cannot be pickled, and why.
    """
    try:
        return dump(dict(values), snapshot=snapshot, share=share)
    except InvalidRequest:
        raise
    except Exception as error:
        raise _name_culprit(values, error) from error


def pack_alone(value: Any, share: Share | None = None) -> list[Any]:
    """Serialise one value that has no name, as it is now.

    Raises
    ------
    SerializationError
        Says why it cannot be pickled.
    """
    try:
        return dump(value, snapshot=True, share=share)
    except InvalidRequest:
        raise
    except Exception as error:
        reason = _explain_dumping(error)
        raise SerializationError(
            f"this {type(value).__name__} cannot be sent to another process: {reason}",
            context={"reason": reason, "value_type": type(value).__name__},
        ) from error


def _copied(frame: memoryview) -> memoryview:
    return memoryview(bytearray(frame))


def unpack(frames: Sequence[Any], *, main_globals: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the named values that `pack` put into these frames.

    Arrays that were writable are writable again, and then share memory with
    their frame if that is writable too; read-only frames are copied once.

    Parameters
    ----------
    frames
        Anything with the buffer protocol: bytes, memoryviews, message frames.
    main_globals
        The namespace that functions defined in a notebook live in from now on, as they did at home:
        what code there assigns, they see. The globals that they need are put into it. By default
        they get a namespace of their own.

    Raises
    ------
    SerializationError
        The bytes are not what `pack` makes, or something they refer to, such
        as a module, is missing in this process.
    """
    if not frames:
        raise SerializationError("there is no data to unpack")
    try:
        values = load(frames, main_globals=main_globals)
    except Exception as error:
        reason = _explain_loading(error)
        raise SerializationError(
            f"the values could not be rebuilt in this process: {reason}",
            context={"reason": reason},
        ) from error
    if not isinstance(values, dict):
        raise SerializationError(
            f"expected a dict of named values, got {type(values).__name__}",
            context={"reason": "not a dict"},
        )
    return values


def check_names(names: Iterable[str], *, what: str = "outputs") -> list[str]:
    """Return the names as a list, each once, in order.

    Parameters
    ----------
    names
        Variable names; a mapping counts as its keys.
    what
        The option they belong to, for the message.

    Raises
    ------
    InvalidRequest
        One of them cannot be a Python variable.
    """
    if isinstance(names, (str, bytes)):
        raise InvalidRequest(
            f"{what} takes a list of names, not one text: write {what}=[{names!r}]"
        )
    try:
        checked = list(dict.fromkeys(names))
    except TypeError:
        raise InvalidRequest(f"{what} takes a list of variable names, not {names!r}") from None
    for name in checked:
        if not _is_variable_name(name):
            raise InvalidRequest(
                f"{what}: {name!r} is not a variable name", context={"option": what, "name": name}
            )
    return checked


class LazyOutputs(Mapping[str, Any]):
    """Named values that are unpickled when one of them is first looked at.

    Unpickling runs code, so it happens late and in the thread that asks. All
    values are unpickled together, at most once, and the frames are let go
    then. The names, the length and the repr need no unpickling.
    """

    __slots__ = ("_frames", "_lock", "_names", "_values")

    def __init__(self, names: Iterable[str] = (), frames: Sequence[Any] = ()) -> None:
        self._names = tuple(names)
        self._frames: Sequence[Any] = frames
        # Nothing was sent when there are no names, so there is nothing to load.
        self._values: dict[str, Any] | None = None if self._names else {}
        # Reentrant, because unpickling may run code that looks at us again.
        self._lock = threading.RLock()

    def _load(self) -> dict[str, Any]:
        with self._lock:
            if self._values is None:
                # If this raises, the frames stay: the next access tries again,
                # say after the missing module was installed.
                values = unpack(self._frames)
                self._values = values
                self._frames = ()
            return self._values

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        state = "not loaded yet" if self._values is None else "loaded"
        return f"<outputs: {', '.join(self._names) or 'none'} ({state})>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._names)

    def __copy__(self) -> LazyOutputs:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        with self._lock:
            # Once loaded the values may have changed, and may be of classes
            # that only cloudpickle can send: so packed again, not pickled.
            frames = self._frames if self._values is None else pack(self._values)
        views = [memoryview(getattr(frame, "buffer", frame)) for frame in frames]
        if int(protocol) >= 5:
            return (LazyOutputs, (self._names, [pickle.PickleBuffer(view) for view in views]))
        return (LazyOutputs, (self._names, [bytes(view) for view in views]))


def _is_variable_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)


class _MainUnpickler(pickle.Unpickler):
    """Unpickles functions of ``__main__`` into a given namespace.

    cloudpickle rebuilds a function that travels by value with ``_make_function``, in a globals dict
    that all functions of one home share within a pickle (checked on cloudpickle 3.1).
    """

    def __init__(self, file: io.BytesIO, *, buffers: list[Any], main: dict[str, Any]) -> None:
        super().__init__(file, buffers=buffers)
        self._main = main

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name == "_make_function" and module.startswith("cloudpickle"):
            return functools.partial(_make_at_home, found, self._main)
        return found


def _make_at_home(
    make: Any, main: dict[str, Any], code: Any, own_globals: dict[str, Any], *rest: Any
) -> Any:
    at_home = own_globals.get("__name__") == "__main__"
    return make(code, main if at_home else own_globals, *rest)


def _dump(value: Any) -> list[bytes | memoryview]:
    import cloudpickle

    buffers: list[memoryview] = []

    def keep_out(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _OUT_OF_BAND_FROM:
            return True  # pickle's convention: true means "put it into the stream"
        buffers.append(view)
        return False

    head: bytes = cloudpickle.dumps(value, protocol=5, buffer_callback=keep_out)
    return [head, *buffers]


def _name_culprit(values: Mapping[str, Any], error: Exception) -> SerializationError:
    """Find which variable cannot be pickled by trying each alone."""
    for name, value in values.items():
        try:
            _dump({name: value})
        except Exception as own:  # noqa: BLE001 - pickling runs any code, which raises anything
            reason = _explain_dumping(own)
            return SerializationError(
                f"{name!r} cannot be sent to another process: {reason}",
                context={"variable": name, "reason": reason, "value_type": type(value).__name__},
            )
    reason = _explain_dumping(error)
    return SerializationError(
        f"the values {', '.join(map(repr, values))} cannot be sent together: {reason}",
        context={"reason": reason},
    )


def _explain_dumping(error: Exception) -> str:
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return "it is nested too deeply to be pickled"
    return f"{error} ({type(error).__name__})" if str(error) else type(error).__name__


def _explain_loading(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the module {error.name!r} cannot be imported here"
    if isinstance(error, RecursionError):
        return "they are nested too deeply to be unpickled"
    return f"{error} ({type(error).__name__})" if str(error) else type(error).__name__
