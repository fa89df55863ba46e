"""Which cell has caused a request, as its block tells."""

from __future__ import annotations

import ast
from typing import Any

from integration.notebook.front_end import Notebook, Run


def run(notebook: Notebook, cell: str | None, code: str) -> Run:
    """Run a cell as JupyterLab and Notebook 7 do: with its id; None: as others do, without."""
    client = notebook.client
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    metadata = {} if cell is None else {"cellId": cell}
    message: dict[str, Any] = client.session.msg("execute_request", content, metadata=metadata)
    client.shell_channel.send(message)
    done = notebook.result(message["header"]["msg_id"])
    assert done.status == "ok", done.reply
    return done


def causes(notebook: Notebook) -> dict[str, set[str | None]]:
    """The cells of all blocks that have ended, by their code."""
    text = run(
        notebook,
        "asking",
        "from jupyter_pool.notebook.feed import Feed\n"
        "[(b['code'], b['cell']) for b in Feed(lambda: 'default').whole()['blocks']]",
    ).text
    found: dict[str, set[str | None]] = {}
    for code, cell in ast.literal_eval(text):
        found.setdefault(code, set()).add(cell)
    return found


def test_a_request_names_the_cell_that_caused_it(fresh_notebook: Notebook) -> None:
    run(fresh_notebook, "starting", "%pool_start --size 2;")
    run(fresh_notebook, "one", "%%pool_exec\n'magic'")
    run(fresh_notebook, "two", "from jupyter_pool import get_pool\nget_pool().execute(\"'code'\");")
    run(fresh_notebook, "three", "get_pool().submit(divmod, 7, 2).result();")
    run(fresh_notebook, None, "get_pool().execute(\"'no id'\");")
    run(fresh_notebook, "four", "with get_pool().checkout() as w: w.execute(\"'leased'\")")
    assert causes(fresh_notebook) == {
        "'magic'": {"one"},
        "'code'": {"two"},
        "divmod()": {"three"},
        "'no id'": {None},
        "": {"four"},  # the lease
        "'leased'": {"four"},
    }


def test_what_goes_on_behind_a_cell_is_that_cells(fresh_notebook: Notebook) -> None:
    run(fresh_notebook, "starting", "%pool_start --size 1;")
    run(fresh_notebook, "sweep", "%%pool_exec --each n=range(3)\nn")
    run(fresh_notebook, "back", "%%pool_exec --bg job --each n=range(5) --max 1\n'bg', n")
    run(fresh_notebook, "waiting", "%pool_wait job")
    run(
        fresh_notebook,
        "task",
        "import asyncio\nfrom jupyter_pool import get_pool\n"
        "async def later():\n"
        "    await began.wait()\n"
        "    get_pool().execute(\"'task'\")\n"
        "began = asyncio.Event()\n"
        "later = asyncio.ensure_future(later())",
    )
    run(fresh_notebook, "other", "began.set()\nawait later")
    assert causes(fresh_notebook) == {"n": {"sweep"}, "'bg', n": {"back"}, "'task'": {"task"}}


def test_code_that_runs_inside_of_a_cell_is_that_cells(fresh_notebook: Notebook) -> None:
    run(fresh_notebook, "starting", "%pool_start --size 1;")
    run(
        fresh_notebook,
        "outer",
        "from jupyter_pool import get_pool\n"
        "get_ipython().run_cell('1 + 1');\nget_pool().execute(\"'after'\");",
    )
    assert causes(fresh_notebook) == {"'after'": {"outer"}}


def test_the_cell_that_loads_the_extension_is_one_too(fresh_notebook: Notebook) -> None:
    run(fresh_notebook, "unloading", "%unload_ext jupyter_pool")
    run(
        fresh_notebook,
        "loading",
        "%load_ext jupyter_pool\n%pool_start --size 1;\n"
        "import jupyter_pool\njupyter_pool.get_pool().execute(\"'at once'\");",
    )
    assert causes(fresh_notebook) == {"'at once'": {"loading"}}


def test_unloading_notes_nothing_any_more(fresh_notebook: Notebook) -> None:
    run(fresh_notebook, "unloading", "%unload_ext jupyter_pool")
    run(
        fresh_notebook,
        "later",
        "import jupyter_pool\npool = jupyter_pool.KernelPool(name='default', size=1)\n"
        "pool.execute(\"'unknown'\");",
    )
    assert causes(fresh_notebook) == {"'unknown'": {None}}
    run(fresh_notebook, "closing", "pool.close()")
