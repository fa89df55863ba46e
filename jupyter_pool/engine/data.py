"""What goes to a worker as the frames of a request, and what becomes of it afterwards."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import SerializationError
from jupyter_pool.handles import Puts, Stored
from jupyter_pool.serialize import pack
from jupyter_pool.shared import Segment, SharedMemory

from .request import Request
from .wire import Buffer

if TYPE_CHECKING:
    from .programs import Program
    from .setups import Setup


#: What mostly is to be said of frames.
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def pack_lasting(
    values: Mapping[str, Any], what: str, context: Mapping[str, Any], puts: Puts | None
) -> tuple[list[Any], tuple[Stored, ...]]:
    """Pickle what will be sent to many workers, as it is now; and what was put that it needs.

    Parameters
    ----------
    what
        What an error calls it.
    context
        Goes into the error's.
    puts
        None: it cannot have handles in it yet.

    Raises
    ------
    SerializationError
        It cannot be pickled.
    """
    packing: AbstractContextManager[dict[str, Stored]]
    packing = nullcontext({}) if puts is None else puts.needed()
    try:
        with packing as needed:
            frames = pack(values, snapshot=True)
    except SerializationError as error:
        reason = error.context.get("reason", error.message)
        raise SerializationError(
            f"{what} cannot be sent to another process: {reason}",
            context={**context, "reason": reason},
        ) from error
    return frames, tuple(needed.values())


class Outbox:
    """Makes a request's frames into those that one worker is sent. Lives on the I/O thread."""

    def __init__(self, shared: SharedMemory | None) -> None:
        #: None: the worker is on another machine, or there is no shared memory here.
        self._shared = shared
        #: What the worker was sent of what was put, and programs, until it is told to forget it.
        self._loaded: dict[str, weakref.ref[Stored] | weakref.ref[Program]] = {}

    def pack(
        self, request: Request | Setup, first: int = 0
    ) -> tuple[list[Buffer], Mapping[str, Any]]:
        """The frames from `first` on, and what the envelope must say of them."""
        frames = [self._sent(frame) for frame in request.frames[first:]]
        if not self._loaded and not request.puts:
            return frames, _NOTHING
        said: dict[str, Any] = {}
        if self._loaded:
            forget = [key for key, stored in self._loaded.items() if stored() is None]
            for key in forget:
                del self._loaded[key]
            if forget:
                said["forget"] = forget
        if request.puts:
            said["puts"] = puts = []
            for stored in request.puts:
                new = () if stored.id in self._loaded else stored.frames
                self._loaded[stored.id] = weakref.ref(stored)
                frames += map(self._sent, new)
                puts.append([stored.id, len(new)])
        return frames, said

    def pack_program(self, program: Program) -> list[Buffer]:
        """The frames of a program; none if the worker should have it."""
        if program.name in self._loaded:
            return []
        self._loaded[program.name] = weakref.ref(program)
        return [self._sent(frame) for frame in program.frames]

    def lost(self, name: str) -> None:
        """The worker has no such program, or no longer."""
        self._loaded.pop(name, None)

    def _sent(self, frame: Buffer | Segment) -> Buffer:
        if type(frame) is bytes or not isinstance(frame, Segment):
            return frame
        if self._shared is None:
            buffer: Buffer = frame.buffer
            return buffer
        return self._shared.describe(frame)


class Janitor:
    """Lets go of what requests had, in a thread of its own: giving back a gigabyte takes a while."""

    def __init__(self) -> None:
        self._things: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def clear(self, request: Request) -> None:
        """A request has ended: nobody needs its frames any more."""
        frames, puts = request.frames, request.puts
        request.frames = request.puts = ()
        if request.pace is not None:
            return  # which means that they are small, and nothing was put
        if puts or any(isinstance(frame, Segment) for frame in frames):
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="jupyter_pool janitor", daemon=True
                )
                self._thread.start()
            self._things.put((frames, puts))

    def _run(self) -> None:
        while self._free(self._things.get()):
            pass

    @staticmethod
    def _free(things: tuple[Sequence[Any], Sequence[Any]] | None) -> bool:
        if things is None:
            return False
        for frame in things[0]:
            if isinstance(frame, Segment):
                frame.release()
        return True

    def close(self) -> None:
        """Finish, and end the thread."""
        if self._thread is not None:
            self._things.put(None)
            self._thread.join()
