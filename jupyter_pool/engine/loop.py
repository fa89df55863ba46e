"""The I/O thread: one per process, for every pool and every worker.

    callers ── post(callable) ──▶ inbox ─┐
    launcher ── post(…) ─────────▶       ├─▶ I/O thread: sockets, inbox, timers ──▶ drivers (a pool each)
    workers ── shell, control, iopub ────┘

Nothing in it waits for a worker while others wait for it: everything here is a message that has
arrived, a callable that was posted, or a time that has come. Users' code never runs on it.
The engine starts with the first pool and ends with the last.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import zmq
from jupyter_core.paths import jupyter_runtime_dir

from jupyter_pool.errors import PoolNotAvailable, WorkerStartError
from jupyter_pool.provisioning.launcher import MAX_IPC_PATH, Launcher, explain_os_error
from jupyter_pool.shared import SharedMemory

from . import wire
from .data import Janitor
from .log import LOGGER
from .sockets import Channels, receive

if TYPE_CHECKING:
    from .driver import Driver
    from .receiving import Receiver
    from .request import Request

_T = TypeVar("_T")

#: How many messages of one socket are handled before the others get their turn.
_BATCH = 200
#: How many requests are taken in together, at most: the first of them is to be on its way soon.
_MOST_TOGETHER = 64
#: How long a caller waits for the I/O thread to answer a question, in seconds.
_ANSWER_TIMEOUT = 30.0


#: Threads that are making or joining an engine, of which there is at most one at a time.
_acquiring: set[int] = set()


class Engine:
    """The process's I/O thread, its sockets, and the launcher of its workers."""

    _current: Engine | None = None
    _lock = threading.Lock()

    @classmethod
    def acquire(cls, make: Callable[[Engine], Driver]) -> Driver:
        """Make a driver on the running engine, or on a new one."""
        with cls._lock:
            _acquiring.add(threading.get_ident())
            try:
                if cls._current is None:
                    cls._current = cls()
                engine = cls._current
                driver = make(engine)
                engine._drivers.append(driver)
                if not engine.thread.is_alive():
                    engine.thread.start()
                return driver
            finally:
                _acquiring.discard(threading.get_ident())

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.token = secrets.token_hex(4)
        self._wake_read, self._wake_write = _wake_pair()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.folder = ""
        self.shared: SharedMemory | None = None
        self.janitor = Janitor()
        try:
            self.folder = _private_folder()
            self.shared = SharedMemory.make()
            self.launcher = Launcher(
                self.folder, self.shared.folder if self.shared is not None else ""
            )
        except BaseException:  # no room for another file, descriptor or process
            self._give_back()
            raise
        self._drivers: list[Driver] = []
        self._receivers: dict[bytes, Receiver] = {}
        self._awaited: dict[str, Receiver] = {}
        self._numbers = itertools.count(1)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._inbox: deque[Any] = deque()
        self._polling = False
        self._plain: Channels | None = None
        self._curve: Channels | None = None
        self._poller = zmq.Poller()
        self._poller.register(self._wake_read, zmq.POLLIN)
        self.thread = threading.Thread(target=self._main, name="jupyter_pool I/O", daemon=True)
        self._ended = False
        self._last_calls = threading.Lock()

    # -- from any thread ---------------------------------------------------------------------

    def post(self, call: Callable[[], None]) -> None:
        """Have it called on the I/O thread, soon and in order."""
        if os.getpid() != self.pid:
            raise _not_ours()
        self._inbox.append(call)
        self._wake()

    def submit(self, driver: Driver, request: Request) -> None:
        """`post` its submission. Those that were posted one after another are taken in together."""
        if os.getpid() != self.pid:
            raise _not_ours()
        self._inbox.append(_Arrival(driver, request))
        self._wake()

    def _wake(self) -> None:
        # The thread says that it is about to sleep before it looks at the inbox for the last time,
        # so either it sees the call or we see that it must be woken.
        if self._polling:
            os.write(self._wake_write, b"\1\0\0\0\0\0\0\0")
        if self._ended:
            self._call_the_last()

    def _call_the_last(self) -> None:
        """Once the thread has ended its pools are closed and answer so, from any thread."""
        with self._last_calls:
            while self._inbox:
                self._call_posted()

    def _call_posted(self) -> None:
        """Call what was posted until now, in order."""
        inbox = self._inbox
        arrived: list[_Arrival] = []
        for _ in range(len(inbox)):
            call = inbox.popleft()
            together = type(call) is _Arrival
            if arrived and (
                not together
                or call.driver is not arrived[0].driver
                or len(arrived) == _MOST_TOGETHER
            ):
                _take_in(arrived)
                arrived = []
            if together:
                arrived.append(call)
            else:
                _guarded(call)
        if arrived:
            _take_in(arrived)

    def ask(self, question: Callable[[], _T]) -> _T:
        """Call it on the I/O thread and return its answer."""
        if threading.current_thread() is self.thread:
            return question()  # the garbage collector runs finalizers in any thread
        answer: list[_T | BaseException] = []
        done = threading.Event()

        def call() -> None:
            try:
                answer.append(question())
            except Exception as error:  # noqa: BLE001 - raised again where it was asked
                answer.append(error)
            done.set()

        self.post(call)
        if not done.wait(_ANSWER_TIMEOUT):
            raise TimeoutError("the I/O thread of jupyter_pool does not answer")
        if isinstance(answer[0], BaseException):
            raise answer[0]
        return answer[0]

    def may_wait(self) -> bool:
        """Whether this thread may wait for the I/O thread: it is not one that works for it."""
        own = (self.thread, self.launcher.thread)
        return threading.current_thread() not in own and threading.get_ident() not in _acquiring

    def join(self, timeout: float) -> None:
        """Wait for the thread if it is ending, that is, if the last pool was closed."""
        with Engine._lock:
            ending = not self._drivers
        if ending and self.thread is not threading.current_thread():
            self.thread.join(timeout)

    def new_id(self) -> str:
        """A new id for a request, unique among all processes."""
        return f"{self.token}-{next(self._numbers)}"

    # -- on the I/O thread -------------------------------------------------------------------

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Have it called on this thread after a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    def channels(self, *, curve: bool) -> Channels:
        """The sockets for workers with or without transport encryption."""
        found = self._curve if curve else self._plain
        if found is None:
            found = Channels(self.context)
            for socket in found.all:
                self._poller.register(socket, zmq.POLLIN)
            if curve:
                self._curve = found
            else:
                self._plain = found
        return found

    def attach(self, name: bytes, receiver: Receiver) -> None:
        """Route the messages of the worker with this name."""
        self._receivers[name] = receiver

    def detach(self, name: bytes, receiver: Receiver) -> None:
        """Forget a worker's connection."""
        self._receivers.pop(name, None)
        for message_id in [key for key, value in self._awaited.items() if value is receiver]:
            del self._awaited[message_id]

    def expect(self, message_id: str, receiver: Receiver) -> None:
        """Messages on iopub with this parent belong to that worker."""
        self._awaited[message_id] = receiver

    def forget(self, message_id: str) -> None:
        """The request is over; what still comes for it is late."""
        self._awaited.pop(message_id, None)

    def remove(self, driver: Driver) -> None:
        """A pool is closed. The thread ends with the last one."""
        with Engine._lock:
            self._drivers.remove(driver)
            if not self._drivers and Engine._current is self:
                Engine._current = None

    def _main(self) -> None:
        try:
            while self._drivers:
                self._turn()
        except BaseException:
            LOGGER.critical("the I/O thread of jupyter_pool failed", exc_info=True)
            for driver in self._drivers:
                _guarded(driver.abort)
            raise
        finally:
            self._close()

    def _turn(self) -> None:
        self._polling = True
        ready = self._poller.poll(0 if self._inbox else self._patience())
        self._polling = False
        readable = [source for source, _ in ready]
        if self._wake_read in readable:
            readable.remove(self._wake_read)
            os.read(self._wake_read, 8)
        # Sockets first: what a dying worker said comes before the news of its death.
        if readable:
            for channels in (self._plain, self._curve):
                if channels is not None:
                    self._read(channels, readable)
        if self._inbox:
            self._call_posted()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _guarded(heapq.heappop(self._timers)[2])
        for driver in tuple(self._drivers):
            driver.tick(now)

    def _patience(self) -> int | None:
        """How long to sleep, in milliseconds; None: until something happens."""
        until = self._timers[0][0] if self._timers else math.inf
        for driver in self._drivers:
            until = min(until, driver.quiet_until())
        if until == math.inf:
            return None
        # Rounded up, or the last fraction of a millisecond would be spent turning.
        return max(0, math.ceil((until - time.monotonic()) * 1000))

    def _read(self, channels: Channels, readable: list[Any]) -> None:
        if channels.iopub in readable:
            self._read_iopub(channels)
        if channels.shell in readable:
            for frames in receive(channels.shell, _BATCH):
                if receiver := self._receivers.get(bytes(frames[0])):
                    _guarded(partial(receiver.on_shell, frames[1:]))
                if not self._awaited:
                    break  # nothing is due: spare the look, and what comes is seen in the next turn
        if channels.control in readable:
            for frames in receive(channels.control, _BATCH):
                if receiver := self._receivers.get(bytes(frames[0])):
                    _guarded(partial(receiver.on_control, frames[1:]))

    def _read_iopub(self, channels: Channels) -> None:
        for frames in receive(channels.iopub, _BATCH):
            try:
                _, rest = wire.split(frames)
            except wire.WireError:
                continue  # nobody can be asked for it
            receiver = self._awaited.get(wire.parent_id(rest))
            if receiver is not None:
                _guarded(partial(receiver.on_iopub, rest))

    def _close(self) -> None:
        with Engine._lock:
            if Engine._current is self:
                Engine._current = None
        for channels in (self._plain, self._curve):
            if channels is not None:
                channels.close()
        self.launcher.close()
        self.janitor.close()
        self._give_back()
        self._ended = True
        self._polling = False
        self._call_the_last()

    def _give_back(self) -> None:
        self.context.term()
        for fd in {self._wake_read, self._wake_write}:
            os.close(fd)
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.shared is not None:
            self.shared.close()


class _Arrival:
    """A request that somebody submits to a pool."""

    __slots__ = ("driver", "request")

    def __init__(self, driver: Driver, request: Request) -> None:
        self.driver = driver
        self.request = request


def _take_in(arrived: list[_Arrival]) -> None:
    """Submit requests of one pool."""
    driver = arrived[0].driver
    requests = [arrival.request for arrival in arrived]
    _guarded(partial(driver.submit, *requests))


def _not_ours() -> PoolNotAvailable:
    return PoolNotAvailable(
        "this pool belongs to the parent process; a forked child needs one of its own"
    )


def _guarded(call: Callable[[], Any]) -> None:
    """One bad message or callable must not end the thread that everyone needs."""
    try:
        call()
    except Exception:  # noqa: BLE001 - see the docstring
        LOGGER.exception("unexpected error on the I/O thread")


def _wake_pair() -> tuple[int, int]:
    if hasattr(os, "eventfd"):
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return fd, fd
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write


def _private_folder() -> str:
    """A folder that only this user can enter, with a path short enough for Unix sockets.

    Raises
    ------
    WorkerStartError
        There is no room for it, or no right to make it.
    """
    runtime = jupyter_runtime_dir()
    try:
        return _make_folder(runtime)
    except OSError as error:
        raise WorkerStartError(explain_os_error(error, runtime)) from error


def _make_folder(runtime: str) -> str:
    longest = len(os.fsencode(os.path.join(runtime, "pool-xxxxxxxx", "w1000000-1")))
    if longest <= MAX_IPC_PATH:
        os.makedirs(runtime, mode=0o700, exist_ok=True)
        return tempfile.mkdtemp(prefix="pool-", dir=runtime)
    return tempfile.mkdtemp(prefix="jupyter-pool-")


_inherited: list[Engine | None] = []


def _after_fork() -> None:
    # The parent's engine stays the parent's. It is kept from the garbage collector: closing its
    # sockets or its event loop here would reach into what both processes share.
    _inherited.append(Engine._current)
    Engine._current = None
    Engine._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
