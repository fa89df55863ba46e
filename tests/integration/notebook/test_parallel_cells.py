"""`%%pool_exec --each`: a cell once for each item, in parallel."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from support.conditions import eventually

if TYPE_CHECKING:
    from integration.notebook.front_end import Message, Notebook, Run


def plain(notebook: Notebook, code: str) -> list[str]:
    """The lines that a cell shows at its end."""
    return str(last(notebook.ok(code))["text/plain"]).splitlines()


def last(run: Run) -> dict[str, str]:
    """What a cell shows at its end; the display before it is of the progress, on a slow machine."""
    data: dict[str, str] = run.of("display_data")[-1]["data"]
    return data


def test_what_comes_back_is_a_list_in_the_order_of_the_items(notebook: Notebook) -> None:
    shown = plain(notebook, "%%pool_exec --each n=range(20) --out square\nsquare = n * n")
    assert shown == ["20 of 20 done"]
    assert notebook.ok("square == [n * n for n in range(20)]").text == "True"


def test_items_run_at_the_same_time(notebook: Notebook, tmp_path: Path) -> None:
    # Each waits for the other.
    code = (
        "%%pool_exec --each me,other=[('a', 'b'), ('b', 'a')] --out met\nimport os, time\n"
        f"folder = {os.fspath(tmp_path)!r}\nopen(f'{{folder}}/{{me}}', 'w').close()\n"
        "while not os.path.exists(f'{folder}/{other}'): time.sleep(0.01)\nmet = me + other"
    )
    notebook.ok(code)
    assert notebook.ok("met").text == "['ab', 'ba']"


def test_at_most_so_many_run_at_a_time(notebook: Notebook, tmp_path: Path) -> None:
    code = (
        "%%pool_exec --each n=range(6) --max 1 --out alone\nimport os, time\n"
        f"path = {os.fspath(tmp_path / 'busy')!r}\nalone = not os.path.exists(path)\n"
        "open(path, 'w').close()\ntime.sleep(0.02)\nos.remove(path)"
    )
    notebook.ok(code)
    assert notebook.ok("alone").text == str([True] * 6)


def test_a_failure_sits_in_its_slot_and_the_last_line_names_it(notebook: Notebook) -> None:
    shown = plain(
        notebook,
        "%%pool_exec --each rate=[0.1, 0.5, 0.9] --out score --as sweep\n"
        "if rate > 0.8: raise ValueError('too fast')\nscore = rate * 10",
    )
    assert shown[-1] == "2 of 3 done, 1 failed (rate=0.9: ValueError)"
    assert notebook.ok("score[:2], type(score[2]).__name__, score[2].evalue").text == (
        "([1.0, 5.0], 'ExecutionError', 'too fast')"
    )
    assert notebook.ok("list(sweep.errors), sweep.items[2], sweep.results[2].status").text == (
        "([2], {'rate': 0.9}, 'error')"
    )
    assert (
        notebook.ok("(_ := get_ipython().run_line_magic('pool_last', '')) is sweep").text == "True"
    )


def test_outputs_are_grouped_by_item_and_folded_up(notebook: Notebook) -> None:
    run = notebook.ok(
        "%%pool_exec --each n=range(3)\nif n:\n    print('hello', n)\n    display('<b>')"
    )
    text, html = last(run)["text/plain"], last(run)["text/html"]
    assert text == ("n=1:\n    hello 1\n    '<b>'\nn=2:\n    hello 2\n    '<b>'\n3 of 3 done")
    assert re.findall(r"<summary[^>]*>([^<]*)</summary>", html) == ["n=1", "n=2"]
    assert "&lt;b&gt;" in html
    quiet = plain(notebook, "%%pool_exec -q --each n=range(3)\nprint('hello', n)")
    assert quiet == ["3 of 3 done"]


def test_a_plot_of_an_item_is_an_image_in_its_group(notebook: Notebook) -> None:
    run = notebook.ok(
        "%%pool_exec --each n=[1]\nimport matplotlib.pyplot as plt\nplt.plot([n, 2]);"
    )
    assert 'src="data:image/png;base64,iVBOR' in last(run)["text/html"]


def test_a_traceback_names_the_cell_and_its_line(notebook: Notebook) -> None:
    run = notebook.ok("%%pool_exec --each n=[1]\n\n1/0")
    assert f"Cell In[{run.reply['execution_count']}], line 3" in last(run)["text/plain"]


def test_a_table_has_parameters_outputs_and_errors(notebook: Notebook) -> None:
    notebook.ok(
        "%%pool_exec --each a=[1, 2] --each b='xy' --out c --as sweep\nassert (a, b) != (2, 'y')\n"
        "c = b * a"
    )
    assert notebook.ok("sweep.to_frame().columns.to_list()").text == "['a', 'b', 'c', 'error']"
    assert notebook.ok("sweep.to_frame().fillna('-').values.tolist()").text == (
        "[[1, 'x', 'x', '-'],\n [1, 'y', 'y', '-'],\n [2, 'x', 'xx', '-'],\n"
        " [2, 'y', '-', 'AssertionError']]"
    )


def test_failed_items_are_run_again_and_complete_the_lists(
    notebook: Notebook, tmp_path: Path
) -> None:
    path = os.fspath(tmp_path / "there")
    notebook.ok(f"path = {path!r}")
    notebook.ok(
        "%%pool_exec --each n=range(4) --seed 1 --out value --as sweep\nimport random\n"
        "if n % 2: open(path).close()\nvalue = (n, random.random())"
    )
    assert notebook.ok("kept = value\nsweep.summary()").text == (
        "'2 of 4 done, 2 failed (n=1: FileNotFoundError, n=3: FileNotFoundError)'"
    )
    (tmp_path / "there").touch()
    # Also as the value of the cell it is there once; later as ever.
    run = notebook.ok("sweep.retry_failed()")
    assert last(run)["text/plain"] == "4 of 4 done"
    assert run.of("execute_result") == []
    assert notebook.ok("sweep").text == "4 of 4 done"
    assert notebook.ok("sweep.retry_failed()").text == "4 of 4 done"  # nothing ran
    assert notebook.ok("[n for n, _ in kept], sweep.errors").text == "([0, 1, 2, 3], {})"
    # With the seeds of before, so as if nothing had happened.
    notebook.ok(
        "%%pool_exec --each n=range(4) --seed 1 --out again\nimport random\n"
        "again = (n, random.random())"
    )
    assert notebook.ok("again == kept").text == "True"


def test_seeds_make_each_item_reproducible_and_different(notebook: Notebook) -> None:
    code = "%%pool_exec --each n=range(4) {} --out r\nimport numpy\nr = numpy.random.rand()"
    drawn = []
    for seed in ("--seed 3", "--seed 3", "--seed 4", ""):
        notebook.ok(code.format(seed))
        drawn.append(notebook.ok("r").text)
    assert drawn[0] == drawn[1]
    assert len({*drawn}) == 3
    assert notebook.ok("len(set(r))").text == "4"


def test_shared_variables_are_as_they_were_and_each_item_has_its_own(notebook: Notebook) -> None:
    notebook.ok(
        "import numpy\nbig = numpy.zeros(300_000)\nseen = []\ndef f(n): return n + len(big)"
    )
    notebook.ok(
        "%%pool_exec --each n=range(4) --out total\nbig[n] = 1\nseen.append(n)\n"
        "total = (f(n), big.sum(), len(seen))"
    )
    assert (
        notebook.ok("total == [(n + 300_000, 1, 1) for n in range(4)], seen").text == "(True, [])"
    )


def test_large_shared_variables_are_sent_once_to_a_worker(notebook: Notebook) -> None:
    # What is put is counted where it is stored; an item brings only its own.
    notebook.ok(
        "from jupyter_pool import get_pool\nfrom jupyter_pool.kernel import data\n"
        "class Counted(bytes):\n    pass\nlarge = Counted(3_000_000)\n"
        "requests = []\ndriver = get_pool('default').running()\noriginal = driver.submit\n"
        "def submit(request):\n    requests.append(sum(memoryview(f).nbytes for f in request.frames))\n"
        "    original(request)\ndriver.submit = submit"
    )
    notebook.ok("%%pool_exec --each n=range(6) --out size\nsize = len(large) + n")
    notebook.ok("del driver.submit")
    assert notebook.ok("size == [3_000_000 + n for n in range(6)]").text == "True"
    assert notebook.ok("len(requests), max(requests) < 10_000").text == "(6, True)"


def test_parameters_win_over_variables_of_that_name(notebook: Notebook) -> None:
    notebook.ok("rate = 99")
    notebook.ok("%%pool_exec --each rate=[1, 2] --out got\ngot = rate")
    assert notebook.ok("got, rate").text == "([1, 2], 99)"


def test_handles_stay_in_the_notebook_and_say_what_to_send(notebook: Notebook) -> None:
    notebook.ok("%%pool_exec --each n=[1] --as sweep\nn")
    said = notebook.run("%%pool_exec --in sweep\nsweep").reply["evalue"]
    assert "a sweep stays in its notebook: send sweep.outputs or sweep.to_frame()" in said
    notebook.ok("%%pool_exec --bg train\n1;")
    said = notebook.run("%%pool_exec --in train\ntrain").reply["evalue"]
    assert "a job stays in its notebook: send what its result() gives" in said
    notebook.ok("%pool_wait")


def test_one_item_that_cannot_be_sent_fails_alone(notebook: Notebook) -> None:
    notebook.ok("import threading")
    shown = plain(notebook, "%%pool_exec --each x=[1, threading.Lock()] --out y\ny = x")
    assert shown[-1].startswith("1 of 2 done, 1 failed (x=")
    assert notebook.ok("y[0], type(y[1]).__name__").text == "(1, 'SerializationError')"


def test_time_limits_and_deaths_are_each_items_own(notebook: Notebook) -> None:
    shown = plain(
        notebook,
        "%%pool_exec --each n=range(3) --timeout 2 --out y\nimport os\n"
        "if n == 1: os._exit(1)\nwhile n == 2: pass\ny = n",
    )
    assert shown[-1] == "1 of 3 done, 2 failed (n=1: WorkerDied, n=2: OperationTimeout)"


def test_an_item_whose_worker_dies_is_run_again_if_asked_for(
    notebook: Notebook, tmp_path: Path
) -> None:
    code = (
        "%%pool_exec --each n=range(3) --retries 1 --out y\nimport os\n"
        f"path = {os.fspath(tmp_path / 'once')!r}\n"
        "if n == 1 and not os.path.exists(path):\n    open(path, 'w').close()\n    os._exit(1)\ny = n"
    )
    assert plain(notebook, code) == ["3 of 3 done"]
    assert notebook.ok("y").text == "[0, 1, 2]"


def test_what_is_sent_and_where_it_runs_are_chosen_for_all_items(notebook: Notebook) -> None:
    notebook.ok("given, ungiven = 1, 2")
    notebook.ok(
        "%%pool_exec --each n=range(2) --in given --isolation process --output-limit 10kB "
        "--as sweep --out seen\nimport os\nprint('x' * 50_000)\n"
        "seen = ('given' in globals(), 'ungiven' in globals(), os.getpid())\nlambda: ungiven;"
    )
    assert notebook.ok("[s[:2] for s in seen]").text == "[(True, False), (True, False)]"
    assert notebook.ok("len({s[2] for s in seen})").text == "2"  # processes
    assert notebook.ok("all(r.left_out > 30_000 for r in sweep.results)").text == "True"


def test_a_session_counts_every_item(notebook: Notebook) -> None:
    notebook.ok("%%pool_exec --each n=range(5) --session swept\nn")
    assert notebook.ok("s = %pool_sessions swept\ns.requests").text == "5"


def test_ctrl_c_stops_all_and_keeps_what_is_done(notebook: Notebook, tmp_path: Path) -> None:
    code = (
        "%%pool_exec --each n=range(50) --out y --as sweep\nimport time\ny = n\n"
        f"if n > 1:\n    open({os.fspath(tmp_path)!r} + f'/{{n}}', 'w').close()\n    time.sleep(600)"
    )
    request = notebook.send(code)
    eventually(lambda: {"2", "3"} <= set(os.listdir(tmp_path)), "both workers are busy")
    notebook.manager.interrupt_kernel()
    run = notebook.result(request)
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert "Interrupting the workers…\n" in run.stream("stderr")
    assert set(os.listdir(tmp_path)) == {"2", "3"}
    assert notebook.ok("sweep.summary(), y[:2]").text == "('2 of 50 done, 48 stopped', [0, 1])"
    assert notebook.ok("%%pool_exec\n'well'").text == "'well'"


def test_progress_shows_after_a_second_and_goes_away(notebook: Notebook, tmp_path: Path) -> None:
    gate = tmp_path / "go on"
    code = (
        "%%pool_exec --each n=range(3)\nimport os, time\n"
        f"while n and not os.path.exists({os.fspath(gate)!r}): time.sleep(0.01)"
    )
    told: list[str] = []

    def watch(message: Message) -> None:
        if message["msg_type"] == "update_display_data":
            told.append(message["content"]["data"].get("text/plain", ""))
            if "1 of 3 done" in told[-1]:
                gate.touch()  # without progress the cell would never end

    run = notebook.result(notebook.send(code), watch)
    assert told[-1] == ""
    assert run.kinds[-2:] == ["clear_output", "display_data"]


def test_a_parallel_cell_in_the_background(notebook: Notebook) -> None:
    notebook.ok("%%pool_exec --bg many --each n=range(6) --out y\ny = 10 // n")
    assert notebook.ok("many.result().summary()").text == (
        "'5 of 6 done, 1 failed (n=0: ZeroDivisionError)'"
    )
    assert notebook.ok("y[1:], many.status").text == "([10, 5, 3, 2, 2], 'failed')"
    (shown,) = notebook.ok("many").of("display_data")
    assert shown["data"]["text/plain"].endswith("5 of 6 done, 1 failed (n=0: ZeroDivisionError)")


def test_a_parallel_cell_in_the_background_is_cancelled(notebook: Notebook, tmp_path: Path) -> None:
    notebook.ok(
        "%%pool_exec --bg many --each n=range(6)\nimport time\n"
        f"open({os.fspath(tmp_path)!r} + f'/{{n}}', 'w').close()\ntime.sleep(600)"
    )
    eventually(lambda: len(os.listdir(tmp_path)) == 2, "both workers are busy")
    notebook.ok("%pool_cancel many\n%pool_wait many")
    assert notebook.ok("many.status, many.result().summary()").text == (
        "('cancelled', '0 of 6 done, 6 stopped')"
    )


def test_other_cells_do_not_wait_for_the_whole_sweep(notebook: Notebook, tmp_path: Path) -> None:
    begun, gate = tmp_path / "begun", tmp_path / "go on"
    begun.mkdir()
    notebook.ok(
        "%%pool_exec --bg many --each n=range(200)\nimport os, time\n"
        f"open({os.fspath(begun)!r} + f'/{{n}}', 'w').close()\n"
        f"while not os.path.exists({os.fspath(gate)!r}): time.sleep(0.01)\ntime.sleep(0.05)"
    )

    def go_on(message: Message) -> None:
        if message["msg_type"] == "update_display_data":
            gate.touch()  # it says that it waits

    request = notebook.send(f"%%pool_exec\nimport os\nlen(os.listdir({os.fspath(begun)!r}))")
    assert int(notebook.result(request, go_on).text) < 100
    notebook.ok("many.cancel()\nmany.result()")


def test_misuse_is_told_before_anything_runs(notebook: Notebook) -> None:
    for code, said in [
        ("%%pool_exec --each x=nothing\nx", "NameError"),
        ("%%pool_exec --each x=5\nx", "range(5) counts to it"),
        ("%pool_exec --each x=[1] x", "take a cell below"),
    ]:
        run = notebook.run(code)
        assert run.stream("stderr").startswith("UsageError: ")
        assert said in run.stream("stderr")
