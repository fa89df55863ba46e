"""The code in the README runs as it is printed there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import nbformat.v4
import pytest

from support import readme
from support.cells import joined

pytestmark = pytest.mark.requires("module:matplotlib")


def test_the_python_code_runs(tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text("\n".join(readme.python_blocks()), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "['1', '2', '3', '4']" in done.stdout
    assert "worker" in done.stdout  # what the crash said


async def test_the_notebook_code_runs(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(code) for code in readme.notebook_blocks()]
    check = nbformat.v4.new_code_cell("print(mean, total, len(score), sweep.summary(), best)")
    notebook = nbformat.v4.new_notebook(cells=[*cells, check])
    client = nbclient.NotebookClient(
        notebook,
        timeout=100,
        kernel_name="python3",
        resources={"metadata": {"path": os.fspath(tmp_path)}},
    )
    await client.async_execute()  # its synchronous one leaves an event loop open
    load, run, line, _, _, _, widgets, values = notebook.cells
    assert load.outputs == line.outputs == []
    kinds = [output.output_type for output in run.outputs]
    assert "stream" in kinds
    assert any("image/png" in output.get("data", {}) for output in run.outputs)
    (shown,) = widgets.outputs
    assert "application/vnd.jupyter.widget-view+json" in shown.data
    (captured,) = (
        model["outputs"]
        for model in client.widget_state.values()
        if model["_model_name"] == "OutputModel"
    )
    assert joined(captured)[0]["text"] == "12 squared is 144\n"
    (printed,) = joined(values.outputs)
    assert printed["text"] == "499.5 332833500 12 12 of 12 done 0.97\n"
