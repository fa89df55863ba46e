"""What people see below their cells, by the rules of the front end they use, over a real kernel.

Models of the rules by which front ends turn a kernel's messages into outputs, and real nbclient. The
rules were read in these sources (only rules; no code is theirs):

- VS Code: microsoft/vscode-jupyter, ``src/kernels/execution/cellExecution.ts`` (what a request is like;
  the next cell is sent when the one before has ended), ``cellExecutionMessageHandler.ts`` (which
  messages a cell takes, also after its end: those whose parent is its own request, or a message of one
  of its widgets), ``cellDisplayIdTracker.ts`` (one output for each display id, the latest).
- JupyterLab, and Notebook 7 which is made of the same parts: jupyterlab/jupyterlab,
  ``packages/cells/src/widget.ts`` (what a request is like), ``packages/outputarea/src/widget.ts`` (an
  update of an output whose MIME type stays is given to the renderer that is there),
  ``packages/services/src/kernel/default.ts`` (display ids across cells; a comm that nobody knows is
  closed); jupyter-widgets/ipywidgets, ``python/jupyterlab_widgets/src/renderer.ts`` (which then builds a
  second view).
"""

from __future__ import annotations

import asyncio
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty
from typing import Any
from uuid import uuid4

import nbclient
import nbformat

from support.cells import joined
from support.own_kernel import DEADLINE, OwnKernel

__all__ = ["Cell", "FrontEnd", "JupyterLab", "Model", "NbClient", "VSCode"]

WIDGET = "application/vnd.jupyter.widget-view+json"

Message = dict[str, Any]
Output = dict[str, Any]


@dataclass(eq=False)
class Cell:
    """A cell, and what is below it."""

    request: str
    outputs: list[Output] = field(default_factory=list)
    #: ``execute_reply``; empty until it has come.
    reply: dict[str, Any] = field(default_factory=dict)
    idle: bool = False
    clear_before_next: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.reply) and self.idle


class FrontEnd(ABC):
    """A notebook in some front end."""

    #: Whether it shows widgets, and whether there is somebody to answer `input()`.
    widgets = True
    has_people = True

    @abstractmethod
    def start(self, code: str) -> Cell:
        """Have a cell run."""

    @abstractmethod
    def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Go on until this is so."""

    @abstractmethod
    def outputs(self, cell: Cell) -> list[Output]:
        """What is below a cell, in the notebook format."""

    @abstractmethod
    def close(self) -> None:
        """End the kernel."""

    def run(self, code: str) -> Cell:
        """Have a cell run, to its end."""
        cell = self.start(code)
        self.until(lambda: cell.ended, f"the end of {code!r}")
        return cell

    def shows(self, cell: Cell) -> str:
        """What is to be read below a cell, as text and HTML."""
        return "\n".join(self._text(output) for output in self.outputs(cell))

    def _text(self, output: Output) -> str:
        if output["output_type"] == "stream":
            return str(output["text"])
        if output["output_type"] == "error":
            return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(output["traceback"]))
        data = output["data"]
        if WIDGET in data and (state := self.model(data[WIDGET]["model_id"])) is not None:
            return self._of_widget(state)
        return str(data.get("text/html") or data.get("text/plain", ""))

    def model(self, _: str) -> dict[str, Any] | None:
        """The state of a widget that it can show."""
        return None

    def _of_widget(self, state: dict[str, Any]) -> str:
        told = [str(state["value"])] if isinstance(state.get("value"), str) else []
        if "pool_state" in state:
            told.append(repr(state["pool_state"]))
        for child in state.get("children", ()):
            found = self.model(child.removeprefix("IPY_MODEL_"))
            told.append(self._of_widget(found) if found is not None else "")
        return " ".join(told)


class Model(OwnKernel, FrontEnd):
    """A front end whose rules are in this file."""

    def __init__(self, *, widgets: bool = True) -> None:
        self.widgets = widgets
        self.cells: list[Cell] = []
        self.states: dict[str, dict[str, Any]] = {}
        #: What to answer `input()`, and the prompts that there were.
        self.answer = ""
        self.prompts: list[str] = []
        #: Views of widgets that were built a second time where the first one still was.
        self.rebuilt = 0
        super().__init__()

    def outputs(self, cell: Cell) -> list[Output]:
        return cell.outputs

    # -- what differs ------------------------------------------------------------------------

    def metadata(self) -> dict[str, Any]:
        """What goes along with a request to run a cell."""
        raise NotImplementedError

    def track(self, cell: Cell, output: Output, display_id: str) -> None:
        """A display with an id was shown."""
        raise NotImplementedError

    def update(self, message: Message) -> None:
        """``update_display_data`` has come."""
        raise NotImplementedError

    def comm_opened(self, content: dict[str, Any]) -> None:
        """A comm was opened by the kernel."""
        raise NotImplementedError

    # -- what does not -----------------------------------------------------------------------

    def start(self, code: str) -> Cell:
        request = self.send_cell(code, self.metadata(), allow_stdin=True, stop_on_error=False)
        cell = Cell(request)
        self.cells.append(cell)
        return cell

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"not within {DEADLINE:g} s: {what or condition}")
            for get, take in (
                (self.client.get_iopub_msg, self._take),
                (self.client.get_shell_msg, self._take_reply),
                (self.client.get_stdin_msg, self._take_question),
            ):
                self._read_all(get, take)

    @staticmethod
    def _read_all(get: Callable[..., Message], take: Callable[[Message], None]) -> None:
        while True:
            try:
                message = get(timeout=0.01)
            except Empty:
                return
            take(message)

    def model(self, comm: str) -> dict[str, Any] | None:
        return self.states.get(comm) if self.widgets else None

    def _cell(self, message: Message) -> Cell | None:
        request = message["parent_header"].get("msg_id")
        return next((cell for cell in self.cells if cell.request == request), None)

    def _take_reply(self, message: Message) -> None:
        cell = self._cell(message)
        if cell is not None and message["msg_type"] == "execute_reply":
            cell.reply = message["content"]

    def _take_question(self, message: Message) -> None:
        self.prompts.append(message["content"]["prompt"])
        self.client.input(self.answer)

    def _take(self, message: Message) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "comm_open":
            self.comm_opened(content)
        elif kind == "comm_msg":
            self._take_comm(content)
        elif kind == "comm_close":
            self.states.pop(content["comm_id"], None)
        elif kind == "update_display_data":
            self.update(message)
        elif (cell := self._cell(message)) is not None:
            self._take_output(cell, message)

    def _take_comm(self, content: dict[str, Any]) -> None:
        state = self.states.get(content["comm_id"])
        if state is not None and content["data"].get("method") == "update":
            state.update(content["data"]["state"])

    def _take_output(self, cell: Cell, message: Message) -> None:
        kind, content = message["msg_type"], message["content"]
        if kind == "status":
            cell.idle = content["execution_state"] == "idle"
        elif kind == "clear_output":
            cell.clear_before_next = content["wait"]
            if not content["wait"]:
                cell.outputs.clear()
        elif kind in ("stream", "display_data", "execute_result", "error"):
            if cell.clear_before_next:
                cell.clear_before_next = False
                cell.outputs.clear()
            last = cell.outputs[-1] if cell.outputs else {}
            if kind == "stream" and last.get("name") == content["name"]:
                last["text"] += content["text"]
                return
            output = dict(nbformat.v4.output_from_msg(message))
            cell.outputs.append(output)
            if display_id := content.get("transient", {}).get("display_id"):
                self.track(cell, output, display_id)
            self._build_view(output)

    def replace(self, output: Output, content: dict[str, Any]) -> None:
        """Show something else in an output's place."""
        before = output["data"].get(WIDGET)
        output["data"], output["metadata"] = content["data"], content["metadata"]
        if before is not None and WIDGET in content["data"] and self.widgets:
            self.rebuilt += 1

    def _build_view(self, output: Output) -> None:
        view = output.get("data", {}).get(WIDGET)
        state = self.model(view["model_id"]) if view is not None else None
        if view is None or state is None:
            return
        if state.get("_view_count") is not None:
            state["_view_count"] += 1
            changed = {"_view_count": state["_view_count"]}
            self.send(view["model_id"], {"method": "update", "state": changed, "buffer_paths": []})
        if "pool_state" in state:
            opened = {"type": "open", "view": uuid4().hex}
            self.send(view["model_id"], {"method": "custom", "content": opened})

    def send(self, comm: str, data: dict[str, Any]) -> None:
        """Send a comm message."""
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)


class VSCode(Model):
    """The model of VS Code."""

    def __init__(self, *, widgets: bool = True) -> None:
        self._by_id: dict[str, Output] = {}
        super().__init__(widgets=widgets)

    def start(self, code: str) -> Cell:
        if self.cells:
            before = self.cells[-1]
            self.until(lambda: before.ended, "the end of the cell before")
        return super().start(code)

    def metadata(self) -> dict[str, Any]:
        return {"cellId": f"vscode-notebook-cell:/home/me/a.ipynb#W{len(self.cells)}sZmlsZQ%3D%3D"}

    def track(self, _: Cell, output: Output, display_id: str) -> None:
        self._by_id[display_id] = output

    def update(self, message: Message) -> None:
        output = self._by_id.get(message["content"]["transient"]["display_id"])
        if self._cell(message) is not None and output is not None:
            self.replace(output, message["content"])

    def comm_opened(self, content: dict[str, Any]) -> None:
        # All comm messages are handed to the web view, whether or not anything renders there.
        self.states[content["comm_id"]] = dict(content["data"].get("state", {}))


class JupyterLab(Model):
    """The model of JupyterLab and Notebook 7, without `widgets`: no ipywidgets beside the server."""

    def __init__(self, *, widgets: bool = True) -> None:
        self._by_id: dict[str, list[Output]] = {}
        super().__init__(widgets=widgets)

    def metadata(self) -> dict[str, Any]:
        return {"cellId": str(uuid4()), "deletedCells": [], "recordTiming": False}

    def track(self, _: Cell, output: Output, display_id: str) -> None:
        shown = self._by_id.setdefault(display_id, [])
        for one in shown:
            self.replace(one, output)
        shown.append(output)

    def update(self, message: Message) -> None:
        content = message["content"]
        for output in self._by_id.get(content["transient"]["display_id"], ()):
            self.replace(output, content)

    def comm_opened(self, content: dict[str, Any]) -> None:
        if self.widgets and content["target_name"] == "jupyter.widget":
            self.states[content["comm_id"]] = dict(content["data"].get("state", {}))
        else:
            closed = {"comm_id": content["comm_id"], "data": {}}
            self.client.shell_channel.send(self.client.session.msg("comm_close", closed))


class NbClient(FrontEnd):
    """Real nbclient, as nbconvert and papermill use it: it reads messages only while cells run."""

    widgets = False
    has_people = False

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.notebook = nbformat.v4.new_notebook()
        self._client = nbclient.NotebookClient(
            self.notebook, kernel_name="python3", allow_errors=True, timeout=DEADLINE
        )
        self._kernel = self._client.async_setup_kernel()
        self._tasks: dict[Cell, asyncio.Task[Any]] = {}
        self._loop.run_until_complete(self._kernel.__aenter__())
        self._cells: dict[Cell, Any] = {}

    def close(self) -> None:
        self._loop.run_until_complete(self._kernel.__aexit__(None, None, None))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def start(self, code: str) -> Cell:
        for before, task in self._tasks.items():
            self._loop.run_until_complete(task)
            before.idle = True
        shown = nbformat.v4.new_code_cell(code)
        self.notebook.cells.append(shown)
        cell = Cell(shown["id"], reply={"status": "unknown"})
        self._cells[cell] = len(self.notebook.cells) - 1
        execution = self._client.async_execute_cell(shown, self._cells[cell])
        self._tasks[cell] = self._loop.create_task(execution)
        return cell

    def until(self, condition: Callable[[], object], what: str = "") -> None:
        async def wait() -> None:
            while not self._holds(condition):
                await asyncio.sleep(0.01)

        try:
            self._loop.run_until_complete(asyncio.wait_for(wait(), DEADLINE))
        except asyncio.TimeoutError:
            raise AssertionError(f"not within {DEADLINE:g} s: {what or condition}") from None

    def _holds(self, condition: Callable[[], object]) -> bool:
        for cell, task in self._tasks.items():
            cell.idle = task.done()
        return bool(condition())

    def outputs(self, cell: Cell) -> list[Output]:
        return joined(self.notebook.cells[self._cells[cell]].outputs)
