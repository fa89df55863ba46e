"""What several files print at the same time stays apart, and says whose it is."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_pool.cli.printing import Printer
from jupyter_pool.cli.running import Outcome, summary


def text(printed: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": printed}


def test_lines_are_shown_when_they_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(["a", "long"])
    printer.show("a", text("one\ntw"), errors=True)
    printer.show("long", text("l\n"), errors=True)
    assert capsys.readouterr().out == "a    | one\nlong | l\n"
    printer.show("a", text("o\n"), errors=True)
    printer.show("a", text("rest"), errors=True)
    assert capsys.readouterr().out == "a    | two\n"
    printer.end("a")
    assert capsys.readouterr().out == "a    | rest\n"


def test_both_streams_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(["a", "b"])
    printer.show("a", text("out", "stdout"), errors=True)
    printer.show("a", text("err\n", "stderr"), errors=True)
    printer.end("a")
    assert capsys.readouterr() == ("a | out\n", "a | err\n")


def test_a_single_file_is_shown_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(["a"])
    printer.show("a", text("10 %\r"), errors=True)
    assert capsys.readouterr().out == "10 %\r"
    printer.show("a", text("20 %"), errors=True)
    printer.say("a", "broken")
    assert capsys.readouterr() == ("20 %\n", "broken\n")


def test_rich_outputs_are_shown_as_their_text(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(["a", "b"])
    data = {"text/plain": "<Figure>", "image/png": "…"}
    for kind in ("display_data", "execute_result", "update_display_data"):
        printer.show("a", {"output_type": kind, "data": data, "metadata": {}}, errors=True)
    printer.show("a", {"output_type": "clear_output", "wait": True}, errors=True)
    assert capsys.readouterr().out == "a | <Figure>\n" * 3


def test_a_line_without_an_end_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(["a", "b"])
    for number in range(100_000):
        printer.show("a", text(f"\r{number} of many"), errors=True)
    printer.end("a")
    assert capsys.readouterr().out == "a | 99999 of many\n"
    printer.show("a", text("x" * 200_000), errors=True)
    assert capsys.readouterr().out == f"a | {'x' * 200_000}\n"


def test_quiet_leaves_errors(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(["a", "b"], quiet=True)
    error = {
        "output_type": "error",
        "ename": "E",
        "evalue": "v",
        "traceback": ["\x1b[31mE: v\x1b[0m"],
    }
    printer.show("a", text("nothing\n"), errors=True)
    printer.show("a", error, errors=True)
    printer.show("a", error, errors=False)
    assert capsys.readouterr() == ("", "a | E: v\n")


def test_the_summary_counts_and_names() -> None:
    outcomes = [Outcome(name, "done") for name in ("a.py", "c.py", "d.py")]
    assert summary(outcomes, 2.14, interrupted=False) == "3 files done in 2.1 s"
    outcomes.append(Outcome("b.py", "failed", "ValueError: " + "x" * 200))
    told = summary(outcomes, 2.14, interrupted=False)
    assert told.startswith("3 of 4 files done in 2.1 s, 1 failed: b.py (ValueError: xxx")
    assert told.endswith("x…)")
    outcomes.append(Outcome("e.py"))
    told = summary(outcomes, 2.14, interrupted=True)
    assert told.startswith("Interrupted: 3 of 5 files done")
    assert told.endswith(", not finished: e.py")
