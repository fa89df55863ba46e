"""Widgets that a worker makes, as a front end sees and uses them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.notebook.front_end import DEADLINE, Message, Notebook, Run
from nbformat.v4 import output_from_msg

from support.cells import joined
from support.conditions import eventually

SLIDER = """
import ipywidgets as widgets
slider, label = widgets.IntSlider(), widgets.Label('start')
def moved(change):
    label.value = f"got {change['new']}"
slider.observe(moved, 'value')
display(slider, label)
"""


@dataclass
class Cell(Run):
    """What a cell gave, and the id of the request that ran it."""

    id: str = ""


class FrontEnd:
    """What JupyterLab does with comms."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook = notebook
        self.client = notebook.client
        #: All that was published and not been looked at by `run`.
        self.seen: list[Message] = []

    def run(self, code: str, *, cell_id: str | None = None) -> Cell:
        request = self.notebook.send_cell(code, {"cellId": cell_id} if cell_id else None)
        run = self.notebook.result(request)
        assert run.status == "ok", "\n".join(run.reply.get("traceback", []))
        return Cell(run.reply, run.messages, request)

    def send(
        self, comm_id: str, data: Any, buffers: Any = None, kind: str = "comm_msg", **header: Any
    ) -> str:
        content = {"comm_id": comm_id, "data": data}
        message = self.client.session.msg(kind, content)
        message["header"].update(header)
        stream = self.client.shell_channel.socket
        self.client.session.send(stream, message, buffers=buffers)
        return str(message["header"]["msg_id"])

    def set(self, comm_id: str, **state: Any) -> str:
        return self.send(comm_id, {"method": "update", "state": state, "buffer_paths": []})

    def until(self, condition: Callable[[Message], object]) -> Message:
        """The first message from now on for which the condition holds; the others are in `seen`."""
        while True:
            message: Message = self.client.get_iopub_msg(timeout=DEADLINE)
            self.seen.append(message)
            if condition(message):
                return message

    def until_state(self, comm_id: str, **state: Any) -> Message:
        def matches(message: Message) -> bool:
            content = message["content"]
            if message["msg_type"] != "comm_msg" or content["comm_id"] != comm_id:
                return False
            told = content["data"].get("state", {})
            return all(told.get(name) == value for name, value in state.items())

        return self.until(matches)

    def until_idle(self, request: str) -> None:
        self.until(
            lambda m: (
                m["parent_header"].get("msg_id") == request
                and m["content"].get("execution_state") == "idle"
            )
        )

    def states(self) -> dict[str, Any]:
        """What a page that is loaded anew asks for."""
        control = "c" * 32
        opened = self.client.session.msg(
            "comm_open",
            {"comm_id": control, "target_name": "jupyter.widget.control", "data": {}},
            metadata={"version": "1.0.0"},
        )
        self.client.shell_channel.send(opened)
        self.send(control, {"method": "request_states"})
        answer = self.until(
            lambda m: m["msg_type"] == "comm_msg" and m["content"]["comm_id"] == control
        )
        self.send(control, {}, kind="comm_close")
        assert answer["content"]["data"]["method"] == "update_states"
        return dict(answer["content"]["data"]["states"])


def opened(run: Run, model: str) -> str:
    """The id of the one widget of that kind that a cell has made."""
    (found,) = (
        m["content"]["comm_id"]
        for m in run.messages
        if m["msg_type"] == "comm_open"
        and m["content"]["data"].get("state", {}).get("_model_name") == model
    )
    return str(found)


def text(message: Message) -> str:
    return str(message["content"].get("data", {}).get("text/plain", ""))


@pytest.fixture
def lab(notebook: Notebook) -> Iterator[FrontEnd]:
    """The shared notebook; at the end nothing is held."""
    yield FrontEnd(notebook)
    notebook.ok(
        "get_ipython().magics_manager.registry['PoolMagics'].holds.end_all()\n"
        "import jupyter_pool, time\npool = jupyter_pool.get_pool('default')\n"
        "while any(worker.state != 'idle' for worker in pool.get_status().workers):\n"
        "    time.sleep(0.01)"
    )


@pytest.fixture
def own(fresh_notebook: Notebook) -> FrontEnd:
    """A notebook of the test's own, with one worker."""
    fresh_notebook.ok("%pool_start --size 1;")
    return FrontEnd(fresh_notebook)


# -- from the worker -------------------------------------------------------------------------------


def test_a_widget_arrives_as_its_worker_sent_it(lab: FrontEnd) -> None:
    run = lab.run("%%pool_exec\nimport ipywidgets\nipywidgets.Image(value=b'\\x89PNG!')")
    (image,) = (
        m
        for m in run.messages
        if m["msg_type"] == "comm_open"
        and m["content"]["data"]["state"]["_model_name"] == "ImageModel"
    )
    assert image["content"]["target_name"] == "jupyter.widget"
    assert image["metadata"]["version"].startswith("2.")
    assert image["content"]["data"]["buffer_paths"] == [["value"]]
    assert [bytes(buffer) for buffer in image["buffers"]] == [b"\x89PNG!"]
    assert image["parent_header"]["msg_id"] == run.id
    (value,) = run.of("execute_result")
    view = value["data"]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == image["content"]["comm_id"]
    assert run.kinds.index("comm_open") < run.kinds.index("execute_result")


def test_a_progress_bar_ends_full(lab: FrontEnd) -> None:
    run = lab.run("%%pool_exec\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(30)): pass")
    bar = opened(run, "FloatProgressModel")
    told = [c["data"]["state"] for c in run.of("comm_msg") if c["comm_id"] == bar]
    assert told[-1]["bar_style"] == "success"
    assert {"value": 30.0} in [{k: v for k, v in state.items() if k == "value"} for state in told]
    assert run.stream("stderr") == ""


def test_a_closed_widget_is_closed_and_not_listed(lab: FrontEnd) -> None:
    run = lab.run("%%pool_exec\nimport ipywidgets\nipywidgets.Label('x').close()")
    label = opened(run, "LabelModel")
    assert label in [content["comm_id"] for content in run.of("comm_close")]
    assert label not in lab.notebook.ask("comm_info_request", {})["comms"]


def test_a_quiet_cell_shows_no_widgets(lab: FrontEnd) -> None:
    assert lab.run(f"%%pool_exec -q\n{SLIDER}").kinds == []


def test_a_call_shows_its_widgets_in_the_cell_that_made_it(lab: FrontEnd) -> None:
    run = lab.run(
        "def steps():\n    from tqdm.notebook import tqdm\n    for _ in tqdm(range(3)): pass\n"
        "import jupyter_pool\njupyter_pool.get_pool('default').submit(steps).result()\n"
        "import time\ntime.sleep(0)"
    )
    seen = [*run.messages, *lab.seen]
    if not any(m["msg_type"] == "display_data" for m in seen):
        seen.append(lab.until(lambda m: m["msg_type"] == "display_data"))
        seen = [*run.messages, *lab.seen]
    (shown,) = (m for m in seen if m["msg_type"] == "display_data")
    model = shown["content"]["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert model in [m["content"]["comm_id"] for m in seen if m["msg_type"] == "comm_open"]
    assert shown["parent_header"]["msg_id"] == run.id


def test_a_reset_leaves_no_widget_and_closes_none(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec\n{SLIDER}")
    assert "comm_close" not in run.kinds
    again = own.run(
        "%%pool_exec\nimport comm, gc, ipywidgets\ngc.collect()\n"
        "print(len(comm.get_comm_manager().comms), len(ipywidgets.Widget.widgets))"
    )
    assert again.stream("stdout") == "0 0\n"
    assert set(again.kinds) == {"stream"}


# -- to the worker and back ------------------------------------------------------------------------


def test_messages_of_any_comm_go_both_ways_with_buffers(lab: FrontEnd) -> None:
    run = lab.run(
        "%%pool_exec --hold 1h\nfrom comm import create_comm\n"
        "echo = create_comm('anything', data='hello', metadata={'m': 1}, buffers=[b'first'])\n"
        "echo.on_msg(lambda m: echo.send([m['content']['data']], {'n': 2},"
        " [bytes(b)[::-1] for b in m['buffers']]))"
    )
    (opening,) = (m for m in run.messages if m["msg_type"] == "comm_open")
    assert opening["content"]["data"] == "hello"
    assert opening["metadata"] == {"m": 1}
    assert [bytes(b) for b in opening["buffers"]] == [b"first"]
    comm_id = opening["content"]["comm_id"]
    request = lab.send(comm_id, "ping", [b"abc", b"\x00\xff"])
    answer = lab.until(lambda m: m["msg_type"] == "comm_msg")
    assert answer["content"] == {"comm_id": comm_id, "data": ["ping"]}
    assert answer["metadata"] == {"n": 2}
    assert [bytes(b) for b in answer["buffers"]] == [b"cba", b"\xff\x00"]
    assert answer["parent_header"]["msg_id"] == request


def test_a_moved_slider_runs_its_callback_in_the_worker(lab: FrontEnd) -> None:
    run = lab.run(f"%%pool_exec --hold 1h\n{SLIDER}")
    slider, label = opened(run, "IntSliderModel"), opened(run, "LabelModel")
    for value in (3, 4):
        request = lab.set(slider, value=value)
        echo = lab.until_state(slider, value=value)
        # Front ends take an echo for theirs by its parent.
        assert echo["content"]["data"]["method"] == "echo_update"
        assert echo["parent_header"]["msg_id"] == request
        lab.until_state(label, value=f"got {value}")


def test_what_a_callback_prints_and_raises_is_shown_in_its_cell(
    lab: FrontEnd, tmp_path: Path
) -> None:
    came, captures, gate = (tmp_path / name for name in ("came", "captures", "gate"))
    run = lab.run(
        "%%pool_exec --hold 1h\nimport ipywidgets, os, time\nbutton = ipywidgets.Button()\n"
        f"def clicked(_):\n    open({str(came)!r}, 'w').close()\n"
        f"    while not os.path.exists({str(captures)!r}): time.sleep(0.01)\n"
        "    print('clicked')\n    display('shown')\n    1 / 0\n"
        "button.on_click(clicked)\ndisplay(button)"
    )
    with lab.notebook.subshell() as subshell:
        try:
            # ipykernel 7.4 loses what comes to a subshell while a cell captures; so it comes before.
            click = {"method": "custom", "content": {"event": "click"}}
            lab.send(opened(run, "ButtonModel"), click, subshell_id=subshell)
            eventually(came.exists)
            # Another cell, whose outputs are captured meanwhile.
            other = lab.notebook.send(
                "%%capture captured\nimport os, time\nprint('mine')\n"
                f"open({str(captures)!r}, 'w').close()\n"
                f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
            )
            error = lab.until(lambda m: m["msg_type"] == "error")
        finally:
            captures.touch()
            gate.touch()
        lab.notebook.result(other)
    assert error["content"]["ename"] == "ZeroDivisionError"
    mine = [m for m in lab.seen if m["parent_header"].get("msg_id") == run.id]
    shown = joined(output_from_msg(m) for m in mine)
    assert [output["output_type"] for output in shown] == ["stream", "display_data", "error"]
    assert shown[0]["text"] == "clicked\n"
    assert lab.run("captured.stdout, captured.outputs").text == "('mine\\n', [])"


def test_what_background_tasks_of_a_held_cell_show_arrives(lab: FrontEnd) -> None:
    run = lab.run(
        "%%pool_exec --hold 1h\nimport asyncio, ipywidgets\nlabel = ipywidgets.Label('before')\n"
        "async def later():\n    await asyncio.sleep(0)\n    label.value = 'after'\n"
        "    print('done')\ntask = asyncio.ensure_future(later())\ndisplay(label)"
    )
    label = opened(run, "LabelModel")
    seen = [m["content"] for m in run.messages if m["msg_type"] == "comm_msg"]
    if not seen:
        lab.until_state(label, value="after")
    printed = run.stream("stdout")
    while printed != "done\n":
        piece = lab.until(lambda m: m["msg_type"] == "stream")
        assert piece["parent_header"]["msg_id"] == run.id
        printed += piece["content"]["text"]


def test_while_a_callback_runs_only_the_newest_state_waits(lab: FrontEnd, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    run = lab.run(
        "%%pool_exec --hold 1h\nimport ipywidgets, os, time\nslider = ipywidgets.IntSlider()\n"
        "label = ipywidgets.Label()\ncalled = []\n"
        "def moved(change):\n    called.append(change['new'])\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "    label.value = repr(called)\n"
        "slider.observe(moved, 'value')\ndisplay(slider, label)"
    )
    slider, label = opened(run, "IntSliderModel"), opened(run, "LabelModel")
    for value in range(1, 10):
        lab.until_idle(lab.set(slider, value=value))  # of the notebook's kernel, which is free
    gate.touch()
    lab.until_state(label, value="[1, 9]")


def test_a_cell_that_awaits_is_answered_without_hold(lab: FrontEnd) -> None:
    with lab.notebook.subshell() as subshell:
        cell = lab.notebook.send(
            "%%pool_exec\nimport asyncio, ipywidgets\nslider = ipywidgets.IntSlider()\n"
            "moved = asyncio.get_running_loop().create_future()\n"
            "slider.observe(lambda change: moved.set_result(change['new']), 'value')\n"
            "display(slider)\nprint('moved to', await asyncio.wait_for(moved, 50))"
        )
        shown = lab.until(lambda m: m["msg_type"] == "display_data")
        slider = shown["content"]["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        update = {"method": "update", "state": {"value": 8}, "buffer_paths": []}
        lab.send(slider, update, subshell_id=subshell)
        run = lab.notebook.result(cell)
    assert run.stream("stdout") == "moved to 8\n"
    # It had its answer, so nobody is told to hold the cell.
    assert not any("moved on" in text(m) for m in run.messages)


def test_widgets_are_answered_while_another_cell_captures_its_output(
    lab: FrontEnd, tmp_path: Path
) -> None:
    run = lab.run(f"%%pool_exec --hold 1h\n{SLIDER}")
    slider, label = opened(run, "IntSliderModel"), opened(run, "LabelModel")
    gate = str(tmp_path / "gate")
    with lab.notebook.subshell() as subshell:
        cell = lab.notebook.send(
            "%%capture caught\nimport os, sys, time\nsys.__stdout__.flush()\n"
            f"open({gate + ' began'!r}, 'w').close()\n"
            f"while not os.path.exists({gate!r}): time.sleep(0.01)\nprint('mine')"
        )
        eventually(lambda: os.path.exists(f"{gate} began"), "it captures")
        update = {"method": "update", "state": {"value": 8}, "buffer_paths": []}
        lab.send(slider, update, subshell_id=subshell)
        lab.until_state(label, value="got 8")
        Path(gate).touch()
        assert lab.notebook.result(cell).status == "ok"
    assert lab.run("caught.stdout, caught.stderr, caught.outputs").text == r"('mine\n', '', [])"


def test_a_callback_updates_the_display_of_its_own_cell(lab: FrontEnd) -> None:
    code = (
        "%%pool_exec --hold 1h\nimport ipywidgets\nbutton = ipywidgets.Button()\n"
        "display(button)\nshown = display('before', display_id='same')\n"
        "button.on_click(lambda _: shown.update('after'))"
    )
    runs = [lab.run(code) for _ in range(2)]
    ids = [run.of("display_data")[-1]["transient"]["display_id"] for run in runs]
    assert ids[0] != ids[1]
    for run, display_id in zip(runs, ids, strict=True):
        lab.send(opened(run, "ButtonModel"), {"method": "custom", "content": {"event": "click"}})
        update = lab.until(lambda m: m["msg_type"] == "update_display_data")
        assert update["content"]["transient"]["display_id"] == display_id
        assert update["parent_header"]["msg_id"] == run.id


def test_who_waits_is_told_of_held_workers(own: FrontEnd) -> None:
    own.run(f"%%pool_exec --hold 3s\n{SLIDER}")
    run = own.run("%%pool_exec\nprint('had to wait')")
    notices = [text(m) for m in run.messages if m["msg_type"] == "update_display_data"]
    assert any("1 of them held for widgets (--hold)" in notice for notice in notices), notices


# -- Output widgets --------------------------------------------------------------------------------


def test_an_output_widget_shows_what_it_captures_and_the_cell_the_rest(lab: FrontEnd) -> None:
    run = lab.run(
        "%%pool_exec\nimport ipywidgets\nouter, inner = ipywidgets.Output(), ipywidgets.Output()\n"
        "print('before')\nwith outer:\n    print('a')\n    with inner:\n        print('b')\n"
        "        display('c', display_id='d')\n    print('e')\n"
        "display('f', display_id='d', update=True)\nprint('after')\n"
        "with inner:\n    1 / 0\nprint(outer.comm.comm_id, inner.comm.comm_id)"
    )
    *printed, ids = run.stream("stdout").splitlines()
    assert printed == ["before", "after"]
    outer, inner = ids.split()
    states = lab.states()
    assert states[outer]["state"]["outputs"] == [
        {"output_type": "stream", "name": "stdout", "text": "a\ne\n"}
    ]
    first, second, third = states[inner]["state"]["outputs"]
    assert first == {"output_type": "stream", "name": "stdout", "text": "b\n"}
    assert second["data"]["text/plain"] == "'f'"
    assert third["ename"] == "ZeroDivisionError"
    # The front end is told what is in it, and need not capture anything.
    told = [c["data"]["state"] for c in run.of("comm_msg") if c["comm_id"] == outer]
    assert told[-1]["outputs"][0]["text"] == "a\ne\n"
    assert not any("msg_id" in state for state in told)


def test_clearing_an_output_widget_clears_only_that(lab: FrontEnd) -> None:
    run = lab.run(
        "%%pool_exec\nimport ipywidgets\nfrom IPython.display import clear_output\n"
        "out = ipywidgets.Output()\nprint('stays')\n"
        "for i in range(5):\n    with out:\n        clear_output(wait=True)\n        print('step', i)"
    )
    assert "clear_output" not in run.kinds
    assert run.stream("stdout") == "stays\n"
    out = opened(run, "OutputModel")
    assert [o["text"] for o in lab.states()[out]["state"]["outputs"]] == ["step 4\n"]


def test_outputs_of_two_cells_at_once_do_not_mix(lab: FrontEnd) -> None:
    code = (
        "%%pool_exec --hold 1h\nimport ipywidgets\nout, button = ipywidgets.Output(), "
        "ipywidgets.Button()\ndef clicked(_):\n    for i in range(20):\n"
        "        print('{0}', i)\n        with out: print('{0} captured', i)\n    print('{0} end')\n"
        "button.on_click(clicked)\ndisplay(button, out)"
    )
    runs = {name: lab.run(code.replace("{0}", name)) for name in ("left", "right")}
    for run in runs.values():
        lab.send(opened(run, "ButtonModel"), {"method": "custom", "content": {"event": "click"}})

    def printed(name: str) -> str:
        mine = [m for m in lab.seen if m["parent_header"].get("msg_id") == runs[name].id]
        return "".join(m["content"]["text"] for m in mine if m["msg_type"] == "stream")

    lab.until(lambda _: all(f"{name} end" in printed(name) for name in runs))
    states = lab.states()
    for name, run in runs.items():
        lines = [f"{name} {i}\n" for i in range(20)]
        assert printed(name) == "".join([*lines, f"{name} end\n"])
        (output,) = states[opened(run, "OutputModel")]["state"]["outputs"]
        assert output["text"] == "".join(f"{name} captured {i}\n" for i in range(20))


# -- a page that is loaded anew --------------------------------------------------------------------


def test_all_widgets_are_there_for_a_new_page_with_their_last_state(lab: FrontEnd) -> None:
    run = lab.run(f"%%pool_exec --hold 1h\n{SLIDER}\ndisplay(widgets.Image(value=b'PNG'))")
    lab.run("import ipywidgets\nmine = ipywidgets.Label('of the notebook itself')")
    slider, label = opened(run, "IntSliderModel"), opened(run, "LabelModel")
    lab.set(slider, value=5)
    lab.until_state(label, value="got 5")
    listed = lab.notebook.ask("comm_info_request", {"target_name": "jupyter.widget"})["comms"]
    assert {slider, label, opened(run, "ImageModel")} <= listed.keys()
    states = lab.states()
    assert states[slider]["state"]["value"] == 5
    assert states[label]["state"]["value"] == "got 5"
    assert states[label]["model_name"] == "LabelModel"
    assert "of the notebook itself" in [s["state"].get("value") for s in states.values()]
    # As a front end asks that does not know of the other way.
    lab.send(opened(run, "ImageModel"), {"method": "request_state"})
    answer = lab.until(lambda m: m["msg_type"] == "comm_msg")
    assert answer["content"]["data"]["buffer_paths"] == [["value"]]
    assert [bytes(b) for b in answer["buffers"]] == [b"PNG"]


# -- the end of a hold -----------------------------------------------------------------------------


def told_once(lab: FrontEnd, slider: str, cell: str) -> str:
    """Use a widget twice; the one notice that the cell shows."""
    lab.set(slider, value=6)
    notice = lab.until(lambda m: "last state" in text(m))
    assert notice["parent_header"]["msg_id"] == cell
    before = len(lab.seen)
    lab.until_idle(lab.set(slider, value=7))
    lab.run("None")
    assert not any("last state" in text(m) for m in lab.seen[before:])
    return text(notice)


def test_without_hold_a_widget_says_once_that_its_worker_has_moved_on(lab: FrontEnd) -> None:
    run = lab.run(f"%%pool_exec\n{SLIDER}")
    slider = opened(run, "IntSliderModel")
    # What views send by themselves is no use of it.
    lab.until_idle(lab.set(slider, _view_count=1))
    assert not any("last state" in text(m) for m in lab.seen)
    assert "--hold 10m" in told_once(lab, slider, run.id)
    assert lab.states()[slider]["state"]["value"] == 7


def test_a_hold_ends_when_its_time_is_over(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec --hold 1s -s held\n{SLIDER}")
    # With one worker, this waits for it.
    assert own.run("%%pool_exec\nprint('free')").stream("stdout") == "free\n"
    assert "moved on" in told_once(own, opened(run, "IntSliderModel"), run.id)
    sessions = own.run(
        "import jupyter_pool\nprint(jupyter_pool.get_pool('default').sessions['held'].requests)"
    )
    assert sessions.stream("stdout") == "1\n"


def test_a_held_worker_is_counted_and_its_death_is_told_in_the_cell(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec --hold none\n{SLIDER}\nimport os\nprint(os.getpid())")
    status = own.run("import jupyter_pool\njupyter_pool.get_pool('default').get_status()")
    assert "leased: 1" in status.text
    os.kill(int(run.stream("stdout")), signal.SIGKILL)
    notice = own.until(lambda m: "last state" in text(m))
    assert "was killed (SIGKILL" in text(notice)
    assert notice["parent_header"]["msg_id"] == run.id
    before = len(own.seen)
    own.until_idle(own.set(opened(run, "IntSliderModel"), value=6))
    own.run("None")
    assert not any("last state" in text(m) for m in own.seen[before:])


def test_stopping_the_pool_ends_a_hold_without_limit(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec --hold none\n{SLIDER}")
    own.run("%pool_stop")
    assert "moved on" in told_once(own, opened(run, "IntSliderModel"), run.id)


def test_cancelling_the_lease_ends_the_hold(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec --hold none\n{SLIDER}")
    own.run(
        "import jupyter_pool\npool = jupyter_pool.get_pool('default')\n"
        "(worker,) = pool.get_status().workers\npool.cancel(worker.request_id)"
    )
    own.run("%%pool_exec\nNone")  # has got the worker
    assert "moved on" in told_once(own, opened(run, "IntSliderModel"), run.id)


def test_running_a_cell_again_ends_what_it_held(own: FrontEnd) -> None:
    own.run(f"%%pool_exec --hold none\n{SLIDER}", cell_id="a")
    again = own.run(f"%%pool_exec --hold none\n{SLIDER}", cell_id="a")  # with the one worker
    own.set(opened(again, "IntSliderModel"), value=2)
    own.until_state(opened(again, "LabelModel"), value="got 2")


def test_a_cell_that_fails_holds_nothing(own: FrontEnd) -> None:
    run = own.notebook.run(f"%%pool_exec --hold none\n{SLIDER}\n1/0")
    assert run.reply["ename"] == "ExecutionError"
    assert own.run("%%pool_exec\nprint('free')").stream("stdout") == "free\n"


def test_an_interrupted_cell_holds_nothing(own: FrontEnd) -> None:
    request = own.notebook.send(
        f"%%pool_exec --hold none\n{SLIDER}\nprint('now', flush=True)\nimport time\ntime.sleep(60)"
    )

    def interrupt(message: Message) -> None:
        if message["content"].get("text") == "now\n":
            own.notebook.manager.interrupt_kernel()

    run = own.notebook.result(request, until=interrupt)
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert own.run("%%pool_exec\nprint('free')").stream("stdout") == "free\n"


def test_a_kernel_ends_while_a_worker_is_held(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec --hold none\n{SLIDER}\nimport os\nprint(os.getpid())")
    pid = int(run.stream("stdout"))
    own.notebook.client.shutdown()
    eventually(lambda: not _runs(pid), within=30)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_states_of_cells_that_ended_long_ago_are_let_go(fresh_notebook: Notebook) -> None:
    lab = FrontEnd(fresh_notebook)
    lab.run("%pool_start --size 2;")
    held = lab.run(f"%%pool_exec --hold none\n{SLIDER}")
    cell = "import ipywidgets\nipywidgets.IntSlider()"
    lab.run(
        "from jupyter_pool.notebook import registry\nshell = get_ipython()\n"
        f"for _ in range(1000): shell.run_cell_magic('pool_exec', '--in none', {cell!r})"
    )
    # Each has made a slider, its layout and its style.
    count = "len(registry.registry_of(shell.kernel).comms)"
    assert lab.run(f"registry.MOST_COMMS - 3 <= {count} - 6 <= registry.MOST_COMMS").text == "True"
    known = lab.notebook.ask("comm_info_request", {"target_name": "jupyter.widget"})["comms"]
    slider, label = opened(held, "IntSliderModel"), opened(held, "LabelModel")
    assert {slider, label} <= known.keys()
    lab.set(slider, value=3)
    lab.until_state(label, value="got 3")
    last = lab.run(f"%%pool_exec\n{cell}")
    assert opened(last, "IntSliderModel") in lab.states()
    # By their size too.
    for _ in range(3):
        lab.run("%%pool_exec\nimport ipywidgets\nipywidgets.HTML('x' * 18_000_000)")
    assert lab.run(f"{count} - 6").text == "6"  # two of the three
    assert opened(last, "IntSliderModel") not in lab.states()


def test_unloading_takes_every_comm_away(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec --hold none\n{SLIDER}")
    own.run("%unload_ext jupyter_pool")
    assert (
        own.notebook.ask("comm_info_request", {})["comms"]
        .keys()
        .isdisjoint({opened(run, "IntSliderModel")})
    )
    assert own.states() == {}


# -- limits ----------------------------------------------------------------------------------------


def test_a_flood_of_a_widget_is_bounded_and_ends_with_its_last_state(lab: FrontEnd) -> None:
    run = lab.run(
        "%%pool_exec --output-limit 200kB\nimport ipywidgets\nlabel = ipywidgets.Label()\n"
        "display(label)\nfor i in range(5000): label.value = str(i)"
    )
    told = run.of("comm_msg")
    assert len(told) < 1000
    assert told[-1]["data"]["state"] == {"value": "4999"}
    assert run.stream("stderr") == ""


def test_widgets_that_are_left_out_are_said_to_be(lab: FrontEnd) -> None:
    run = lab.run(
        "%%pool_exec --output-limit 100kB\nimport ipywidgets\n"
        "made = [ipywidgets.Label(str(i)) for i in range(200)]"
    )
    assert run.kinds.count("comm_open") < 100
    assert "widgets end here for now: output_limit=100kB" in run.stream("stderr")


def test_each_callback_has_the_output_limit_of_its_cell(lab: FrontEnd) -> None:
    run = lab.run(
        "%%pool_exec --hold 1h --output-limit 20kB\nimport ipywidgets\n"
        "button = ipywidgets.Button()\ndef clicked(_):\n    print('x' * 100_000)\n"
        "    print('end')\nbutton.on_click(clicked)\ndisplay(button)"
    )
    for _ in range(2):
        lab.seen.clear()
        lab.send(opened(run, "ButtonModel"), {"method": "custom", "content": {"event": "click"}})
        lab.until(lambda m: m["content"].get("text", "").endswith("end\n"))
        printed = "".join(m["content"]["text"] for m in lab.seen if m["msg_type"] == "stream")
        assert "left out: output_limit=20kB" in printed
        assert len(printed) < 30_000
