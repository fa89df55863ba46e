"""Pools opened and closed again and again: what that leaves in the process that does it.

pytest tests/benchmarks/test_open_and_close.py -s
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.owners import Owner

TESTS = Path(__file__).parents[1]
CYCLES = 200
WARM = 50
#: What the memory may differ by between the 50th and the last cycle, in MiB.
FLAT = 2.0

SCRIPT = f"""
sys.path.insert(0, {str(TESTS)!r})
from support.held import Held, memory

held, took = [], []
for cycle in range({CYCLES}):
    begun = time.perf_counter()
    with KernelPool(size=1) as pool:
        assert pool.execute("x = 1; x + 1").data["text/plain"] == "2"
    took.append(time.perf_counter() - begun)
    now = Held.now()
    held.append([now.descriptors, now.threads, now.children, sorted(now.shared_memory), memory()])
say([held, took])
"""


@pytest.mark.timeout(900)
def test_two_hundred_pools_leave_nothing() -> None:
    with Owner(SCRIPT) as owner:
        held, took = owner.hear(within=800)
        assert owner.wait() == 0
        assert owner.stderr == ""
    print(f"\n{CYCLES} pools opened, used and closed: {sum(took) / CYCLES:.2f} s each")
    print("after  descriptors  threads  children  /dev/shm  uss MiB")
    for cycle in (0, 9, WARM - 1, 99, 149, CYCLES - 1):
        descriptors, threads, children, shared, uss = held[cycle]
        print(
            f"{cycle + 1:>5}  {descriptors:>11}  {threads:>7}  {children:>8}  {len(shared):>8}"
            f"  {uss:>7.1f}"
        )
    counts: list[list[Any]] = [row[:3] for row in held]
    assert counts == [counts[0]] * CYCLES
    assert held[-1][3] == held[0][3]
    assert held[-1][4] - held[WARM - 1][4] <= FLAT
