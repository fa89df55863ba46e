"""The pool against bare kernels: starting them, and running a cell.

pytest tests/benchmarks -s
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_pool.bench.rows import FULL, compare
from jupyter_pool.bench.tables import as_text


@pytest.mark.timeout(300)
def test_eight_workers_start_in_the_time_of_eight_bare_kernels() -> None:
    figure = compare("start", "jupyter_client", scale=replace(FULL, workers=8))
    print("\n" + as_text([figure]))
    assert figure.ratio <= 1.15


@pytest.mark.timeout(300)
def test_a_cell_with_its_result_takes_a_fraction_of_a_bare_clients_time() -> None:
    figure = compare("cell", "jupyter_client")
    print("\n" + as_text([figure]))
    assert figure.is_met
