"""When what came of a request: noted as it comes, made readable where somebody looks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from jupyter_pool.results import Timeline

__all__ = ["Marks", "make_timeline"]


@dataclass(slots=True)
class Marks:
    """Times of the monotonic clock; None: it has not come."""

    started: float | None = None
    first_output: float | None = None
    reply: float | None = None
    idle: float | None = None


def make_timeline(
    queued: float, dispatched: float | None, marks: Marks | None, memory_delta: int | None
) -> Timeline:
    """All of it relative to `queued`."""

    def since(then: float | None) -> float | None:
        return None if then is None else then - queued

    marks = marks or Marks()
    return Timeline(
        queued_at=time.time() - (time.monotonic() - queued),
        dispatched=since(dispatched),
        started=since(marks.started),
        first_output=since(marks.first_output),
        reply=since(marks.reply),
        idle=since(marks.idle),
        memory_delta=memory_delta,
    )
