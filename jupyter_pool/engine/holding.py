"""What `Lease` and `AsyncLease` share: taking a worker, giving it back, and who forgot to.

A lease that is dropped without being given back ends when it is collected: its worker is reset and
serves others, and the one who borrowed it is named, with the stack of that moment.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
import weakref
from collections.abc import Mapping
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import InvalidRequest

from .calls import Guarded
from .face import PoolFace, prepare

if TYPE_CHECKING:
    from .driver import Driver
    from .request import Request, Sink

__all__ = ["Borrower", "Holding"]

#: How many calls of a borrower's stack are kept, the innermost ones.
_DEPTH = 16

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class Borrower:
    """Where a lease was taken: cheap to note (no source is read), readable when asked."""

    def __init__(self) -> None:
        self._calls: list[tuple[CodeType, int | None]] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and len(self._calls) < _DEPTH:
            if not frame.f_code.co_filename.startswith(_PACKAGE):
                self._calls.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back

    def stack(self, *, source: bool = True) -> str:
        """As in a traceback: the most recent call last. Without `source` no line of code is shown."""
        text = []
        for code, line in reversed(self._calls):
            name = code.co_filename
            text_of_line = None if source else ""
            frame = traceback.FrameSummary(name, line or 0, code.co_name, line=text_of_line)
            (call,) = traceback.format_list([frame])
            if cell := _name_of_cell(name):
                call = call.replace(f'File "{name}"', cell)
            text.append(call)
        return "".join(text).rstrip()

    def __str__(self) -> str:
        if not self._calls:
            return "unknown"
        code, line = self._calls[0]
        cell = _name_of_cell(code.co_filename)
        return f"{cell}, line {line}" if cell else f"{code.co_filename}:{line} in {code.co_name}"


def _name_of_cell(filename: str) -> str | None:
    """``Cell In[3]``, if the code is a cell of the notebook that we run in."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    name = shell.compile.format_code_name(filename) if shell is not None else None
    return " ".join(name) if name else None


class Holding:
    """An exclusive hold on one worker, from ``with`` to its end."""

    def __init__(
        self, pool: PoolFace, presets: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._pool = pool
        self._presets = presets
        self._options = options
        self._held: Request | None = None
        self._driver: Driver | None = None
        self._fresh = True
        self._forgotten: weakref.finalize[Any, Any] | None = None
        #: The id of the worker that is held; None before and after.
        self.worker_id: int | None = None

    def _make_hold(self, sink: Sink) -> Request:
        """The request that asks for a worker."""
        if self._held is not None:
            raise InvalidRequest(
                "this lease is held already: each `with` takes a pool.checkout() of its own"
            )
        request = prepare(
            self._pool,
            self._presets,
            sink,
            "",
            limits=True,
            is_lease=True,
            carry_context=False,
            **{**self._options, "timeout": None},
        )
        request.borrower = Borrower()
        return request

    def _take(self, driver: Driver, request: Request) -> None:
        """It is ours from now on, until it is given back or this object is forgotten."""
        self._forgotten = weakref.finalize(self, _take_back, driver, request)
        self._forgotten.atexit = False
        self._held, self._driver, self._fresh = request, driver, True
        self.worker_id = request.worker_id

    def _give_up(self, driver: Driver, request: Request) -> None:
        """Entering was cut short: whether it waits or is held by now, it is over."""
        self._let_go()
        driver.cancel_soon(request.id)

    def _give_back(self) -> None:
        request, driver = self._held, self._driver
        self._let_go()
        if request is not None and driver is not None:
            driver.engine.post(lambda: driver.return_lease(request.id))

    def _let_go(self) -> None:
        self._held = self.worker_id = None
        if self._forgotten is not None:
            self._forgotten.detach()
            self._forgotten = None

    def _make_run(
        self, sink: Sink, code: str, show: Guarded | None, options: Mapping[str, Any]
    ) -> Request:
        """A request that runs on the worker that is held."""
        assert self._held is not None
        # Where the caller is holds for the beginning; after that the lease's own code decides.
        first, self._fresh = self._fresh, False
        own = ("timeout", "output_limit")
        presets = {name: self._presets[name] for name in own if name in self._presets}
        return prepare(
            self._pool,
            presets,
            sink,
            code,
            limits=True,
            show=show,
            session_id=self._held.session_id,
            lease=self._held.id,
            carry_context=first,
            **options,
        )

    def _ran(self, request: Request) -> None:
        """The first run may have been moved to another worker, where the first was out of date."""
        if self._held is not None and request.worker_id is not None:
            self.worker_id = request.worker_id

    def _check_held(self, how: str) -> None:
        """Raise InvalidRequest unless it is held."""
        if self._held is None:
            raise InvalidRequest(f"this lease is not held: use it within `{how} pool.checkout()`")


def _take_back(driver: Driver, request: Request) -> None:
    """Nobody can give it back any more."""
    if os.getpid() != driver.engine.pid:
        return
    driver.engine.post(lambda: driver.return_lease(request.id))
    stack = request.borrower.stack() if request.borrower else ""
    text = (
        f"a lease was never given back: worker {request.worker_id} is taken back and reset;"
        " use `with pool.checkout()`. Borrowed at (most recent call last):"
    )
    # A log goes further than a warning does: no code of users' in it.
    where = request.borrower.stack(source=False) if request.borrower else ""
    driver.log(logging.WARNING, text, request=request, stack=where)
    warnings.warn(f"pool {driver.name}: {text}\n{stack}", ResourceWarning, stacklevel=2)
