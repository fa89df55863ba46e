"""Loading, waiting, unloading: what the extension does to a notebook beyond running cells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.notebook.front_end import Message, Notebook

_LOAD = """
import sys, threading
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
before = threading.active_count()
shell.run_line_magic("load_ext", "jupyter_pool")
assert threading.active_count() == before
for heavy in ("zmq", "ipykernel", "cloudpickle", "numpy", "ipywidgets"):
    assert heavy not in sys.modules, heavy
"""


def test_loading_starts_nothing_and_imports_nothing_heavy() -> None:
    """How long it takes: tests/benchmarks/test_load.py."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_loading_in_a_kernel_does_not_wait_for_the_engine(fresh_notebook: Notebook) -> None:
    fresh_notebook.ok("%load_ext jupyter_pool")
    run = fresh_notebook.ok(
        "import sys\n"
        "[m for m in ('jupyter_pool.core', 'jupyter_pool.engine.driver', 'anywidget')"
        " if m in sys.modules]"
    )
    assert run.text == "[]"


def test_loading_twice_and_reloading_change_nothing(fresh_notebook: Notebook) -> None:
    listing = "m = get_ipython().magics_manager\nsorted(n for t in m.magics.values() for n in t)"
    before = fresh_notebook.ok(listing).text
    fresh_notebook.ok("import jupyter_pool\njupyter_pool.load_ipython_extension(get_ipython())")
    fresh_notebook.ok("%load_ext jupyter_pool\n%reload_ext jupyter_pool")
    assert fresh_notebook.ok(listing).text == before
    assert fresh_notebook.ok("len(get_ipython().Completer.custom_matchers)").text == "1"
    assert fresh_notebook.ok("%%pool_exec\n40 + 2").text == "42"
    fresh_notebook.ok("import matplotlib_inline")  # the kernel still works


def test_unloading_removes_every_trace_and_only_the_own_pool(fresh_notebook: Notebook) -> None:
    run = fresh_notebook.ok
    run(
        "%unload_ext jupyter_pool\nimport jupyter_pool\nip = get_ipython()\n"
        "def trace():\n"
        "    m = ip.magics_manager\n"
        "    names = sorted((k, n) for k, t in m.magics.items() for n in t)\n"
        "    hooks = {k: len(v) for k, v in ip.events.callbacks.items()}\n"
        "    parts = sorted(type(c).__name__ for c in ip.configurables)\n"
        "    return names, sorted(m.registry), hooks, parts, len(ip.Completer.custom_matchers)\n"
        "before = trace()\n%load_ext jupyter_pool"
    )
    run("assert trace() != before")
    run("%pool_start --name mine --size 1;")
    assert run("%%pool_exec\n1").text == "1"
    assert run("jupyter_pool.list_pools()").text == "['default', 'mine']"
    run("%unload_ext jupyter_pool\nassert trace() == before")
    assert run("jupyter_pool.list_pools()").text == "['mine']"
    assert run("jupyter_pool.get_pool('mine').execute('2').data['text/plain']").text == "'2'"


def test_the_first_cell_starts_the_configured_pool(fresh_notebook: Notebook) -> None:
    run = fresh_notebook.ok
    run("import jupyter_pool\n%config PoolMagics.pool = 'mine'")
    assert run("%%pool_exec\n1").text == "1"
    assert run("jupyter_pool.list_pools()").text == "['mine']"
    assert run("%%pool_exec\n1").of("execute_result")[0]["metadata"]["jupyter_pool"]["pool"] == (
        "mine"
    )


def test_a_missing_pool_is_named_with_the_way_to_start_one(fresh_notebook: Notebook) -> None:
    run = fresh_notebook.run("%pool_status")
    assert run.stream("stderr") == (
        "UsageError: no pool is named 'default': there is none; %pool_start starts one\n"
    )


_BLOCKED = """
import jupyter_pool, os
gate = {gate!r}
blocker = jupyter_pool.get_pool("one").submit_code(
    "import os, time\\nwhile not os.path.exists(gate): time.sleep(0.01)", inputs={{"gate": gate}}
)
"""


def _blocked_run(notebook: Notebook, gate: Path, code: str) -> tuple[list[Message], list[str]]:
    """Run a cell whose worker only becomes free when the cell has said that it waits."""
    notebook.ok("%pool_start --name one --size 1;")
    notebook.ok(_BLOCKED.format(gate=str(gate)))
    texts: list[str] = []

    def open_gate(message: Message) -> None:
        if message["msg_type"] == "update_display_data":
            texts.append(message["content"]["data"].get("text/plain", ""))
            gate.touch()  # else nothing would ever end the waiting

    run = notebook.result(notebook.send(code), open_gate)
    assert run.status == "ok", run.reply
    notebook.ok("blocker.result()")
    notebook.ok("%pool_stop --pool one")
    return run.messages, texts


def test_waiting_is_shown_and_leaves_no_trace(fresh_notebook: Notebook, tmp_path: Path) -> None:
    messages, texts = _blocked_run(
        fresh_notebook, tmp_path / "gate", "%%pool_exec --pool one\n'done'"
    )
    kinds = [message["msg_type"] for message in messages]
    assert texts[0] == "Waiting for a worker: 1 busy, you are next."
    # Empty at first, for tools that compare displays and know no updates …
    assert kinds[0] == "display_data"
    assert messages[0]["content"]["data"] == {}
    # … and gone at the end, before the cell's own output.
    assert kinds[-2:] == ["clear_output", "execute_result"]
    assert messages[-2]["content"]["wait"] is False


def test_waiting_never_clears_what_the_cell_showed_before(
    fresh_notebook: Notebook, tmp_path: Path
) -> None:
    messages, texts = _blocked_run(
        fresh_notebook,
        tmp_path / "gate",
        "print('kept')\nvalue = %pool_exec --pool one 1 + 1\nprint(value)",
    )
    kinds = [message["msg_type"] for message in messages]
    assert "clear_output" not in kinds
    assert texts[0].startswith("Waiting for a worker")
    assert texts[-1] == ""
    streams = [m["content"]["text"] for m in messages if m["msg_type"] == "stream"]
    assert "".join(streams) == "kept\n2\n"


def test_waiting_is_not_captured(fresh_notebook: Notebook, tmp_path: Path) -> None:
    fresh_notebook.ok("%pool_start --name one --size 1;")
    gate = tmp_path / "gate"
    fresh_notebook.ok(_BLOCKED.format(gate=str(gate)))
    fresh_notebook.ok(
        "from jupyter_pool.notebook.waiting import WaitNotice\nshow = WaitNotice.__call__\n"
        "def show_and_go_on(self, info):\n    show(self, info)\n    open(gate, 'w').close()\n"
        "WaitNotice.__call__ = show_and_go_on"
    )
    run = fresh_notebook.ok("%%capture caught\n%%pool_exec --pool one\nprint('x')")
    assert run.kinds == []
    assert fresh_notebook.ok("caught.stdout, caught.stderr, caught.outputs").text == (
        "('x\\n', '', [])"
    )
    fresh_notebook.ok("blocker.result()\n%pool_stop --pool one")


def test_ctrl_c_while_waiting_takes_the_cell_out_of_the_queue(
    fresh_notebook: Notebook, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    fresh_notebook.ok("%pool_start --name one --size 1;")
    fresh_notebook.ok(_BLOCKED.format(gate=str(gate)))

    def interrupt(message: Message) -> None:
        if message["msg_type"] == "update_display_data" and message["content"]["data"]:
            fresh_notebook.manager.interrupt_kernel()

    request = fresh_notebook.send("%%pool_exec --pool one\nopen(gate + ' ran', 'w').close()")
    run = fresh_notebook.result(request, interrupt)
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert run.kinds[-2:] == ["clear_output", "error"]
    gate.touch()
    fresh_notebook.ok("blocker.result()")
    assert fresh_notebook.ok("%%pool_exec --pool one\n'next'").text == "'next'"
    assert not Path(f"{gate} ran").exists()


def test_cells_run_on_a_kernel_that_is_not_python(
    fresh_notebook: Notebook, bash_kernel: str
) -> None:
    fresh_notebook.ok(f"%pool_start --name sh --size 1 --kernel {bash_kernel};\necho = 1")
    run = fresh_notebook.ok("%%pool_exec --pool sh\necho hello from $BASH_VERSION | cut -c1-10")
    assert run.stream("stdout") == "hello from\n"
    fresh_notebook.ok("%pool_stop --pool sh")


def test_help_is_shown_for_every_magic(fresh_notebook: Notebook) -> None:
    run = fresh_notebook.run("%pool_exec?")
    (payload,) = run.reply["payload"]
    assert "--no-raise-error" in payload["data"]["text/plain"]
    assert "total = %pool_exec sum" in payload["data"]["text/plain"]


def test_tab_completes_in_a_notebook(fresh_notebook: Notebook) -> None:
    def complete(code: str) -> list[str]:
        client = fresh_notebook.client
        content = client.complete(code, len(code), reply=True, timeout=60)["content"]
        start, end = content["cursor_start"], content["cursor_end"]
        assert end == len(code)
        return [code[:start] + match for match in content["matches"]]

    assert complete("%%pool_exec --se") == ["%%pool_exec --seed", "%%pool_exec --session"]
    assert "%%pool_exec --pool default" in complete("%%pool_exec --pool d")
    assert "--session" not in "".join(complete("%%pool_exec\n--se"))
