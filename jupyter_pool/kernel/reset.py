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

Harmless ones among threads and children are named in `leftovers`.
"""

from __future__ import annotations

import builtins
import faulthandler
import gc
import locale
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.leftovers import check_children, check_threads
from jupyter_pool.kernel.randomness import seed_random
from jupyter_pool.kernel.reset_shell import ShellBaseline

__all__ = ["Baseline", "ResetReport"]

# The public one makes enum members: 90 µs for all signals instead of 5.
getsignal = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)

_SIGNALS = tuple(number for number in range(1, signal.NSIG) if number in signal.valid_signals())


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
            ("threads", lambda: check_threads(self._threads)),
            ("children", check_children),
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
            os.environ = self._environ  # noqa: B003 - not cleared, put back
        if _raw_environ() == self._env:
            return None
        now = dict(_raw_environ())
        decode = getattr(os.environ, "decodekey", str)
        decode_value = getattr(os.environ, "decodevalue", str)
        changed = {
            key for key in now.keys() | self._env.keys() if now.get(key) != self._env.get(key)
        }
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


_SYS_NAMES = [
    name
    for name in (
        *("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"),
        *("path", "argv", "displayhook", "excepthook", "breakpointhook", "unraisablehook"),
        *("ps1", "ps2"),
    )
    if hasattr(sys, name)
]


def _get_cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _raw_environ() -> Any:
    # The mapping behind os.environ (CPython 3.10 to 3.14): comparing it costs
    # 2 µs, decoding every variable 50.
    return getattr(os.environ, "_data", os.environ)


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
