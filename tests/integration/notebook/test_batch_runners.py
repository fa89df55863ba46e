"""Real runners of notebooks: background cells are waited for, with nothing set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from support.cells import joined

RUNNERS = [
    pytest.param(
        ["-m", "nbconvert", "--to", "notebook", "--execute", "in.ipynb", "--output", "out.ipynb"],
        marks=pytest.mark.requires("module:nbconvert"),
        id="nbconvert",
    ),
    pytest.param(
        ["-m", "jupyter", "execute", "in.ipynb", "--output", "out.ipynb"],
        marks=pytest.mark.requires("module:nbclient"),
        id="jupyter execute",
    ),
    pytest.param(
        ["-m", "papermill", "in.ipynb", "out.ipynb", "--no-progress-bar"],
        marks=pytest.mark.requires("module:papermill"),
        id="papermill",
    ),
]

_CELLS = (
    "%load_ext jupyter_pool\n%pool_start --size 1;",
    "%%pool_exec --bg train --out x\nx = 42\nimport time\ntime.sleep(1)",
    "print(train.done(), globals().get('x'))",
)
#: The job ends only after the last cell has seen that it has not.
_GATED = (
    "%load_ext jupyter_pool\n%pool_start --size 1;",
    "%%pool_exec --bg train\nimport os, time\nwhile not os.path.exists('gate'): time.sleep(0.01)",
    "print(train.done(), None)\nopen('gate', 'w').close()\ntrain.result();",
)


def printed(folder: Path, command: list[str], cells: tuple[str, ...], **env: str) -> str:
    """What the last cell prints under a runner."""
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, folder / "in.ipynb")
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (output,) = joined(nbformat.read(folder / "out.ipynb", as_version=4).cells[-1].outputs)
    return str(output["text"])


@pytest.mark.parametrize("command", RUNNERS)
def test_background_cells_are_waited_for(tmp_path: Path, command: list[str]) -> None:
    assert printed(tmp_path, command, _CELLS) == "True 42\n"


@pytest.mark.requires("module:nbconvert")
def test_unless_the_environment_says_otherwise(tmp_path: Path) -> None:
    command = RUNNERS[0].values[0]
    assert isinstance(command, list)
    assert printed(tmp_path, command, _GATED, JUPYTER_POOL_BG="return") == "False None\n"
