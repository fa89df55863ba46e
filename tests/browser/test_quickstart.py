"""The quickstart notebook as a newcomer meets it: in JupyterLab, from the first cell to the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_pool.cli import quickstart
from support import readme
from support.lab import QuickstartServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

# For people to look at; `.ci/run` and the workflow keep it.
ARTIFACTS = readme.ROOT / ".artifacts" / "browser"

# The whole notebook on a loaded machine.
RUN_DEADLINE_MS = 180_000


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def kinds(cell: dict[str, Any]) -> set[str]:
    """What there is to see below a cell: text, image, html, error with its name.

    Of a cell whose output may differ from run to run, as its tag says, only the error.
    """
    found = set()
    for output in cell["outputs"]:
        data = output.get("data", {})
        if output["output_type"] == "error":
            found.add(f"error {output['ename']}")
        elif "image/png" in data:
            found.add("image")
        elif "text/html" in data:
            found.add("html")
        else:
            found.add("text")
    if "nbval-ignore-output" in cell["metadata"].get("tags", ()):
        return {kind for kind in found if kind.startswith("error ")}
    return found


def open_notebook(page: Page, server: QuickstartServer) -> None:
    page.goto(server.url)
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    await_idle(page)


def await_idle(page: Page) -> None:
    # Not the toolbar's indicator: that shows idle before there is a kernel at all.
    page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=60_000)


def choose(page: Page, *path: str) -> None:
    """Go through a menu."""
    for text in path:
        label = page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel")
        label.get_by_text(text, exact=True).click()


def run_all(page: Page) -> None:
    """Clear what the notebook was shipped with, run every cell, wait for the last prompt."""
    choose(page, "Edit", "Clear Outputs of All Cells")
    page.wait_for_function("document.querySelectorAll('.jp-OutputArea-child').length === 0")
    choose(page, "Run", "Run All Cells")
    # A prompt is [ ]: before, [*]: while, and [3]: after the cell ran.
    page.wait_for_function(
        r"""() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
            .every(prompt => /^\[\d+\]:$/.test(prompt.innerText.trim()))""",
        timeout=RUN_DEADLINE_MS,
    )
    await_idle(page)


def save(page: Page) -> None:
    choose(page, "File", "Save Notebook")
    page.locator(".jp-mod-current.jp-mod-dirty").wait_for(state="detached")


def take_picture(page: Page) -> None:
    """The README's (.github/images/quickstart.png): a plot, a crash, and the cell after it.

    What is between them is left out; the numbers at the cells show it.
    """
    page.keyboard.press("Control+b")  # no file browser
    page.set_viewport_size({"width": 1000, "height": 920})
    page.evaluate(
        """wanted => {
            const cells = [...document.querySelectorAll('.jp-Notebook .jp-Cell')];
            cells.forEach((cell, number) => {
                const near = [cell, cells[number - 1]].filter(Boolean);
                const kept = wanted.some(([text, before]) =>
                    near.slice(0, before ? 2 : 1).some(one => one.innerText.includes(text)));
                if (!kept) cell.style.display = 'none';
            });
            cells.forEach(cell => cell.classList.remove('jp-mod-selected', 'jp-mod-active'));
            document.querySelector('.jp-WindowedPanel-outer').scrollTo(0, 0);
        }""",
        # A text in a cell, and whether the cell after it is kept too.
        [["They arrive as if", True], ["SIGKILL)", False], ["Everything is still here", True]],
    )
    page.screenshot(path=ARTIFACTS / "quickstart.png")


@pytest.mark.requires("chromium")
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_cell_of_the_quickstart_runs_and_shows_what_it_was_shipped_with(
    server: QuickstartServer, page: Page
) -> None:
    open_notebook(page, server)
    run_all(page)
    save(page)
    shipped = code_cells(quickstart.find_notebook())
    ran = code_cells(server.folder / "quickstart.ipynb")
    seen = page.locator(".jp-CodeCell")
    assert seen.count() == len(ran) == len(shipped)
    for number, (was, now) in enumerate(zip(shipped, ran, strict=True)):
        source = "".join(now["source"])
        assert kinds(now) == kinds(was), f"{source}\n---\n{now['outputs']}"
        outputs = seen.nth(number).locator(".jp-OutputArea-output")
        if "image" in kinds(now):
            image = outputs.locator("img").first
            image.wait_for()
            assert image.evaluate("image => image.naturalWidth") > 0, source
        if kinds(now) - {"image"}:
            assert "".join(outputs.all_inner_texts()).strip(), source
    take_picture(page)
