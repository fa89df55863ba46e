"""The panel in a real JupyterLab and in a real Notebook 7, used as people use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jupyter_pool.cli import quickstart
from support.front_end import (
    accept,
    add_cell,
    await_cell,
    await_idle,
    await_words,
    choose,
    code_cell,
    command,
    in_both,
    is_lab,
    monitor,
    open_notebook,
    open_panel,
    output,
    panel,
    prompt,
    reload,
    restart_kernel,
    run_cell,
    take,
    use_theme,
    violations,
    with_cells,
    worker_ids,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from support.lab import Desk

PANEL = "#jupyter-pool-panel"
START = """\
%load_ext jupyter_pool
import time
from jupyter_pool import get_pool
%pool_start --size {size} --interrupt-grace 1
pool = get_pool();"""

#: Keeps the notebook's own kernel until the file is there.
BUSY = """\
import os
while not os.path.exists("go-on"):
    time.sleep(0.02)"""

WORK = """\
futures = [
    pool.submit_code(f"import time; time.sleep(600)  # part {n}", session_id="sweep")
    for n in range(4)
]"""

FAIL = 'pool.submit_code("1 / 0", session_id="broken").exception();'


def header(page: Page) -> Locator:
    return panel(page).locator(".jpm-header")


def await_workers(page: Page, count: int) -> None:
    page.wait_for_function(
        "count => document.querySelectorAll('#jupyter-pool-panel .jpm-row[data-state=idle],"
        "#jupyter-pool-panel .jpm-row[data-state=busy]').length === count",
        arg=count,
    )


def await_gone(page: Page, workers: list[str | None]) -> None:
    for worker in workers:
        panel(page).locator(f".jpm-row[data-worker='{worker}']").wait_for(state="detached")


def await_copied(page: Page, words: str) -> None:
    page.wait_for_function(
        "words => navigator.clipboard.readText().then(text => text.includes(words))", arg=words
    )


@in_both
@with_cells("%load_ext jupyter_pool\nimport time", BUSY)
def test_a_pool_is_started_and_looked_after_while_a_cell_runs(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    open_panel(page)
    panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    assert violations(page, PANEL) == []
    take(page, f"panel-not-loaded-{desk.front_end}")
    run_cell(page, 0)
    panel(page).get_by_text("No pool in this kernel.").wait_for()
    assert not page.locator(".jpm-status").is_visible()
    take(page, f"panel-no-pool-{desk.front_end}")
    run_cell(page, 1, wait=False)
    panel(page).get_by_role("button", name="Start a pool").click()
    await_words(panel(page), "No request yet.")
    size = int(header(page).locator(".jpm-size").inner_text())
    await_workers(page, size)
    if is_lab(page):  # Notebook 7 has no status bar
        page.locator(".jpm-status").get_by_text(f"pool 0/{size} busy").wait_for()
    header(page).get_by_role("button", name="One worker more").click()
    await_workers(page, size + 1)
    take(page, f"panel-idle-{desk.front_end}")
    assert violations(page, PANEL) == []
    before = worker_ids(panel(page))
    row = panel(page).locator(".jpm-row").first
    row.hover()
    row.get_by_role("button", name="Restart the worker").click()
    accept(page)
    await_gone(page, before[:1])
    await_workers(page, size + 1)
    header(page).get_by_role("button", name="Drain or stop the pool").click()
    page.get_by_text("fresh workers, each when it is free").click()
    await_gone(page, before)
    await_workers(page, size + 1)
    header(page).get_by_role("button", name="Drain or stop the pool").click()
    page.get_by_text("cancel everything, end the workers").click()
    accept(page)
    panel(page).get_by_text("No pool in this kernel.").wait_for()
    page.locator(".jpm-status").wait_for(state="hidden")
    # The cell has been running all the while.
    assert prompt(page, 1) == "[*]:"
    (desk.folder / "go-on").touch()
    await_cell(page, 1)


#: What somebody tries who has read as far as the sweep. It says which processes the workers are, with
#: their numbers.
LONG = """\
import os, time
slow = [
    pool.submit_code(f"import time; time.sleep(600)  # part {n}")
    for n in range(pool.config.size + 2)
]
told = None
while not os.path.exists("go-on"):
    pids = " ".join(f"{w.id}:{w.pid}" for w in pool.get_status().workers if w.pid)
    if pids != told:
        print(pids, flush=True)
        told = pids
    time.sleep(0.02)"""


def pids(page: Page, number: int) -> dict[str, str]:
    """The latest that the long cell has said: process ids by workers."""
    latest = output(page, number).inner_text().strip().splitlines()[-1]
    return dict(worker.split(":") for worker in latest.split())


def await_other_pids(page: Page, number: int, pid: str) -> None:
    page.wait_for_function(
        """([cell, pid]) => {
            const last = document.querySelectorAll('.jp-CodeCell')[cell]
                .querySelector('.jp-Cell-outputArea').innerText.trim().split('\\n').at(-1);
            return last !== '' && !last.split(' ').some(worker => worker.endsWith(`:${pid}`));
        }""",
        arg=[number, pid],
    )


def test_on_the_quickstart_it_is_live_and_obeys_while_a_long_cell_runs(
    desk: Desk, page: Page
) -> None:
    quickstart.copy_notebook(desk.folder)
    page.set_viewport_size({"width": 1100, "height": 640})
    open_notebook(page, desk, quickstart.NOTEBOOK)
    page.keyboard.press("Control+b")  # no file browser
    open_panel(page)
    panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    # Its own cells, up to the sweep: the first %%pool_exec starts the pool.
    run_cell(page, 0)
    panel(page).get_by_text("No pool in this kernel.").wait_for()
    for number in range(1, 9):
        run_cell(page, number)
    # The cell is done at once, and the six runs go on.
    await_words(panel(page), "Last request")
    size = int(header(page).locator(".jpm-size").inner_text())
    await_workers(page, size)
    long = add_cell(page, LONG)
    run_cell(page, long, wait=False)
    await_words(panel(page), f"{size} of {size} busy · 2 waiting")
    page.locator(".jpm-status").get_by_text(f"pool {size}/{size} busy, 2 queued").wait_for()
    assert prompt(page, long) == "[*]:"
    for theme in ("Dark", "Light"):
        use_theme(page, theme)
        assert violations(page, PANEL) == [], theme
        code_cell(page, long).scroll_into_view_if_needed()
        take(page, f"panel-busy-{theme.lower()}")  # the light one is the README's
    # A worker is restarted from its context menu: another process. Its request is lost.
    output(page, long).get_by_text(" ").first.wait_for()
    before = pids(page, long)
    first = worker_ids(panel(page))[:1]
    pid = before[str(first[0])]
    panel(page).locator(".jpm-row").first.click(button="right")
    page.locator(".lm-Menu").get_by_text("Restart a Worker").click()
    accept(page)
    await_gone(page, first)
    await_words(panel(page), f"{size} of {size} busy · 1 waiting")
    await_workers(page, size)
    await_other_pids(page, long, pid)
    assert set(before.values()) - set(pids(page, long).values()) == {pid}
    # Bigger: what waited runs.
    header(page).get_by_role("button", name="One worker more").click()
    await_words(panel(page), f"{size + 1} of {size + 1} busy")
    # Drained, one of them is replaced as soon as its request is cancelled.
    header(page).get_by_role("button", name="Drain or stop the pool").click()
    page.get_by_text("fresh workers, each when it is free").click()
    second = worker_ids(panel(page))[1:2]
    row = panel(page).locator(f".jpm-row[data-worker='{second[0]}']")
    row.hover()
    row.get_by_role("button", name="Interrupt").click()
    accept(page)
    await_gone(page, second)
    await_words(panel(page), f"{size} of {size + 1} busy")
    assert prompt(page, long) == "[*]:"
    # The layout is as it was after a reload, and the truth is there without a click.
    reload(page)
    await_words(panel(page), f"{size} of {size + 1} busy")
    page.locator(".jpm-status").get_by_text(f"pool {size}/{size + 1} busy").wait_for()
    (desk.folder / "go-on").touch()
    await_idle(page)
    restart_kernel(page)
    panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    page.locator(".jpm-status").wait_for(state="hidden")
    run_cell(page, 0)
    panel(page).get_by_text("No pool in this kernel.").wait_for()


@with_cells(START.format(size=1), FAIL, WORK)
def test_everything_is_done_with_the_keyboard(desk: Desk, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_notebook(page, desk)

    def confirm() -> None:
        page.locator(".jp-Dialog button.jp-mod-warn").press("Enter")
        page.locator(".jp-Dialog").wait_for(state="detached")

    run_cell(page, 0)
    command(page, "Show Kernel Pools")
    await_words(panel(page), "No request yet.")
    run_cell(page, 1)
    # Their number is there first, what they are comes with the sessions.
    panel(page).get_by_text("Errors (1)").wait_for()
    panel(page).get_by_text("Sessions (1)").wait_for()
    command(page, "Copy an Error")
    await_copied(page, "ZeroDivisionError")
    command(page, "End a Session")
    page.locator(".jp-Dialog").get_by_text("End session “broken”?").wait_for()
    confirm()
    panel(page).get_by_text("Sessions (1)").wait_for(state="hidden")
    run_cell(page, 2)
    await_words(panel(page), "1 of 1 busy · 3 waiting")
    command(page, "Interrupt a Worker")
    page.locator(".jp-Dialog").wait_for()
    page.keyboard.press("Tab")
    confirm()
    await_words(panel(page), "1 of 1 busy · 2 waiting")
    command(page, "Resize a Pool")
    page.locator(".jp-Dialog input").fill("2")
    page.keyboard.press("Enter")
    await_words(panel(page), "2 of 2 busy · 1 waiting")
    track = panel(page).get_by_role("listbox")
    track.focus()
    page.keyboard.press("End")
    page.keyboard.press("Delete")
    confirm()
    await_words(panel(page), "2 of 2 busy")
    page.locator(".jpm-status").press("Enter")
    command(page, "Stop a Pool")
    confirm()
    panel(page).get_by_text("No pool in this kernel.").wait_for()
    command(page, "Start the Default Pool")
    await_words(panel(page), "No request yet.")


@with_cells(START.format(size=2), FAIL, "%pool_monitor")
def test_errors_and_sessions_are_told_and_taken_away_by_the_pointer(desk: Desk, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_notebook(page, desk)
    open_panel(page)
    run_cell(page, 0)
    run_cell(page, 1)
    run_cell(page, 2)
    panel(page).get_by_text("Errors (1)").click()
    panel(page).locator(".jpm-error-row").click(button="right")
    page.locator(".lm-Menu").get_by_text("Copy an Error").click()
    await_copied(page, "ZeroDivisionError")
    panel(page).get_by_text("Sessions (1)").click()
    panel(page).get_by_role("button", name="End session broken").click()
    accept(page)
    # Also in the other view of the same pool.
    for view in (panel(page), monitor(page)):
        view.get_by_text("Sessions (1)").wait_for(state="hidden")


@with_cells(
    START.format(size=2),
    f"future = pool.submit_code({'import time; ' + BUSY!r})",
    "pool.shutdown(wait=False)",
)
def test_a_pool_that_closes_is_there_until_its_work_has_ended(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    open_panel(page)
    for number in range(3):
        run_cell(page, number)
    await_words(panel(page), "Closing")
    await_words(panel(page), "1 of 2 busy")
    assert not header(page).get_by_role("button", name="One worker more").is_visible()
    assert violations(page, PANEL) == []
    take(page, "panel-closing")
    (desk.folder / "go-on").touch()
    panel(page).get_by_text("No pool in this kernel.").wait_for()


@pytest.mark.requires("kernel:bash")
@with_cells(START.format(size=1))
def test_it_follows_the_document_in_front(bash_kernel: str, desk: Desk, page: Page) -> None:
    desk.write("echo", name="other.ipynb", kernel=bash_kernel, language="bash")
    open_notebook(page, desk)
    run_cell(page, 0)
    page.locator(".jp-DirListing-item").get_by_text("other.ipynb").dblclick()
    page.locator("#jp-main-statusbar").get_by_text("Bash | Idle").wait_for(timeout=60_000)
    open_panel(page)
    panel(page).get_by_text("This kernel is not a Python kernel.").wait_for()
    page.locator(".lm-TabBar-tabLabel").get_by_text("work.ipynb", exact=True).click()
    await_words(panel(page), "No request yet.")
    # A console on another kernel has pools of its own.
    choose(page, "File", "New", "Console")
    page.locator(".jp-Dialog select").select_option(label="Python 3 (ipykernel)")
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    page.keyboard.type("%load_ext jupyter_pool")
    page.keyboard.press("Shift+Enter")
    panel(page).get_by_text("No pool in this kernel.").wait_for()
