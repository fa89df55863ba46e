"""The rows of the table: what is done, against whom, and what the ratio is to be at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

from jupyter_pool.bench import peers, sides
from jupyter_pool.bench.paired import Figure, measure
from jupyter_pool.bench.sides import FULL, QUICK, Opener, Scale, WrongResult

__all__ = ["FULL", "QUICK", "ROWS", "Bar", "Row", "Scale", "WrongResult", "compare"]


class Bar(NamedTuple):
    """What the ratio is to be at most, and what would be good."""

    at_most: float | None = None
    aim: float | None = None


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Attributes
    ----------
    title
        With the fields of the scale in braces.
    bars
        Who it is measured against.
    open
        Takes the name of the peer and the scale.
    rounds, quick_rounds
        How many pairs there are by default.
    needs
        Modules without which there is nothing to measure.
    """

    title: str
    bars: Mapping[str, Bar]
    open: Opener
    rounds: int
    quick_rounds: int = 3
    needs: tuple[str, ...] = ()

    def name_at(self, scale: Scale) -> str:
        """What the table calls it."""
        return self.title.format(**asdict(scale))


def compare(
    name: str,
    peer: str,
    *,
    scale: Scale = FULL,
    rounds: int | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> Figure:
    """Measure one row against one peer, until `go_on` says no.

    Raises
    ------
    WrongResult
        One of the two did something else than it was asked to.
    """
    row = ROWS[name]
    bar = row.bars[peer]
    with row.open(peer, scale) as opened:
        return measure(
            row.name_at(scale),
            opened.ours,
            peers.PEERS[peer].title,
            opened.theirs,
            rounds=rounds or row.rounds,
            at_most=bar.at_most,
            aim=bar.aim,
            row=name,
            note=opened.note,
            go_on=go_on,
        )


_SUBMIT_BARS = {
    "processpool": Bar(1.2, 0.9),
    "loky": Bar(1.0),
    "ipyparallel": Bar(0.08),
    "dask": Bar(0.07),
}

#: By the name that chooses them, in the order of the table.
ROWS = {
    "submit": Row(
        "submit(f, 1).result(), p50",
        _SUBMIT_BARS,
        sides.both(sides.one_call),
        rounds=500,
        quick_rounds=50,
    ),
    "submit-loop": Row(
        "submit, {calls} in a row, p50",
        _SUBMIT_BARS,
        sides.both(sides.calls_in_a_row),
        rounds=15,
        quick_rounds=5,
    ),
    "map": Row(
        "{mapped:,} tiny tasks by map",
        {"processpool": Bar(0.25, 0.05)},
        sides.both(sides.mapped),
        rounds=5,
    ),
    "map-best": Row(
        "{mapped:,} tiny tasks by map",
        {"processpool": Bar(1.5, 1.0)},
        sides.open_map_best,
        rounds=11,
    ),
    "in-flight": Row(
        "{in_flight:,} submits in flight",
        {"processpool": Bar(1.0, 0.7)},
        sides.both(sides.in_flight),
        rounds=5,
    ),
    "argument": Row(
        "{array_mb} MB argument",
        {"processpool": Bar(0.25, 0.1)},
        sides.both(sides.argument),
        rounds=9,
        needs=("numpy",),
    ),
    "result": Row(
        "{array_mb} MB result",
        {"processpool": Bar(0.25, 0.1)},
        sides.both(sides.result),
        rounds=9,
        needs=("numpy",),
    ),
    "put": Row(
        "{tasks} tasks over {shared_mb} MB, put",
        {"joblib": Bar(1.0, 0.5)},
        sides.both(sides.put, sides.put_with_joblib),
        rounds=7,
        needs=("numpy",),
    ),
    "cell": Row(
        "cell 1 + 1, its result, p50",
        {"jupyter_client": Bar(0.5, 0.35)},
        sides.both(sides.cell, sides.cell_in_stock_kernel),
        rounds=300,
        quick_rounds=30,
    ),
    "idle": Row(
        "a call, {idle} idle workers",
        {"pool": Bar(1.15, 1.05)},
        sides.both(sides.calls_in_a_row, sizes=lambda scale: (scale.idle, 1)),
        rounds=25,
        quick_rounds=5,
    ),
    "start": Row(
        "{workers} workers ready",
        {"jupyter_client": Bar(), "ipyparallel": Bar(), "dask": Bar()},
        sides.open_start,
        rounds=5,
        quick_rounds=1,
    ),
}
