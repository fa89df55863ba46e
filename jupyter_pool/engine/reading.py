"""What a map reads, and what of its results is taken: both in the caller's thread.

A generator may not care for another thread. What has a length is read at once; other iterables only
so far ahead of the results that were taken, so they may be endless.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from jupyter_pool.errors import PoolNotAvailable, SerializationError
from jupyter_pool.serialize import pack

from .mapping import Delivery, Item, Mapping

__all__ = ["Reader", "Taken"]

#: How far `map` reads ahead in iterables without a length, in items, and in bytes of their pickles.
_AHEAD_ITEMS, _AHEAD_BYTES = 10_000, 64_000_000

#: Iterables that nobody can change: they are not copied.
_CONSTANT = (tuple, range, str, bytes, frozenset)


class Reader:
    """Reads the iterables of a map, in the caller's thread."""

    def __init__(self, iterables: tuple[Iterable[Any], ...], buffersize: int | None) -> None:
        self.sized = buffersize is None and all(hasattr(each, "__len__") for each in iterables)
        #: Nothing more is to be read.
        self.exhausted = False
        #: How many items were read.
        self.count = 0
        self._buffersize = buffersize
        self._ahead = buffersize or 0
        if self.sized:
            whole: list[Any] = [
                each if type(each) in _CONSTANT else list(each) for each in iterables
            ]
            self.count = min(map(len, whole), default=0)
            iterables = tuple(whole)
        self._items: Iterator[Item] = (
            iter(iterables[0]) if len(iterables) == 1 else zip(*iterables, strict=False)
        )
        self.total = self.count if self.sized else None

    def begin(self, run: Mapping, workers: int) -> None:
        """Hand over the first items."""
        self._run = run
        if self.sized:
            self.exhausted = True
            run.feed_all(self._items, self.count)
            return
        first = list(itertools.islice(self._items, 1))
        self._pass_on(first, 1)
        if self._buffersize is None and first:
            self._ahead = max(4 * workers, min(_AHEAD_ITEMS, _AHEAD_BYTES // _size(first)))
        while not self.exhausted and self.count < self._ahead:
            self._read(min(self.count, 1000, self._ahead - self.count))

    def before_waiting(self, taken: int) -> None:
        """Results were taken: read on as far as is allowed now."""
        if self._buffersize is None:
            self._read(taken + self._ahead - self.count)

    @property
    def buffered(self) -> bool:
        """Items are read one by one, as results are taken."""
        return self._buffersize is not None

    def before_yielding(self) -> None:
        """One result is about to be taken."""
        self._read(1)

    def _read(self, number: int) -> None:
        if number > 0 and not self.exhausted:
            self._pass_on(list(itertools.islice(self._items, number)), number)

    def _pass_on(self, items: list[Item], wanted: int) -> None:
        self.exhausted = len(items) < wanted
        self.count += len(items)
        self._run.feed(items, complete=self.exhausted)


def _size(items: list[Item]) -> int:
    try:
        return sum(len(frame) for frame in pack({"items": items}))
    except SerializationError:  # told when it is sent
        return 1


class Taken:
    """Takes what is delivered apart, and reads on as results are taken."""

    def __init__(self, run: Mapping, reader: Reader) -> None:
        self._run = run
        self._reader = reader
        self._count = 0
        self._last = False
        run.begun = True
        reader.before_waiting(0)

    @property
    def all(self) -> bool:
        """Whether nothing more is to come."""
        return self._last or (self._reader.exhausted and self._count == self._reader.count)

    def values(self, delivery: Delivery) -> Iterator[Any]:
        """The values, of which no reference is kept; then the error, if there is one."""
        self._run.take(delivery)
        values, error, self._last = delivery.values, delivery.error, delivery.last
        del delivery
        values.reverse()
        if self._reader.buffered:
            while values:
                self._reader.before_yielding()
                self._count += 1
                yield values.pop()
        self._count += len(values)
        while values:
            yield values.pop()
        if error is not None:
            try:
                raise error
            finally:
                del error
        if self._last and not self.all_read():
            raise PoolNotAvailable("the pool was closed before all of the map's input was read")
        self._reader.before_waiting(self._count)

    def all_read(self) -> bool:
        """Whether the input had come to its end when the last result came."""
        self._reader.before_waiting(self._count + 1)
        return self._reader.exhausted and self._count == self._reader.count
