"""What a live display says, and how much of it."""

from __future__ import annotations

import pytest

from jupyter_pool.notebook.live import ago, elapsed, outputs_html, outputs_text, state_line


def stream(text: str) -> dict[str, str]:
    return {"output_type": "stream", "name": "stdout", "text": text}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (12.9, "12 s"), (59.9, "59 s"), (200.0, "3 m 20 s"), (7300.0, "2 h 1 m")],
)
def test_elapsed_time_is_in_whole_seconds(seconds: float, said: str) -> None:
    assert elapsed(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.9, "12 s ago"), (200.0, "3 min ago"), (7300.0, "2 h ago")]
)
def test_how_long_ago_is_rough(seconds: float, said: str) -> None:
    assert ago(seconds) == said


def test_a_state_is_a_line_as_text_and_as_html() -> None:
    text, html = state_line("train", "running", "", "12 s")
    assert text == "[train] running · 12 s"
    assert "<b>train</b>" in html
    assert "running · 12 s" in html


def test_outputs_are_escaped_and_in_order() -> None:
    html = outputs_html([stream("<one>\n"), stream("two\n")])
    assert html.index("&lt;one&gt;") < html.index("two")
    assert outputs_text([stream("one\n"), stream("two\n")]) == "one\ntwo"
    assert outputs_html([]) == ""


def test_only_what_goes_on_is_scrolled_to_its_end() -> None:
    assert "column-reverse" in outputs_html([stream("x")], follow=True)
    assert "column-reverse" not in outputs_html([stream("x")])


def test_of_a_long_text_the_end_is_shown() -> None:
    html = outputs_html([stream("begin " + "x" * 1_000_000 + " end")])
    assert len(html) < 150_000
    assert " end" in html
    assert "begin" not in html
    assert "900,010 characters before" in html


def test_of_many_outputs_the_last_are_shown() -> None:
    html = outputs_html([stream(f"<{number}>") for number in range(1000)])
    assert "… 900 outputs before" in html
    assert "&lt;999&gt;" in html
    assert "&lt;899&gt;" not in html


def test_what_is_shown_is_bounded_however_large_the_outputs_are() -> None:
    display = {
        "output_type": "display_data",
        "data": {"text/html": "x" * 1_000_000},
        "metadata": {},
    }
    assert len(outputs_html([display] * 10)) < 3_500_000
