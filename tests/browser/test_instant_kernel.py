"""The kernel "Python 3 (instant)" in a real JupyterLab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from browser.test_quickstart import await_idle, choose, run_all

from jupyter_pool.provisioning import kernelspecs
from jupyter_pool.provisioning.templates import is_supported
from support.lab import QuickstartServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

CELLS = [
    "import os, sys\nprint('on stdout')\nprint('on stderr', file=sys.stderr)",
    "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 3, 2]);",
    "!echo from a shell",
    "await __import__('asyncio').sleep(0, 'awaited')",
    "open(f'/proc/{os.getppid()}/comm').read().startswith('jpool-')",
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QuickstartServer]:
    """JupyterLab with the kernel installed, and a notebook that wants it."""
    kernelspecs.install(user=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    notebook.metadata["kernelspec"] = {
        "name": "python3-instant",
        "display_name": "Python 3 (instant)",
        "language": "python",
    }
    nbformat.write(notebook, tmp_path / "instant.ipynb")
    with QuickstartServer(tmp_path) as server:
        yield server


@pytest.mark.requires("chromium")
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(is_supported() is not None, reason=f"platform: {is_supported()}")
def test_a_notebook_runs_on_the_instant_kernel_also_after_a_restart(
    server: QuickstartServer, page: Page
) -> None:
    page.goto(server.url.replace("quickstart.ipynb", "instant.ipynb"))
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    page.get_by_text("Python 3 (instant)").first.wait_for()
    await_idle(page)
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
        choose(page, "Kernel", "Restart Kernel…")
        page.get_by_role("button", name="Confirm Kernel Restart").click()
        await_idle(page)
