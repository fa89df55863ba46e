"""Function calls from a notebook: functions of its cells, and outputs in the cell that calls."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat.v4

CELLS = [
    "from jupyter_pool import KernelPool\npool = KernelPool(1).start(wait=True)",
    (
        "offset = 10\n"
        "class Box:\n"
        "    def __init__(self, x): self.x = x\n"
        "def work(x):\n"
        "    print('working on', x)\n"
        "    return Box(x + offset)\n"
        "def show():\n"
        "    from IPython.display import HTML, display\n"
        "    display(HTML('<b>bold</b>'))"
    ),
    "future = pool.submit(work, 1)\nbox = future.result()",
    "print(type(box) is Box, box.x, [b.x for b in pool.map(work, [1, 2], chunksize=2)])",
    "pool.submit(show).result()",
    "list(pool.map(abs, range(5), progress=True))",
    "pool.close()",
]


async def test_a_notebooks_functions_are_called_and_their_outputs_shown(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    client = nbclient.NotebookClient(
        notebook,
        timeout=100,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    await client.async_execute()  # its synchronous one leaves an event loop open
    _, _, called, mapped, displayed, counted, _ = notebook.cells
    texts = [
        "".join(o.text for o in cell.outputs if o.output_type == "stream")
        for cell in (called, mapped)
    ]
    assert texts[0] == "[worker 1] working on 1\n"
    assert texts[1] == "[worker 1] working on 1\n[worker 1] working on 2\nTrue 11 [11, 12]\n"
    assert [output.data["text/html"] for output in displayed.outputs] == ["<b>bold</b>"]
    assert counted.outputs
