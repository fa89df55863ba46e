"""The lines of a cell's body are numbered as in the cell."""

from __future__ import annotations

import pytest

from jupyter_pool.notebook.lines import cell_above


@pytest.mark.parametrize(
    ("cell", "body", "above"),
    [
        ("%%pool_exec -q\nx\n", "x\n", ["%%pool_exec -q"]),
        ("%%time\n%%pool_exec\n\nx", "\nx\n", ["%%time", "%%pool_exec"]),
        ("%%pool_exec\nx\n\n\n", "x\n", ["%%pool_exec"]),
        ("%%pool_exec\n%%bash\nls", "%%bash\nls\n", []),  # a magic must be in the first line
        ("%%pool_exec\n", "", []),
        ("something()", "x", []),  # run by something else
        ("", "x", []),
    ],
)
def test_what_is_above_a_body(cell: str, body: str, above: list[str]) -> None:
    assert cell_above(cell, body) == above
