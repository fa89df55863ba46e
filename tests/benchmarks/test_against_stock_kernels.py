"""The pool against bare kernels: starting them, and running a cell.

pytest tests/benchmarks -s
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_pool import KernelPool
from support.paired import measure, table
from support.stock import StockKernel, start_together


@pytest.mark.timeout(300)
def test_eight_workers_start_in_the_time_of_eight_bare_kernels() -> None:
    def ours() -> float:
        pool = KernelPool(size=8)
        begun = time.perf_counter()
        pool.start(wait=True, timeout=60)
        took = time.perf_counter() - begun
        pool.close(timeout=0)
        return took

    figure = measure(
        "8 workers ready",
        ours,
        "8 bare AsyncKernelManager kernels",
        lambda: start_together(8),
        rounds=5,
        at_most=1.15,
    )
    print("\n" + table([figure]))
    assert figure.ratio <= figure.at_most


@pytest.fixture
def pool() -> Iterator[KernelPool]:
    with KernelPool(size=2) as pool:
        pool.start(wait=True, timeout=60)
        yield pool


@pytest.mark.timeout(300)
def test_a_cell_with_its_result_takes_a_fraction_of_a_bare_clients_time(pool: KernelPool) -> None:
    with StockKernel() as client:

        def ours() -> float:
            begun = time.perf_counter()
            result = pool.execute("1 + 1", on_output=lambda event: None)
            took = time.perf_counter() - begun
            assert result.data == {"text/plain": "2"}
            return took

        def theirs() -> float:
            seen: list[dict[str, Any]] = []
            begun = time.perf_counter()
            reply = client.execute_interactive("1 + 1", timeout=60, output_hook=seen.append)
            took = time.perf_counter() - begun
            assert reply["content"]["status"] == "ok"
            assert any(message["msg_type"] == "execute_result" for message in seen)
            return took

        for side in (ours, theirs):
            for _ in range(20):
                side()
        figure = measure(
            'execute("1 + 1")',
            ours,
            "execute_interactive on stock ipykernel",
            theirs,
            rounds=300,
            at_most=0.5,
        )
    print("\n" + table([figure]))
    assert figure.ratio <= figure.at_most
