"""The thread that refreshes monitors, with monitors that are none."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator

import pytest

from jupyter_pool.notebook.feed import Publisher

DEADLINE = 30.0


class Scripted:
    """A monitor whose refreshes go as told, and that says that they were."""

    def __init__(self, *script: BaseException | bool) -> None:
        self._script = iter(script)
        self.refreshed: queue.SimpleQueue[None] = queue.SimpleQueue()

    def refresh(self) -> bool:
        self.refreshed.put(None)
        ends = next(self._script, False)
        if isinstance(ends, BaseException):
            raise ends
        return ends


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    publisher = Publisher()
    yield publisher
    for monitor in [*publisher._monitors]:
        publisher.detach(monitor)
    publisher.join(DEADLINE)


def test_a_monitor_that_failed_is_refreshed_again_and_the_failure_told_once(
    publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Scripted(ValueError("first"), ValueError("again"), False, ValueError("later"))
    other = Scripted()
    with caplog.at_level(logging.ERROR, "jupyter_pool"):
        publisher.attach(failing)
        publisher.attach(other)
        for _ in range(4):
            publisher.hurry()
            failing.refreshed.get(timeout=DEADLINE)
            other.refreshed.get(timeout=DEADLINE)
        publisher.detach(failing)
        publisher.detach(other)
        publisher.join(DEADLINE)
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(error) for error in errors] == ["first", "later"]


def test_the_thread_ends_with_the_last_monitor_and_begins_anew(publisher: Publisher) -> None:
    for _ in range(2):
        monitor = Scripted()
        publisher.attach(monitor)
        monitor.refreshed.get(timeout=DEADLINE)
        publisher.detach(monitor)
        publisher.join(DEADLINE)
        assert publisher._thread is not None
        assert not publisher._thread.is_alive()


def test_one_that_failed_and_then_detaches_itself_stops_no_other(publisher: Publisher) -> None:
    class Leaving(Scripted):
        def refresh(self) -> bool:
            lively = super().refresh()
            publisher.detach(self)
            return lively

    leaving, other = Leaving(ValueError("first")), Scripted()
    publisher.attach(leaving)
    leaving.refreshed.get(timeout=DEADLINE)
    publisher.attach(other)
    leaving.refreshed.get(timeout=DEADLINE)
    for _ in range(3):
        publisher.hurry()
        other.refreshed.get(timeout=DEADLINE)
    assert publisher._failing == []
