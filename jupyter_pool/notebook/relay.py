"""A worker's outputs, shown in the cell that asked for them.

Everything goes through the notebook's own shell, as if the code had run here:
streams through ``sys.stdout`` and ``sys.stderr`` (so that ``%%capture`` and
output widgets catch them), displays through its display publisher, and the value
of the last expression through its display hook, as what the magic returns.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.results import ExecutionResult

__all__ = ["Relay", "WorkerValue"]

Event = Mapping[str, Any]

# Its model lives in the worker and is not relayed: without it a front end shows
# an error in place of the text or HTML that comes along.
_WIDGET = "application/vnd.jupyter.widget-view+json"


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

    def __call__(self, event: Event) -> None:
        """Show one event of `OutputCollector.add`."""
        kind = event["output_type"]
        if self._quiet or kind == "error":
            return  # an error is raised, when all else has been shown
        if kind == "execute_result":
            self.flush()  # a cell may display several values, with IPython so configured
            self._value = event
        elif self._value is not None:
            # A value is shown when the magic returns. What comes after it, such
            # as the figures that IPython shows at the end of a cell, waits.
            self._held.append(event)
        else:
            self._show(event)

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
            _shown(value["data"]), {**value["metadata"], "jupyter_pool": about}, result
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

    def _show(self, event: Event) -> None:
        match event["output_type"]:
            case "stream":
                stream = sys.stderr if event["name"] == "stderr" else sys.stdout
                stream.write(event["text"])
                stream.flush()
            case "display_data":
                transient = dict(event.get("transient") or {})
                if "display_id" in transient:
                    transient["display_id"] = self._display_ids.setdefault(
                        transient["display_id"], uuid4().hex
                    )
                self._publish(event["data"], event["metadata"], transient)
            case "update_display_data":
                transient = dict(event.get("transient") or {})
                display_id = self._display_ids.get(transient.get("display_id", ""))
                if display_id is not None:  # else it was displayed by no one here
                    transient["display_id"] = display_id
                    self._publish(event["data"], event["metadata"], transient, update=True)
            case "clear_output":
                self._shell.display_pub.clear_output(event["wait"])

    def _publish(
        self,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        transient: Mapping[str, Any] | None = None,
        *,
        update: bool = False,
    ) -> None:
        # Looked up each time: %%capture puts a publisher of its own there.
        self._shell.display_pub.publish(
            _shown(data), dict(metadata), transient=dict(transient or {}), update=update
        )


def _shown(data: Mapping[str, Any]) -> dict[str, Any]:
    if len(data) > 1 and _WIDGET in data:
        return {mime: content for mime, content in data.items() if mime != _WIDGET}
    return dict(data)
