"""How quick the panel is while the notebook's main thread is busy, and how big it is."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.conftest import (  # noqa: F401 - fixtures
    browser,
    cells,
    desk,
    front_end,
    new_page,
    page,
    server,
)
from browser.test_panel import START

import jupyter_pool
from support.front_end import (
    await_cell,
    await_words,
    open_notebook,
    open_panel,
    output,
    panel,
    run_cell,
    with_cells,
)
from support.lab import set_for_user

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

ROUNDS = 20

#: Notes, by the clock that this machine's browser has too, when the pool's state changes and when an
#: order to restart reaches the pool; the main thread is busy all the while.
MEASURED = """\
import json, os
from jupyter_pool.notebook import orders
restarts, changes = [], []
restart, order = pool.order_restart, orders.carry_out
pool.order_restart = lambda worker: (restarts.append(time.time()), restart(worker))
while not os.path.exists("go-on"):
    if os.path.exists("work"):
        os.remove("work")
        future = pool.submit_code("import time; time.sleep(600)")
        while pool.get_status().workers[0].state != "busy":
            pass
        changes.append(time.time())
    if os.path.exists("rest"):
        os.remove("rest")
        pool.cancel(future.request_id)
        future.exception()
    until = time.perf_counter() + 0.02
    while time.perf_counter() < until:  # not asleep: the main thread has the GIL
        pass
print(json.dumps([changes, restarts]))"""

#: Has the page note, by itself, when the header says what it waits for.
OBSERVE = """() => {
    globalThis.seen = [];
    const header = document.querySelector('#jupyter-pool-panel .jpm-summary');
    let busy = /1 of 1 busy/.test(header.textContent);
    new MutationObserver(() => {
        const now = /1 of 1 busy/.test(header.textContent);
        if (now && !busy) globalThis.seen.push(Date.now() / 1000);
        busy = now;
    }).observe(header, {childList: true, characterData: true, subtree: true});
    globalThis.clicked = [];
    document.querySelector('#jupyter-pool-panel').addEventListener('click', event => {
        if (event.target.closest('[aria-label="Restart the worker"]'))
            globalThis.clicked.push(Date.now() / 1000);
    }, true);
}"""


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


@pytest.mark.requires("chromium")
@pytest.mark.timeout(600)
@with_cells(START.format(size=1), MEASURED)
def test_the_panel_is_quick_while_the_main_thread_is_busy(
    desk: Desk,  # noqa: F811
    page: Page,  # noqa: F811
) -> None:
    set_for_user("jupyter-pool/panel", {"confirm": False})
    open_notebook(page, desk)
    open_panel(page)
    run_cell(page, 0)
    await_words(panel(page), "No request yet.")
    run_cell(page, 1, wait=False)
    page.evaluate(OBSERVE)
    for _ in range(ROUNDS):
        (desk.folder / "work").touch()
        await_words(panel(page), "1 of 1 busy")
        (desk.folder / "rest").touch()
        panel(page).locator(".jpm-row[data-state=idle]").wait_for()
    for _ in range(ROUNDS):
        row = panel(page).locator(".jpm-row[data-state=idle]")
        row.wait_for()
        worker = row.get_attribute("data-worker")
        row.hover()
        row.get_by_role("button", name="Restart the worker").click()
        panel(page).locator(f".jpm-row[data-worker='{worker}']").wait_for(state="detached")
    seen, clicked = page.evaluate("[globalThis.seen, globalThis.clicked]")
    (desk.folder / "go-on").touch()
    await_cell(page, 1)
    changes, restarts = json.loads(output(page, 1).inner_text())
    assert len(changes) == len(seen) == len(restarts) == len(clicked) == ROUNDS
    shown = [after - before for before, after in zip(changes, seen, strict=True)]
    reached = [after - before for before, after in zip(clicked, restarts, strict=True)]
    print(
        f"\nstate change to the panel's DOM: p50 {statistics.median(shown) * 1e3:.0f} ms, "
        f"p95 {p95(shown) * 1e3:.0f} ms (at most 500)"
        f"\nclick on restart to the engine: p50 {statistics.median(reached) * 1e3:.0f} ms, "
        f"p95 {p95(reached) * 1e3:.0f} ms (at most 150)"
    )
    assert p95(shown) <= 0.5
    assert p95(reached) <= 0.15


def test_the_bundle_is_small() -> None:
    static = Path(jupyter_pool.__file__).parent / "labextension" / "static"
    size = sum(file.stat().st_size for file in static.glob("*.js"))
    print(f"\nthe extension's code and styles: {size / 1000:.0f} kB (at most 150)")
    assert size <= 150_000
