"""Texts cut to a size: nothing that would have been seen is lost without being counted."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jupyter_pool._reprs import as_terminal
from jupyter_pool.kernel.cutting import (
    End,
    beginning_of,
    collapse,
    cut_middle,
    end_of,
    whole_lines,
)

TEXT = st.text(alphabet="ab\r\n\x1b\b€", max_size=30)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain", "plain"),
        ("1 %\r2 %\r3 %", "1 %\r3 %"),
        ("\r1 %\r2 %\r", "\r2 %\r"),
        ("long text\rx", "long text\rx"),
        ("a\r\nb\r\n", "a\r\nb\r\n"),
        ("1\r2\r33\nab\rcd\nend", "1\r33\n\rcd\nend"),
        ("\r\x1b[31m1\r2\x1b[0m", "\r\x1b[31m1\r2\x1b[0m"),
        ("1\r2\b3", "1\r2\b3"),
    ],
)
def test_what_is_overwritten_for_certain_is_left_out(text: str, left: str) -> None:
    assert collapse(text) == left


@example(before="a", text="a\ra", after="")
@given(TEXT, TEXT, TEXT)
def test_a_terminal_shows_the_same_whatever_comes_before_and_after(
    before: str, text: str, after: str
) -> None:
    assert as_terminal(before + collapse(text) + after) == as_terminal(before + text + after)


@given(st.lists(st.text(max_size=20), max_size=10), st.integers(0, 300))
def test_a_beginning_fits_into_its_bytes(texts: list[str], room: int) -> None:
    found = beginning_of(texts, room)
    whole = "".join(texts)
    assert whole.startswith(found)

    def size(text: str) -> int:
        return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))

    assert not found or size(found) <= room
    if size(whole) <= room:
        assert found == whole


@given(st.lists(st.text(max_size=20), max_size=10), st.integers(0, 100))
def test_an_end_is_the_last_characters(texts: list[str], most: int) -> None:
    whole = "".join(texts)
    assert end_of(texts, most) == whole[max(0, len(whole) - most) :]


@given(st.lists(st.text(alphabet="a\n", max_size=30), max_size=30), st.integers(1, 50))
def test_what_is_not_kept_of_a_stream_is_counted(texts: list[str], most: int) -> None:
    end = End()
    for number, text in enumerate(texts):
        end.add(number, end_of([text], most), len(text))
        end.trim(most)
        assert end.kept <= 2 * most
    kept = "".join(part for _, part in end.last(most))
    whole = "".join(texts)
    assert len(kept) <= most
    assert whole.endswith(kept)
    assert end.dropped(most) == len(whole) - len(kept)
    if len(whole) <= most:
        assert kept == whole


def test_half_a_line_at_the_end_is_left_for_later_unless_it_is_long() -> None:
    assert whole_lines("one\ntwo") == "one\n"
    assert whole_lines("no line") == "no line"
    assert whole_lines("one\n" + "x" * 2000) == "one\n" + "x" * 2000


def test_the_middle_is_replaced_by_a_line() -> None:
    assert cut_middle("short", 5) == "short"
    assert cut_middle("<" + "x" * 2000 + ">", 100, ": because") == (
        f"<{'x' * 49}\n[… 1.9 kB left out: because …]\n{'x' * 49}>"
    )
