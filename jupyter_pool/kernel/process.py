"""Settings of the process and of the interpreter that are not attributes of a module."""

from __future__ import annotations

import faulthandler
import gc
import locale
import os
import signal
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

__all__ = ["ProcessSettings"]

# The public ones make enum members.
_signal: Any = sys.modules.get("_signal", signal)


# As locale.setlocale, less a few microseconds.
_get_locale = partial(
    getattr(sys.modules.get("_locale"), "setlocale", locale.setlocale), locale.LC_ALL
)


class _Setting(NamedTuple):
    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


class ProcessSettings:
    """What the process was like, and how to make it so again. Each look costs under a microsecond."""

    def __init__(self) -> None:
        self._settings = list(_settings())
        self._reads = [setting.read for setting in self._settings]
        self._before = [read() for read in self._reads]
        self._locale = _get_locale()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._faulthandler = faulthandler.is_enabled()

    def restore(self) -> None:
        """Put back what differs.

        Raises
        ------
        OSError, ValueError
            The system does not let us: a limit was lowered for good, say.
        """
        now = [read() for read in self._reads]
        if now != self._before:
            for setting, before, after in zip(self._settings, self._before, now, strict=True):
                if before != after:
                    _write(setting, before)
        os.umask(self._umask)
        if _get_locale() != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        faulthandler.cancel_dump_traceback_later()
        if self._faulthandler and not faulthandler.is_enabled():
            # As installed by the application, which knows the real stderr.
            faulthandler.enable()
        if tracemalloc.is_tracing():
            tracemalloc.stop()


def _write(setting: _Setting, value: Any) -> None:
    try:
        setting.write(value)
    except OSError as error:
        raise OSError(error.errno, f"{setting.name}: {error.strerror}") from error


def _settings() -> Iterator[_Setting]:
    yield _Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield _Setting("switch interval", sys.getswitchinterval, sys.setswitchinterval)
    if hasattr(sys, "get_int_max_str_digits"):
        yield _Setting("digits", sys.get_int_max_str_digits, sys.set_int_max_str_digits)
    yield _Setting("garbage collector", gc.isenabled, _switch_gc)
    yield _Setting("its thresholds", gc.get_threshold, lambda value: gc.set_threshold(*value))
    yield _Setting("its debugging", gc.get_debug, gc.set_debug)
    yield _Setting("stack size of threads", threading.stack_size, threading.stack_size)
    yield _Setting("timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout)
    if hasattr(_signal, "getitimer"):
        for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"):
            which = int(getattr(signal, name))
            yield _Setting(name, partial(_signal.getitimer, which), partial(_disarm, which))
    if hasattr(_signal, "pthread_sigmask"):
        yield _Setting(
            "signal mask",
            partial(_signal.pthread_sigmask, signal.SIG_BLOCK, ()),
            lambda value: _signal.pthread_sigmask(signal.SIG_SETMASK, value),
        )
    if hasattr(os, "getpriority"):
        yield _Setting(
            "nice value",
            partial(os.getpriority, os.PRIO_PROCESS, 0),
            lambda value: os.setpriority(os.PRIO_PROCESS, 0, value),
        )
    if hasattr(os, "sched_getaffinity"):
        yield _Setting(
            "CPUs", partial(os.sched_getaffinity, 0), lambda value: os.sched_setaffinity(0, value)
        )
    monitoring: Any = getattr(sys, "monitoring", None)  # Python 3.12
    if monitoring is not None:
        yield _Setting(
            "monitoring tools",
            lambda: [monitoring.get_tool(i) for i in range(6)],
            lambda before: _free_tools(monitoring, before),
        )


def _disarm(which: int, _: object) -> None:
    _signal.setitimer(which, 0.0)


def _switch_gc(on: bool) -> None:
    (gc.enable if on else gc.disable)()


def _free_tools(monitoring: Any, before: list[str | None]) -> None:
    for number, name in enumerate(before):
        if name is None and monitoring.get_tool(number) is not None:
            monitoring.set_events(number, 0)
            # Before Python 3.14 freeing an id leaves its callbacks to whoever takes it next.
            for event in filter(None, vars(monitoring.events).values()):
                monitoring.register_callback(number, event, None)
            monitoring.free_tool_id(number)
