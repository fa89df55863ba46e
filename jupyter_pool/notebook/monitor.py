"""`%pool_monitor`: a live picture of a pool, as a widget or as plain HTML.

The widget's view is written in TypeScript, see ``labextension/``; its bundle lies in ``static/``.
Snapshots go out on iopub from the publisher's thread, orders of the view come in with the notebook's
other messages, which wait while the notebook's own kernel is busy.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_pool.config import PoolConfig
from jupyter_pool.engine.log import LOGGER
from jupyter_pool.errors import InvalidRequest, PoolError

from . import feed
from .feed import Feed, State
from .orders import carry_out
from .picture import picture
from .pictures import Pictures
from .places import Place, front_end
from .publishing import publish

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.engine.face import PoolFace

__all__ = ["HtmlMonitor", "display", "show", "unhook", "widget_class"]

_STATIC = Path(__file__).with_name("static")


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
    if html or is_run(shell):
        HtmlMonitor(shell, source).display()
        return None
    return widget_class()(source, start)


def display(pool: PoolFace) -> None:
    """Show a pool's monitor below the cell that runs.

    Raises
    ------
    NotImplementedError
        There is no notebook, or the view was not built: IPython shows the pool's repr then.
    """
    shell = _shell()
    if shell is None or not has_kernel(shell) or not _is_built():
        raise NotImplementedError
    name, seen = pool.name, weakref.ref(pool)

    def text() -> str:
        there = seen()  # its picture does not keep a pool from being forgotten
        return repr(there) if there is not None else f"<{name!r}: closed>"

    source = Feed(lambda: name, pool.config.size)
    if is_run(shell):
        HtmlMonitor(shell, source, text).display()
    else:
        widget_class()(source, None, text)._ipython_display_()


def is_run(shell: InteractiveShell) -> bool:
    """Whether the notebook is run with nobody there to look, so that its outputs are all there is."""
    kernel: Any = getattr(shell, "kernel")  # noqa: B009 - not every shell has one
    return front_end(kernel.get_parent()) == "runner"


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


class HtmlMonitor:
    """HTML and SVG under a display id, replaced from the publisher's thread.

    Where a notebook is run without anybody looking, also at the end of each cell: what comes later,
    its runner may not wait for.
    """

    def __init__(
        self, shell: InteractiveShell, source: Feed, text: Callable[[], str] | None = None
    ) -> None:
        self._shell = shell
        self._feed = source
        self._pictures = Pictures(shell, source.whole, text)
        self._hooked = False

    def display(self) -> None:
        """Show it below the cell that runs, and go on with it."""
        self._pictures.take(self._feed.whole())
        self._pictures.show()
        if is_run(self._shell):
            self._shell.events.register("post_run_cell", self._after_cell)
            self._hooked = True
            _hooked.add(self)
        feed.publisher.attach(self)

    def refresh(self) -> bool:
        """Show the news, at most once a second while something runs."""
        self._show_news(at_once=not self._feed.lively)
        return self._feed.lively

    def _after_cell(self, _: object = None) -> None:
        self._show_news(at_once=True)

    def _show_news(self, *, at_once: bool) -> None:
        with self._pictures.lock:
            state = self._feed.next()
            if state is not None:
                self._pictures.take(state)
            self._pictures.renew(at_once=at_once)

    def close(self) -> None:
        """Leave it as it is."""
        feed.publisher.detach(self)
        if self._hooked:
            self._hooked = False
            self._shell.events.unregister("post_run_cell", self._after_cell)


_hooked: weakref.WeakSet[HtmlMonitor] = weakref.WeakSet()


def unhook() -> None:
    """Leave as they are the monitors that are told of the ends of cells."""
    for monitor in [*_hooked]:
        monitor.close()


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

        The picture beside the view, which notebooks store, is not renewed while a view is open: an
        update of the display would make front ends build the view anew, and lose where people are in
        it. It is when the last view has gone, and when the pool closes.
        """

        _esm = (_STATIC / "monitor.js").read_text(encoding="utf-8")
        _css = (_STATIC / "monitor.css").read_text(encoding="utf-8")
        pool_state = traitlets.Dict().tag(sync=True)

        def __init__(
            self,
            source: Feed,
            start: Callable[[], object] | None = None,
            text: Callable[[], str] | None = None,
        ) -> None:
            self._feed = source
            self._start = start
            self._text = text
            self._pictures: Pictures | None = None
            #: Views that said they are there. Until the first has, one is taken to be on its way.
            self._views: set[str] = set()
            super().__init__(pool_state=source.whole())
            self.on_msg(_heard)
            if self.comm is not None:
                self.comm.on_close(lambda _: self._tell(Place.has_no_view))

        def _ipython_display_(self) -> None:
            shell = _shell()
            if shell is None or not has_kernel(shell):
                raise NotImplementedError  # so IPython shows the rest
            data, metadata = super()._repr_mimebundle_() or ({}, {})
            if self._pictures is None:
                self._pictures = Pictures(shell, self._feed.whole, self._text, data)
            self._pictures.take(self._feed.whole())
            self._pictures.show(metadata)
            feed.publisher.attach(self)

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
            if self._pictures is not None:
                if state is not None:
                    self._pictures.take(state)
                self._pictures.renew(at_once=not self._feed.lively)
            return self._feed.lively

        def close(self) -> None:
            feed.publisher.detach(self)
            super().close()

        def opened(self, view: str) -> None:
            """A view is on display."""
            self._views.add(view)
            self._tell(Place.has_view)
            self.pool_state = state = self._feed.whole()
            if self._pictures is not None:
                self._pictures.take(state)
            feed.publisher.attach(self)

        def closed(self, view: str) -> None:
            """A view is gone; with the last one the snapshots end."""
            self._views.discard(view)
            if not self._views:
                feed.publisher.detach(self)
                if self._pictures is not None:
                    feed.publisher.attach(_Parting(self._pictures, self._views))

        def _tell(self, sign: Callable[[Place], None]) -> None:
            if self._pictures is not None:
                self._pictures.tell(sign)

    return PoolMonitor


class _Parting:
    """Renews the picture when the last view has gone, unless there is another one in a moment.

    A front end that moves a cell closes the view and opens one.
    """

    def __init__(self, pictures: Pictures, views: set[str]) -> None:
        self._pictures = pictures
        self._views = views
        self._due = time.monotonic() + 1.0

    def refresh(self) -> bool:
        if not self._views and time.monotonic() < self._due:
            return True
        if not self._views:
            self._pictures.renew(everywhere=True)
        feed.publisher.detach(self)
        return False


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
            carry_out(widget._feed.pool(), order, given)
    except PoolError as error:
        widget.send({"type": "refused", "text": str(error).partition("\n")[0]})
    except Exception as error:  # noqa: BLE001 - a frontend's message must not harm the notebook
        LOGGER.log(logging.WARNING, "the monitor's order %r failed", message, exc_info=True)
        widget.send({"type": "refused", "text": f"{type(error).__name__}: {error}"})
