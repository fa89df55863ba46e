"""What a program takes, and how its result becomes outputs: decided without a worker."""

from __future__ import annotations

from collections import namedtuple
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_pool import InvalidRequest
from jupyter_pool.engine.signatures import Inputs
from jupyter_pool.engine.sources import Sources, codes_of
from jupyter_pool.kernel.programs import LivePrograms, _Kept, fit


def qa(question: str, k: int = 3, *, style: Any = None) -> Any:
    return question, k, style


# --- inputs -------------------------------------------------------------------------------------


def test_a_functions_parameters_are_its_inputs() -> None:
    inputs = Inputs.of_callable(qa, None)
    assert inputs.required == ("question",)
    assert inputs.optional == ("k", "style")
    assert inputs.text == "question: str, k: int = 3, style: Any = None"
    assert inputs.check("qa", {"question": "?", "k": 1}) == {"question": "?", "k": 1}


def test_methods_objects_partials_and_classes_have_inputs_too() -> None:
    class Model:
        def __init__(self, size: Any = 1) -> None:
            pass

        def __call__(self, row: Any) -> Any:
            return row

        def predict(self, x: Any, y: Any) -> Any:
            return x, y

    assert Inputs.of_callable(Model(), None).required == ("row",)
    assert Inputs.of_callable(Model().predict, None).required == ("x", "y")
    assert Inputs.of_callable(Model, None).optional == ("size",)
    assert Inputs.of_callable(partial(qa, "?"), None).optional == ("k", "style")


def test_what_is_missing_or_too_much_is_named_with_close_matches() -> None:
    inputs = Inputs.of_callable(qa, None)
    with pytest.raises(InvalidRequest) as caught:
        inputs.check("qa", {"questoin": "?", "stile": 1})
    text = str(caught.value)
    assert "the program 'qa' needs 'question', and does not take 'questoin' and 'stile'" in text
    assert "did you mean 'question'?" in text
    assert "It takes question, k (optional), style (optional). Nothing was run." in text
    assert caught.value.context["missing"] == ["question"]
    assert caught.value.context["extra"] == ["questoin", "stile"]


@pytest.mark.parametrize("wrong", [["a"], "a", 3])
def test_inputs_are_a_dict(wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="a dict of values by name, not"):
        Inputs.of_callable(qa, None).check("qa", wrong)


def test_named_inputs_restrict_what_it_takes() -> None:
    inputs = Inputs.of_callable(qa, ["question"])
    assert (inputs.required, inputs.optional) == (("question",), ())
    with pytest.raises(InvalidRequest, match="does not take 'k'"):
        inputs.check("qa", {"question": 1, "k": 2})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["question", "kk"], "no parameter 'kk' .did you mean 'k'.*it takes question, k, style"),
        (["k"], "also needs 'question'"),
        (["not a name"], "not a variable name"),
        ("question", "a list of names"),
    ],
)
def test_impossible_names_of_inputs(names: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Inputs.of_callable(qa, names)


def test_any_keyword_is_taken_where_the_program_takes_any() -> None:
    def anything(first: Any, **rest: Any) -> Any:
        return first, rest

    inputs = Inputs.of_callable(anything, None)
    assert inputs.check("it", {"first": 1, "more": 2})
    with pytest.raises(InvalidRequest, match="does not take 1\n"):
        inputs.check("it", {"first": 1, 1: 2})
    named = Inputs.of_callable(anything, ["first", "second"])
    assert named.required == ("first", "second")
    with pytest.raises(InvalidRequest, match="does not take 'more'"):
        named.check("it", {"first": 1, "second": 2, "more": 3})


def test_a_modules_forward_says_what_it_takes() -> None:
    class Module:
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

        def forward(self, question: Any, context: Any = "") -> Any:
            return question, context

    inputs = Inputs.of_callable(Module(), None)
    assert (inputs.required, inputs.optional) == (("question",), ("context",))


def test_positional_parameters_are_given_by_position() -> None:
    def add(a: Any, b: Any = 0, /, c: Any = 0) -> Any:
        return a, b, c

    inputs = Inputs.of_callable(add, None)
    assert inputs.split(inputs.check("add", {"a": 1, "b": 2, "c": 3})) == ((1, 2), {"c": 3})
    assert inputs.split(inputs.check("add", {"a": 1, "c": 3})) == ((1,), {"c": 3})


def test_source_code_needs_all_that_is_named() -> None:
    inputs = Inputs.of_source(["a", "b"])
    with pytest.raises(InvalidRequest, match="needs 'b'"):
        inputs.check("it", {"a": 1})
    assert Inputs.of_source(None).check("it", None) == {}
    with pytest.raises(InvalidRequest, match="It takes no inputs"):
        Inputs.of_source(None).check("it", {"a": 1})


def test_a_default_whose_repr_fails_does_no_harm() -> None:
    class Bad:
        def __repr__(self) -> Any:
            raise RuntimeError("no")

    def takes(x: Any = Bad()) -> Any:  # noqa: B008
        return x

    assert Inputs.of_callable(takes, None).text.startswith("x: Any = ")


# --- outputs ------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "b a")  # noqa: PYI024


class Prediction:
    """As DSPy's: fields by attribute and `toDict`."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def toDict(self) -> Any:
        return self._fields


@pytest.mark.parametrize(
    ("value", "names", "found"),
    [
        (3, None, {"result": 3}),
        ({"a": 1}, None, {"result": {"a": 1}}),
        (3, ["a"], {"a": 3}),
        ((1, 2), ["a"], {"a": (1, 2)}),
        ({"a": 1}, ["a"], {"a": {"a": 1}}),
        ((1, 2), ["a", "b"], {"a": 1, "b": 2}),
        ([1, 2], ["a", "b"], {"a": 1, "b": 2}),
        ({"b": 2, "a": 1, "c": 3}, ["a", "b"], {"a": 1, "b": 2}),
        (Pair(b=2, a=1), ["a", "b"], {"a": 1, "b": 2}),
        (Pair(b=1, a=2), ["x", "y"], {"x": 1, "y": 2}),
        (SimpleNamespace(a=1, b=2), ["a", "b"], {"a": 1, "b": 2}),
        (Prediction(answer=42), ["answer"], {"answer": 42}),
        (Prediction(answer=42, why="so"), ["why", "answer"], {"answer": 42, "why": "so"}),
    ],
)
def test_a_result_by_the_names_of_outputs(
    value: Any, names: list[str] | None, found: dict[str, Any]
) -> None:
    assert fit(value, names) == (found, [])


@pytest.mark.parametrize(
    ("value", "missing"),
    [
        ((1, 2, 3), ["a", "b"]),
        ({"a": 1}, ["b"]),
        (7, ["a", "b"]),
        (None, ["a", "b"]),
        ("ab", ["a", "b"]),
        (Prediction(a=1), ["b"]),
    ],
)
def test_what_a_result_does_not_have_is_missing(value: Any, missing: list[str]) -> None:
    assert fit(value, ["a", "b"])[1] == missing


# --- what a worker keeps --------------------------------------------------------------------------


def test_the_least_recently_used_program_gives_way() -> None:
    live = LivePrograms(most=2)
    for name in ("a", "b"):
        live.put(name, _Kept(1))
    assert live.get("a") is not None
    live.put("c", _Kept(1))
    assert "b" not in live
    assert "a" in live
    assert "c" in live
    live.drop("a")
    live.drop("never there")
    assert len(live) == 1


def test_large_programs_give_way_by_their_size_and_one_alone_stays() -> None:
    live = LivePrograms(most_bytes=10)
    live.put("a", _Kept(6))
    live.put("b", _Kept(6))
    assert "a" not in live
    live.put("huge", _Kept(100))
    assert len(live) == 1
    assert "huge" in live


# --- tracebacks -----------------------------------------------------------------------------------


def test_source_lines_are_put_where_the_worker_had_none() -> None:
    code = qa.__code__
    line = code.co_firstlineno + 1
    lines = [
        "Traceback (most recent call last):\n",
        f'  File "<dynamic-code>", line {line}, in qa\n',
        '  File "<dynamic-code>", line 1, in unknown\n',
        '  File "/usr/lib/x.py", line 3, in other\n',
        "    there()\n",
        "ValueError: no\n",
    ]
    assert Sources(codes_of(qa)).put_into(lines) == [
        "Traceback (most recent call last):",
        f'  File "{code.co_filename}", line {line}, in qa',
        "    return question, k, style",
        '  File "<dynamic-code>", line 1, in unknown',
        '  File "/usr/lib/x.py", line 3, in other',
        "    there()",
        "ValueError: no",
    ]
