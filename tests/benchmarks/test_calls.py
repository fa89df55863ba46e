"""Function calls against `concurrent.futures.ProcessPoolExecutor`, and one worker against many.

pytest tests/benchmarks -s
"""

from __future__ import annotations

import pytest

from jupyter_pool.bench.paired import Figure
from jupyter_pool.bench.rows import compare
from jupyter_pool.bench.tables import as_text
from support.trackers import trackers_ended

__all__ = ["trackers_ended"]


def _check(figure: Figure) -> None:
    print("\n" + as_text([figure]))
    assert figure.is_met


@pytest.mark.timeout(300)
@pytest.mark.xfail(reason="about 2 now: four of its nine thread switches are ZMQ's")
def test_a_call_takes_about_the_time_of_a_process_pools() -> None:
    _check(compare("submit", "processpool"))


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("trackers_ended")
@pytest.mark.parametrize(
    "peer",
    [
        pytest.param("loky", marks=pytest.mark.requires("module:loky")),
        pytest.param("ipyparallel", marks=pytest.mark.requires("module:ipyparallel")),
        pytest.param("dask", marks=pytest.mark.requires("module:distributed")),
    ],
)
@pytest.mark.xfail(
    strict=False, reason="at the bar: loky about 1.07, ipyparallel about 0.13, dask about 0.074"
)
def test_a_call_takes_a_fraction_of_the_time_of_other_pools(peer: str) -> None:
    # In a row: in turn, a call would come while dask and ipyparallel still tidy up after theirs.
    _check(compare("submit-loop", peer))


@pytest.mark.timeout(300)
@pytest.mark.xfail(
    strict=False,
    reason="about 1.3: what a worker and the I/O thread do for a call takes two CPUs longer together",
)
def test_many_calls_in_flight_take_no_longer_than_a_process_pools() -> None:
    _check(compare("in-flight", "processpool"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("row", ["map", "map-best"])
def test_tiny_tasks_by_map(row: str) -> None:
    _check(compare(row, "processpool"))


@pytest.mark.timeout(300)
def test_a_call_takes_no_longer_among_many_idle_workers() -> None:
    _check(compare("idle", "pool"))
