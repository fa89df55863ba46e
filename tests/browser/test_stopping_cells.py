"""The stop button beside a pool cell, as a person sees what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import (
    await_cell,
    choose,
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

START = "%load_ext jupyter_pool\n%pool_start --size 2;"
CAREFUL = """\
%%pool_exec
import os, time

def work():
    print("begun")
    while True:
        time.sleep(0.01)

try:
    work()
finally:
    while not os.path.exists("tidied"):
        time.sleep(0.01)
"""
SWEEP = """\
%%pool_exec --each n=range(40) --max 2
import time

while True:
    time.sleep(0.01)
"""


@in_both
@with_cells(START, CAREFUL, SWEEP, "'the kernel goes on'")
def test_it_is_answered_at_once_and_then_with_the_workers_traceback(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1, wait=False)
    output(page, 1).get_by_text("begun").wait_for()
    choose(page, "Kernel", "Interrupt Kernel")
    output(page, 1).get_by_text("Interrupting the worker…").wait_for()
    assert prompt(page, 1) == "[*]:"  # the cell tidies up
    (desk.folder / "tidied").touch()
    await_cell(page, 1)
    stopped = output(page, 1).filter(has_text="KeyboardInterrupt")
    stopped.filter(has_text="in work()").filter(has_text="time.sleep(0.01)").wait_for()
    take(page, f"interrupted-{desk.front_end}")

    run_cell(page, 2, wait=False)
    output(page, 2).get_by_text("0 of 40 done").wait_for()
    choose(page, "Kernel", "Interrupt Kernel")
    output(page, 2).get_by_text("0 of 40 done, 40 stopped").wait_for()
    await_cell(page, 2)
    run_cell(page, 3)
    output(page, 3).get_by_text("the kernel goes on").wait_for()
