"""Background cells: the jobs of a notebook, by name.

    %%pool_exec --bg train ──▶ Jobs.add ──▶ Run (a request, or a sweep of them) ──▶ the pool
            │                                  │ outputs, its end (threads of the pool)
            ▼                                  ▼
       LiveDisplay ◀── bundle ── Job ◀── wakes ── Ticker (one thread for all jobs)

The state is in this process: a job knows all its outputs, so that showing it anywhere shows
everything from the start and goes on live.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from jupyter_pool import _reprs
from jupyter_pool.errors import PoolError

from .batch import runs_in_batch
from .holding import how_long
from .job import Job, Run
from .live import elapsed
from .ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from .hold import Hold

__all__ = ["Job", "Jobs", "JobsTable", "snapshot", "waits_for_background"]

#: How long the end of the extension, or a Ctrl-C, waits for cancelled jobs, in seconds.
_CANCEL_TIMEOUT = 10.0

_VARIABLE = "JUPYTER_POOL_BG"


def waits_for_background() -> bool:
    """Whether background cells are waited for, as runners of notebooks want it.

    As the variable says; without it, by who has started this kernel.

    Raises
    ------
    UsageError
        The variable has a value that means nothing.
    """
    value = os.environ.get(_VARIABLE, "")
    if value not in ("", "wait", "return"):
        raise UsageError(
            f"{_VARIABLE}={value!r} is not possible: it takes wait, return, or nothing"
        )
    return runs_in_batch() if not value else value == "wait"


class Jobs:
    """The jobs of one shell, by name, the oldest first."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._jobs: dict[str, Job] = {}
        self._ticker = Ticker()
        self._hooked = False

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._jobs))

    def values(self) -> list[Job]:
        """All of them."""
        return list(self._jobs.values())

    @property
    def running(self) -> list[Job]:
        """Those that have not ended."""
        return [job for job in self.values() if not job.done()]

    @property
    def held(self) -> list[Job]:
        """Those that have ended and hold a worker for their widgets."""
        return [job for job in self.values() if job.held]

    def count_held(self, pool: object) -> int:
        """How many workers of a pool they hold which others wait for."""
        return sum(job.keeps_waiting(pool) for job in self.values())

    def find(self, name: str) -> Job:
        """Return a job.

        Raises
        ------
        UsageError
            There is none of that name; says which there are.
        """
        if name not in self._jobs:
            known = f"there are {', '.join(self._jobs)}" if self._jobs else "there are none"
            raise UsageError(f"no job is called {name!r}; {known}")
        return self._jobs[name]

    def name_for(self, wanted: str) -> str:
        """Return the name for a new job, before anything is started.

        Raises
        ------
        UsageError
            A job that runs has it, or a variable that is something else.
        """
        if not wanted:
            number = 1
            while f"job{number}" in self._shell.user_ns:
                number += 1
            return f"job{number}"
        if wanted in self._jobs and not self._jobs[wanted].done():
            raise UsageError(
                f"%%pool_exec: --bg {wanted}: a job of that name is running; "
                f"%pool_cancel {wanted} stops it, %pool_wait {wanted} waits for it"
            )
        if not isinstance(self._shell.user_ns.get(wanted), Job | None):
            raise UsageError(
                f"%%pool_exec: --bg {wanted}: this notebook has a variable of that name, which the "
                "job would replace: choose another"
            )
        return wanted

    def let_go(self, name: str, cell: object) -> None:
        """Job `name` of a cell is to come: an earlier one of either holds no worker any more."""
        for job in self.values():
            if job.name == name or (cell is not None and job.cell == cell):
                job.let_go()

    def add(
        self,
        name: str,
        run: Run,
        *,
        cell: object = None,
        wait: bool = False,
        quiet: bool = False,
    ) -> Job:
        """Start a job and show it; the notebook's variable of that name holds it.

        With `wait` it is shown when it has ended.
        """
        from jupyter_pool.engine.face import uninterrupted  # loading the magics loads no engine

        job = Job(name, run, self._shell, cell)
        self._hook()
        self._jobs.pop(name, None)  # the new one comes last
        self._jobs[name] = job
        self._shell.push({name: job})
        try:
            # Whatever was sent when a Ctrl-C comes is known, and can be cancelled.
            uninterrupted(partial(job.begin, self._ticker.wake))
        except BaseException:
            job.cancel()
            del self._jobs[name], self._shell.user_ns[name]
            raise
        if wait:
            try:
                job.wait()
            except BaseException:  # Ctrl-C: here somebody waits for it, so it ends with that
                job.cancel()
                job.wait(_CANCEL_TIMEOUT)
                raise
            job.deliver()
        if not quiet:
            job.show()
        job.follow()
        return job

    def unload(self) -> None:
        """Cancel what runs and leave nothing behind."""
        running = self.running
        for job in running:
            job.seen = True
            job.cancel()
        for job in running:
            job.wait(_CANCEL_TIMEOUT)
        self._ticker.close(_CANCEL_TIMEOUT)
        for job in self.values():
            job.let_go()
            job.close()
        if self._hooked:
            self._hooked = False
            self._shell.events.unregister("pre_run_cell", self._before_cell)
        self._jobs.clear()
        _known.discard(self)

    def _hook(self) -> None:
        global _registered
        if not self._hooked:
            self._hooked = True
            self._shell.events.register("pre_run_cell", self._before_cell)
        _known.add(self)
        if not _registered:
            # After the pool's own, so before it: that one would wait for what runs.
            _registered = True
            getattr(threading, "_register_atexit", _at_exit_late)(_cancel_all)

    def _before_cell(self, info: object = None) -> None:
        for job in self.values():
            if not job.done():
                continue
            if text := job.announcement():
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
            try:
                job.deliver()
            except PoolError as error:
                sys.stderr.write(f"[{job.name}] {error}\n")


_known: weakref.WeakSet[Jobs] = weakref.WeakSet()
_registered = False


def _at_exit_late(function: Callable[[], None]) -> None:
    import atexit

    atexit.register(function)


def _cancel_all() -> None:
    """The process ends, and nobody would see what its jobs do."""
    for jobs in list(_known):
        for job in jobs.running:
            job.cancel()


def snapshot() -> list[dict[str, Any]]:
    """Every job of this process: name, state, done, total, elapsed (in seconds)."""
    return [job.snapshot() for jobs in list(_known) for job in jobs.values()]


class JobsTable:
    """What `%pool_jobs` shows: jobs, and then the cells that hold a worker, by name."""

    def __init__(self, jobs: Iterable[Job], holds: Mapping[str, Hold]) -> None:
        self._rows = []
        for job in jobs:
            told = job.snapshot()
            part = f"{told['done']} of {told['total']}"
            live = f"live {job.held}" if job.held else ""
            self._rows.append((job.name, told["state"], part, elapsed(told["elapsed"]), live))
        for name, hold in holds.items():
            since = elapsed(time.monotonic() - hold.began)
            self._rows.append((name, "held", "", since, f"live {how_long(hold.seconds)}"))

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return _reprs.text_table(_HEADERS, self._rows) if self._rows else _NO_JOBS

    def _repr_html_(self) -> str:
        shown = _reprs.table(_HEADERS, self._rows) if self._rows else _reprs.line(_NO_JOBS)
        return f"<div>{shown}</div>"


_HEADERS = ("job", "state", "done", "elapsed", "widgets")
_NO_JOBS = "no jobs; %%pool_exec --bg NAME starts one"
