"""`map`: one function over many items, in chunks that adapt, results in order.

    the iterables ─ the caller reads ─▶ Mapping ─ chunks ─▶ pool
                                          │ ▲                │
    the results ◀─ the caller waits ─ Deliveries             │ finish, on the I/O thread
                                            └────────────────┘

A mapping has a thread of its own for as long as something is to be sent or to come back. It alone
touches the mapping's state; all others post to it. It pickles the chunks, so that workers go on
while the caller does something else or nothing at all.

- Chunks are sized by the time that the last ones took, aim at `_TARGET` seconds, and shrink towards
  the end. A worker gives back what it has not begun when a chunk takes much longer than that.
- A chunk whose worker died, ran out of time or memory is tried again item by item, so that the item
  which is the cause fails alone.
- Every chunk is a request of one group, so that others take turns with the whole map.
"""

from __future__ import annotations

import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from jupyter_pool.calling import PackedCall
from jupyter_pool.core import Outcome
from jupyter_pool.errors import Cancelled, SerializationError
from jupyter_pool.handles import size_of

from .futures import CallbackThread
from .log import LOGGER
from .request import Completion, Event
from .settle import call_outcome, show_sources

#: The argument of one call; with several iterables a tuple of them.
Item: TypeAlias = Any

#: What a chunk should take in its worker, in seconds.
_TARGET = 0.004
#: After so long a worker begins no other item of a chunk, in seconds.
_BUDGET = 0.05
#: Smaller chunks than this are not worth a message, in seconds.
_LEAST = 0.001
#: What an item costs besides the call, in seconds: pickling on both sides.
_HANDLING = 1e-6
#: How much larger than the last a chunk may be.
_GROWTH = 32
#: The largest chunk, in items and in bytes.
_MOST_ITEMS, _MOST_BYTES = 10_000, 4_000_000
#: How many bytes of results may wait for a caller who reads its input only as it goes.
_UNTAKEN_BYTES = 256_000_000

#: Ends of a chunk after which its items are tried one by one.
_DOUBTFUL = (
    Outcome.WORKER_DIED,
    Outcome.MEMORY_LIMIT_EXCEEDED,
    Outcome.OPERATION_TIMEOUT,
    Outcome.PROTOCOL_ERROR,
)


@dataclass(slots=True, eq=False)
class Delivery:
    """Results of consecutive items, in order; with `error` or `last` there are no more."""

    values: list[Any]
    error: BaseException | None = None
    last: bool = False
    #: How much of it travelled, in bytes.
    size: int = 0
    #: For a progress bar: so many more items are done, in whatever order.
    done: int = 0


class ChunkSizes:
    """How many items the next chunk should have.

    Parameters
    ----------
    workers
        How many the pool has for it.
    fixed
        As the caller wants it; None: by measuring.
    """

    def __init__(self, workers: int, fixed: int | None = None) -> None:
        self._workers = workers
        self._fixed = fixed
        self._size = 1
        self._bytes_per_item = 0.0
        self._known = fixed is not None
        self._seconds = _TARGET

    @property
    def in_flight(self) -> int:
        """How many chunks may be under way: one to run and one to come for each worker.

        The second waits until it is known how large it may be.
        """
        return 2 * self._workers if self._known else self._workers

    @property
    def budget(self) -> float | None:
        """How long a worker goes on with a chunk."""
        return _BUDGET if self._fixed is None else None

    def measured(self, items: int, seconds: float) -> None:
        """A chunk of so many items took so long."""
        self._known = True
        each = seconds / items + _HANDLING
        # The newest counts for half: where times change, the sizes follow within a few chunks.
        self._seconds = each if self._size == 1 else (self._seconds + each) / 2
        grown = max(self._size, items) * _GROWTH
        self._size = max(1, min(int(_TARGET / self._seconds), grown))

    def packed(self, items: int, size: int) -> None:
        """A chunk of so many items has so many bytes."""
        self._bytes_per_item = size / items

    def next(self, left: int) -> int:
        """The next chunk's size, where `left` items wait."""
        if self._fixed is not None:
            return min(self._fixed, left)
        size = min(self._size, _MOST_ITEMS)
        if self._bytes_per_item:
            size = min(size, int(_MOST_BYTES / self._bytes_per_item))
        # A last large chunk would keep one worker busy while the others have nothing to do.
        worthwhile = int(_LEAST / self._seconds)
        return max(1, min(size, left, max(-(-left // (2 * self._workers)), worthwhile)))


class ChunkSink:
    """Where a chunk's outputs and its end go."""

    def __init__(
        self,
        mapping: Mapping,
        start: int,
        items: list[Item],
        show: Callable[[Event], None] | None,
        shower: CallbackThread,
    ) -> None:
        self.start = start
        self.items = items
        self.wants_output = show is not None
        self._mapping = mapping
        self._show = show
        self._shower = shower
        self._shown = False

    def output(self, event: Event) -> None:
        show = self._show
        assert show is not None
        self._shown = True
        self._shower.run(lambda: show(event))

    def granted(self, worker_id: int) -> bool:
        return not self._mapping.stopped

    def finish(self, completion: Completion) -> None:
        if self._shown:  # what was printed is shown before the values are there
            self._shower.run(lambda: self._mapping.post_finish(self, completion))
        else:
            self._mapping.post_finish(self, completion)


class Mapping:
    """One `map` under way.

    Parameters
    ----------
    pack
        Pickles calls for items, given how many seconds a worker may go on with them (None: no limit).
    launch
        Sends a chunk, and returns its request's id.
    cancel
        Cancels a request by its id; one that runs only if told so.
    deliver
        Takes the results in order; called on the mapping's thread, from `start` on.
    sizes
        The chunks' sizes.
    name
        What is mapped, for people.
    ended
        Called on the mapping's thread when nothing is under way any more.
    progress
        Deliver also how many items are done.
    bounded
        The caller's input may have no end: no more than so many results wait for the caller.
    """

    def __init__(
        self,
        pack: Callable[[Sequence[Item], float | None], PackedCall],
        launch: Callable[[Mapping, int, list[Item], PackedCall], str],
        cancel: Callable[[str, bool], None],
        deliver: Callable[[Delivery], None],
        sizes: ChunkSizes,
        *,
        name: str = "",
        ended: Callable[[Mapping], None],
        progress: bool,
        bounded: bool,
    ) -> None:
        #: What is mapped, for people; and since when, by the monotonic clock.
        self.name = name
        self.began = time.monotonic()
        self._pack = pack
        self._launch = launch
        self._cancel = cancel
        self._deliver = deliver
        self._sizes = sizes
        self._ended = ended
        self._progress = progress
        self._bounded = bounded
        self._posts: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        #: Somebody takes results: after an error nobody wants what comes behind it.
        self.begun = False
        #: Nobody wants anything any more.
        self.stopped = False
        # All that follows is the thread's own.
        self._source: Iterator[Item] = iter(())
        self._read: deque[Item] = deque()
        #: How many items the source and what was read have.
        self._left = 0
        self._complete = False
        self._closing = False
        #: Chunks that were sent before, each from its first item's number on.
        self._again: deque[tuple[int, list[Item]]] = deque()
        self._next_start = 0
        self._flying: dict[int, str] = {}
        self._landed: dict[int, Delivery] = {}
        self._next_out = 0
        self._untaken = 0
        self._failed_at: int | None = None
        self._over = False
        #: How many items have been given, and how many are done. Others only read them.
        self._given = self._done = 0

    # -- from any thread ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin."""
        # In the caller's context: the requests are its own.
        run = contextvars.copy_context().run
        threading.Thread(
            target=run, args=(self._main,), name="jupyter_pool map", daemon=True
        ).start()

    def feed_all(self, source: Iterator[Item], count: int) -> None:
        """All the items there are: `count`, which any thread may take from `source`."""

        def post() -> None:
            self._source, self._left, self._complete = source, count, True
            self._given = count

        self._posts.put(post)

    def feed(self, items: list[Item], *, complete: bool) -> None:
        """More items; `complete`: these are the last."""

        def post() -> None:
            self._read.extend(items)
            self._left += len(items)
            self._given += len(items)
            self._complete = complete

        self._posts.put(post)

    def take(self, delivery: Delivery) -> None:
        """The caller has taken a delivery."""
        if self._bounded:
            size = delivery.size
            self._posts.put(lambda: self._taken(size))

    def stop(self, *, interrupt: bool = False) -> None:
        """Nobody wants the rest; with `interrupt` also what runs is ended."""
        self.stopped = True
        self._posts.put(lambda: self._stop(interrupt))

    def cancel(self) -> None:
        """Somebody else wants the rest no more: what runs is ended, and who waits is told."""
        self.stopped = True
        self._posts.put(self._cancelled)

    @property
    def state(self) -> str:
        """``"running"``, or ``"waiting"`` until the first items are done."""
        return "running" if self._done else "waiting"

    @property
    def progress(self) -> tuple[int, int | None]:
        """How many items are done, and how many there are if the input has come to its end."""
        return self._done, self._given if self._complete else None

    def close(self) -> None:
        """The pool closes: what is here is finished, and nothing more is taken."""
        self._posts.put(self._close)

    def cancel_rest(self) -> None:
        """The pool closes: what does not run yet is cancelled."""
        self._posts.put(self._cancel_rest)

    def abandon(self) -> None:
        """The results are forgotten. What was read is finished if nobody had begun to take any."""
        if self.begun:
            self.stop()
        else:
            self.close()

    def post_finish(self, sink: ChunkSink, completion: Completion) -> None:
        """A chunk has ended."""
        self._posts.put(lambda: self._finish(sink, completion))

    # -- its thread --------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._over:
                self._posts.get()()
                while not self._posts.empty():
                    self._posts.get()()
                self._send()
                self._hand_over()
        except BaseException as error:  # noqa: BLE001 - whoever waits must get an answer
            LOGGER.exception("unexpected error in a map")
            self._deliver(Delivery([], error))
        finally:
            self._ended(self)

    def _taken(self, size: int) -> None:
        self._untaken -= size

    def _close(self) -> None:
        self._closing = True

    def _forget_unsent(self) -> None:
        self._source, self._left = iter(()), 0
        self._read.clear()

    def _stop(self, interrupt: bool) -> None:
        self._forget_unsent()
        for request_id in self._flying.values():
            self._cancel(request_id, interrupt)
        self._over = True

    def _cancelled(self) -> None:
        if not self._over:
            self._deliver(Delivery([], Cancelled("the map was cancelled")))
            self._stop(interrupt=True)

    def _cancel_rest(self) -> None:
        self._closing = True
        left, start = self._left, self._next_start
        self._forget_unsent()
        while self._again:
            self._land(self._again.popleft()[0], [], Cancelled("cancelled before it ran"))
        if left:
            self._land(start, [], Cancelled("cancelled before it ran"))
        for request_id in self._flying.values():
            self._cancel(request_id, False)

    def _send(self) -> None:
        if self._failed_at is not None and self.begun:
            failed_at = self._failed_at  # nobody will come to what is behind it
            self._forget_unsent()
            self._again = deque(chunk for chunk in self._again if chunk[0] < failed_at)
        while len(self._flying) < self._sizes.in_flight and not self._over:
            if self._bounded and not self._closing and self._untaken > _UNTAKEN_BYTES:
                return
            if self._again:
                self._send_chunk(*self._next_again())
            elif self._left:
                self._send_chunk(*self._next_chunk())
            else:
                return

    def _next_again(self) -> tuple[int, list[Item]]:
        start, items = self._again.popleft()
        size = self._sizes.next(len(items) + self._left)
        if size < len(items):
            self._again.appendleft((start + size, items[size:]))
        return start, items[:size]

    def _next_chunk(self) -> tuple[int, list[Item]]:
        size = self._sizes.next(self._left)
        if self._read:
            items = [self._read.popleft() for _ in range(size)]
        else:
            items = list(islice(self._source, size))
        start = self._next_start
        self._left -= size
        self._next_start += size
        return start, items

    def _send_chunk(self, start: int, items: list[Item]) -> None:
        try:
            call = self._pack(items, self._sizes.budget)
            self._sizes.packed(len(items), sum(map(size_of, call.arguments)))
            self._flying[start] = self._launch(self, start, items, call)
        except Exception as error:  # noqa: BLE001 - it is told in its place
            if len(items) > 1:
                self._alone(start, items)
            else:
                self._land(start, [], error)

    def _alone(self, start: int, items: list[Item]) -> None:
        """Send them one by one, before anything else."""
        singles = [(start + number, [item]) for number, item in enumerate(items)]
        self._again.extendleft(reversed(singles))

    def _finish(self, sink: ChunkSink, completion: Completion) -> None:
        if self._over or self._flying.pop(sink.start, None) is None:
            return
        start, items = sink.start, sink.items
        if completion.outcome in _DOUBTFUL and len(items) > 1:
            self._alone(start, items)
            return
        try:
            outcome = call_outcome(completion)
            show_sources(outcome, completion.request)
            values, error = outcome.open_chunk({"pool": completion.pool})
        except Exception as raised:  # noqa: BLE001 - it is told in its place
            if isinstance(raised, SerializationError) and len(items) > 1:
                self._alone(start, items)
            else:
                self._land(start, [], raised)
            return
        done = len(values)
        if done:
            self._sizes.measured(done, outcome.facts["seconds"])
        rest = done + (error is not None)
        if rest < len(items):
            self._again.appendleft((start + rest, items[rest:]))
        self._land(start, values, error, sum(len(frame) for frame in outcome.frames))

    def _land(
        self, start: int, values: list[Any], error: BaseException | None, size: int = 0
    ) -> None:
        self._untaken += size
        self._done += len(values)
        if error is not None:
            at = start + len(values)
            self._failed_at = at if self._failed_at is None else min(at, self._failed_at)
        if self._progress:
            self._deliver(Delivery([], done=len(values)))
        self._landed[start] = Delivery(values, error, size=size)

    def _hand_over(self) -> None:
        """Hand over what is next in order; end if that was all."""
        while not self._over and (found := self._landed.pop(self._next_out, None)) is not None:
            self._next_out += len(found.values) + (found.error is not None)
            self._deliver(found)
        if self._over or self._flying or self._again or self._left:
            return
        if self._complete or self._closing:
            self._over = True
            self._deliver(Delivery([], last=True))
