"""The kernel "Python 3 (instant)" in a real JupyterLab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jupyter_pool.provisioning import kernelspecs
from jupyter_pool.provisioning.templates import is_supported
from support.front_end import await_idle, open_notebook, output, restart_kernel, run_all

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from support.lab import Desk

CELLS = [
    "import os, sys\nprint('on stdout')\nprint('on stderr', file=sys.stderr)",
    "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);",
    "!echo from a shell",
    "await __import__('asyncio').sleep(0, 'awaited')",
    "open(f'/proc/{os.getppid()}/comm').read().startswith('jpool-')",
]


@pytest.mark.skipif(is_supported() is not None, reason=f"platform: {is_supported()}")
def test_a_notebook_runs_on_the_instant_kernel_also_after_a_restart(desk: Desk, page: Page) -> None:
    kernelspecs.install(user=True)
    desk.write(*CELLS, kernel="python3-instant")
    open_notebook(page, desk)
    page.get_by_text("Python 3 (instant)").first.wait_for()
    for _ in range(2):
        run_all(page)
        output(page, 0).get_by_text("on stdout").wait_for()
        output(page, 0).get_by_text("on stderr").wait_for()
        output(page, 1).locator("img").wait_for()
        output(page, 2).get_by_text("from a shell").wait_for()
        output(page, 3).get_by_text("'awaited'").wait_for()
        output(page, 4).get_by_text("True").wait_for()  # it is a forked one
        restart_kernel(page)
        await_idle(page)
