"""Large arrays: there, back, and to many tasks, against process pools that copy them.

Every round has new random data, of which every page is read on the other side; results are checked.
Serialisation and clean-up are counted.

pytest tests/benchmarks/test_data.py -s
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_pool.bench.paired import Figure
from jupyter_pool.bench.rows import FULL, compare
from jupyter_pool.bench.tables import as_text
from support.trackers import trackers_ended

__all__ = ["trackers_ended"]

pytestmark = [pytest.mark.timeout(300), pytest.mark.requires("module:numpy")]


def _check(figure: Figure) -> None:
    print("\n" + as_text([figure]))
    assert figure.is_met


@pytest.mark.parametrize("size", [1, 10, 100], ids="{} MB".format)
def test_an_array_as_argument(size: int) -> None:
    figure = compare("argument", "processpool", scale=replace(FULL, array_mb=size))
    # What is small is a matter of a call's own cost, which is measured elsewhere.
    _check(figure if size == FULL.array_mb else replace(figure, at_most=1.5))


def test_an_array_as_result() -> None:
    _check(compare("result", "processpool"))


@pytest.mark.requires("module:joblib")
@pytest.mark.usefixtures("trackers_ended")
def test_one_array_for_many_tasks() -> None:
    _check(compare("put", "joblib"))
