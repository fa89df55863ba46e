"""Paired measurements: ours and a peer's in turn, in one run, so that a noisy machine hits both alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Figure", "Spread", "measure", "spread_of"]


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and what half of them lie within: their quartiles."""

    low: float
    middle: float
    high: float


def spread_of(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one number."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, middle, high)


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes
    ----------
    work, peer
        What was done, and by whom else.
    ours, theirs
        Seconds of each round, in order: those of one index belong together.
    at_most, aim
        What the ratio is to be at most, and what would be good; None where nothing is asked for.
    row
        The name of the benchmark, as it is chosen by.
    note
        How the peer was used, where that is not its default.
    """

    work: str
    peer: str
    ours: list[float]
    theirs: list[float]
    at_most: float | None = None
    aim: float | None = None
    row: str = ""
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours divided by theirs, for each pair."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool | None:
        """Whether the ratio is what was asked for; None where nothing was."""
        return None if self.at_most is None else self.ratio <= self.at_most


def measure(
    work: str,
    ours: Callable[[], float],
    peer: str,
    theirs: Callable[[], float],
    *,
    rounds: int,
    at_most: float | None = None,
    aim: float | None = None,
    row: str = "",
    note: str = "",
    go_on: Callable[[], bool] = lambda: True,
) -> Figure:
    """Call both in turn; each returns the seconds that its work took. Who is first alternates.

    Before each round but the first, `go_on` is asked whether there is to be another.
    """
    a: list[float] = []
    b: list[float] = []
    for number in range(rounds):
        if number and not go_on():
            break
        pair: Sequence[tuple[list[float], Callable[[], float]]] = ((a, ours), (b, theirs))
        for results, side in pair if number % 2 == 0 else reversed(pair):
            results.append(side())
    return Figure(work, peer, a, b, at_most, aim, row, note)
