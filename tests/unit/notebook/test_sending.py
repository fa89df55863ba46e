"""What goes along with a cell, and what is said when something cannot."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import TransformerManager

from jupyter_pool.errors import ExecutionError, SerializationError
from jupyter_pool.notebook.arguments import ExecOptions
from jupyter_pool.notebook.sending import (
    Inputs,
    choose_inputs,
    estimate_size,
    explain_missing,
    explain_unsendable,
    size_notice,
)

_transform = TransformerManager().transform_cell


def choose(code: str, options: ExecOptions, *namespaces: Mapping[str, object]) -> Inputs:
    return choose_inputs(code, options, _transform, *namespaces)


def test_the_names_that_the_cell_reads_go_along_with_modules_and_functions() -> None:
    def helper() -> int:
        return 1

    namespace = {"np": np, "helper": helper, "x": 3, "unused": 4, "_3": 5, "In": []}
    inputs = choose("print(np.sum(x), helper(), In, _3, missing)", ExecOptions(), namespace)
    assert inputs.values == {"np": np, "helper": helper, "x": 3}
    assert inputs.optional == frozenset()


def test_chosen_names_replace_the_automatic_ones_or_add_to_them() -> None:
    namespace = {"a": 1, "b": 2}
    assert choose("a", ExecOptions(auto=False), namespace).values == {}
    assert choose("a", ExecOptions(inputs=("b",), auto=False), namespace).values == {"b": 2}
    assert choose("a", ExecOptions(inputs=("b",), auto=True), namespace).values == {"a": 1, "b": 2}


def test_a_local_variable_goes_before_a_global_one() -> None:
    assert choose("a + b", ExecOptions(), {"a": 1}, {"a": 2, "b": 3}).values == {"a": 1, "b": 3}


def test_a_chosen_name_that_the_notebook_lacks_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no variable 'modle'; did you mean model"):
        choose("1", ExecOptions(inputs=("modle",), auto=False), {"model": 1})


def test_an_optional_value_that_cannot_be_sent_is_left_out_and_a_needed_one_is_not() -> None:
    lock = threading.Lock()
    inputs = choose("if q:\n  t = 1\nprint(t, u)", ExecOptions(), {"t": lock, "u": lock, "q": 0})
    assert inputs.optional == {"t"}
    error = SerializationError("no", context={"variable": "t", "reason": "a lock"})
    assert inputs.leave_out(error)
    assert "t" not in inputs.values
    assert inputs.left_out == {"t": "a lock"}
    assert not inputs.leave_out(error)
    assert not inputs.leave_out(SerializationError("no", context={"variable": "u"}))


def test_an_output_that_cannot_come_back_is_not_taken_for_an_input() -> None:
    inputs = Inputs({"t": 1}, frozenset({"t"}))
    error = SerializationError("no", context={"variable": "t", "request_id": "r"})
    assert not inputs.leave_out(error)
    assert explain_unsendable(error, ExecOptions()) is error


def test_a_value_that_cannot_be_sent_is_named_with_ways_out() -> None:
    error = SerializationError("x", context={"variable": "conn", "reason": "cannot pickle it"})
    text = str(explain_unsendable(error, ExecOptions()))
    assert "'conn' cannot be sent to the worker" in text
    assert "cannot pickle it" in text
    assert "Nothing was run" in text
    assert "--in" in text
    chosen = str(explain_unsendable(error, ExecOptions(inputs=("conn",), auto=False)))
    assert "leave it out of --in" in chosen


@pytest.mark.parametrize(
    ("ename", "evalue", "options", "said"),
    [
        ("NameError", "name 'x' is not defined", ExecOptions(), "--in auto,x"),
        ("NameError", "name 'x' is not defined. Did you mean: 'y'?", ExecOptions(), "--in auto,x"),
        ("NameError", "name 'x' is not defined", ExecOptions(auto=False), "--in x"),
        (
            "NameError",
            "name 'x' is not defined",
            ExecOptions(inputs=("a",), auto=False),
            "--in a,x",
        ),
        ("UndefinedVariableError", "local variable 'x' is not defined", ExecOptions(), "--in"),
        ("NameError", "name 'other' is not defined", ExecOptions(), ""),
        ("NameError", "name 'sent' is not defined", ExecOptions(), ""),
        ("ValueError", "name 'x' is not defined", ExecOptions(), ""),
        ("NameError", "something else", ExecOptions(), ""),
    ],
)
def test_a_name_error_for_something_the_notebook_has_says_how_to_send_it(
    ename: str, evalue: str, options: ExecOptions, said: str
) -> None:
    error = ExecutionError("…", ename=ename, evalue=evalue)
    hint = explain_missing(error, Inputs({"sent": 1}), options, {"x": 1, "sent": 1})
    assert said in hint
    assert bool(said) == bool(hint)


def test_a_name_error_for_something_left_out_says_why() -> None:
    error = ExecutionError("…", ename="NameError", evalue="name 'x' is not defined")
    hint = explain_missing(error, Inputs(left_out={"x": "a lock"}), ExecOptions(), {"x": 1})
    assert "cannot be sent: a lock" in hint


def test_nothing_is_said_of_what_is_small() -> None:
    assert size_notice({}) == ""
    assert size_notice({"x": np.zeros(1000), "s": "abc"}) == ""


def test_large_values_are_said_with_their_sizes() -> None:
    wide = np.broadcast_to(np.zeros(1), 25_000_000)  # says 200 MB, takes 8 bytes
    assert size_notice({"small": 1, "X": wide}) == (
        "Sending 200 MB to the worker: X 200 MB. (--in NAMES chooses what to send.)"
    )


def test_sizes_are_estimated_from_what_values_say_of_themselves() -> None:
    array = np.zeros(1000)
    assert estimate_size(array) == 8000
    assert 8000 <= estimate_size(pd.DataFrame({"a": array})) < 9000
    assert 8000 <= estimate_size(pd.Series(array)) < 9000
    assert 16_000 <= estimate_size({"a": array, "b": [array]}) < 17_000
    assert estimate_size("x" * 5000) >= 5000
    assert 50_000 <= estimate_size(["x" * 500] * 100) < 70_000
    assert estimate_size(np.ndarray) == 0
    assert estimate_size({1, 2, 3}) > 0


def test_a_value_that_raises_when_asked_counts_as_nothing() -> None:
    class Rude:
        @property
        def nbytes(self) -> int:
            raise RuntimeError

    assert estimate_size(Rude()) == 0
