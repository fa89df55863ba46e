"""Two browser windows, as of two people, on one notebook and its kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from support.front_end import (
    accept,
    await_words,
    in_both,
    monitor,
    open_notebook,
    open_panel,
    panel,
    reload,
    restart_kernel,
    run_cell,
    save,
    with_cells,
    worker_ids,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from support.lab import Desk

START = """\
%load_ext jupyter_pool
from jupyter_pool import get_pool
%pool_start --size 2 --interrupt-grace 1
pool = get_pool();"""
BUSY = 'work = [pool.submit_code("import time; time.sleep(600)") for _ in range(3)]'
#: The truth is there in all windows so soon after it is in one, in milliseconds: before everything is
#: told once more in any case, every 30 seconds.
SOON = 20_000


def await_in_all(views: list[Locator], words: str) -> None:
    """The slowest window's deadline begins when it is in one of them."""
    first, *others = views
    await_words(first, words)
    for view in others:
        view.locator(".jpm-header").get_by_text(words).wait_for(timeout=SOON)


def await_gone(views: list[Locator], worker: str | None) -> None:
    first, *others = [view.locator(f".jpm-row[data-worker='{worker}']") for view in views]
    first.wait_for(state="detached")
    for row in others:
        row.wait_for(state="detached", timeout=SOON)


def busy_worker(view: Locator) -> str | None:
    """One of those that run something: which of the rows that are is up to the pool."""
    row = view.locator(".jpm-row[data-state=busy]").first
    return row.get_attribute("data-worker")


def press_on_row(view: Locator, worker: str | None, name: str) -> None:
    row = view.locator(f".jpm-row[data-worker='{worker}']")
    row.hover()
    row.get_by_role("button", name=name).click()


@in_both
@with_cells(START, BUSY)
def test_panels_show_the_same_truth(desk: Desk, new_page: Callable[[], Page]) -> None:
    one, two = new_page(), new_page()
    views = [panel(one), panel(two)]
    open_notebook(one, desk)
    run_cell(one, 0)
    open_notebook(two, desk)
    for page in (one, two):
        open_panel(page)
    await_in_all(views, "No request yet.")
    run_cell(one, 1)
    await_in_all(views, "2 of 2 busy · 1 waiting")
    # What is clicked in one window shows in the other.
    first = worker_ids(views[0])[0]
    press_on_row(panel(two), first, "Restart the worker")
    accept(two)
    await_gone(views[::-1], first)
    await_in_all(views, "2 of 2 busy")
    panel(one).get_by_role("button", name="One worker more").click()
    await_in_all(views, "2 of 3 busy")
    # One is loaded anew: it shows the truth, and the other goes on.
    reload(one)
    if desk.front_end == "notebook7":
        open_panel(one)  # it does not keep its layout
    await_words(panel(one), "2 of 3 busy")
    press_on_row(panel(two), busy_worker(panel(two)), "Interrupt")
    accept(two)
    await_in_all(views[::-1], "1 of 3 busy")
    # One is closed: the other goes on.
    one.goto("about:blank")
    press_on_row(panel(two), busy_worker(panel(two)), "Interrupt")
    accept(two)
    await_words(panel(two), "Last request")


@with_cells(START, BUSY)
def test_a_restart_of_the_kernel_shows_in_both_panels(
    desk: Desk, new_page: Callable[[], Page]
) -> None:
    one, two = new_page(), new_page()
    open_notebook(one, desk)
    run_cell(one, 0)
    open_notebook(two, desk)
    for page in (one, two):
        open_panel(page)
    await_in_all([panel(one), panel(two)], "No request yet.")
    restart_kernel(one)
    for page in (one, two):
        panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    run_cell(two, 0)
    await_in_all([panel(two), panel(one)], "No request yet.")


@in_both
@with_cells(START, "%pool_monitor", BUSY)
def test_monitors_show_the_same_truth(desk: Desk, new_page: Callable[[], Page]) -> None:
    one, two = new_page(), new_page()
    views = [monitor(one), monitor(two)]
    open_notebook(one, desk)
    run_cell(one, 0)
    run_cell(one, 1)
    await_words(monitor(one), "No request yet.")
    save(one)
    open_notebook(two, desk)
    await_words(monitor(two), "No request yet.")
    run_cell(one, 2)
    await_in_all(views, "2 of 2 busy · 1 waiting")
    first = worker_ids(views[0])[0]
    press_on_row(monitor(two), first, "Restart the worker")
    await_gone(views[::-1], first)
    await_in_all(views, "2 of 2 busy")
    reload(two)
    await_words(monitor(two), "2 of 2 busy")
    monitor(one).get_by_role("button", name="One worker more").click()
    await_in_all(views, "2 of 3 busy")
    two.goto("about:blank")
    press_on_row(monitor(one), busy_worker(monitor(one)), "Interrupt")
    await_words(monitor(one), "1 of 3 busy")
