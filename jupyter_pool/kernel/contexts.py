"""Tasks in a context that is given, not in a copy of the present one: new in Python 3.11."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any

__all__ = ["create_task"]


def create_task(coro: Coroutine[Any, Any, Any], context: contextvars.Context) -> asyncio.Task[Any]:
    """Run a coroutine as a task of the running loop, in this very context.

    What it sets there is set for whatever else runs there. The context may be the present one.
    """
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 11):
        return loop.create_task(coro, context=context)
    steps: Any = _Inside(coro, context)
    return loop.create_task(steps)


class _Inside:
    """A coroutine each step of which is taken in a context (Python 3.10).

    The steps have no frame of ours, in which an interrupt could strike.
    """

    def __init__(self, coro: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        self._coro = coro
        run: Any = context.run
        self.send = partial(run, coro.send)
        self.throw = partial(run, coro.throw)
        self.close = coro.close

    def __repr__(self) -> str:
        return repr(self._coro)


# It is one for asyncio, which asks for the type and calls `send` and `throw`.
Coroutine.register(_Inside)
