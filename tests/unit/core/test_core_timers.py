"""The timers by themselves."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from jupyter_pool.core.timers import TimerKind, Timers

GRACE, RUN = TimerKind.GRACE, TimerKind.RUN


def fired(timers: Timers, now: float) -> list[tuple[TimerKind, object]]:
    keys = []
    while (key := timers.pop_due(now)) is not None:
        keys.append(key)
    return keys


def test_nothing_is_due_in_the_beginning() -> None:
    timers = Timers()
    assert timers.next() is None
    assert timers.pop_due(1e9) is None
    assert len(timers) == 0


def test_a_timer_fires_at_its_time_and_not_before() -> None:
    timers = Timers()
    timers.set(RUN, "a", 2.0)
    assert timers.next() == 2.0
    assert timers.pop_due(1.999) is None
    assert timers.pop_due(2.0) == (RUN, "a")
    assert timers.pop_due(2.0) is None


def test_the_earliest_fires_first_whatever_the_order_of_setting() -> None:
    timers = Timers()
    for when in (3.0, 1.0, 2.0, 5.0, 4.0):
        timers.set(RUN, when, when)
    assert [subject for _, subject in fired(timers, 10.0)] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_of_those_due_at_the_same_time_the_kinds_fire_in_their_order() -> None:
    timers = Timers()
    for kind in reversed(TimerKind):
        timers.set(kind, "later", 2.0)
    # Now out of order, each before one of its kind that is set already.
    for kind in reversed(TimerKind):
        timers.set(kind, "sooner", 1.0)
        timers.set(kind, "together", 2.0)
    assert [kind for kind, _ in fired(timers, 1.0)] == list(TimerKind)
    assert [kind for kind, _ in fired(timers, 2.0)] == sorted([*TimerKind, *TimerKind])


def test_a_kind_that_comes_first_does_so_also_before_one_out_of_order() -> None:
    timers = Timers()
    timers.set(RUN, "b", 10.0)
    timers.set(RUN, "a", 5.0)
    timers.set(TimerKind.CHECKOUT, "c", 5.0)
    assert fired(timers, 5.0) == [(TimerKind.CHECKOUT, "c"), (RUN, "a")]


def test_setting_again_moves_it() -> None:
    timers = Timers()
    timers.set(RUN, "a", 1.0)
    timers.set(RUN, "b", 2.0)
    timers.set(RUN, "a", 3.0)
    assert fired(timers, 2.5) == [(RUN, "b")]
    timers.set(RUN, "a", 2.75)
    assert fired(timers, 2.75) == [(RUN, "a")]
    assert fired(timers, 10.0) == []


def test_a_cancelled_timer_does_not_fire() -> None:
    timers = Timers()
    timers.set(RUN, "a", 1.0)
    timers.set(GRACE, "a", 1.0)
    timers.cancel(RUN, "a")
    timers.cancel(RUN, "never set")
    assert fired(timers, 1.0) == [(GRACE, "a")]


def test_clearing_forgets_all() -> None:
    timers = Timers()
    for when in (2.0, 1.0, 3.0):
        timers.set(RUN, when, when)
    timers.clear()
    assert len(timers) == 0
    assert timers.next() is None


def test_cancelled_timers_do_not_pile_up() -> None:
    timers = Timers()
    timers.set(RUN, "far", 1e9)
    for i in range(10_000):  # each comes out of order: the heap's case
        timers.set(RUN, i, 1e6 - i)
        timers.cancel(RUN, i)
    assert len(timers) == 1
    assert len(timers._heap) < 100
    assert timers.next() == 1e9


KEYS = st.tuples(st.sampled_from([RUN, GRACE]), st.integers(0, 4))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("set"), KEYS, st.integers(0, 20)),
            st.tuples(st.just("cancel"), KEYS),
            st.tuples(st.just("fire"), st.integers(0, 20)),
        ),
        max_size=60,
    )
)
def test_it_behaves_as_a_plain_dict_of_times(steps: Any) -> None:
    timers = Timers()
    plain: dict[Any, float] = {}
    for step in steps:
        match step:
            case "set", key, when:
                kind, subject = key
                timers.set(kind, subject, when)
                plain[key] = when
            case "cancel", key:
                timers.cancel(*key)
                plain.pop(key, None)
            case "fire", now:
                due = [key for key, when in plain.items() if when <= now]
                keys = fired(timers, now)
                assert sorted(keys) == sorted(due)
                times = [plain.pop(key) for key in keys]
                assert times == sorted(times)
        assert timers.next() == min(plain.values(), default=None)
        assert len(timers) == len(plain)
        assert all(key in timers for key in plain)
