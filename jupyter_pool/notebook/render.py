"""What the magics show that is not a report of the pool itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jupyter_pool import _reprs

if TYPE_CHECKING:
    from jupyter_pool.config import PoolConfig
    from jupyter_pool.errors import PoolError
    from jupyter_pool.reports import SessionInfo

__all__ = ["OptionsTable", "SessionsTable", "traceback_text"]


class OptionsTable(Mapping[str, Any]):
    """A pool's options by name, shown with their values and explanations."""

    def __init__(self, title: str, config: PoolConfig) -> None:
        self._title = title
        self._values = config.as_dict()
        traits = config.traits()
        self._helps = {name: " ".join(str(traits[name].help).split()) for name in self._values}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        rows = [(name, value) for name, value in self._values.items()]
        # The explanations would make lines too long for a terminal.
        return f"{self._title}\n{_reprs.text_table(('option', 'value'), rows)}"

    def _repr_html_(self) -> str:
        rows = [(name, value, self._helps[name]) for name, value in self._values.items()]
        table = _reprs.table(("option", "value", "meaning"), rows)
        return f"<div>{_reprs.heading(self._title)}{table}</div>"


class SessionsTable(Mapping[str, "SessionInfo"]):
    """A pool's sessions by id."""

    def __init__(self, pool: str, sessions: Mapping[str, SessionInfo]) -> None:
        self._title = f"Pool {pool}: {len(sessions)} session{'s' if len(sessions) != 1 else ''}"
        self._sessions = dict(sessions)

    def __getitem__(self, session_id: str) -> SessionInfo:
        return self._sessions[session_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (info.id, info.requests, info.failures, _reprs.seconds(info.busy_time))
            for info in self._sessions.values()
        ]

    def __repr__(self) -> str:
        if not self._sessions:
            return self._title
        return f"{self._title}\n{_reprs.text_table(_SESSION_HEADERS, self._rows())}"

    def _repr_html_(self) -> str:
        table = _reprs.table(_SESSION_HEADERS, self._rows()) if self._sessions else ""
        return f"<div>{_reprs.heading(self._title)}{table}</div>"


_SESSION_HEADERS = ("session", "requests", "failures", "busy")


def traceback_text(error: PoolError) -> str:
    """Return an error as a notebook would show it, as text with colours."""
    return "\n".join(error._render_traceback_()) + "\n"
