"""JupyterLab and Notebook 7 driven as a person drives them: menus, keys, and looking at the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import readme

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from support.lab import Desk

# For people to look at; `.ci/run` and the workflow keep it.
ARTIFACTS = readme.ROOT / ".artifacts" / "browser"

in_both = pytest.mark.parametrize("front_end", ["lab", "notebook7"])


#: For a notebook's first cell: pool cells go on when the test has made a file of that name.
WAIT_FOR = (
    "import os, time\ndef wait_for(name):\n    while not os.path.exists(name): time.sleep(0.01)"
)


def with_cells(*cells: str) -> pytest.MarkDecorator:
    """The code cells of the notebook that is on the test's desk."""
    return pytest.mark.parametrize("cells", [list(cells)], ids=["notebook"])


_OPENS_MS = 60_000
# A whole notebook on a loaded machine.
RUN_DEADLINE_MS = 180_000


def is_lab(page: Page) -> bool:
    return "/lab" in page.url


def open_notebook(page: Page, desk: Desk, name: str = "work.ipynb") -> None:
    page.goto(desk.url(name))
    await_notebook(page)


def reload(page: Page) -> None:
    """Load the page anew and wait for the notebook, not for its kernel: that may be busy."""
    page.reload()
    _await_cells(page)


def await_notebook(page: Page) -> None:
    _await_cells(page)
    await_idle(page)


def _await_cells(page: Page) -> None:
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=_OPENS_MS)


def await_idle(page: Page) -> None:
    if is_lab(page):
        # Not the toolbar's indicator: that shows idle before there is a kernel at all.
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=_OPENS_MS)
        return
    page.locator(".jp-KernelName").filter(has_not_text="No Kernel").wait_for(timeout=_OPENS_MS)
    tooltip = page.locator(".jp-Notebook-ExecutionIndicator-tooltip")
    tooltip.get_by_text("Kernel status: Idle").wait_for(state="attached", timeout=_OPENS_MS)


def choose(page: Page, *path: str) -> None:
    """Go through a menu."""
    for text in path:
        label = page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel")
        label.get_by_text(text, exact=True).click()


def command(page: Page, name: str) -> None:
    """Find a command in the palette by its name, and run it, with the keyboard alone."""
    page.keyboard.press("Control+Shift+c")
    # It is seen before it has the keyboard: what is typed until then goes to the notebook.
    page.locator("#modal-command-palette input:focus").wait_for()
    page.keyboard.type(name)
    item = page.locator("#modal-command-palette .lm-CommandPalette-item.lm-mod-active")
    item.get_by_text(name).wait_for()
    page.keyboard.press("Enter")


def code_cell(page: Page, number: int) -> Locator:
    return page.locator(".jp-CodeCell").nth(number)


def output(page: Page, number: int) -> Locator:
    """What is below a cell."""
    return code_cell(page, number).locator(".jp-Cell-outputArea").first


def prompt(page: Page, number: int) -> str:
    return code_cell(page, number).locator(".jp-InputPrompt").first.inner_text().strip()


def run_cell(page: Page, number: int, *, wait: bool = True) -> None:
    """Run one cell, and wait for its prompt's number."""
    code_cell(page, number).locator(".jp-InputPrompt").first.click()
    if is_lab(page):
        page.keyboard.press("Control+Enter")  # it stays selected
    else:
        choose(page, "Run", "Run Selected Cell")  # here the menus come before the shortcuts
    if wait:
        await_cell(page, number)


def add_cell(page: Page, code: str) -> int:
    """A code cell below all others; its number."""
    cells = page.locator(".jp-Notebook .jp-Cell")
    before, number = cells.count(), page.locator(".jp-CodeCell").count()
    cells.last.click()
    page.keyboard.press("Escape")
    page.keyboard.press("b")
    cells.nth(before).wait_for()
    page.keyboard.press("Enter")
    cells.nth(before).locator(".cm-focused").wait_for()  # the editor comes after its cell
    # Not typed: the editor would indent on its own.
    page.keyboard.insert_text(code)
    return number


def await_cell(page: Page, number: int) -> None:
    page.wait_for_function(
        r"""number => /^\[\d+\]:$/.test(document.querySelectorAll(
            '.jp-CodeCell .jp-InputPrompt')[number].innerText.trim())""",
        arg=number,
        timeout=RUN_DEADLINE_MS,
    )


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
    with page.expect_response(
        lambda r: r.request.method == "PUT" and "/api/contents/" in r.url and r.ok
    ):
        choose(page, "File", "Save Notebook")
    if is_lab(page):
        page.locator(".jp-mod-current.jp-mod-dirty").wait_for(state="detached")


def restart_kernel(page: Page) -> None:
    choose(page, "Kernel", "Restart Kernel…")
    accept(page)


def accept(page: Page) -> None:
    """Confirm what a dialog asks."""
    page.locator(".jp-Dialog button.jp-mod-warn").click()
    page.locator(".jp-Dialog").wait_for(state="detached")


def use_theme(page: Page, theme: str) -> None:
    """Dark or Light."""
    choose(page, "Settings", "Theme", f"JupyterLab {theme}")
    light = str(theme == "Light").lower()
    page.locator(f"body[data-jp-theme-light={light}]").wait_for(state="attached")
    page.locator("#jupyterlab-splash").wait_for(state="detached")
    page.mouse.move(5, 5)


def take(what: Page | Locator, name: str) -> None:
    """A picture for people to look at."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    what.screenshot(path=ARTIFACTS / f"{name}.png")


def violations(page: Page, selector: str) -> list[dict[str, Any]]:
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


# -- the pools' own ---------------------------------------------------------------------------------


def panel(page: Page) -> Locator:
    return page.locator("#jupyter-pool-panel")


def monitor(page: Page) -> Locator:
    """The widget below a cell."""
    return page.locator(".jp-OutputArea .jpm[role=region]")


def open_panel(page: Page) -> None:
    choose(page, "View", "Show Kernel Pools")
    panel(page).wait_for()


def await_words(view: Locator, words: str | re.Pattern[str]) -> None:
    """Wait for this in the header of a monitor or panel."""
    view.locator(".jpm-header").get_by_text(words).wait_for()


def worker_ids(view: Locator) -> list[str | None]:
    rows = view.locator(".jpm-row[data-worker]")
    return [row.get_attribute("data-worker") for row in rows.all()]
