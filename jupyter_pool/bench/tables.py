"""Figures as tables: plain text for a terminal, Markdown for a README."""

from __future__ import annotations

from collections.abc import Sequence

from jupyter_pool.bench.paired import Figure, Spread, spread_of

__all__ = ["WIDTH", "as_markdown", "as_text"]

#: The plain table's widest line, unless a name is longer than those of the benchmarks.
WIDTH = 100

_HEADER = ("work", "against", "pool", "peer", "ratio", "at most")


def as_text(figures: Sequence[Figure]) -> str:
    """Two lines for each: medians, ratio, what was asked for; below them the quartiles."""
    rows: list[tuple[str, ...]] = [_HEADER]
    for figure in figures:
        ours, theirs, ratio = map(spread_of, (figure.ours, figure.theirs, figure.ratios))
        rows += [
            (
                figure.work,
                figure.peer,
                _time(ours.middle),
                _time(theirs.middle),
                _ratio(ratio.middle),
                f"{_bar(figure)} {_verdict(figure)}",
            ),
            ("", figure.note, _times(ours), _times(theirs), _ratios(ratio), ""),
        ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_markdown(figures: Sequence[Figure]) -> str:
    """One row for each: medians, the ratio with its quartiles, what was asked for, and if it is so."""
    lines = ["| work | against | pool | peer | ratio (quartiles) | at most | |", "|---" * 7 + "|"]
    for figure in figures:
        ratio = spread_of(figure.ratios)
        cells = (
            figure.work,
            f"{figure.peer}, {figure.note}" if figure.note else figure.peer,
            _time(spread_of(figure.ours).middle),
            _time(spread_of(figure.theirs).middle),
            f"{_ratio(ratio.middle)} ({_ratios(ratio)})",
            _bar(figure),
            _verdict(figure),
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def _verdict(figure: Figure) -> str:
    return {None: "", True: "met", False: "missed"}[figure.is_met]


def _bar(figure: Figure) -> str:
    return "" if figure.at_most is None else f"{figure.at_most:g}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def _ratios(spread: Spread) -> str:
    return f"{_ratio(spread.low)}–{_ratio(spread.high)}"


def _time(seconds: float) -> str:
    digits, unit, factor = _scale(seconds)
    return f"{seconds * factor:.{digits}f} {unit}"


def _times(spread: Spread) -> str:
    """The quartiles, in the unit of the median above them."""
    digits, _, factor = _scale(spread.middle)
    return f"{spread.low * factor:.{digits}f}–{spread.high * factor:.{digits}f}"


def _scale(seconds: float) -> tuple[int, str, int]:
    if seconds >= 1:
        return 2, "s", 1
    return (0, "ms", 1000) if seconds >= 0.1 else (2, "ms", 1000)
