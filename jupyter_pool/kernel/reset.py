"""Back to the start between two requests.

`Baseline.capture` remembers what a worker looked like when it became ready;
`Baseline.restore` compares cheaply and puts back what changed. What cannot be
put back makes the report ask for a new process.

restored   user namespace with ``In``, ``Out``, ``_`` and ``sys.last_*``; what was
           registered with IPython (see `reset_shell`); working folder, environment,
           `sys.path`, `sys.argv`, standard streams and their descriptors, hooks of
           `sys` and `threading`, built-in names, random states (fresh entropy),
           warning filters, the root logger, locale, umask, recursion limit, garbage
           collector, alarms, SIGINT's handler, open figures, asyncio tasks,
           cloudpickle's memory of classes
recycled   threads that still run, child processes, other signal handlers
not        files, other machines, modules: they stay imported, and keep their state

Harmless ones among threads and children are named in `_is_harmless_thread` and
`_harmless_children`.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import faulthandler
import gc
import locale
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

try:
    # The public one makes enum members: 90 µs for all signals instead of 5.
    from _signal import getsignal
except ImportError:  # pragma: no cover - another Python than CPython
    from signal import getsignal  # type: ignore[assignment]

from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.reset_shell import ShellBaseline

__all__ = ["Baseline", "ResetReport", "cancel_leftover_tasks", "seed_random"]

_SIGNALS = tuple(
    number for number in range(1, signal.NSIG) if number in signal.valid_signals()
)
_JOIN_TIMEOUT = 0.05  # seconds for a thread that is about to end
_TASK_TIMEOUT = 1.0  # seconds for cancelled tasks to end


@dataclass(frozen=True)
class ResetReport:
    """What a reset came to."""

    #: Why this process should be replaced; None: it is as good as new.
    recycle: str | None = None


class Baseline:
    """What a worker looks like when no request has touched it."""

    @classmethod
    def capture(cls, shell: Any = None) -> Baseline:
        """Remember the present state of this process, and of an IPython shell."""
        return cls(shell)

    def __init__(self, shell: Any = None) -> None:
        self._shell = None if shell is None else ShellBaseline(shell)
        self._sys = {name: getattr(sys, name) for name in _SYS_NAMES}
        self._argv = list(sys.argv)
        self._environ = os.environ
        self._builtins = dict(vars(builtins))
        self._warning_filters = list(warnings.filters)
        self._show_warning = (warnings.showwarning, warnings.formatwarning)
        root = logging.root
        self._logging = (root.level, list(root.handlers), list(root.filters), root.manager.disable)
        self._signals = [getsignal(number) for number in _SIGNALS]
        self._threads = set(threading.enumerate())
        self._thread_hooks = (threading.excepthook, threading._profile_hook, threading._trace_hook)  # type: ignore[attr-defined]
        self._recursion_limit = sys.getrecursionlimit()
        self._gc = (gc.isenabled(), gc.get_threshold())
        self._locale = locale.setlocale(locale.LC_ALL)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._faulthandler = faulthandler.is_enabled()
        self.capture_place()

    def capture_place(self) -> None:
        """Take the present working folder, path and environment as the worker's own."""
        self._cwd = _get_cwd() or "/"
        self._path = list(sys.path)
        self._env = dict(_raw_environ())

    def restore(self, *, reseed: bool = True) -> ResetReport:
        """Put everything back.

        Parameters
        ----------
        reseed
            Give the random generators fresh entropy, so that a request can
            neither see nor foretell what another one drew.
        """
        steps: list[tuple[str, Callable[[], str | None]]] = [
            ("sys", self._restore_sys),
            ("figures", _close_figures),
            ("namespace", self._restore_shell),
            ("environment", self._restore_environment),
            ("working folder", self._restore_cwd),
            ("built-in names", self._restore_builtins),
            ("warnings", self._restore_warnings),
            ("logging", self._restore_logging),
            ("process settings", self._restore_process),
            ("classes", _forget_pickled_classes),
            ("signal handlers", self._restore_signals),
            ("threads", self._check_threads),
            ("children", _check_children),
        ]
        reasons = []
        if reseed:
            steps.insert(-3, ("random numbers", lambda: seed_random(None)))
        for what, step in steps:
            try:
                reason = step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the process is not as new
                reason = f"{what} could not be restored: {type(error).__name__}: {error}"
            if reason:
                reasons.append(reason)
        return ResetReport("; ".join(reasons) or None)

    # -- the steps: each returns why the process must be replaced, or None -------

    def _restore_sys(self) -> str | None:
        if sys.gettrace() is not None:
            sys.settrace(None)
        if sys.getprofile() is not None:
            sys.setprofile(None)
        for name, value in self._sys.items():
            if getattr(sys, name, None) is not value:
                setattr(sys, name, value)
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)
        if sys.argv != self._argv:
            sys.argv[:] = self._argv
        if sys.path != self._path:
            sys.path[:] = self._path
        if sys.getrecursionlimit() != self._recursion_limit:
            sys.setrecursionlimit(self._recursion_limit)
        hooks = (threading.excepthook, threading._profile_hook, threading._trace_hook)  # type: ignore[attr-defined]
        if hooks != self._thread_hooks:
            threading.excepthook, profile, trace = self._thread_hooks
            threading.setprofile(profile)
            threading.settrace(trace)
        for stream in (sys.stdout, sys.stderr):
            restore = getattr(stream, "restore_descriptor", None)
            if restore is not None:
                restore()
        return None

    def _restore_shell(self) -> str | None:
        if self._shell is not None:
            self._shell.restore()
        return None

    def _restore_environment(self) -> str | None:
        if os.environ is not self._environ:
            os.environ = self._environ  # type: ignore[assignment]  # noqa: B003 - not cleared, put back
        if _raw_environ() == self._env:
            return None
        now = dict(_raw_environ())
        decode = getattr(os.environ, "decodekey", str)
        decode_value = getattr(os.environ, "decodevalue", str)
        changed = {key for key in now.keys() | self._env.keys() if now.get(key) != self._env.get(key)}
        for key in changed:
            if key in self._env:
                os.environ[decode(key)] = decode_value(self._env[key])
            else:
                del os.environ[decode(key)]
        if hasattr(time, "tzset") and "TZ" in map(decode, changed):
            time.tzset()
        return None

    def _restore_cwd(self) -> str | None:
        if _get_cwd() == self._cwd:
            return None
        try:
            os.chdir(self._cwd)
        except OSError as error:
            # The worker's own folder is gone. It goes on somewhere that exists,
            # and a request that names its folder is not affected.
            os.chdir("/" if os.name == "posix" else Path.home())
            return f"its working folder {self._cwd} is gone ({error.strerror})"
        return None

    def _restore_builtins(self) -> str | None:
        now = vars(builtins)
        if now != self._builtins or len(now) != len(self._builtins):
            for name in now.keys() - self._builtins.keys():
                del now[name]
            now.update(self._builtins)
        return None

    def _restore_warnings(self) -> str | None:
        if warnings.filters != self._warning_filters:
            warnings.filters[:] = self._warning_filters  # type: ignore[index]
        warnings.showwarning, warnings.formatwarning = self._show_warning
        logging._warnings_showwarning = None  # type: ignore[attr-defined]
        # Also forgets which warnings were shown already: each request shows its own.
        for name in ("_filters_mutated", "_filters_mutated_lock_held"):
            if mutated := getattr(warnings, name, None):
                mutated()
                break
        return None

    def _restore_logging(self) -> str | None:
        root = logging.root
        level, handlers, filters, disable = self._logging
        if root.manager.disable != disable:
            logging.disable(disable)
        if root.level != level:
            root.setLevel(level)
        if root.handlers != handlers:
            root.handlers[:] = handlers
        if root.filters != filters:
            root.filters[:] = filters
        return None

    def _restore_process(self) -> str | None:
        os.umask(self._umask)
        if locale.setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        enabled, thresholds = self._gc
        if gc.isenabled() != enabled:
            (gc.enable if enabled else gc.disable)()
        if gc.get_threshold() != thresholds:
            gc.set_threshold(*thresholds)
        if self._faulthandler and not faulthandler.is_enabled():
            # As installed by the application, which knows the real stderr.
            faulthandler.enable()
        return None

    def _restore_signals(self) -> str | None:
        if hasattr(signal, "setitimer") and signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0):
            signal.setitimer(signal.ITIMER_REAL, 0)
        now = [getsignal(number) for number in _SIGNALS]
        if now == self._signals:
            return None
        GATE.install()
        changed = [
            signal.Signals(number).name
            for number, before, after in zip(_SIGNALS, self._signals, now, strict=True)
            if before != after and number != signal.SIGINT
        ]
        return f"the handler of {', '.join(changed)} was changed" if changed else None

    def _check_threads(self) -> str | None:
        deadline = None
        leftover = []
        for thread in threading.enumerate():
            if thread in self._threads or _is_harmless_thread(thread):
                continue
            if thread is not threading.current_thread():
                deadline = deadline or time.monotonic() + _JOIN_TIMEOUT
                # A thread that this request started may just be returning.
                with contextlib.suppress(RuntimeError):
                    thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    leftover.append(thread.name)
        if leftover:
            return f"it left a thread running: {', '.join(leftover)}"
        return None


_SYS_NAMES = (
    "stdin",
    "stdout",
    "stderr",
    "__stdin__",
    "__stdout__",
    "__stderr__",
    "path",
    "argv",
    "displayhook",
    "excepthook",
    "breakpointhook",
    "unraisablehook",
    "ps1",
    "ps2",
)
_SYS_NAMES = tuple(name for name in _SYS_NAMES if hasattr(sys, name))


def _get_cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _raw_environ() -> Any:
    # The mapping behind os.environ (CPython 3.10 to 3.14): comparing it costs
    # 2 µs, decoding every variable 50.
    return getattr(os.environ, "_data", os.environ)


# -- threads, children, tasks ------------------------------------------------------


def _is_harmless_thread(thread: threading.Thread) -> bool:
    """Known threads that outlive a request by design and do nothing of the user's.

    tqdm's monitor; idle workers of a thread pool (`asyncio.to_thread`, and many
    libraries), which wait for work that nobody can give them any more; waiters
    of asyncio's subprocesses that are about to end by themselves.
    """
    kind = type(thread)
    if kind.__name__ == "TMonitor" and kind.__module__.startswith("tqdm"):
        return True
    pool = sys.modules.get("concurrent.futures.thread")
    if pool is None or thread.ident is None:
        return False
    frame = sys._current_frames().get(thread.ident)
    # Running a job, it would be deeper than the pool's own loop.
    return frame is not None and frame.f_code is pool._worker.__code__


def _check_children() -> str | None:
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


async def cancel_leftover_tasks() -> str | None:
    """Cancel the tasks and timers that a request left on the running loop.

    Returns
    -------
    str or None
        Why the process must be replaced: a task goes on in spite of it.
    """
    loop = asyncio.get_running_loop()
    for handle in getattr(loop, "_scheduled", ()):  # BaseEventLoop, Python 3.10 to 3.14
        handle.cancel()
    tasks = [task for task in asyncio.all_tasks(loop) if task not in GATE.kernel_tasks]
    if not tasks:
        return None
    for task in tasks:
        task.cancel()
    _, pending = await asyncio.wait(tasks, timeout=_TASK_TIMEOUT)
    if pending:
        return f"a task refused to be cancelled: {next(iter(pending)).get_name()}"
    return None


# -- what only some requests load ----------------------------------------------------


def _close_figures() -> str | None:
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None and helpers.Gcf.figs:
        helpers.Gcf.destroy_all()
    return None


def _forget_pickled_classes() -> str | None:
    """Drop cloudpickle's memory of classes (checked on cloudpickle 3.0 and 3.1).

    Without it, a class sent again with other methods would be the old one here.
    Not before the outputs are packed: within a request a class must stay itself.
    """
    module = sys.modules.get("cloudpickle.cloudpickle")
    if module is None:
        return None
    for name in ("_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_BY_CLASS"):
        tracker = getattr(module, name, None)
        if tracker:
            tracker.clear()
    return None


# -- random numbers ------------------------------------------------------------------


def seed_random(seed: int | None) -> None:
    """Seed `random` and NumPy's legacy generator; None: with fresh entropy.

    With a seed, NumPy is also seeded when the request is the first to import it,
    so that a request draws the same numbers in a warm and in a new worker.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is not _SeedNumPy]
    if seed is None:
        random.seed(int.from_bytes(os.urandom(32), "little"))
    else:
        random.seed(seed)
    numpy = sys.modules.get("numpy.random")
    if numpy is not None and hasattr(numpy, "seed"):
        _seed_numpy(numpy, seed)
    elif seed is not None:
        sys.meta_path.insert(0, _SeedNumPy(seed))


def _seed_numpy(module: Any, seed: int | None) -> None:
    if seed is None:
        words = os.urandom(32)
        module.seed([int.from_bytes(words[i : i + 4], "little") for i in range(0, 32, 4)])
    else:
        module.seed(seed % 2**32)


class _SeedNumPy:
    """Import hook for one module and one request: seeds numpy.random once it is there."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "numpy.random":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        loader, run = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # type: ignore[method-assign]  # the class's own again
            run(module)
            _seed_numpy(module, self._seed)

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
