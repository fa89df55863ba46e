"""The pool's condition: whether its workers are there, and whether they can be started at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import (
    Breaker,
    BreakerMoved,
    Degraded,
    PoolState,
    Recovered,
    WorkerState,
)
from jupyter_pool.core.state import SEATED
from jupyter_pool.errors import PoolError, PoolNotAvailable

from .answers import degraded_reason
from .settle import start_error

if TYPE_CHECKING:
    from .driver import Driver

__all__ = ["Condition"]


class Condition:
    """Notes how one pool is, and answers those who wait for it to be ready.

    Lives on the I/O thread.

    Attributes
    ----------
    degraded_by
        Why the last start failed, while starts keep failing.
    awaited
        Somebody waits until it is ready.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.degraded_by: object = None
        self.awaited: list[Callable[[PoolError | None], None]] = []

    # -- starts that fail --------------------------------------------------------------------

    def degraded(self, command: Degraded) -> None:
        """Its workers keep failing to start."""
        driver = self._driver
        self.degraded_by = command.reason
        driver.log(logging.ERROR, "degraded: its workers keep failing to start")
        driver.teller.pool("pool_degraded", cause=degraded_reason(driver))

    def recovered(self, _command: Recovered) -> None:
        """They start again."""
        self.degraded_by = None
        self._driver.log(logging.INFO, "recovered")
        self._driver.teller.pool("pool_recovered")

    def breaker_moved(self, command: BreakerMoved) -> None:
        """Starts are trusted less, or again."""
        driver = self._driver
        data: dict[str, Any] = {}
        if command.state is Breaker.OPEN:
            self.degraded_by = command.reason
            retry_at = driver.core.breaker[2]
            data["cause"] = degraded_reason(driver)
            data["next_probe"] = max(0.0, retry_at - time.monotonic())
        driver.teller.breaker(command.state, **data)

    # -- being ready -------------------------------------------------------------------------

    def when_ready(self, answer: Callable[[PoolError | None], None]) -> None:
        """Answer once as many workers are ready as were to be started, or cannot be."""
        self.awaited.append(answer)
        self.look(None)

    def look(self, failure: object) -> None:
        """Answer those who wait if it is time; `failure`: why a start has just failed, if one has."""
        if not self.awaited:
            return
        driver = self._driver
        error: PoolError | None = None
        if driver.core.state in (PoolState.CLOSING, PoolState.CLOSED):
            context = {"pool": driver.name}
            error = PoolNotAvailable(f"pool {driver.name!r} is closed", context=context)
        elif failure is not None and not driver.core.counts().get(WorkerState.STARTING):
            error = start_error(failure, driver.config.start_timeout, {"pool": driver.name})
        elif not self._is_complete():
            return
        waiting, self.awaited = self.awaited, []
        for answer in waiting:
            answer(error)

    def _is_complete(self) -> bool:
        counts, config = self._driver.core.counts(), self._driver.core.config
        ready = sum(counts.get(state, 0) for state in (*SEATED, WorkerState.STANDBY))
        return ready >= (0 if config.lazy else config.size) + config.reserve
