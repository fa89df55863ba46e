"""Back to the start between two requests.

`Baseline.capture` remembers what a worker looked like when it became ready;
`Baseline.restore` compares cheaply and puts back what changed. What cannot be
put back makes the report ask for a new process.

restored   user namespace with ``In``, ``Out``, ``_`` and ``sys.last_*``; what was
           registered with IPython, its settings (see `reset_shell`); working folder,
           environment, `sys.path`, `sys.argv`, standard streams and their descriptors,
           hooks of `sys`, `threading` and the import system, injected modules, built-in
           names, random states (fresh entropy), warning filters, loggers, locale, umask,
           limits, timers, signal mask and other settings of process and interpreter (see
           `process`), settings of matplotlib, pandas, NumPy, scikit-learn and decimal
           (see `libraries`), open figures, asyncio tasks, cloudpickle's memory of classes
recycled   threads that still run, child processes (which are ended), other signal
           handlers, GUI event loops, edited local modules (see `modules`: before the next
           request), what the system does not let us put back
not        files, other machines; imported modules stay, and keep their state: what they
           remember, what was patched into them, functions for the exit of the process,
           audit hooks

What the import of a module changes stays with the module (see `imports`). Threads and
children that are harmless are named in `leftovers`.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import operator
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from jupyter_pool.kernel.classes import CLASSES
from jupyter_pool.kernel.environment import Environment
from jupyter_pool.kernel.imports import IMPORTS
from jupyter_pool.kernel.interrupts import GATE, getsignal
from jupyter_pool.kernel.leftovers import Children, Threads
from jupyter_pool.kernel.libraries import library_settings
from jupyter_pool.kernel.loggers import Loggers
from jupyter_pool.kernel.modules import ModuleTable, ModuleWatch
from jupyter_pool.kernel.process import ProcessSettings
from jupyter_pool.kernel.randomness import RANDOMNESS
from jupyter_pool.kernel.reset_shell import ShellBaseline
from jupyter_pool.kernel.threads import NativeThreads
from jupyter_pool.kernel.tracked import Attributes, Items, Tracked

__all__ = ["Baseline", "ResetReport"]

_SIGNALS = tuple(number for number in range(1, signal.NSIG) if number in signal.valid_signals())


@dataclass(frozen=True)
class ResetReport:
    """What a reset came to."""

    #: Why this process should be replaced; None: it is as good as new.
    recycle: str | None = None


class Baseline:
    """What a worker looks like when no request has touched it."""

    @classmethod
    def capture(
        cls,
        shell: Any = None,
        preloaded: ModuleWatch | None = None,
        threads: NativeThreads | None = None,
    ) -> Baseline:
        """Remember the present state of this process, of an IPython shell, and what is preloaded.

        `threads` is told of imports, too.
        """
        return cls(shell, preloaded, threads)

    def __init__(
        self, shell: Any, preloaded: ModuleWatch | None, threads: NativeThreads | None
    ) -> None:
        self._shell = None if shell is None else ShellBaseline(shell)
        self._sys = [getattr(sys, name) for name in _SYS_NAMES]
        self._argv = list(sys.argv)
        self._builtins = dict(vars(builtins))
        self._show_warning = (warnings.showwarning, warnings.formatwarning)
        self._signals = [getsignal(number) for number in _SIGNALS]
        self._thread_hooks = (threading.excepthook, threading._profile_hook, threading._trace_hook)  # type: ignore[attr-defined]
        self._threads = Threads()
        self._native_threads = threads
        self._children = Children()
        self._process = ProcessSettings()
        self._path = Items(sys, "path")
        self._environment = Environment()
        self._tracked: list[Tracked] = [
            self._path,
            self._environment,
            Items(warnings, "filters"),
            Items(sys, "meta_path"),
            Items(sys, "path_hooks"),
            Loggers(),
            Attributes(_ATTRIBUTES),
        ]
        self._before_import: dict[Tracked, Any] = {}
        self._before_setup: dict[Tracked, Any] = {}
        #: Settings of libraries that are not loaded yet, by module.
        self._untracked = library_settings()
        for name in self._untracked.keys() & sys.modules.keys():
            self._track(name)
        self._modules = ModuleTable()
        #: A module whose import was interrupted, if there was one.
        self._torn: str | None = None
        self.local_modules = ModuleWatch(preloaded)
        self.capture_place()
        self._steps: list[tuple[str, Callable[[], str | None]]] = [
            ("sys", self._restore_sys),
            ("figures", _close_figures),
            ("settings", self._restore_tracked),
            ("namespace", self._restore_shell),
            ("working folder", self._restore_cwd),
            ("built-in names", self._restore_builtins),
            ("warnings", self._restore_warnings),
            ("process settings", self._restore_process),
            ("classes", _forget_pickled_classes),
            ("random numbers", RANDOMNESS.refresh),
            ("signal handlers", self._restore_signals),
            ("threads", self._threads.check),
            ("children", self._children.check),
            # Last: what was imported until here stays, whoever imported it.
            ("modules", self._restore_modules),
        ]
        IMPORTS.install(self)

    def capture_place(self) -> None:
        """Take the present working folder, path and environment as the worker's own."""
        self._cwd = _get_cwd() or "/"
        self._path.baseline = list(sys.path)
        self._environment.capture()
        if self._shell is not None:
            self._shell.folders = [Path(self._cwd)]

    def setup_begins(self) -> None:
        """What changes from here on is there for every later request."""
        self._before_setup = {tracked: tracked.read() for tracked in self._tracked}

    def setup_ends(self) -> None:
        """Up to here. Not the standard streams and the working folder, which belong to requests."""
        for tracked in self._tracked:
            if tracked in self._before_setup:
                tracked.adopt(self._before_setup[tracked])
        self._before_setup = {}
        self._builtins = dict(vars(builtins))
        self._show_warning = (warnings.showwarning, warnings.formatwarning)
        self._signals = [getsignal(number) for number in _SIGNALS]
        self._thread_hooks = (threading.excepthook, threading._profile_hook, threading._trace_hook)  # type: ignore[attr-defined]
        self._threads.adopt()
        self._children.adopt()
        self._process = ProcessSettings()
        self._modules.adopt()
        self.local_modules.settle()
        CLASSES.keep()
        if self._shell is not None:
            self._shell = self._shell.renewed()

    def find_stale(self, path: Sequence[str] | None, cwd: str | None) -> str | None:
        """Return why a request must not run here, if it must not: a module that was edited.

        Parameters
        ----------
        path, cwd
            Where the request runs, None: where the worker is at home.
        """
        return self.local_modules.find_stale(
            self._path.baseline if path is None else path, self._cwd if cwd is None else cwd
        )

    def restore(self) -> ResetReport:
        """Put everything back."""
        IMPORTS.restart()
        reasons = []
        for what, step in self._steps:
            try:
                reason = step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the process is not as new
                reason = f"{what} could not be restored: {type(error).__name__}: {error}"
            if reason:
                reasons.append(reason)
        return ResetReport("; ".join(reasons) or None)

    # -- what imports do, see `imports` -----------------------------------------------

    def loading(self, spec: ModuleSpec) -> None:
        """A module's code is about to run."""
        self._modules.loaded.add(spec.name)
        self.local_modules.loading(spec)
        if self._native_threads is not None:
            self._native_threads.loading(spec)
        if spec.name in self._untracked:
            self._track(spec.name)

    def _track(self, module: str) -> None:
        self._tracked += self._untracked.pop(module)

    def torn(self, spec: ModuleSpec) -> None:
        """A module's code was interrupted."""
        self._torn = spec.name

    def import_begins(self) -> None:
        """What changes from here on belongs to the module."""
        self._before_import = {tracked: tracked.read() for tracked in self._tracked}
        self._modules.import_begins()

    def import_ends(self) -> None:
        """Up to here."""
        before, self._before_import = self._before_import, {}
        for tracked in self._tracked:
            tracked.adopt(before.get(tracked))
        self._modules.import_ends()
        if self._native_threads is not None:
            self._native_threads.import_ends()

    # -- the steps: each returns why the process must be replaced, or None -------

    def _restore_sys(self) -> str | None:
        if sys.gettrace() is not None:
            sys.settrace(None)
        if sys.getprofile() is not None:
            sys.setprofile(None)
        try:
            same = all(map(operator.is_, _get_sys(sys), self._sys))
        except AttributeError:  # one was deleted
            same = False
        if not same:
            for name, value in zip(_SYS_NAMES, self._sys, strict=True):
                setattr(sys, name, value)
        if not vars(sys).keys().isdisjoint(_LAST):  # `hasattr` is dear for what is not there
            for name in _LAST & vars(sys).keys():
                delattr(sys, name)
        if sys.argv != self._argv:
            sys.argv[:] = self._argv
        hooks = (threading.excepthook, threading._profile_hook, threading._trace_hook)  # type: ignore[attr-defined]
        if hooks != self._thread_hooks:
            threading.excepthook, profile, trace = self._thread_hooks
            threading.setprofile(profile)
            threading.settrace(trace)
        for stream in (sys.stdout, sys.stderr):
            restore = getattr(stream, "restore_descriptor", None)
            if restore is not None:
                restore()
            if getattr(stream, "closed", False):
                return f"it closed sys.{stream.name}"
        return None

    def _restore_tracked(self) -> str | None:
        reasons = [tracked.restore() for tracked in self._tracked]
        return "; ".join(filter(None, reasons)) if any(reasons) else None

    def _restore_process(self) -> str | None:
        self._process.restore()
        return None

    def _restore_shell(self) -> str | None:
        return None if self._shell is None else self._shell.restore()

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
        warnings.showwarning, warnings.formatwarning = self._show_warning
        logging._warnings_showwarning = None  # type: ignore[attr-defined]
        # Also forgets which warnings were shown already: each request shows its own.
        for name in ("_filters_mutated", "_filters_mutated_lock_held"):
            if mutated := getattr(warnings, name, None):
                mutated()
                break
        return None

    def _restore_signals(self) -> str | None:
        now = list(map(getsignal, _SIGNALS))
        if now == self._signals:
            return None
        GATE.install()
        changed = [
            signal.Signals(number).name
            for number, before, after in zip(_SIGNALS, self._signals, now, strict=True)
            if before != after and number != signal.SIGINT
        ]
        return f"the handler of {', '.join(changed)} was changed" if changed else None

    def _restore_modules(self) -> str | None:
        self._modules.restore()
        self.local_modules.settle()
        if self._torn is not None:
            # Its submodules stay, without being its attributes when it is imported again; NumPy,
            # for one, cannot be imported any more.
            return f"the import of {self._torn} was interrupted"
        return None


_SYS_NAMES = [
    name
    for name in (
        *("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"),
        *("argv", "displayhook", "excepthook", "breakpointhook", "unraisablehook"),
        *("ps1", "ps2", "modules", "path_importer_cache"),
    )
    if hasattr(sys, name)
]

_LAST = frozenset({"last_type", "last_value", "last_traceback", "last_exc"})
_get_sys = operator.attrgetter(*_SYS_NAMES)

_ATTRIBUTES: dict[ModuleType, tuple[str, ...]] = {
    sys: ("tracebacklimit", "dont_write_bytecode", "pycache_prefix"),
    tempfile: ("tempdir",),
    logging: ("raiseExceptions", "lastResort", "_loggerClass", "_logRecordFactory"),
    asyncio.events: ("_event_loop_policy",),
}


def _get_cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


# -- what only some requests load ----------------------------------------------------


def _close_figures() -> str | None:
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None and helpers.Gcf.figs:
        helpers.Gcf.destroy_all()
    return None


def _forget_pickled_classes() -> str | None:
    """Drop cloudpickle's memory of classes.

    Without it, a class sent again with other methods would be the old one here.
    Not before the outputs are packed: within a request a class must stay itself.
    """
    CLASSES.reset()
    return None
