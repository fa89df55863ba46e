"""`%%pool_exec --bg`: cells that go on when the notebook does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from integration.notebook.front_end import Notebook

from support.conditions import eventually, gone

if TYPE_CHECKING:
    from integration.notebook.front_end import Message, Run

WIDGET = "application/vnd.jupyter.widget-view+json"

#: A cell that says something, and goes on when a file is there.
_GATED = (
    "import os, time\nprint('started', flush=True)\n"
    "while not os.path.exists({gate!r}): time.sleep(0.01)\nprint('ended')\nfound = 3"
)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "go on"


def start(
    notebook: Notebook, gate: Path, options: str = "train", then: str = ""
) -> tuple[Run, Shown]:
    """Start a gated job; return its cell and the display that shows it."""
    code = _GATED.format(gate=os.fspath(gate))
    run = notebook.ok(f"%%pool_exec --bg {options}\n{code}\n{then}")
    (shown,) = run.of("display_data")
    return run, Shown(shown["transient"]["display_id"], shown["data"][WIDGET]["model_id"])


class Shown(NamedTuple):
    """How front ends find a job's display: by its id, and by its widget's."""

    id: str
    model: str


def await_display(notebook: Notebook, display: Shown, text: str, of: str = "") -> Message:
    """The first update of a display whose HTML has `text` in it. `of`: its message type."""
    while True:
        message = notebook.client.get_iopub_msg(timeout=60)
        content = message["content"]
        kind = message["msg_type"]
        if kind == "update_display_data" and content["transient"]["display_id"] == display.id:
            found = content["data"]["text/html"]
        elif kind == "comm_msg" and content["comm_id"] == display.model:
            found = content["data"]["state"]["value"]
        else:
            continue
        if text in found and of in ("", kind):
            return message


def await_start(notebook: Notebook, *names: str) -> None:
    """Wait until jobs have their workers: those may still be busy with what was before."""
    jobs = ", ".join(names)
    notebook.ok(
        f"import time\nwhile any(job.status == 'waiting' for job in [{jobs}]): time.sleep(0.01)"
    )


def end(notebook: Notebook, gate: Path, name: str = "train") -> None:
    gate.touch()
    notebook.ok(f"%pool_wait {name}")


def test_the_cell_returns_at_once_and_others_run_meanwhile(notebook: Notebook, gate: Path) -> None:
    run, _ = start(notebook, gate)
    assert re.match(
        r"\[train\] (waiting|running) · \d+ s", run.of("display_data")[0]["data"]["text/plain"]
    )
    assert notebook.ok("1 + 1").text == "2"
    assert notebook.ok("%%pool_exec\n'other'").text == "'other'"
    assert notebook.ok("train.done(), train.status").text == "(False, 'running')"
    end(notebook, gate)
    assert notebook.ok("train.done(), train.status").text == "(True, 'done')"


def test_its_output_is_live_in_its_own_cell_while_another_one_runs(
    notebook: Notebook, gate: Path, tmp_path: Path
) -> None:
    run, display = start(notebook, gate)
    busy = tmp_path / "busy"
    request = notebook.send(
        f"import os, time\nwhile not os.path.exists({os.fspath(busy)!r}): time.sleep(0.01)"
    )
    # Which a page that is loaded anew understands too.
    message = await_display(notebook, display, "started", "comm_msg")
    # Front ends find the cell by this.
    assert message["parent_header"]["msg_type"] == "execute_request"
    assert message["parent_header"]["msg_id"] != request
    gate.touch()
    await_display(notebook, display, "ended")
    busy.touch()
    assert notebook.result(request).messages == []
    end(notebook, gate)


def test_shown_anywhere_it_begins_at_the_start_and_goes_on_live(
    notebook: Notebook, gate: Path
) -> None:
    _, display = start(notebook, gate)
    await_display(notebook, display, "started")
    again = notebook.ok("train")
    (shown,) = again.of("display_data")
    # Of its own: VS Code keeps one output for each id.
    assert shown["transient"]["display_id"] != display.id
    assert shown["data"][WIDGET]["model_id"] == display.model
    assert "started" in shown["data"]["text/plain"]
    gate.touch()
    await_display(notebook, display, "ended")
    notebook.ok("%pool_wait")
    (late,) = notebook.ok("train").of("display_data")
    assert late["data"]["text/plain"].endswith("started\nended")
    assert late["data"]["text/plain"].startswith("[train] done")


def test_it_does_not_land_in_the_capture_of_another_cell(notebook: Notebook, gate: Path) -> None:
    _, display = start(notebook, gate)
    request = notebook.send(
        f"%%capture caught\nopen({os.fspath(gate)!r}, 'w').close()\ntrain.result()\nprint('mine')"
    )
    await_display(notebook, display, "ended")
    assert notebook.client.get_shell_msg(timeout=60)["parent_header"]["msg_id"] == request
    assert notebook.ok("caught.stdout, caught.outputs").text == "('mine\\n', [])"


def test_results_are_waited_for_by_result_and_await(notebook: Notebook, gate: Path) -> None:
    start(notebook, gate, "train --out found --as whole")
    late = notebook.run("train.result(timeout=0.01)")
    assert late.reply["ename"] == "TimeoutError"
    assert "it goes on" in late.reply["evalue"]
    gate.touch()
    assert notebook.ok("(await train).stdout").text == "'started\\nended\\n'"
    assert notebook.ok("found, whole.status").text == "(3, 'ok')"


def test_what_is_brought_back_is_there_from_the_next_cell_on(
    notebook: Notebook, gate: Path
) -> None:
    notebook.ok("found = None")
    _, display = start(notebook, gate, "train --out found")
    gate.touch()
    await_display(notebook, display, "done")
    assert notebook.ok("found").text == "3"
    notebook.ok("found = 4")
    assert notebook.ok("found").text == "4"


def test_a_line_in_the_background_is_its_value(notebook: Notebook) -> None:
    assert notebook.ok("job = %pool_exec --bg 6 * 7\njob.result()").text == "42"


def test_a_failure_is_told_once_before_the_next_cells_output(
    notebook: Notebook, gate: Path
) -> None:
    run, display = start(notebook, gate, "train", "raise ValueError('no data')")
    gate.touch()
    await_display(notebook, display, "failed")
    following = notebook.ok("print('next')")
    (told, printed) = following.of("stream")
    assert re.fullmatch(
        r"\[train\] failed \d+ s ago: ValueError: no data · train\.show\(\)\n", told["text"]
    )
    assert printed["text"] == "next\n"
    assert notebook.ok("1").kinds == ["execute_result"]
    shown = notebook.ok("train.show()").of("display_data")[0]["data"]["text/plain"]
    assert f"Cell In[{run.reply['execution_count']}], line 7" in shown
    assert notebook.run("train.result()").reply["evalue"] == "ValueError: no data"


def test_a_failure_that_was_seen_is_not_told_again(notebook: Notebook) -> None:
    notebook.ok("%%pool_exec --bg train\n1/0")
    assert notebook.run("train.result()").reply["ename"] == "ExecutionError"
    assert notebook.ok("1").kinds == ["execute_result"]


def test_the_notebooks_interrupt_stops_neither_a_job_nor_what_it_does(
    notebook: Notebook, gate: Path
) -> None:
    start(notebook, gate)
    await_start(notebook, "train")
    request = notebook.send("print('waiting', flush=True)\ntrain.result()")

    def interrupt(message: Message) -> None:
        if message["content"].get("text") == "waiting\n":
            notebook.manager.interrupt_kernel()

    assert notebook.result(request, interrupt).reply["ename"] == "KeyboardInterrupt"
    assert notebook.ok("train.status").text == "'running'"
    end(notebook, gate)
    assert notebook.ok("train.result().stdout").text == "'started\\nended\\n'"


def test_jobs_are_listed_waited_for_and_cancelled(notebook: Notebook, gate: Path) -> None:
    start(notebook, gate)
    start(notebook, gate, "other")
    start(notebook, gate, "third")  # two workers: it waits
    await_start(notebook, "train", "other")
    table = notebook.ok("%pool_jobs").text
    assert re.search(r"train +running +0 of 1", table)
    assert re.search(r"third +waiting +0 of 1", table)
    late = notebook.run("%pool_wait train other --timeout 0.01")
    assert late.reply["ename"] == "TimeoutError"
    assert late.reply["evalue"].startswith("still running after 0.01 s: train, other.")
    notebook.ok("%pool_cancel train")
    run = notebook.run("%pool_wait train")
    assert run.reply["ename"] == "Cancelled"
    assert notebook.ok("train.status, train.cancel()").text == "('cancelled', False)"
    notebook.ok("%pool_cancel --all")
    assert notebook.run("%pool_wait other third").reply["ename"] == "Cancelled"
    assert "jupyter_pool" not in "".join(notebook.run("other.result()").reply["traceback"])
    states = notebook.ok(
        "from jupyter_pool.notebook import jobs\n"
        "[(j['name'], j['state'], j['done'], j['total'], j['elapsed'] > 0)"
        " for j in jobs.snapshot()][-3:]"
    ).text
    assert re.findall(r"'(\w+)', '(\w+)', 0, 1, True", states) == [
        ("train", "cancelled"),
        ("other", "cancelled"),
        ("third", "cancelled"),
    ]


def test_names_are_taken_from_finished_jobs_only(notebook: Notebook, gate: Path) -> None:
    start(notebook, gate)
    taken = notebook.run("%%pool_exec --bg train\n1").stream("stderr")
    assert "a job of that name is running; %pool_cancel train stops it" in taken
    notebook.ok("precious = 1")
    assert "choose another" in notebook.run("%%pool_exec --bg precious\n1").stream("stderr")
    assert notebook.ok("precious").text == "1"
    end(notebook, gate)
    notebook.ok("%%pool_exec --bg train\n2")
    assert notebook.ok("train.result().data['text/plain']").text == "'2'"
    for code in ("%pool_cancel nobody", "%pool_wait nobody"):
        assert "no job is called 'nobody'; there are " in notebook.run(code).stream("stderr")
    assert "takes names of jobs, or --all" in notebook.run("%pool_cancel").stream("stderr")


def test_unnamed_jobs_are_numbered(fresh_notebook: Notebook) -> None:
    fresh_notebook.ok("%pool_start --size 1;\njob2 = 'mine'")
    for _ in range(2):
        fresh_notebook.ok("%%pool_exec --bg\n1")
    fresh_notebook.ok("%pool_wait")
    assert fresh_notebook.ok("job1.name, job2, job3.name").text == "('job1', 'mine', 'job3')"


def test_nothing_is_started_for_a_cell_that_cannot_be_sent(notebook: Notebook) -> None:
    run = notebook.run("import threading\nlock = threading.Lock()\n")
    run = notebook.run("%%pool_exec --bg unsent\nlock")
    assert run.reply["ename"] == "SerializationError"
    assert "'unsent'" not in notebook.ok("%pool_jobs").text
    assert notebook.ok("'unsent' in globals()").text == "False"


def test_asking_is_an_error_in_the_background(notebook: Notebook) -> None:
    notebook.ok("%%pool_exec --bg train\ninput('name? ')")
    run = notebook.run("train.result()")
    assert "StdinNotImplementedError: input() is not available" in run.reply["evalue"]


@pytest.fixture
def waiting_notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """One whose kernel waits for background cells."""
    monkeypatch.setenv("JUPYTER_POOL_BG", "wait")
    notebook = Notebook()
    try:
        notebook.ok("%load_ext jupyter_pool")
        notebook.ok("%pool_start --size 1;")
        yield notebook
    finally:
        notebook.close()


def test_runners_of_notebooks_wait_for_background_cells(waiting_notebook: Notebook) -> None:
    notebook = waiting_notebook
    run = notebook.ok("%%pool_exec --bg train --out x\nprint('hi')\nx = 1")
    assert run.kinds == ["display_data"]
    assert re.fullmatch(
        r"\[train\] done · \d+ s\nhi", run.of("display_data")[0]["data"]["text/plain"]
    )
    assert notebook.ok("x").text == "1"
    assert notebook.run("%%pool_exec --bg bad\n1/0").reply["ename"] == "ExecutionError"
    notebook.ok("%%pool_exec --bg bad --no-raise-error\n1/0")
    notebook.ok("import os\nos.environ['JUPYTER_POOL_BG'] = 'no'")
    assert "it takes wait, return" in notebook.run("%%pool_exec --bg x\n1").stream("stderr")


def test_a_restart_of_the_kernel_ends_its_jobs(fresh_notebook: Notebook, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    fresh_notebook.ok("%pool_start --size 1;")
    fresh_notebook.ok(
        "%%pool_exec --bg train\nimport os, time\n"
        f"open({os.fspath(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    worker = int(eventually(lambda: pid.exists() and pid.read_text(), "the job runs"))
    fresh_notebook.manager.restart_kernel()
    fresh_notebook.client.wait_for_ready(timeout=60)
    eventually(gone([worker]), "its worker is gone")


def await_message(notebook: Notebook, kind: str, where: Callable[[Any], object]) -> Message:
    """The next message of a kind whose content is so."""
    while True:
        message: Message = notebook.client.get_iopub_msg(timeout=60)
        if message["msg_type"] == kind and where(message["content"]):
            return message


def test_its_widgets_are_live_below_it_for_as_long_as_it_awaits(notebook: Notebook) -> None:
    run = notebook.ok(
        "%%pool_exec --bg sliding\n"
        "import asyncio, ipywidgets\n"
        "slider, moved = ipywidgets.IntSlider(), asyncio.Event()\n"
        "slider.observe(lambda change: moved.set(), 'value')\n"
        "display(slider)\nprint('ready', flush=True)\nawait moved.wait()\nprint('got', slider.value)"
    )
    client = notebook.client
    opened = [m for m in run.messages if m["msg_type"] == "comm_open"]
    slider = (
        next((m["content"]["comm_id"] for m in opened if "IntSlider" in str(m["content"])), None)
        or await_message(notebook, "comm_open", lambda content: "IntSlider" in str(content))[
            "content"
        ]["comm_id"]
    )
    # Wherever it is shown, its widgets are shown too.

    def shows(content: dict[str, Any]) -> bool:
        return bool(content["data"].get(WIDGET, {}).get("model_id") == slider)

    shown = next(filter(shows, run.of("display_data")), None)
    shown = shown or await_message(notebook, "display_data", shows)["content"]
    again = notebook.ok("sliding").of("display_data")
    assert [shows(content) for content in again] == [False, True]
    assert again[1]["transient"] == shown["transient"]
    assert "IntSlider" not in again[0]["data"]["text/html"]
    update = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": slider, "data": update}))
    assert notebook.ok("sliding.result().stdout").text == r"'ready\ngot 7\n'"
    notebook.ok("sliding.cancel()")


PLOT = "application/vnd.vegalite.v5+json"


def test_plots_are_displays_of_their_own_and_updated_and_cleared_as_such(
    notebook: Notebook, gate: Path
) -> None:
    gates = [os.fspath(gate.with_name(f"{gate.name} {n}")) for n in range(3)]
    plot = (
        "display({{'text/plain': 'plot', {0!r}: {{'n': {1}}}}}, raw=True, display_id='mine'{2})\n"
    )
    code = (
        "import os, time\nfrom IPython.display import clear_output\n"
        "def wait(gate):\n    while not os.path.exists(gate): time.sleep(0.01)\n"
        f"wait({gates[0]!r})\n"
        + plot.format(PLOT, 1, "")
        + f"print('text')\nwait({gates[1]!r})\n"
        + plot.format(PLOT, 2, ", update=True")
        + f"wait({gates[2]!r})\nclear_output(wait=True)\nprint('last')"
    )
    request = notebook.send(f"%%pool_exec --bg plots\n{code}")
    run = notebook.result(request)
    (handle,) = run.of("display_data")
    assert PLOT not in handle["data"]
    Path(gates[0]).touch()
    first = await_message(notebook, "display_data", lambda c: PLOT in c["data"])
    assert first["parent_header"]["msg_id"] == request
    ours = first["content"]["transient"]
    assert ours["display_id"] != "mine"  # which may be anybody's in the notebook
    Path(gates[1]).touch()
    updated = await_message(notebook, "update_display_data", lambda c: c["transient"] == ours)
    assert updated["content"]["data"][PLOT] == {"n": 2}
    Path(gates[2]).touch()
    cleared = await_message(notebook, "update_display_data", lambda c: c["transient"] == ours)
    assert cleared["content"]["data"] == {"text/html": "", "text/plain": ""}
    notebook.ok("%pool_wait plots")
    (shown,) = notebook.ok("plots").of("display_data")
    assert shown["data"]["text/plain"].endswith("s\nlast")


def test_unloading_leaves_no_widget_of_a_job_behind(fresh_notebook: Notebook) -> None:
    fresh_notebook.ok("%pool_start --size 1;\nmanager = get_ipython().kernel.comm_manager")
    fresh_notebook.ok("%%pool_exec --bg train\nimport time; time.sleep(600)")
    assert fresh_notebook.ok("len(manager.comms) > 0").text == "True"
    fresh_notebook.ok("%unload_ext jupyter_pool")
    assert fresh_notebook.ok("manager.comms").text == "{}"
