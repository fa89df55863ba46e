"""The monitor in a real JupyterLab, looked at as its users see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import (
    await_cell,
    await_words,
    in_both,
    monitor,
    open_notebook,
    prompt,
    reload,
    run_cell,
    save,
    take,
    use_theme,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

START = """\
%load_ext jupyter_pool
import pathlib, time
from jupyter_pool import get_pool
%pool_start --size {size} --interrupt-grace 1
pool = get_pool();"""

SHOW = "%pool_monitor"

#: Work of the kind that people do, and what goes wrong in it.
WORK = """\
def fit(depth, rate):
    import time
    time.sleep(depth * rate)
    return 1 / (depth - 7)

def submit(depth, rate, **options):
    return pool.submit_code(f"score = fit(depth={depth}, rate={rate})", inputs={"fit": fit},
                            session_id="sweep", **options)

sweep = [submit(depth, rate) for depth in (2, 5, 3) for rate in (0.3, 0.9, 0.5, 0.7)]
[future.result() for future in sweep];"""

BUSY = "slow = [submit(600, 1) for _ in range(3)]"

SATURATED = """\
for future in slow:
    pool.cancel(future.request_id)
[future.exception() for future in slow]
sweep = [submit(depth, rate) for depth, rate in ((4, 1.2), (6, 0.4), (3, 1.1), (5, 0.9), (2, 1.9))]
sweep += [submit(7, 0.5), submit(600, 0.1, timeout=3), submit(4, 0.7), submit(3, 1.7),
          pool.submit_code("import os, time; time.sleep(1); os.abort()"), submit(5, 1.1)]
sweep += [submit(depth, rate) for depth in (3, 6, 4, 5, 2) for rate in (0.8, 1.3, 0.6, 1.5, 0.9)]
sweep += [submit(600, rate) for rate in range(1, 15)]"""


def take_pictures(page: Page, name: str) -> None:
    """One in each theme."""
    for theme in ("Dark", "Light"):
        use_theme(page, theme)
        monitor(page).scroll_into_view_if_needed()
        take(monitor(page), f"monitor-{name}-{theme.lower()}")


def take_picture_for_readme(page: Page) -> None:
    """The README's (.github/images/monitor.png): the last 15 seconds, with all marks in them."""
    monitor(page).get_by_text("Errors (3)").wait_for()
    page.wait_for_function(
        "row => parseInt(/(\\d+) waiting/.exec(row.innerText)?.[1] ?? '99') <= 31",
        arg=monitor(page).locator(".jpm-summary").element_handle(),
    )
    span = monitor(page).get_by_role("button", name="Show another span of time")
    for shown in ("5 min ago", "15 s ago"):
        span.click()
        monitor(page).get_by_text(shown).wait_for()
    page.mouse.move(5, 5)
    take(monitor(page), "monitor")
    span.click()
    monitor(page).get_by_text("60 s ago").wait_for()


@with_cells(START.format(size=6), SHOW, WORK, BUSY, SATURATED)
def test_it_shows_what_a_pool_goes_through(desk: Desk, page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 900})
    open_notebook(page, desk)
    page.keyboard.press("Control+b")  # no file browser
    run_cell(page, 0)
    run_cell(page, 1)
    await_words(monitor(page), "No request yet.")
    run_cell(page, 2)
    await_words(monitor(page), "Last request")
    take_pictures(page, "idle")
    run_cell(page, 3)
    await_words(monitor(page), "3 of 6 busy")
    take_pictures(page, "busy")
    run_cell(page, 4)
    await_words(monitor(page), "6 of 6 busy")
    take_pictures(page, "saturated")
    take_picture_for_readme(page)
    # All that ends has ended; the rest runs and waits.
    monitor(page).get_by_text("Errors (3)").wait_for()
    await_words(monitor(page), "8 waiting")
    monitor(page).get_by_text("Errors (3)").click()
    monitor(page).get_by_text("ZeroDivisionError: division by zero").wait_for()
    take_pictures(page, "failing")


WAIT = """\
answer = pathlib.Path("answer")
future = pool.submit_code("import time; time.sleep(600)")
while not answer.exists():  # the main thread is busy
    time.sleep(0.05)
pool.cancel(future.request_id);"""


@in_both
@with_cells(START.format(size=2), SHOW, WAIT)
def test_it_is_live_while_the_kernel_is_busy_and_after_the_page_was_loaded_anew(
    desk: Desk, page: Page
) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    run_cell(page, 2, wait=False)
    await_words(monitor(page), "1 of 2 busy")
    row = monitor(page).locator(".jpm-row[data-state=busy] .jpm-words")
    page.wait_for_function("row => parseFloat(row.innerText) >= 2", arg=row.element_handle())
    assert prompt(page, 2) == "[*]:"
    (desk.folder / "answer").touch()
    await_cell(page, 2)
    await_words(monitor(page), "Ready")
    save(page)
    reload(page)
    await_words(monitor(page), "Ready")
    # A worker that was slow to obey is still being replaced: for that moment there are three.
    page.wait_for_function("document.querySelectorAll('.jp-OutputArea .jpm-row').length === 2")


QUEUE = 'work = [pool.submit_code(f"import time; time.sleep(600)  # part {n}") for n in range(3)];'


@with_cells(START.format(size=1), SHOW, QUEUE)
def test_the_keyboard_reaches_requests_and_orders(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    run_cell(page, 2)
    await_words(monitor(page), "1 of 1 busy · 2 waiting")
    track = monitor(page).get_by_role("listbox")
    option = track.get_by_role("option")
    track.focus()
    page.keyboard.press("End")
    assert "part 0" in option.inner_text()
    page.keyboard.press("Enter")
    card = page.locator(".jpm-card")
    card.wait_for()
    assert "part 0" in card.inner_text()
    take(card, "monitor-card")
    page.keyboard.press("Escape")
    card.wait_for(state="hidden")
    track.focus()
    page.keyboard.press("Delete")
    await_words(monitor(page), "1 of 1 busy · 1 waiting")
    page.keyboard.press("End")
    page.wait_for_function(
        "option => option.innerText.includes('part 1')", arg=option.element_handle()
    )
    monitor(page).get_by_role("button", name="One worker more").press("Enter")
    await_words(monitor(page), "2 of 2 busy")
    monitor(page).get_by_role("button", name="Drain or stop the pool").press("Enter")
    page.keyboard.press("ArrowDown")
    page.get_by_text("cancel everything, end the workers").click()
    page.get_by_text("Stop: really?").click()
    monitor(page).get_by_text("No pool in this kernel.").wait_for()


MANY = """\
%load_ext jupyter_pool
from jupyter_pool import get_pool
%pool_start --size {size}
pool = get_pool();
def some(n):
    import time
    time.sleep(0.2)
run = lambda: list(pool.map(some, range({items}), chunksize=1))"""


JOBS = [
    "import os, time\ndef wait_for(name):\n    while not os.path.exists(name): time.sleep(0.01)",
    "%%pool_exec --bg train\nwait_for('gate')",
    "%%pool_exec --each n=range(8)\nn >= 3 and wait_for('items')",
]


@with_cells(START.format(size=4), SHOW, *JOBS)
def test_jobs_have_a_line_each_and_are_cancelled_there(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    for number in range(4):
        run_cell(page, number)
    run_cell(page, 4, wait=False)
    rows = monitor(page).locator(".jpm-job")
    rows.get_by_text("3/8").wait_for()
    assert rows.locator(".jpm-job-name").all_inner_texts() == ["train", "each n"]
    take(monitor(page), "monitor-jobs")
    assert monitor(page).get_by_role("button", name="Cancel each n").count() == 0
    (desk.folder / "items").touch()
    await_cell(page, 4)
    monitor(page).get_by_role("button", name="Cancel train").click()
    rows.first.wait_for(state="detached")


@with_cells(MANY.format(size=30, items=900), SHOW, "run();")
def test_dozens_of_workers_have_narrow_lanes(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    run_cell(page, 2)
    assert monitor(page).locator(".jpm-lanes").get_attribute("data-mode") == "dense"
    assert monitor(page).locator(".jpm-row").count() == 30
    take_pictures(page, "dense")


@with_cells(MANY.format(size=60, items=1200), SHOW, "run();")
def test_more_workers_are_tiles_and_one_lane(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    run_cell(page, 2)
    assert monitor(page).locator(".jpm-lanes").get_attribute("data-mode") == "tiles"
    assert monitor(page).locator(".jpm-row").count() == 0
    take_pictures(page, "tiles")


@with_cells(START.format(size=2), SHOW, 'pool.submit_code("1/0").exception();')
def test_it_follows_peoples_wishes_for_contrast_and_rest(desk: Desk, page: Page) -> None:
    page.emulate_media(forced_colors="active", reduced_motion="reduce")
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    run_cell(page, 2)
    await_words(monitor(page), "Last request")
    assert page.evaluate("document.querySelector('.jpm-canvas').getAnimations().length") == 0
    take(monitor(page), "monitor-forced-colors")


@with_cells(START.format(size=2), "%pool_monitor --html", 'pool.execute("1 + 1");')
def test_without_a_widget_it_is_html_that_goes_on(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    picture = page.locator(".jp-RenderedHTMLCommon svg[role=img]")
    picture.wait_for()
    run_cell(page, 2)
    page.locator(".jp-RenderedHTMLCommon svg[role=img] title").wait_for(state="attached")
    take(picture, "monitor-html")
