"""Programs: registered once, executed by id on any worker, live there, counted exactly."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_pool import (
    AsyncKernelPool,
    Cancelled,
    ExecutionError,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    PoolNotAvailable,
    SerializationError,
    UnknownProgram,
    WorkerDied,
)
from support.calls import Door, by_value, pass_through
from support.cells import DEADLINE, THERE_BY_THEN, Watcher, pids
from support.conditions import eventually, gone


@pytest.fixture(scope="module", autouse=True)
def _travels_whole() -> Iterator[None]:
    with by_value(__name__), by_value("support.calls"):
        yield


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[KernelPool]:
    with KernelPool(2) as pool:
        yield pool


@pytest.fixture
def pool(shared_pool: KernelPool) -> Iterator[KernelPool]:
    yield shared_pool
    for program_id in shared_pool.list_programs():
        shared_pool.delete_program(program_id)


@pytest.fixture
def one() -> Iterator[KernelPool]:
    with KernelPool(1) as pool:
        yield pool


class Counter:
    """Counts its executions."""

    def __init__(self, start: Any = 0) -> None:
        self.n = start

    def __call__(self, step: Any = 1) -> Any:
        self.n += step
        return self.n, os.getpid()


class Doc:
    """Of the notebook, so to say."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def words(self) -> Any:
        return split(self.text)


def split(text: Any) -> Any:
    return text.split()


def divide(x: Any, y: Any) -> Any:
    """Divide two numbers.

    No more is said of it here.
    """
    return x / y


def outputs(result: Any) -> dict[str, Any]:
    return dict(result.outputs)


# --- executing ------------------------------------------------------------------------------------


def test_a_function_is_executed_by_its_id(pool: KernelPool) -> None:
    info = pool.register_program("divide", divide, outputs=["ratio"])
    result = pool.execute_program("divide", {"x": 6, "y": 3}, session_id="s")
    assert outputs(result) == {"ratio": 2.0}
    assert (result.program_id, result.session_id, result.status) == ("divide", "s", "ok")
    assert result.worker_id in pids(pool)
    assert result.request_id
    assert result.timings.total >= result.timings.ran > 0
    assert info.signature == "divide(x: Any, y: Any) -> ratio"
    assert info.description == "Divide two numbers."


def test_source_code_has_named_inputs_and_outputs(pool: KernelPool) -> None:
    code = "import asyncio\nawait asyncio.sleep(0)\ntotal = a + b\nprint('added')\nspare = 1"
    pool.register_program("add", code, inputs=["a", "b"], outputs=["total"], description="Adds.")
    for a in range(3):
        result = pool.execute_program("add", {"a": a, "b": 1})
        assert outputs(result) == {"total": a + 1}
    assert result.display_outputs == [
        {"output_type": "stream", "name": "stdout", "text": "added\n"}
    ]
    info = pool.get_program_info("add")
    assert (info.kind, info.signature) == ("source", "add(a, b) -> total")
    assert info.description == "Adds."
    assert info.size == len(code)


def test_without_names_the_output_is_called_result(pool: KernelPool) -> None:
    pool.register_program("p", lambda: {"a": 1})
    assert outputs(pool.execute_program("p")) == {"result": {"a": 1}}


def test_several_outputs_come_from_a_tuple_a_mapping_or_attributes(pool: KernelPool) -> None:
    makers = [lambda: (1, 2), lambda: {"b": 2, "a": 1, "c": 3}, lambda: AB(1, 2)]
    for number, program in enumerate(makers):
        pool.register_program(f"p{number}", program, outputs=["a", "b"])
        assert outputs(pool.execute_program(f"p{number}")) == {"a": 1, "b": 2}


class AB:
    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b


class Prediction:
    """As DSPy has it."""

    def __init__(self, **fields: Any) -> None:
        self._store = fields

    def toDict(self) -> Any:
        return self._store


class Module:
    """As a DSPy module: called with keywords, its `forward` says which."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, question: Any, k: Any = 1) -> Any:
        return Prediction(answer=question.upper() * k, reasoning="loud")


def test_a_module_with_a_forward_gives_the_fields_of_its_prediction(pool: KernelPool) -> None:
    pool.register_program("qa", Module(), outputs=["answer"])
    assert outputs(pool.execute_program("qa", {"question": "a", "k": 2})) == {"answer": "AA"}
    with pytest.raises(InvalidRequest, match="needs 'question'"):
        pool.execute_program("qa")
    pool.register_program("qa", Module(), inputs=["question"], outputs=["reasoning", "answer"])
    found = outputs(pool.execute_program("qa", {"question": "a"}))
    assert found == {"reasoning": "loud", "answer": "A"}


def test_a_result_that_does_not_fit_says_what_it_was(pool: KernelPool) -> None:
    pool.register_program("p", lambda: (1, 2, 3), outputs=["a", "b"])
    with pytest.raises(InvalidRequest, match="returned a tuple of 3.* 'a', 'b'") as caught:
        pool.execute_program("p")
    assert caught.value.context["missing"] == ["a", "b"]
    assert pool.get_program_info("p").failures == 1


def test_an_output_that_cannot_be_pickled_is_named_and_the_others_are_there(
    pool: KernelPool,
) -> None:
    pool.register_program("p", lambda: (1, threading.Lock()), outputs=["a", "b"])
    with pytest.raises(SerializationError, match="the output 'b' cannot be sent back") as caught:
        pool.execute_program("p")
    assert caught.value.result is not None
    assert dict(caught.value.result.outputs) == {"a": 1}


def test_what_a_program_prints_goes_to_on_output_and_into_the_result(pool: KernelPool) -> None:
    pool.register_program("p", lambda: print("hello"))
    watcher = Watcher()
    result = pool.execute_program("p", on_output=watcher)
    watcher.wait_for("hello")
    assert result.display_outputs[0]["text"] == "hello\n"


def test_objects_of_the_callers_classes_are_known_to_the_program_and_back(
    pool: KernelPool,
) -> None:
    def program(doc: Any) -> Any:
        assert isinstance(doc, Doc)
        return Doc(" ".join(reversed(doc.words())))

    pool.register_program("p", program, outputs=["doc"])
    for _ in range(3):
        doc = pool.execute_program("p", {"doc": Doc("a b c")}).outputs["doc"]
        assert isinstance(doc, Doc)
        assert doc.words() == ["c", "b", "a"]
        pool.execute("1")  # a reset in between


def test_what_was_put_can_be_an_input_and_part_of_a_program(pool: KernelPool) -> None:
    data = pool.put(np.arange(1000))

    def program(more: Any, data: Any = data) -> Any:
        return int(data.sum() + more.sum())

    pool.register_program("p", program, outputs=["total"])
    for _ in range(3):
        assert pool.execute_program("p", {"more": data}).outputs["total"] == 2 * 499500


def test_a_program_with_a_large_array(pool: KernelPool, pyzmqs_thread: None) -> None:
    weights = np.ones(3_000_000)

    def program(x: Any) -> Any:
        weights[0] += 1  # live, as the rest of it
        return float(weights.sum()) * x

    pool.register_program("p", program, outputs=["y"])
    info = pool.get_program_info("p")
    assert info.size > weights.nbytes
    for _ in range(4):
        assert pool.execute_program("p", {"x": 2}).outputs["y"] > 6_000_000
    assert weights[0] == 1
    pool.register_program("q", program, outputs=["y"], reload=True)
    for _ in range(4):
        assert pool.execute_program("q", {"x": 2}).outputs["y"] == 2 * 3_000_001


# --- what is wrong --------------------------------------------------------------------------------


def test_an_error_shows_the_programs_lines(pool: KernelPool) -> None:
    pool.register_program("divide", divide)
    with pytest.raises(ExecutionError, match="ZeroDivisionError: division by zero") as caught:
        pool.execute_program("divide", {"x": 1, "y": 0})
    text = "\n".join(caught.value.traceback)
    assert "return x / y" in text
    assert "in divide" in text
    assert "jupyter_pool" not in text
    assert caught.value.context["program_id"] == "divide"
    pool.register_program("src", "a = 1\nnowhere")
    with pytest.raises(ExecutionError, match="NameError") as caught:
        pool.execute_program("src")
    assert "nowhere" in "\n".join(caught.value.traceback)


def test_an_unknown_id_names_close_ones(pool: KernelPool) -> None:
    with pytest.raises(UnknownProgram, match="it has none"):
        pool.execute_program("answer")
    pool.register_program("answer", divide)
    for use in (pool.execute_program, pool.get_program_info, pool.delete_program):
        with pytest.raises(UnknownProgram, match="did you mean 'answer'.*it has answer") as caught:
            use("anwser")
    assert (caught.value.category, caught.value.type) == ("input_error", "unknown_program")
    assert caught.value.context["programs"] == ["answer"]


def test_bad_inputs_are_found_before_anything_is_sent(pool: KernelPool) -> None:
    pool.register_program("divide", divide)
    before = pool.get_stats().requests
    with pytest.raises(InvalidRequest, match="needs 'y', and does not take 'z'"):
        pool.execute_program("divide", {"x": 1, "z": 2})
    with pytest.raises(SerializationError, match="'y' cannot be sent"):
        pool.execute_program("divide", {"x": 1, "y": threading.Lock()})
    with pytest.raises(InvalidRequest, match="timeout"):
        pool.execute_program("divide", {"x": 1, "y": 2}, timeout="soon")
    assert pool.get_stats().requests == before
    assert pool.get_program_info("divide").execution_count == 0


async def coroutine(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", divide), "program_id='' is not possible"),
        ((3, divide), "program_id=3 is not possible"),
        (("p", 3), "not int"),
        (("p", coroutine), "async"),
        (("p", threading.Lock().acquire), "'p' cannot be sent to another process"),
    ],
)
def test_impossible_programs(pool: KernelPool, arguments: Any, message: str) -> None:
    with pytest.raises((InvalidRequest, SerializationError), match=message):
        pool.register_program(*arguments)
    assert pool.list_programs() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": "result"}, "a list of names"),
        ({"outputs": []}, "nothing to bring back"),
        ({"inputs": ["x"]}, "also needs 'y'"),
        ({"description": 3}, "description=3"),
        ({"reload": 1}, "reload=1"),
    ],
)
def test_impossible_options(pool: KernelPool, options: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pool.register_program("p", divide, **options)


def test_source_code_cannot_be_reloaded_as_it_always_is(pool: KernelPool) -> None:
    with pytest.raises(InvalidRequest, match="begins anew"):
        pool.register_program("p", "1", reload=True)


def test_a_program_whose_module_a_worker_cannot_import(
    pool: KernelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_of_a_program.py").write_text("def f(): return 1")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        import module_of_a_program  # type: ignore[import-not-found]

        pool.register_program("p", module_of_a_program.f)
    (tmp_path / "module_of_a_program.py").unlink()
    with pytest.raises(SerializationError, match="program 'p' could not be rebuilt"):
        pool.execute_program("p")
    assert pool.get_program_info("p").failures == 1


@pytest.mark.requires("kernel:bash")
def test_programs_need_the_pools_own_kernel(bash_kernel: str) -> None:
    with (
        KernelPool(1, lazy=True, kernel_name=bash_kernel) as pool,
        pytest.raises(InvalidRequest, match="not with 'bash'"),
    ):
        pool.register_program("p", divide)


def test_a_closed_pool_has_no_programs() -> None:
    pool = KernelPool(1, lazy=True)
    pool.register_program("p", divide)
    pool.close()
    for use in (pool.list_programs, lambda: pool.execute_program("p")):
        with pytest.raises(PoolNotAvailable):
            use()


# --- what lives -----------------------------------------------------------------------------------


def test_a_program_is_live_and_shared_per_worker_across_sessions_and_resets(
    one: KernelPool,
) -> None:
    one.register_program("c", Counter(), outputs=["n", "pid"])
    seen = []
    for session in ("a", "b", "a"):
        seen.append(one.execute_program("c", session_id=session).outputs["n"])
        one.execute("1")
    assert seen == [1, 2, 3]


def test_each_worker_has_a_live_one_of_its_own(pool: KernelPool, tmp_path: Path) -> None:
    door = Door(tmp_path)

    class Both:
        n = 0

        def __call__(self) -> Any:
            self.n += 1
            pass_through(door_key)
            return self.n, os.getpid()

    door_key = door.key
    pool.register_program("c", Both(), outputs=["n", "pid"])
    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(pool.execute_program, "c") for _ in range(2)]
        eventually(lambda: door.count() == 2)
        door.open(2)
        found = [future.result().outputs for future in running]
    door.close()
    assert [one["n"] for one in found] == [1, 1]
    assert len({one["pid"] for one in found}) == 2


def test_reload_unpickles_it_for_each_execution(one: KernelPool) -> None:
    one.register_program("c", Counter(), outputs=["n", "pid"], reload=True)
    assert [one.execute_program("c").outputs["n"] for _ in range(3)] == [1, 1, 1]


def test_an_evicted_program_is_sent_again(one: KernelPool) -> None:
    one.register_program("c", Counter(), outputs=["n", "pid"])
    one.register_program("r", Counter(5), outputs=["n", "pid"], reload=True)
    assert one.execute_program("c").outputs["n"] == 1
    assert one.execute_program("r").outputs["n"] == 6
    for number in range(33):
        one.register_program(f"p{number}", lambda number=number: number)
        assert outputs(one.execute_program(f"p{number}")) == {"result": number}
    assert one.execute_program("c").outputs["n"] == 1
    assert one.execute_program("r").outputs["n"] == 6


def test_a_replaced_worker_gets_it(one: KernelPool) -> None:
    one.register_program("c", Counter(), outputs=["n", "pid"])
    first = one.execute_program("c").outputs["pid"]
    os.kill(first, signal.SIGKILL)
    eventually(gone([first]))
    result = one.execute_program("c")
    assert result.outputs["n"] == 1
    assert result.outputs["pid"] != first


def test_an_overflow_worker_and_isolated_requests_get_it(tmp_path: Path) -> None:
    door = Door(tmp_path)
    with KernelPool(1, overflow=1) as pool, ThreadPoolExecutor(1) as threads:
        pool.register_program("wait", pass_through, outputs=["value"])
        pool.register_program("c", Counter(), outputs=["n", "pid"])
        busy = threads.submit(pool.execute_program, "wait", {"key": door.key, "value": 7})
        eventually(lambda: door.count() == 1)
        assert pool.execute_program("c").outputs["n"] == 1
        door.open()
        assert busy.result().outputs["value"] == 7
        for isolation in ("process", "process"):
            assert pool.execute_program("c", isolation=isolation).outputs["n"] == 1
        assert pool.execute_program("c", isolation="none").outputs["n"] >= 1
    door.close()


def test_delete_and_register_again_under_the_same_id(one: KernelPool) -> None:
    program = Counter()
    one.register_program("c", program, outputs=["n", "pid"])
    assert [one.execute_program("c").outputs["n"] for _ in range(2)] == [1, 2]
    one.delete_program("c")
    with pytest.raises(UnknownProgram):
        one.execute_program("c")
    one.register_program("c", program, outputs=["n", "pid"])
    assert one.execute_program("c").outputs["n"] == 1
    one.register_program("c", Counter(10), outputs=["n", "pid"])
    assert one.execute_program("c").outputs["n"] == 11
    assert one.get_program_info("c").execution_count == 1
    assert one.list_programs() == ["c"]


def test_a_worker_lets_go_of_a_deleted_program(one: KernelPool) -> None:
    one.register_program("c", Counter(), outputs=["n", "pid"])
    one.execute_program("c")
    kept = "kept = len(get_ipython().kernel.data.programs)"
    assert one.execute(kept, outputs=["kept"]).outputs["kept"] == 1
    one.delete_program("c")
    eventually(lambda: one.execute(kept, outputs=["kept"]).outputs["kept"] == 0)


def test_an_execution_that_runs_finishes_with_the_program_it_began_with(
    one: KernelPool, tmp_path: Path
) -> None:
    door = Door(tmp_path)
    one.register_program("p", pass_through, outputs=["value"])
    with ThreadPoolExecutor(1) as threads:
        old = threads.submit(one.execute_program, "p", {"key": door.key, "value": "old"})
        eventually(lambda: door.count() == 1)
        one.register_program("p", lambda: "new", outputs=["value"])
        door.open()
        assert old.result().outputs["value"] == "old"
    assert one.execute_program("p").outputs["value"] == "new"
    assert one.get_program_info("p").execution_count == 1
    door.close()


def test_after_an_interrupted_execution_a_new_one_is_made(one: KernelPool) -> None:
    class Slow:
        n = 0

        def __call__(self, seconds: Any = 0.0) -> Any:
            self.n += 1
            time.sleep(seconds)
            return self.n, os.getpid()

    one.register_program("c", Slow(), outputs=["n", "pid"])
    assert one.execute_program("c").outputs["n"] == 1
    with pytest.raises(OperationTimeout):
        one.execute_program("c", {"seconds": 600}, timeout=THERE_BY_THEN)
    assert one.execute_program("c").outputs["n"] == 1


# --- what is counted ------------------------------------------------------------------------------


def test_what_is_known_of_a_program(pool: KernelPool) -> None:
    before = datetime.now(timezone.utc)
    pool.register_program("divide", divide)
    info = pool.get_program_info("divide")
    assert before <= info.created_at <= datetime.now(timezone.utc)
    assert (info.execution_count, info.failures, info.last_executed) == (0, 0, None)
    assert (info.inputs, info.outputs, info.kind) == (("x", "y"), ("result",), "callable")
    assert info.size > 0
    pool.execute_program("divide", {"x": 1, "y": 1})
    after = pool.get_program_info("divide")
    assert after.execution_count == 1
    assert after.last_executed is not None
    assert info.created_at <= after.last_executed <= datetime.now(timezone.utc)


def test_counts_are_exact_under_concurrent_executions_that_fail(pool: KernelPool) -> None:
    pool.register_program("divide", divide, outputs=["ratio"])

    def execute(number: int) -> bool:
        return (
            pool.execute_program(
                "divide", {"x": 1, "y": number % 4}, check=False, session_id=f"s{number % 3}"
            ).status
            == "ok"
        )

    with ThreadPoolExecutor(20) as threads:
        ok = list(threads.map(execute, range(200)))
    info = pool.get_program_info("divide")
    assert ok.count(False) == 50
    assert (info.execution_count, info.failures) == (200, 50)


def test_executions_that_time_out_die_or_are_cancelled_are_counted(pool: KernelPool) -> None:
    def program(what: Any) -> Any:
        if what == "die":
            os._exit(3)
        time.sleep(600)

    pool.register_program("p", program)
    with pytest.raises(OperationTimeout):
        pool.execute_program("p", {"what": "sleep"}, timeout=0.2)
    with pytest.raises(WorkerDied):
        pool.execute_program("p", {"what": "die"})
    with pytest.raises(WorkerDied, match="tried 3 times"):
        pool.execute_program("p", {"what": "die"}, retries=2)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(pool.execute_program, "p", {"what": "sleep"})
        busy = eventually(
            lambda: [w.request_id for w in pool.get_status().workers if w.state == "busy"]
        )
        assert busy[0] is not None
        pool.cancel(busy[0])
        with pytest.raises(Cancelled):
            future.result(DEADLINE)
    info = pool.get_program_info("p")
    assert (info.execution_count, info.failures) == (4, 4)


def test_check_false_gives_the_error_in_the_result(pool: KernelPool) -> None:
    pool.register_program("divide", divide)
    result = pool.execute_program("divide", {"x": 1, "y": 0}, check=False)
    assert result.status == "error"
    assert isinstance(result.error, ExecutionError)
    assert outputs(result) == {}


# --- views, asyncio -------------------------------------------------------------------------------


def test_a_views_options_hold_for_programs(pool: KernelPool) -> None:
    watcher = Watcher()
    view = pool.options(
        timeout=THERE_BY_THEN, session_id="views", check=False, on_output=watcher, seed=5
    )
    view.register_program(
        "draw", "import random; print('drawn'); x = random.random()", outputs=["x"]
    )
    drawn = [view.execute_program("draw").outputs["x"] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert watcher.events
    view.register_program("nap", lambda: time.sleep(600))
    result = view.execute_program("nap")
    assert (result.status, result.session_id) == ("timeout", "views")
    assert pool.sessions["views"].requests == 3
    assert set(view.list_programs()) == {"draw", "nap"}
    assert view.get_program_info("nap").failures == 1
    view.delete_program("nap")
    assert "nap" not in pool.list_programs()


async def test_the_same_for_asyncio() -> None:
    async with AsyncKernelPool(1) as pool:
        info = await pool.register_program("c", Counter(), outputs=["n", "pid"])
        assert info.program_id == "c"
        events: list[Any] = []
        view = pool.options(session_id="s", on_output=events.append)
        assert (await view.execute_program("c")).outputs["n"] == 1
        result = await pool.execute_program("c", {"step": 2})
        assert result.outputs["n"] == 3
        with pytest.raises(UnknownProgram):
            await pool.execute_program("d")
        assert await pool.list_programs() == ["c"]
        assert (await pool.get_program_info("c")).execution_count == 2
        await pool.register_program("bad", divide)
        bad = await pool.execute_program("bad", {"x": 1, "y": 0}, check=False)
        assert bad.status == "error"
        await pool.delete_program("c")
        assert await pool.list_programs() == ["bad"]
