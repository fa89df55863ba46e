"""What a check of `jupyter pool doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BAD", "NOTE", "OK", "Finding", "bad", "note", "ok"]

OK, BAD, NOTE = "ok", "bad", "note"


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes
    ----------
    name
        What was looked at.
    state
        ``"ok"``, ``"bad"`` or ``"note"``.
    text, mend
        What there is, and what to do about it.
    hangs
        It has not come to an end.
    """

    name: str
    state: str
    text: str
    mend: str = ""
    hangs: bool = False

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return {"name": self.name, "state": self.state, "text": self.text, "mend": self.mend}


def ok(name: str, text: str) -> Finding:
    """It is in order."""
    return Finding(name, OK, text)


def bad(name: str, text: str, mend: str, *, hangs: bool = False) -> Finding:
    """It is broken."""
    return Finding(name, BAD, text, mend, hangs)


def note(name: str, text: str, mend: str = "") -> Finding:
    """It is good to know."""
    return Finding(name, NOTE, text, mend)
