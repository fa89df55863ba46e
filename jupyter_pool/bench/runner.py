"""One run of the benchmarks: which rows, against whom, in what order; and what becomes of a failure."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from jupyter_pool.bench import machine, peers, rows
from jupyter_pool.bench.report import Report

__all__ = ["run"]


def run(
    *,
    only: Sequence[str] = (),
    against: Sequence[str] = (),
    workers: int = 2,
    quick: bool = False,
    rounds: int | None = None,
    progress: Callable[[str], object] | None = None,
) -> Report:
    """Measure, and say what was found.

    Parameters
    ----------
    only
        Names of rows; by default all.
    against
        Names of peers; by default all that are installed.
    workers
        How many each side has. What is asked for is meant for 2.
    quick
        Little work in few rounds: to see that it runs. What is asked for is not judged then.
    rounds
        How many pairs of measurements; by default each row's own number.
    progress
        Called with a line of text before each measurement, if given.

    Returns
    -------
    Report
        Also after Ctrl-C, which ends it after the round that runs, with what was measured until then:
        see `Report.interrupted`. A measurement that fails is listed there, and the others go on.

    Raises
    ------
    ValueError
        A name is unknown, a number is too small, or no such row has such a peer.
    """
    _check_names("benchmark", only, rows.ROWS)
    _check_names("peer", against, peers.PEERS)
    for name, number in (("workers", workers), ("rounds", rounds)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    chosen = [
        (name, peer)
        for name, row in rows.ROWS.items()
        for peer in row.bars
        if (not only or name in only) and (not against or peer in against)
    ]
    if not chosen:
        has = "; ".join(f"{name}: {', '.join(rows.ROWS[name].bars)}" for name in only)
        raise ValueError(f"nothing is measured there against {', '.join(against)}. Peers of {has}")
    scale = replace(rows.QUICK if quick else rows.FULL, workers=workers)
    report = Report(
        machine=machine.facts(), settings={"workers": workers, "quick": quick, "rounds": rounds}
    )
    with _Stop(progress or (lambda _: None)) as stop:
        for number, (name, peer) in enumerate(chosen, 1):
            lacking = _lacking(name, peer)
            report.missing.update(lacking)
            if lacking or stop.is_asked:
                continue
            row = rows.ROWS[name]
            work = row.name_at(scale)
            if progress is not None:
                progress(f"[{number}/{len(chosen)}] {work} · {peers.PEERS[peer].title}")
            count = rounds or (row.quick_rounds if quick else row.rounds)
            try:
                figure = rows.compare(
                    name, peer, scale=scale, rounds=count, go_on=lambda: not stop.is_asked
                )
            except Exception as error:  # noqa: BLE001  # whatever a peer raises, the others go on
                report.failures[f"{work}, {peers.PEERS[peer].title}"] = _in_a_line(error)
                continue
            # What is asked for is asked for the full amount of work.
            report.figures.append(replace(figure, at_most=None, aim=None) if quick else figure)
    report.interrupted = stop.is_asked
    report.load_after = machine.load_now()
    return report


class _Stop:
    """The first Ctrl-C asks to stop; a second one is KeyboardInterrupt, as ever.

    An exception may come anywhere, also where a peer holds a lock, which then nobody gives back: its
    `close` would wait for good.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self.is_asked = False

    def __enter__(self) -> _Stop:
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, kind: object, *error: object) -> bool:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        return self.is_asked and kind is KeyboardInterrupt

    def _ask(self, *_: object) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        self._tell("Stopping after this round. Ctrl-C again to stop at once.")


def _check_names(kind: str, names: Sequence[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {kind} {name!r}; there are: {', '.join(known)}")


def _lacking(name: str, peer: str) -> dict[str, str]:
    """What is not installed of what this needs, and how to get it."""
    needed = {peers.PEERS[peer].module: peers.PEERS[peer].package}
    needed |= {module: module for module in rows.ROWS[name].needs}
    return {
        package: peers.install_line(package)
        for module, package in needed.items()
        if not peers.is_installed(module)
    }


def _in_a_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
