"""The quickstart notebook as a newcomer meets it: in JupyterLab, from the first cell to the last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_pool.cli import quickstart
from support.front_end import await_notebook, run_all, save, take
from support.lab import QuickstartServer

if TYPE_CHECKING:
    from playwright.sync_api import Page


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
    take(page, "quickstart")


def test_every_cell_of_the_quickstart_runs_and_shows_what_it_was_shipped_with(
    server: QuickstartServer, page: Page
) -> None:
    page.goto(server.url)
    await_notebook(page)
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
