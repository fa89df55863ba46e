"""What a run has found: figures, what is missing, what failed, where it was."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jupyter_pool.bench import machine, tables
from jupyter_pool.bench.paired import Figure, spread_of

__all__ = ["Report", "load"]

#: The version of the JSON; a reader refuses others.
FORMAT = 1


@dataclass(repr=False)
class Report:
    """The outcome of a run.

    Attributes
    ----------
    figures
        What was measured, in the order of the table.
    machine
        Processor, versions, date, and the load before the run.
    settings
        `workers`, `quick`, `rounds` (None: each row's own).
    missing
        Per peer or package that is not installed, the command that gets it.
    failures
        What went wrong, by ``"row, peer"``.
    load_after
        The load when it ended, the run's own included.
    interrupted
        It was stopped by Ctrl-C: the last figure has fewer rounds, and others are missing.
    """

    figures: list[Figure] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    load_after: float | None = None
    interrupted: bool = False

    def to_text(self) -> str:
        """The table for a terminal, at most 100 columns wide, and what is to be known about it."""
        parts = [tables.as_text(self.figures), ""] if self.figures else []
        parts += self._notes()
        return "\n".join(parts)

    def to_markdown(self) -> str:
        """The table as Markdown, and below it where it was measured."""
        parts = [tables.as_markdown(self.figures), ""] if self.figures else []
        return "\n".join([*parts, *self._notes()])

    def _notes(self) -> list[str]:
        workers = self.settings["workers"]
        sides = f"{workers} {'worker' if workers == 1 else 'workers'} on each side unless said"
        loads = f"load before the run {self.machine['load']:g}, after it {self.load_after:g}"
        notes = [f"{machine.describe(self.machine)}.", f"{sides}; {loads}."]
        if self.settings["quick"]:
            notes.append("A quick run: little work in few rounds; what is asked for is not judged.")
        notes += [f"Not installed: {name}. To get it: {how}" for name, how in self.missing.items()]
        notes += [f"FAILED: {what}: {why}" for what, why in self.failures.items()]
        if self.interrupted:
            notes.append(
                "Interrupted: the last row has fewer rounds, and what would follow is missing."
            )
        elif not self.figures:
            notes.append("Nothing was measured.")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """What the JSON has: each figure with its rounds in seconds, medians and quartiles."""
        return {
            "format": FORMAT,
            "machine": self.machine,
            "settings": self.settings,
            "load_after": self.load_after,
            "interrupted": self.interrupted,
            "figures": [
                {
                    **asdict(figure),
                    "ours_spread": asdict(spread_of(figure.ours)),
                    "theirs_spread": asdict(spread_of(figure.theirs)),
                    "ratio_spread": asdict(spread_of(figure.ratios)),
                    "is_met": figure.is_met,
                }
                for figure in self.figures
            ],
            "missing": self.missing,
            "failures": self.failures,
        }

    def save(self, path: str | Path) -> None:
        """Write it as JSON, for `load`.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    def __repr__(self) -> str:
        return f"<Report: {len(self.figures)} figures, {machine.describe(self.machine)}>"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def load(path: str | Path) -> Report:
    """Read what ``jupyter pool bench --json`` or `Report.save` has written.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is something else, or of another version.
    """
    try:
        read = json.loads(Path(path).read_text(encoding="utf-8"))
        found = read["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report of `jupyter pool bench --json`: {error}") from error
    if found != FORMAT:
        raise ValueError(f"{path} has format {found}; this version reads format {FORMAT}")
    fields = Figure.__dataclass_fields__
    return Report(
        figures=[
            Figure(**{name: value for name, value in figure.items() if name in fields})
            for figure in read["figures"]
        ],
        **{name: read[name] for name in Report.__dataclass_fields__ if name != "figures"},
    )
