"""``--hold``: a cell's worker is kept for its widgets after the code has ended.

The cell runs in a lease, and the lease stays: until its time is over, the cell is run again, the
worker dies, or the pool closes. A thread shows what callbacks put out meanwhile.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import Outcome
from jupyter_pool.engine.comms import CommRoute
from jupyter_pool.engine.request import Mailbox
from jupyter_pool.engine.settle import settle
from jupyter_pool.lease import Lease

if TYPE_CHECKING:
    from jupyter_pool.engine.face import PoolFace
    from jupyter_pool.engine.request import Completion
    from jupyter_pool.results import WaitInfo

    from .relay import Relay

__all__ = ["Hold"]

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
        held, driver = self._held, self._driver
        if held is not None and driver is not None:
            limit = None if math.isinf(seconds) else seconds
            driver.engine.post(lambda: driver.hold(held.id, limit))

    def end(self) -> None:
        """Give the worker back."""
        self._give_back()

    def _show_all(self) -> None:
        while True:
            item = self._events.get(None)
            assert item is not None
            kind, value = item
            if kind == "finish":
                self._finished(value)
                return
            try:
                self._relay.show_later(value)
            except Exception:  # noqa: BLE001 - one output that cannot be shown must not end the rest
                self._pool.log(logging.ERROR, "cannot show an output of a widget", exc_info=True)

    def _finished(self, completion: Completion) -> None:
        self._let_go()
        comms = self._relay.comms
        if comms is not None and completion.outcome not in _EXPECTED:
            error = settle(completion, check=False).error
            what = f"{error}".partition("\n")[0]
            comms.say(f"{what}\nIt was held for this cell: its widgets keep their last state.")
        if comms is not None:
            comms.end()
        self.over.set()
