"""What a pool tells Python's `logging`, on the logger ``jupyter_pool``.

Every record has the attributes ``pool``, ``worker_id``, ``request_id`` and
``session_id``, None where it concerns none, for handlers that filter or format
by them (``"%(session_id)s %(message)s"``). The text names what is concerned too.

    WARNING   a worker died, did not start, or did not answer; a lease was forgotten
    ERROR     the pool is degraded, or could not be closed; an exception in a user's callback
    INFO      a worker is replaced for a reason not seen before; the pool has recovered
    DEBUG     every request: when it is queued, dispatched, and how it ended; what a kernel said that
              did not start

Above DEBUG there is neither code nor input, output or environment of anybody's: only ids, causes, and
where in its files an owner has borrowed what it did not return. (An exception in a callback of the
owner's is shown as it was raised.)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .request import Request

__all__ = ["LOGGER", "PoolLog"]

LOGGER = logging.getLogger("jupyter_pool")

_WHERE = ("pool", "worker_id", "request_id", "session_id")


def _complete(record: logging.LogRecord) -> bool:
    for name in _WHERE:
        record.__dict__.setdefault(name, None)
    return True


LOGGER.addFilter(_complete)


class PoolLog:
    """Logs in the name of one pool."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def __call__(
        self,
        level: int,
        text: str,
        *args: Any,
        worker_id: int | None = None,
        request: Request | None = None,
        stack: str = "",
        exc_info: bool = False,
    ) -> None:
        """Log `text`, formatted with `args`, and what it concerns; below it a `stack`."""
        if not LOGGER.isEnabledFor(level):
            return
        where: dict[str, Any] = {"pool": self._pool, "worker_id": worker_id}
        text, args = f"pool %s: {text}", (self._pool, *args)
        if request is not None:
            where["request_id"], where["session_id"] = request.id, request.session_id
            if worker_id is None:
                where["worker_id"] = request.worker_id
            text, args = f"{text} (request %s", (*args, request.id)
            if request.session_id is not None:
                text, args = f"{text} of session %s", (*args, request.session_id)
            text += ")"
        if stack:
            text, args = f"{text}\n%s", (*args, stack)
        LOGGER.log(level, text, *args, extra=where, exc_info=exc_info, stacklevel=2)
