"""The worker's application: ipykernel's, without what a worker does not need.

Left out: the subshell thread, the history database, the debugger with its
sockets, the iopub thread's TCP port. Added: a way to the real stderr for
crashes, and a better chance for the notebook when memory runs out.

It starts in two steps. `prepare` needs neither a connection nor a stream, and
leaves no thread and no descriptor: a fork server does it once, for many.
`attach` gives the process its channels and streams. A worker that is started
plainly does one after the other.

    prepare   configuration, kernel, shell, extensions, a first silent cell
    (fork)
    attach    connection file, sockets, threads, streams, signals, startup files
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import zmq
from ipykernel.control import ControlThread
from ipykernel.heartbeat import Heartbeat
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session, new_id
from traitlets import DottedObjectName, List, Type, Unicode, default
from traitlets.config import Config, catch_config_error
from zmq.eventloop.zmqstream import ZMQStream

from jupyter_pool.kernel.channels import DirectIOPub, PoolSession, ShellStream
from jupyter_pool.kernel.imports import IMPORTS
from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.modules import ModuleWatch
from jupyter_pool.kernel.randomness import RANDOMNESS

__all__ = ["PoolKernelApp", "main"]

_OOM_SCORE = 500  # of 1000: the system kills workers before their owner, but after what is worse


class PoolKernelApp(IPKernelApp):
    """Starts a worker.

    Leans on IPKernelApp: the order and names of its `init_*` methods, and the
    attributes that `close` and `init_io` look at (checked on ipykernel 7.4).
    """

    kernel_class = Type(
        "jupyter_pool.kernel.kernel.PoolKernel",
        klass="ipykernel.kernelbase.Kernel",
        help="The kernel of a worker.",
    ).tag(config=True)
    outstream_class = DottedObjectName(
        "jupyter_pool.kernel.streams.PoolOutStream", allow_none=True
    ).tag(config=True)

    preload = List(
        Unicode(), help="Modules to import before the kernel is ready, and before any fork."
    ).tag(config=True)

    @default("session")
    def _default_session(self) -> Session:
        return PoolSession(parent=self)

    def initialize(self, argv: Any = None) -> None:
        """Initialise the application, all in this process."""
        self.prepare(argv)
        self.attach()

    @catch_config_error
    def prepare(self, argv: Any = None) -> None:
        """Build what may exist before a fork: no thread, no descriptor, no stream."""
        # Past IPKernelApp's own, which does all in one.
        super(IPKernelApp, self).initialize(argv)
        # Its handler drops what is below its level, so no record need be made of it.
        self.log.setLevel(self.log_level)
        # IPython's advice for SystemExit is for people at a prompt.
        warnings.filterwarnings("ignore", "To exit: use", UserWarning)
        # The user's own modules may be edited before a worker is forked or serves a request.
        self.preloaded = ModuleWatch()
        IMPORTS.install(self.preloaded)
        RANDOMNESS.watch()
        tempfile.gettempdir()  # tries a file; whoever is killed meanwhile leaves it
        # As `init_gui_pylab` does it: matplotlib reads it when it is imported.
        if not os.environ.get("MPLBACKEND"):
            os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        self.init_path()
        for module in self.preload:
            importlib.import_module(module)
        # One SQLite file for all workers would be fought over.
        self.update_config(Config({"HistoryManager": {"enabled": False}}))
        self.init_pdb()
        with _without_debugpy():
            self.kernel = self.kernel_class.instance(  # type: ignore[attr-defined]
                parent=self,
                session=self.session,
                log=self.log,
                profile_dir=self.profile_dir,
                user_ns=self.user_ns,
            )
        self.init_shell()
        self.init_extensions()
        # What IPython and the libraries beneath it import and compile at a first cell.
        assert self.shell is not None
        self.shell.run_cell("", silent=True)

    @catch_config_error
    def attach(self, connection_file: str | None = None) -> None:
        """Connect the kernel; `connection_file`, if it was not among the arguments."""
        self._attach_session()
        if connection_file is not None:
            self.connection_file = connection_file
        self.init_real_stderr()
        self.init_blackhole()
        self.init_connection_file()
        # Read by ipykernel when it is imported: in a template, before anybody asked.
        self.parent_handle = int(os.environ.get("JPY_PARENT_PID") or 0)
        if self.parent_handle == os.getppid():
            self.init_poller()  # forked, it is the guardian that sees to our end
        self.init_sockets()
        self.init_heartbeat()
        self.write_connection_file()
        self.log_connection_info()
        self.init_io()
        self.init_signal()
        self.init_kernel()
        self.init_gui_pylab()
        self.init_code()
        sys.stdout.flush()
        sys.stderr.flush()

    def _attach_session(self) -> None:
        """Make the session this process's own: one of another process sends nothing."""
        session = self.session
        if session.pid == os.getpid():
            return
        session.pid = os.getpid()
        session.session = new_id()
        session.digest_history = set()
        session.message_count = 0

    def init_real_stderr(self) -> None:
        """Let crashes explain themselves on the owner's stderr, whatever fd 2 becomes."""
        # Before the descriptors are captured: a pipe to ourselves dies with us.
        try:
            self.real_stderr = os.fdopen(os.dup(2), "w", buffering=1)
        except OSError:
            self.real_stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
        _enable_faulthandler(self.real_stderr)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(_OOM_SCORE))

    def patch_io(self) -> None:
        """Send user code's own ``faulthandler.enable()`` to the real stderr as well."""
        real, enable = self.real_stderr, faulthandler.enable

        def enable_on_real(file: Any = None, all_threads: bool = True, **kwargs: Any) -> None:
            enable(file=file or real, all_threads=all_threads, **kwargs)

        faulthandler.enable = enable_on_real

    def init_signal(self) -> None:
        """Ignore SIGINT, except while user code runs."""
        GATE.watch_delivery(self.iopub_thread.io_loop.asyncio_loop)
        GATE.install()

    def init_heartbeat(self) -> None:
        """Answer heartbeats, in a thread that needs no interpreter for it."""
        # ipykernel gives it a context of its own, lest ZMQ's I/O thread wait for the interpreter to
        # free what was sent without a copy; pyzmq has a thread for that. It saves two threads.
        self.heartbeat = Heartbeat(
            self.context,
            (self.transport, self.ip, self.hb_port),
            curve_publickey=self.curve_publickey,
            curve_secretkey=self.curve_secretkey,
        )
        self.hb_port = self.heartbeat.port
        self.heartbeat.start()

    def close(self) -> None:
        """Close the channels in order. The end of their context is that of the heartbeat's thread."""
        heartbeat, self.heartbeat = self.heartbeat, None  # else its context is ended first
        super().close()
        if heartbeat is not None:
            heartbeat.join()

    def init_control(self, context: Any) -> None:
        """Bind the control channel; no debugger, no subshells."""
        self.control_socket = context.socket(zmq.ROUTER)
        self.control_socket.linger = 1000
        self._apply_curve_server_options(self.control_socket)
        self.control_port = self._bind_socket(self.control_socket, self.control_port)
        self.control_socket.router_handover = 1
        self.control_thread = ControlThread(daemon=True)
        self.shell_channel_thread = None

    def init_iopub(self, context: Any) -> None:
        """Bind the iopub channel, which drops nothing."""
        self.iopub_socket = context.socket(zmq.XPUB)
        self.iopub_socket.linger = 1000
        # With ZMQ's default mark a slow reader loses messages, even the idle status.
        self.iopub_socket.sndhwm = 0
        self._apply_curve_server_options(self.iopub_socket)
        self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
        self.configure_tornado_logger()
        self.iopub_thread = DirectIOPub(self.iopub_socket, session=self.session)
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_kernel(self) -> None:
        """Give the kernel its channels; its main thread reads the shell channel itself."""
        self.control_thread.start()
        self.kernel.attach(
            control_stream=ZMQStream(self.control_socket, self.control_thread.io_loop),
            shell_stream=ShellStream(self.shell_socket),
            control_thread=self.control_thread,
            iopub_thread=self.iopub_thread,
            iopub_socket=self.iopub_socket,
            stdin_socket=self.stdin_socket,
        )
        self.kernel.record_ports({f"{name}_port": port for name, port in self._ports.items()})
        self.displayhook.get_execution_count = lambda: self.kernel.execution_count

    def start(self) -> None:
        """Serve until told to stop. What the worker looks like now is its baseline."""
        if self.poller is not None:
            self.poller.start()
        self.kernel.capture_baseline(self.preloaded)
        self.kernel.start()
        self.io_loop = self.kernel.io_loop
        while True:
            try:
                self.io_loop.start()
                return
            except (KeyboardInterrupt, SystemExit):
                # A task that a cell left on the loop raised it: its own affair.
                continue


def _enable_faulthandler(file: Any) -> None:
    faulthandler.enable(file=file, all_threads=True)
    if hasattr(faulthandler, "register") and hasattr(signal, "SIGUSR1"):
        # On demand, also while C code holds the interpreter.
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)


@contextlib.contextmanager
def _without_debugpy() -> Iterator[None]:
    """Let ipykernel find no debugger: importing it costs 60 ms and 10 MB per worker."""
    hidden = "debugpy" not in sys.modules
    if hidden:
        sys.modules["debugpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["debugpy"]


def main() -> None:
    """Run a worker as an application."""
    app = PoolKernelApp.instance()
    app.initialize()
    app.start()
