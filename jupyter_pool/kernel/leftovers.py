"""What a request may leave behind: threads, child processes, tasks.

Harmless ones are named here; of the others, tasks can be cancelled, and the
rest asks for a new process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import ipykernel

from jupyter_pool.kernel.interrupts import GATE

__all__ = ["cancel_tasks", "check_children", "check_threads"]

_IPYKERNEL = os.path.dirname(ipykernel.__file__)
_JOIN_TIMEOUT = 0.05  # seconds for a thread that is about to end
_TASK_TIMEOUT = 1.0  # seconds for cancelled tasks to end


def check_threads(known: Collection[threading.Thread]) -> str | None:
    """Return which threads still run, besides known and harmless ones; None: none."""
    deadline = None
    leftover = []
    for thread in threading.enumerate():
        if thread in known or thread is threading.current_thread() or _is_harmless_thread(thread):
            continue
        deadline = deadline or time.monotonic() + _JOIN_TIMEOUT
        # A thread that this request started may just be returning.
        with contextlib.suppress(RuntimeError):
            thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            leftover.append(thread.name)
    return f"it left a thread running: {', '.join(leftover)}" if leftover else None


_HARMLESS_THREADS = {
    ("tqdm._monitor", "TMonitor"),
    # Frees the memory of large frames that ZMQ has sent.
    ("zmq.utils.garbage", "GarbageCollectorThread"),
}


def _is_harmless_thread(thread: threading.Thread) -> bool:
    """Known threads that outlive a request by design and do nothing of the user's.

    Those of `_HARMLESS_THREADS`; event loops that have nothing to do (``%%bash`` and many
    libraries keep one in a thread); idle workers of a thread pool (`asyncio.to_thread`, and many
    libraries), which wait for work that nobody can give them any more; waiters
    of asyncio's subprocesses that are about to end by themselves.
    """
    kind = type(thread)
    if _runs_idle_loop(thread):
        return True
    if (kind.__module__, kind.__name__) in _HARMLESS_THREADS:
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


def check_children() -> str | None:
    """Reap what has ended; return which children still run; None: none."""
    if not hasattr(os, "waitid"):  # macOS before 3.13, Windows
        return None
    while True:
        try:
            # One system call answers "none at all", the usual case.
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                break
            os.waitpid(ended.si_pid, os.WNOHANG)
        except ChildProcessError:
            return None
    leftover = [pid for pid in _list_children() if pid not in set(_harmless_children())]
    if leftover:
        return f"it left a child process running: {', '.join(map(str, leftover))}"
    return None


def _list_children() -> Iterable[int]:
    try:
        files = list(Path("/proc/self/task").glob("*/children"))
        if files:
            return [int(pid) for file in files for pid in file.read_text().split()]
    except OSError:
        pass
    import psutil

    return [child.pid for child in psutil.Process().children()]


def _harmless_children() -> Iterable[int]:
    """Helpers of multiprocessing that live as long as the process that started them."""
    for module, name, attribute in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
        ("joblib.externals.loky.backend.resource_tracker", "_resource_tracker", "_pid"),
    ):
        pid = getattr(getattr(sys.modules.get(module), name, None), attribute, None)
        if pid is not None:
            yield pid


def _is_kernel_task(task: asyncio.Task[Any]) -> bool:
    if task in GATE.kernel_tasks:
        return True
    # Tasks that ipykernel starts itself, for comm messages that come meanwhile.
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and os.path.dirname(code.co_filename) == _IPYKERNEL


async def cancel_tasks() -> str | None:
    """Cancel the tasks and timers that a request left on the running loop.

    Returns
    -------
    str or None
        Why the process must be replaced: a task goes on in spite of it.
    """
    loop = asyncio.get_running_loop()
    for handle in getattr(loop, "_scheduled", ()):  # BaseEventLoop, Python 3.10 to 3.14
        handle.cancel()
    tasks = [task for task in asyncio.all_tasks(loop) if not _is_kernel_task(task)]
    if not tasks:
        return None
    for task in tasks:
        task.cancel()
    _, pending = await asyncio.wait(tasks, timeout=_TASK_TIMEOUT)
    if pending:
        return f"a task refused to be cancelled: {next(iter(pending)).get_name()}"
    return None
