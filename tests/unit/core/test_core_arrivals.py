"""Requests that arrive together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jupyter_pool.core import Close, Command, Dispatch, Finish, Outcome, Submit, SubmitAll
from support.scripted_pool import MakePool, ScriptedPool

_REQUESTS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([None, 60.0]),
        st.booleans(),
        st.sampled_from(["namespace", "process", "none"]),
    ),
    min_size=1,
    max_size=8,
)


def _submits(requests: list[tuple[str, float | None, bool, str]]) -> tuple[Submit, ...]:
    return tuple(
        Submit(f"r{number}", group, deadline, None, 0, lease, isolation)
        for number, (group, deadline, lease, isolation) in enumerate(requests)
    )


def _refused(commands: list[Command]) -> list[object]:
    return [command.request_id for command in commands if isinstance(command, Finish)]


def _taken(commands: list[Command]) -> list[object]:
    return [command.request_id for command in commands if isinstance(command, Dispatch)]


@given(requests=_REQUESTS, size=st.integers(1, 3), most=st.integers(1, 3))
def test_where_few_may_wait_it_is_as_if_they_came_one_by_one(
    requests: list[tuple[str, float | None, bool, str]], size: int, most: int
) -> None:
    together, apart = (ScriptedPool(size=size, max_waiting=most) for _ in range(2))
    for pool in (together, apart):
        pool.start(*range(1, size + 1))
    submits = _submits(requests)
    assert together(SubmitAll(submits)) == apart(*submits)
    assert repr(together) == repr(apart)


@given(requests=_REQUESTS, size=st.integers(1, 3))
def test_everyone_is_let_in_and_no_worker_idles_while_somebody_could_use_it(
    requests: list[tuple[str, float | None, bool, str]], size: int
) -> None:
    pool = ScriptedPool(size=size)
    pool.start(*range(1, size + 1))
    commands = pool(SubmitAll(_submits(requests)))
    assert not _refused(commands)
    taken = _taken(commands)
    assert len(taken) == min(size, len(requests))
    assert pool.core.queue_length == len(requests) - len(taken)


def test_those_of_one_group_are_served_in_their_order(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.start(1)
    served = _taken(pool(SubmitAll(_submits([("a", None, False, "namespace")] * 4))))
    while pool.core.queue_length:
        served += _taken(pool.done(1, str(served[-1])))
    assert served == ["r0", "r1", "r2", "r3"]


def test_each_ends_once_where_the_pool_is_closed(make_pool: MakePool) -> None:
    pool = make_pool(size=1)
    pool.start(1)
    pool(Close(cancel_queued=False, cancel_running=False))
    commands = pool(SubmitAll(_submits([("a", None, False, "namespace")] * 3)))
    assert [
        (command.request_id, command.outcome) for command in commands if isinstance(command, Finish)
    ] == [(f"r{number}", Outcome.CLOSED) for number in range(3)]
