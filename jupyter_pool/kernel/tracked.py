"""State that has a baseline: what it was, and what imports have made of it since.

Three verbs: `read` gives the present state, comparable later; `adopt` makes part of the baseline what
has changed since an earlier `read`, because an import changed it; `restore` goes back to the baseline.
All are cheap when nothing has changed, and free for what is not loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import is_
from types import ModuleType
from typing import Any, Protocol

__all__ = ["Attributes", "Items", "Settings", "Tracked", "merged"]


class Tracked(Protocol):
    """Something that a request may change, and that the next one must find as before."""

    def read(self) -> Any:
        """The present state."""

    def adopt(self, before: Any) -> None:
        """Keep what has changed since: it belongs to a module that stays."""

    def restore(self) -> str | None:
        """Go back to the baseline. Returns why the process must be replaced, if it must."""


class Items:
    """A list that is an attribute, such as `sys.meta_path`: the list itself, and what is in it."""

    def __init__(self, owner: Any, name: str, changed: Callable[[], object] | None = None) -> None:
        self._owner = owner
        self._name = name
        self._changed = changed
        self._list: list[Any] = getattr(owner, name)
        self.baseline = list(self._list)

    def read(self) -> list[Any]:
        """The items now."""
        return list(getattr(self._owner, self._name))

    def adopt(self, before: list[Any]) -> None:
        """Keep the items that were not there before, at the end where they are now."""
        now = self.read()
        if now != before:
            self.baseline = merged(self.baseline, before, now)

    def restore(self) -> None:
        """The same list with the same items."""
        same = getattr(self._owner, self._name) is self._list
        if same and self._list == self.baseline:
            return
        if not same:
            setattr(self._owner, self._name, self._list)
        self._list[:] = self.baseline
        if self._changed is not None:
            self._changed()


def merged(baseline: Sequence[Any], before: Sequence[Any], now: Sequence[Any]) -> list[Any]:
    """The baseline with what is new in `now`: in front if it came before all of the old."""
    known = [*before, *baseline]
    first_old = next((i for i, item in enumerate(now) if item in before), len(now))
    front = [item for item in now[:first_old] if item not in known]
    back = [item for item in now[first_old:] if item not in known]
    return [*front, *baseline, *back]


class Settings:
    """Settings by name, of a library that may not be loaded yet.

    Parameters
    ----------
    read
        Returns the settings as a dict of its own, or None while there are none.
    write
        Sets those of a dict; is only called with what differs.
    matches
        Whether the present settings equal a dict; quicker than reading them.
    """

    def __init__(
        self,
        read: Callable[[], dict[str, Any] | None],
        write: Callable[[dict[str, Any]], object],
        matches: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        self.read = read
        self._write = write
        self._matches = matches
        self.baseline = read()

    def adopt(self, before: dict[str, Any] | None) -> None:
        """Keep what an import has set."""
        now = self.read()
        if now is None:
            return
        if before is None or self.baseline is None:
            self.baseline = {**now, **(self.baseline or {})}
            return
        for name, value in now.items():
            if name not in before or differ(before[name], value):
                self.baseline[name] = value

    def restore(self) -> None:
        """Set what differs; names that were not there before stay as they are."""
        baseline = self.baseline
        if baseline is not None and self._matches is not None and self._matches(baseline):
            return
        now = self.read()
        if now is None:
            return
        if baseline is None:  # it was loaded where no import was seen: by another thread
            self.baseline = now
            return
        changed = {
            name: value
            for name, value in baseline.items()
            if name not in now or differ(now[name], value)
        }
        if changed:
            self._write(changed)


def differ(one: Any, other: Any) -> bool:
    """Whether two values differ; what cannot be compared does, unless it is the same object."""
    if one is other:
        return False
    try:
        return not bool(one == other)
    except Exception:  # noqa: BLE001 - users' values: arrays, say
        return True


class Attributes:
    """Attributes of modules, such as `tempfile.tempdir`; they need not be there."""

    def __init__(self, names: Mapping[ModuleType, Sequence[str]]) -> None:
        self._owners = [(owner, name) for owner, found in names.items() for name in found]
        self._looks = [(vars(owner), name) for owner, name in self._owners]
        self._baseline = self.read()

    def read(self) -> list[Any]:
        """Their values now."""
        return [found.get(name, _MISSING) for found, name in self._looks]

    def adopt(self, before: list[Any]) -> None:
        """Keep what an import has set."""
        for i, (old, new) in enumerate(zip(before, self.read(), strict=True)):
            if new is not old:
                self._baseline[i] = new

    def restore(self) -> None:
        """Set them, or unset them if they were not there."""
        now = self.read()
        if all(map(is_, now, self._baseline)):
            return
        for (owner, name), before, value in zip(self._owners, self._baseline, now, strict=True):
            if value is before:
                continue
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


_MISSING: Any = object()
