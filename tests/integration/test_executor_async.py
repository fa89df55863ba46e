"""`submit` and `map` of a pool for asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from jupyter_pool import AsyncKernelPool, KernelPool, PoolNotAvailable, SerializationError
from support.calls import Door, by_value, pass_through
from support.cells import DEADLINE


@pytest.fixture(scope="module", autouse=True)
def _travels_whole() -> Iterator[None]:
    with by_value(__name__), by_value("support.calls"):
        yield


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[AsyncKernelPool]:
    async with AsyncKernelPool(2) as pool:
        yield pool


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(tmp_path)
    yield door
    door.close()


async def until(condition: Any) -> None:
    async def look() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), DEADLINE)


async def test_calls_are_awaited(pool: AsyncKernelPool) -> None:
    assert await pool.submit(pow, 2, exp=5) == 32
    assert await asyncio.gather(*(pool.submit(abs, -n) for n in range(20))) == list(range(20))
    with pytest.raises(KeyError) as caught:
        await pool.options(session_id="s").submit({}.__getitem__, "key")
    assert caught.value.__cause__ is not None
    with pytest.raises(SerializationError):
        await pool.submit(lambda: pool)


async def test_a_cancelled_task_gives_its_call_up(pool: AsyncKernelPool, door: Door) -> None:
    running = [asyncio.ensure_future(pool.submit(pass_through, door.key)) for _ in range(2)]
    await until(lambda: door.count() == 2)
    queued = pool.submit(pass_through, door.key)
    # It would run as soon as one of the others had ended.
    for future in (queued, *running):
        assert future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
    assert await asyncio.wait_for(pool.submit(abs, -1), DEADLINE) == 1
    assert door.count() == 2


async def test_a_map_is_iterated(pool: AsyncKernelPool) -> None:
    assert [x async for x in pool.map(pow, range(3000), itertools.repeat(2))] == [
        x * x for x in range(3000)
    ]
    assert [x async for x in pool.map(abs, [], buffersize=3)] == []
    assert [x async for x in pool.map(abs, range(30), buffersize=3, chunksize=2)] == list(range(30))
    with pytest.raises(ZeroDivisionError):
        async for _ in pool.map(divmod, [1, 1], [1, 0]):
            pass


async def test_an_endless_map_ends_with_its_loop(pool: AsyncKernelPool) -> None:
    results = pool.map(abs, itertools.count())
    seen = []
    async for x in results:
        seen.append(x)
        if len(seen) == 100:
            break
    await results.aclose()  # type: ignore[attr-defined]
    assert seen == list(range(100))
    assert await pool.submit(abs, -1) == 1


async def test_a_map_that_is_not_done_in_time_is_a_timeout(
    pool: AsyncKernelPool, door: Door
) -> None:
    with pytest.raises(concurrent.futures.TimeoutError):
        async for _ in pool.options(cancel_running=True).map(pass_through, [door.key], timeout=0.2):
            pass


async def test_a_cancelled_loop_interrupts_what_its_map_runs(
    pool: AsyncKernelPool, door: Door
) -> None:
    key = door.key

    async def consume() -> None:
        async for _ in pool.map(lambda x: pass_through(key, x), range(10)):
            pass

    task = asyncio.create_task(consume())
    await until(lambda: door.count() == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(pool.submit(abs, -1), DEADLINE) == 1


async def test_a_task_function_is_called_there_and_here(pool: AsyncKernelPool) -> None:
    @pool.task
    def double(x: int) -> int:
        return 2 * x

    assert double(2) == 4
    assert await double.submit(3) == 6
    assert [x async for x in double.map([1, 2])] == [2, 4]


async def test_a_closed_pool_takes_no_calls() -> None:
    pool = AsyncKernelPool(1)
    await pool.close()
    with pytest.raises(PoolNotAvailable):
        pool.submit(abs, 1)


async def test_shutdown_finishes_or_cancels(door: Door) -> None:
    pool = AsyncKernelPool(1)
    first = pool.submit(pass_through, door.key)
    await until(lambda: door.count() == 1)
    second = pool.submit(abs, -1)
    await pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(asyncio.CancelledError):
        await second
    door.open()
    await pool.shutdown()
    assert await first is None


async def test_a_pool_is_an_executor_for_the_loop() -> None:
    with KernelPool(1) as executor:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(executor, pow, 2, 5) == 32
        futures = [loop.run_in_executor(executor, abs, -n) for n in range(5)]
        assert await asyncio.gather(*futures) == list(range(5))
