"""The rate of a pool's work, of the latest requests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_pool.core import Outcome
from jupyter_pool.engine.activity import Activity


def end(activity: Activity, *moments: float, lease: bool = False) -> None:
    for moment in moments:
        request = SimpleNamespace(
            id="r-1", is_lease=lease, split=None, worker_id=1, created=0.0, first_dispatched=0.0,
            session_id=None, cell=None, title="f", code="",
        )  # fmt: skip
        completion: Any = SimpleNamespace(
            request=request, reply=None, outcome=Outcome.DONE, finished=moment
        )
        activity.ended(completion)


def test_it_is_of_the_last_five_seconds_and_leases_are_no_work() -> None:
    activity = Activity()
    assert activity.rate(0.0) == 0.0
    end(activity, 1.0, 2.0)
    end(activity, 2.5, lease=True)
    end(activity, 3.0, 4.0)
    assert activity.rate(4.0) == 4 / 5
    assert activity.rate(7.2) == 2 / 5  # the lease is the oldest of them
    assert activity.rate(8.5) == 1 / 5
    assert activity.rate(9.5) == 0.0


def test_of_more_than_are_kept_it_is_of_as_long_as_they_took() -> None:
    activity = Activity()
    end(activity, *(n / 10_000 for n in range(10_000)))
    assert activity.rate(1.0) == pytest.approx(10_000, rel=0.01)
