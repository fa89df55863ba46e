"""`jupyter pool bench`, run as a user runs it, and small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_pool.bench import load, run
from support.conditions import eventually, gone

COMMAND = [sys.executable, "-m", "jupyter_pool.cli", "bench"]


def bench(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_quick_run_prints_the_table_and_writes_the_json(tmp_path: Path) -> None:
    done = bench(
        "--quick", "--only", "submit", "map", "--peers", "processpool",
        "--json", "figures.json", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "[1/2] submit(f, 1).result(), p50 · ProcessPoolExecutor",
        "[2/2] 2,000 tiny tasks by map · ProcessPoolExecutor",
        "Wrote figures.json",
    ]
    lines = done.stdout.splitlines()
    assert lines[0].split()[:2] == ["work", "against"]
    assert max(map(len, lines)) <= 100
    assert "A quick run" in lines[-1]
    report = load(tmp_path / "figures.json")
    assert [(figure.row, len(figure.ours)) for figure in report.figures] == [
        ("submit", 50),
        ("map", 3),
    ]
    assert all(0 < seconds < 60 for figure in report.figures for seconds in figure.theirs)
    assert report.to_text() == done.stdout.rstrip("\n")


def test_markdown_rounds_and_workers_are_as_asked_for(tmp_path: Path) -> None:
    done = bench(
        "--quick", "--only=map", "--rounds=2", "--workers=1", "--markdown", "--json=f.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| work | against | pool | peer | ratio (quartiles) |")
    assert "1 worker on each side" in done.stdout
    read = json.loads((tmp_path / "f.json").read_text())
    assert read["settings"] == {"workers": 1, "quick": True, "rounds": 2}
    assert len(read["figures"][0]["ours"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "sumbit"], "no benchmark 'sumbit'; there are: submit"),
        (["--peers", "celery"], "no peer 'celery'; there are: processpool"),
        (["--rounds", "0"], "rounds must be at least 1, not 0"),
        (["--json", "no/such/folder.json"], "cannot write no/such/folder.json: No such file"),
        (["map"], "it takes options only, not 'map'"),
    ],
)
def test_a_mistake_is_answered_at_once(tmp_path: Path, arguments: list[str], says: str) -> None:
    done = bench(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_ctrl_c_prints_what_there_is_and_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--quick", "--only", "map", "in-flight", "--rounds=1000000", "--json=f.json"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr
        assert process.stderr.readline().startswith("[1/2]")
        this = psutil.Process(process.pid)
        # The peer's workers, and the pool's, which are grandchildren.
        eventually(lambda: len(this.children(recursive=True)) > 3)
        started = [child.pid for child in this.children(recursive=True)]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "Stopping after this round. Ctrl-C again to stop at once.\nWrote f.json\n"
    assert "2,000 tiny tasks by map" in out
    assert "in flight" not in out
    assert "Interrupted" in out
    report = load(tmp_path / "f.json")
    assert report.interrupted
    assert len(report.figures[0].ours) == len(report.figures[0].theirs) >= 1
    eventually(gone(started))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "peer"),
    [
        pytest.param("submit", "loky", marks=pytest.mark.requires("module:loky")),
        pytest.param("submit", "ipyparallel", marks=pytest.mark.requires("module:ipyparallel")),
        pytest.param("submit", "dask", marks=pytest.mark.requires("module:distributed")),
        pytest.param("put", "joblib", marks=pytest.mark.requires("module:joblib", "module:numpy")),
        pytest.param("argument", "processpool", marks=pytest.mark.requires("module:numpy")),
        pytest.param("result", "processpool", marks=pytest.mark.requires("module:numpy")),
        ("map-best", "processpool"),
        ("submit-loop", "processpool"),
        ("in-flight", "processpool"),
        ("cell", "jupyter_client"),
        ("start", "jupyter_client"),
        ("idle", "pool"),
    ],
)
def test_each_benchmark_and_each_peer_runs_and_leaves_nothing(
    tmp_path: Path, row: str, peer: str
) -> None:
    done = bench(
        "--quick", "--rounds=1", "--only", row, "--peers", peer, "--json=f.json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr  # nobody talks in between
    report = load(tmp_path / "f.json")
    assert [figure.row for figure in report.figures] == [row]
    assert report.figures[0].ratio > 0
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


def test_a_wrong_result_is_a_failure_not_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_pool.bench.sides._open", lambda *_: _Wrong(1))
    report = run(only=["submit"], against=["pool", "processpool"], quick=True)
    assert not report.figures
    (why,) = report.failures.values()
    assert why == "WrongResult: expected 1, got 2"


class _Wrong(ThreadPoolExecutor):
    """Somebody who answers 2."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        return super().submit(lambda: 2)
