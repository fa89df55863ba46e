"""The queue by itself."""

from __future__ import annotations

import pytest

from jupyter_pool.core.queue import FairQueue
from jupyter_pool.core.state import RequestRecord


def queue_of(*names: str) -> tuple[FairQueue, dict[str, RequestRecord]]:
    """Names are a group's letter and a number."""
    queue, requests = FairQueue(), {name: RequestRecord(name, group=name[0]) for name in names}
    for request in requests.values():
        queue.push(request)
    return queue, requests


def drained(queue: FairQueue) -> str:
    return " ".join(str(queue.pop().id) for _ in range(len(queue)))


def test_a_group_is_served_in_order() -> None:
    queue, _ = queue_of("a1", "a2", "a3")
    assert drained(queue) == "a1 a2 a3"


def test_groups_take_turns() -> None:
    queue, _ = queue_of("a1", "a2", "a3", "b1", "c1", "c2")
    assert drained(queue) == "a1 b1 c1 a2 c2 a3"


def test_a_newcomer_waits_for_one_of_each_group_not_for_a_whole_sweep() -> None:
    queue, _ = queue_of(*(f"s{i}" for i in range(500)), "p1")
    assert drained(queue).split().index("p1") == 1


def test_a_group_that_comes_back_comes_last() -> None:
    queue, _ = queue_of("a1", "b1", "c1")
    queue.pop()
    queue.push(RequestRecord("a2", group="a"))
    assert drained(queue) == "b1 c1 a2"


def test_a_turn_given_back_is_the_next_turn() -> None:
    queue, _ = queue_of("a1", "a2", "b1", "c1")
    queue.push_front(queue.pop())
    assert drained(queue) == "a1 b1 c1 a2"


def test_a_turn_given_back_reopens_a_group_that_was_empty() -> None:
    queue, _ = queue_of("a1", "b1", "b2")
    first = queue.pop()
    queue.push_front(first)
    assert drained(queue) == "a1 b1 b2"


def test_who_leaves_is_not_served() -> None:
    queue, requests = queue_of("a1", "a2", "a3", "b1")
    queue.remove(requests["a2"])
    queue.remove(requests["b1"])
    assert requests["a2"] not in queue
    assert len(queue) == 2
    assert drained(queue) == "a1 a3"


def test_removing_who_does_not_wait_is_an_error() -> None:
    queue, requests = queue_of("a1", "a2")
    queue.pop()
    with pytest.raises(KeyError):
        queue.remove(requests["a1"])


def test_position_tells_how_many_are_served_before() -> None:
    queue, requests = queue_of("a1", "a2", "a3", "b1", "c1", "c2", "c3", "c4")
    positions = {name: queue.position(request) for name, request in requests.items()}
    order = drained(queue).split()
    assert positions == {name: order.index(name) for name in order}


def test_iterating_sees_everybody() -> None:
    queue, requests = queue_of("a1", "a2", "b1")
    assert {request.id for request in queue} == set(requests)


def test_who_is_set_aside_waits_ahead_of_the_line() -> None:
    queue, requests = queue_of("a1", "a2", "b1", "c1")
    for _ in range(2):
        queue.set_aside(queue.pop())
    assert [request.id for request in queue] == ["a1", "b1", "c1", "a2"]
    assert [queue.position(request) for request in queue] == [0, 1, 2, 3]
    assert len(queue) == 4
    assert all(request in queue for request in requests.values())
    assert queue.pop() is requests["c1"]
    assert queue.pop_aside() is requests["a1"]
    queue.remove(requests["b1"])
    assert requests["b1"] not in queue
    assert [request.id for request in queue] == ["a2"]
    assert (len(queue), queue.in_line) == (1, 1)
