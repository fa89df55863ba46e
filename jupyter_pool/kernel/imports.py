"""What imports do to a process, told from what the code of a request does.

A module is imported once and stays, so what its import changed stays with it: its warning filters,
loggers, environment variables, entries of `sys.path`. What a request changes itself is undone. To
tell the two apart, whoever wants to know is called when the outermost import of the main thread
begins and ends, and with the spec of each module just before its code runs.

Leans on importlib: `_bootstrap._load_unlocked` runs what every kind of import loads, `_bootstrap._exec`
what `importlib.reload` does; and tracebacks lose the frames whose file is importlib's, so that users
see none of ours (checked on CPython 3.10, 3.11 and 3.13).
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from importlib.machinery import ModuleSpec
from typing import Any, Protocol

__all__ = ["IMPORTS", "ImportHook", "ImportListener"]

_BOOTSTRAP: Any = getattr(importlib, "_bootstrap")  # noqa: B009 - typeshed does not know it

_SOURCE = """
def _load_unlocked(spec):
    hook.begin(spec)
    try:
        return load(spec)
    except BaseException as error:
        hook.failed(spec, error)
        raise
    finally:
        hook.end()

def _exec(spec, module):
    hook.begin(spec)
    try:
        return execute(spec, module)
    except BaseException as error:
        hook.failed(spec, error)
        raise
    finally:
        hook.end()
"""


class ImportListener(Protocol):
    """Wants to know what is imported. Its methods must be quick, and not import anything."""

    def loading(self, spec: ModuleSpec) -> None:
        """The code of this module is about to run, in any thread."""

    def torn(self, spec: ModuleSpec) -> None:
        """The code of this module was interrupted: what it had imported stays, itself it does not."""

    def import_begins(self) -> None:
        """The outermost import of the main thread begins."""

    def import_ends(self) -> None:
        """It has ended, well or not: what it had imported itself by then stays."""


class ImportHook:
    """Tells a listener what is imported, from `install` on, as long as the process lives."""

    def __init__(self) -> None:
        self._listener: ImportListener | None = None
        self._main = threading.main_thread().ident
        self._depth = 0

    def install(self, listener: ImportListener) -> None:
        """Start to listen; the last listener is the one that is told."""
        if self._listener is None:
            found = vars(_BOOTSTRAP)
            names = {
                "hook": self,
                "load": found["_load_unlocked"],
                "execute": found["_exec"],
            }
            exec(compile(_SOURCE, _LOADER_FILE, "exec"), names)  # noqa: S102 - the text above
            for name in ("_load_unlocked", "_exec"):
                found[name] = names[name]
        self._listener = listener

    def restart(self) -> None:
        """No import is under way; an interrupt may have torn the count."""
        self._depth = 0

    # -- called by the code above; whatever goes wrong here must not fail the import ---------------

    def begin(self, spec: ModuleSpec) -> None:
        """A module is about to be loaded."""
        listener = self._listener
        assert listener is not None
        with contextlib.suppress(Exception):
            listener.loading(spec)
        if threading.get_ident() == self._main:
            self._depth += 1
            if self._depth == 1:
                with contextlib.suppress(Exception):
                    listener.import_begins()

    def failed(self, spec: ModuleSpec, error: BaseException) -> None:
        """Its code has raised."""
        if not isinstance(error, Exception):
            listener = self._listener
            assert listener is not None
            with contextlib.suppress(Exception):
                listener.torn(spec)

    def end(self) -> None:
        """It is loaded, or has failed."""
        if threading.get_ident() != self._main:
            return
        self._depth = max(0, self._depth - 1)
        if self._depth == 0:
            listener = self._listener
            assert listener is not None
            with contextlib.suppress(Exception):
                listener.import_ends()


_LOADER_FILE = _BOOTSTRAP._load_unlocked.__code__.co_filename

#: The one of this process.
IMPORTS = ImportHook()
