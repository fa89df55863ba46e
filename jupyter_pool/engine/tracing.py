"""Where a tracing library takes part in a request: at its beginning, in its caller's thread, and its end.

    caller's thread   begin ──▶ a `Trace`; what travels to the worker goes into the request's context
    I/O thread        Trace.ended: must not wait, nor run users' code

Without a tracer a request pays for looking at an empty tuple.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .face import PoolFace
    from .request import Completion, Request

__all__ = ["Trace", "Tracer", "add_tracer", "begin", "remove_tracer"]


class Trace(Protocol):
    """One request as a tracer follows it."""

    def ended(self, completion: Completion) -> None:
        """The request's end, on the I/O thread."""


class Tracer(Protocol):
    """What wants to follow requests."""

    def begin(self, pool: PoolFace, request: Request) -> Trace | None:
        """A request is about to be queued; None: not of interest."""


_tracers: tuple[Tracer, ...] = ()
_lock = threading.Lock()


def add_tracer(tracer: Tracer) -> None:
    """Have it see the requests that are made from now on, of all pools."""
    global _tracers
    with _lock:
        _tracers = (*_tracers, tracer)


def remove_tracer(tracer: Tracer) -> None:
    """It sees the ends of those that it has seen begin, and no others."""
    global _tracers
    with _lock:
        _tracers = tuple(one for one in _tracers if one is not tracer)


def begin(pool: PoolFace, request: Request) -> None:
    """A request is made, in its caller's thread."""
    if _tracers:
        traces = [tracer.begin(pool, request) for tracer in _tracers]
        request.traces = [trace for trace in traces if trace is not None]
