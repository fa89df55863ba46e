"""The modes of the magics that `test_terminal_shell` leaves out, in an IPython without front end."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from integration.notebook.test_terminal_shell import said
from IPython.core.interactiveshell import InteractiveShell

Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("pool")


def run(shell: InteractiveShell, code: str) -> object:
    """Run a cell that must succeed and return its value."""
    done = shell.run_cell(code, store_history=True)
    done.raise_error()
    return done.result


@pytest.fixture
def pool(shell: InteractiveShell) -> Iterator[None]:
    run(shell, "%pool_start --size 1;")
    yield
    run(shell, "%pool_stop")


def test_what_comes_back_is_in_variables(shell: InteractiveShell, capsys: Capture) -> None:
    run(shell, "%%pool_exec --quiet --out x,y --as whole\nprint('unseen')\nx, y = 1, 2")
    assert capsys.readouterr().out == ""
    assert run(shell, "(x, y, whole.stdout)") == (1, 2, "unseen\n")
    assert run(shell, "%pool_last") is shell.user_ns["whole"]


def test_an_error_that_is_not_to_stop_anything_is_text(
    shell: InteractiveShell, capsys: Capture
) -> None:
    run(shell, "%%pool_exec --no-raise-error\n1/0")
    assert "ZeroDivisionError" in capsys.readouterr().err


class _Keyboard(io.StringIO):
    """Stands for a terminal's standard input."""

    def isatty(self) -> bool:
        return True


def test_input_asks_in_the_terminal(
    shell: InteractiveShell, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", _Keyboard("Ada\n"))
    run(shell, "%%pool_exec\nprint('hello', input('who? '))")
    assert capsys.readouterr().out == "who? hello Ada\n"


def test_widgets_are_text_and_hold_no_worker(shell: InteractiveShell, capsys: Capture) -> None:
    run(shell, "%%pool_exec --hold 1h\nimport ipywidgets\ndisplay(ipywidgets.IntSlider(7))")
    assert "IntSlider(value=7)" in capsys.readouterr().out
    assert run(shell, "%pool_exec 1 + 1") == 2  # the only worker


def test_jobs_are_listed_waited_for_and_cancelled(shell: InteractiveShell, capsys: Capture) -> None:
    run(shell, "%%pool_exec --bg quick --out x\nx = 3")
    run(shell, "%pool_wait quick")
    run(shell, "%%pool_exec --bg slow\nimport time\ntime.sleep(600)")
    lines = repr(run(shell, "%pool_jobs")).splitlines()
    assert [line.split()[0] for line in lines] == ["job", "quick", "slow"]
    assert lines[1].split()[1:5] == ["done", "1", "of", "1"]
    run(shell, "%pool_cancel slow")
    slow = shell.user_ns["slow"]
    assert slow.wait(60)
    assert slow.status == "cancelled"
    assert shell.user_ns["x"] == 3
    capsys.readouterr()


def test_a_sweep_in_the_background_is_one_line_and_then_all(
    shell: InteractiveShell, capsys: Capture
) -> None:
    run(shell, "%%pool_exec --bg both --each n=[1, 2] --out m\nprint('item', n)\nm = n * 2")
    run(shell, "%pool_wait both")
    assert shell.user_ns["m"] == [2, 4]
    assert said(capsys)
    run(shell, "both.show()")
    shown = capsys.readouterr().out
    assert re.fullmatch(
        r"\[both\] done · \d+ s\nn=1:\n    item 1\nn=2:\n    item 2\n2 of 2 done\n", shown
    )


def test_programs_are_called_and_give_their_outputs(shell: InteractiveShell) -> None:
    run(
        shell, "%%pool_program scale --in values,by --out scaled\nscaled = [v * by for v in values]"
    )
    result = run(shell, "%pool_call scale values=[1, 2] by=2 + 1")
    assert result.outputs["scaled"] == [3, 6]  # type: ignore[attr-defined]
    assert "scaled" in repr(result)


def test_the_monitor_is_the_same_text_with_html(shell: InteractiveShell) -> None:
    first = repr(run(shell, "%pool_monitor --html")).splitlines()
    assert (
        first[0] == repr(run(shell, "%pool_monitor")).splitlines()[0] == "Pool default: 0 of 1 busy"
    )


def test_a_time_limit_is_told_as_text(shell: InteractiveShell, capsys: Capture) -> None:
    shell.run_cell("%%pool_exec --timeout 0.3\nimport time\ntime.sleep(600)", store_history=True)
    assert "OperationTimeout" in capsys.readouterr().out
