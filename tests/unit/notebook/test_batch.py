"""Whose command lines are those of something that runs a notebook from end to end."""

from __future__ import annotations

import pytest

from jupyter_pool.notebook.batch import is_batch_command


@pytest.mark.parametrize(
    "command",
    [
        "/v/bin/python /v/bin/jupyter-nbconvert --execute a.ipynb",
        "/v/bin/python3.11 /v/bin/jupyter-execute a.ipynb",
        "/v/bin/python -m nbconvert --execute a.ipynb",
        "python -X dev -W error -I -m jupyter nbconvert --to html",
        "python /v/bin/jupyter execute a.ipynb",
        "/v/bin/python /v/bin/papermill a.ipynb b.ipynb",
        "python -m papermill a.ipynb b.ipynb",
        "papermill a.ipynb b.ipynb",
    ],
)
def test_runners_of_notebooks_are_known(command: str) -> None:
    assert is_batch_command(command.split())


@pytest.mark.parametrize(
    "command",
    [
        "",
        "python",
        "/bin/bash",
        "python /v/bin/pytest --nbval papermill",
        "python -m pytest nbconvert",
        "/v/bin/python /v/bin/jupyter-lab nbconvert.ipynb",
        "python /v/bin/jupyter lab execute",
        "python -c papermill",
        "python nbconvert/run.py",
        "vim papermill.py",
    ],
)
def test_others_are_not(command: str) -> None:
    assert not is_batch_command(command.split())
