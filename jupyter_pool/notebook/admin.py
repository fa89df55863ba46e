"""The line magics that start, show, change and stop pools."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class, output_can_be_silenced
from IPython.display import display

from jupyter_pool.errors import InvalidRequest, PoolNotAvailable

from .commands import PARSERS, start_options
from .jobs import Job, JobsTable
from .render import OptionsTable, SessionsTable

if TYPE_CHECKING:
    import argparse

    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.reports import HealthReport, PoolStats, PoolStatus, SessionInfo
    from jupyter_pool.results import ExecutionResult

    from .magics import PoolMagics
    from .sweep import Sweep

__all__ = ["PoolAdminMagics"]


def _command(function: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Make a line magic of it, with the help of its parser and misuse as `UsageError`."""

    @wraps(function)
    def run(self: PoolAdminMagics, line: str) -> Any:
        try:
            return function(self, line.strip().removesuffix(";"))
        except (InvalidRequest, PoolNotAvailable) as error:
            text = str(error).partition("\n")[0]
            raise UsageError(f"%{function.__name__}: {text}") from None

    run.__doc__ = PARSERS[function.__name__].format_help()
    return cast("Callable[[Any, str], Any]", output_can_be_silenced(line_magic(run)))


@magics_class
class PoolAdminMagics(Magics):
    """`%pool_start`, `%pool_status` and the like."""

    def __init__(self, shell: InteractiveShell, magics: PoolMagics) -> None:
        super().__init__(shell)
        self._shell = shell  # `shell` may be None, says its type
        self._magics = magics
        self._pools = magics.pools

    @staticmethod
    def _parse(magic: str, line: str) -> argparse.Namespace:
        return PARSERS[magic].parse(line)

    @_command
    def pool_start(self, line: str) -> PoolStatus:
        return self._pools.start(start_options(line)).get_status()

    @_command
    def pool_stop(self, line: str) -> None:
        given = self._parse("pool_stop", line)
        self._pools.stop(self._pools.find(given.pool), given.timeout)

    @_command
    def pool_status(self, line: str) -> PoolStatus:
        given = self._parse("pool_status", line)
        pool = self._pools.find(given.pool)
        if given.check:
            display(pool.health_check())
        return pool.get_status()

    @_command
    def pool_stats(self, line: str) -> PoolStats:
        return self._pools.find(self._parse("pool_stats", line).pool).get_stats()

    @_command
    def pool_sessions(self, line: str) -> SessionsTable | SessionInfo:
        given = self._parse("pool_sessions", line)
        pool = self._pools.find(given.pool)
        sessions = pool.sessions
        if given.id is None:
            return SessionsTable(pool.name, sessions)
        if given.id not in sessions:
            close = difflib.get_close_matches(given.id, list(sessions), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(
                f"%pool_sessions: pool {pool.name!r} has no session {given.id!r}{hint}"
            )
        return sessions[given.id]

    @_command
    def pool_health(self, line: str) -> HealthReport:
        return self._pools.find(self._parse("pool_health", line).pool).health_check()

    @_command
    def pool_resize(self, line: str) -> PoolStatus:
        given = self._parse("pool_resize", line)
        if given.positional is not None and given.size is not None:
            raise UsageError("%pool_resize: the size is given twice")
        size = given.positional if given.positional is not None else given.size
        if size is None and given.overflow is None:
            raise UsageError("%pool_resize: it takes a size, --overflow N, or both")
        pool = self._pools.find(given.pool)
        pool.resize(size=size, overflow=given.overflow)
        return pool.get_status()

    @_command
    def pool_restart(self, line: str) -> None:
        given = self._parse("pool_restart", line)
        self._pools.find(given.pool).restart_worker(given.worker)

    @_command
    def pool_drain(self, line: str) -> None:
        self._pools.find(self._parse("pool_drain", line).pool).drain()

    @_command
    def pool_monitor(self, line: str) -> Any:
        from .feed import meant
        from .monitor import show

        given = self._parse("pool_monitor", line)
        name = given.pool
        return show(
            self._shell,
            lambda: name or meant(self._pools.default),
            lambda: self._pools.for_running(name),
            html=given.html,
        )

    @_command
    def pool_jobs(self, line: str) -> JobsTable:
        self._parse("pool_jobs", line)
        return JobsTable(self._magics.jobs.values(), self._magics.holds.by_name)

    def _jobs(self, names: list[str]) -> list[Job]:
        return [self._magics.jobs.find(name) for name in dict.fromkeys(names)]

    @_command
    def pool_wait(self, line: str) -> None:
        given = self._parse("pool_wait", line)
        jobs = self._jobs(given.jobs) or self._magics.jobs.running
        end = None if given.timeout is None else time.monotonic() + given.timeout
        for job in jobs:
            job.wait(None if end is None else max(0.0, end - time.monotonic()))
        if late := [job.name for job in jobs if not job.done()]:
            raise TimeoutError(
                f"still running after {given.timeout:g} s: {', '.join(late)}. Nothing was stopped."
            )
        for job in jobs:
            job.deliver()
        for job in jobs:  # the first failure is raised; the others are told before the next cell
            job.result(0)

    @_command
    def pool_cancel(self, line: str) -> None:
        given = self._parse("pool_cancel", line)
        if bool(given.jobs) == given.all:
            raise UsageError("%pool_cancel: it takes names of jobs, or --all")
        jobs, holds = self._magics.jobs, self._magics.holds.by_name
        # All of them are looked up before anything ends.
        names = holds if given.all else [name for name in given.jobs if name in holds]
        found = (
            [*jobs.running, *jobs.held]
            if given.all
            else self._jobs([name for name in given.jobs if name not in holds])
        )
        for job in found:
            job.cancel()
        for name in names:
            holds[name].end()

    @_command
    def pool_last(self, line: str) -> ExecutionResult | Sweep:
        self._parse("pool_last", line)
        if self._magics.last is None:
            raise UsageError("%pool_last: nothing has been run with %pool_exec yet")
        return self._magics.last

    @_command
    def pool_config(self, line: str) -> OptionsTable:
        from jupyter_pool.config import PoolConfig
        from jupyter_pool.pool import list_pools

        given = self._parse("pool_config", line)
        name = given.pool or self._pools.default
        if given.pool is None and name not in list_pools():
            return OptionsTable("Options of a new pool", PoolConfig.build())
        return OptionsTable(f"Options of pool {name}", self._pools.find(name).config)
