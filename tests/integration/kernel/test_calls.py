"""Function calls over the call lane, as a raw client sees them."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from integration.kernel.kernel_client import Answer, Worker

from jupyter_pool.calling import Outcome, pack_call
from jupyter_pool.kernel.functions import FunctionCache, digest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="platform: ipc and signals")


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """As a function of a notebook: the worker cannot import this module."""
    function.__module__ = "__main__"
    return function


def submit(
    worker: Worker,
    function: Callable[..., Any],
    *args: Any,
    content: dict[str, Any] | None = None,
    without: bool = False,
    **request: Any,
) -> str:
    call = pack_call(function, args, {})
    content = {"v": 1, "split": 0 if without else len(call.function), **(content or {})}
    buffers = [*([] if without else call.function), *call.arguments]
    metadata = {"jupyter_pool": {"v": 1, **request}}
    return worker.send(worker.shell, "call_request", content, metadata, buffers)


def finish(worker: Worker, request: str) -> Answer:
    reply = worker.receive(worker.shell, request)
    assert reply["msg_type"] == "call_reply"
    announced = reply["metadata"]["jupyter_pool"].get("idle", False)
    return Answer(reply, worker.drain(request) if announced else [])


def value(answer: Answer) -> Any:
    content = answer.content
    facts = content.get("facts", {})
    if content["status"] == "error":
        facts = {
            "name": content["ename"],
            "text": content["evalue"],
            "traceback": "".join(content["traceback"]),
        }
        return Outcome("error", facts, answer.reply["buffers"]).open({})
    return Outcome(content["kind"], facts, answer.reply["buffers"]).open({})


def call(worker: Worker, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return value(finish(worker, submit(worker, function, *args, **options)))


def test_a_call_is_answered_with_its_value(worker: Worker) -> None:
    assert call(worker, divmod, 7, 2) == (3, 1)


def test_a_quick_silent_call_publishes_nothing(fresh_worker: Worker) -> None:
    worker = fresh_worker
    # Quick is what takes less than this; on a busy machine any call may take longer than 30 ms.
    worker.run(
        "from jupyter_pool.kernel import channels\nassert channels._LASTS\nchannels._LASTS = 3600.0"
    )
    request = submit(worker, abs, -1)
    reply = worker.receive(worker.shell, request)
    assert "idle" not in reply["metadata"]["jupyter_pool"]
    # What a worker publishes keeps its order: nothing is before the next request's busy.
    cell = worker.submit("")
    parents = {m["parent_header"]["msg_id"] for m in worker.listen_until_idle(cell)}
    assert parents == {cell}


def test_what_a_call_prints_is_its_own_between_busy_and_idle(worker: Worker) -> None:
    answer = finish(worker, submit(worker, print, "hello"))
    assert answer.types[0] == "busy"
    assert answer.types[-1] == "idle"
    assert set(answer.types[1:-1]) == {"stream"}
    assert answer.stdout == "hello\n"
    assert value(answer) is None


def test_a_display_in_a_call_arrives_after_what_was_printed_before(worker: Worker) -> None:
    @by_value
    def show() -> None:
        from IPython.display import display

        print("before")
        display({"text/plain": "shown"}, raw=True)
        print("after")

    answer = finish(worker, submit(worker, show))
    assert answer.order == ["busy", "stream", "display_data", "stream", "idle"]
    assert answer.stdout == "before\nafter\n"


def test_all_that_shows_something_in_a_call_belongs_to_the_call(worker: Worker) -> None:
    @by_value
    def show() -> str:
        import asyncio
        import sys
        import threading

        from IPython import get_ipython
        from IPython.display import clear_output, display

        async def say() -> None:
            await asyncio.sleep(0)
            print("task")

        def run() -> None:
            print("thread")
            display({"text/plain": "thread"}, raw=True)

        shell: Any = get_ipython()
        print("main")
        print("error", file=sys.stderr)
        asyncio.run(say())
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        shell.displayhook("result")
        clear_output()
        assert shell.get_parent() == shell.kernel.get_parent()
        return str(shell.kernel.get_parent()["header"]["msg_id"])

    for before in ("a cell", "a call", "a lease"):
        lease: dict[str, Any] = {"keep": True, "scope": before} if before == "a lease" else {}
        if before != "a call":
            worker.run("import sys; print('before')", **lease)
        if lease:
            assert "before" in finish(worker, submit(worker, print, "before", **lease)).stdout
        answer = finish(worker, request := submit(worker, show))
        assert value(answer) == request
        assert set(answer.stdout.split()) == {"main", "task", "thread"}
        assert answer.stderr == "error\n"
        assert set(answer.types) == {
            *("busy", "stream", "display_data", "execute_result", "clear_output", "idle"),
        }
    assert worker.run("print('after'); 2").result == "2"


def test_a_call_that_lasts_is_announced_while_it_runs(worker: Worker) -> None:
    request = submit(worker, time.sleep, 30.0)
    worker.wait_for(request, lambda m: m["content"].get("execution_state") == "busy")
    worker.interrupt()
    answer = finish(worker, request)
    assert answer.types == ["busy", "idle"]
    assert answer.content["ename"] == "KeyboardInterrupt"
    assert call(worker, abs, -2) == 2


def test_an_interrupt_before_a_call_or_after_it_does_nothing(worker: Worker) -> None:
    os.kill(worker.pid, signal.SIGINT)
    assert call(worker, abs, -3) == 3
    os.kill(worker.pid, signal.SIGINT)
    assert worker.run("4").result == "4"


def test_an_interrupt_in_a_call_stops_what_waits_and_what_computes(worker: Worker) -> None:
    @by_value
    def spin() -> None:
        print("spinning", flush=True)
        while True:
            pass

    for _ in range(3):
        request = submit(worker, spin)
        worker.wait_for_text(request, "spinning")
        worker.interrupt()
        assert finish(worker, request).content["ename"] == "KeyboardInterrupt"


def test_the_callers_own_exception_comes_back_with_the_remote_traceback(worker: Worker) -> None:
    @by_value
    def fail(text: str) -> None:
        raise LookupError(text)

    answer = finish(worker, submit(worker, fail, "where"))
    assert answer.content["ename"] == "LookupError"
    with pytest.raises(LookupError, match="where") as caught:
        value(answer)
    assert "in fail" in str(caught.value.__cause__)
    assert os.path.join("jupyter_pool", "") not in str(caught.value.__cause__)


def test_nothing_of_a_call_is_left_for_the_next(worker: Worker) -> None:
    @by_value
    def litter() -> None:
        import __main__

        __main__.left = 1
        os.environ["LEFT"] = "1"
        os.chdir("/")

    @by_value
    def look() -> tuple[bool, bool, str]:
        import __main__

        return hasattr(__main__, "left"), "LEFT" in os.environ, os.getcwd()

    home = call(worker, os.getcwd)
    call(worker, litter)
    assert call(worker, look) == (False, False, home)
    assert worker.run("print('left' in globals(), 'LEFT' in __import__('os').environ)").stdout == (
        "False False\n"
    )


def test_place_environment_and_seed_are_carried(worker: Worker) -> None:
    @by_value
    def draw() -> float:
        import random

        return random.random()

    assert call(worker, os.getcwd, cwd="/") == "/"
    assert call(worker, os.getenv, "GIVEN", env={"GIVEN": "yes"}) == "yes"
    first = call(worker, draw, seed=1)
    assert call(worker, draw, seed=1) == first
    assert call(worker, draw) != first


def test_a_folder_that_is_not_there_is_a_bad_request(worker: Worker) -> None:
    answer = finish(worker, submit(worker, abs, -1, cwd="/no/such/folder"))
    assert "cannot be entered" in answer.report["bad_inputs"]
    assert call(worker, abs, -1) == 1


def test_a_thread_left_by_a_call_asks_for_another_worker(fresh_worker: Worker) -> None:
    @by_value
    def leave() -> None:
        import threading

        threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()

    worker = fresh_worker
    request = submit(worker, leave)
    assert "recycle" not in finish(worker, request).report
    # Found out when the caller has its answer already; what comes now is refused.
    notice = worker.receive(worker.shell, request)
    assert notice["msg_type"] == "recycle_notice"
    assert "thread" in notice["metadata"]["jupyter_pool"]["recycle"]
    assert "thread" in finish(worker, submit(worker, abs, -1)).report["refused"]
    assert "thread" in worker.run("1").report["refused"]


def test_tasks_left_by_a_call_are_cancelled_before_the_next(worker: Worker) -> None:
    @by_value
    def leave() -> None:
        import asyncio

        async def linger() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                print("cancelled")

        asyncio.get_event_loop_policy().get_event_loop().create_task(linger())

    first = submit(worker, leave)
    second = submit(worker, abs, -1)
    answer = finish(worker, first)
    assert "recycle" not in answer.report
    assert value(finish(worker, second)) == 1
    assert worker.run("import asyncio; print(len(asyncio.all_tasks()))").stdout == "1\n"


def test_a_call_may_run_an_event_loop_of_its_own(worker: Worker) -> None:
    @by_value
    def run() -> int:
        import asyncio

        async def answer() -> int:
            await asyncio.sleep(0)
            return 42

        return asyncio.run(answer())

    assert call(worker, run) == 42
    assert call(worker, run) == 42
    assert worker.run("import asyncio; await asyncio.sleep(0); 7").result == "7"


def test_a_call_waits_for_a_cell_that_awaits(worker: Worker) -> None:
    cell = worker.submit("import asyncio; await asyncio.sleep(0.2); print('cell')")
    request = submit(worker, print, "call")
    messages = worker.listen_until_idle(request)
    said = [m["content"]["text"] for m in messages if m["msg_type"] == "stream"]
    assert "".join(said) == "cell\ncall\n"
    assert worker.receive(worker.shell, cell)["content"]["status"] == "ok"
    assert worker.receive(worker.shell, request)["content"]["status"] == "ok"


def test_a_function_is_sent_once_and_found_by_its_content(fresh_worker: Worker) -> None:
    worker = fresh_worker

    @by_value
    def count(n: int, seen: list[int] = []) -> list[int]:  # noqa: B006 - what must not stay
        count.__dict__["calls"] = count.__dict__.get("calls", 0) + 1
        seen.append(n)
        return [*seen, count.__dict__["calls"]]

    content = {"function": digest(pack_call(count, (1,), {}).function)}
    lacking = finish(worker, submit(worker, count, 1, content=content, without=True))
    assert lacking.report["lacks"] == content["function"]
    assert call(worker, count, 1, content=content) == [1, 1]
    # Bytes are kept, never the live function with what it has gathered.
    assert call(worker, count, 2, content=content, without=True) == [2, 1]
    worker.run("1")
    assert call(worker, count, 3, content=content, without=True) == [3, 1]


def test_a_class_sent_again_is_the_new_one(worker: Worker) -> None:
    def make(answer: int) -> Callable[[], int]:
        class Thing:
            def __reduce__(self) -> Any:
                return (Thing, ())

            def value(self) -> int:
                return answer

        Thing.__module__ = "__main__"
        by_value(Thing.value)
        return functools.partial(_value_of, Thing())

    @by_value
    def _value_of(thing: Any) -> int:
        return int(thing.value())

    assert [call(worker, make(n)) for n in (1, 2)] == [1, 2]


def test_a_function_that_is_not_the_one_named_is_refused(worker: Worker) -> None:
    answer = finish(worker, submit(worker, abs, -1, content={"function": "0" * 32}))
    assert "not the one" in answer.report["bad_inputs"]


@pytest.mark.parametrize("content", [{"v": 2}, {"split": 99}, {"split": None}])
def test_a_misshapen_call_is_answered_so(worker: Worker, content: dict[str, Any]) -> None:
    answer = finish(worker, submit(worker, abs, -1, content=content))
    assert answer.content["ename"] == "InvalidRequest"
    assert call(worker, abs, -1) == 1


def test_a_wrongly_signed_call_is_not_served(worker: Worker) -> None:
    key, worker.session.key = worker.session.key, b"another key"
    try:
        submit(worker, print, "forged")
    finally:
        worker.session.key = key
    assert worker.run("1").stdout == ""


def test_a_call_that_ends_its_process_leaves_its_id(fresh_worker: Worker) -> None:
    submit(fresh_worker, os._exit, 3)
    assert fresh_worker.wait_dead() == 3


def test_exit_in_a_call_ends_the_call_only(worker: Worker) -> None:
    answer = finish(worker, submit(worker, exit_now := by_value(lambda: __import__("sys").exit(4))))
    assert exit_now is not None
    with pytest.raises(SystemExit) as caught:
        value(answer)
    assert caught.value.code == 4
    assert call(worker, abs, -1) == 1


def test_input_in_a_call_fails_at_once(worker: Worker) -> None:
    @by_value
    def ask() -> str:
        return input("?")

    answer = finish(worker, submit(worker, ask))
    assert answer.content["ename"] == "StdinNotImplementedError"


def test_output_beyond_the_limit_is_cut_as_for_cells(worker: Worker) -> None:
    answer = finish(worker, submit(worker, print, "x" * 200_000, output_limit=20_000))
    assert answer.report["left_out"] > 100_000
    assert len(answer.stdout) < 30_000


def test_a_lease_keeps_state_between_calls_and_cells(worker: Worker) -> None:
    @by_value
    def look() -> object:
        import __main__

        return getattr(__main__, "kept", None)

    worker.run("kept = 5", keep=True, scope="lease")
    assert call(worker, look, keep=True, scope="lease") == 5
    assert call(worker, look) is None


def test_the_cache_of_functions_is_bounded() -> None:
    cache = FunctionCache(most_bytes=100, most=3)
    names = [cache.put([bytes([n]) * 30])[0] for n in range(4)]
    assert [cache.get(name) is not None for name in names] == [False, True, True, True]
    large, _ = cache.put([bytes(1000)])
    assert cache.get(large) is not None
    assert len(cache) == 1
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])


def test_contexts_of_calls_are_their_own(worker: Worker) -> None:
    import decimal

    @by_value
    def change() -> int:
        before = decimal.getcontext().prec
        decimal.getcontext().prec = 3
        return before

    first = call(worker, change)
    assert call(worker, change) == first
