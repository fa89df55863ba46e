"""Whether a worker is as new: what it keeps and for whom, and why another process had better take over.

request ─▶ find_refusal ─▶ prepare ─▶ runs ─┬─▶ reset: as new again
│                           ├─▶ kept, for who has the lease
└─▶ refused: a reason       └─▶ a reason why the process should be replaced
"""

from __future__ import annotations

import os
import sys
from typing import Any

from jupyter_pool.kernel.comms import forget_comms
from jupyter_pool.kernel.leftovers import cancel_at_once, cancel_tasks
from jupyter_pool.kernel.modules import ModuleWatch
from jupyter_pool.kernel.randomness import seed_random
from jupyter_pool.kernel.request import BadRequest, PoolRequest
from jupyter_pool.kernel.reset import Baseline
from jupyter_pool.kernel.threads import NativeThreads

__all__ = ["Freshness"]


class Freshness:
    """Prepares a worker for each request, and makes it as new after it.

    Attributes
    ----------
    baseline
        How it looks before any request; None: it was not captured yet, and nothing is reset.
    kept_for
        The scope for which the last request left its state, if it did.
    spent
        Why this process should be replaced, once a call has been answered that left it so.
    """

    def __init__(self, shell: Any, comm_manager: Any, threads: NativeThreads) -> None:
        self._shell = shell
        self._comm_manager = comm_manager
        self._threads = threads
        self.baseline: Baseline | None = None
        self.spent: str | None = None
        self.kept_for: str | None = None

    def capture(self, preloaded: ModuleWatch | None) -> None:
        """Remember how this worker looks, with the modules that it has by then."""
        self.baseline = Baseline.capture(self._shell, preloaded, self._threads)

    # -- before a request --------------------------------------------------------------------

    def find_refusal(self, request: PoolRequest) -> str | None:
        """Why a call must run in another process, or None."""
        recycle = self._find_stale(request)
        if self.kept_for is not None and request.scope != self.kept_for:
            # What the last request was allowed to keep is not for this one.
            if not cancel_at_once():
                return "it was left with tasks that run"
            recycle = self.restore() or recycle
            self.kept_for = None
        return recycle

    async def find_refusal_of_cell(self, request: PoolRequest) -> str | None:
        """The same of a cell, which can wait until tasks are gone."""
        recycle = self._find_stale(request)
        if self.kept_for is not None and request.scope != self.kept_for:
            recycle = await self.reset() or recycle
        return recycle

    def _find_stale(self, request: PoolRequest) -> str | None:
        """Why the request must run in another process; not within a lease, whose state stays."""
        if self.spent is not None:
            return self.spent
        goes_on = request.keep and request.scope == self.kept_for
        if self.baseline is None or request.reset or request.baseline or goes_on:
            return None
        return self.baseline.find_stale(request.path, request.cwd)

    def prepare(self, request: PoolRequest) -> None:
        """Go where the request wants to run, with as many threads, and seed. Raises BadRequest."""
        if request.cwd is not None:
            try:
                os.chdir(request.cwd)
            except OSError as error:
                raise BadRequest(
                    f"the working folder {request.cwd!r} cannot be entered: {error.strerror}"
                ) from error
        if request.path is not None and sys.path != list(request.path):
            sys.path[:] = request.path
        for name, value in (request.env or {}).items():
            try:
                if value is None:
                    os.environ.pop(name, None)
                elif os.environ.get(name) != value:
                    os.environ[name] = value
            except (TypeError, ValueError, OSError) as error:
                raise BadRequest(f"the variable {name!r} cannot be set: {error}") from error
        self._threads.limit(request.threads)
        if request.seed is not None:
            seed_random(request.seed)
        if request.execution_count is not None:
            self._shell.execution_count = request.execution_count
        elif not request.keep and self._shell.execution_count != 1:
            self._shell.execution_count = 1  # a trait, dear to set

    # -- after it ----------------------------------------------------------------------------

    async def reset(self) -> str | None:
        """Make the worker as new. Return why this process should be replaced, or None."""
        if self.baseline is None:
            return None
        reasons = (await self.cancel_tasks(), self.restore())
        return "; ".join(filter(None, reasons)) or None

    async def cancel_tasks(self) -> str | None:
        """Return why this process should be replaced, or None."""
        try:
            return await cancel_tasks()
        except Exception as error:  # noqa: BLE001 - whatever it is, they may still run
            return f"its tasks could not be cancelled: {error!r}"

    def restore(self) -> str | None:
        """Reset all but tasks. Return why this process should be replaced, or None."""
        forget_comms(self._comm_manager)
        return None if self.baseline is None else self.baseline.restore().recycle
