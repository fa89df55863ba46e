"""What the editor tells of the magics while one types."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import add_cell, in_both, open_notebook, run_cell, take, with_cells

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk


@in_both
@with_cells("%load_ext jupyter_pool")
def test_tab_completes_a_magic_and_its_options_and_shift_tab_shows_its_help(
    desk: Desk, page: Page
) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    add_cell(page, "%%pool_ex")
    page.keyboard.press("Tab")
    offered = page.locator(".jp-Completer")
    offered.get_by_text("%%pool_exec", exact=True).wait_for()
    page.keyboard.press("Enter")
    page.locator(".jp-mod-active .cm-content").get_by_text("%%pool_exec").wait_for()
    page.keyboard.press("Shift+Tab")
    page.locator(".jp-Tooltip").get_by_text("--each").first.wait_for()
    take(page, f"tooltip-{desk.front_end}")
    page.keyboard.type(" --")  # which takes the help away
    page.locator(".jp-Tooltip").wait_for(state="detached")
    page.keyboard.press("Tab")
    offered.get_by_text("--each", exact=True).wait_for()
    assert offered.get_by_text("--bg", exact=True).is_visible()
    take(page, f"completion-{desk.front_end}")
