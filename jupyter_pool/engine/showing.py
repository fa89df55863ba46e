"""What a call prints and displays, shown where the caller's own output appears.

Text goes to the caller's ``sys.stdout`` and ``sys.stderr``; in a notebook displays go to the cell that
made the call. Where a person reads it, in a notebook or a terminal, each line says which worker it
comes from, as several print at once; in a file or a pipe it is as it was printed.
"""

from __future__ import annotations

import contextvars
import sys
from typing import TYPE_CHECKING, Any, TextIO

from .request import Event

if TYPE_CHECKING:
    from jupyter_pool.notebook.relay import Relay

    from .comms import CommRoute
    from .request import Request

__all__ = ["shown_here"]


def shown_here() -> CallOutput:
    """An `on_output` that shows things where this thread's own output appears now."""
    return CallOutput(contextvars.copy_context())


class CallOutput:
    """Shows the outputs of one request. A front end finds the cell by the caller's context."""

    __slots__ = ("_context", "_relay", "_route", "_within", "request")

    def __init__(self, context: contextvars.Context) -> None:
        self._context = context
        self._relay: Relay | None = None
        self._route: CommRoute | None = None
        #: The streams whose next text does not begin a line.
        self._within: set[str] | None = None
        #: Whose outputs these are.
        self.request: Request | None = None

    def copy(self) -> CallOutput:
        """One for another request of the same caller."""
        return CallOutput(self._context.copy())

    def connect(self, route: CommRoute) -> bool:
        """Take comm messages too, in a notebook: a call may show a progress bar."""
        self._route = route
        return _kernel() is not None

    def __call__(self, event: Event) -> None:
        self._context.run(self._show, event)

    def _show(self, event: Event) -> None:
        kind = event["output_type"]
        if kind == "error":
            return  # the future raises it
        kernel = _kernel()
        if kind == "stream":
            stream = sys.stderr if event["name"] == "stderr" else sys.stdout
            labelled = kernel is not None or _is_terminal(stream)
            stream.write(self._label(event) if labelled else event["text"])
            stream.flush()
        elif kernel is not None:
            if self._relay is None:
                from jupyter_pool.notebook.relay import Relay

                self._relay = Relay(kernel.shell)
                if self._route is not None:
                    self._relay.connect(self._route)
            if kind == "execute_result":
                event = {**event, "output_type": "display_data"}
            self._relay(event)
        elif kind in ("display_data", "execute_result"):
            sys.stdout.write(f"{event['data'].get('text/plain', '<display>')}\n")

    def _label(self, event: Event) -> str:
        worker = self.request.worker_id if self.request is not None else "?"
        label = f"[worker {worker}] "
        name, text = event["name"], str(event["text"])
        lines = text.splitlines(keepends=True)
        if self._within is None:
            self._within = set()
        first = name not in self._within
        (self._within.discard if text.endswith("\n") else self._within.add)(name)
        return "".join(
            label + line if number or first else line for number, line in enumerate(lines)
        )


def _kernel() -> Any:
    """The kernel of the notebook that we run in, or None."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False
