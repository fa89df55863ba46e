"""What people may set of the panel, and what it does to what they see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from support.front_end import (
    await_words,
    choose,
    open_notebook,
    open_panel,
    panel,
    run_cell,
    with_cells,
    worker_ids,
)
from support.lab import set_for_user

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

PLUGIN = "jupyter-pool/panel"
START = """\
%load_ext jupyter_pool
from jupyter_pool import get_pool
%pool_start --size 1
pool = get_pool();"""
#: Elapsed times go on while it runs: every snapshot differs from the one before.
LONG = 'long = pool.submit_code("import time; time.sleep(600)")'


def open_with(page: Page, desk: Desk, **chosen: Any) -> None:
    set_for_user(PLUGIN, chosen)
    open_notebook(page, desk)
    run_cell(page, 0)
    open_panel(page)
    await_words(panel(page), "No request yet.")


def restart_the_worker(page: Page) -> str | None:
    """Click at it; the worker that was there."""
    worker = worker_ids(panel(page))[0]
    row = panel(page).locator(".jpm-row").first
    row.hover()
    row.get_by_role("button", name="Restart the worker").click()
    return worker


@with_cells(START)
def test_without_settings_it_is_at_the_right_and_asks(desk: Desk, page: Page) -> None:
    open_with(page, desk)
    assert page.locator("#jp-right-stack #jupyter-pool-panel").is_visible()
    page.locator(".jpm-status").get_by_text("pool 0/1 busy").wait_for()
    span = panel(page).get_by_role("button", name="Show another span of time")
    assert span.inner_text() == "60 s ago"
    span.click()
    assert span.inner_text() == "5 min ago"
    worker = restart_the_worker(page)
    page.locator(".jp-Dialog").get_by_text(f"Restart worker {worker}?").wait_for()
    page.locator(".jp-Dialog").get_by_text("Leave it").click()
    page.locator(".jp-Dialog").wait_for(state="detached")
    assert worker_ids(panel(page)) == [worker]


@with_cells(START)
def test_side(desk: Desk, page: Page) -> None:
    open_with(page, desk, side="left")
    assert page.locator("#jp-left-stack #jupyter-pool-panel").is_visible()


@with_cells(START)
def test_without_a_status_bar_item(desk: Desk, page: Page) -> None:
    open_with(page, desk, statusBar=False)
    assert not page.locator(".jpm-status").is_visible()


@with_cells(START)
def test_without_being_asked(desk: Desk, page: Page) -> None:
    open_with(page, desk, confirm=False)
    worker = restart_the_worker(page)
    panel(page).locator(f".jpm-row[data-worker='{worker}']").wait_for(state="detached")


@with_cells(START)
def test_history_is_the_longest_span_of_the_lanes(desk: Desk, page: Page) -> None:
    open_with(page, desk, history=120)
    span = panel(page).get_by_role("button", name="Show another span of time")
    shown = []
    for _ in range(3):
        shown.append(span.inner_text())
        span.click()
    assert shown == ["60 s ago", "2 min ago", "15 s ago"]


#: The milliseconds between one picture and the next, as they come: what a picture changes of the page
#: it changes at one go.
WATCH_PICTURES = """
    window.gaps = [];
    let last = null;
    new MutationObserver(() => {
        const now = performance.now();
        if (last !== null) window.gaps.push(now - last);
        last = now;
    }).observe(document.querySelector('#jupyter-pool-panel .jpm-lanes'),
               { subtree: true, childList: true, characterData: true });
"""


@pytest.mark.parametrize("rate", [4, 0.5])
@with_cells(START, LONG)
def test_update_rate_is_how_often_it_is_drawn_anew(rate: float, desk: Desk, page: Page) -> None:
    open_with(page, desk, updateRate=rate)
    run_cell(page, 1)
    await_words(panel(page), "1 of 1 busy")
    page.evaluate(WATCH_PICTURES)
    if rate == 4:
        page.wait_for_function("window.gaps.some(gap => gap < 900)")
        return
    page.wait_for_function("window.gaps.length >= 3")
    # 6 s, less what has kept the page when it drew the first of the four; drawn as often as the kernel
    # tells something, they come within 3 s.
    assert sum(page.evaluate("window.gaps.slice(0, 3)")) > 4500


@with_cells(START)
def test_what_is_set_while_it_is_open_is_seen_at_once(desk: Desk, page: Page) -> None:
    page.set_default_timeout(120_000)  # the editor renders the settings of all plugins at once
    open_with(page, desk)
    choose(page, "Settings", "Settings Editor")
    page.locator(".jp-PluginList").get_by_text("Kernel Pools", exact=True).click()
    form = page.locator(".jp-SettingsForm").filter(has_text="Status bar")
    form.get_by_label("Status bar").uncheck()
    page.locator(".jpm-status").wait_for(state="hidden")
    form.locator("select").select_option("left")
    page.locator("#jp-left-stack #jupyter-pool-panel").wait_for(state="attached")
