"""How large values come into a worker and leave it: shared memory, and what `pool.put` stored."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jupyter_pool.handles import fetching
from jupyter_pool.kernel.leftovers import KERNEL_TIMERS
from jupyter_pool.kernel.programs import LivePrograms
from jupyter_pool.kernel.request import BadRequest, PoolRequest
from jupyter_pool.mapping import Mapping
from jupyter_pool.serialize import load
from jupyter_pool.shared import LostSegment, SharedMemory

__all__ = ["WorkerData"]

#: How long a mapping is kept for the next request that needs it, in seconds.
KEEP_MAPPINGS = 0.5


class WorkerData:
    """One worker's access to its owner's shared memory, and the stored values that it was sent.

    Those are kept as the bytes that came, never as values: see `handles`.
    """

    def __init__(self) -> None:
        self._shared: SharedMemory | None = None
        self._stored: dict[str, list[Any]] = {}
        #: The programs that it was sent.
        self.programs = LivePrograms()
        #: By descriptor, for as long as requests follow each other: a value that was deleted must not
        #: be held by a worker that has nothing to do.
        self._mappings: dict[bytes, Mapping] = {}
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, request: PoolRequest, buffers: Sequence[Any]) -> list[Any]:
        """Take what came with a request, first of all. Returns the frames that are the request's own.

        Also a request that is not going to run brings values on which later ones count.
        """
        if request.shared is not None:
            self._shared = SharedMemory.join(request.shared)
        for stored_id in request.forget:
            self._stored.pop(stored_id, None)
            self.programs.drop(stored_id)
        first = len(buffers) - sum(count for _, count in request.puts)
        position = first
        if request.puts:
            self._until = time.monotonic() + KEEP_MAPPINGS
            if self._timer is None:
                self._look_later(KEEP_MAPPINGS)
        for stored_id, count in request.puts:
            if count:
                frames = buffers[position : position + count]
                # Copied out of the message: what is kept must not hold all of it.
                self._stored[stored_id] = [bytes(_view(frame)) for frame in frames]
                position += count
        return list(buffers[:first])

    def _look_later(self, delay: float) -> None:
        loop = asyncio.get_running_loop()
        # In a context of its own: a request's variables are not to last until then.
        self._timer = loop.call_later(delay, self._look, context=contextvars.Context())
        KERNEL_TIMERS.add(self._timer)

    def _look(self) -> None:
        """Let go of the mappings, unless there were requests since."""
        self._timer = None
        left = self._until - time.monotonic()
        if left > 0:
            self._look_later(left)
        else:
            self._mappings.clear()

    def receive(self, frames: Iterable[Any], *, keep: bool = True) -> list[Any]:
        """The frames with shared memory mapped. Raises BadRequest if that is gone."""
        if self._shared is None:
            return list(frames)
        try:
            return self._shared.receive(frames, keep=keep)
        except LostSegment as error:
            raise BadRequest(f"{error.strerror}; somebody has removed it") from error

    @contextmanager
    def fetching(self, main_globals: dict[str, Any] | None = None) -> Iterator[None]:
        """While this lasts handles are unpickled as their values."""
        with fetching(partial(self._load, main_globals=main_globals)):
            yield

    def _load(self, stored_id: str, main_globals: dict[str, Any] | None) -> Any:
        frames = self._stored.get(stored_id)
        if frames is None:
            raise BadRequest(f"the value of {stored_id} is not here")
        return load(self.receive(map(self._lend, frames)), main_globals=main_globals)

    def _lend(self, frame: bytes) -> Any:
        """A mapping that an earlier request has left, or a new one; another frame as it is."""
        known = self._mappings.get(frame)
        buffer = known.lend() if known is not None else None
        if buffer is not None or self._shared is None:
            return frame if buffer is None else buffer
        try:
            mapping = self._shared.map(frame)
        except OSError:  # let `receive` find what can be done, or say what is wrong
            return frame
        if mapping is None:
            return frame
        self._mappings[frame] = mapping
        return mapping.lend()

    def share(self, frames: Iterable[Any]) -> list[Any]:
        """The frames of a result, with the large ones in shared memory."""
        return list(frames) if self._shared is None else self._shared.share_large(frames)

    def send(self, frames: Iterable[Any]) -> list[Any]:
        """The frames as they go into the reply: from here on they are the owner's."""
        return list(frames) if self._shared is None else self._shared.send(frames)


def _view(frame: Any) -> memoryview:
    return memoryview(getattr(frame, "buffer", frame))
