"""`%pool_monitor`: a live picture of a pool, as a widget or as plain HTML.

The widget's view is written in TypeScript, see ``labextension/``; its bundle lies in ``static/``.
Snapshots go out on iopub from the publisher's thread, orders of the view come in with the notebook's
other messages, which wait while the notebook's own kernel is busy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jupyter_pool.config import PoolConfig
from jupyter_pool.engine.log import LOGGER
from jupyter_pool.engine.registry import get_pool
from jupyter_pool.errors import InvalidRequest, PoolError

from . import feed
from .feed import Feed, State
from .orders import carry_out
from .picture import picture

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.engine.face import PoolFace

__all__ = ["HtmlMonitor", "mimebundle", "publish", "show", "widget_class"]

_STATIC = Path(__file__).with_name("static")
_WIDGET = "application/vnd.jupyter.widget-view+json"


def show(
    shell: InteractiveShell,
    name: Callable[[], str],
    start: Callable[[], object],
    *,
    html: bool = False,
) -> Any:
    """What `%pool_monitor` returns or displays.

    Parameters
    ----------
    name
        Returns the name of the pool to show.
    start
        Starts a pool of that name, when somebody asks for it in the view.
    html
        No widget: HTML that is replaced once a second while something changes.
    """
    source = Feed(name, PoolConfig.build().size)
    if not has_kernel(shell):
        return Text(source.whole())
    if html:
        HtmlMonitor(shell, source).display()
        return None
    return widget_class()(source, start)


def mimebundle(pool: PoolFace) -> dict[str, Any]:
    """What a pool shows of itself: its monitor in a notebook, its repr elsewhere."""
    plain = {"text/plain": repr(pool)}
    shell = _shell()
    if shell is None or not has_kernel(shell) or not _is_built():
        return plain
    name = pool.name
    data: dict[str, Any] = widget_class()(Feed(lambda: name, pool.config.size))._repr_mimebundle_()[
        0
    ]
    return {**data, **plain}


def has_kernel(shell: InteractiveShell) -> bool:
    """Whether what it displays can go on changing."""
    return hasattr(shell, "kernel")


def _shell() -> InteractiveShell | None:
    import sys

    ipython = sys.modules.get("IPython")  # without it nobody displays anything
    return ipython.get_ipython() if ipython is not None else None


def _is_built() -> bool:
    return (_STATIC / "monitor.js").exists()


class Text:
    """A state as text, for terminals."""

    def __init__(self, state: State) -> None:
        self._picture = picture(state)

    def __repr__(self) -> str:
        return self._picture.text


def publish(kernel: Any, kind: str, content: dict[str, Any], parent: Any, ident: Any) -> None:
    """Send a message on iopub from any thread, as belonging to no request of the moment.

    ipykernel (7.4) would take for its parent whatever the main thread runs now.
    """
    kernel.session.send(kernel.iopub_socket, kind, content, parent=parent, ident=ident)


class HtmlMonitor:
    """HTML and SVG under a display id, replaced from the publisher's thread."""

    #: How many snapshots make a second.
    _EVERY = round(1 / feed.INTERVAL)

    def __init__(self, shell: InteractiveShell, source: Feed) -> None:
        self._shell = shell
        self._feed = source
        self._display_id = uuid4().hex
        self._turn = 0
        self._blocks: dict[str, Any] = {}
        self._last: State = {}
        self._parent: Any = None

    def display(self) -> None:
        """Show it below the cell that runs, and go on with it."""
        from IPython.display import publish_display_data

        kernel: Any = getattr(self._shell, "kernel")  # noqa: B009 - not every shell has one
        self._parent = kernel.get_parent()
        publish_display_data(
            self._merge(self._feed.whole()).bundle(), transient={"display_id": self._display_id}
        )
        feed.publisher.attach(self)

    def refresh(self) -> bool:
        """Show the news, at most once a second."""
        self._turn += 1
        if self._turn % self._EVERY and self._last.get("lively"):
            return True
        state = self._feed.next()
        if state is not None:
            kernel: Any = getattr(self._shell, "kernel")  # noqa: B009
            content = {
                "data": self._merge(state).bundle(),
                "metadata": {},
                "transient": {"display_id": self._display_id},
            }
            publish(kernel, "update_display_data", content, self._parent, b"update_display_data")
        return self._feed.lively

    def close(self) -> None:
        """Leave it as it is."""
        feed.publisher.detach(self)

    def _merge(self, state: State) -> Any:
        """A picture of the last minute, of which a snapshot holds only the news."""
        if state["full"]:
            self._blocks.clear()
        self._blocks = {k: block for k, block in self._blocks.items() if block["ended"] is not None
                        and block["ended"] > state["now"] - 60}  # fmt: skip
        self._blocks.update((block["id"], block) for block in state["blocks"])
        kept = {
            k: state[k] if state[k] is not None else self._last.get(k) for k in ("errors", "stats")
        }
        self._last = {**state, **kept, "blocks": [*self._blocks.values()]}
        return picture(self._last)


@cache
def widget_class() -> Any:
    """The widget's class, made on first use: ipywidgets and anywidget load late.

    Raises
    ------
    PoolError
        The view was not built: an incomplete installation.
    """
    if not _is_built():
        raise PoolError(
            f"the monitor's view is missing: there is no {_STATIC / 'monitor.js'}\n"
            "  Next: install jupyter_pool again (in a clone, `npm ci && npm run build` in "
            "labextension/), or use %pool_monitor --html."
        )
    import traitlets
    from anywidget import AnyWidget

    class PoolMonitor(AnyWidget):
        """Shows a pool for as long as a view of it is on display.

        The picture beside the view, which notebooks store, is of the moment it was shown: an update
        of the display would make front ends build the view anew, and lose where people are in it;
        and when no view is open any more, nobody is there to store it.
        """

        _esm = (_STATIC / "monitor.js").read_text(encoding="utf-8")
        _css = (_STATIC / "monitor.css").read_text(encoding="utf-8")
        pool_state = traitlets.Dict().tag(sync=True)

        def __init__(self, source: Feed, start: Callable[[], object] | None = None) -> None:
            self._feed = source
            self._start = start
            #: Views that said they are there. Until the first has, one is taken to be on its way.
            self._views: set[str] = set()
            super().__init__(pool_state=source.whole())
            self.on_msg(_heard)

        def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            state = self._feed.whole()
            data, metadata = super()._repr_mimebundle_() or ({}, {})
            feed.publisher.attach(self)
            return {**data, **picture(state).bundle()}, metadata

        def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
            # A page that was loaded anew asks for everything.
            state = super().get_state(key, drop_defaults)
            if key is None and self.comm is not None:
                state["pool_state"] = self._feed.whole()
            return state

        def refresh(self) -> bool:
            """Send the news, from the publisher's thread."""
            state = self._feed.next()
            if state is not None and self.comm is not None:
                # Past traitlets and ipywidgets, whose locks are not made for a second thread, and
                # which would copy it several times.
                self._trait_values["pool_state"] = state
                message = {"method": "update", "state": {"pool_state": state}, "buffer_paths": []}
                kernel = getattr(self.comm, "kernel", None)
                if kernel is None:
                    self.send_state("pool_state")  # not ipykernel
                else:
                    content = {"comm_id": self.comm.comm_id, "data": message}
                    publish(kernel, "comm_msg", content, {}, self.comm.topic)
            return self._feed.lively

        def close(self) -> None:
            feed.publisher.detach(self)
            super().close()

        def opened(self, view: str) -> None:
            """A view is on display."""
            self._views.add(view)
            self.pool_state = self._feed.whole()
            feed.publisher.attach(self)

        def closed(self, view: str) -> None:
            """A view is gone; with the last one the snapshots end."""
            self._views.discard(view)
            if not self._views:
                feed.publisher.detach(self)

    return PoolMonitor


def _heard(widget: Any, message: Any, _: Any) -> None:
    """Carry out what a view asks for, on the main thread."""
    try:
        order, given = message["type"], message
        if order == "open":
            widget.opened(str(given["view"]))
        elif order == "close":
            widget.closed(str(given["view"]))
        elif order == "start":
            if widget._start is None:
                raise InvalidRequest("this monitor is of a pool that is closed: start another one")
            widget._start()
        else:
            carry_out(get_pool(widget._feed.name()), order, given)
    except PoolError as error:
        widget.send({"type": "refused", "text": str(error).partition("\n")[0]})
    except Exception as error:  # noqa: BLE001 - a frontend's message must not harm the notebook
        LOGGER.log(logging.WARNING, "the monitor's order %r failed", message, exc_info=True)
        widget.send({"type": "refused", "text": f"{type(error).__name__}: {error}"})
