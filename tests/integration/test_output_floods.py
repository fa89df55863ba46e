"""Floods of output: bounded, marked where they were cut, and never at the cost of the end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_pool import AsyncKernelPool, ExecutionError, InvalidRequest, KernelPool, _ansi
from jupyter_pool._reprs import as_terminal
from jupyter_pool.results import ExecutionResult
from support.conditions import eventually
from support.owners import Owner

SMALL = "200kB"
CUT = "[… {} here for now: output_limit={} is reached; the end will follow …]\n"
LEFT_OUT = re.compile(r"\[… ([\d.]+ [kMG]?B)(?: of displays)? left out: output_limit=(\w+) …\]\n")
DEADLINE = 60.0
#: 300 kB of numbers.
FLOOD = "for i in range(3_000): print(f'{i:0100}')"


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    """One worker, so that every test sees what the last one's flood has done to it."""
    # A slow worker is not replaced for being slow to stop.
    with KernelPool(size=1, operation_timeout=DEADLINE, interrupt_grace=10) as pool:
        pool.start(wait=True)
        yield pool


@pytest.fixture(autouse=True)
def same_worker_serves_next(pool: KernelPool) -> Iterator[None]:
    """A flood costs no worker, and nothing of it shows up in the next request."""
    worker = pid(pool)
    yield
    after = pool.execute("print('next'); 1")
    assert (after.stdout, after.stderr, after.data) == ("next\n", "", {"text/plain": "1"})
    assert after.left_out == 0
    assert pid(pool) == worker


def pid(pool: KernelPool) -> int:
    (worker,) = pool.get_status().workers
    assert worker.pid is not None
    return worker.pid


def pieces(text: str, name: str = "stdout ends", limit: str = SMALL) -> tuple[str, str]:
    """What comes before the marker in a stream that was cut, and what after it."""
    head, marker, tail = text.partition(CUT.format(name, limit))
    assert marker, text[-1000:]
    said = LEFT_OUT.match(tail)
    assert said, tail[:300]
    assert said[2] == limit
    return head, tail[said.end() :]


def assert_sent_one_by_one(events: list[dict[str, Any]]) -> None:
    """Ten lines, none of which waited for the next. (One may come in two pieces.)"""
    texts = [event["text"] for event in events]
    assert "".join(texts) == "".join(f"{i}\n" for i in range(10))
    assert not any("\n" in text[:-1] for text in texts)


def numbers(text: str) -> list[int]:
    return [int(line) for line in text.splitlines()]


# -- text ----------------------------------------------------------------------------------------


def test_a_million_prints_have_their_beginning_their_end_and_a_marker(pool: KernelPool) -> None:
    line = "f'{i:07} of a million and then some'"
    result = pool.execute(f"for i in range(1_000_000): print({line})", timeout=None)
    head, tail = pieces(result.stdout, limit="20MB")
    first, last = head.splitlines(), tail.splitlines()
    whole = [f"{i:07} of a million and then some" for i in range(1_000_000)]
    assert first == whole[: len(first)]
    assert last == whole[-len(last) :]
    assert 18_000_000 < len(head) + len(tail) < 20_000_000
    assert len(tail) > 60_000
    assert len(head) + len(tail) + result.left_out == sum(len(text) + 1 for text in whole)
    assert result.stderr == ""
    assert "MB left out" in repr(result)
    assert "left out" in result.to_text()


def test_output_below_the_limit_is_all_there(pool: KernelPool) -> None:
    result = pool.execute("for i in range(20_000): print(i)", output_limit=SMALL)
    assert numbers(result.stdout) == list(range(20_000))
    assert (result.left_out, "left out" in repr(result)) == (0, False)


def test_a_string_of_200_mb_costs_one_copy_of_it_at_most(pool: KernelPool) -> None:
    peak = "import resource; resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"
    before = int(pool.execute(peak).data["text/plain"])
    result = pool.execute("print('<' + 'x' * 200_000_000 + '>')")
    head, tail = pieces(result.stdout, limit="20MB")
    assert head.startswith("<xx")
    assert tail.endswith("xx>\n")
    assert len(head.removesuffix("\n")) + len(tail) + result.left_out == 200_000_003
    after = int(pool.execute(peak).data["text/plain"])
    unit = 1 if psutil.MACOS else 1024
    # The two strings of the expression itself, and less than one more.
    assert (after - before) * unit < 600_000_000


@pytest.mark.parametrize("text", ["'é☃' * 150_000", "'\\0\\n' * 150_000", "'𝒳' * 200_000"])
def test_a_limit_is_in_bytes_as_they_travel(pool: KernelPool, text: str) -> None:
    result = pool.execute(f"print({text})", output_limit=SMALL)
    head, _ = pieces(result.stdout)
    assert 100_000 < len(repr_as_sent(head)) < 160_000
    assert result.stdout.startswith(eval(text)[:20_000])


def repr_as_sent(text: str) -> bytes:
    import json

    return json.dumps(text, ensure_ascii=False).encode()


def test_each_stream_that_is_cut_says_so_itself(pool: KernelPool) -> None:
    result = pool.execute(
        "import sys\nfor i in range(6_000):\n"
        "    print(f'{i:050}')\n    if i % 2: print(f'{i:050}', file=sys.stderr)\nprint('bye')",
        output_limit=SMALL,
    )
    for stream, name in ((result.stdout, "stdout ends"), (result.stderr, "stderr ends")):
        head, tail = pieces(stream, name)
        assert head.startswith(("0" * 50 + "\n", "0" * 49 + "1\n"))
        assert tail.endswith(("05999\n", "bye\n"))


def test_many_flushes_are_sent_together(pool: KernelPool) -> None:
    events: list[dict[str, Any]] = []
    result = pool.execute(
        "import logging\nlogging.basicConfig()\nfor i in range(20_000):\n"
        "    print(i, flush=True)\n    if not i % 100: logging.warning(i)",
        on_output=events.append,
    )
    assert numbers(result.stdout) == list(range(20_000))
    assert len(result.stderr.splitlines()) == 200
    assert len(events) < 2_000


def test_a_few_flushes_are_sent_at_once_each(pool: KernelPool) -> None:
    events: list[dict[str, Any]] = []
    pool.execute("for i in range(10): print(i, flush=True)", on_output=events.append)
    assert_sent_one_by_one(events)


def test_a_flood_of_flushes_does_not_concern_the_next_request(pool: KernelPool) -> None:
    events: list[dict[str, Any]] = []
    flood = pool.submit_code("for i in range(2_000): print(i, flush=True)")
    after = pool.submit_code("for i in range(10): print(i, flush=True)", on_output=events.append)
    flood.result(DEADLINE)
    after.result(DEADLINE)
    assert_sent_one_by_one(events)


def test_a_child_process_that_floods_is_read_to_its_end(pool: KernelPool) -> None:
    result = pool.execute(
        "import os; os.system('echo FIRST; yes | head -c 50000000; echo LAST');",
        output_limit=SMALL,
    )
    head, tail = pieces(result.stdout)
    assert head.startswith("FIRST\ny\n")
    assert tail.endswith("y\nLAST\n")
    assert len(head) + len(tail) + result.left_out == len("FIRST\nLAST\n") + 50_000_000


def test_a_flood_from_a_thread_is_part_of_the_request(pool: KernelPool) -> None:
    result = pool.execute(
        "import threading\n"
        "def flood():\n    for i in range(3_000): print(f'{i:0100}')\n"
        "t = threading.Thread(target=flood); t.start()\n"
        "for i in range(1000): print('main')\n"
        "t.join()",
        output_limit=SMALL,
    )
    head, tail = pieces(result.stdout)
    assert "main\n" in head + tail
    assert "02999\n" in tail


# -- displays ------------------------------------------------------------------------------------


def test_many_displays_have_their_first_and_last_and_the_value(
    pool: KernelPool,
) -> None:
    result = pool.execute(
        "print('begin')\nfor i in range(3_000): display(i)\nprint('end')\n'value'",
        output_limit=SMALL,
    )
    shown = [
        int(output["data"]["text/plain"])
        for output in result.display_outputs
        if output["output_type"] == "display_data"
    ]
    gap = next(n for n, (a, b) in enumerate(zip(shown, shown[1:], strict=False)) if b != a + 1)
    assert gap > 50
    assert shown[: gap + 1] == list(range(gap + 1))
    assert shown[gap + 1 :] == list(range(3_000 - len(shown) + gap + 1, 3_000))
    assert pieces(result.stderr, "displays end") == ("", "")
    assert result.data == {"text/plain": "'value'"}
    assert result.stdout.startswith("begin\n")
    assert result.stdout.endswith("end\n")
    assert result.left_out > 0


def test_a_display_that_is_too_large_is_replaced_in_its_place(pool: KernelPool) -> None:
    result = pool.execute(
        "from IPython.display import HTML\ndisplay(1)\ndisplay(HTML('x' * 30_000_000))\ndisplay(2)",
    )
    assert [output["data"] for output in result.display_outputs] == [
        {"text/plain": "1"},
        {
            "text/plain": "<IPython.core.display.HTML object>\n"
            "[… text/html of 30 MB left out: output_limit=20MB …]"
        },
        {"text/plain": "2"},
    ]
    assert result.left_out == 30_000_000


def test_a_value_that_is_too_large_shows_its_beginning_and_its_end(pool: KernelPool) -> None:
    result = pool.execute("'<' + 'x' * 30_000_000 + '>'")
    text = result.data["text/plain"]
    assert re.fullmatch(r"'<x+\n\[… 30 MB left out: output_limit=20MB …\]\nx+>'", text)
    assert 10_000 < len(text) < 100_000
    assert result.left_out == pytest.approx(30_000_000, rel=0.01)


def test_nested_data_that_is_too_large_is_named_by_a_line(pool: KernelPool) -> None:
    result = pool.execute(
        "display({'application/json': {'a': ['x' * 1000] * 1000}}, raw=True)\ndisplay(2)",
        output_limit=SMALL,
    )
    line, two = result.display_outputs
    assert re.fullmatch(
        r"\[… a display of 1(\.\d+)? MB left out: output_limit=200kB …\]\n", line["text"]
    )
    assert two["data"] == {"text/plain": "2"}


def test_messages_of_widgets_do_not_use_up_the_limit(pool: KernelPool) -> None:
    result = pool.execute(
        "from comm import create_comm\nwidget = create_comm('w')\n"
        "for i in range(1000): widget.send('x' * 1000)\nprint('seen')\n3",
        output_limit=SMALL,
    )
    assert (result.stdout, result.data, result.left_out) == ("seen\n", {"text/plain": "3"}, 0)


# -- what replaces earlier output ------------------------------------------------------------------


def test_a_display_that_is_updated_for_ever_shows_its_last_state(pool: KernelPool) -> None:
    result = pool.execute(
        "bar = display('begin', display_id=True)\nfor i in range(5_000): bar.update(i)\nprint('end')",
        output_limit=SMALL,
    )
    (shown,) = (o for o in result.display_outputs if o["output_type"] == "display_data")
    assert shown["data"] == {"text/plain": "4999"}
    assert "end\n" in result.stdout
    assert (result.stderr, result.left_out) == ("", 0)


def test_a_cell_that_clears_itself_for_ever_shows_its_last_state(pool: KernelPool) -> None:
    result = pool.execute(
        "from IPython.display import clear_output\nfor i in range(3_000):\n"
        "    clear_output(wait=True)\n    print('step', i)\n    display(i)",
        output_limit=SMALL,
    )
    text, number = result.display_outputs
    assert text["text"] == "step 2999\n"
    assert number["data"] == {"text/plain": "2999"}
    assert result.left_out == 0


def test_a_progress_bar_goes_on_moving_and_ends_where_it_ends(pool: KernelPool) -> None:
    moving = threading.Event()

    def watch(event: dict[str, Any]) -> None:
        if cut.is_set() and re.fullmatch(r"\r\d+ %", event.get("text", "")):
            moving.set()
        if "stderr ends here for now" in event.get("text", ""):
            cut.set()

    cut = threading.Event()
    result = pool.execute(
        "import sys, time\nstop = time.monotonic() + 3\ni = 0\n"
        "while time.monotonic() < stop or i < 100_000:\n"
        "    i += 1\n    sys.stderr.write(f'\\r{i} %')\n"
        "sys.stderr.write('\\rdone     ')",
        output_limit=SMALL,
        on_output=watch,
    )
    assert moving.is_set()
    assert as_terminal(result.stderr).splitlines()[-1].rstrip() == "done"


# -- the end -------------------------------------------------------------------------------------


def test_an_error_after_a_flood_arrives(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError, match="ZeroDivisionError") as caught:
        pool.execute(f"{FLOOD}\n1 / 0", output_limit=SMALL)
    assert caught.value.result is not None
    assert caught.value.result.display_outputs[-1]["ename"] == "ZeroDivisionError"
    _, tail = pieces(caught.value.result.stdout)
    assert tail.endswith("02999\n")


def test_an_error_with_an_endless_text_is_cut_in_the_middle(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError) as caught:
        pool.execute("raise ValueError('<' + 'x' * 30_000_000 + '>')")
    assert caught.value.ename == "ValueError"
    assert re.fullmatch(r"<x+\n\[… 30 MB left out …\]\nx+>", caught.value.evalue)
    assert caught.value.result is not None
    (shown,) = caught.value.result.display_outputs
    for traceback in (caught.value.traceback, shown["traceback"]):
        assert sum(map(len, traceback)) < 300_000
        assert "raise ValueError" in _ansi.strip("".join(traceback))


def test_a_flood_that_runs_out_of_time_has_its_end(pool: KernelPool) -> None:
    result = pool.execute(
        "i = 0\nwhile True:\n    print(i)\n    i += 1", output_limit=SMALL, timeout=2, check=False
    )
    assert result.status == "timeout"
    head, tail = pieces(result.stdout)
    last = numbers(tail)
    assert numbers(head)[:3] == [0, 1, 2]
    assert last == list(range(last[0], last[-1] + 1))
    assert result.display_outputs[-1]["ename"] == "KeyboardInterrupt"


def test_outputs_come_back_from_a_flood(pool: KernelPool) -> None:
    assert pool.execute(FLOOD, outputs=["i"], output_limit=SMALL).outputs["i"] == 2_999


# -- who does not read ---------------------------------------------------------------------------


def test_a_consumer_that_stalls_holds_up_nobody_else_and_gets_everything(
    pool: KernelPool,
) -> None:
    stalled, go_on = threading.Event(), threading.Event()
    got: list[ExecutionResult] = []
    seen: list[str] = []

    def stall(event: dict[str, Any]) -> None:
        stalled.set()
        go_on.wait(DEADLINE)
        seen.append(event.get("text", ""))

    def flood() -> None:
        got.append(pool.execute(FLOOD, output_limit=SMALL, on_output=stall))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        assert stalled.wait(DEADLINE)
        assert pool.execute("'served meanwhile'").status == "ok"
        assert not got
    finally:
        go_on.set()
        thread.join(DEADLINE)
    assert "".join(seen) == got[0].stdout
    assert pieces(got[0].stdout)[1].endswith("2999\n")


def test_an_owner_that_is_stopped_fills_no_memory_and_finds_the_end(tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
print('begin', flush=True)
while not os.path.exists({str(tmp_path / "flood")!r}): time.sleep(0.01)
for i in range(30_000): print(i, '-' * 1000)
for i in range(3_000): display(i)
Path({str(tmp_path / "ready")!r}).touch()
"""
    script = f"""
with KernelPool(size=1) as pool:
    pool.start(wait=True)
    say(pids(pool)[0])
    seen = []
    r = pool.execute({code!r}, output_limit="1MB", timeout=None,
                     on_output=lambda event: seen or (seen.append(1), say("begun")))
    say([r.status, r.stdout[:8], r.stdout[-80:], r.left_out, r.data])
    say(pool.execute("print('next'); 1").stdout)
    say(pids(pool)[0])
"""
    with Owner(script) as owner:
        worker = psutil.Process(owner.hear())
        assert owner.hear() == "begun"
        before = worker.memory_info().rss
        os.kill(owner.process.pid, signal.SIGSTOP)
        try:
            (tmp_path / "flood").touch()
            eventually((tmp_path / "ready").exists, "the flood to end", within=DEADLINE)
            assert worker.memory_info().rss - before < 20_000_000
        finally:
            os.kill(owner.process.pid, signal.SIGCONT)
        status, first, last, left_out, _ = owner.hear()
        assert (status, first) == ("ok", "begin\n0 ")
        assert last.endswith(f"{'-' * 70}\n")
        assert left_out > 29_000_000
        assert owner.hear() == "next\n"
        assert owner.hear() == worker.pid
        assert owner.wait() == 0


def test_a_child_that_never_stops_writing_does_not_hold_up_the_end() -> None:
    with KernelPool(size=1, output_limit=SMALL) as pool:
        result = pool.execute(
            # It reads of our output what it takes to know that it is cut already.
            "import subprocess, sys\nsubprocess.Popen(['yes'])\n"
            "limit = get_ipython().kernel.iopub_thread.limit\nwhile not limit.over: pass",
            timeout=DEADLINE,
        )
        head, tail = pieces(result.stdout)
        assert set((head + tail).splitlines()) == {"y"}
        assert pool.execute("print('next')").stdout == "next\n"


# -- the option ----------------------------------------------------------------------------------


def test_the_pools_own_limit_is_the_default() -> None:
    with KernelPool(size=1, output_limit="100kB") as pool:
        assert pieces(pool.execute(FLOOD).stdout, limit="100kB")
        assert pool.execute(FLOOD, output_limit=None).left_out == 0
        assert pool.submit_code(FLOOD).result(DEADLINE).left_out > 0


def test_a_view_a_request_and_no_limit(pool: KernelPool) -> None:
    view = pool.options(output_limit=50_000)
    assert pieces(view.execute(FLOOD).stdout, limit="50kB")
    assert pieces(view.execute(FLOOD, output_limit="70 KB").stdout, limit="70kB")
    assert numbers(view.execute(FLOOD, output_limit="none").stdout) == list(range(3_000))
    assert pieces(view.submit_code(FLOOD).result(DEADLINE).stdout, limit="50kB")


def test_each_execution_of_a_lease_has_the_whole_limit(pool: KernelPool) -> None:
    with pool.options(output_limit=SMALL).checkout() as worker:
        for _ in range(3):
            head, _ = pieces(worker.execute(FLOOD).stdout)
            assert len(head) > 100_000
        assert worker.execute(FLOOD, output_limit=None).left_out == 0


def test_an_asynchronous_pool_takes_it_too() -> None:
    async def main() -> list[int]:
        async with AsyncKernelPool(size=1, output_limit=SMALL) as pool:
            results = [await pool.execute(FLOOD), await pool.execute(FLOOD, output_limit=None)]
            async with pool.checkout() as worker:
                results.append(await worker.execute(FLOOD))
                results.append(await worker.execute(FLOOD, output_limit="5MB"))
            return [bool(result.left_out) for result in results]

    assert asyncio.run(main()) == [True, False, True, False]


@pytest.mark.parametrize("wrong", [0, 9_999, "much", -1, True])
def test_an_impossible_limit_is_refused(pool: KernelPool, wrong: Any) -> None:
    with pytest.raises(InvalidRequest, match="output_limit"):
        pool.execute("1", output_limit=wrong)
    with pytest.raises(InvalidRequest, match="output_limit"):
        pool.options(output_limit=wrong).execute("1")
