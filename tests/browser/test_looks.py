"""The panel, narrow, in every state and look: nothing is cut off, and axe has nothing against it.

The pictures are for people to look at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import (
    await_words,
    in_both,
    open_notebook,
    open_panel,
    panel,
    run_cell,
    take,
    use_theme,
    violations,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

#: The least that it is drawn for, in pixels.
NARROW = 280

START = """\
%load_ext jupyter_pool
import time
from jupyter_pool import get_pool
%pool_start --size 3 --interrupt-grace 1
pool = get_pool();"""
SLOW = 'slow = [pool.submit_code("import time; time.sleep(600)", session_id="s")]'
SATURATE = "slow += [pool.submit_code('import time; time.sleep(600)') for _ in range(30)];"
FAIL = """\
for future in slow:
    pool.cancel(future.request_id)
[future.exception() for future in slow]
pool.submit_code("1 / 0", session_id="a session with a long name").exception()
pool.submit_code("import os; os.abort()").exception();"""


def make_narrow(page: Page) -> None:
    """Drag the edge between the notebook and the panel."""
    box = panel(page).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] - 2, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - NARROW, box["y"] + 300, steps=5)
    page.mouse.up()
    page.wait_for_function(
        "wanted => Math.abs(document.querySelector('#jupyter-pool-panel').clientWidth - wanted) < 8",
        arg=NARROW,
    )


def look_at(page: Page, state: str, front_end: str) -> None:
    """In both themes and with forced colours."""
    for theme in ("Dark", "Light"):
        use_theme(page, theme)
        assert violations(page, "#jupyter-pool-panel") == [], theme
        take(panel(page), f"panel-{front_end}-{state}-{theme.lower()}")
    page.emulate_media(forced_colors="active")
    take(panel(page), f"panel-{front_end}-{state}-forced-colors")
    page.emulate_media(forced_colors="none")
    cut_off = page.evaluate(
        """() => [...document.querySelectorAll('#jupyter-pool-panel, #jupyter-pool-panel .jpm-header, '
            + '#jupyter-pool-panel .jpm-summary, #jupyter-pool-panel .jpm-capacity, '
            + '#jupyter-pool-panel .jpm-drawers')]
            .filter(part => part.offsetParent && part.scrollWidth > part.clientWidth + 1)
            .map(part => part.className)"""
    )
    assert cut_off == []


@in_both
@with_cells(START, SLOW, SATURATE, FAIL)
def test_nothing_is_cut_off_where_it_is_narrow(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    open_panel(page)
    make_narrow(page)
    run_cell(page, 0)
    for number, (state, words) in enumerate(
        {
            "idle": "No request yet.",
            "busy": "1 of 3 busy",
            "saturated": "3 of 3 busy · 28 waiting",
            "failing": "Last request",
        }.items()
    ):
        if number:
            run_cell(page, number)
        await_words(panel(page), words)
        if state == "failing":
            panel(page).get_by_text("Errors (2)").click()
        look_at(page, state, desk.front_end)
    # What was open is open still, with the themes changed behind it.
    panel(page).locator(".jpm-error-row").get_by_text("ZeroDivisionError").wait_for()
