"""How a map chooses the size of its chunks."""

from __future__ import annotations

from jupyter_pool.engine.mapping import ChunkSizes

MANY = 10**9


def test_the_first_chunks_are_single_items() -> None:
    assert ChunkSizes(2).next(MANY) == 1


def test_quick_items_make_chunks_grow_to_a_few_milliseconds_of_work() -> None:
    sizes = ChunkSizes(2)
    for _ in range(20):
        size = sizes.next(MANY)
        sizes.measured(size, size * 20e-6)
    assert 2e-3 < sizes.next(MANY) * 20e-6 < 8e-3


def test_a_chunk_grows_step_by_step() -> None:
    sizes = ChunkSizes(2)
    sizes.measured(1, 0.0)  # a single item may have been an exception
    assert sizes.next(MANY) <= 32


def test_slow_items_travel_alone() -> None:
    sizes = ChunkSizes(2)
    sizes.measured(1, 0.5)
    assert sizes.next(MANY) == 1


def test_chunks_shrink_when_items_become_slow() -> None:
    sizes = ChunkSizes(2)
    for _ in range(10):
        sizes.measured(sizes.next(MANY), sizes.next(MANY) * 1e-6)
    assert sizes.next(MANY) > 100
    for _ in range(3):
        sizes.measured(1, 0.1)
    assert sizes.next(MANY) == 1


def test_the_last_chunks_are_small_enough_for_all_workers() -> None:
    sizes = ChunkSizes(4)
    for _ in range(10):
        sizes.measured(sizes.next(MANY), sizes.next(MANY) * 1e-4)
    assert sizes.next(MANY) > 10
    assert sizes.next(80) == 10
    assert sizes.next(16) == 9  # less than a millisecond is not worth a message
    assert sizes.next(3) == 3


def test_large_items_make_small_chunks() -> None:
    sizes = ChunkSizes(2)
    for _ in range(10):
        sizes.measured(sizes.next(MANY), sizes.next(MANY) * 1e-6)
    sizes.packed(10, 10_000_000)
    assert sizes.next(MANY) == 4


def test_a_second_chunk_for_each_worker_waits_for_the_first_measurement() -> None:
    sizes = ChunkSizes(3)
    assert sizes.in_flight == 3
    sizes.measured(1, 0.1)
    assert sizes.in_flight == 6
    assert ChunkSizes(3, 5).in_flight == 6


def test_a_fixed_size_is_kept() -> None:
    sizes = ChunkSizes(2, 7)
    sizes.measured(7, 10.0)
    assert sizes.next(MANY) == 7
    assert sizes.next(3) == 3
    assert sizes.budget is None
