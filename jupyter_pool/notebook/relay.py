"""A worker's outputs, shown in the cell that asked for them.

Everything goes through the notebook's own shell, as if the code had run here:
streams through ``sys.stdout`` and ``sys.stderr`` (so that ``%%capture`` and
output widgets catch them), displays through its display publisher, and the value
of the last expression through its display hook, as what the magic returns.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from .comms import CellComms
from .live import WIDGET_VIEW
from .outlets import CellOutlet, Outlet, ShellOutlet
from .pace import Pace, is_interrupted

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.engine.comms import CommRoute
    from jupyter_pool.results import ExecutionResult

__all__ = ["Relay", "WorkerValue"]

Event = Mapping[str, Any]

#: Longer texts are shown in parts, in characters.
_PART = 200_000
#: After an interrupt so much of a text is shown, in characters.
_LAST_TEXT = 64_000


class WorkerValue:
    """The value of a cell's last expression, as its worker displayed it.

    It stands for the value in ``Out`` and ``_``. The value itself has stayed in
    the worker: give it a name in the cell and send that back with ``--out``.

    Attributes
    ----------
    result
        The `ExecutionResult` of the whole cell.
    """

    __slots__ = ("_data", "_metadata", "result")

    def __init__(
        self, data: Mapping[str, Any], metadata: Mapping[str, Any], result: ExecutionResult
    ) -> None:
        self._data = dict(data)
        self._metadata = dict(metadata)
        self.result = result

    def __repr__(self) -> str:
        return str(self._data.get("text/plain", f"<value as {', '.join(self._data)}>"))

    def _repr_mimebundle_(
        self, include: Any = None, exclude: Any = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(self._data), dict(self._metadata)


class Relay:
    """Shows the outputs of one request; call it with each event as it comes.

    Parameters
    ----------
    quiet
        Show nothing.
    """

    def __init__(self, shell: InteractiveShell, *, quiet: bool = False) -> None:
        self._shell = shell
        self._quiet = quiet
        self._value: Event | None = None
        self._held: list[Event] = []
        # The request's own display ids, fresh each time: code that displays
        # under a fixed id must not reach into the notebook's displays.
        self._display_ids: dict[str, str] = {}
        #: After an interrupt: what would have had to wait, its end only, and how much it was.
        self._skipped: deque[Event] = deque(maxlen=20)
        self._skipped_count = 0
        self._pace = Pace() if hasattr(shell, "kernel") else None
        #: The traceback that the worker has shown last, in lines.
        self.traceback: list[str] = []
        self._outlet: Outlet = ShellOutlet(shell)
        #: Where what comes later is shown; None: there is no front end, or nothing is shown.
        self._cell: CellOutlet | None = None
        #: The widgets of the request; None likewise.
        self.comms: CellComms | None = None
        kernel = getattr(shell, "kernel", None)
        if kernel is not None and not quiet:
            self._cell = CellOutlet(kernel)
            self.comms = CellComms(kernel, self._cell, self._await_turn)

    def connect(self, route: CommRoute) -> bool:
        """Take the comm messages of a request too, if there is a front end for them."""
        if self.comms is None:
            return False
        self.comms.connect(route)
        return True

    def show_later(self, event: Event) -> None:
        """Show, from another thread, what comes when the cell's code has ended or awaits."""
        assert self._cell is not None
        assert self.comms is not None
        if self.comms.take(event):
            return
        if event["output_type"] == "error":  # a callback has failed: nobody can raise it
            names = ("ename", "evalue", "traceback")
            self._cell.send("error", {name: event[name] for name in names})
        else:
            self._show(event, self._cell)

    def __call__(self, event: Event) -> None:
        """Show one event of `OutputCollector.add`, or take in a comm message."""
        kind = event["output_type"]
        if kind == "error":
            self.traceback = list(event["traceback"])
        if self.comms is not None and self.comms.take(event):
            return
        if self._quiet or kind == "error":
            return  # an error is raised, when all else has been shown
        if self._must_skip(event):
            self._skipped_count += 1
            self._skipped.append(event)
            return
        if kind == "execute_result":
            self.flush()  # a cell may display several values, with IPython so configured
            self._value = event
        elif self._value is not None:
            # A value is shown when the magic returns. What comes after it, such
            # as the figures that IPython shows at the end of a cell, waits.
            self._held.append(event)
        else:
            self._show(event)

    def show_last(self) -> None:
        """After an interrupt: show the end of what was skipped."""
        left_out = self._skipped_count - len(self._skipped)
        last, self._skipped_count = [*map(_shortened, self._skipped)], 0
        left_out += sum(len(event.get("text", "")) > _LAST_TEXT for event in self._skipped)
        self._skipped.clear()
        if left_out:
            sys.stderr.write(f"[… interrupted: {left_out} outputs are not shown …]\n")
            sys.stderr.flush()
        for event in last:
            self._show(event)

    def _must_skip(self, event: Event) -> bool:
        """Whether somebody has interrupted a flood: they want its end, not all that is queued."""
        return (
            self._pace is not None
            and is_interrupted()
            and (self._skipped_count > 0 or not self._pace.is_free(len(event.get("text", ""))))
        )

    def flush(self) -> None:
        """Show at once what waits for the value, and the value as a display."""
        value, self._value = self._value, None
        if value is not None:
            self._publish(value["data"], value["metadata"])
        held, self._held = self._held, []
        for event in held:
            self._show(event)

    def take_value(self, result: ExecutionResult, pool: str) -> WorkerValue | None:
        """Return what the magic has to return, and show what comes after that when it has.

        Returns
        -------
        WorkerValue or None
            None if there was no last expression, or nothing is to be shown.
        """
        value, self._value = self._value, None
        if value is None:
            return None
        if self._held:
            self._after_value()
        about: dict[str, Any] = {
            "pool": pool,
            "worker": result.worker_id,
            "waited": round(result.timings.waited, 6),
            "ran": round(result.timings.ran, 6),
            "total": round(result.timings.total, 6),
        }
        if result.session_id is not None:
            about["session"] = result.session_id
        return WorkerValue(
            self._shown(value["data"]), {**value["metadata"], "jupyter_pool": about}, result
        )

    def _after_value(self) -> None:
        # A cell runs inside IPython's display trap. Its level is public only in later
        # versions (as `is_active`), but the same in 8.30 and 9.18.
        if getattr(self._shell.display_trap, "_nested_level", 1) == 0:
            self.flush()  # not in a cell: nothing would ever trigger the rest
            return
        events = self._shell.events

        def show_held() -> None:
            events.unregister("post_execute", show_held)
            self.flush()

        events.register("post_execute", show_held)

    def _show(self, event: Event, outlet: Outlet | None = None) -> None:
        outlet = outlet or self._outlet
        match event["output_type"]:
            case "stream":
                for text in self._at_a_pace(event["text"], outlet):
                    outlet.write(event["name"], text)
            case "display_data":
                transient = dict(event.get("transient") or {})
                if "display_id" in transient:
                    transient["display_id"] = self._display_ids.setdefault(
                        transient["display_id"], uuid4().hex
                    )
                self._publish(event["data"], event["metadata"], transient, outlet=outlet)
            case "update_display_data":
                transient = dict(event.get("transient") or {})
                display_id = self._display_ids.get(transient.get("display_id", ""))
                if display_id is not None:  # else it was displayed by no one here
                    transient["display_id"] = display_id
                    self._publish(
                        event["data"], event["metadata"], transient, update=True, outlet=outlet
                    )
            case "clear_output":
                outlet.clear(wait=event["wait"])

    def _at_a_pace(self, text: str, outlet: Outlet) -> Iterator[str]:
        """Yield the text in parts, each when it may be shown."""
        if self._pace is None or outlet.is_captured():
            yield text
            return
        for start in range(0, len(text), _PART):
            part = text[start : start + _PART]
            self._pace.wait(len(json.dumps(part, ensure_ascii=False).encode("utf-8", "replace")))
            yield part

    def _await_turn(self) -> None:
        """Return when a message that is no text may be sent to the front ends."""
        assert self._pace is not None
        self._pace.wait(0)

    def _publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        transient: Mapping[str, Any] | None = None,
        *,
        update: bool = False,
        outlet: Outlet | None = None,
    ) -> None:
        outlet = outlet or self._outlet
        if self._pace is not None and not outlet.is_captured():
            self._pace.wait(0)
        outlet.publish(self._shown(data), metadata, transient or {}, update=update)

    def _shown(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """A display's data without the view of a widget that front ends do not know.

        They would show an error in place of the text or HTML that comes along.
        """
        view = data.get(WIDGET_VIEW)
        known = (
            self.comms is not None
            and isinstance(view, Mapping)
            and self.comms.knows(view.get("model_id"))
        )
        if len(data) > 1 and not known:
            return {mime: content for mime, content in data.items() if mime != WIDGET_VIEW}
        return dict(data)


def _shortened(event: Event) -> Event:
    """An event that is shown late: a value as a display, of a long text the end."""
    match event["output_type"]:
        case "stream" if len(event["text"]) > _LAST_TEXT:
            return {**event, "text": event["text"][-_LAST_TEXT:]}
        case "execute_result":
            return {**event, "output_type": "display_data"}
    return event
