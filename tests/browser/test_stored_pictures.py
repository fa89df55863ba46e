"""What a notebook that JupyterLab saves has of a pool: a picture of its last state."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from support.conditions import eventually
from support.front_end import (
    await_words,
    monitor,
    open_notebook,
    output,
    run_cell,
    save,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk


def stored(desk: Desk) -> dict[str, Any]:
    """The monitor's output as text and HTML; none while the file is being written."""
    text = (desk.folder / "work.ipynb").read_text(encoding="utf-8")
    if not text.endswith("}\n"):
        return {}
    (output,) = json.loads(text)["cells"][1]["outputs"]
    return {kind: "".join(text) for kind, text in output["data"].items() if kind.startswith("text")}


@with_cells(
    "%load_ext jupyter_pool\n%pool_start --size 2;",
    "%pool_monitor",
    "%%pool_exec\nlate = 1  # a request",
    "%pool_stop",
)
def test_a_saved_notebook_has_the_last_state_of_its_pool(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_cell(page, 0)
    run_cell(page, 1)
    monitor(page).locator(".jpm-header").wait_for()
    # While a view is open it is left alone: nothing replaces what people are looking at.
    shown = output(page, 1).locator(".jp-OutputArea-output").first
    shown.evaluate("output => { output.firstElementChild.dataset.mine = 'kept'; }")
    run_cell(page, 2)
    assert shown.locator("[data-mine=kept]").count() == 1
    await_words(monitor(page), re.compile("Last request"))
    run_cell(page, 3)

    def has_it() -> bool:
        page.wait_for_timeout(100)  # so that the page goes on
        save(page)
        data = stored(desk)
        drawn, told = data.get("text/html", ""), data.get("text/plain", "")
        return "late = 1" in drawn and ": closed" in told

    eventually(has_it, "the saved notebook has the last state", within=60)
