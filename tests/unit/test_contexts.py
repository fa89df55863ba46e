"""Tasks in a context that is given: what Python 3.10 lacks works as later versions do it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from jupyter_pool.kernel import contexts

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="untouched")

Create = Callable[[Coroutine[Any, Any, Any], contextvars.Context], "asyncio.Task[Any]"]


def create_as_on_3_10(
    coro: Coroutine[Any, Any, Any], context: contextvars.Context
) -> asyncio.Task[Any]:
    steps: Any = contexts._Inside(coro, context)
    return asyncio.get_running_loop().create_task(steps)


@pytest.fixture(params=[contexts.create_task, create_as_on_3_10], ids=["here", "3.10"])
def create(request: pytest.FixtureRequest) -> Create:
    made: Create = request.param
    return made


async def change(value: str) -> str:
    await asyncio.sleep(0)
    before = VARIABLE.get()
    VARIABLE.set(value)
    await asyncio.sleep(0)
    return before


async def test_what_a_task_sets_is_seen_by_the_next_in_that_context_and_by_nobody_else(
    create: Create,
) -> None:
    context = contextvars.copy_context()
    assert await create(change("first"), context) == "untouched"
    assert await create(change("second"), context) == "first"
    assert context[VARIABLE] == "second"
    assert VARIABLE.get() == "untouched"


async def test_a_task_may_be_created_in_the_context_that_it_is_to_run_in(create: Create) -> None:
    context = contextvars.copy_context()
    tasks: list[asyncio.Task[Any]] = []
    context.run(lambda: tasks.append(create(change("inside"), context)))
    assert await tasks[0] == "untouched"
    assert context[VARIABLE] == "inside"


async def test_what_a_coroutine_starts_itself_begins_with_its_context(create: Create) -> None:
    context = contextvars.copy_context()
    context.run(VARIABLE.set, "outer")

    async def start() -> str:
        return await asyncio.create_task(change("inner"))

    assert await create(start(), context) == "outer"
    assert context[VARIABLE] == "outer"


async def test_errors_and_cancelling_reach_the_coroutine(create: Create) -> None:
    context = contextvars.copy_context()
    seen = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("own")

    async def wait(begun: asyncio.Event) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    with pytest.raises(ValueError, match="own"):
        await create(fail(), context)
    begun = asyncio.Event()
    task = create(wait(begun), context)
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]
