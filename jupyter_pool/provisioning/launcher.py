"""Where workers come from: KernelManager, on an asyncio loop in a thread of its own.

    I/O thread ── start / stop / interrupt ──▶ launcher thread ── KernelManager ──▶ processes
        ▲                                            │ pidfd, stderr pipe
        └──────── Launched / Exited (post) ──────────┘

KernelManager starts kernels; the pool supervises them, so its restarter and its own sockets stay
off. One task per worker sees it from its first line of stderr to the moment when every process of
its session is verified gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from jupyter_pool import kernel
from jupyter_pool.kernel import ledger, started

from . import fork, processes
from .forked import UnknownExitCode
from .guardian import Guardian
from .templates import Templates

#: How much of a worker's last stderr is kept, in bytes.
STDERR_TAIL = 64 * 1024
#: How long a worker that was asked to shut down may take, in seconds.
SHUTDOWN_GRACE = 1.0
#: How long the children of a worker may take to vanish once killed, in seconds.
BURIAL_TIMEOUT = 2.0
#: A guardian that has ended is replaced no sooner than this after its start, in seconds.
GUARDIAN_PAUSE = 1.0
#: How long to wait for the stacks of a worker that is about to be killed, in seconds.
DUMP_GRACE = 0.5
#: A dump is taken for complete when nothing more of it came for so long, in seconds.
DUMP_QUIET = 0.03
#: Longest path that fits a Unix socket address on every platform (macOS: 104, Linux: 108).
MAX_IPC_PATH = 100


@dataclass(frozen=True)
class LaunchSpec:
    """What to start: a kernelspec's name (or the pool's own kernel), where, and with what."""

    kernel_name: str | None
    cwd: str
    env: dict[str, str]
    preload: tuple[str, ...] = ()


@dataclass
class Launched:
    """A worker's process runs; where to reach it."""

    connection: dict[str, Any]
    key: bytes
    pid: int | None
    interrupt_mode: str


@dataclass
class Exited:
    """A worker's process (and its session) is gone, or could not be started."""

    status: int | None
    stderr: str
    error: str | None = None
    #: The id of the message that it worked on last, if it is a kernel that says so.
    worked_on: str = ""
    #: How calls ended whose answers may not have come.
    ledger: tuple[bytes, ...] = ()


class _Manager(AsyncKernelManager):
    """A KernelManager without sockets of its own: the engine talks to the kernel."""

    #: Where the pool's own kernels come from, see `fork`.
    templates: Templates | None = None

    def _connect_control_socket(self) -> None:
        return

    async def launch(self, **options: Any) -> None:
        """As `start_kernel`, which sleeps for 10 ms in the end so that tests can see a state."""
        command, options = await self.pre_start_kernel(**options)
        await self._launch_kernel(command, **options)
        await self.post_start_kernel(**options)


def worker_spec(preload: Sequence[str] = ()) -> KernelSpec:
    """The pool's own worker kernel in this interpreter."""
    return KernelSpec(
        argv=kernel.command(preload),
        display_name="Python (jupyter_pool worker)",
        language="python",
        interrupt_mode="signal",
        metadata={
            "supported_encryption": "curve",
            "kernel_provisioner": {"provisioner_name": fork.NAME},
        },
    )


@dataclass
class Worker:
    """One worker process as the launcher sees it."""

    name: str
    spec: LaunchSpec
    post: Callable[[Launched | Exited], None]
    pid: int | None = None
    manager: _Manager | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    stderr: bytearray = field(default_factory=bytearray)
    stderr_fd: int = -1
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    tap_fd: int = -1
    #: Held where the tap is set, on the I/O thread, and where it is read for the last time, on ours.
    tap_lock: threading.Lock = field(default_factory=threading.Lock)
    buried: bool = False
    #: As long as the pool's own kernel is being started.
    launching: asyncio.Task[None] | None = None
    #: What it had started when it was told to stop: processes by id, with their start times.
    family: dict[int, int] = field(default_factory=dict)

    def tap(self, fd: int) -> None:
        """Be able to read what the worker's own stderr pipe holds when it dies (Linux).

        The worker captures its descriptor 2 and passes on what it reads there. What a library
        writes just before it aborts the process, nobody in there lives to read.
        """
        try:
            tap_fd = os.open(
                f"/proc/{self.pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError:
            return  # no /proc, or it died already
        with self.tap_lock:
            if not self.buried and self.tap_fd < 0:
                self.tap_fd = tap_fd
                return
        os.close(tap_fd)

    def read_tap(self) -> None:
        """Append what was left in the tapped pipe to `stderr`; no tap is taken from now on."""
        with self.tap_lock:
            self.buried = True
        if self.tap_fd >= 0:
            try:
                while chunk := os.read(self.tap_fd, 65536):
                    self.stderr += chunk
            except BlockingIOError:
                pass  # a child of the worker holds the other end
            os.close(self.tap_fd)
            self.tap_fd = -1
            del self.stderr[:-STDERR_TAIL]


class Launcher:
    """Starts, signals and stops worker processes. Every method may be called from any thread."""

    def __init__(self, folder: str, shared: str = "") -> None:
        self.folder = folder
        self._guardian = Guardian(folder, shared)
        self._templates = Templates(self._guardian.add, self._guardian.remove)
        try:
            self._prepare()
        except BaseException:
            self._guardian.close()
            raise
        self.thread = threading.Thread(target=self._run, name="jupyter_pool launcher", daemon=True)
        self.thread.start()

    def _prepare(self) -> None:
        # Only KernelManager's trait needs one; no socket is ever made from it.
        self._context = zmq.asyncio.Context()
        self._loop = asyncio.SelectorEventLoop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._guardian_fd = -1
        self._watch_guardian()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # Every worker is gone: what still waits to stop one need not.
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        def begin() -> None:
            task = self._loop.create_task(coroutine)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(begin)

    def close(self) -> None:
        """End the thread and dismiss the guardian. Every worker must be gone."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.thread.join()
        if self._guardian_fd >= 0:
            os.close(self._guardian_fd)
        self._loop.close()
        self._context.term()
        self._templates.close()
        self._guardian.close()

    # -- the guardian ------------------------------------------------------------------------

    def _watch_guardian(self) -> None:
        """Notice at once that somebody killed it; without pidfd its next news finds it gone."""
        if hasattr(os, "pidfd_open"):
            self._guardian_fd = os.pidfd_open(self._guardian.pid)
            ended, since = self._guardian_ended, self._loop.time()
            self._loop.add_reader(self._guardian_fd, ended, since)

    def _guardian_ended(self, since: float) -> None:
        self._loop.remove_reader(self._guardian_fd)
        os.close(self._guardian_fd)
        self._guardian_fd = -1
        # One that cannot live is not started again and again.
        self._loop.call_at(max(self._loop.time(), since + GUARDIAN_PAUSE), self._replace_guardian)

    def _replace_guardian(self) -> None:
        self._guardian.revive()
        self._watch_guardian()

    # -- a worker's life ---------------------------------------------------------------------

    def start(
        self, name: str, spec: LaunchSpec, post: Callable[[Launched | Exited], None]
    ) -> Worker:
        """Start a worker; ``post`` is told from the launcher's thread."""
        worker = Worker(name, spec, post)
        self._spawn(self._live(worker))
        return worker

    async def _live(self, worker: Worker) -> None:
        status: int | None = None
        error: str | None = None
        try:
            await self._launch_unless_stopped(worker)
            status = await self._exit_status(worker)
        except NoSuchKernel as problem:
            error = str(problem)
        except OSError as problem:
            error = explain_os_error(problem, self.folder)
        except Exception as problem:  # noqa: BLE001 - a foreign provisioner may raise anything
            error = f"{type(problem).__name__}: {problem}"
        worked_on = started.read(self._note_file(worker))
        entries = tuple(ledger.read(self._note_file(worker))) if worked_on else ()
        await self._bury(worker)
        worker.gone.set()
        stderr = worker.stderr.decode("utf-8", "replace")
        worker.post(Exited(status, stderr, error, worked_on, entries))

    async def _launch_unless_stopped(self, worker: Worker) -> None:
        if worker.spec.kernel_name is not None:
            await self._launch(worker)  # its provisioner may not like to be cancelled
            return
        worker.launching = self._loop.create_task(self._launch(worker))
        try:
            await asyncio.wait([worker.launching])
            if worker.launching.cancelled():
                raise InterruptedError("stopped before its process was there")
            worker.launching.result()
        finally:
            worker.launching.cancel()
            worker.launching = None

    def _connection_file(self, worker: Worker) -> str:
        return os.path.join(self.folder, f"{worker.name}.json")

    def _note_file(self, worker: Worker) -> str:
        return started.beside(self._connection_file(worker))

    async def _launch(self, worker: Worker) -> None:
        # Those who tidy up temporary folders may have taken it.
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        manager = worker.manager = _Manager(
            connection_file=self._connection_file(worker),
            context=self._context,
            transport="ipc",
            ip=os.path.join(self.folder, worker.name),
            autorestart=False,
            **{f"{channel}_port": port for port, channel in enumerate(CHANNELS, 1)},
        )
        if worker.spec.kernel_name is None:
            manager._kernel_spec = worker_spec(worker.spec.preload)
            manager.templates = self._templates
            started.make(self._note_file(worker))
            ledger.make(self._note_file(worker))
        else:
            manager.kernel_name = worker.spec.kernel_name
        worker.stderr_fd, write_end = os.pipe()
        os.set_blocking(worker.stderr_fd, False)
        self._loop.add_reader(worker.stderr_fd, self._read_stderr, worker)
        try:
            await manager.launch(
                cwd=worker.spec.cwd,
                env=dict(worker.spec.env),
                stdout=write_end,
                stderr=write_end,
            )
        except FileNotFoundError:
            # LocalProvisioner (jupyter_client 8.10) looks for the owner's own working folder after
            # it has started the kernel in the right one; somebody may have removed it.
            if not manager.has_kernel:
                raise
        finally:
            os.close(write_end)
            if isinstance(manager.provisioner, LocalProvisioner):
                worker.pid = manager.provisioner.pid
            if worker.pid is not None:
                self._guardian.add(worker.pid)
        assert manager.provisioner is not None
        spec = manager.kernel_spec
        assert spec is not None
        connection = dict(manager.get_connection_info())
        worker.post(
            Launched(connection, manager.session.key, worker.pid, spec.interrupt_mode or "signal")
        )
        if worker.stopping:
            await self._signal(worker, signal.SIGKILL)

    async def _exit_status(self, worker: Worker) -> int | None:
        """Wait until the kernel's process has ended."""
        assert worker.manager is not None
        provisioner = worker.manager.provisioner
        assert provisioner is not None
        if worker.pid is not None and hasattr(os, "pidfd_open"):
            ended = asyncio.Event()
            try:
                pidfd = os.pidfd_open(worker.pid)
            except ProcessLookupError:  # a forked one is not our child: it may be buried by now
                pidfd = -1
            if pidfd >= 0:
                self._loop.add_reader(pidfd, ended.set)
                try:
                    await ended.wait()
                finally:
                    self._loop.remove_reader(pidfd)
                    os.close(pidfd)
        # A provisioner has no event to wait for; that the process has ended we know by now.
        pause = 0.0005 if worker.pid is not None else 0.05
        while (status := await provisioner.poll()) is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.05)
        return None if isinstance(status, UnknownExitCode) else status

    async def _bury(self, worker: Worker) -> None:
        """Leave nothing of a worker behind: children, pipe, files."""
        if worker.pid is not None:
            processes.kill_session(worker.pid)
            processes.kill_all(worker.family)
            deadline = self._loop.time() + BURIAL_TIMEOUT
            pause = 0.0005
            while any(processes.session_members(worker.pid)) and self._loop.time() < deadline:
                await asyncio.sleep(pause)  # killed, but the system has not ended them yet
                pause = min(2 * pause, 0.05)
                processes.kill_session(worker.pid)
        if worker.stderr_fd >= 0:
            self._read_stderr(worker)
            self._close_stderr(worker)
        worker.read_tap()
        if worker.manager is not None:
            if worker.manager.has_kernel:
                assert worker.manager.provisioner is not None
                if worker.pid is None:  # it may have started something before it failed
                    await worker.manager.provisioner.kill()
                await worker.manager.provisioner.wait()
            await worker.manager.cleanup_resources()
        note = self._note_file(worker)
        for path in (note, ledger.beside(note)):
            with contextlib.suppress(OSError):
                os.unlink(path)
        if worker.pid is not None:
            self._guardian.remove(worker.pid)

    # -- stderr ------------------------------------------------------------------------------

    def _read_stderr(self, worker: Worker) -> None:
        if worker.stderr_fd < 0:
            return
        while True:
            try:
                chunk = os.read(worker.stderr_fd, 65536)
            except BlockingIOError:
                return
            if not chunk:
                self._close_stderr(worker)
                return
            worker.stderr += chunk
            del worker.stderr[:-STDERR_TAIL]
            worker.heard.set()

    def _close_stderr(self, worker: Worker) -> None:
        if worker.stderr_fd >= 0:
            self._loop.remove_reader(worker.stderr_fd)
            os.close(worker.stderr_fd)
            worker.stderr_fd = -1

    # -- ending ------------------------------------------------------------------------------

    def stop(self, worker: Worker, *, kill: bool, dump: bool = False) -> None:
        """End a worker; ``Exited`` follows. Without ``kill`` it was asked to shut down before.

        ``dump`` has the pool's own kernel write the stacks of all its threads to stderr first.
        """
        self._spawn(self._stop(worker, kill, dump))

    async def _stop(self, worker: Worker, kill: bool, dump: bool) -> None:
        worker.stopping = True
        if worker.pid is not None:
            worker.family.update(processes.descendants(worker.pid))
        if dump and worker.pid is not None:
            await self._dump_stacks(worker, worker.pid)
        if not kill:
            await _within(worker.gone.wait(), SHUTDOWN_GRACE)
        if worker.launching is not None and worker.launching.cancel():
            return  # a template may import for long
        # Its launch may be complete without `_live` having noticed yet.
        if not worker.gone.is_set():
            await self._signal(worker, signal.SIGKILL)

    async def _dump_stacks(self, worker: Worker, pid: int) -> None:
        """Have faulthandler write every thread's stack; it is complete when nothing more comes."""
        worker.heard.clear()
        if not processes.send(pid, signal.SIGUSR1, group=False):
            return
        deadline = self._loop.time() + DUMP_GRACE
        patience = DUMP_GRACE
        while self._loop.time() < deadline and await _within(worker.heard.wait(), patience):
            worker.heard.clear()
            patience = DUMP_QUIET

    async def _signal(self, worker: Worker, signum: int) -> None:
        manager = worker.manager
        if manager is not None and manager.has_kernel:
            assert manager.provisioner is not None
            try:
                if signum == signal.SIGKILL:
                    await manager.provisioner.kill()
                else:
                    await manager.provisioner.send_signal(signum)
            except OSError:
                pass  # it went away by itself

    def interrupt(self, worker: Worker, done: Callable[[], None]) -> None:
        """Interrupt a worker by way of its provisioner; ``done`` is called once that was sent."""

        async def interrupt() -> None:
            await self._signal(worker, signal.SIGINT)
            done()

        self._spawn(interrupt())


def explain_os_error(error: OSError, folder: str) -> str:
    """What kept a kernel from being started, with the folder and what to do where that matters."""
    said = f"{type(error).__name__}: {error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return (
            f"nothing can be written to the runtime folder {folder}: {error.strerror}\n"
            f"  Next: make room there, or set JUPYTER_RUNTIME_DIR to a folder that has some ({said})"
        )
    return said


#: The channels of a kernel in the order of their port numbers on an ipc path.
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


async def _within(coroutine: Coroutine[Any, Any, Any], seconds: float) -> bool:
    try:
        await asyncio.wait_for(coroutine, seconds)
    except asyncio.TimeoutError:
        return False
    return True
