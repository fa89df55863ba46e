"""The timeline of a result: what came when, and what the worker's memory did."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool import KernelPool
from jupyter_pool.results import Timeline
from support.kernelspecs import kernelspec, scripted

LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: memory is measured by way of /proc"
)
MB = 1 << 20


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(1) as pool:
        yield pool


def test_everything_comes_in_its_order(pool: KernelPool, tmp_path: Path) -> None:
    before = time.time()
    heard = tmp_path / "heard"
    code = f"""
import os, time
print(1, flush=True)
while not os.path.exists({os.fspath(heard)!r}): time.sleep(0.01)
time.sleep(0.1)
print(2)"""
    result = pool.execute(code, on_output=lambda event: heard.touch())
    line = result.timeline
    assert line.queued_at is not None
    assert before - 0.01 <= line.queued_at <= time.time()
    steps = [line.queued, line.dispatched, line.started, line.first_output, line.reply]
    assert None not in steps
    assert steps == sorted(steps)  # type: ignore[type-var]
    # On a channel of its own: it may be read before the reply.
    assert line.idle >= line.first_output  # type: ignore[operator]
    assert line.queued == 0
    assert line.reply - line.first_output >= 0.05  # type: ignore[operator]
    assert line.dispatched == result.timings.waited
    assert line.idle <= result.timings.total  # type: ignore[operator]


def test_without_output_there_is_no_first_one(pool: KernelPool) -> None:
    line = pool.execute("x = 1").timeline
    assert line.first_output is None
    assert line.reply is not None


def test_who_waited_was_dispatched_late(pool: KernelPool) -> None:
    with pool.checkout():
        future = pool.submit_code("1")
        time.sleep(0.1)  # what is measured
    assert future.result().timeline.dispatched >= 0.1  # type: ignore[operator]


def test_what_never_ran_has_only_a_beginning(pool: KernelPool) -> None:
    with pool.checkout():
        result = pool.execute("1", checkout_timeout=0, check=False)
    assert result.timeline == Timeline(queued_at=result.timeline.queued_at)


def test_a_death_leaves_what_had_come(pool: KernelPool, tmp_path: Path) -> None:
    heard = tmp_path / "heard"  # what a worker has said in its last moment may die with it
    code = f"""
import os, time
print(1, flush=True)
while not os.path.exists({os.fspath(heard)!r}): time.sleep(0.01)
os._exit(1)"""
    line = pool.execute(code, check=False, on_output=lambda event: heard.touch()).timeline
    assert line.started is not None
    assert (line.reply, line.idle, line.memory_delta) == (None, None, None)


@LINUX
def test_memory_that_the_code_takes_and_gives_back_is_measured(pool: KernelPool) -> None:
    with pool.checkout() as worker:
        took = worker.execute("block = bytearray(64 * 2**20)").timeline.memory_delta
        gave = worker.execute("del block").timeline.memory_delta
    assert took is not None
    assert gave is not None
    assert 63 * MB < took < 80 * MB
    assert -80 * MB < gave < -60 * MB


@LINUX
def test_it_is_that_of_the_code_not_of_the_reset_after_it(pool: KernelPool) -> None:
    delta = pool.execute("block = bytearray(64 * 2**20)").timeline.memory_delta
    assert delta is not None
    assert delta > 60 * MB


def test_a_foreign_kernel_has_a_timeline_without_memory(tmp_path: object) -> None:
    with (
        kernelspec("plain", scripted("well", tmp_path)) as name,  # type: ignore[arg-type]
        KernelPool(1, kernel_name=name, isolation="none") as pool,
    ):
        line = pool.execute("hello").timeline
    assert line.started is not None
    assert line.reply is not None
    assert line.memory_delta is None
