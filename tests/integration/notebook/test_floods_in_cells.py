"""Floods of output in a notebook: in order, to their end, and never in the way of the person."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.conditions import eventually

if TYPE_CHECKING:
    from integration.notebook.front_end import Message, Notebook

#: The notebook is reached by TCP, which takes in more at once.
TCP = True

LINES = "for i in range(3_000): print(f'{i:0100}')"
CUT = "[… stdout ends here for now: output_limit=200kB is reached; the end will follow …]\n"


def test_a_flood_of_text_has_its_marker_and_its_end_in_the_cell(notebook: Notebook) -> None:
    run = notebook.ok(f"%%pool_exec --output-limit 200kB --as run\n{LINES}\n'value'")
    head, marker, tail = run.stream("stdout").partition(CUT)
    assert marker
    said, _, tail = tail.partition("\n")
    assert said.startswith("[… ")
    assert said.endswith(" kB left out: output_limit=200kB …]")
    numbers = [int(line) for line in (head + tail).splitlines()]
    assert numbers == sorted(set(numbers))
    assert (numbers[0], numbers[-1]) == (0, 2_999)
    assert run.text == "'value'"
    assert run.kinds[-1] == "execute_result"
    assert notebook.ok("run.left_out > 100_000, run.stdout.count('left out')").text == "(True, 1)"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [3_500, pytest.param(20_000, marks=pytest.mark.benchmark)])
def test_thousands_of_displays_arrive_in_order_at_the_default_limit(
    notebook: Notebook, count: int
) -> None:
    run = notebook.ok(f"%%pool_exec\nfor i in range({count}): display(i)\n'end'")
    assert run.kinds == ["display_data"] * count + ["execute_result"]
    texts = [content["data"]["text/plain"] for content in run.of("display_data")]
    assert texts == [str(i) for i in range(count)]


def test_an_interrupt_during_a_flood_ends_it_and_the_next_cell_is_clean(
    notebook: Notebook,
) -> None:
    request = notebook.send("%%pool_exec\ni = 0\nwhile True:\n    print(i)\n    i += 1")
    asked = False

    def interrupt(message: Message) -> None:
        nonlocal asked
        if not asked and message["msg_type"] == "stream":
            asked = True
            notebook.manager.interrupt_kernel()

    run = notebook.result(request, interrupt)
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert notebook.ok("%%pool_exec\nprint('clean')").stream("stdout") == "clean\n"
    assert notebook.ok("1 + 1").text == "2"


def test_an_interrupt_while_a_flood_is_shown_at_its_pace_skips_to_its_end(
    notebook: Notebook, tmp_path: Path
) -> None:
    pace = "import jupyter_pool.notebook.pace as pace; pace._MESSAGES = {}"
    notebook.ok(pace.format(100))
    request = notebook.send(
        "%%pool_exec\nimport pathlib, time\nfor i in range(1_000): display(i)\n"
        f"pathlib.Path({str(tmp_path / 'all')!r}).touch()\nwhile True: time.sleep(0.01)"
    )
    shown = 0

    def interrupt(message: Message) -> None:
        nonlocal shown
        shown += message["msg_type"] == "display_data"
        if shown == 100 and message["msg_type"] == "display_data":
            # The others wait for their turn, in the notebook's kernel.
            eventually((tmp_path / "all").exists)
            notebook.manager.interrupt_kernel()

    run = notebook.result(request, interrupt)
    notebook.ok(pace.format(2800))
    assert run.reply["ename"] == "KeyboardInterrupt"
    numbers = [int(content["data"]["text/plain"]) for content in run.of("display_data")]
    assert numbers == sorted(numbers)
    assert numbers[:100] == list(range(100))
    assert numbers[-20:] == list(range(980, 1_000))
    assert "outputs are not shown" in run.stream("stderr")
    assert notebook.ok("%%pool_exec\n1").text == "1"


def test_a_flood_that_is_captured_or_not_shown_stays_out_of_the_cell(notebook: Notebook) -> None:
    run = notebook.ok(f"%%capture seen\n%%pool_exec --output-limit 200kB\n{LINES}")
    assert run.kinds == []
    text = notebook.ok("print(seen.stdout)").stream("stdout")
    assert CUT in text
    assert text.endswith("002999\n\n")
    quiet = notebook.ok(f"%%pool_exec --quiet --output-limit 200kB --as run\n{LINES}")
    assert quiet.kinds == []
    assert notebook.ok("run.left_out > 0").text == "True"
