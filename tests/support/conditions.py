"""Waiting for a condition, with a deadline: the only way in which a test waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from jupyter_pool.provisioning.processes import is_running

T = TypeVar("T")


def eventually(
    condition: Callable[[], T], what: str | Callable[[], str] = "", *, within: float = 15.0
) -> T:
    """The condition's first true value; fails if there is none within so many seconds.

    `what` is waited for; or makes the words for a failure, when it has come to that.
    """
    deadline = time.monotonic() + within
    pause = threading.Event()
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            words = what() if callable(what) else f"{what or condition}, last {value!r}"
            raise AssertionError(f"not within {within:g} s: {words}")
        pause.wait(0.01)


def gone(pids: Iterable[int]) -> Callable[[], bool]:
    """A condition: none of these processes runs."""
    watched = tuple(pids)
    return lambda: not any(is_running(pid) for pid in watched)
