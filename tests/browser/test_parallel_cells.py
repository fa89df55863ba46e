"""Background and parallel cells as a person sees them in JupyterLab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from browser.conftest import ARTIFACTS
from browser.test_quickstart import await_idle, choose, save

from support.lab import QuickstartServer

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

WAIT_FOR = (
    "import os, time\ndef wait_for(name):\n    while not os.path.exists(name): time.sleep(0.01)"
)
TRAIN = """%%pool_exec --bg train
for epoch in range(3):
    print('epoch', epoch, flush=True)
    wait_for(f'step {epoch}')
"""
CELLS = [
    f"%load_ext jupyter_pool\n%pool_start --size 2;\n{WAIT_FOR}",
    TRAIN,
    "%%pool_exec --each n=[1, 2] --each word=['a']\nprint('hello', n)",
    "wait_for('free')",
    "train",
]
NOTEBOOK = "live.ipynb"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QuickstartServer]:
    """JupyterLab, and a notebook of such cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, tmp_path / NOTEBOOK)
    with QuickstartServer(tmp_path) as server:
        yield server


def output(page: Page, number: int) -> Locator:
    return page.locator(".jp-CodeCell").nth(number).locator(".jp-OutputArea-output").first


def prompt(page: Page, number: int) -> str:
    prompts = page.locator(".jp-CodeCell").nth(number).locator(".jp-InputPrompt").first
    return prompts.inner_text().strip()


def open_page(page: Page, server: QuickstartServer) -> None:
    page.goto(server.url.replace("quickstart.ipynb", NOTEBOOK))
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)


@pytest.mark.requires("chromium")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_job_is_live_beside_other_cells_and_after_a_reload(
    server: QuickstartServer, page: Page
) -> None:
    page.set_default_timeout(120_000)
    open_page(page, server)
    await_idle(page)
    page.locator(".jp-CodeCell").nth(3).locator(".jp-InputArea-editor").click()
    choose(page, "Run", "Run All Above Selected Cell")
    output(page, 1).get_by_text("epoch 0").wait_for()
    output(page, 2).get_by_text("2 of 2 done").wait_for()

    # Live, in its own cell, while another one runs.
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')[3].innerText.includes('[*]')"
    )
    (server.folder / "step 0").touch()
    output(page, 1).get_by_text("epoch 1").wait_for()
    assert prompt(page, 3) == "[*]:"
    assert "running" in output(page, 1).inner_text()

    # Grouped by item, and folded up until somebody looks.
    items = output(page, 2).locator("details")
    assert items.locator("summary").all_inner_texts() == ["n=1, word='a'", "n=2, word='a'"]
    assert not items.nth(1).get_by_text("hello 2").is_visible()
    items.nth(1).locator("summary").click()
    items.nth(1).get_by_text("hello 2").wait_for()

    # After a reload it goes on where it was shown, and can be shown elsewhere, from its start.
    (server.folder / "free").touch()
    page.wait_for_function(
        r"() => /^\[\d+\]:$/.test(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')[3]"
        ".innerText.trim())"
    )
    save(page)
    open_page(page, server)
    await_idle(page)
    output(page, 1).get_by_text("epoch 1").wait_for()
    assert "epoch 0" in output(page, 1).inner_text()
    (server.folder / "step 1").touch()
    output(page, 1).get_by_text("epoch 2").wait_for()
    page.screenshot(path=ARTIFACTS / "job-after-reload.png")
    page.locator(".jp-CodeCell").nth(4).locator(".jp-InputArea-editor").click()
    page.keyboard.press("Shift+Enter")
    output(page, 4).get_by_text("epoch 2").wait_for()
    (server.folder / "step 2").touch()
    output(page, 4).get_by_text("done").wait_for()


BAR = """%%pool_exec --bg bars
from tqdm.notebook import tqdm
for n in tqdm(range(4), desc='epochs', mininterval=0, miniters=1):
    print('epoch', n, flush=True)
    if n == 2: wait_for('gate')
"""


@pytest.mark.requires("chromium")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_bar_of_a_background_cell_is_below_its_line_and_moves(
    server: QuickstartServer, page: Page
) -> None:
    cells = [nbformat.v4.new_code_cell(text) for text in (CELLS[0], BAR, "pass")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, server.folder / NOTEBOOK)
    page.set_default_timeout(120_000)
    open_page(page, server)
    await_idle(page)
    page.locator(".jp-CodeCell").nth(2).locator(".jp-InputArea-editor").click()
    choose(page, "Run", "Run All Above Selected Cell")
    cell = page.locator(".jp-CodeCell").nth(1)
    cell.get_by_text("2/4").wait_for()
    output(page, 1).get_by_text("epoch 2").wait_for()
    cell.screenshot(path=ARTIFACTS / "job-with-bar.png")
    (server.folder / "gate").touch()
    cell.get_by_text("4/4").wait_for()
    output(page, 1).get_by_text("done").wait_for()
