"""A cell's worker is kept for its widgets after the code has ended.

A cell with ``--hold`` runs in a lease, and the lease stays: until its time is over, the cell is run
again, the worker dies, or the pool closes. A background cell leaves a lease behind when it ends: with
``--hold`` the same, and without it one that is over as soon as somebody needs a worker. A thread shows
what callbacks put out meanwhile.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import Outcome
from jupyter_pool.engine.comms import CommRoute
from jupyter_pool.engine.holding import Borrower
from jupyter_pool.engine.request import Mailbox
from jupyter_pool.engine.settle import settle
from jupyter_pool.engine.staying import Stay, return_of
from jupyter_pool.lease import Lease

if TYPE_CHECKING:
    from jupyter_pool.engine.face import PoolFace
    from jupyter_pool.engine.log import PoolLog
    from jupyter_pool.engine.request import Completion
    from jupyter_pool.results import WaitInfo

    from .comms import CellComms
    from .job_outputs import JobOutputs
    from .relay import Relay

__all__ = ["Hold", "JobHold"]

#: Ends that somebody wanted, which need no words.
_EXPECTED = (Outcome.DONE, Outcome.CANCELLED, Outcome.CLOSED, Outcome.RESTARTED)


class Hold(Lease):
    """One cell's worker: `begin`, `execute`, then `keep` or `end`.

    Parameters
    ----------
    options
        session_id, checkout_timeout and isolation, as in `KernelPool.execute`.
    relay
        Shows the cell's outputs, and those of callbacks.
    """

    def __init__(self, pool: PoolFace, options: Mapping[str, Any], relay: Relay) -> None:
        super().__init__(pool, {}, options)
        self._relay = relay
        self._events = Mailbox(wants_output=True)
        self._thread = threading.Thread(
            target=self._show_all, name="jupyter_pool hold", daemon=True
        )
        self.pool = pool
        #: For how long it is kept, in seconds, and since when; see `keep`.
        self.seconds, self.began = math.inf, time.monotonic()
        #: Set when it is over, however that came.
        self.over = threading.Event()

    def begin(self, on_wait: Callable[[WaitInfo], None] | None = None) -> None:
        """Wait for a worker. Raises as `checkout` does."""
        try:
            self._check_out(self._events, on_wait, comms=True)
            assert self._held is not None
            self._relay.connect(CommRoute(self._pool, self._held.id))
            # Now, as a cell that awaits takes messages before it has ended.
            self._thread.start()
        except BaseException:
            self.end()
            raise

    def keep(self, seconds: float) -> None:
        """The code has ended: keep the worker for so long, at most; infinity: no limit."""
        self.seconds, self.began = seconds, time.monotonic()
        held, driver = self._held, self._driver
        if held is not None and driver is not None:
            limit = None if math.isinf(seconds) else seconds
            driver.engine.post(lambda: driver.hold(held.id, limit))

    def end(self) -> None:
        """Give the worker back."""
        self._give_back()

    def _show_all(self) -> None:
        completion = _show_all(self._events, self._relay.show_later, self._pool.log)
        self._let_go()
        if self._relay.comms is not None:
            _end(self._relay.comms, completion)
        self.over.set()


class JobHold:
    """What a background cell leaves behind: its worker, for its widgets.

    Parameters
    ----------
    outputs
        Shows what callbacks put out.
    seconds
        How long at most; infinity: no limit; None: for as long as nobody needs a worker, and only if
        the cell has left comms open.
    """

    def __init__(self, pool: PoolFace, outputs: JobOutputs, seconds: float | None) -> None:
        self.pool = pool
        self.seconds = seconds
        self._outputs = outputs
        self._events = Mailbox(wants_output=True)
        self.stay = Stay(self._events, seconds, None if seconds is None else Borrower())
        self._request_id = ""
        self._ended: Callable[[], None] = _nothing
        #: Whether the worker is there.
        self.is_held = False

    def begin(self, request_id: str, ended: Callable[[], None]) -> bool:
        """The cell has ended: whether its worker stays. `ended` is called when that is over."""
        if self._events.get(0) is None:  # else it is "granted"
            return False
        self._request_id, self._ended = request_id, ended
        self.is_held = True
        threading.Thread(target=self._show_all, name="jupyter_pool hold", daemon=True).start()
        return True

    def end(self) -> bool:
        """Give the worker back; False if that has happened already."""
        if not self.is_held:
            return False
        driver = self.pool.driver
        if driver is not None:
            return_of(driver, self._request_id)
        return True

    def _show_all(self) -> None:
        completion = _show_all(self._events, self._outputs, self.pool.log)
        self.is_held = False
        if self._outputs.comms is not None:
            _end(self._outputs.comms, completion)
        self._ended()


def _show_all(
    events: Mailbox, show: Callable[[dict[str, Any]], None], log: PoolLog
) -> Completion | None:
    """Show all that comes, and return the end."""
    while True:
        item = events.get(None)
        assert item is not None
        kind, value = item
        if kind == "finish":
            completion: Completion | None = value
            return completion
        try:
            show(value)
        except Exception:  # noqa: BLE001 - one output that cannot be shown must not end the rest
            log(logging.ERROR, "cannot show an output of a widget", exc_info=True)


def _end(comms: CellComms, completion: Completion | None) -> None:
    """Say what went wrong, if anything did, and that the worker is there no more."""
    if completion is not None and completion.outcome not in _EXPECTED:
        error = settle(completion, check=False).error
        what = f"{error}".partition("\n")[0]
        comms.say(f"{what}\nIt was held for this cell: its widgets keep their last state.")
    comms.end()


def _nothing() -> None:
    pass
