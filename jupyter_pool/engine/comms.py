"""Comm messages: to a worker that somebody has, and what it publishes for them.

    front end ──▶ CommRoute.send ──▶ send_comm ──▶ CommTraffic.send ──▶ shell
    sink.output ◀───────────────────────────────── CommTraffic.heard ◀── iopub

A comm message is a request of its own on the shell channel, with its own id, so what a callback
publishes does not carry the id of the cell that made its widget. Whoever has the worker (a request that
runs, or a lease) gets it all the same, as events that say which message they belong to.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import PoolNotAvailable

if TYPE_CHECKING:
    from .face import PoolFace
    from .request import Event
    from .wire import Buffer, Message

__all__ = ["COMM_TYPES", "CommMessage", "CommRoute", "Connect", "comm_event"]

COMM_TYPES = frozenset({"comm_open", "comm_msg", "comm_close"})


@dataclass(frozen=True, slots=True)
class CommMessage:
    """A comm message for a worker: ``comm_msg`` or ``comm_close``."""

    msg_type: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    buffers: Sequence[Buffer] = ()


class CommRoute:
    """The way to the worker that a request has, from any thread.

    It does not keep the pool: one that nobody else holds any more is closing.
    """

    __slots__ = ("_pool", "_request_id")

    def __init__(self, pool: PoolFace, request_id: str) -> None:
        # Whoever holds a way into a pool must not keep the pool.
        self._pool = weakref.ref(pool)
        self._request_id = request_id

    def send(self, message: CommMessage) -> str | None:
        """Send a message; its id, or None if the request has no worker (any more).

        Waits for the I/O thread, and never for the worker.
        """
        pool = self._pool()
        if pool is None:
            return None
        from .traffic import send_comm  # with the engine: who only makes messages does without

        try:
            sent: str | None = pool.ask(lambda driver: send_comm(driver, self._request_id, message))
        except PoolNotAvailable:
            return None
        return sent


#: Told the route of the request whose outputs it shows; whether it takes comm messages.
Connect = Callable[[CommRoute], bool]


def comm_event(message: Message) -> Event:
    """A comm message of a worker, as an event."""
    return {
        "output_type": message.msg_type,
        "content": message.content,
        "metadata": message.metadata,
        "buffers": message.buffers,
        "parent": message.parent_id,
    }
