"""Inputs and outputs travel as values: functions and classes, large arrays, and what cannot."""

from __future__ import annotations

import pickle
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_pool import (
    ExecutionError,
    InvalidRequest,
    KernelPool,
    SerializationError,
)
from jupyter_pool.results import LazyOutputs
from support.cells import DEADLINE, Gate, Watcher, pid, value

MB = 1 << 20


@pytest.fixture(scope="module")
def pool(pyzmqs_thread: None) -> Iterator[KernelPool]:
    with KernelPool(1) as pool:
        yield pool


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A ``__main__`` as a notebook has it: what is defined there goes by value."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return module


def define(main: types.ModuleType, code: str) -> types.ModuleType:
    exec(code, main.__dict__)
    return main


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "thing",
    [
        None,
        1,
        2**100,
        1.5,
        "text",
        b"\x00bytes",
        [1, [2, (3,)]],
        {"a": {1, 2}},
        range(3),
        slice(1, None),
        Path("a/b"),
        ...,
    ],
    ids=repr,
)
def test_a_value_goes_there_and_comes_back_as_it_was(pool: KernelPool, thing: Any) -> None:
    result = pool.execute("y = x", inputs={"x": thing}, outputs=["y"])
    assert result.outputs["y"] == thing
    assert type(result.outputs["y"]) is type(thing)


def test_inputs_are_there_before_the_code_and_only_for_it(pool: KernelPool) -> None:
    assert value(pool.execute("a + b", inputs={"a": 1, "b": 2})) == "3"
    with pytest.raises(ExecutionError, match="NameError"):
        pool.execute("a")


def test_inputs_may_be_rebound_and_given_back(pool: KernelPool) -> None:
    result = pool.execute("x = x + 1; y = x", inputs={"x": 1}, outputs=["x", "y"])
    assert dict(result.outputs) == {"x": 2, "y": 2}


def test_an_input_is_a_copy(pool: KernelPool) -> None:
    mine = [1]
    result = pool.execute("x.append(2)", inputs={"x": mine}, outputs=["x"])
    assert (mine, result.outputs["x"]) == ([1], [1, 2])


def test_what_two_inputs_share_they_share_there_and_back(pool: KernelPool) -> None:
    shared = [0]
    result = pool.execute(
        "a['in'].append(1)\nsame = a['in'] is b[0]",
        inputs={"a": {"in": shared}, "b": [shared]},
        outputs=["same", "a", "b"],
    )
    assert result.outputs["same"] is True
    assert result.outputs["a"]["in"] is result.outputs["b"][0]


def test_outputs_may_hide_built_in_names(pool: KernelPool) -> None:
    result = pool.execute("list = [1]", outputs=["list"])
    assert result.outputs["list"] == [1]
    assert value(pool.execute("list((1, 2))")) == "[1, 2]"


def test_outputs_are_a_mapping_of_the_names_asked_for(pool: KernelPool) -> None:
    result = pool.execute("a = 1; b = 2; c = 3", outputs=["b", "a", "b"])
    assert list(result.outputs) == ["b", "a"]
    assert len(result.outputs) == 2
    with pytest.raises(KeyError):
        result.outputs["c"]
    assert dict(pool.execute("a = 1").outputs) == {}


# --- functions and classes ----------------------------------------------------------------------


def test_functions_of_the_notebook_travel_with_what_they_use(
    pool: KernelPool, main: types.ModuleType
) -> None:
    define(
        main,
        "import math\n"
        "factor = 3\n"
        "def helper(x): return factor * x\n"
        "def make(n):\n"
        "    def inner(x): return helper(x) + n + math.floor(0.5)\n"
        "    return inner\n",
    )
    result = pool.execute("y = f(5), g(2)", inputs={"f": main.make(1), "g": lambda x: x**2}, outputs=["y"])  # fmt: skip
    assert result.outputs["y"] == (16, 4)


def test_functions_of_the_worker_come_back_with_what_they_use(pool: KernelPool) -> None:
    result = pool.execute(
        "import math\n"
        "base = 10\n"
        "def f(x): return base + x + math.floor(0.5)\n"
        "count = lambda: [f(i) for i in range(3)]",
        outputs=["f", "count"],
    )
    assert result.outputs["f"](1) == 11
    assert result.outputs["count"]() == [10, 11, 12]


def test_instances_of_the_notebooks_classes_travel_and_stay_of_their_class(
    pool: KernelPool, main: types.ModuleType
) -> None:
    define(
        main,
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "    def double(self): return type(self)(2 * self.x)\n",
    )
    result = pool.execute(
        "q = p.double()\nkind = type(q)", inputs={"p": main.Point(2)}, outputs=["q", "kind"]
    )
    assert result.outputs["q"].x == 4
    # Not of a copy of the class: isinstance, equality and pattern matching go on to work.
    assert type(result.outputs["q"]) is main.Point
    assert result.outputs["kind"] is main.Point


def test_classes_of_the_worker_come_back(pool: KernelPool) -> None:
    result = pool.execute(
        "from dataclasses import dataclass\n"
        "from enum import Enum\n"
        "@dataclass\n"
        "class Pair:\n"
        "    a: int\n"
        "    b: int = 2\n"
        "class Color(Enum):\n"
        "    RED = 1\n"
        "pair, color = Pair(1), Color.RED",
        outputs=["Pair", "pair", "Color", "color"],
    )
    outputs = result.outputs
    assert isinstance(outputs["pair"], outputs["Pair"])
    assert outputs["pair"] == outputs["Pair"](1, 2)
    assert outputs["color"] is outputs["Color"].RED


def test_a_class_defined_anew_is_the_new_one_there(
    pool: KernelPool, main: types.ModuleType
) -> None:
    for version in (1, 2):
        define(main, f"class Versioned:\n    def version(self): return {version}\n")
        result = pool.execute("x.version()", inputs={"x": main.Versioned()})
        assert value(result) == str(version)


def test_a_method_added_to_a_class_is_there_in_the_next_request(
    pool: KernelPool, main: types.ModuleType
) -> None:
    define(main, "class Growing:\n    def one(self): return 1\n")
    assert value(pool.execute("x.one()", inputs={"x": main.Growing()})) == "1"
    main.Growing.two = lambda self: 2
    assert value(pool.execute("x.two()", inputs={"x": main.Growing()})) == "2"


def test_what_a_function_remembers_does_not_stay_in_the_worker(
    pool: KernelPool, main: types.ModuleType
) -> None:
    define(main, "seen = []\ndef count(x):\n    seen.append(x)\n    return len(seen)\n")
    for _ in range(2):
        result = pool.execute("n = count(0), count(0)", inputs={"count": main.count}, outputs=["n"])
        assert result.outputs["n"] == (1, 2)
    assert main.seen == []


# --- arrays -------------------------------------------------------------------------------------


def test_large_arrays_travel_beside_the_pickle_and_are_writable(pool: KernelPool) -> None:
    array = np.arange(4 * MB, dtype=np.float64)  # 32 MB
    result = pool.execute(
        "writable = x.flags.writeable\nx[0] = -1\ntotal = float(x[:10].sum())",
        inputs={"x": array},
        outputs=["x", "writable", "total"],
        timeout=DEADLINE,
    )
    back = result.outputs["x"]
    assert result.outputs["writable"] is True
    assert result.outputs["total"] == 44.0
    assert array[0] == 0
    assert back[0] == -1
    np.testing.assert_array_equal(back[1:], array[1:])
    assert back.flags.writeable
    back[0] = 5


def test_large_arrays_are_not_copied_into_the_pickle(pool: KernelPool) -> None:
    """What came is a small pickle and the arrays' own bytes."""
    array = np.zeros(8 * MB, dtype=np.uint8)
    result = pool.execute("y = x", inputs={"x": array}, outputs=["y"])
    assert isinstance(result.outputs, LazyOutputs)
    _, (_, frames) = result.outputs.__reduce_ex__(5)
    sizes = [memoryview(frame).nbytes for frame in frames]
    assert sizes[1:] == [array.nbytes]
    assert sizes[0] < 1000


@pytest.mark.parametrize("order", ["C", "F", "strided", "readonly", "empty", "object", "0-d"])
def test_arrays_of_any_layout_come_back_equal(pool: KernelPool, order: str) -> None:
    base = np.arange(600_000, dtype=np.int32).reshape(600, 1000)
    array = {
        "C": base,
        "F": np.asfortranarray(base),
        "strided": base[::2, ::3],
        "readonly": base.copy(),
        "empty": base[:0],
        "object": np.array([1, "a", None], dtype=object),
        "0-d": np.array(5.0),
    }[order]
    if order == "readonly":
        array.flags.writeable = False
    result = pool.execute("y = x", inputs={"x": array}, outputs=["y"])
    back = result.outputs["y"]
    np.testing.assert_array_equal(back, array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.flags.writeable is (order != "readonly")


@pytest.mark.requires("module:pandas")
def test_data_frames_travel_and_can_be_changed(pool: KernelPool) -> None:
    import pandas as pd

    frame = pd.DataFrame({"a": np.arange(50_000), "b": np.arange(50_000) / 2, "c": "text"})
    result = pool.execute(
        "frame.loc[0, 'a'] = 7\nframe['d'] = frame.a * 2",
        inputs={"frame": frame},
        outputs=["frame"],
    )
    back = result.outputs["frame"]
    assert list(back.columns) == ["a", "b", "c", "d"]
    assert (back.a[0], back.d[0], frame.a[0]) == (7, 14, 0)
    back.loc[1, "b"] = 1.0


def test_inputs_of_a_future_are_those_of_the_moment_of_submitting(
    pool: KernelPool, tmp_path: Path
) -> None:
    array = np.zeros(MB, dtype=np.uint8)
    listed = [1]
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        future = pool.submit_code(
            "s = int(x.sum()), y", inputs={"x": array, "y": listed}, outputs=["s"]
        )
        array += 1
        listed.append(2)
        gate.open()
        first.result(DEADLINE)
        assert future.result(DEADLINE).outputs["s"] == (0, [1])


# --- when and where -----------------------------------------------------------------------------


class Telltale:
    """Remembers the threads that pickled and unpickled it."""

    pickled_in: list[str] = []
    unpickled_in: list[str] = []

    def __reduce__(self) -> Any:
        self.pickled_in.append(threading.current_thread().name)
        return (_make_telltale, ())


def _make_telltale() -> Telltale:
    Telltale.unpickled_in.append(threading.current_thread().name)
    return Telltale()


def test_inputs_are_pickled_in_the_callers_thread_before_queueing(
    pool: KernelPool, tmp_path: Path
) -> None:
    Telltale.pickled_in.clear()
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        pool.submit_code("1", inputs={"x": Telltale()}).cancel()
        assert Telltale.pickled_in == [threading.current_thread().name]  # queued, and pickled
        gate.open()
        first.result(DEADLINE)


def test_outputs_are_unpickled_on_access_once_in_the_thread_that_looks(pool: KernelPool) -> None:
    code = (
        "class Late:\n"
        "    def __reduce__(self):\n"
        "        return eval, ('__import__(\"threading\").current_thread().name',)\n"
        "late = Late()"
    )
    future = pool.submit_code(code, outputs=["late"])
    result = future.result(DEADLINE)
    assert list(result.outputs) == ["late"]
    assert "not loaded" in repr(result.outputs)
    names: list[str] = []
    thread = threading.Thread(target=lambda: names.append(result.outputs["late"]), name="looker")
    thread.start()
    thread.join(DEADLINE)
    assert names == ["looker"]
    assert result.outputs["late"] == "looker"  # not again, in this thread


def test_nobody_unpickles_what_nobody_looks_at(pool: KernelPool, tmp_path: Path) -> None:
    trace = tmp_path / "unpickled"
    result = pool.execute(
        f"class Trap:\n    def __reduce__(self): return open, ({str(trace)!r}, 'x')\ntrap = Trap()",
        outputs=["trap"],
    )
    repr(result)
    result.to_text()
    result._repr_mimebundle_()
    assert not trace.exists()
    result.outputs["trap"].close()
    assert trace.exists()


# --- what cannot travel -------------------------------------------------------------------------


def test_an_input_that_cannot_be_pickled_is_named_and_nothing_runs(
    pool: KernelPool, tmp_path: Path
) -> None:
    trace = tmp_path / "ran"
    with pytest.raises(SerializationError) as caught:
        pool.execute(
            f"open({str(trace)!r}, 'w')", inputs={"fine": 1, "locked": threading.Lock(), "x": 2}
        )
    error = caught.value
    assert isinstance(error, (ValueError, TypeError))
    assert "'locked'" in str(error)
    assert "lock" in error.context["reason"]
    assert error.context["variable"] == "locked"
    assert error.context["value_type"] == "lock"
    pool.execute("1")
    assert not trace.exists()


def test_an_input_whose_pickling_raises_is_named(pool: KernelPool) -> None:
    class Angry:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    with pytest.raises(SerializationError, match=r"'angry' cannot be sent .*not me"):
        pool.submit_code("1", inputs={"angry": Angry()})


def test_an_input_that_cannot_be_rebuilt_there_is_explained_and_the_code_does_not_run(
    pool: KernelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "ran"
    module = types.ModuleType("only_here")
    monkeypatch.setitem(sys.modules, "only_here", module)
    exec("class Thing: pass", module.__dict__)
    before = pid(pool)
    with pytest.raises(SerializationError) as caught:
        pool.execute(f"open({str(trace)!r}, 'w')", inputs={"thing": module.Thing()})
    assert "the module 'only_here' cannot be imported" in str(caught.value)
    assert "The code did not run" in str(caught.value)
    assert pid(pool) == before
    assert not trace.exists()


def test_an_output_that_cannot_be_pickled_is_named_and_the_others_are_kept(
    pool: KernelPool,
) -> None:
    before = pid(pool)
    with pytest.raises(SerializationError) as caught:
        pool.execute(
            "import threading\na = 1\nlock = threading.Lock()\nprint('ran')\nb = 2",
            outputs=["a", "lock", "b"],
        )
    error = caught.value
    assert "'lock'" in str(error)
    assert error.context["variable"] == "lock"
    assert "lock" in error.context["reason"]
    result = error.result
    assert result is not None
    assert (result.status, result.stdout) == ("error", "ran\n")
    assert dict(result.outputs) == {"a": 1, "b": 2}
    assert pid(pool) == before


def test_a_generator_as_output_is_named(pool: KernelPool) -> None:
    with pytest.raises(SerializationError, match="'g' cannot be sent back"):
        pool.execute("g = (i for i in [1])", outputs=["g"])


def test_a_name_that_was_never_set_is_named_and_the_others_are_kept(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(InvalidRequest) as caught:
        pool.execute("a = 1\nprint('ran')", outputs=["a", "b", "c"])
    error = caught.value
    assert isinstance(error, (ValueError, TypeError))
    assert "the code never set the outputs 'b' and 'c'" in str(error)
    assert error.context["missing"] == ["b", "c"]
    result = error.result
    assert result is not None
    assert (result.status, result.stdout) == ("error", "ran\n")
    assert dict(result.outputs) == {"a": 1}
    assert pid(pool) == before


def test_a_name_that_was_deleted_is_one_that_is_not_set(pool: KernelPool) -> None:
    with pytest.raises(InvalidRequest, match="never set the output 'x'"):
        pool.execute("del x", inputs={"x": 1}, outputs=["x"])


def test_a_name_of_an_earlier_request_is_not_set(pool: KernelPool) -> None:
    pool.execute("earlier = 1", outputs=["earlier"])
    with pytest.raises(InvalidRequest, match="never set the output 'earlier'"):
        pool.execute("pass", outputs=["earlier"])


@pytest.mark.parametrize("name", ["print", "In", "get_ipython", "os"])
def test_names_that_are_merely_there_were_not_set_by_the_code(pool: KernelPool, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"never set the output '{name}'"):
        pool.execute("pass", outputs=[name])


def test_an_exception_comes_before_missing_outputs(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError, match="ZeroDivisionError") as caught:
        pool.execute("a = 1\n1/0\nb = 2", outputs=["a", "b"])
    assert caught.value.result is not None
    assert dict(caught.value.result.outputs) == {}


def test_an_output_that_cannot_be_rebuilt_here_is_explained_on_access(
    pool: KernelPool, tmp_path: Path
) -> None:
    (tmp_path / "only_there.py").write_text("class Thing: pass\n")
    result = pool.execute(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport only_there\n"
        "x = only_there.Thing()",
        outputs=["x"],
    )
    assert list(result.outputs) == ["x"]
    with pytest.raises(SerializationError, match="the module 'only_there' cannot be imported here"):
        result.outputs["x"]


def test_a_result_can_be_pickled_with_its_outputs(pool: KernelPool) -> None:
    result = pool.execute("y = [1, 2]\nprint('p')", outputs=["y"])
    copy = pickle.loads(pickle.dumps(result))
    assert copy.outputs["y"] == [1, 2]
    assert copy.stdout == "p\n"
    failed = pool.execute("1/0", check=False)
    copy = pickle.loads(pickle.dumps(failed))
    assert isinstance(copy.error, ExecutionError)
    assert copy.error.traceback == failed.error.traceback  # type: ignore[union-attr]
