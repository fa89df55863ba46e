"""A background cell that fails where nobody looks is announced."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from support.front_end import in_both, open_notebook, output, run_cell, take, with_cells

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

START = "%load_ext jupyter_pool\n%pool_start --size 2;"
TRAIN = """\
%%pool_exec --bg train
import os, time
while not os.path.exists("gate"):
    time.sleep(0.01)
print("epoch 1")
raise ValueError("no convergence")
"""


@in_both
@with_cells(START, TRAIN, "40 + 2", "41 + 2", "train.show()")
def test_before_the_output_of_the_next_cell_and_only_of_that(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    for number in range(2):
        run_cell(page, number)
    (desk.folder / "gate").touch()
    output(page, 1).get_by_text("failed").first.wait_for()
    for number in range(2, 5):
        run_cell(page, number)
    told = output(page, 2).locator(".jp-OutputArea-child")
    told.filter(has_text="42").wait_for()
    notice = r"\[train\] failed \d+ s ago: ValueError: no convergence · train\.show\(\)"
    assert re.fullmatch(notice, told.first.inner_text().strip())
    output(page, 3).get_by_text("43").wait_for()
    assert "train" not in output(page, 3).inner_text()
    shown = output(page, 4).filter(has_text="epoch 1").filter(has_text="Cell In[2], line 6")
    shown.filter(has_text='----> 6 raise ValueError("no convergence")').wait_for()
    # In colours, as a traceback of the notebook's own kernel.
    assert shown.locator("pre span[style*=color]").filter(has_text="ValueError").count() > 1
    take(page, f"failed-job-{desk.front_end}")
