"""The benchmark suite's arithmetic, tables and JSON, without anything being measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool.bench import load, machine, run
from jupyter_pool.bench.paired import Figure, Spread, measure, spread_of
from jupyter_pool.bench.peers import PEERS
from jupyter_pool.bench.report import Report
from jupyter_pool.bench.rows import FULL, QUICK, ROWS, Row
from jupyter_pool.bench.tables import WIDTH, as_markdown, as_text
from jupyter_pool.cli.bench import BenchApp

FIGURE = Figure("work", "peer", [0.001, 0.003, 0.002], [0.01, 0.01, 0.01], 0.5, 0.1, "row")


def a_report() -> Report:
    return Report(
        figures=[FIGURE, replace(FIGURE, at_most=0.1, note="as is best for it")],
        machine=machine.facts(),
        settings={"workers": 2, "quick": False, "rounds": None},
        missing={"loky": "pip install loky"},
        failures={"work, dask": "RuntimeError: no"},
        load_after=1.5,
    )


# --- pairs --------------------------------------------------------------------------------------


def test_the_sides_take_turns_in_who_is_first() -> None:
    seen: list[str] = []

    def side(name: str, took: float) -> float:
        seen.append(name)
        return took

    figure = measure(
        "work", lambda: side("a", 1.0), "peer", lambda: side("b", 2.0), rounds=3, at_most=0.5
    )
    assert "".join(seen) == "abbaab"
    assert (figure.ours, figure.theirs) == ([1.0] * 3, [2.0] * 3)


def test_measuring_ends_after_a_whole_round_when_it_is_told_to() -> None:
    answers = iter([True, False])
    figure = measure(
        "work", lambda: 1.0, "peer", lambda: 1.0, rounds=10, go_on=lambda: next(answers)
    )
    assert len(figure.ours) == len(figure.theirs) == 2


def test_one_round_is_measured_even_if_there_is_to_be_no_other() -> None:
    figure = measure("work", lambda: 1.0, "peer", lambda: 1.0, rounds=10, go_on=lambda: False)
    assert figure.ratios == [1.0]


def test_the_ratio_is_the_median_of_the_pairs_not_the_ratio_of_medians() -> None:
    figure = Figure("work", "peer", [1.0, 4.0, 9.0], [1.0, 2.0, 90.0])
    assert figure.ratios == [1.0, 2.0, 0.1]
    assert figure.ratio == 1.0


@pytest.mark.parametrize(
    ("at_most", "is_met"), [(0.3, True), (0.2, True), (0.1, False), (None, None)]
)
def test_what_is_asked_for_is_met_up_to_the_figure_itself(
    at_most: float | None, is_met: bool | None
) -> None:
    assert Figure("work", "peer", [2.0], [10.0], at_most).is_met is is_met


@pytest.mark.parametrize(
    ("values", "spread"),
    [
        ([5.0], Spread(5, 5, 5)),
        ([1.0, 3.0], Spread(1.5, 2, 2.5)),
        ([5.0, 1.0, 3.0, 2.0, 4.0], Spread(2, 3, 4)),
    ],
)
def test_the_spread_is_median_and_quartiles(values: list[float], spread: Spread) -> None:
    assert spread_of(values) == spread


# --- tables -------------------------------------------------------------------------------------


def test_the_table_has_medians_and_below_them_quartiles() -> None:
    header, medians, quartiles = as_text([replace(FIGURE, note="a note")]).splitlines()
    assert header.split() == ["work", "against", "pool", "peer", "ratio", "at", "most"]
    assert medians.split() == ["work", "peer", "2.00", "ms", "10.00", "ms", "0.20", "0.5", "met"]
    assert quartiles.split() == ["a", "note", "1.50–2.50", "10.00–10.00", "0.15–0.25"]


def test_a_missed_figure_says_so_and_one_without_a_bar_says_nothing() -> None:
    text = as_text([replace(FIGURE, at_most=0.1), replace(FIGURE, at_most=None)])
    _, missed, _, nothing, _ = text.splitlines()
    assert missed.endswith("0.20       0.1 missed")
    assert nothing.endswith("0.20")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00012, "0.12 ms"),
        (0.0994, "99.40 ms"),
        (0.25, "250 ms"),
        (1.5, "1.50 s"),
        (75, "75.00 s"),
    ],
)
def test_times_have_the_unit_that_fits(seconds: float, text: str) -> None:
    assert f" {text} " in as_text([replace(FIGURE, ours=[seconds], theirs=[0.5])])


def test_small_ratios_keep_two_digits() -> None:
    assert "0.050" in as_text([replace(FIGURE, ours=[0.01], theirs=[0.2])])


def test_the_markdown_has_one_row_for_each() -> None:
    lines = as_markdown([FIGURE, replace(FIGURE, note="chunksize 16", at_most=None)]).splitlines()
    assert lines[2] == "| work | peer | 2.00 ms | 10.00 ms | 0.20 (0.15–0.25) | 0.5 | met |"
    assert lines[3].startswith("| work | peer, chunksize 16 | ")
    assert {line.count("|") for line in lines} == {8}


def test_the_table_of_a_full_run_fits() -> None:
    slow = [99.99, 99.99]
    figures = [
        Figure(row.name_at(FULL), PEERS[peer].title, slow, slow, 1.15, note="chunksize 256")
        for row in ROWS.values()
        for peer in row.bars
    ]
    assert max(map(len, as_text(figures).splitlines())) <= WIDTH


# --- reports ------------------------------------------------------------------------------------


def test_a_report_is_read_as_it_was_saved(tmp_path: Path) -> None:
    report = a_report()
    report.save(tmp_path / "figures.json")
    assert asdict(load(tmp_path / "figures.json")) == asdict(report)


def test_a_report_is_short_where_it_is_shown_as_text() -> None:
    assert repr(a_report()).startswith("<Report: 2 figures, ")
    assert len(repr(a_report())) < 150


def test_the_json_has_rounds_spreads_and_the_machine(tmp_path: Path) -> None:
    a_report().save(tmp_path / "figures.json")
    read = json.loads((tmp_path / "figures.json").read_text())
    figure = read["figures"][0]
    assert figure["ours"] == FIGURE.ours
    assert figure["ratio_spread"] == pytest.approx({"low": 0.15, "middle": 0.2, "high": 0.25})
    assert figure["is_met"] is True
    assert read["machine"]["cpu"]
    assert read["machine"]["cpus"] >= 1
    assert read["machine"]["python"] == sys.version.split()[0]
    assert {"jupyter-pool", "jupyter_client", "pyzmq"} <= set(read["machine"]["versions"])
    assert {"date", "load", "memory", "system"} <= set(read["machine"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "no report"),
        ("[]", "no report"),
        ("{}", "no report"),
        ('{"format": 99}', "has format 99; this version reads format 1"),
    ],
)
def test_what_is_no_report_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("as_what", [Report.to_text, Report.to_markdown])
def test_a_report_says_what_is_missing_what_failed_and_where_it_was(as_what: object) -> None:
    assert callable(as_what)
    text = as_what(a_report())
    assert machine.cpu_model() in text
    assert "Load before".lower() in text
    assert "Not installed: loky. To get it: pip install loky" in text
    assert "FAILED: work, dask: RuntimeError: no" in text
    assert "Interrupted" not in text
    assert "quick" not in text


def test_a_quick_or_interrupted_report_says_so() -> None:
    report = a_report()
    report.settings["quick"] = report.interrupted = True
    assert "A quick run" in report.to_text()
    assert "Interrupted" in report.to_text()


# --- choosing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"only": ["sumbit"]}, "no benchmark 'sumbit'; there are: submit, "),
        ({"against": ["celery"]}, "no peer 'celery'; there are: processpool, "),
        ({"workers": 0}, "workers must be at least 1, not 0"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"only": ["cell"], "against": ["dask"]}, "against dask. Peers of cell: jupyter_client"),
    ],
)
def test_what_cannot_be_measured_is_an_error_that_says_what_can(
    options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        run(**options)


def test_what_is_not_installed_is_listed_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jupyter_pool.bench.peers.is_installed", lambda module: False)
    report = run(only=["put", "submit"], against=["joblib", "dask"])
    assert set(report.missing) == {"joblib", "distributed", "numpy"}
    assert report.missing["distributed"] == f'"{sys.executable}" -m pip install distributed'
    assert not report.figures
    assert "Nothing was measured." in report.to_text()


def test_a_failing_measurement_is_reported_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compare(name: str, peer: str, **options: object) -> Figure:
        if name == "submit":
            raise OSError("it\nbroke")
        return replace(FIGURE, row=name)

    monkeypatch.setattr("jupyter_pool.bench.rows.compare", compare)
    report = run(only=["submit", "map"], against=["processpool"])
    assert report.failures == {
        "submit(f, 1).result(), p50, ProcessPoolExecutor": "OSError: it broke"
    }
    assert [figure.row for figure in report.figures] == ["map"]


def test_a_quick_run_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_pool.bench.rows.compare", lambda *_, **__: FIGURE)
    assert run(only=["map"], quick=True).figures[0].is_met is None
    assert run(only=["map"]).figures[0].is_met is True


def test_every_row_is_against_known_peers_and_has_a_smaller_scale() -> None:
    for row in ROWS.values():
        assert set(row.bars) <= set(PEERS)
        assert row.quick_rounds <= row.rounds
    smaller = [name for name, full in asdict(FULL).items() if getattr(QUICK, name) < full]
    assert set(smaller) == set(asdict(FULL)) - {"workers"}


def test_the_bars_are_those_that_were_asked_for() -> None:
    bars = {
        (name, peer): bar.at_most for name, row in ROWS.items() for peer, bar in row.bars.items()
    }
    assert bars["submit", "processpool"] == 1.2
    assert bars["submit", "loky"] == 1.0
    assert bars["submit", "ipyparallel"] == 0.08
    assert bars["submit", "dask"] == 0.07
    assert bars["map", "processpool"] == 0.25
    assert bars["map-best", "processpool"] == 1.5
    assert bars["in-flight", "processpool"] == 1.0
    assert bars["argument", "processpool"] == bars["result", "processpool"] == 0.25
    assert bars["put", "joblib"] == 1.0
    assert bars["cell", "jupyter_client"] == 0.5
    assert bars["idle", "pool"] == 1.15


def test_the_titles_are_unique_with_their_peers() -> None:
    def titles(row: Row) -> set[str]:
        return {f"{row.name_at(FULL)}, {PEERS[peer].title}" for peer in row.bars}

    # The same work, once with the defaults and once with what is best for the peer.
    rows = [row for name, row in ROWS.items() if name != "map-best"]
    assert sum(map(len, map(titles, rows))) == len(set().union(*map(titles, rows)))


# --- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--only", "submit", "map", "--quick", "--peers", "loky"],
        ["--only=submit", "--only=map", "--peers=loky", "--quick"],
        ["--quick", "--peers", "loky", "--only", "submit", "--only", "map"],
    ],
)
def test_names_are_given_one_after_another_or_each_with_its_option(words: list[str]) -> None:
    app = BenchApp()
    app.parse_command_line(words)
    assert (app.only, app.peers, app.quick) == (["submit", "map"], ["loky"], True)
    assert app.extra_args == []


def test_the_help_names_every_benchmark_and_every_peer() -> None:
    for name in ROWS:
        assert name in BenchApp.only.help
    for name in PEERS:
        assert name in BenchApp.peers.help


def test_workers_load_nothing_else_with_their_tasks() -> None:
    code = (
        "import sys, jupyter_pool.bench.tasks\n"
        "print(sorted(m for m in sys.modules if m.startswith('jupyter_pool.') or m == 'numpy'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "numpy" not in done.stdout
    assert "jupyter_pool.pool" not in done.stdout
    assert "jupyter_pool.bench.rows" not in done.stdout
