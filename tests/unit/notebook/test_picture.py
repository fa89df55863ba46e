"""The still picture of a pool: HTML with SVG, and text."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from jupyter_pool.notebook.picture import LastState, picture
from support import readme

EXAMPLE = readme.ROOT / "labextension" / "schema" / "pool_state.json"


def state(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return {**found, **changes}


def svg(html: str) -> ET.Element:
    begin, end = html.index("<svg"), html.index("</svg>") + len("</svg>")
    return ET.fromstring(html[begin:end])


def test_text_has_the_figures_and_a_line_for_each_worker() -> None:
    text = picture(state()).text
    assert text.splitlines()[0] == (
        "Pool default: 2 of 2 busy · 1 waiting, oldest 1.5 s · 0.6/s · 1 failed"
    )
    assert [line.split()[:2] for line in text.splitlines()[2:]] == [
        ["1", "busy"],
        ["2", "leased"],
        ["3", "idle"],
    ]


def test_html_has_a_lane_for_each_worker_and_a_mark_for_each_request() -> None:
    drawn = svg(picture(state()).html)
    assert drawn.get("aria-label") == f"Pool default: {picture(state()).text[14:].splitlines()[0]}"
    titles = [title.text for title in drawn.iter("title")]
    assert titles == ["import time", "fit() × 8", "model.fit(X, y)"]


def test_code_and_names_are_escaped() -> None:
    block = {**state()["blocks"][0], "code": "<script>alert('1')</script> & more"}
    html = picture(state(pool="<b>", blocks=[block])).html
    assert "<script>" not in html
    assert "<b><b>" not in html
    assert [title.text for title in svg(html).iter("title")] == [block["code"]]


@pytest.mark.parametrize("workers", [0, 12, 13, 500])
def test_any_number_of_workers_makes_a_picture_of_bounded_size(workers: int) -> None:
    one = state()["workers"][0]
    many = [{**one, "id": number} for number in range(workers)]
    html = picture(state(workers=many, size=max(1, workers))).html
    assert len(html) < 200_000
    if workers:
        svg(html)


def test_without_a_pool_it_says_how_to_start_one() -> None:
    text = picture(state(state="none", workers=[], blocks=[], size=4)).text
    assert text == "No pool named 'default' in this kernel. %%pool_exec starts one of 4 workers."


def test_a_pool_whose_workers_do_not_start_says_why() -> None:
    drawn = picture(state(state="degraded", reason="no such <kernel>"))
    assert "its workers do not start: no such <kernel>" in drawn.text
    assert "no such &lt;kernel&gt;" in drawn.html


def test_snapshots_with_the_news_only_are_put_together() -> None:
    first, second = state()["blocks"][:2]
    now = state()["now"]
    last = LastState()
    last.take(state(full=True, blocks=[first]))
    last.take(state(full=False, blocks=[second], now=now + 1))
    assert len(list(svg(last.picture().html).iter("title"))) == 2
    last.take(state(full=True, blocks=[second], now=now + 2))
    assert len(list(svg(last.picture().html).iter("title"))) == 1


def test_a_closed_pool_is_as_it_was_before() -> None:
    last = LastState()
    last.take(state(full=True))
    last.take(state(full=False, state="closing", workers=[], blocks=[]))
    last.take(state(full=True, state="none", workers=[], blocks=[]))
    last.take(state(full=False, state="none", workers=[], blocks=[], error_count=0))
    drawn = last.picture()
    lines = drawn.text.splitlines()
    assert lines[0] == "Pool default: closed · 1 failed"
    assert [line.split()[1] for line in lines[2:]] == ["closed"] * 3
    assert "model.fit(X, y)" in drawn.html
    last.take(state(full=True))
    assert "closed" not in last.picture().text


def test_a_pool_that_is_closing_keeps_the_lanes_of_workers_that_have_ended() -> None:
    last = LastState()
    last.take(state(full=True))
    last.take(state(full=False, state="closing", workers=state()["workers"][:1], blocks=[]))
    lines = last.picture().text.splitlines()
    assert lines[0].startswith("Pool default: closing · 1 of 2 busy")
    assert [line.split()[1] for line in lines[2:]] == ["busy", "stopping", "stopping"]


def test_what_ended_while_a_pool_closed_is_in_its_last_picture() -> None:
    block = state()["blocks"][0]
    late = {**block, "id": "late", "code": "late", "outcome": "failed", "ended": state()["now"] + 1}
    last = LastState()
    last.take(state(full=True, blocks=[block]))
    gone = state(state="none", workers=[], blocks=[late], error_count=2, now=state()["now"] + 2)
    last.take({**gone, "full": True})
    drawn = last.picture()
    assert [title.text for title in svg(drawn.html).iter("title")][-1] == "late"
    assert drawn.text.startswith("Pool default: closed · 2 failed")


def test_a_pool_that_never_was_is_not_closed() -> None:
    last = LastState()
    last.take(state(full=True, state="none", workers=[], blocks=[], size=4))
    last.close()
    assert last.picture().text.startswith("No pool named 'default'")
