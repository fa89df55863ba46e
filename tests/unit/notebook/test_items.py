"""The items of `--each`: evaluated, multiplied, named, seeded."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from IPython.core.error import UsageError

from jupyter_pool.notebook import items
from jupyter_pool.notebook.items import item_seed, make_items, parse_each


def made(*texts: str, **namespace: Any) -> list[items.Item]:
    return make_items(parse_each(texts), namespace)


def test_each_value_is_an_item() -> None:
    assert [dict(item.parameters) for item in made("x=[1, 'a']")] == [{"x": 1}, {"x": "a"}]


def test_several_are_multiplied_and_the_last_turns_fastest() -> None:
    found = made("x=[1, 2]", "y='ab'")
    assert [tuple(item.parameters.values()) for item in found] == [
        (1, "a"), (1, "b"), (2, "a"), (2, "b"),
    ]  # fmt: skip
    assert [item.index for item in found] == [0, 1, 2, 3]


def test_pairs_unpack() -> None:
    found = made("a,b=d.items()", d={"x": 1, "y": 2})
    assert [dict(item.parameters) for item in found] == [{"a": "x", "b": 1}, {"a": "y", "b": 2}]


def test_a_generator_is_read_once_and_whole() -> None:
    assert len(made("x=g", "y=[1, 2]", g=(n for n in range(3)))) == 6


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x=nothing", "NameError: name 'nothing' is not defined"),
        ("x=1/0", "ZeroDivisionError"),
        ("x=10", "10 has no items: give a list, a range, …; range(10) counts to it"),
        ("x=None", "None has no items"),
        ("x=[]", "'[]' has no items"),
        ("a,b=[(1, 2), (1, 2, 3)]", "item 1 is (1, 2, 3): 3 values for 2 names"),
        ("a,b=[1]", "item 0 is 1: 1 value for 2 names"),
        ("x=itertools.count()", "or endless"),
        ("x=range(10**9)", "more than 100,000 items"),
    ],
)
def test_each_misuse_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(text, itertools=itertools)
    message = str(caught.value)
    assert message.startswith("%%pool_exec: --each ")
    assert said in message
    assert "\n" not in message


def test_too_many_combinations_are_refused_before_any_is_made() -> None:
    with pytest.raises(UsageError, match="10,000,000,000 combinations"):
        made("x=range(100_000)", "y=range(100_000)")


def test_labels_are_short_and_plain() -> None:
    (item,) = made("x=[v]", "y=['ab']", v=np.float64(0.1))
    assert item.label == "x=0.1, y='ab'"
    (item,) = made("x=[v]", v="long " * 100)
    assert len(item.label) < 60
    (item,) = made("x=[v]", v=np.zeros((30, 30)))
    assert "\n" not in item.label
    assert len(item.label) < 60


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError

    (item,) = made("x=[v]", v=Broken())
    assert "Broken" in item.label


def test_seeds_differ_by_item_and_stay_the_same_for_ever() -> None:
    seeds = [item_seed(1, index) for index in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds[:2] == [695092613, 2409491292]
    assert item_seed(1, 1) != item_seed(2, 1)
