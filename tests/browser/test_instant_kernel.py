"""The kernel "Python 3 (instant)" in a real JupyterLab."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jupyter_pool.provisioning import kernelspecs
from jupyter_pool.provisioning.templates import is_supported
from support.front_end import await_idle, open_notebook, restart_kernel, run_all

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
        outputs = [
            "\n".join(cell.locator(".jp-OutputArea-output").all_inner_texts())
            for cell in page.locator(".jp-CodeCell").all()
        ]
        assert "on stdout" in outputs[0]
        assert "on stderr" in outputs[0]
        assert page.locator(".jp-CodeCell").nth(1).locator("img").count() == 1
        assert "from a shell" in outputs[2]
        assert "'awaited'" in outputs[3]
        assert "True" in outputs[4], "it is not a forked one"
        restart_kernel(page)
        await_idle(page)
