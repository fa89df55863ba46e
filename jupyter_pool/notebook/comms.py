"""Widgets of workers in the notebook: their comms, relayed both ways.

    worker ──comm_open, comm_msg──▶ CellComms ──▶ front ends (the same ids, the cell as parent)
    worker ◀──comm_msg── CellComms ◀── RelayedComm in the kernel's comm manager ◀── front ends

A front end talks to this notebook's kernel only, so each comm of a worker has a stand-in here. For
widgets it also keeps the model's state, as the front ends were told it. A page that is loaded anew
gets its widgets from that: at once, also while the worker is busy, and when it has moved on.

Messages for a worker go one at a time, the next when the worker is done with the last: meanwhile only
the newest state of each widget waits, so that a slider that is dragged does not leave a tail of
callbacks behind.

What an `Output` widget captures is put into its state here. A front end could do so only as long as it
knows the request that the output belongs to, which is over as soon as the message is on its way.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_pool.engine.comms import CommMessage
from jupyter_pool.engine.log import LOGGER
from jupyter_pool.outputs import OutputCollector

from .registry import Registry, registry_of

if TYPE_CHECKING:
    from jupyter_pool.engine.comms import CommRoute

    from .outlets import CellOutlet

__all__ = ["CellComms", "Model", "RelayedComm"]

Event = Mapping[str, Any]

_UPDATES = ("update", "echo_update")
#: Of so many messages to the worker it is remembered what they were an answer to.
_REMEMBERED = 256

_HOW_TO = "Next: run the cell with --hold 10m, which keeps its worker for the widgets that long."
_MOVED_ON = "This cell's worker has moved on: its widgets keep their last state."


def _data(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a comm message says; other things than widgets may send anything."""
    data = content.get("data")
    return data if isinstance(data, Mapping) else {}


class Model:
    """A widget's state, as the front ends know it, with its buffers in their places."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def apply(self, data: Mapping[str, Any], buffers: list[Any]) -> None:
        """Take in the state of a ``comm_open`` or an update."""
        from ipywidgets.widgets.widget import _put_buffers

        state = data.get("state") or {}
        if paths := data.get("buffer_paths"):
            state = copy.deepcopy(state)  # the message itself goes on to the front ends
            _put_buffers(state, paths, [bytes(buffer) for buffer in buffers])
        self.state.update(state)

    def update(self) -> tuple[dict[str, Any], list[Any]]:
        """All of it, as the data of an update and its buffers."""
        from ipywidgets.widgets.widget import _remove_buffers

        state, paths, buffers = _remove_buffers(self.state)
        return {"method": "update", "state": state, "buffer_paths": paths}, buffers


class RelayedComm:
    """Stands in the kernel's comm manager for a comm whose other end is in a worker."""

    def __init__(self, comm_id: str, target_name: str, cell: CellComms) -> None:
        self.comm_id = comm_id
        self.target_name = target_name
        self.cell = cell
        self.model = Model() if target_name == "jupyter.widget" else None
        #: Of an Output widget: what is in it.
        self.outputs = OutputCollector()
        #: Of an Output widget: the worker's request whose output it captures.
        self.captures = ""
        self._closed = False  # the comm manager sets it

    @property
    def is_output(self) -> bool:
        """Whether it is an Output widget."""
        return self.model is not None and self.model.state.get("_model_name") == "OutputModel"

    def handle_msg(self, msg: dict[str, Any]) -> None:
        """A front end's message, in any thread of the kernel."""
        self.cell.from_front_end(self, "comm_msg", msg)

    def handle_close(self, msg: dict[str, Any]) -> None:
        """A front end has closed it."""
        self.cell.from_front_end(self, "comm_close", msg)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A message of a front end that waits for the worker."""

    comm_id: str
    message: CommMessage
    #: As it came, to be the parent of what the worker says to it.
    request: dict[str, Any]

    @property
    def data(self) -> Mapping[str, Any]:
        return _data(self.message.content)

    @property
    def is_update(self) -> bool:
        return self.data.get("method") == "update"

    def replaces(self, earlier: _Waiting) -> bool:
        """Whether an earlier update of the same widget need not be sent any more."""
        return (
            self.is_update
            and earlier.is_update
            and (self.data.get("state") or {}).keys() >= (earlier.data.get("state") or {}).keys()
        )

    @property
    def is_somebodys(self) -> bool:
        """Whether a person may have done something: views also send private state by themselves."""
        if self.message.msg_type == "comm_close":
            return False
        names = (self.data.get("state") or {}) if self.is_update else {"": None}
        return any(not name.startswith("_") for name in names)


class CellComms:
    """The comms of one request.

    Parameters
    ----------
    outlet
        The cell that shows the widgets.
    wait
        Called before each message to the front ends, and returns when it may be sent.
    """

    def __init__(self, kernel: Any, outlet: CellOutlet, wait: Callable[[], None]) -> None:
        self._outlet = outlet
        self._wait = wait
        self._registry: Registry = registry_of(kernel)
        # Events come from one thread at a time, messages of front ends from any other.
        self._lock = threading.RLock()
        self._route: CommRoute | None = None
        self._queue: deque[_Waiting] = deque()
        self._in_flight: tuple[str, _Waiting] | None = None
        self._requests: OrderedDict[str, dict[str, Any]] = OrderedDict()
        #: By the worker's request: the Output widgets that capture it, the last one does.
        self._capturing: dict[str, list[RelayedComm]] = {}
        self._over: str | None = None
        self._said = False

    def connect(self, route: CommRoute) -> None:
        """Say how the worker is reached."""
        with self._lock:
            self._route = route

    def knows(self, model_id: object) -> bool:
        """Whether front ends know this widget."""
        return model_id in self._registry.comms

    # -- from the worker ---------------------------------------------------------------------

    def take(self, event: Event) -> bool:
        """Take in an event; False if it is an output that is to be shown."""
        kind = event["output_type"]
        if kind not in ("comm_open", "comm_msg", "comm_close", "idle"):
            return self._capture(event)
        if kind == "comm_msg":
            self._wait()
        with self._lock:
            if kind == "comm_open":
                self._opened(event)
            elif kind == "comm_msg":
                self._told(event)
            elif kind == "comm_close":
                self._registry.remove(str(event["content"].get("comm_id")))
                self._relay(event, event["content"])
            else:
                self._answered(event["parent"])
        return True

    def _opened(self, event: Event) -> None:
        content = event["content"]
        comm = RelayedComm(str(content["comm_id"]), str(content["target_name"]), self)
        if comm.model is not None:
            comm.model.apply(_data(content), event["buffers"])
        self._registry.add(comm)
        self._relay(event, content)

    def _told(self, event: Event) -> None:
        content = event["content"]
        comm = self._registry.comms.get(str(content.get("comm_id")))
        data = _data(content)
        if comm is not None and comm.model is not None and data.get("method") in _UPDATES:
            if comm.is_output:
                data = self._told_output(comm, data)
                if not data["state"]:
                    return
                content = {**content, "data": data}
            comm.model.apply(data, event["buffers"])
        self._relay(event, content)

    def _told_output(self, comm: RelayedComm, data: Mapping[str, Any]) -> dict[str, Any]:
        """What front ends need to know of an Output widget's update: not what it captures."""
        state = dict(data.get("state") or {})
        if "msg_id" in state:
            if comm.captures:
                self._capturing[comm.captures].remove(comm)
            comm.captures = state.pop("msg_id")
            if comm.captures:
                self._capturing.setdefault(comm.captures, []).append(comm)
        if "outputs" in state:
            comm.outputs = OutputCollector()
            for output in state["outputs"]:
                comm.outputs.add(output["output_type"], output)
        return {**data, "state": state}

    def _relay(self, event: Event, content: dict[str, Any]) -> None:
        self._outlet.send(
            event["output_type"],
            content,
            event["metadata"],
            parent=self._requests.get(event["parent"]),
            buffers=event["buffers"],
            topic=f"comm-{content.get('comm_id')}",
        )

    def _capture(self, event: Event) -> bool:
        """Put an output into the widget that captures it; False if none does."""
        kind, parent = event["output_type"], event.get("parent", "")
        with self._lock:
            capturing = self._capturing.get(parent)
            if capturing:
                self._fill(capturing[-1], event)
                return True
            if kind == "update_display_data":
                shown = (event.get("transient") or {}).get("display_id")
                for comm in self._registry.outputs_of(self):
                    if comm.outputs.shows(shown):
                        self._fill(comm, event)
        return False

    def _fill(self, comm: RelayedComm, event: Event) -> None:
        assert comm.model is not None
        comm.outputs.add(event["output_type"], event)
        outputs = comm.outputs.display_outputs
        comm.model.state["outputs"] = outputs
        self._wait()
        data = {"method": "update", "state": {"outputs": outputs}, "buffer_paths": []}
        self._send(comm, data, [], self._requests.get(event.get("parent", "")))

    def _send(
        self,
        comm: RelayedComm,
        data: dict[str, Any],
        buffers: list[Any],
        parent: dict[str, Any] | None,
    ) -> None:
        """Tell front ends something that the worker has not said in these words."""
        content = {"comm_id": comm.comm_id, "data": data}
        topic = f"comm-{comm.comm_id}"
        self._outlet.send("comm_msg", content, parent=parent, buffers=buffers, topic=topic)

    # -- from the front ends -----------------------------------------------------------------

    def from_front_end(self, comm: RelayedComm, kind: str, msg: dict[str, Any]) -> None:
        """Hand a message on to the worker, or answer it. Never waits for the worker."""
        content, buffers = msg["content"], list(msg.get("buffers") or ())
        data = _data(content)
        with self._lock:
            if comm.model is not None and data.get("method") == "request_state":
                self._send(comm, *comm.model.update(), parent=msg)
                return
            if comm.model is not None and data.get("method") == "update":
                comm.model.apply(data, buffers)
            if kind == "comm_close":
                self._registry.remove(comm.comm_id)
            message = CommMessage(
                kind, content, msg.get("metadata") or {}, [bytes(buffer) for buffer in buffers]
            )
            self._wait_in_line(_Waiting(comm.comm_id, message, msg))
            self._send_next()

    def _wait_in_line(self, waiting: _Waiting) -> None:
        for earlier in reversed(self._queue):
            if earlier.comm_id == waiting.comm_id:
                if waiting.replaces(earlier):
                    self._queue.remove(earlier)
                break
        self._queue.append(waiting)

    def _send_next(self) -> None:
        while self._queue and self._in_flight is None:
            waiting = self._queue.popleft()
            sent = None
            if self._route is not None and self._over is None:
                sent = self._route.send(waiting.message)
            if sent is None:
                self._in_vain(waiting)
                continue
            self._in_flight = (sent, waiting)
            self._requests[sent] = waiting.request
            if len(self._requests) > _REMEMBERED:
                self._requests.popitem(last=False)

    def _answered(self, request: str) -> None:
        if self._in_flight is not None and self._in_flight[0] == request:
            self._in_flight = None
            self._send_next()

    # -- the end -----------------------------------------------------------------------------

    def end(self, why: str = _MOVED_ON) -> None:
        """The worker serves others now; whoever uses the widgets is told, once."""
        with self._lock:
            if self._over is not None:
                return
            self._over = why
            unanswered = [*self._queue]
            if self._in_flight is not None:
                unanswered.append(self._in_flight[1])
            self._queue.clear()
            self._in_flight = None
            for waiting in unanswered:
                self._in_vain(waiting)
            self._registry.ended(self)

    def _in_vain(self, waiting: _Waiting) -> None:
        if not waiting.is_somebodys:
            return
        why = self._over or _MOVED_ON
        LOGGER.info("a widget was used in vain: %s", why)
        self.say(f"{why}\n{_HOW_TO}")

    def say(self, text: str) -> None:
        """Tell the person in front of the cell, once."""
        with self._lock:
            if not self._said:
                self._said = True
                self._outlet.publish({"text/plain": text}, {}, {}, update=False)
