"""Printing in a worker against printing in a stock kernel, up to the text's arrival.

pytest tests/benchmarks -s
"""

from __future__ import annotations

import time

import pytest

from jupyter_pool import KernelPool
from jupyter_pool.bench.paired import measure
from jupyter_pool.bench.stock import StockKernel
from jupyter_pool.bench.tables import as_text


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("code", "count", "at_most"),
    [
        ("for i in range(200_000): print(i)", 200_000, 1.0),
        # Fewer than a stock kernel may drop: its high-water mark is 1000 messages.
        ("for i in range(900): print(i, flush=True)", 900, 0.5),
    ],
)
def test_printing_is_not_slower_than_in_a_stock_kernel(
    code: str, count: int, at_most: float
) -> None:
    text = "".join(f"{i}\n" for i in range(count))
    with KernelPool(size=1) as pool, StockKernel() as client:

        def ours() -> float:
            begun = time.perf_counter()
            result = pool.execute(code)
            took = time.perf_counter() - begun
            assert result.stdout == text
            return took

        def theirs() -> float:
            parts: list[str] = []
            begun = time.perf_counter()
            client.execute_interactive(
                code,
                timeout=120,
                output_hook=lambda message: parts.append(message["content"].get("text", "")),
            )
            took = time.perf_counter() - begun
            assert "".join(parts) == text
            return took

        for side in (ours, theirs):
            side()
        figure = measure(code, ours, "stock ipykernel", theirs, rounds=10, at_most=at_most)
    print("\n" + as_text([figure]))
    assert figure.is_met
