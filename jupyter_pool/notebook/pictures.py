"""The pictures of a pool that stay below cells, in notebooks that are stored, exported or only read.

They are renewed where nothing better is seen, and everywhere when nothing better will be: when the
pool closes, and when the kernel ends in order.
"""

from __future__ import annotations

import atexit
import importlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .picture import LastState, State
from .places import Place

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["Pictures"]

#: How often they are renewed while something runs, in seconds.
_PAUSE = 1.0


class Pictures:
    """One pool's, at all places where they are shown.

    Parameters
    ----------
    look
        Returns the pool's whole state.
    text
        Returns the plain text to go with them, if not a table.
    widget
        What shows the widget that a picture stands in for, by MIME type.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        look: Callable[[], State],
        text: Callable[[], str] | None = None,
        widget: Mapping[str, Any] | None = None,
    ) -> None:
        self._shell = shell
        self._look = look
        self._text = text
        self._widget = dict(widget or {})
        self._last = LastState()
        self._places: list[Place] = []
        self._stale = False
        self._drawn = -1e9
        self._told_end = False
        #: Held by whoever takes a state and shows it: the publisher, or the main thread.
        self.lock = threading.RLock()
        _register(self)

    def take(self, state: State) -> None:
        """The pool is like this now."""
        with self.lock:
            self._last.take(state)
            self._stale = True
            if not self._last.closed:
                self._told_end = False

    def show(self, metadata: Mapping[str, Any] | None = None) -> None:
        """Show it below the cell that runs, too."""
        place = Place(self._shell, "anywidget", needs_widget=bool(self._widget))
        if not self._widget:
            place.takes_widget = False
        with self.lock:
            self._places.append(place)
            place.show(self._beside(self._picture(), place), metadata)

    def renew(self, *, at_once: bool = False, everywhere: bool = False) -> None:
        """Replace the pictures that are out of date, where no view of the widget is.

        Parameters
        ----------
        at_once
            Also if they were renewed less than a second ago.
        everywhere
            Also where a view may be.
        """
        with self.lock:
            ends = self._last.closed and not self._told_end
            self._told_end = self._last.closed
            if ends or everywhere:
                self._update(self._places)
            elif self._stale and (at_once or time.monotonic() - self._drawn >= _PAUSE):
                self._update([place for place in self._places if place.wants_updates()])

    def look_again(self) -> None:
        """Take what nobody has told yet: the kernel is about to end, and its pools are still there."""
        self.take(self._look())

    def leave(self) -> None:
        """The kernel ends, and with it the widget."""
        with self.lock:
            self._widget = {}
            self._last.close()
            self._update(self._places)

    def tell(self, sign: Callable[[Place], None]) -> None:
        """A front end has given a sign."""
        for place in [*self._places]:
            sign(place)

    def _update(self, places: list[Place]) -> None:
        self._stale = False
        if places:
            self._drawn = time.monotonic()
            picture = self._picture()
            for place in places:
                place.update(self._beside(picture, place))

    def _picture(self) -> dict[str, str]:
        data = self._last.picture().bundle()
        return data if self._text is None else {**data, "text/plain": self._text()}

    def _beside(self, picture: dict[str, str], place: Place) -> dict[str, Any]:
        return {**self._widget, **picture} if place.takes_widget else dict(picture)


_shown: weakref.WeakSet[Pictures] = weakref.WeakSet()
_owner = 0


def _register(pictures: Pictures) -> None:
    global _owner
    _shown.add(pictures)
    if _owner != os.getpid():
        _owner = os.getpid()
        # Late registered comes first: what closes the pools at the end is registered by now.
        importlib.import_module("jupyter_pool.engine.exits")
        getattr(threading, "_register_atexit", atexit.register)(_look_again)
        atexit.register(_leave_all)


def _look_again() -> None:
    if os.getpid() == _owner:
        for pictures in [*_shown]:
            pictures.look_again()


def _leave_all() -> None:
    if os.getpid() == _owner:
        for pictures in [*_shown]:
            pictures.leave()
