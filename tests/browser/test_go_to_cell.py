"""From a request back to the cell that caused it: in the panel, and in the monitor below a cell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from support.front_end import (
    await_cell,
    command,
    monitor,
    open_notebook,
    open_panel,
    panel,
    run_cell,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from support.lab import Desk

START = "%load_ext jupyter_pool\n%pool_start --size 1;\nfrom jupyter_pool import get_pool"
FAILS = "get_pool().execute('1/0  # the cause', check=False);"
WORKS = "long = get_pool().submit_code('import time; time.sleep(600)')"
MANY = "\n".join(f"# line {n}" for n in range(80))


def select_latest(view: Locator) -> None:
    """Open the details of the latest request, by keyboard."""
    track = view.get_by_role("listbox")
    track.focus()
    track.press("End")
    track.press("Enter")


def button(view: Locator, name: str) -> Locator:
    return view.locator(".jpm-card").get_by_role("button", name=name, exact=True)


def await_selected(page: Page, index: int) -> None:
    """The notebook has this cell selected, in view, and the keyboard."""
    page.wait_for_function(
        """index => {
            const cell = document.querySelectorAll('.jp-NotebookPanel .jp-Cell')[index];
            const place = cell.getBoundingClientRect();
            return cell.classList.contains('jp-mod-active') && cell.matches(':focus-within, :focus')
                && place.bottom > 0 && place.top < innerHeight;
        }""",
        arg=index,
    )


@with_cells(START, FAILS, MANY, MANY, "'last'")
def test_the_panel_goes_to_a_requests_cell_and_says_when_it_is_gone(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    open_panel(page)
    for index in (0, 1):
        run_cell(page, index)
    panel(page).get_by_text("Errors (1)").wait_for()  # with it comes the request in its lane
    page.locator(".jp-NotebookPanel .jp-Cell").nth(4).click()
    await_selected(page, 4)
    select_latest(panel(page))
    button(panel(page), "Go to cell").press("Enter")
    await_selected(page, 1)
    assert not panel(page).locator(".jpm-card").is_visible()

    # The same from the list of errors, by its context menu, and from the palette's command.
    page.locator(".jp-NotebookPanel .jp-Cell").nth(4).click()
    panel(page).locator(".jpm-drawer summary", has_text="Errors (1)").click()
    panel(page).locator(".jpm-error-row").click(button="right")
    page.locator(".lm-Menu").get_by_text("Go to the Cell of a Request…").click()
    await_selected(page, 1)
    page.locator(".jp-NotebookPanel .jp-Cell").nth(4).click()
    await_selected(page, 4)
    page.keyboard.press("Escape")
    command(page, "Go to the Cell of a Request")
    await_selected(page, 1)

    # The cell is deleted: with its details open, and before they are opened.
    select_latest(panel(page))
    going = button(panel(page), "Go to cell")
    going.wait_for()
    page.locator(".jp-NotebookPanel .jp-Cell").nth(1).focus()
    for key in "dd":
        page.keyboard.press(key)
    page.wait_for_function("document.querySelectorAll('.jp-NotebookPanel .jp-Cell').length === 4")
    going.click()
    gone = button(panel(page), "The cell is gone")
    gone.wait_for()
    assert gone.is_disabled()
    button(panel(page), "Close").click()
    select_latest(panel(page))
    gone.wait_for()
    assert gone.is_disabled()


@with_cells(START, WORKS, MANY, MANY, "%pool_monitor", "long.cancel()")
def test_the_monitor_in_a_cell_goes_there_too(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    for index in (0, 1, 4):
        run_cell(page, index)
    view = monitor(page)
    view.locator(".jpm-row[data-state=busy]").wait_for()
    select_latest(view)
    button(view, "Go to cell").click()
    await_selected(page, 1)
    run_cell(page, 5)
    await_cell(page, 5)


@with_cells(START, WORKS, "%pool_monitor")
def test_where_nobody_knows_the_cells_the_monitor_offers_nothing(desk: Desk, page: Page) -> None:
    # The widget comes with anywidget's own extension, also where the panel's is switched off.
    config = Path(os.environ["JUPYTER_CONFIG_DIR"], "labconfig", "page_config.json")
    settings = json.loads(config.read_text())
    settings["disabledExtensions"]["jupyter-pool"] = True
    config.write_text(json.dumps(settings))
    open_notebook(page, desk)
    for index in (0, 1, 2):
        run_cell(page, index)
    assert page.locator("#jupyter-pool-panel").count() == 0
    view = monitor(page)
    view.locator(".jpm-row[data-state=busy]").wait_for()
    select_latest(view)
    button(view, "Interrupt").wait_for()
    assert button(view, "Go to cell").count() == 0
    button(view, "Interrupt").click()
    view.locator(".jpm-row[data-state=idle]").wait_for()
