"""What a request may leave behind: threads, child processes, tasks.

Harmless ones are named here; of the others, tasks can be cancelled, and the
rest asks for a new process.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ipykernel

from jupyter_pool.kernel.interrupts import GATE

__all__ = [
    "HARMLESS_CHILDREN",
    "HARMLESS_THREADS",
    "Children",
    "Threads",
    "cancel_at_once",
    "cancel_tasks",
]

_IPYKERNEL = os.path.dirname(ipykernel.__file__)
_JOIN_TIMEOUT = 0.05  # seconds for a thread or a child that is about to end
_KILL_TIMEOUT = 1.0  # seconds for left-over children to be gone once killed
_TASK_TIMEOUT = 1.0  # seconds for cancelled tasks to end
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Threads:
    """The threads that this process had at first; any other may be something left over.

    `threading` lists its own. Those that are started past it, by the `_thread` module, are counted.
    """

    def __init__(self) -> None:
        self._known = set(threading.enumerate())
        self._bare = self._known_bare = 0
        self._count_bare_threads()

    def _count_bare_threads(self) -> None:
        start, lock = _thread.start_new_thread, threading.Lock()

        def count(step: int) -> None:
            with lock:
                self._bare += step

        # As the original: positional arguments only.
        def start_new_thread(function: Any, /, *arguments: Any) -> int:
            def run(*args: Any, **kwargs: Any) -> None:
                try:
                    function(*args, **kwargs)
                finally:
                    count(-1)

            count(1)
            try:
                return start(run, *arguments)
            except BaseException:
                count(-1)
                raise

        # `threading` has a reference of its own, and does not come along here.
        _thread.start_new_thread = start_new_thread

    def adopt(self) -> None:
        """Those that run now may run on."""
        self._known.update(threading.enumerate())
        self._known_bare = self._bare

    def check(self) -> str | None:
        """Return which threads still run, besides known and harmless ones; None: none."""
        running = threading.enumerate()
        if self._bare <= self._known_bare and self._known.issuperset(running):
            return None
        deadline = time.monotonic() + _JOIN_TIMEOUT
        leftover = [
            thread.name
            for thread in running
            if thread not in self._known and not _comes_to_rest(thread, deadline)
        ]
        while self._bare > self._known_bare and time.monotonic() < deadline:
            time.sleep(0.002)
        if self._bare > self._known_bare:
            leftover.append("one of the _thread module")
        return f"it left a thread running: {', '.join(leftover)}" if leftover else None


#: Module and name of their classes.
HARMLESS_THREADS = {
    ("tqdm._monitor", "TMonitor"),
    # Frees the memory of large frames that ZMQ has sent.
    ("zmq.utils.garbage", "GarbageCollectorThread"),
}


def _comes_to_rest(thread: threading.Thread, deadline: float) -> bool:
    """Whether a thread is harmless or has ended by then: it may just be returning, also to its pool."""
    while not _is_harmless_thread(thread):
        left = deadline - time.monotonic()
        with contextlib.suppress(RuntimeError):
            thread.join(max(0.0, min(left, 0.002)))
        if not thread.is_alive():
            break
        if left <= 0:
            return False
    return True


def _is_harmless_thread(thread: threading.Thread) -> bool:
    """Known threads that outlive a request by design and do nothing of the user's.

    Those of `HARMLESS_THREADS`; event loops that have nothing to do (``%%bash`` and many
    libraries keep one in a thread); idle workers of a thread pool (`asyncio.to_thread`, and many
    libraries), which wait for work that nobody can give them any more; waiters
    of asyncio's subprocesses that are about to end by themselves.
    """
    kind = type(thread)
    if _runs_idle_loop(thread):
        return True
    if (kind.__module__, kind.__name__) in HARMLESS_THREADS:
        return True
    pool = sys.modules.get("concurrent.futures.thread")
    if pool is None or thread.ident is None:
        return False
    frame = sys._current_frames().get(thread.ident)
    # Running a job, it would be deeper than the pool's own loop.
    return frame is not None and frame.f_code is pool._worker.__code__


def _runs_idle_loop(thread: threading.Thread) -> bool:
    # Thread's own attribute, there while it runs (CPython 3.10 to 3.14).
    target = getattr(thread, "_target", None)
    loop = getattr(target, "__self__", None)
    return (
        isinstance(loop, asyncio.AbstractEventLoop)
        and getattr(target, "__name__", "") == "run_forever"
        and not asyncio.all_tasks(loop)
        and not getattr(loop, "_scheduled", ())
    )


class Children:
    """The processes that the requests of this worker start.

    On Linux the worker adopts what its children leave behind (as a *subreaper*), so that whatever a
    request has started stays its child: what runs in the background, what made itself a session of
    its own, what forked twice. The price: a bare `os.wait` in users' code may hear of those.
    Elsewhere, orphans are looked for in the worker's process group, where a child has ended.
    """

    def __init__(self) -> None:
        self._adopts = _become_subreaper()
        self._ended = None if self._adopts else _usage_of_children()
        self._known: set[int] = set()

    def adopt(self) -> None:
        """Those that run now may run on."""
        self._reap()
        self._known.update(self._find())

    def check(self) -> str | None:
        """Reap what has ended; end what still runs and say what it was. None: there was nothing."""
        if not self._reap() and (self._adopts or not self._may_have_orphans()):
            return None
        deadline = time.monotonic() + _JOIN_TIMEOUT
        while leftover := self._find():
            if time.monotonic() > deadline:
                break
            time.sleep(0.002)  # it may just be ending
            self._reap()
        else:
            return None
        names = ", ".join(map(str, leftover))
        self._kill()
        return f"it left a child process running: {names}"

    def _reap(self) -> bool:
        """Whether there are children, once those that have ended are gone."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    def _may_have_orphans(self) -> bool:
        # Whoever leaves an orphan to the system has ended itself, and we have waited for it.
        before, self._ended = self._ended, _usage_of_children()
        return bool(before != self._ended)

    def _find(self) -> list[int]:
        found = set(_list_children())
        if not self._adopts and os.getpgrp() == os.getpid():
            found.update(_list_group())
        return sorted(found.difference(_harmless_children(), self._known))

    def _kill(self) -> None:
        """End them with all that they have started: the process that would reset them is done for."""
        deadline = time.monotonic() + _KILL_TIMEOUT
        while (left := self._find()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
            self._reap()  # and with that, adopt what they leave


def _become_subreaper() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def _usage_of_children() -> Any:
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN)


def _list_children() -> Iterable[int]:
    try:
        files = list(Path("/proc/self/task").glob("*/children"))
        if files:
            return [int(pid) for file in files for pid in file.read_text().split()]
    except OSError:
        pass
    import psutil

    return [child.pid for child in psutil.Process().children()]


def _list_group() -> Iterator[int]:
    import psutil

    own, group = os.getpid(), os.getpgrp()
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            ended = psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
            if pid != own and not ended and os.getpgid(pid) == group:
                yield pid


#: Module, object and attribute that hold the process id.
HARMLESS_CHILDREN = (
    ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
    ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
    ("joblib.externals.loky.backend.resource_tracker", "_resource_tracker", "_pid"),
)


def _harmless_children() -> Iterable[int]:
    """Helpers of multiprocessing that live as long as the process that started them."""
    for module, name, attribute in HARMLESS_CHILDREN:
        pid = getattr(getattr(sys.modules.get(module), name, None), attribute, None)
        if pid is not None:
            yield pid


def _is_kernel_task(task: asyncio.Task[Any]) -> bool:
    if task in GATE.kernel_tasks:
        return True
    # Tasks that ipykernel starts itself, for comm messages that come meanwhile.
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and os.path.dirname(code.co_filename) == _IPYKERNEL


# The tasks that `asyncio.all_tasks` looks at, a WeakSet each (CPython 3.10 and 3.11, then to 3.13).
_ALL_TASKS: Any = getattr(
    asyncio.tasks, "_all_tasks", getattr(asyncio.tasks, "_scheduled_tasks", None)
)

# Those that began at once (CPython 3.12 and 3.13). To look for what a module has not is dear.
_EAGER_TASKS: Any = getattr(asyncio.tasks, "_eager_tasks", ())


def _only_kernel_tasks(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop has no task but the kernel's own; a quick look, `all_tasks` takes 10 µs."""
    if not hasattr(_ALL_TASKS, "data") or _EAGER_TASKS:
        return False
    for reference in _ALL_TASKS.data - GATE.kernel_tasks.data:  # type: ignore[attr-defined]
        task = reference()
        if task is not None and task.get_loop() is loop:
            return False
    return True


#: Timers of the kernel's own, which no request has left.
KERNEL_TIMERS: weakref.WeakSet[asyncio.TimerHandle] = weakref.WeakSet()


def cancel_at_once() -> bool:
    """Cancel the timers on the running loop. Whether there are no tasks to be cancelled."""
    loop = asyncio.get_running_loop()
    for handle in getattr(loop, "_scheduled", ()):  # BaseEventLoop, Python 3.10 to 3.14
        if handle not in KERNEL_TIMERS:
            handle.cancel()
    return _only_kernel_tasks(loop) or not _find_tasks(loop)


def _find_tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks(loop) if not _is_kernel_task(task)]


async def cancel_tasks() -> str | None:
    """Cancel the tasks and timers that a request left on the running loop.

    Returns
    -------
    str or None
        Why the process must be replaced: a task goes on in spite of it.
    """
    if cancel_at_once():
        return None
    tasks = _find_tasks(asyncio.get_running_loop())
    for task in tasks:
        task.cancel()
    _, pending = await asyncio.wait(tasks, timeout=_TASK_TIMEOUT)
    if pending:
        return f"a task refused to be cancelled: {next(iter(pending)).get_name()}"
    return None
