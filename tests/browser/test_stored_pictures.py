"""What a notebook that JupyterLab saves has of a pool: a picture of its last state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from browser.test_quickstart import await_idle, choose, save

from support.conditions import eventually
from support.lab import QuickstartServer

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CELLS = [
    "%load_ext jupyter_pool\n%pool_start --size 2;",
    "%pool_monitor",
    "%%pool_exec\nlate = 1  # a request",
    "%pool_stop",
]
NOTEBOOK = "pictures.ipynb"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QuickstartServer]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, tmp_path / NOTEBOOK)
    with QuickstartServer(tmp_path) as server:
        yield server


def monitor(page: Page) -> Locator:
    return page.locator(".jp-CodeCell").nth(1).locator(".jp-OutputArea-output").first


def run_to(page: Page, number: int) -> None:
    """Run a cell that is the next one, and wait for its end."""
    page.locator(".jp-CodeCell").nth(number).locator(".jp-InputArea-editor").click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        r"""number => /^\[\d+\]:$/.test(
            document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')[number].innerText.trim())""",
        arg=number,
    )


def stored(server: QuickstartServer) -> dict[str, Any]:
    """The monitor's output as text and HTML; none while the file is being written."""
    text = (server.folder / NOTEBOOK).read_text(encoding="utf-8")
    if not text.endswith("}\n"):
        return {}
    (output,) = json.loads(text)["cells"][1]["outputs"]
    return {kind: "".join(text) for kind, text in output["data"].items() if kind.startswith("text")}


@pytest.mark.requires("chromium")
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("end", ["close", "restart"])
def test_a_saved_notebook_has_the_last_state_of_its_pool(
    server: QuickstartServer, page: Page, end: str
) -> None:
    page.set_default_timeout(120_000)
    page.goto(server.url.replace("quickstart.ipynb", NOTEBOOK))
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    await_idle(page)
    run_to(page, 0)
    run_to(page, 1)
    monitor(page).locator(".jpm-header").wait_for()
    # While a view is open it is left alone: nothing replaces what people are looking at.
    monitor(page).evaluate("output => { output.firstElementChild.dataset.mine = 'kept'; }")
    run_to(page, 2)
    assert monitor(page).locator("[data-mine=kept]").count() == 1
    if end == "close":
        run_to(page, 3)
    else:
        choose(page, "Kernel", "Restart Kernel…")
        page.locator(".jp-Dialog .jp-mod-accept").click()

    def has_it() -> bool:
        page.wait_for_timeout(100)  # so that the page goes on
        save(page)
        data = stored(server)
        drawn, told = data.get("text/html", ""), data.get("text/plain", "")
        return "late = 1" in drawn and ": closed" in told

    eventually(has_it, "the saved notebook has the last state", within=60)
