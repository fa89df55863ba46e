"""What notebooks keep of a pool that are exported, or whose kernel has ended."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat

from support.front_ends import WIDGET, JupyterLab

CELLS = [
    "%load_ext jupyter_pool\n%pool_start --size 1;",
    "%pool_monitor",
    "from jupyter_pool import get_pool\nget_pool()",
    "%%pool_exec\nlate = 1  # a request",
    "%%pool_exec --bg train\nprint('put out in the background')",
    "%pool_wait train",
    (
        "from jupyter_pool import KernelPool\nwith KernelPool(size=1) as brief:\n"
        "    display(brief)\n    brief.execute('at_the_end = 1');"
    ),
]


def test_it_has_what_ran_in_cells_after_the_monitor(tmp_path: Path) -> None:
    path = tmp_path / "notebook.ipynb"
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    convert = [sys.executable, "-m", "nbconvert", "--execute", "--to", "html", path.name]
    done = subprocess.run(
        convert, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    assert page.count("<title>late = 1  # a request</title>") == 2  # %pool_monitor and the pool
    assert page.count("<title>at_the_end = 1</title>") == 1
    assert "widget-view+json" not in page
    handle = page[page.index("<b>train</b>") :]
    assert "done" in handle[:200]
    assert "put out in the background" in handle


def test_a_kernel_that_ends_leaves_a_picture_in_place_of_the_widget() -> None:
    lab = JupyterLab()
    try:
        lab.run("%load_ext jupyter_pool\n%pool_start --size 1;")
        cell = lab.run("%pool_monitor")
        lab.run("%%pool_exec\nlate = 1")
        (output,) = cell.outputs
        assert WIDGET in output["data"]
        assert "late = 1" not in output["data"]["text/html"]  # it is left alone while in use
        lab.client.shutdown()
        lab.until(lambda: WIDGET not in output["data"], "the picture")
        assert "late = 1" in output["data"]["text/html"]
        assert output["data"]["text/plain"].startswith("Pool default: closed")
    finally:
        lab.close()
