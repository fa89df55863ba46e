"""`pool.put`: a value stored once, for many requests.

    pool.put(obj) ─▶ Handle ── pickled as its id, wherever it is within a request ──▶ fetch(id) ─▶ the value
                       └─ Stored: the value's frames, the large ones in shared memory

A worker is sent the frames with the first request that needs them, and keeps them as they came: bytes,
and names of shared memory. Each request maps and unpickles them afresh, so it may change the value as
it likes and the next one finds it as it was put. Unpickling copies no large buffer.

Both the owner and its workers use this module, so it imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from jupyter_pool.errors import InvalidRequest, SerializationError
from jupyter_pool.shared import Segment

__all__ = ["Handle", "Puts", "Stored", "fetch", "fetching", "size_of"]

#: Of each thread: what it packs handles for (`needed_by`), and what it fetches values with.
_local = threading.local()


class Stored:
    """The frames of a value that was put. They go when nobody refers to this any more."""

    __slots__ = ("__weakref__", "frames", "id")

    def __init__(self, stored_id: str, frames: Sequence[Any]) -> None:
        self.id = stored_id
        self.frames = frames

    def release(self) -> None:
        """Let the frames go, whoever may still refer to this."""
        frames, self.frames = self.frames, ()
        for frame in frames:
            if isinstance(frame, Segment):
                frame.release()


class Handle:
    """Stands for a value that `put` has stored; a worker gets the value in its place.

    It may be an input itself or be anywhere within inputs, any number of times, from any thread. The
    value is kept until `delete()`, until nobody has the handle any more, or until the pool is closed.

    Attributes
    ----------
    id
        Its name among all values that were put.
    nbytes
        How large the value is, pickled, in bytes.
    """

    __slots__ = ("__weakref__", "_puts", "_stored", "id", "nbytes")

    def __init__(self, puts: Puts, stored: Stored) -> None:
        self._puts = puts
        self._stored: Stored | None = stored
        self.id = stored.id
        self.nbytes = sum(map(size_of, stored.frames))

    def delete(self) -> None:
        """Free the value. Requests that were made before still get it; deleting again does nothing."""
        self._stored = None

    @property
    def deleted(self) -> bool:
        """Whether `delete` was called."""
        return self._stored is None

    def __reduce__(self) -> tuple[Any, ...]:
        needs: _Needs | None = getattr(_local, "needs", None)
        if needs is None:
            raise InvalidRequest(
                f"{self!r} only means something to workers of its pool: pass it to them as an input "
                "or an argument"
            )
        needs.add(self)
        return (fetch, (self.id,))

    def take(self, puts: Puts) -> Stored:
        """What a request of a pool needs to be sent with it.

        Raises
        ------
        InvalidRequest
            The handle is of another pool, was deleted, or its pool was closed.
        """
        if puts is not self._puts:
            raise InvalidRequest(
                f"{self!r} belongs to pool {self._puts.pool!r}, not to {puts.pool!r}\n"
                "  Next: put the value into each pool that is to use it.",
                context={"handle": self.id},
            )
        stored = self._stored
        if stored is None:
            raise InvalidRequest(
                f"{self!r} was deleted\n  Next: delete it after the last request, or put the value again.",
                context={"handle": self.id},
            )
        return stored

    def __copy__(self) -> Handle:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle:
        return self

    def __repr__(self) -> str:
        state = ", deleted" if self._stored is None else ""
        return f"<Handle {self.id}, {self.nbytes} bytes{state}>"


def size_of(frame: Any) -> int:
    """How large a frame is, in bytes, wherever it is."""
    return frame.size if isinstance(frame, Segment) else memoryview(frame).nbytes


class _Needs:
    """What one request needs of what was put."""

    def __init__(self, puts: Puts | None) -> None:
        self._puts = puts
        self.stored: dict[str, Stored] = {}

    def add(self, handle: Handle) -> None:
        if self._puts is None:
            raise InvalidRequest(f"{handle!r} cannot be part of a value that is put itself")
        self.stored[handle.id] = handle.take(self._puts)


class Puts:
    """What was put into one pool. Thread-safe."""

    def __init__(self, pool: str, prefix: str) -> None:
        #: The pool's name.
        self.pool = pool
        self._prefix = prefix
        self._lock = threading.Lock()
        self._count = 0
        self._stored: weakref.WeakSet[Stored] = weakref.WeakSet()
        self._closed = False

    def needed(self) -> AbstractContextManager[dict[str, Stored]]:
        """While this lasts handles can be pickled in this thread; they are gathered, by id."""
        return _Packing(_Needs(self))

    def put(self, pack: Callable[[], Sequence[Any]]) -> Handle:
        """Store what `pack` makes of a value."""
        with _Packing(_Needs(None)):
            frames = pack()
        return self.keep(frames)

    def keep(self, frames: Sequence[Any]) -> Handle:
        """Store frames as they are."""
        with self._lock:
            self._count += 1
            stored = Stored(f"{self._prefix}-put{self._count}", frames)
            if self._closed:
                stored.release()
            self._stored.add(stored)
        return Handle(self, stored)

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._closed = True
            for stored in list(self._stored):
                stored.release()


class _Packing:
    """In it a thread packs something. (Each call does: a generator would take three times as long.)"""

    __slots__ = ("_before", "_needs")

    def __init__(self, needs: _Needs) -> None:
        self._needs = needs

    def __enter__(self) -> dict[str, Stored]:
        self._before: _Needs | None = getattr(_local, "needs", None)
        _local.needs = self._needs
        return self._needs.stored

    def __exit__(self, *exc: object) -> None:
        _local.needs = self._before


# -- in a worker -----------------------------------------------------------------------------


def fetch(stored_id: str) -> Any:
    """What a handle is unpickled as: the value, one for each request.

    Raises
    ------
    SerializationError
        This process has no such value.
    """
    find = getattr(_local, "find", None)
    if find is None:
        raise SerializationError(f"the value of {stored_id} is only known to a worker of its pool")
    return find(stored_id)


@contextlib.contextmanager
def fetching(load: Callable[[str], Any]) -> Iterator[None]:
    """While this lasts `fetch` works in this thread, and loads each value once."""
    values: dict[str, Any] = {}

    def find(stored_id: str) -> Any:
        if stored_id not in values:
            values[stored_id] = load(stored_id)
        return values[stored_id]

    before = getattr(_local, "find", None)
    _local.find = find
    try:
        yield
    finally:
        _local.find = before
