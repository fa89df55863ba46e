"""What a pool tells those who look on: its snapshots, and that something has changed."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest

from jupyter_pool import KernelPool
from jupyter_pool.engine import onlookers
from jupyter_pool.notebook.feed import INTERVAL, Feed, Publisher, meant
from support import readme
from support.conditions import eventually

EXAMPLE = readme.ROOT / "labextension" / "schema" / "pool_state.json"


def kinds(value: Any) -> Any:
    """The shape of plain data: names and types; of a list that of its first item."""
    if isinstance(value, dict):
        return {name: kinds(one) for name, one in value.items()}
    if isinstance(value, list):
        return [kinds(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def assert_alike(found: Any, example: Any, where: str = "state") -> None:
    """Of the same names and types; None, and an empty list, go with anything."""
    if found is None or example is None:
        return
    if isinstance(example, dict):
        counted = {"counts", "requests", "workers_lost", "workers_killed", "workers_recycled"}
        if where.rpartition(".")[2] in counted:  # by names of states, outcomes, causes
            assert all(type(number) is int for number in found.values()), where
            return
        assert found.keys() == example.keys(), where
        for name in example:
            assert_alike(found[name], example[name], f"{where}.{name}")
    elif isinstance(example, list):
        for item in found:
            for model in example[:1]:
                assert_alike(item, model, f"{where}[]")
    else:
        assert kinds(found) == kinds(example), where


def feed(pool: KernelPool) -> Feed:
    return Feed(lambda: pool.name, 4)


def blocks(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {block["id"]: block for block in state["blocks"]}


def test_a_session_that_is_ended_is_a_change_also_where_nothing_runs() -> None:
    with KernelPool(size=1) as pool:
        pool.execute("1 + 1", session_id="s")
        pool.get_status()  # answered when the I/O thread has noted that the request has ended
        before = pool._driver.activity.version  # type: ignore[union-attr]
        assert not pool.end_session("another")
        assert pool._driver.activity.version == before  # type: ignore[union-attr]
        assert pool.end_session("s")
        assert pool._driver.activity.version > before  # type: ignore[union-attr]


def test_a_snapshot_is_what_the_example_says() -> None:
    with KernelPool(size=1) as pool:
        pool.execute("1 + 1", session_id="s")
        pool.execute("1/0", check=False)
        with pool.checkout() as worker:
            worker.execute("a = 1")
            waiting = pool.submit_code("'waiting'")
            eventually(lambda: pool.get_status().queue_length)
            state = feed(pool).whole()
        waiting.result()
    json.dumps(state, allow_nan=False)
    assert_alike(state, json.loads(EXAMPLE.read_text(encoding="utf-8")))
    assert {block["kind"] for block in state["blocks"]} == {"cell", "lease"}
    assert state["waiting"] == len(state["waiters"]) == 1
    assert state["waiting_since"] == state["waiters"][0]["queued"]


def test_blocks_tell_how_requests_ended_and_why() -> None:
    with KernelPool(size=2, interrupt_grace=0.5) as pool:
        ok = pool.execute("\n\n# %%time\nx = 1\ny = 2", check=False)
        failed = pool.execute("raise ValueError('no')", check=False)
        timed_out = pool.execute("import time; time.sleep(60)", timeout=0.2, check=False)
        died = pool.execute("import os; os._exit(3)", check=False)
        call = pool.submit(divmod, 7, 2)
        call.result()
        state = feed(pool).whole()
    found = blocks(state)
    told = [found[result.request_id] for result in (ok, failed, timed_out, died)]
    assert [block["outcome"] for block in told] == [
        "ok",
        "failed",
        "operation_timeout",
        "worker_died",
    ]
    assert told[0]["code"] == "x = 1\ny = 2"
    assert told[0]["error"] is None
    assert told[1]["error"] == "ValueError: no"
    assert "0.2 s" in told[2]["error"]
    assert "exit code 3" in told[3]["error"]
    assert found[call.request_id]["code"] == "divmod()"
    assert state["error_count"] == 3
    assert [block["id"] for block in state["errors"]] == [b["id"] for b in told[1:]]
    for block in told:
        assert block["queued"] <= block["started"] <= block["ended"] <= state["now"] + 0.001


def test_cancelled_requests_are_no_errors_and_show_where_they_were() -> None:
    with KernelPool(size=1) as pool:
        running = pool.submit_code("import time; time.sleep(60)")
        queued = pool.submit_code("1")
        eventually(lambda: blocks(feed(pool).whole()).get(running.request_id))  # type: ignore[attr-defined]
        for future in (queued, running):
            pool.cancel(future.request_id)  # type: ignore[attr-defined]
            assert future.exception() is not None
        state = feed(pool).whole()
    found = blocks(state)
    assert state["error_count"] == 0
    assert found[running.request_id]["outcome"] == "cancelled"  # type: ignore[attr-defined]
    assert found[queued.request_id]["started"] is None  # type: ignore[attr-defined]
    assert found[queued.request_id]["worker"] is None  # type: ignore[attr-defined]


def test_later_snapshots_hold_only_what_is_new_and_none_are_made_when_nothing_is() -> None:
    with KernelPool(size=1) as pool:
        first = pool.execute("1")
        source = feed(pool)
        whole = source.next()
        assert whole is not None
        assert whole["full"]
        assert first.request_id in blocks(whole)
        source.next()
        second = pool.execute("2")
        news = [source.next(), source.next()]
        for state in news:
            assert state is not None
            assert not state["full"]
            assert first.request_id not in blocks(state)
            assert second.request_id in blocks(state)  # told twice: one may be missed
        assert [state["seq"] for state in news if state] == [3, 4]
        # The rate falls to nothing, and then there is nothing more to say.
        eventually(lambda: source.next() is None and not source.lively, within=30)
        assert source.next() is None


def test_long_code_is_cut_and_the_history_is_bounded() -> None:
    with KernelPool(size=2) as pool:
        result = pool.execute("# " + "x" * 100_000)
        many = pool.execute("\n".join(f"a{n} = {n}" for n in range(100)))
        found = blocks(feed(pool).whole())
        assert len(found[result.request_id]["code"]) == 400
        assert found[many.request_id]["code"].count("\n") == 5
        list(pool.map(abs, range(1500), chunksize=1))
        state = feed(pool).whole()
    assert len(state["blocks"]) == 1000
    assert state["blocks"][-1]["code"] == "abs() × 1"


def test_without_a_pool_a_snapshot_says_so_and_takes_up_one_that_comes() -> None:
    source = Feed(lambda: "later", 3)
    state = source.next()
    assert state is not None
    assert (state["state"], state["size"]) == ("none", 3)
    assert source.next() is None
    with KernelPool(size=1, name="later") as pool:
        pool.execute("1")
        state = source.next()
        assert state is not None
        assert (state["state"], state["full"]) == ("running", True)
    state = source.next()
    assert state is not None
    assert state["state"] == "none"


def test_the_only_pool_is_shown_where_the_default_is_not() -> None:
    assert meant("default") == "default"
    with KernelPool(size=1, name="mine", lazy=True):
        assert meant("default") == "mine"
        with KernelPool(size=1, name="other", lazy=True):
            assert meant("default") == "default"


class Listener:
    """A monitor that keeps what it is told."""

    def __init__(self, pool: KernelPool) -> None:
        self.feed = feed(pool)
        self.states: list[dict[str, Any]] = []
        self.told = threading.Event()

    def refresh(self) -> bool:
        state = self.feed.next()
        if state is not None:
            self.states.append(state)
            self.told.set()
        return self.feed.lively

    def knows(self, request_id: str) -> bool:
        return any(request_id in blocks(state) for state in self.states)


def test_one_thread_serves_all_monitors_and_ends_with_the_last() -> None:
    publisher = Publisher()
    with KernelPool(size=1) as pool:
        listeners = [Listener(pool), Listener(pool)]
        for listener in listeners:
            publisher.attach(listener)
            publisher.attach(listener)
        for listener in listeners:
            assert listener.told.wait(15)
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("jupyter_pool monitor") == 1
        result = pool.execute("1")
        for listener in listeners:
            eventually(partial(listener.knows, result.request_id))
        for listener in listeners:
            publisher.detach(listener)
        publisher.join(15)
        # It is no longer the publisher's a moment before it has ended.
        eventually(lambda: "jupyter_pool monitor" not in str(threading.enumerate()))
        assert onlookers._waker is None
        publisher.attach(listeners[0])  # and begins again
        listeners[0].told.clear()
        pool.execute("2")
        assert listeners[0].told.wait(15)
        publisher.detach(listeners[0])
        publisher.join(15)


def test_snapshots_come_no_faster_than_four_a_second_however_much_happens() -> None:
    publisher = Publisher()
    with KernelPool(size=2) as pool:
        listener = Listener(pool)
        publisher.attach(listener)
        # As long as something happens there are more: later they would come to an end.
        while len(listener.states) < 5:
            list(pool.map(abs, range(500), chunksize=1))
        publisher.detach(listener)
        publisher.join(15)
    times = [state["now"] for state in listener.states]
    # The moment is noted a little after the pause: a snapshot that took longer makes the next gap
    # shorter, but not the pace.
    assert times[-1] - times[0] >= INTERVAL * (len(times) - 2)


def test_a_monitor_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def refresh(self) -> bool:
            raise RuntimeError("broken")

    publisher = Publisher()
    with KernelPool(size=1) as pool:
        listener = Listener(pool)
        broken = Broken()
        for monitor in (broken, listener):
            publisher.attach(monitor)
        assert listener.told.wait(15)
        eventually(lambda: "broken" in caplog.text)
        for monitor in (broken, listener):
            publisher.detach(monitor)
        publisher.join(15)
