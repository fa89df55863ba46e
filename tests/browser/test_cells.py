"""A plain pool cell as a person meets it: what it prints, shows, raises and asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import (
    await_cell,
    in_both,
    open_notebook,
    output,
    prompt,
    run_cell,
    take,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

START = "%load_ext jupyter_pool\n%pool_start --size 2;\nnumbers = [1, 2, 3]"
SHOW = """\
%%pool_exec --out total
import sys
from IPython.display import HTML, display

print("on stdout")
print("on stderr", file=sys.stderr)
display(HTML("<b class='shown'>in bold</b>"))
total = sum(numbers)
total
"""
HOME = "numbers, total"
FAIL = """\
%%pool_exec
def divide(by):
    return numbers[0] / by

divide(0)
"""
ASK = """\
%%pool_exec
import getpass

name = input("Your name: ")
secret = getpass.getpass("Your secret: ")
print(name, "has a secret of", len(secret), "letters")
"""


@in_both
@with_cells(START, SHOW, HOME, FAIL)
def test_what_a_cell_shows_is_below_it(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    for number in range(3):
        run_cell(page, number)
    shown = output(page, 1)
    shown.get_by_text("on stdout").wait_for()
    shown.get_by_text("on stderr").wait_for()
    assert shown.locator("b.shown").inner_text() == "in bold"
    shown.get_by_text("6", exact=True).wait_for()
    output(page, 2).get_by_text("([1, 2, 3], 6)").wait_for()
    run_cell(page, 3)
    # The prompt has its number when the kernel has answered, the page its picture a moment later.
    failed = output(page, 3).filter(has_text="ZeroDivisionError")
    failed.filter(has_text="return numbers[0] / by").wait_for()
    take(page, f"cell-{desk.front_end}")


@in_both
@with_cells(START, ASK, "numbers")
def test_a_cell_asks_in_the_notebook(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1, wait=False)
    for question, answer, kind in (
        ("Your name:", "Ada", "input:not([type=password])"),
        ("Your secret:", "1815", "input[type=password]"),
    ):
        box = output(page, 1).locator(f"{kind}.jp-Stdin-input")
        output(page, 1).get_by_text(question).last.wait_for()
        box.wait_for()
        assert prompt(page, 1) == "[*]:"
        box.fill(answer)
        box.press("Enter")
    output(page, 1).get_by_text("Ada has a secret of 4 letters").wait_for()
    assert "1815" not in output(page, 1).inner_text()
    # The kernel goes on as ever. (Half a second after an answer its box goes, and whoever has the keyboard
    # is given it anew: a menu that is open by then would close.)
    page.locator(".jp-OutputArea-stdin-item").first.wait_for(state="detached")
    await_cell(page, 1)
    run_cell(page, 2)
    output(page, 2).get_by_text("[1, 2, 3]").wait_for()
