"""The magics in an IPython without front end: everything as text, reports, life of pools."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from jupyter_pool.notebook import jobs
from jupyter_pool.notebook.job import Job
from jupyter_pool.notebook.render import OptionsTable
from jupyter_pool.pool import KernelPool, get_pool, list_pools
from jupyter_pool.reports import HealthReport, PoolStats, PoolStatus, SessionInfo
from support.conditions import eventually

Capture = pytest.CaptureFixture[str]


class _Terminal:
    """Stands for a terminal's standard error; touches a file when something is written."""

    def __init__(self, gate: Path) -> None:
        self.text = ""
        self.gate = gate

    def write(self, text: str) -> int:
        self.text += text
        self.gate.touch()
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def run(shell: InteractiveShell, code: str) -> object:
    """Run a cell that must succeed and return its value."""
    return shell.run_cell(code, store_history=True).result


def said(capsys: Capture) -> str:
    """What was printed up to the ends of all jobs: the thread that tells of them is over then."""
    eventually(
        lambda: all(thread.name != "jupyter_pool jobs" for thread in threading.enumerate()),
        "all jobs end",
    )
    return capsys.readouterr().out


@pytest.fixture
def pool(shell: InteractiveShell) -> Iterator[None]:
    run(shell, "%pool_start --size 2;")
    yield
    run(shell, "%pool_stop")


@pytest.mark.usefixtures("pool")
def test_outputs_are_plain_text(shell: InteractiveShell, capsys: Capture) -> None:
    run(
        shell,
        "%%pool_exec\nimport pandas as pd\nprint('hi')\ndisplay(pd.Series([1]))\n"
        "pd.DataFrame({'a': [1]})",
    )
    out = re.sub(r"Out\[\d+\]", "Out[n]", capsys.readouterr().out)
    assert out == "hi\n0    1\ndtype: int64\nOut[n]: \n   a\n0  1\n"


@pytest.mark.usefixtures("pool")
def test_an_error_is_shown_as_the_remote_traceback(
    shell: InteractiveShell, capsys: Capture
) -> None:
    shell.run_cell("%%pool_exec\n1/0", store_history=True)
    out = capsys.readouterr().out
    assert "division by zero" in out
    assert "magics.py" not in out


@pytest.mark.usefixtures("pool")
def test_the_line_magic_works_in_an_expression(shell: InteractiveShell) -> None:
    run(shell, "n = 20\nvalue = %pool_exec n * 2 + 2")
    assert shell.user_ns["value"] == 42


@pytest.mark.usefixtures("pool")
def test_reports_are_objects_with_text_and_html(shell: InteractiveShell) -> None:
    run(shell, "%%pool_exec --session alice\n1;")
    reports = {
        "%pool_status": PoolStatus,
        "%pool_stats": PoolStats,
        "%pool_health": HealthReport,
        "%pool_config": OptionsTable,
        "%pool_sessions alice": SessionInfo,
    }
    assert shell.display_formatter is not None
    for magic, kind in reports.items():
        report = shell.run_line_magic(*magic.removeprefix("%").partition(" ")[::2])
        assert isinstance(report, kind)
        data, _ = shell.display_formatter.format(report)
        assert data["text/plain"]
        assert "<" in data["text/html"]
    sessions = shell.run_line_magic("pool_sessions", "")
    assert sessions["alice"].requests == 1
    assert "alice" in repr(sessions)
    assert "alice" in sessions._repr_html_()


@pytest.mark.usefixtures("pool")
def test_a_checked_status_shows_the_health_too(shell: InteractiveShell, capsys: Capture) -> None:
    status = shell.run_line_magic("pool_status", "--check")
    assert isinstance(status, PoolStatus)
    assert "Health: healthy" in capsys.readouterr().out


@pytest.mark.usefixtures("pool")
def test_resize_restart_and_drain_reach_the_pool(shell: InteractiveShell) -> None:
    def ready() -> list[int]:
        pool = get_pool("default")
        assert isinstance(pool, KernelPool)
        pool.start(wait=True, timeout=60)
        return [w.id for w in pool.get_status().workers if w.state == "idle"]

    first, second = ready()
    shell.run_line_magic("pool_restart", str(first))
    after_restart = ready()
    assert first not in after_restart
    assert second in after_restart
    shell.run_line_magic("pool_drain", "")
    assert not set(ready()) & set(after_restart)
    assert shell.run_line_magic("pool_resize", "3").config["size"] == 3
    assert len(ready()) == 3
    status = shell.run_line_magic("pool_resize", "--size 1 --overflow 2")
    assert (status.config["size"], status.config["overflow"]) == (1, 2)


def test_pools_start_and_stop_by_name(shell: InteractiveShell) -> None:
    shell.run_line_magic("pool_start", "--name first --size 1")
    shell.run_line_magic("pool_start", "--name second --size 1 --overflow 1")
    assert list_pools() == ["first", "second"]
    assert run(shell, "%pool_exec --pool second 1 + 1") == 2
    shell.run_line_magic("pool_stop", "--pool first")
    assert list_pools() == ["second"]
    shell.run_line_magic("pool_stop", "--pool second --timeout 5")
    assert list_pools() == []


def test_a_kernel_that_cannot_start_is_reported_and_leaves_no_pool(
    shell: InteractiveShell, capsys: Capture
) -> None:
    shell.run_cell("%pool_start --size 1 --env PYTHONHOME=/nowhere --start-timeout 20")
    out = capsys.readouterr().out
    assert "WorkerStartError" in out
    assert list_pools() == []


def test_options_of_a_new_pool_are_shown_without_one(shell: InteractiveShell) -> None:
    table = shell.run_line_magic("pool_config", "")
    assert table["size"] >= 1
    assert list_pools() == []
    assert "How many workers the pool keeps" in table._repr_html_()


def test_nothing_has_run_yet(shell: InteractiveShell, capsys: Capture) -> None:
    shell.run_cell("%pool_last")
    assert "nothing has been run" in capsys.readouterr().err


@pytest.mark.usefixtures("pool")
def test_waiting_is_one_line_that_is_erased_again(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    terminal = _Terminal(tmp_path / "gate")
    monkeypatch.setattr(sys, "stderr", terminal)
    pool = get_pool("default")
    assert isinstance(pool, KernelPool)
    pool.resize(size=1)
    blocker = pool.submit_code(
        "import os, time\nwhile not os.path.exists(gate): time.sleep(0.01)",
        inputs={"gate": str(terminal.gate)},
    )
    assert run(shell, "%pool_exec 1 + 1") == 2
    blocker.result(timeout=60)
    assert terminal.text.startswith("\r\x1b[2KWaiting for a worker: 1 busy, you are next.")
    assert terminal.text.endswith("\r\x1b[2K")


@pytest.mark.usefixtures("pool")
def test_a_background_cell_says_when_it_begins_and_ends(
    shell: InteractiveShell, capsys: Capture, tmp_path: Path
) -> None:
    shell.user_ns["gate"] = str(tmp_path / "gate")
    run(
        shell,
        "%%pool_exec --bg train --out x\nimport os, time\n"
        "while not os.path.exists(gate): time.sleep(0.01)\nprint('hi')\nx = 1",
    )
    (tmp_path / "gate").touch()
    assert re.fullmatch(
        r"\[train\] (waiting|running) · \d+ s\n\[train\] done · \d+ s\n", said(capsys)
    )
    assert run(shell, "x") == 1
    capsys.readouterr()
    run(shell, "train.show()")
    assert re.fullmatch(r"\[train\] done · \d+ s\nhi\n", capsys.readouterr().out)


def fail_in_background(shell: InteractiveShell, gate: Path) -> None:
    """Have it fail when its handle is shown already."""
    shell.user_ns["gate"] = str(gate)
    run(
        shell,
        "%%pool_exec --bg train\nimport os, time\n"
        "while not os.path.exists(gate): time.sleep(0.01)\n1/0",
    )
    gate.touch()


@pytest.mark.usefixtures("pool")
def test_a_failed_background_cell_says_so_once(
    shell: InteractiveShell, capsys: Capture, tmp_path: Path
) -> None:
    fail_in_background(shell, tmp_path / "gate")
    assert said(capsys).endswith(" s: ZeroDivisionError: division by zero\n")
    run(shell, "1")
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("pool")
def test_what_the_next_cell_has_just_told_of_is_not_told_again(
    shell: InteractiveShell, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_end, told = Job._say_end, []

    def late(job: Job) -> None:
        told.append(job.announcement())
        say_end(job)

    monkeypatch.setattr(Job, "_say_end", late)
    fail_in_background(shell, tmp_path / "gate")
    assert "ZeroDivisionError" not in said(capsys)
    assert [text.partition(" failed ")[0] for text in told] == ["[train]"]


@pytest.mark.usefixtures("pool")
def test_a_parallel_cell_is_plain_text(shell: InteractiveShell, capsys: Capture) -> None:
    run(shell, "%%pool_exec --each n=[1, 2] --out m\nprint('hi')\nm = n * 2")
    assert capsys.readouterr().out == "n=1:\n    hi\nn=2:\n    hi\n2 of 2 done\n"
    assert shell.user_ns["m"] == [2, 4]


@pytest.mark.usefixtures("pool")
def test_unloading_cancels_jobs_and_forgets_them(shell: InteractiveShell, capsys: Capture) -> None:
    callbacks = list(shell.events.callbacks["pre_run_cell"])
    run(shell, "%%pool_exec --bg train\nimport time\ntime.sleep(600)")
    train = shell.user_ns["train"]
    run(shell, "%unload_ext jupyter_pool")
    assert train.status == "cancelled"
    assert jobs.snapshot() == []
    assert shell.events.callbacks["pre_run_cell"] == callbacks
    assert not any(thread.name == "jupyter_pool jobs" for thread in threading.enumerate())
    run(shell, "%load_ext jupyter_pool")
