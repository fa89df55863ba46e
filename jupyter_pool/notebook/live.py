"""A display that goes on changing after its cell has ended.

An update reaches every place where it was shown: front ends find them by the widget's model, or by the
display's id, which a page that is loaded anew does not know any more (see `places`). It is sent past
the shell's own publisher, by whichever thread has something to tell, with the header of the cell that
showed it. So it never lands in the cell that runs meanwhile, nor in its ``%%capture``; and a Jupyter
server takes it for a sign of life of the kernel, as it takes everything that a cell has caused
(`MappingKernelManager.start_watching_activity`, jupyter_server 2).
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jupyter_pool import _reprs

from .places import Place
from .publishing import publish

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = [
    "WIDGET_VIEW",
    "Bundle",
    "LiveDisplay",
    "ago",
    "elapsed",
    "outputs_html",
    "outputs_text",
    "state_line",
]

Bundle = dict[str, str]

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

#: Of what is shown, at most: outputs, characters of one text, and of everything as HTML.
_MOST_OUTPUTS = 100
_MOST_TEXT = 100_000
_MOST_HTML = 3_000_000

_MARKS = {"waiting": "◌", "running": "●", "done": "✓", "failed": "✗", "cancelled": "⊘"}
_COLOURS = {
    "running": "var(--jp-brand-color1, #1976d2)",
    "done": "var(--jp-success-color1, #388e3c)",
    "failed": "var(--jp-error-color1, #d32f2f)",
}
_MUTED = "var(--jp-content-font-color2, gray)"


class LiveDisplay:
    """Shows a bundle, and updates it from any thread.

    Until its last update it is a widget where widgets are shown: its model is in this kernel, so a
    page that is loaded anew finds it. Then it becomes HTML, which notebooks store and which needs no
    kernel; elsewhere it is HTML from the start. In a shell without a kernel nothing can change what
    was printed: there `show` prints the text and `update` does nothing.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._kernel: Any = getattr(shell, "kernel", None)
        #: The cell that made it, for whose sake the widget changes.
        self._parent = self._kernel.get_parent() if self._kernel is not None else {}
        self._lock = threading.RLock()
        self._places: list[Place] = []
        self._last: Bundle | None = None
        self._widget: Any = None

    @property
    def can_update(self) -> bool:
        """Whether there is a front end."""
        return self._kernel is not None

    def show(self, bundle: Bundle, *, last: bool) -> None:
        """Show it in the cell that runs; until the last update they reach it there too."""
        if self._kernel is None:
            print(bundle["text/plain"])  # noqa: T201 - to the terminal
            return
        place = Place(self._shell, "ipywidgets", needs_widget=False)
        with self._lock:
            if self._last is not None and not last:
                bundle, last = self._last, True  # it has come since the bundle was made
            if not last and place.takes_widget and self._widget is None:
                self._make_widget(bundle)
            self._places.append(place)
            place.show(bundle if last else self._data(bundle, place))

    def update(self, bundle: Bundle, *, last: bool) -> int:
        """Show this instead, wherever it was shown; returns how many characters that took."""
        if self._kernel is None:
            return 0
        with self._lock:
            sent = self._update_widget(bundle)
            if last:
                self._last = bundle
            for place in self._places:
                if last or place.wants_updates():
                    place.update(bundle if last else self._data(bundle, place))
                    sent += sum(map(len, bundle.values()))
            if not sent:
                self._give_sign_of_life()
            return sent

    def close(self) -> None:
        """Leave no widget behind. Pages that show one, as they were loaded anew, show it no more."""
        self._places.clear()
        widget, self._widget = self._widget, None
        if widget is not None:
            for one in (widget, widget.layout, widget.style):
                one.close()

    def _data(self, bundle: Bundle, place: Place) -> dict[str, Any]:
        if not place.takes_widget:
            return dict(bundle)
        view = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
        return {**bundle, WIDGET_VIEW: view}

    def _make_widget(self, bundle: Bundle) -> None:
        self._widget = _html_widget(bundle)
        # ipywidgets keeps count of the views, if asked to.
        self._widget.observe(lambda _: self._tell(Place.has_view), "_view_count")
        self._widget.comm.on_close(lambda _: self._tell(Place.has_no_view))

    def _tell(self, sign: Callable[[Place], None]) -> None:
        for place in [*self._places]:
            sign(place)

    def _update_widget(self, bundle: Bundle) -> int:
        widget = self._widget
        if widget is None or widget.comm is None:
            return 0
        # Past traitlets and ipywidgets, whose locks are not made for a second thread.
        value = widget._trait_values["value"] = _wrapped(bundle)
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        content = {"comm_id": widget.comm.comm_id, "data": data}
        publish(self._kernel, "comm_msg", content, self._parent, widget.comm.topic)
        return len(value)

    def _give_sign_of_life(self) -> None:
        """It is shown nowhere: a display that nobody has is updated, for the server to hear of it."""
        content = {"data": {}, "metadata": {}, "transient": {"display_id": uuid4().hex}}
        kind = "update_display_data"
        publish(self._kernel, kind, content, self._parent, kind.encode())


def _html_widget(bundle: Bundle) -> Any:
    from ipywidgets import HTML, Layout  # not before there is a job

    return HTML(value=_wrapped(bundle), layout=Layout(width="100%", margin="0"), _view_count=0)


def _wrapped(bundle: Bundle) -> str:
    """As it looks where it is no widget: those have lines of a button's height."""
    style = "line-height:var(--jp-content-line-height, 1.6);font-size:var(--jp-content-font-size1)"
    return f'<div style="{style}">{bundle["text/html"]}</div>'


def state_line(name: str, state: str, *facts: str) -> tuple[str, str]:
    """A line such as ``● train  running · 12 s``, as text and as HTML."""
    told = " · ".join(filter(None, (state, *facts)))
    colour = _COLOURS.get(state, _MUTED)
    shown = (
        f'<div style="color:var(--jp-content-font-color1, inherit)">'
        f'<span style="color:{colour}" aria-hidden="true">{_MARKS[state]}</span> '
        f"<b>{html.escape(name)}</b> "
        f'<span style="color:{_MUTED}">{html.escape(told)}</span></div>'
    )
    return f"[{name}] {told}", shown


def outputs_html(outputs: Sequence[dict[str, Any]], *, follow: bool = False) -> str:
    """Outputs as HTML of limited height; with `follow` the end is in view."""
    if not outputs:
        return ""
    parts: list[str] = []
    size = 0
    for output in reversed(outputs[-_MOST_OUTPUTS:]):
        part = _reprs.output_html(_cut(output))
        size += len(part)
        if parts and size > _MOST_HTML:
            break
        parts.append(part)
    left_out = len(outputs) - len(parts)
    before = _reprs.line(f"… {left_out:,} outputs before") if left_out else ""
    inner = f"<div>{before}{''.join(reversed(parts))}</div>"
    # A column in reverse keeps its end in view when its content is replaced.
    direction = "display:flex;flex-direction:column-reverse;" if follow else ""
    return f'<div style="{direction}max-height:32em;overflow:auto;margin-top:2px">{inner}</div>'


def outputs_text(outputs: Sequence[dict[str, Any]]) -> str:
    """Outputs as text."""
    return _reprs.cut_middle(
        _reprs.outputs_text([_cut(output) for output in outputs[-_MOST_OUTPUTS:]]), _MOST_TEXT
    )


def _cut(output: dict[str, Any]) -> dict[str, Any]:
    """An output of limited size: of a long text the end."""
    if output["output_type"] != "stream" or len(output["text"]) <= _MOST_TEXT:
        return output
    cut = output["text"][-_MOST_TEXT:]
    return {**output, "text": f"[… {len(output['text']) - len(cut):,} characters before …]\n{cut}"}


def elapsed(seconds: float) -> str:
    """A duration in whole seconds: ``12 s``, ``3 m 20 s``."""
    return _reprs.seconds(float(int(seconds))) if seconds >= 1 else "0 s"


def ago(seconds: float) -> str:
    """How long ago something was, roughly: ``12 s ago``, ``3 min ago``."""
    if seconds < 60:
        return f"{int(seconds)} s ago"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    return f"{int(seconds // 3600)} h ago"
