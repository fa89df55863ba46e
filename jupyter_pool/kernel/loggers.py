"""The loggers: root and by name, as they were, or as the import of their module left them."""

from __future__ import annotations

import logging
import operator
from typing import Any

__all__ = ["Loggers"]

_State = tuple[int, bool, bool, list[Any], list[Any]]
_NAMES = ("level", "propagate", "disabled", "handlers", "filters")
_look = operator.attrgetter(*_NAMES)
_look_inside = operator.itemgetter(*_NAMES)
_PRISTINE: _State = (logging.NOTSET, True, False, [], [])


class Loggers:
    """Level, propagation, handlers and filters of every logger.

    A logger cannot be removed, since modules hold on to theirs; one that a request made gets the
    state of a new one. Leans on `logging.Manager.loggerDict` and `logging._levelToName`, the same
    from CPython 3.10 to 3.14.
    """

    def __init__(self) -> None:
        manager = logging.root.manager
        self._manager = manager
        self._known: dict[str, Any] = manager.loggerDict
        self._states = self.read()
        self._look_quickly()
        self._disable = manager.disable
        levels: list[Any] = [logging._levelToName, logging._nameToLevel]
        self._level_names = [(table, dict(table)) for table in levels]

    def read(self) -> dict[str, _State]:
        """The state of each logger."""
        found = {
            name: (
                logger.level,
                logger.propagate,
                logger.disabled,
                logger.handlers[:],
                logger.filters[:],
            )
            for name, logger in self._known.items()
            if _is_logger(logger)
        }
        root = logging.root
        found[""] = (root.level, root.propagate, root.disabled, root.handlers[:], root.filters[:])
        return found

    def _look_quickly(self) -> None:
        """Prepare for `_is_unchanged`, which most of the time is all there is to do."""
        self._loggers = [logger for logger in self._known.values() if _is_logger(logger)]
        self._loggers.append(logging.root)
        # A class of the user's may have made one of them a property.
        plain = all(vars(logger).keys() >= set(_NAMES) for logger in self._loggers)
        self._look = _look_inside if plain else _look
        self._looked_at = list(map(vars, self._loggers)) if plain else self._loggers
        self._placeholders = [name for name, it in self._known.items() if not _is_logger(it)]
        self._count = len(self._known)
        self._quick = [
            self._states.get("" if logger is logging.root else logger.name, _PRISTINE)
            for logger in self._loggers
        ]

    def _is_unchanged(self) -> bool:
        known = self._known
        return (
            len(known) == self._count
            and set(map(type, map(known.get, self._placeholders))) <= _PLACEHOLDER
            and list(map(self._look, self._looked_at)) == self._quick
        )

    def adopt(self, before: dict[str, _State]) -> None:
        """Keep what an import has set up."""
        for name, state in self.read().items():
            if before.get(name, _PRISTINE) != state:
                self._states[name] = state
        self._look_quickly()

    def restore(self) -> None:
        """Put back what differs."""
        if self._manager._disable != self._disable:  # type: ignore[attr-defined]
            logging.disable(self._disable)
        if not self._is_unchanged():
            for name, state in self.read().items():
                before = self._states.get(name, _PRISTINE)
                if state != before:
                    _set(logging.getLogger(name or None), before)
            self._look_quickly()
        for table, names in self._level_names:
            if len(table) != len(names):  # a new name for a level is also a new way to it
                for level_table, level_names in self._level_names:
                    level_table.clear()
                    level_table.update(level_names)


_PLACEHOLDER = {logging.PlaceHolder}


def _is_logger(found: Any) -> bool:
    return type(found) is not logging.PlaceHolder


def _set(logger: logging.Logger, state: _State) -> None:
    level, logger.propagate, logger.disabled, handlers, filters = state
    logger.handlers[:] = handlers
    logger.filters[:] = filters
    if logger.level != level:
        logger.setLevel(level)
