"""Where code runs: working folder, module path and environment of the caller, sent when they differ.

A worker starts with those of its owner when the pool was made. A notebook may change them later
(``os.chdir``, ``sys.path.append``, ``%env``); a request carries what differs, so that its code finds
the same modules and files as the cell would at home.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jupyter_pool._cpus import THREAD_VARIABLES


class Surroundings:
    """A pool's baseline, and the difference of now to it."""

    def __init__(self, cwd: str | None, env: Mapping[str, str | None]) -> None:
        self._fixed_cwd = cwd
        self._fixed_env = dict(env)
        self._owner_env = dict(os.environ)
        self._raw_env = dict(_raw(os.environ))
        self.cwd = cwd or _cwd() or os.path.expanduser("~")
        self._raw_cwd = os.fsencode(self.cwd)
        self._find_raw_cwd = _make_raw_cwd()
        self.path = list(sys.path)
        self.env = _merged(self._owner_env, self._fixed_env)
        #: The user has said how many threads numeric libraries may use.
        self.bounds_threads = not self.env.keys().isdisjoint(THREAD_VARIABLES)

    def baseline(self) -> dict[str, Any]:
        """What a new worker is told once: its starting point and what it returns to."""
        return {
            "v": 1,
            "baseline": True,
            "cwd": self.start_folder(),
            "path": self.path,
            # The process was started with the environment already.
            "env": None,
        }

    def start_folder(self) -> str:
        """Where a new worker starts: the pool's folder, or home if that was removed meanwhile."""
        return self.cwd if os.path.isdir(self.cwd) else os.path.expanduser("~")

    def difference(self) -> dict[str, Any]:
        """What differs from the baseline in the caller's process now; mostly nothing."""
        found: dict[str, Any] = {}
        if self._fixed_cwd is None and self._find_raw_cwd() != self._raw_cwd:
            cwd = _cwd()
            if cwd is not None and cwd != self.cwd:
                found["cwd"] = cwd
        if sys.path != self.path:
            found["path"] = [os.fspath(entry) for entry in sys.path]
        if _raw(os.environ) != self._raw_env:
            now = dict(os.environ)
            changed: dict[str, str | None] = {
                name: value for name, value in now.items() if self._owner_env.get(name) != value
            }
            changed.update((name, None) for name in self._owner_env if name not in now)
            # The pool's own `env` option goes first.
            found["env"] = {
                name: value for name, value in changed.items() if name not in self._fixed_env
            }
        return found


def _raw(environ: Any) -> Any:
    # The mapping behind os.environ (CPython 3.10 to 3.14): comparing it costs 2 µs, decoding 40.
    return getattr(environ, "_data", environ)


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed under us
        return None


def _make_raw_cwd() -> Callable[[], bytes | None]:
    """As `os.getcwdb`, without letting go of the interpreter for it.

    Others may take it then, for up to 5 ms: where calls are submitted one after another, and the I/O
    thread has much to do, that is dearer than all the rest.
    """
    try:
        import ctypes

        getcwd = ctypes.PyDLL(None).getcwd
        buffer = ctypes.create_string_buffer(4096)
    except (ImportError, OSError, AttributeError, TypeError):
        return lambda: None
    getcwd.restype = ctypes.c_void_p

    def raw_cwd() -> bytes | None:
        return buffer.value if getcwd(buffer, 4096) else None

    return raw_cwd


def _merged(env: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    merged = dict(env)
    for name, value in changes.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged
