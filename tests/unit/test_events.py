"""Subscriptions, without any kernel: order, slow and failing callbacks, the end."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import pickle
import re
import threading

import pytest

from jupyter_pool import AsyncKernelPool, InvalidRequest, KernelPool, PoolNotAvailable, telemetry
from jupyter_pool.engine.events import Hub, Subscription, check_types
from jupyter_pool.telemetry import EVENT_TYPES, PoolEvent
from support.conditions import eventually

ALL = frozenset(EVENT_TYPES)


def test_events_come_in_order_on_another_thread() -> None:
    hub, seen = Hub("p"), []
    with Subscription(hub, lambda e: seen.append((e.worker_id, threading.get_ident())), ALL):
        for number in range(1000):
            hub.send("worker_starting", worker_id=number)
    assert [number for number, _ in seen] == list(range(1000))
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_only_the_types_that_are_wanted_come() -> None:
    hub: Hub = Hub("p")
    seen: list[PoolEvent] = []
    with Subscription(hub, seen.append, check_types("worker_lost")):
        assert hub.wanted == {"worker_lost"}
        hub.send("worker_ready")
        hub.send("worker_lost")
    assert [event.type for event in seen] == ["worker_lost"]
    assert hub.wanted == frozenset()


def test_a_slow_callback_loses_events_which_are_counted_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub: Hub = Hub("p")
    seen: list[PoolEvent] = []
    go, stuck = threading.Event(), threading.Event()

    def slow(event: PoolEvent) -> None:
        seen.append(event)
        stuck.set()
        go.wait()

    subscription = Subscription(hub, slow, ALL, limit=5)
    hub.send("worker_ready", worker_id=0)
    stuck.wait()
    quick: list[PoolEvent] = []
    with Subscription(hub, quick.append, ALL):
        for number in range(1, 20):
            hub.send("worker_ready", worker_id=number)
    assert len(quick) == 19
    assert subscription.dropped == 14
    assert "14 dropped" in repr(subscription)
    go.set()
    subscription.close()
    assert [event.worker_id for event in seen] == [0, 1, 2, 3, 4, 5]
    assert [r.message for r in caplog.records].count(
        "pool p: a subscriber is too slow: it loses events, see `subscription.dropped`"
    ) == 1


def test_a_callback_that_raises_is_logged_once_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, seen = Hub("p"), []

    def fail(event: PoolEvent) -> None:
        seen.append(event)
        raise RuntimeError("mine")

    with caplog.at_level(logging.INFO), Subscription(hub, fail, ALL) as subscription:
        for _ in range(3):
            hub.send("worker_ready")
    assert len(seen) == subscription.errors == 3
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.pool == "p"  # type: ignore[attr-defined]
    assert "RuntimeError: mine" in caplog.text


def test_a_callback_may_close_its_own_subscription() -> None:
    hub, seen = Hub("p"), []

    def once(event: PoolEvent) -> None:
        seen.append(event)
        subscription.close()

    subscription = Subscription(hub, once, ALL)
    hub.send("worker_ready")
    eventually(lambda: "closed" in repr(subscription))
    hub.send("worker_ready")
    assert len(seen) == 1


def test_closing_does_not_wait_for_ever_for_a_callback_that_is_stuck() -> None:
    hub, go = Hub("p"), threading.Event()
    subscription = Subscription(hub, lambda event: go.wait(), ALL)
    hub.send("worker_ready")
    subscription.close(timeout=0.1)
    assert not subscription.flush(timeout=0.1)
    go.set()


def test_the_end_of_the_pool_is_the_last_event_and_ends_the_threads() -> None:
    pool, seen = KernelPool(1, name="unborn"), []
    pool.subscribe(lambda event: seen.append(event.type))
    pool.close()
    assert seen == ["pool_closed"]
    with pytest.raises(PoolNotAvailable):
        pool.subscribe(print)


def test_a_pool_that_is_dropped_before_it_starts_ends_them_too() -> None:
    seen: list[str] = []
    pool = KernelPool(1)
    pool.subscribe(lambda event: seen.append(event.type))
    del pool
    gc.collect()
    eventually(lambda: seen == ["pool_closed"])


async def test_a_coroutine_function_runs_in_its_loop_in_order() -> None:
    pool, seen = AsyncKernelPool(1), []

    async def slowly(event: PoolEvent) -> None:
        await asyncio.sleep(0)
        seen.append((event.worker_id, threading.get_ident()))

    async with pool.subscribe(slowly, types=["worker_ready"]):
        for number in range(50):
            pool.hub.send("worker_ready", worker_id=number)
    assert seen == [(number, threading.get_ident()) for number in range(50)]
    await pool.close()


async def test_a_coroutine_function_that_raises_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = AsyncKernelPool(1)

    async def fail(event: PoolEvent) -> None:
        raise TimeoutError("mine")

    async with pool.subscribe(fail) as subscription:
        pool.hub.send("worker_ready")
    assert subscription.errors == 1
    assert "TimeoutError: mine" in caplog.text
    await pool.close()


async def test_closing_from_the_loop_that_runs_the_callback_does_not_wait_for_it() -> None:
    pool, seen = AsyncKernelPool(1), []

    async def note(event: PoolEvent) -> None:
        seen.append(event)

    subscription = pool.subscribe(note)
    pool.hub.send("worker_ready")
    subscription.close(timeout=60)
    while not seen:  # noqa: ASYNC110 - it needs this loop
        await asyncio.sleep(0.001)
    await pool.close()


def test_what_is_asked_for_wrongly_is_named() -> None:
    pool = KernelPool(1)
    with pytest.raises(InvalidRequest, match="'worker_dead'.*worker_lost"):
        pool.subscribe(print, types=["worker_dead"])
    with pytest.raises(InvalidRequest, match="asks for nothing"):
        pool.subscribe(print, types=[])
    with pytest.raises(InvalidRequest, match="types=5"):
        pool.subscribe(print, types=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="callback=None"):
        pool.subscribe(None)  # type: ignore[arg-type]

    async def later(event: PoolEvent) -> None: ...

    with pytest.raises(InvalidRequest, match="only an AsyncKernelPool"):
        pool.subscribe(later)
    pool.close()


def test_a_coroutine_function_needs_a_loop_that_runs() -> None:
    async def later(event: PoolEvent) -> None: ...

    pool = AsyncKernelPool(1)
    with pytest.raises(InvalidRequest, match="within the event loop"):
        pool.subscribe(later)
    asyncio.run(pool.close())


def test_an_event_is_a_frozen_value() -> None:
    event = PoolEvent("worker_lost", 1.5, "p", 3, data={"cause": "SIGKILL"})
    assert (event.worker_id, event.request_id, event.data) == (3, None, {"cause": "SIGKILL"})
    assert PoolEvent("pool_closed", 1.5, "p").data == {}
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.pool = "q"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(event)) == event
    assert dataclasses.replace(event, pool="q") == PoolEvent(
        "worker_lost", 1.5, "q", 3, data={"cause": "SIGKILL"}
    )
    assert "cause" in repr(event)
    assert [field.name for field in dataclasses.fields(event)] == list(vars(event))


def test_the_documented_types_are_those_there_are() -> None:
    documentation = telemetry.__doc__ or ""
    rows = re.findall(
        r"^    ((?:worker|request|session|pool|breaker)_\w+) ", documentation, re.MULTILINE
    )
    assert tuple(rows) == EVENT_TYPES
