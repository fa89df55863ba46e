"""From what a user asks for to a `Request`: defaults, checks, serialisation, all before queueing."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jupyter_pool.calling import (
    PackedCall,
    PackedFunction,
    is_found_by_name,
    pack_call,
    pack_chunk,
    pack_function,
    pack_plain_call,
)
from jupyter_pool.config import LEAST_OUTPUT, PoolConfig, parse_size, parse_time
from jupyter_pool.errors import InvalidRequest
from jupyter_pool.kernel.functions import digest
from jupyter_pool.serialize import check_names, dump, pack
from jupyter_pool.shared import Segment

from .comms import Connect
from .log import PoolLog
from .request import Event, Request, Sink
from .sources import codes_of
from .staying import Stay

if TYPE_CHECKING:
    from jupyter_pool.handles import Stored

    from .driver import Driver


_T = TypeVar("_T")


class _Default:
    """Stands for "as the pool is configured", where None means "no limit"."""

    def __repr__(self) -> str:
        return "<the pool's default>"


#: Not given: the pool's default applies.
DEFAULT: Any = _Default()

#: What `options()` may preset of how a request runs.
REQUEST_PRESETS = (
    "timeout",
    "checkout_timeout",
    "session_id",
    "retries",
    "isolation",
    "output_limit",
    "seed",
)
#: All that it may preset: also what the caller gets of it.
PRESETS = (*REQUEST_PRESETS, "on_output", "check", "cancel_running")

ISOLATIONS = ("namespace", "process", "none")


def check_presets(presets: Mapping[str, Any]) -> dict[str, Any]:
    """Check what `options()` was given.

    Raises
    ------
    InvalidRequest
        Names an option that cannot be preset.
    """
    for name in presets:
        if name not in PRESETS:
            close = difflib.get_close_matches(name, PRESETS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise InvalidRequest(
                f"options() does not know {name!r}.{hint} It takes {', '.join(PRESETS)}"
            )
    return dict(presets)


def _parsed(name: str, parse: Callable[[Any], _T], value: Any) -> _T:
    """The option's value; an error names the option."""
    try:
        return parse(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error.message}") from None


def _time(name: str, value: Any) -> float | None:
    if value is None:
        return None
    seconds = _parsed(name, parse_time, value)
    if seconds == 0 and name == "timeout":
        raise InvalidRequest("timeout: 0 leaves no time to run; give more, or None for no limit")
    return seconds


def _size(name: str, value: Any, least: int) -> int | None:
    if type(value) is int and value >= least:
        return value
    size = _parsed(name, parse_size, value)
    if size is not None and size < least:
        raise InvalidRequest(
            f"{name}={value!r} is not possible: it takes at least {least} bytes, or None for no limit"
        )
    return size


def make_request(
    driver: Driver,
    sink: Sink,
    code: object,
    *,
    inputs: object = None,
    outputs: Iterable[str] = (),
    session_id: object = None,
    timeout: Any = None,
    checkout_timeout: Any = None,
    retries: object = 0,
    isolation: str | None = None,
    output_limit: Any = None,
    seed: object = None,
    execution_count: int | None = None,
    group: object = None,
    lease: str | None = None,
    is_lease: bool = False,
    carry_context: bool = True,
    snapshot: bool = False,
) -> Request:
    """Check and pack one request. Inputs are pickled here, in the caller's thread.

    Raises
    ------
    InvalidRequest
        Names the argument that is impossible and what it may be.
    SerializationError
        Names the input that cannot be pickled.
    """
    config: PoolConfig = driver.config
    if not isinstance(code, str):
        raise InvalidRequest(f"code must be text, not {type(code).__name__}")
    if inputs is not None and not isinstance(inputs, Mapping):
        raise InvalidRequest(
            f"inputs takes a dict of values by variable name, not {type(inputs).__name__}"
        )
    check_names(inputs or (), what="inputs")
    names = check_names(outputs, what="outputs")
    if driver.foreign and (inputs or names or seed is not None):
        raise InvalidRequest(
            f"inputs, outputs and seed work with the pool's own Python kernel, "
            f"not with {config.kernel_name!r}: pass values within the code"
        )
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise InvalidRequest(f"retries={retries!r} is not possible: it takes a whole number ≥ 0")
    if isolation is not None and isolation not in ISOLATIONS:
        raise InvalidRequest(
            f"isolation={isolation!r} is not possible: it takes {' or '.join(map(repr, ISOLATIONS))}"
        )
    if session_id is not None and (not isinstance(session_id, str) or not session_id):
        raise InvalidRequest(f"session_id={session_id!r} is not possible: it takes a text or None")
    if seed is not None and (
        isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32
    ):
        raise InvalidRequest(
            f"seed={seed!r} is not possible: it takes a whole number from 0 to 2**32 - 1"
        )
    frames: Sequence[Any] = ()
    puts: Sequence[Stored] = ()
    if inputs:
        with driver.puts.needed() as needed:
            frames = pack(inputs, snapshot=snapshot, share=driver.share)
        puts = tuple(needed.values())
    request_id = driver.engine.new_id()
    return Request(
        id=request_id,
        code=code,
        sink=sink,
        # A session's requests take turns with others; each anonymous one is a group of its own.
        group=group if group is not None else session_id or request_id,
        frames=frames,
        puts=puts,
        outputs=tuple(names),
        session_id=session_id,
        timeout=_time("timeout", timeout),
        checkout_timeout=_time("checkout_timeout", checkout_timeout),
        retries=retries,
        isolation=isolation or config.isolation,
        output_limit=_size("output_limit", output_limit, LEAST_OUTPUT),
        seed=seed,
        execution_count=execution_count,
        context=driver.surroundings.difference() if carry_context else {},
        lease=lease,
        is_lease=is_lease,
        kind="lease" if is_lease else "cell",
    )


def check_callable(driver: Driver, fn: object) -> None:
    """Raise InvalidRequest if it is no function, or the pool's kernel does not take any."""
    if not callable(fn) and not isinstance(fn, PackedFunction | PackedCall):
        raise InvalidRequest(f"{fn!r} cannot be called: submit and map take a function")
    if driver.foreign:
        raise InvalidRequest(
            f"submit and map work with the pool's own Python kernel, not with "
            f"{driver.config.kernel_name!r}: use execute or submit_code"
        )


def place_function(driver: Driver, fn: Callable[..., Any] | PackedFunction) -> PackedFunction:
    """Pickle a function for the workers, unless it is packed.

    One that brings large arrays along is stored like a value that was put: once for all its calls, and
    for all workers.

    Raises
    ------
    SerializationError, InvalidRequest
        It cannot be pickled; it refers to a handle that is none of this pool's.
    """
    if isinstance(fn, PackedFunction):
        return fn
    with driver.puts.needed() as needed:
        packed = pack_function(fn)
        if len(packed.frames) > 1:
            frames = driver.share(packed.frames)
            if any(isinstance(frame, Segment) for frame in frames):
                # Its pickle is now the handle's, which in a worker means what those frames mean.
                packed = PackedFunction(dump(driver.puts.keep(frames)), packed.name)
    if needed:
        packed = PackedFunction(packed.frames, packed.name, tuple(needed.values()))
    if not is_found_by_name(fn):
        packed.codes = codes_of(fn)
    return packed


def place_chunk(
    driver: Driver,
    function: PackedFunction,
    items: Sequence[Any],
    budget: float | None,
    *,
    star: bool,
) -> PackedCall:
    """Pickle many calls of a function for the workers; parameters and errors as of `pack_chunk`."""
    with driver.puts.needed() as needed:
        call = pack_chunk(function, items, budget, star=star, share=driver.share)
    call.puts = tuple({*function.puts, *needed.values()})
    return call


def make_call(
    driver: Driver,
    sink: Sink,
    fn: Callable[..., Any] | PackedFunction | PackedCall,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    snapshot: bool = False,
    **options: Any,
) -> Request:
    """Check and pack a function call, unless it is packed; options are those of `make_request`.

    Raises
    ------
    InvalidRequest
        Not a function; or the pool runs a kernel that is not Python's.
    SerializationError
        The function or its arguments cannot be pickled.
    """
    check_callable(driver, fn)
    plain: PackedCall | None = None
    if isinstance(fn, PackedCall):
        call = fn
    elif (plain := pack_plain_call(fn, args, kwargs or {})) is not None:
        call = plain
    else:
        function = place_function(driver, fn)
        with driver.puts.needed() as needed:
            call = pack_call(function, args, kwargs or {}, snapshot=snapshot, share=driver.share)
        call.puts = tuple({*function.puts, *needed.values()})
    request = _make_alike(driver, sink, options)
    request.frames = [*call.function, *call.arguments]
    request.puts = call.puts
    request.split = len(call.function)
    request.kind = "call"
    request.function = _name_large(call.function)
    if not isinstance(fn, PackedCall):
        request.pace = _pace(driver, request)
    request.title, request.codes = call.title, call.codes
    return request


#: Calls of at most so many bytes may be sent together.
_LARGEST_TOGETHER = 4096


def _pace(driver: Driver, request: Request) -> str | bytes | None:
    """What stands for all calls of a function, if they are small; None: it must go alone.

    So must what leaves its state, or its process, to nobody else; and where memory is watched, it must
    be known whose it is.
    """
    frames = request.frames
    if (
        request.isolation != "namespace"
        or request.lease is not None
        or request.puts
        or driver.config.memory_limit is not None
    ):
        return None
    size = 0
    for frame in frames if request.function is None else frames[request.split :]:
        if not isinstance(frame, bytes):
            return None
        size += len(frame)
    if size > _LARGEST_TOGETHER:
        return None
    return request.function or cast("bytes", frames[0])


def _make_alike(driver: Driver, sink: Sink, options: dict[str, Any]) -> Request:
    """The request of a call. Its options are mostly those of the call before: checked already."""
    known, model = driver.last_call
    if model is None or options != known:
        made = make_request(driver, sink, "", **options)
        if options.get("group") is not None and options.get("carry_context", True):
            model = replace(made, sink=_NOBODY, context={})
            driver.last_call = options, model
        return made
    return Request(
        driver.engine.new_id(),
        "",
        sink,
        model.group,
        session_id=model.session_id,
        timeout=model.timeout,
        checkout_timeout=model.checkout_timeout,
        retries=model.retries,
        isolation=model.isolation,
        output_limit=model.output_limit,
        seed=model.seed,
        context=driver.surroundings.difference(),
        lease=model.lease,
    )


#: Of a request that only shows what others are to be like: it holds nobody's future.
_NOBODY: Any = None


#: Functions from this size on, in bytes, are sent to a worker once and kept there.
_KEPT_FROM = 4096
#: The frames that were named last: those of a map are the same for all its calls.
_last_named: tuple[Sequence[Any], str] = ((), "")


def _name_large(function: Sequence[Any]) -> str | None:
    """The name of a function by its content, if it is large; else it is sent each time."""
    global _last_named
    if len(function) == 1 and type(function[0]) is bytes:
        size = len(function[0])
    else:
        size = sum(memoryview(frame).nbytes for frame in function)
    if size < _KEPT_FROM:
        return None
    frames, name = _last_named
    if frames is not function:
        name = digest(function)
        _last_named = (function, name)
    return name


class Guarded:
    """A user's `on_output`, whose exceptions are logged: they harm nobody but its own output.

    Raises
    ------
    InvalidRequest
        It cannot be called.
    """

    def __init__(self, on_output: object, log: PoolLog) -> None:
        if not callable(on_output):
            raise InvalidRequest(f"on_output={on_output!r} is not possible: it takes a function")
        self._call = on_output
        self._log = log
        #: Whose outputs it sees.
        self.request: Request | None = None
        #: How a notebook learns where comm messages go; None: it does not take any.
        self.connect: Connect | None = getattr(on_output, "connect", None)
        #: That the worker is to stay when the request is done, if it is.
        self.stay: Stay | None = getattr(on_output, "stay", None)

    def __call__(self, event: Event) -> None:
        try:
            self._call(event)
        except Exception:  # noqa: BLE001 - users' code: told, and survived
            self._log(logging.ERROR, "exception in on_output", request=self.request, exc_info=True)
