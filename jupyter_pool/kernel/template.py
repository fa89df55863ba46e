"""A process that has everything ready and forks a worker for each request.

    owner ── socket: where to run, with what; stdin, stdout, stderr, a pipe ──▶ template
                                                                                  │ fork
    owner ◀── the pipe: "pid N", and in the end "exit N" ──────────────────── worker ...

It has done `PoolKernelApp.prepare`: all imports, configuration, the shell, a first
cell. It never runs anything of a user's but the imports of `preload`, and has one
thread; so a fork of it is as good as a new process, and shares its memory. What a
process must not share, the worker gets in `_become_worker`.

It is to be trusted only as long as the user's own modules in it are what an import would load now.
When one was edited it says so to whoever asks for a worker, and forks no more.

When its owner closes the socket, it stays only to tell the exit codes of the workers that it has.

Run as a script, like a worker (see `kernel.command`).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fnmatch
import gc
import importlib
import io
import json
import os
import select
import socket
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_pool.kernel.app import PoolKernelApp

#: Libraries whose state does not survive a fork once they are imported, and why.
UNSAFE_MODULES = {
    "polars": "polars has a pool of threads that a fork does not copy",
    "grpc": "gRPC cannot be used after a fork",
    "jax": "JAX has threads that a fork does not copy",
}
#: Threads that a fork may do without, by name: their library sees to it in the child.
HARMLESS_THREADS = {
    "jemalloc_bg_thd",  # PyArrow's allocator: gives memory back to the system; made anew on demand
}
#: The exit code of a process that must not be forked, and never will be better.
REFUSES = 76
_MAX_JOB = 1 << 20
#: What workers would import at their start, at their first cell, or with their first traceback.
_USED_LATER = (
    "IPython.core.logger",
    "cloudpickle",
    "executing",
    "fractions",
    "pure_eval",
    "pygments.console",
    "pygments.formatters.terminal256",
    "pygments.styles.default",
    "stack_data",
    "tornado.platform.asyncio",
)
_PR_SET_NAME = 15


@dataclass
class Job:
    """One worker to be."""

    connection_file: str
    cwd: str
    env: dict[str, str | None]
    stdio: list[int]
    note: int


class CannotFork(Exception):
    """There is no worker for this job."""


class Template:
    """Serves an owner until that is gone."""

    def __init__(self, app: PoolKernelApp, owner: socket.socket) -> None:
        # As a script, we could be hidden by what is beside it: see the end.
        from jupyter_pool.kernel.randomness import seed_random

        self._app = app
        self._owner = owner
        self._reseed = seed_random
        #: By pidfd of a living worker: its process id, and the pipe on which its end is told.
        self._workers: dict[int, tuple[int, int]] = {}

    def serve(self) -> Job | None:
        """Fork workers. Returns in each worker its job, and None when there is no more to do."""
        poller = select.poll()
        asked = self._owner.fileno()
        poller.register(asked, select.POLLIN)
        wanted = True
        while wanted or self._workers:
            for fd, _ in poller.poll():
                if fd != asked:
                    poller.unregister(fd)
                    self._bury(fd)
                    continue
                try:
                    job = self._receive()
                except EOFError:
                    wanted = False
                    poller.unregister(asked)
                    continue
                if job is None:
                    continue
                try:
                    pid = self._fork(job)
                except CannotFork as reason:
                    _tell(job.note, f"not {reason}")
                    _close(*job.stdio, job.note)
                    continue
                if pid == 0:
                    self._forget_template()
                    return job
                poller.register(self._remember(pid, job), select.POLLIN)
        return None

    def _receive(self) -> Job | None:
        """The next job; None if it came without its descriptors: we have too many open."""
        try:
            data, fds, _, _ = socket.recv_fds(self._owner, _MAX_JOB, 4)
        except ConnectionError:
            raise EOFError from None
        if not data:
            raise EOFError
        if len(fds) != 4:
            _close(*fds)
            return None
        *stdio, note = fds
        return Job(**json.loads(data), stdio=stdio, note=note)

    def _fork(self, job: Job) -> int:
        stale = self._app.preloaded.find_edited()
        if stale is not None:
            raise CannotFork(f"stale: {stale}")
        try:
            return os.fork()
        except OSError as error:
            raise CannotFork(f"failed: {error}") from None

    def _remember(self, pid: int, job: Job) -> int:
        _close(*job.stdio)
        # Nobody else waits for it, so that it is there even if it has ended.
        pidfd = os.pidfd_open(pid)
        self._workers[pidfd] = (pid, job.note)
        return pidfd

    def _bury(self, pidfd: int) -> None:
        pid, note = self._workers.pop(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        _tell(note, f"exit {os.waitstatus_to_exitcode(status)}")
        os.close(note)

    def _forget_template(self) -> None:
        """In a worker: nothing of the template or of its other workers stays open."""
        self._owner.close()
        for pidfd, (_, note) in self._workers.items():
            _close(pidfd, note)

    def become_worker(self, job: Job) -> None:
        """Make this process what a plainly started worker is."""
        os.setsid()
        # Only now: whoever knows it may send signals to the process group of that number.
        if not _tell(job.note, f"pid {os.getpid()}"):
            os._exit(0)  # nobody wants it any more
        os.close(job.note)
        for fd, given in enumerate(job.stdio):
            os.dup2(given, fd)
            os.close(given)
        for key, value in job.env.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
        os.chdir(job.cwd)
        sys.argv[1:] = ["-f", job.connection_file]
        # `random` does it by itself after a fork; NumPy's state would be that of all siblings.
        self._reseed(None)
        self._app.kernel.threads.adopt_environment()
        gc.enable()
        self._app.attach(job.connection_file)


def _tell(note: int, line: str) -> bool:
    """Whether the owner still wants to know."""
    try:
        os.write(note, f"{line}\n".encode())
    except OSError:
        return False
    return True


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _set_name(name: str) -> None:
    """Name the process in the system's lists, and those that it forks.

    The guardian finds by it the workers that nobody could tell it of.
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    except (OSError, AttributeError):
        pass


def find_hazard() -> str | None:
    """Why this process must not be forked; None: it may."""
    for name, reason in UNSAFE_MODULES.items():
        if name in sys.modules:
            return reason
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is initialised, and cannot be used after a fork"
    threads = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm", encoding="utf-8") as file:
            name = file.read().strip()
        if int(task) != os.getpid() and name not in HARMLESS_THREADS:
            threads.append(name)
    if threads:
        return f"the imports started threads, which a fork does not copy ({', '.join(threads)})"
    return None


def warm_up(app: PoolKernelApp) -> None:
    """Do once what each worker would do at its start or at its first requests.

    What is imported, compiled or made on first use costs time and memory in each of them.
    """
    from jupyter_pool.kernel.reset_shell import ShellBaseline

    for name in _USED_LATER:
        importlib.import_module(name)
    ShellBaseline(app.shell)  # makes the formatters
    assert app.connection_dir  # asks for the user's folders
    assert app.kernel.kernel_info
    for pattern in ("*.ipy", "*.py"):
        fnmatch.filter([], pattern)  # compiles: startup files are looked for


def end_worker(app: PoolKernelApp) -> None:
    """End this process as the interpreter would, but for the last step.

    That takes apart every module and object, and so would copy all memory that is shared with the
    template, only to give it back: it costs more than a start.
    """
    status = 0
    try:
        threading._shutdown()  # type: ignore[attr-defined] # waits for threads that are no daemons
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - as the interpreter does it: said, and gone on
        sys.excepthook(*sys.exc_info())
        status = 1
    app.kernel.shell.user_ns.clear()
    gc.collect()
    for found in gc.get_objects():  # only those since the fork
        if type(found) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
            with contextlib.suppress(Exception):
                found.flush()  # whoever did not close a file still expects to find in it what was written
    os._exit(status)


def main(fd: int, name: str, preload: list[str]) -> None:
    """Get everything ready, then fork for the owner at the other end of the socket `fd`."""
    owner = socket.socket(fileno=fd)
    _set_name(name)
    from jupyter_pool.kernel import PRELOAD
    from jupyter_pool.kernel.app import PoolKernelApp

    gc.disable()
    app = PoolKernelApp.instance()
    app.prepare([f"{PRELOAD}{module}" for module in preload])
    hazard = find_hazard()
    if hazard is not None:
        # The owner reads it off stderr, when the socket is closed.
        sys.stderr.write(f"{hazard}\n")
        sys.stderr.flush()
        os._exit(REFUSES)  # with threads about, an orderly end may hang
    template = Template(app, owner)
    warm_up(app)
    gc.collect()
    gc.freeze()
    job = template.serve()
    if job is None:
        os._exit(0)
    template.become_worker(job)
    app.start()
    end_worker(app)


if __name__ == "__main__":
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
