"""The panel in a real JupyterLab and in a real Notebook 7, used as people use it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from browser.conftest import ARTIFACTS
from browser.test_monitor import START, await_cell, run_cell, with_cells
from browser.test_quickstart import await_idle, choose

from support.lab import QuickstartServer

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [
    pytest.mark.requires("chromium"),
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

#: Keeps the notebook's own kernel until the file is there.
BUSY = """\
import os
{setup}
while not os.path.exists("go-on"):
    time.sleep(0.02)"""

WORK = """\
futures = [
    pool.submit_code(f"import time; time.sleep(600)  # part {n}", session_id="sweep")
    for n in range(4)
]"""


@pytest.fixture
def cells(request: pytest.FixtureRequest) -> list[str]:
    found: list[str] = request.param
    return found


@pytest.fixture
def server(tmp_path: Path, cells: list[str]) -> Iterator[QuickstartServer]:
    """JupyterLab, and a notebook with these cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    nbformat.write(notebook, tmp_path / "work.ipynb")
    with QuickstartServer(tmp_path) as server:
        yield server


def open_notebook(page: Page, server: QuickstartServer) -> None:
    page.goto(server.url.replace("quickstart.ipynb", "work.ipynb"))
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    await_idle(page)


def panel(page: Page) -> Locator:
    return page.locator("#jupyter-pool-panel")


def open_panel(page: Page) -> None:
    choose(page, "View", "Show Kernel Pools")
    panel(page).wait_for()


def header(page: Page) -> Locator:
    return panel(page).locator(".jpm-header")


def await_words(page: Page, words: str) -> None:
    header(page).get_by_text(words).wait_for()


def accept(page: Page) -> None:
    page.locator(".jp-Dialog button.jp-mod-warn").click()
    page.locator(".jp-Dialog").wait_for(state="detached")


def worker_ids(page: Page) -> list[str | None]:
    rows = panel(page).locator(".jpm-row[data-worker]")
    return [row.get_attribute("data-worker") for row in rows.all()]


def await_workers(page: Page, count: int) -> None:
    page.wait_for_function(
        "count => document.querySelectorAll('#jupyter-pool-panel .jpm-row[data-state=idle],"
        "#jupyter-pool-panel .jpm-row[data-state=busy]').length === count",
        arg=count,
    )


def picture(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"panel-{name}.png")


def violations(page: Page, selector: str = "#jupyter-pool-panel") -> list[dict[str, Any]]:
    """What axe has against a part of the page."""
    import axe_playwright_python

    script = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text()
    page.evaluate(f"() => {{ {script} }}")
    found: list[dict[str, Any]] = page.evaluate(
        """async selector => (await axe.run(selector)).violations.map(({id, help, nodes}) =>
            ({id, help, nodes: nodes.map(({html}) => html.slice(0, 200))}))""",
        selector,
    )
    return found


LOADED = "%load_ext jupyter_pool\nimport time\nfrom jupyter_pool import get_pool"


@with_cells(LOADED, BUSY.format(setup=""), "get_pool().get_status().size")
def test_a_pool_is_started_and_looked_after_while_a_cell_runs(
    server: QuickstartServer, page: Page
) -> None:
    open_notebook(page, server)
    open_panel(page)
    panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    assert violations(page) == []
    picture(page, "not-loaded")
    run_cell(page, 0)
    panel(page).get_by_text("No pool in this kernel.").wait_for()
    assert not page.locator(".jpm-status").is_visible()
    picture(page, "no-pool")
    run_cell(page, 1, wait=False)
    panel(page).get_by_role("button", name="Start a pool").click()
    await_words(page, "No request yet.")
    size = int(header(page).locator(".jpm-size").inner_text())
    await_workers(page, size)
    page.locator(".jpm-status").get_by_text(f"pool 0/{size} busy").wait_for()
    header(page).get_by_role("button", name="One worker more").click()
    await_workers(page, size + 1)
    before = worker_ids(page)
    row = panel(page).locator(".jpm-row").first
    row.hover()
    row.get_by_role("button", name="Restart the worker").click()
    accept(page)
    panel(page).locator(f".jpm-row[data-worker='{before[0]}']").wait_for(state="detached")
    await_workers(page, size + 1)
    header(page).get_by_role("button", name="Drain or stop the pool").click()
    page.get_by_text("fresh workers, each when it is free").click()
    for worker in before:
        panel(page).locator(f".jpm-row[data-worker='{worker}']").wait_for(state="detached")
    await_workers(page, size + 1)
    header(page).get_by_role("button", name="Drain or stop the pool").click()
    page.get_by_text("cancel everything, end the workers").click()
    accept(page)
    panel(page).get_by_text("No pool in this kernel.").wait_for()
    page.locator(".jpm-status").wait_for(state="hidden")
    # The cell has been running all the while.
    assert page.locator(".jp-CodeCell .jp-InputPrompt").nth(1).inner_text().strip() == "[*]:"
    (server.folder / "go-on").touch()
    await_cell(page, 1)


PIDS = "print(*sorted(worker.pid for worker in pool.get_status().workers))"


@with_cells(START.format(size=2), WORK, PIDS, "%load_ext jupyter_pool", PIDS, BUSY.format(setup=""))
def test_it_survives_reloads_and_kernel_restarts(server: QuickstartServer, page: Page) -> None:
    page.set_viewport_size({"width": 1100, "height": 640})
    open_notebook(page, server)
    page.keyboard.press("Control+b")  # no file browser
    open_panel(page)
    run_cell(page, 0)
    await_words(page, "No request yet.")
    run_cell(page, 1)
    await_words(page, "2 of 2 busy · 2 waiting")
    page.locator(".jpm-status").get_by_text("pool 2/2 busy, 2 queued").wait_for()
    run_cell(page, 2)
    pids = page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output").inner_text()
    for theme in ("Dark", "Light"):
        choose(page, "Settings", "Theme", f"JupyterLab {theme}")
        page.locator(f"body[data-jp-theme-light={str(theme == 'Light').lower()}]").wait_for(
            state="attached"
        )
        page.locator("#jupyterlab-splash").wait_for(state="detached")
        assert violations(page) == [], theme
        picture(page, f"busy-{theme.lower()}")  # the light one is the README's
    # A worker is restarted from its context menu: another process.
    row = panel(page).locator(".jpm-row").first
    first = worker_ids(page)[0]
    row.click(button="right")
    page.locator(".lm-Menu").get_by_text("Restart a Worker").click()
    accept(page)
    panel(page).locator(f".jpm-row[data-worker='{first}']").wait_for(state="detached")
    await_workers(page, 2)
    run_cell(page, 4)
    assert page.locator(".jp-CodeCell").nth(4).locator(".jp-OutputArea-output").inner_text() != pids
    run_cell(page, 5, wait=False)  # also with a busy kernel:
    choose(page, "File", "Save Notebook")
    page.locator(".jp-mod-current.jp-mod-dirty").wait_for(state="detached")
    page.reload()
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    # The layout is as it was, and the truth is there without a click.
    await_words(page, "2 of 2 busy")
    page.locator(".jpm-status").get_by_text("pool 2/2 busy").wait_for()
    (server.folder / "go-on").touch()
    await_idle(page)
    choose(page, "Kernel", "Restart Kernel…")
    accept(page)
    panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    page.locator(".jpm-status").wait_for(state="hidden")
    run_cell(page, 3)
    panel(page).get_by_text("No pool in this kernel.").wait_for()


@with_cells(START.format(size=1), WORK)
def test_everything_is_done_with_the_keyboard(server: QuickstartServer, page: Page) -> None:
    open_notebook(page, server)

    def command(name: str) -> None:
        page.keyboard.press("Control+Shift+c")
        page.locator("#modal-command-palette input").wait_for()
        page.keyboard.type(name)
        page.locator("#modal-command-palette .lm-CommandPalette-item").first.wait_for()
        page.keyboard.press("Enter")

    run_cell(page, 0)
    command("Show Kernel Pools")
    await_words(page, "No request yet.")
    run_cell(page, 1)
    await_words(page, "1 of 1 busy · 3 waiting")
    command("Interrupt a Worker")
    page.locator(".jp-Dialog").wait_for()
    page.keyboard.press("Tab")
    page.locator(".jp-Dialog button.jp-mod-warn").press("Enter")
    await_words(page, "1 of 1 busy · 2 waiting")
    command("Resize a Pool")
    page.locator(".jp-Dialog input").fill("2")
    page.keyboard.press("Enter")
    await_words(page, "2 of 2 busy · 1 waiting")
    track = panel(page).get_by_role("listbox")
    track.focus()
    page.keyboard.press("End")
    page.keyboard.press("Delete")
    page.locator(".jp-Dialog button.jp-mod-warn").press("Enter")
    await_words(page, "2 of 2 busy")
    page.locator(".jpm-status").press("Enter")
    command("Stop a Pool")
    page.locator(".jp-Dialog button.jp-mod-warn").press("Enter")
    panel(page).get_by_text("No pool in this kernel.").wait_for()
    command("Start the Default Pool")
    await_words(page, "No request yet.")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[None]:
    """Those of somebody who wants everything else than what is the default."""
    home = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab" / "user-settings" / "jupyter-pool"
    home.mkdir(parents=True)
    chosen = {"side": "left", "confirm": False, "statusBar": False, "history": 120}
    (home / "panel.jupyterlab-settings").write_text(json.dumps(chosen))
    yield
    shutil.rmtree(home)


@pytest.mark.requires("kernel:bash")
@with_cells(START.format(size=1))
def test_it_follows_the_document_in_front_and_peoples_wishes(
    bash_kernel: str, settings: None, server: QuickstartServer, page: Page
) -> None:
    other = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("echo")])
    other.metadata["kernelspec"] = {"name": bash_kernel, "display_name": "Bash", "language": "bash"}
    nbformat.write(other, server.folder / "other.ipynb")
    open_notebook(page, server)
    run_cell(page, 0)
    page.locator(".jp-DirListing-item").get_by_text("other.ipynb").dblclick()
    page.locator("#jp-main-statusbar").get_by_text("Bash | Idle").wait_for(timeout=60_000)
    open_panel(page)
    panel(page).get_by_text("This kernel is not a Python kernel.").wait_for()
    page.locator(".lm-TabBar-tabLabel").get_by_text("work.ipynb", exact=True).click()
    await_words(page, "No request yet.")
    assert page.locator("#jp-left-stack #jupyter-pool-panel").is_visible()
    assert not page.locator(".jpm-status").is_visible()
    span = panel(page).get_by_role("button", name="Show another span of time")
    span.click()
    assert span.inner_text() == "2 min ago"
    first = worker_ids(page)[0]
    row = panel(page).locator(".jpm-row").first
    row.hover()
    row.get_by_role("button", name="Restart the worker").click()  # and nothing is asked
    panel(page).locator(f".jpm-row[data-worker='{first}']").wait_for(state="detached")
    # A console on another kernel has pools of its own.
    choose(page, "File", "New", "Console")
    page.locator(".jp-Dialog select").select_option(label="Python 3 (ipykernel)")
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    panel(page).get_by_text("jupyter_pool is not loaded in this kernel.").wait_for()
    page.keyboard.type("%load_ext jupyter_pool")
    page.keyboard.press("Shift+Enter")
    panel(page).get_by_text("No pool in this kernel.").wait_for()


def run_by_menu(page: Page, number: int) -> None:
    """Notebook 7 has its menus before it has its keyboard shortcuts."""
    page.locator(".jp-CodeCell").nth(number).locator(".jp-InputPrompt").click()
    choose(page, "Run", "Run Selected Cell")
    await_cell(page, number)


@with_cells(START.format(size=1), WORK)
def test_in_notebook_7_it_is_the_same(server: QuickstartServer, page: Page) -> None:
    page.goto(server.url.replace("/lab/tree/quickstart.ipynb", "/notebooks/work.ipynb"))
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    page.locator(".jp-Notebook-ExecutionIndicator-tooltip").get_by_text(
        "Kernel status: Idle"
    ).wait_for(state="attached")
    run_by_menu(page, 0)
    choose(page, "View", "Show Kernel Pools")
    await_words(page, "No request yet.")
    run_by_menu(page, 1)
    await_words(page, "1 of 1 busy · 3 waiting")
    header(page).get_by_role("button", name="One worker more").click()
    await_words(page, "2 of 2 busy · 2 waiting")
    assert violations(page) == []
    picture(page, "notebook-7")
