"""Paired measurements: ours and a peer's in turn, in one run, so that a noisy machine hits both alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table: medians in seconds of both sides, and the median ratio of the pairs."""

    work: str
    peer: str
    ours: list[float]
    theirs: list[float]
    at_most: float

    @property
    def ratio(self) -> float:
        return statistics.median(
            ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)
        )


def measure(
    work: str,
    ours: Callable[[], float],
    peer: str,
    theirs: Callable[[], float],
    *,
    rounds: int,
    at_most: float,
) -> Figure:
    """Call both in turn; each returns the seconds that its work took. Who is first alternates."""
    a: list[float] = []
    b: list[float] = []
    for number in range(rounds):
        pair: Sequence[tuple[list[float], Callable[[], float]]] = ((a, ours), (b, theirs))
        for results, side in pair if number % 2 == 0 else reversed(pair):
            results.append(side())
    return Figure(work, peer, a, b, at_most)


def table(figures: Sequence[Figure]) -> str:
    """The figures as text: medians with their spread (minimum to maximum), ratio, bar."""
    rows = [("work", "ours", "against", "theirs", "ratio", "at most")]
    rows += [
        (
            figure.work,
            _spread(figure.ours),
            figure.peer,
            _spread(figure.theirs),
            f"{figure.ratio:.3f}",
            f"{figure.at_most:g}",
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _spread(seconds: list[float]) -> str:
    low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
    return f"{_time(middle)} ({_time(low)} – {_time(high)})"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.2f} ms"
