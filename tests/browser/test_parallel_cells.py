"""Background and parallel cells as a person sees them in JupyterLab."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import (
    WAIT_FOR,
    await_cell,
    await_idle,
    code_cell,
    in_both,
    open_notebook,
    output,
    prompt,
    reload,
    run_cell,
    save,
    take,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

TRAIN = """%%pool_exec --bg train
for epoch in range(3):
    print('epoch', epoch, flush=True)
    wait_for(f'step {epoch}')
"""
START = f"%load_ext jupyter_pool\n%pool_start --size 2;\n{WAIT_FOR}"


@in_both
@with_cells(
    START,
    TRAIN,
    "%%pool_exec --each n=[1, 2] --each word=['a']\nprint('hello', n)",
    "wait_for('free')",
    "train",
)
def test_a_job_is_live_beside_other_cells_and_after_a_reload(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    for number in range(3):
        run_cell(page, number)
    output(page, 1).get_by_text("epoch 0").wait_for()
    output(page, 2).get_by_text("2 of 2 done").wait_for()

    # Live, in its own cell, while another one runs.
    run_cell(page, 3, wait=False)
    code_cell(page, 3).locator(".jp-InputPrompt").get_by_text("[*]").wait_for()
    (desk.folder / "step 0").touch()
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
    (desk.folder / "free").touch()
    await_cell(page, 3)
    save(page)
    reload(page)
    await_idle(page)
    output(page, 1).get_by_text("epoch 1").wait_for()
    assert "epoch 0" in output(page, 1).inner_text()
    (desk.folder / "step 1").touch()
    output(page, 1).get_by_text("epoch 2").wait_for()
    take(page, f"job-after-reload-{desk.front_end}")
    run_cell(page, 4)
    output(page, 4).get_by_text("epoch 2").wait_for()
    (desk.folder / "step 2").touch()
    output(page, 4).get_by_text("done").wait_for()


BAR = """%%pool_exec --bg bars
from tqdm.notebook import tqdm
for n in tqdm(range(4), desc='epochs', mininterval=0, miniters=1):
    print('epoch', n, flush=True)
    if n == 2: wait_for('gate')
"""


@with_cells(START, BAR)
def test_a_bar_of_a_background_cell_is_below_its_line_and_moves(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    output(page, 1).get_by_text("2/4").wait_for()
    output(page, 1).get_by_text("epoch 2").wait_for()
    take(code_cell(page, 1), "job-with-bar")
    (desk.folder / "gate").touch()
    output(page, 1).get_by_text("4/4").wait_for()
    output(page, 1).get_by_text("done").wait_for()
