"""What a cell renews while it runs: animations and displays by their ids, several cells at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import (
    WAIT_FOR,
    await_cell,
    in_both,
    open_notebook,
    output,
    run_cell,
    take,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

START = f"%load_ext jupyter_pool\n%pool_start --size 3;\n{WAIT_FOR}"
ANIMATION = """\
from IPython.display import HTML, clear_output, display
for n in range(3):
    clear_output(wait=True)
    print("NAME frame", n)
    display(HTML(f"<b class='frame'>NAME {n}</b>"))
    wait_for(f"NAME {n}")
"""
RENEWED = """\
%%pool_exec
first = display("first: to do", display_id=True)
second = display("second: to do", display_id=True)
wait_for("renew")
second.update("second: done")
first.update("first: done")
wait_for("end")
"""


@in_both
@with_cells(
    START,
    "%%pool_exec --bg one\n" + ANIMATION.replace("NAME", "one"),
    "%%pool_exec --bg two\n" + ANIMATION.replace("NAME", "two"),
    "%%pool_exec\n" + ANIMATION.replace("NAME", "three"),
    RENEWED,
)
def test_each_is_renewed_in_its_own_place(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    for number in range(3):
        run_cell(page, number)
    run_cell(page, 3, wait=False)
    names = ("one", "two", "three")
    for step in range(3):
        for number, name in enumerate(names, 1):
            frame = output(page, number).locator("b.frame")
            frame.get_by_text(f"{name} {step}").wait_for()
            assert frame.count() == 1
            output(page, number).get_by_text(f"{name} frame {step}").wait_for()
            assert f"frame {step - 1}" not in output(page, number).inner_text()
        if step == 1:
            take(page, f"animations-{desk.front_end}")
        for name in names:
            (desk.folder / f"{name} {step}").touch()
    await_cell(page, 3)

    run_cell(page, 4, wait=False)
    output(page, 4).get_by_text("second: to do").wait_for()
    (desk.folder / "renew").touch()
    output(page, 4).get_by_text("first: done").wait_for()
    output(page, 4).get_by_text("second: done").wait_for()
    assert "to do" not in output(page, 4).inner_text()
    (desk.folder / "end").touch()
    await_cell(page, 4)


SWEEP = """\
%%pool_exec --each rate=[0.1, 0.9] --out score --as sweep
if rate > 0.5 and not os.path.exists("mended"):
    raise ValueError("diverged")
score = rate * 10
"""


@in_both
@with_cells(START, SWEEP, "sweep.retry_failed()", "sweep.to_frame()")
def test_a_sweep_is_completed_and_is_a_table(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    for number in range(2):
        run_cell(page, number)
    output(page, 1).get_by_text("1 of 2 done, 1 failed (rate=0.9: ValueError)").wait_for()
    run_cell(page, 3)
    table = output(page, 3).locator("table")
    table.locator("td", has_text="ValueError: diverged").wait_for()
    (desk.folder / "mended").touch()
    run_cell(page, 2)
    output(page, 2).get_by_text("2 of 2 done").wait_for()
    run_cell(page, 3)
    table.locator("th", has_text="score").wait_for()
    assert table.locator("tbody tr").all_inner_texts() == ["0\t0.1\t1.0", "1\t0.9\t9.0"]
    take(page, f"sweep-{desk.front_end}")
