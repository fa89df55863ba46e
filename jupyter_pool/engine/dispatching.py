"""From the core's word that a request gets a worker to the messages that the worker gets.

    Dispatch ─▶ Link.run      alone
             └▶ CallSender.ride ◀─ Ride   with others in one message, or behind what the worker has

A sink may refuse the worker in the last moment, for its request was given up: the first request of a
dispatch then goes out with nothing to do, and one that rides along does not go at all.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from jupyter_pool.core import Cancel, Dispatch, GivenBack, Ride

from .log import LOGGER

if TYPE_CHECKING:
    from jupyter_pool.core.commands import Riders

    from .driver import Driver
    from .link import Link
    from .request import Request

__all__ = ["Dispatcher"]


class Dispatcher:
    """Sends one pool's requests to the workers that they have got. Lives on the I/O thread."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def dispatch(self, command: Dispatch) -> None:
        """A request gets a free worker, and others may ride along."""
        driver = self._driver
        request = driver.requests[str(command.request_id)]
        previous, request.worker_id = request.worker_id, command.worker_id
        request.attempt = command.attempt
        if LOGGER.isEnabledFor(logging.DEBUG):
            driver.log(
                logging.DEBUG, "request goes to worker %d", command.worker_id, request=request
            )
        first = request.first_dispatched is None
        if first and not request.sink.granted(command.worker_id):
            driver.engine.janitor.clear(request)
            request.blank()
        if not request.is_lease:
            self._send(driver.links[command.worker_id], request, command.riders)
        if first:
            self._note_wait(request)
        driver.teller.dispatched(request, previous)
        if driver.memory is not None:
            driver.watch_memory(command.worker_id)

    def _send(self, link: Link, request: Request, riders: Riders) -> None:
        """Send a request; a call that may ride with those that ride along, and if none does, in a way
        that tells how long it took, if others may want to.
        """
        together = request.pace is not None and link.calls.can_ride(request)
        if together and (riders or self._driver.core.queue_length):
            link.calls.ride([request, *self._board(link.worker_id, riders)], first=True)
            return
        link.run(request)
        if riders:
            self.ride(Ride(link.worker_id, riders))

    def ride(self, command: Ride) -> None:
        """Requests go to a worker that has something to do already."""
        link = self._driver.links[command.worker_id]
        requests = self._board(link.worker_id, command.riders)
        if requests and all(map(link.calls.can_ride, requests)):
            link.calls.ride(requests)
        elif requests:
            ids = tuple(request.id for request in requests)
            self._driver.feed(GivenBack(link.worker_id, ids))

    def _board(self, worker_id: int, riders: Riders) -> list[Request]:
        """The requests that ride along, but for those that were given up in the last moment."""
        driver = self._driver
        boarding = []
        logged = LOGGER.isEnabledFor(logging.DEBUG)
        for request_id, attempt in riders:
            request = driver.requests[str(request_id)]
            previous, request.worker_id = request.worker_id, worker_id
            request.attempt = attempt
            if logged:
                driver.log(logging.DEBUG, "request goes to worker %d", worker_id, request=request)
            if request.first_dispatched is None:
                if not request.sink.granted(worker_id):
                    driver.feed(Cancel(request.id))
                    driver.feed(GivenBack(worker_id, (request.id,)))
                    continue
                self._note_wait(request)
            driver.teller.dispatched(request, previous)
            boarding.append(request)
        return boarding

    def _note_wait(self, request: Request) -> None:
        """It has got a worker."""
        # The core's time, from which a run's deadline is reckoned: none ends with less than that.
        request.first_dispatched = self._driver.now
        if not request.is_lease:
            self._driver.accounting.waits.add(request.first_dispatched - request.created)
