"""What is posted to the I/O thread, and in which order it is taken in."""

from __future__ import annotations

from collections import deque
from typing import Any

from jupyter_pool.engine.loop import _MOST_TOGETHER, Engine, _Arrival


class Book:
    """Stands for a pool: notes what it is told."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self.name = name
        self.log = log

    def submit(self, *requests: Any) -> None:
        self.log.append((self.name, requests))


def taken_in(*posted: Any) -> None:
    engine = object.__new__(Engine)
    engine._inbox = deque(posted)
    engine._call_posted()
    assert not engine._inbox


def arrival(book: Book, request: Any) -> _Arrival:
    return _Arrival(book, request)  # type: ignore[arg-type]


def test_requests_that_came_one_after_another_are_taken_in_together() -> None:
    log: list[Any] = []
    a = Book("a", log)
    taken_in(*(arrival(a, number) for number in range(3)))
    assert log == [("a", (0, 1, 2))]


def test_nothing_overtakes_what_was_posted_before_it() -> None:
    log: list[Any] = []
    a, b = Book("a", log), Book("b", log)
    taken_in(
        lambda: log.append("first"),
        arrival(a, 1),
        arrival(a, 2),
        lambda: log.append("between"),
        arrival(a, 3),
        arrival(b, 4),
        arrival(a, 5),
        lambda: log.append("last"),
    )
    assert log == ["first", ("a", (1, 2)), "between", ("a", (3,)), ("b", (4,)), ("a", (5,)), "last"]


def test_the_first_of_very_many_is_on_its_way_before_the_last_is_taken_in() -> None:
    log: list[Any] = []
    a = Book("a", log)
    taken_in(*(arrival(a, number) for number in range(2 * _MOST_TOGETHER + 1)))
    assert [len(requests) for _, requests in log] == [_MOST_TOGETHER, _MOST_TOGETHER, 1]


def test_what_comes_while_it_takes_in_waits_for_the_next_turn() -> None:
    log: list[Any] = []
    engine = object.__new__(Engine)
    engine._inbox = deque()
    engine._inbox.append(lambda: engine._inbox.append(lambda: log.append("next")))
    engine._call_posted()
    assert log == []
    engine._call_posted()
    assert log == ["next"]
