"""Values arrive as they were sent, large ones without copies, and failures name their cause."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from jupyter_pool.errors import InvalidRequest, SerializationError
from jupyter_pool.serialize import LazyOutputs, check_names, pack, unpack


def as_bytes(frames: list[Any]) -> list[bytes]:
    """The frames as they come off a wire, with no memory shared."""
    return [bytes(frame) for frame in frames]


def message_frame(data: bytes) -> zmq.Frame:
    return zmq.Frame(data, copy=True)  # as received ones: not holding on to Python's memory


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=8), plain_values, max_size=5))
def test_plain_values_come_back_equal(values: dict[str, Any]) -> None:
    assert unpack(as_bytes(pack(values))) == values


def test_values_shared_between_variables_stay_shared() -> None:
    row = [1]
    array = np.zeros(100_000)
    sent = {"a": row, "b": [row], "x": array, "y": array}
    frames = pack(sent)
    assert len(frames) == 2
    got = unpack(as_bytes(frames))
    got["a"].append(2)
    assert got["b"] == [[1, 2]]
    assert got["x"] is got["y"]


def test_large_buffers_travel_beside_the_pickle_as_views_of_the_array() -> None:
    array = np.arange(1_000_000, dtype=np.int64)
    head, buffer = pack({"array": array})
    assert len(head) < 1000
    assert isinstance(buffer, memoryview)
    assert buffer.nbytes == array.nbytes
    assert buffer.ndim == 1
    array[0] = -1
    assert np.frombuffer(buffer, dtype=np.int64)[0] == -1


def test_snapshot_is_not_changed_by_what_happens_to_the_array_later() -> None:
    array = np.zeros(100_000)
    frames = pack({"array": array}, snapshot=True)
    array[:] = 1
    assert not unpack(as_bytes(frames))["array"].any()


def test_small_buffers_make_no_frames_of_their_own() -> None:
    frames = pack({f"a{number}": np.arange(10) for number in range(100)})
    assert len(frames) == 1
    assert all(array.flags.writeable for array in unpack(as_bytes(frames)).values())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("frame", [bytes, bytearray, memoryview, message_frame])
def test_arrays_are_writable_whatever_the_frames_are(frame: Any, order: Any) -> None:
    array = np.arange(90_000, dtype=float).reshape((300, 300), order=order)
    got = unpack([frame(part) for part in as_bytes(pack({"array": array}))])["array"]
    assert (got == array).all()
    got[0, 0] = 7
    assert got[0, 0] == 7


def test_writable_frames_are_used_without_a_copy() -> None:
    head, buffer = pack({"array": np.zeros(100_000)})
    arrived = bytearray(buffer)
    got = unpack([head, memoryview(arrived)])["array"]
    got[0] = 5
    assert np.frombuffer(arrived)[0] == 5


def test_an_array_that_was_read_only_stays_so() -> None:
    array = np.zeros(100_000)
    array.flags.writeable = False
    assert not unpack(as_bytes(pack({"array": array})))["array"].flags.writeable


def test_strided_arrays_arrive_whole() -> None:
    array = np.arange(400_000).reshape(400, 1000)[::2, ::3]
    assert (unpack(as_bytes(pack({"array": array})))["array"] == array).all()


def test_frames_with_large_columns_travel_out_of_band_and_can_be_changed() -> None:
    frame = pd.DataFrame({"x": np.arange(50_000.0), "n": range(50_000), "t": ["a", "b"] * 25_000})
    frames = pack({"frame": frame})
    assert len(frames) > 1
    got = unpack(as_bytes(frames))["frame"]
    pd.testing.assert_frame_equal(got, frame)
    got.loc[0, "x"] = -1.0
    got["new"] = got.n * 2
    assert got.loc[0, "x"] == -1.0


MAKE = """
import dataclasses, sys
from jupyter_pool.serialize import pack, unpack

offset = 10

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)

def counter():
    count = 0
    def step():
        nonlocal count
        count += 1
        return count
    return step

@dataclasses.dataclass
class Point:
    x: int
    def shifted(self): return type(self)(self.x + offset)

class Special(Point):
    def shifted(self):
        return super().shifted()

values = dict(
    add=lambda x: x + offset, factorial=factorial, even=even, step=counter(),
    Point=Point, point=Special(1),
)
"""
USE = """
assert values["add"](1) == 11
assert values["factorial"](5) == 120
assert values["even"](8) and not values["even"](7)
assert [values["step"](), values["step"]()] == [1, 2]
assert values["point"].shifted().x == 11
assert isinstance(values["point"], values["Point"])
assert values["Point"](2) == values["Point"](2)
"""
SEND = """
import pickle
with open(sys.argv[1], "wb") as file:
    pickle.dump([bytes(frame) for frame in pack(values)], file)
"""
RECEIVE = """
import pickle, sys
from jupyter_pool.serialize import pack, unpack
with open(sys.argv[1], "rb") as file:
    values = unpack(pickle.load(file))
"""


def run(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def test_what_a_main_module_defines_travels_by_value_there_and_back(tmp_path: Path) -> None:
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    run(MAKE + SEND, there)
    run(RECEIVE + SEND.replace("argv[1]", "argv[2]"), there, back)
    run(RECEIVE + USE, back)


def test_a_class_sent_out_and_back_is_the_same_class() -> None:
    code = MAKE + "got = unpack(pack(values)); assert type(got['point']) is Special"
    run(code)


def test_what_cannot_be_pickled_is_named_with_the_reason() -> None:
    with pytest.raises(SerializationError, match=r"'lock' cannot be sent.*cannot pickle '_thread"):
        pack({"fine": 1, "lock": threading.Lock()})
    with pytest.raises(SerializationError) as caught:
        pack({"stream": (n for n in range(3))})
    assert caught.value.context["variable"] == "stream"
    assert caught.value.context["value_type"] == "generator"
    assert "generator" in caught.value.context["reason"]
    assert isinstance(caught.value.__cause__, TypeError)


def test_too_deep_nesting_is_named() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        with pytest.raises(SerializationError, match="'deep'.*nested too deeply"):
            pack({"deep": deep})
    finally:
        while deep:  # frees it without a recursion as deep
            deep = deep.pop()


class Fails:
    """Raises whatever it is told to when it is pickled or unpickled."""

    def __init__(self, dumping: BaseException | None = None) -> None:
        self.dumping = dumping

    def __reduce__(self) -> Any:
        if self.dumping is not None:
            raise self.dumping
        return (explode, ())


def explode() -> None:
    raise KeyboardInterrupt


def test_any_exception_while_pickling_names_the_variable() -> None:
    with pytest.raises(SerializationError, match=r"'odd' cannot be sent .*: ZeroDivisionError$"):
        pack({"odd": Fails(ZeroDivisionError())})


def test_keyboard_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        pack({"x": Fails(KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        unpack(pack({"x": Fails()}))


def test_module_that_is_missing_on_arrival_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_over_there.py").write_text("class Thing: pass")
    monkeypatch.syspath_prepend(tmp_path)
    thing = importlib.import_module("only_over_there").Thing()
    frames = pack({"thing": thing})
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "only_over_there")
    with pytest.raises(SerializationError, match="module 'only_over_there' cannot be imported"):
        unpack(frames)


@pytest.mark.parametrize(
    "frames",
    [[], [b""], [b"nonsense"], [pickle.dumps([1])], pack({"a": np.zeros(100_000)})[:1]],
    ids=["none", "empty", "nonsense", "not a dict", "buffer missing"],
)
def test_broken_frames_are_a_serialization_error(frames: list[Any]) -> None:
    with pytest.raises(SerializationError):
        unpack(frames)


def test_names_come_back_as_a_list_each_once() -> None:
    assert check_names(["b", "a", "b"]) == ["b", "a"]
    assert check_names({"x": 1}, what="inputs") == ["x"]
    assert check_names(()) == []


@pytest.mark.parametrize("name", ["", "1a", "a.b", "a b", "class", "None", 3, None])
def test_names_that_are_no_variables_are_refused(name: Any) -> None:
    with pytest.raises(InvalidRequest, match="inputs: .* is not a variable name"):
        check_names(["ok", name], what="inputs")


@pytest.mark.parametrize("names", ["y", b"y", 3, None, [["y"]]])
def test_names_must_be_a_list_of_texts(names: Any) -> None:
    with pytest.raises(InvalidRequest, match="outputs takes a list"):
        check_names(names)


class Counts:
    """Counts how often it is unpickled, and in which thread."""

    threads: list[int] = []

    def __reduce__(self) -> Any:
        return (Counts.arrive, ())

    @staticmethod
    def arrive() -> str:
        Counts.threads.append(threading.get_ident())
        return "arrived"


@pytest.fixture
def unpicklings() -> list[int]:
    Counts.threads.clear()
    return Counts.threads


def test_outputs_tell_names_length_and_repr_without_unpickling(unpicklings: list[int]) -> None:
    outputs = LazyOutputs(["a", "b"], pack({"a": Counts(), "b": 2}))
    assert list(outputs) == ["a", "b"]
    assert len(outputs) == 2
    assert "a" in outputs
    assert "c" not in outputs
    assert repr(outputs) == "<outputs: a, b (not loaded yet)>"
    with pytest.raises(KeyError, match="c"):
        outputs["c"]
    assert copy.copy(outputs) is outputs
    assert unpicklings == []


def test_outputs_are_unpickled_once_by_whoever_looks_first(unpicklings: list[int]) -> None:
    outputs = LazyOutputs(["a", "b"], pack({"a": Counts(), "b": 2}))
    start = threading.Barrier(8)
    seen: list[Any] = []

    def look() -> None:
        start.wait(timeout=30)
        seen.append(outputs["a"])

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert seen == ["arrived"] * 8
    assert outputs["b"] == 2
    assert len(unpicklings) == 1
    assert unpicklings[0] in {thread.ident for thread in threads}
    assert repr(outputs) == "<outputs: a, b (loaded)>"


def test_frames_are_let_go_after_unpickling() -> None:
    frames = [bytearray(frame) for frame in pack({"n": 1})]
    outputs = LazyOutputs(["n"], frames)
    assert outputs["n"] == 1
    frames[0].clear()  # a bytearray refuses this while a view of it lives
    assert outputs._frames == ()


def test_failed_unpickling_is_tried_again_at_the_next_access(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_later.py").write_text("class Thing: pass")
    with monkeypatch.context() as there:
        there.syspath_prepend(tmp_path)
        module = importlib.import_module("installed_later")
        outputs = LazyOutputs(["thing"], pack({"thing": module.Thing()}))
    monkeypatch.delitem(sys.modules, "installed_later")
    with pytest.raises(SerializationError, match="installed_later"):
        outputs["thing"]
    monkeypatch.setitem(sys.modules, "installed_later", module)
    assert isinstance(outputs["thing"], module.Thing)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("loaded", [False, True])
def test_outputs_can_be_pickled_before_and_after_loading(loaded: bool, protocol: int) -> None:
    sent = {"array": np.arange(20_000), "f": eval("lambda x: x + 1", {})}
    outputs = LazyOutputs(sent, pack(sent))
    if loaded:
        assert outputs["f"](1) == 2
    arrived = pickle.loads(pickle.dumps(outputs, protocol=protocol))
    assert "not loaded" in repr(arrived)
    assert "not loaded" in repr(outputs) or loaded
    assert arrived["f"](1) == 2
    assert arrived["array"].sum() == sent["array"].sum()
    assert arrived["array"].flags.writeable


def test_no_outputs_need_no_frames() -> None:
    assert dict(LazyOutputs()) == {}
    assert pickle.loads(pickle.dumps(LazyOutputs())) == {}


def test_functions_of_a_notebook_live_in_the_namespace_they_are_unpacked_into() -> None:
    home: dict[str, Any] = {"__name__": "__main__", "k": 1}
    exec("def f():\n    return k\n\ndef g():\n    return f() + 1\n", home)
    there: dict[str, Any] = {}
    values = unpack(pack({"g": home["g"]}), main_globals=there)
    assert values["g"]() == 2
    there["k"] = 10  # what code there assigns, the function sees
    assert values["g"]() == 11


def test_functions_of_a_notebook_get_a_namespace_of_their_own_by_default() -> None:
    home: dict[str, Any] = {"__name__": "__main__", "k": 1}
    exec("def f():\n    return k\n", home)
    assert unpack(pack({"f": home["f"]}))["f"]() == 1
