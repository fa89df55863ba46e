"""A traceback of a worker below its cell: its links lead to the file and the line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import open_notebook, output, run_cell, take, with_cells

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

START = "%load_ext jupyter_pool\n%pool_start --size 2;"
MODULE = """\
def area(width, height):
    if width < 0:
        raise ValueError("a width is not negative")
    return width * height
"""
CALL = "import shapes\nshapes.area(-1, 2)"


@with_cells(START, CALL, f"%%pool_exec\n{CALL}")
def test_a_link_leads_where_one_of_the_notebooks_own_kernel_does(desk: Desk, page: Page) -> None:
    (desk.folder / "shapes.py").write_text(MODULE)
    open_notebook(page, desk)
    for number in range(3):
        run_cell(page, number)
    # They get their addresses when the server has said which of its files the path is.
    links = [
        output(page, number).locator("a[href]").filter(has_text="shapes.py:3") for number in (1, 2)
    ]
    there = f"{desk.folder.name}/shapes.py#line=2"
    assert [link.get_attribute("href") for link in links] == [there, there]
    take(page, "traceback-with-link")
    links[1].click()
    page.locator("#jp-main-statusbar").get_by_text("Ln 3, Col 1").wait_for()
    page.locator(".jp-FileEditor .cm-content").get_by_text("raise ValueError").wait_for()
