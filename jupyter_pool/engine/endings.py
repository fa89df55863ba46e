"""How requests end: what is known of an end is put together, counted, told, and handed to who waits.

Receiver ── landed ──▶ Flight ─┐
core ────── Finish ────────────┼──▶ Completion ──▶ accounting, events, log, sink
pool: exits, facts ────────────┘
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import START_TIMED_OUT, Finish, Outcome

from .answers import breaker, busy_workers
from .log import LOGGER
from .memory import OomWatch
from .memory_watch import Excess
from .request import Completion, Request
from .settle import succeeded
from .staffing import StartFailure, hanging_setup

if TYPE_CHECKING:
    from .driver import Driver
    from .flights import Flight

__all__ = ["Endings"]


class Endings:
    """Ends one pool's requests. Lives on the I/O thread."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        #: What has landed of requests that the core has not ended yet.
        self._flights: dict[str, Flight] = {}
        self._oom = OomWatch()

    def landed(self, flight: Flight) -> None:
        """A request has its reply and its idle status."""
        assert flight.request is not None
        if flight.request.id in self._driver.requests:
            self._flights[flight.request.id] = flight

    def finish(self, command: Finish) -> None:
        """A request has ended."""
        driver = self._driver
        request = driver.requests.pop(str(command.request_id))
        if driver.memory is not None and command.worker_id is not None:
            driver.watch_memory(command.worker_id)
        if request.comms and (link := driver.links.get(command.worker_id or 0)) is not None:
            link.receiver.traffic.end(request)
        flight = self._flights.pop(request.id, None)
        if flight is None and command.worker_id is not None:
            flight = self._unfinished_flight(command.worker_id, request)
        now = time.monotonic()
        well = _went_well(command, flight)
        completion = Completion(
            request,
            driver.name,
            command.outcome,
            flight.collector if flight else None,
            flight.reply if flight else None,
            None if well else self._reason(command),
            command.clean,
            now,
            {} if well else self._facts(command),
            flight.marks if flight else None,
        )
        self._count(completion, ok=well)
        if not well or request.traces or driver.hub.wanted:
            driver.teller.ended(completion)
        if not well or LOGGER.isEnabledFor(logging.DEBUG):
            self._log(completion)
        driver.engine.janitor.clear(request)
        request.sink.finish(completion)
        driver.activity.ended(completion)

    def _unfinished_flight(self, worker_id: int, request: Request) -> Flight | None:
        """What a request that ended without an answer had put out."""
        link = self._driver.links.get(worker_id)
        flight = None if link is None else link.flights.of(request)
        if flight is None:
            return None
        self._driver.engine.forget(flight.message_id)
        return flight

    def _log(self, completion: Completion) -> None:
        request, outcome = completion.request, completion.outcome
        held = request.is_lease and request.first_dispatched is not None
        if held and outcome is Outcome.CANCELLED and request.borrower:
            self._driver.log(
                logging.WARNING,
                "worker %s was taken back from a lease. Borrowed at (most recent call last):",
                request.worker_id,
                request=request,
                stack=request.borrower.stack(source=False),
            )
        self._driver.log(logging.DEBUG, "request ended: %s", outcome.value, request=request)

    def _count(self, completion: Completion, *, ok: bool) -> None:
        request, accounting = completion.request, self._driver.accounting
        busy = 0.0
        if request.first_dispatched is not None:
            busy = completion.finished - request.first_dispatched
        if not request.is_lease:
            if completion.outcome is not Outcome.DONE or completion.reply is None:
                outcome = completion.outcome.value
            else:
                outcome = "ok" if ok else "failed"
            accounting.outcomes[outcome] += 1
            if request.first_dispatched is not None:
                accounting.runs.add(busy)
        if request.program is not None:
            request.program.count(ok=ok)
        if request.session_id is not None and not request.is_lease:
            accounting.sessions.count(
                request.session_id, ok=ok, busy=busy, worker_id=request.worker_id
            )
            self._driver.watch_sessions()

    # -- why it went wrong -------------------------------------------------------------------

    def _reason(self, command: Finish) -> object:
        """Why, as well as it is known by now."""
        links = self._driver.links
        if command.reason is START_TIMED_OUT:
            # The worker is only about to be killed, but what it said is there.
            hanging = map(partial(hanging_setup, self._driver), links.values())
            setup = next(filter(None, hanging), None)
            return StartFailure(None, None, self._words_of_starting(), timed_out=True, setup=setup)
        link = links.get(command.worker_id or 0)
        exited = link.exited if link is not None else None
        if isinstance(command.reason, Excess) and exited is not None:
            return replace(command.reason, stderr=exited.stderr)
        if command.reason is None and not command.clean:
            return exited
        return command.reason

    def _words_of_starting(self) -> str:
        said = [
            bytes(link.process.stderr).decode("utf-8", "replace")
            for link in self._driver.links.values()
            if not link.ready and link.process is not None
        ]
        return next((words for words in reversed(said) if words), "")

    def _facts(self, command: Finish) -> dict[str, Any]:
        """What is to be known of the pool, for an error's context."""
        driver = self._driver
        facts: dict[str, Any] = {"queued": driver.core.queue_length, "busy": busy_workers(driver)}
        if command.outcome is Outcome.CHECKOUT_TIMEOUT:
            facts["leases"] = self._leases()
        if command.outcome is Outcome.START_FAILED:
            facts["start_timeout"] = driver.config.start_timeout
            now = breaker(driver)
            facts["breaker"], facts["next_probe"] = now.state, now.next_probe
        if command.outcome is Outcome.WORKER_DIED and self._oom.happened():
            facts["out_of_memory"] = True
        return facts

    def _leases(self) -> list[str]:
        """Where the leases were taken that hold workers now."""
        driver = self._driver
        ids = [record.lease_id for record in driver.core.workers.values()]
        holders = [driver.requests.get(str(lease)) for lease in ids if lease is not None]
        return [str(holder.borrower) for holder in holders if holder and holder.borrower]


def _went_well(command: Finish, flight: Flight | None) -> bool:
    """Whether no error will have to be explained."""
    reply = flight.reply if flight is not None else None
    return command.outcome is Outcome.DONE and (reply is None or succeeded(reply))
