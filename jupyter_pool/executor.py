"""Function calls: what makes a pool an executor of `concurrent.futures`, and more.

`Calls` is the part of a pool, and of its views, that takes functions; `AsyncCalls` is the same for
asyncio.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import queue
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jupyter_pool.calling import Initialized, PackedCall
from jupyter_pool.engine import exits
from jupyter_pool.engine.calls import check_callable, place_chunk, place_function
from jupyter_pool.engine.face import PoolFace, prepare_call
from jupyter_pool.engine.futures import (
    CallbackThread,
    CallSink,
    FutureSink,
    PoolFuture,
    StreamingFutureSink,
    resolve_call,
)
from jupyter_pool.engine.mapping import ChunkSink, ChunkSizes, Delivery, Item
from jupyter_pool.engine.mapping import Mapping as MapRun
from jupyter_pool.engine.reading import Reader, Taken
from jupyter_pool.engine.request import LONGEST_WAIT
from jupyter_pool.engine.showing import CallOutput, shown_here
from jupyter_pool.errors import InvalidRequest, SerializationError

if TYPE_CHECKING:
    from jupyter_pool.engine.driver import Driver

__all__ = ["AsyncCalls", "Calls", "Task"]

_T = TypeVar("_T")

#: How long a map waits for callbacks that watch its calls, in seconds.
_CALLBACKS_PATIENCE = 5.0


class _Face:
    """What a pool and its views know."""

    _presets: Mapping[str, Any] = {}

    @property
    def _pool(self) -> Any:
        raise NotImplementedError

    def _call_output(self) -> Any:
        """Who sees the outputs of a call: an `on_output` that was preset, or whoever reads ours."""
        if "on_output" not in self._presets:
            return shown_here()
        from jupyter_pool.engine.calls import Guarded

        on_output = self._presets["on_output"]
        return None if on_output is None else Guarded(on_output, self._pool.log)

    def _accepting(self) -> Driver:
        """The pool's driver, as long as the pool takes calls."""
        if exits.is_over():
            # As all executors say then: it is no matter of this pool.
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        pool: PoolFace = self._pool
        return pool.running()

    def _callable(self, driver: Driver, fn: Callable[..., _T]) -> Callable[..., _T]:
        check_callable(driver, fn)
        initializer = self._pool.initializer
        return fn if initializer is None else Initialized(fn, initializer)

    def _submit(self, fn: Callable[..., _T], args: Any, kwargs: Any) -> PoolFuture[_T]:
        pool: PoolFace = self._pool
        driver = self._accepting()
        fn = self._callable(driver, fn)
        future: PoolFuture[_T] = PoolFuture(
            driver.cancel_soon, cancel_running=bool(self._presets.get("cancel_running"))
        )
        show = self._call_output()
        if show is None:
            sink = FutureSink(future, resolve_call, pool.callbacks)
        elif isinstance(show, CallOutput):
            sink = CallSink(future, pool.callbacks, pool.shower, show)
        else:
            sink = StreamingFutureSink(future, resolve_call, pool.callbacks, show, pool.streaming)
        options = {"group": "submitted", "snapshot": True}
        try:
            request = prepare_call(
                pool, driver, self._presets, sink, fn, args, kwargs, show=show, **options
            )
        except SerializationError as error:
            # The call's own failure, as with other executors: the next one may be fine.
            future.set_exception(error)
            return future
        future.request_id = request.id
        driver.engine.submit(driver, request)
        return future

    def _begin_map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        deliver: Callable[[Delivery], None],
        chunksize: int | None,
        buffersize: int | None,
        progress: bool | str,
    ) -> tuple[MapRun, Reader]:
        pool: PoolFace = self._pool
        driver = self._accepting()
        fn = self._callable(driver, fn)
        given: dict[str, Any] = {"chunksize": chunksize, "buffersize": buffersize}
        for name, value in given.items():
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or value < 1
            ):
                raise InvalidRequest(
                    f"{name}={value!r} is not possible: it takes a whole number ≥ 1, or None"
                )
        _bar_class(progress)
        reader = Reader(iterables, buffersize)
        function = place_function(driver, fn)
        group = object()
        show = self._call_output()

        def launch(run: MapRun, start: int, items: list[Item], call: PackedCall) -> str:
            own = shown_for(show)
            sink = ChunkSink(run, start, items, own, pool.shower)
            request = prepare_call(pool, driver, self._presets, sink, call, show=own, group=group)
            driver.engine.submit(driver, request)
            return request.id

        workers = pool.config.size + pool.config.overflow
        run = MapRun(
            functools.partial(place_chunk, driver, function, star=len(iterables) != 1),
            launch,
            driver.cancel_soon,
            deliver,
            ChunkSizes(workers, chunksize),
            name=f"{getattr(fn, '__name__', type(fn).__name__)}()",
            ended=pool.mapping_ended,
            progress=bool(progress),
            bounded=not reader.sized,
        )
        pool.mapping_begins(run)
        run.start()
        try:
            reader.begin(run, workers)
        except BaseException:
            run.stop()
            raise
        return run, reader


def shown_for(show: Any) -> Any:
    """The same output for another request: a label is a request's own."""
    return show.copy() if isinstance(show, CallOutput) else show


class Calls(_Face, Executor):
    """Calling functions on the workers: `submit`, `map`, `task`."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> PoolFuture[_T]:
        """Call a function on a free worker, as `concurrent.futures.Executor.submit` has it.

        The function and its arguments are pickled here and now, those defined in a notebook by
        value. There are no time limits but those of `options`. What the call prints appears on
        ``sys.stdout`` here, unless an `on_output` is preset.

        Returns
        -------
        concurrent.futures.Future
            Of the function's value, with a `request_id` attribute. What the function raises is
            raised as itself, with the remote traceback as its cause. What cannot be pickled is a
            `SerializationError` of the future. ``cancel()`` works until a worker runs it, with
            ``options(cancel_running=True)`` also then.

        Raises
        ------
        PoolNotAvailable
            The pool is closed. A RuntimeError, as with other executors.
        """
        return self._submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., _T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: bool | str = False,
    ) -> Iterator[_T]:
        """Call a function on every item, as `map` does, on all workers; results come in order.

        Parameters
        ----------
        fn
            Pickled once, here and now.
        *iterables
            As of `map`: the shortest ends it. Those that have a length are read at once. Others
            are read in this thread, up to 10,000 items (and some 64 MB) ahead of the results that
            were taken, so they may be endless.
        timeout
            How long all of it may take from now on, in seconds.
        chunksize
            How many items a message has. By default that adapts, to some milliseconds of work.
            It may happen that an item runs twice: when a worker dies, other items of its chunk are
            run again, each alone.
        buffersize
            Read at most so many items ahead of the results that were taken.
        progress
            Show a progress bar (needs tqdm); a text is its title.

        Raises
        ------
        TimeoutError
            While iterating: not done within `timeout`.
        PoolNotAvailable, InvalidRequest, SerializationError
            At once: closed; an impossible argument; a function that cannot be pickled.

        What an item raises is raised in its place while iterating; the rest is given up then, as it
        is when the iterator is closed. Ctrl-C interrupts also what runs.
        """
        if "submit" in vars(self):
            # Somebody watches single calls (tqdm.contrib.concurrent does so to move its bar).
            return _watched(super().map(fn, *iterables, timeout=timeout), self._pool.callbacks)
        end = None if timeout is None else time.monotonic() + timeout
        inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        run, reader = self._begin_map(fn, iterables, inbox.put, chunksize, buffersize, progress)
        interrupt = bool(self._presets.get("cancel_running"))
        results: Iterator[_T] = _results(run, reader, inbox, end, progress, interrupt)
        weakref.finalize(results, run.abandon).atexit = False
        return results

    def task(self, fn: Callable[..., _T] | None = None, /, **presets: Any) -> Any:
        """Give a function `submit` and `map` methods: ``@pool.task`` or ``@pool.task(timeout=5)``.

        Called as such it runs here. `presets` are those of `options`.
        """
        face = self.options(**presets) if presets else self  # type: ignore[attr-defined]
        return Task(fn, face) if fn is not None else functools.partial(_make_task, face)


class AsyncCalls(_Face):
    """Calling functions on the workers, for asyncio: `submit`, `map`, `task`."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> asyncio.Future[_T]:
        """Call a function on a free worker: ``await pool.submit(f, 1)``; see `KernelPool.submit`.

        It is under way at once. Cancelling the future, or the task that awaits it, gives the call
        up: queued it never runs, running it is interrupted.
        """
        future = self._submit(fn, args, kwargs)
        future.cancels_running = True
        return asyncio.wrap_future(future)

    async def map(
        self,
        fn: Callable[..., _T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        progress: bool | str = False,
    ) -> AsyncIterator[_T]:
        """Call a function on every item: ``async for x in pool.map(f, items)``.

        As `KernelPool.map`, but it begins with the first step of the loop.
        """
        end = None if timeout is None else time.monotonic() + timeout
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Delivery] = asyncio.Queue()

        def deliver(delivery: Delivery) -> None:
            try:
                loop.call_soon_threadsafe(inbox.put_nowait, delivery)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        run, reader = self._begin_map(fn, iterables, deliver, chunksize, buffersize, progress)
        bar = _bar(progress, reader)
        taken = Taken(run, reader)
        try:
            while not taken.all:
                left = None if end is None else max(0.0, end - time.monotonic())
                try:
                    delivery = await asyncio.wait_for(inbox.get(), left)
                except asyncio.TimeoutError:
                    raise _too_late() from None
                if bar is not None:
                    bar.update(delivery.done)
                for value in taken.values(delivery):
                    yield value
        except asyncio.CancelledError:
            run.stop(interrupt=True)
            raise
        finally:
            run.stop(interrupt=bool(self._presets.get("cancel_running")))
            if bar is not None:
                bar.close()

    def task(self, fn: Callable[..., _T] | None = None, /, **presets: Any) -> Any:
        """Give a function `submit` and `map` methods; see `KernelPool.task`."""
        face = self.options(**presets) if presets else self  # type: ignore[attr-defined]
        return Task(fn, face) if fn is not None else functools.partial(_make_task, face)


class Task(Generic[_T]):
    """A function with `submit` and `map`, which call it on a pool; called as such it runs here."""

    def __init__(self, fn: Callable[..., _T], face: Any) -> None:
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._face = face

    def __call__(self, *args: Any, **kwargs: Any) -> _T:
        return self._fn(*args, **kwargs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        """Call it on the pool; see `KernelPool.submit`."""
        return self._face.submit(self._fn, *args, **kwargs)

    def map(self, *iterables: Iterable[Any], **options: Any) -> Any:
        """Call it on the pool for every item; see `KernelPool.map`."""
        return self._face.map(self._fn, *iterables, **options)

    def __repr__(self) -> str:
        return f"<task {self._fn!r} of {self._face!r}>"

    def __reduce__(self) -> Any:
        return (_plain, (self._fn,))  # in a worker it is the plain function


def _plain(fn: Callable[..., _T]) -> Callable[..., _T]:
    return fn


def _make_task(face: Any, fn: Callable[..., _T]) -> Task[_T]:
    return Task(fn, face)


# -- the results of a map --------------------------------------------------------------------


def _results(
    run: MapRun,
    reader: Reader,
    inbox: queue.SimpleQueue[Delivery],
    end: float | None,
    progress: bool | str,
    interrupt: bool,
) -> Iterator[Any]:
    bar = None
    try:
        bar = _bar(progress, reader)
        taken = Taken(run, reader)
        while not taken.all:
            delivery = _next_delivery(inbox, end)
            if bar is not None:
                bar.update(delivery.done)
            values = taken.values(delivery)
            del delivery
            yield from values
    except KeyboardInterrupt:
        interrupt = True
        raise
    finally:
        run.stop(interrupt=interrupt)
        if bar is not None:
            bar.close()


def _watched(results: Iterator[_T], callbacks: CallbackThread) -> Iterator[_T]:
    yield from results
    callbacks.flush(_CALLBACKS_PATIENCE)


def _next_delivery(inbox: queue.SimpleQueue[Delivery], end: float | None) -> Delivery:
    while True:
        left = LONGEST_WAIT if end is None else end - time.monotonic()
        try:
            # Never for ever: see Mailbox.get.
            return inbox.get(timeout=max(0.0, min(LONGEST_WAIT, left)))
        except queue.Empty:
            if left <= 0:
                raise _too_late() from None


def _too_late() -> concurrent.futures.TimeoutError:
    return concurrent.futures.TimeoutError("the map was not done in time")


def _bar_class(progress: bool | str) -> Any:
    if not progress:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise InvalidRequest("progress needs tqdm: pip install tqdm") from None
    return tqdm


def _bar(progress: bool | str, reader: Reader) -> Any:
    make = _bar_class(progress)
    title = progress if isinstance(progress, str) else None
    return None if make is None else make(total=reader.total, desc=title)
