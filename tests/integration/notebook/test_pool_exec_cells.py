"""`%%pool_exec` in a notebook's kernel: what arrives in the cell."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.cells import Gate

if TYPE_CHECKING:
    from integration.notebook.front_end import Message, Notebook


def _plain(lines: list[str]) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines))


# -- outputs ----------------------------------------------------------------------------------


def test_outputs_arrive_as_what_they_are_and_in_order(notebook: Notebook) -> None:
    run = notebook.ok(
        "%%pool_exec\nimport sys\nprint('one')\ndisplay('two')\nprint('three', file=sys.stderr)\n"
        "sys.stderr.flush()\nprint('four')\n'five'"
    )
    seen = [
        (kind, content.get("name") or content["data"]["text/plain"], content.get("text"))
        for kind, content in zip(run.kinds, [m["content"] for m in run.messages], strict=True)
    ]
    assert seen == [
        ("stream", "stdout", "one\n"),
        ("display_data", "'two'", None),
        ("stream", "stderr", "three\n"),
        ("stream", "stdout", "four\n"),
        ("execute_result", "'five'", None),
    ]


def test_outputs_appear_while_the_cell_runs(notebook: Notebook, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    request = notebook.send(
        "%%pool_exec\nimport os, time\nprint('started', flush=True)\n"
        f"while not os.path.exists({str(go_on)!r}): time.sleep(0.01)\nprint('ended')"
    )

    def answer(message: Message) -> None:
        if message["content"].get("text") == "started\n":
            go_on.touch()  # without a live output the cell would never end

    assert notebook.result(request, answer).stream("stdout") == "started\nended\n"


def test_the_last_expression_is_the_cells_own_result(notebook: Notebook) -> None:
    run = notebook.ok("%%pool_exec\nimport pandas as pd\npd.DataFrame({'a': [1, 2]})")
    (content,) = run.of("execute_result")
    count = run.reply["execution_count"]
    assert content["execution_count"] == count
    assert set(content["data"]) == {"text/plain", "text/html"}
    local = notebook.ok("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert content["data"] == local.of("execute_result")[0]["data"]
    assert notebook.ok(f"Out[{count}]").text == content["data"]["text/plain"]
    assert notebook.ok(f"Out[{count}].result.status").text == "'ok'"


def test_timings_ride_in_the_metadata_and_are_not_printed(notebook: Notebook) -> None:
    run = notebook.ok("%%pool_exec --session timed\n1 + 1")
    about = run.of("execute_result")[0]["metadata"]["jupyter_pool"]
    assert about["pool"] == "default"
    assert about["session"] == "timed"
    assert about["worker"] >= 1
    assert 0 <= about["ran"] <= about["total"]
    assert run.kinds == ["execute_result"]


def test_nothing_is_shown_for_a_semicolon_or_a_statement(notebook: Notebook) -> None:
    assert notebook.ok("%%pool_exec\n1 + 1;").kinds == []
    assert notebook.ok("%%pool_exec\nx = 1").kinds == []


def test_a_plot_arrives_as_an_image_after_the_value(notebook: Notebook) -> None:
    run = notebook.ok("%%pool_exec\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])")
    assert run.kinds == ["execute_result", "display_data"]
    (content,) = run.of("display_data")
    assert base64.b64decode(content["data"]["image/png"]).startswith(b"\x89PNG")
    assert content["data"]["text/plain"].startswith("<Figure size")


def test_an_image_as_value_keeps_its_data_and_metadata(notebook: Notebook) -> None:
    code = (
        "import base64\nfrom IPython.display import Image\nImage(base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4"
        "nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=='), width=20)"
    )
    (remote,) = notebook.ok(f"%%pool_exec\n{code}").of("execute_result")
    (local,) = notebook.ok(code).of("execute_result")
    assert remote["data"] == local["data"]
    assert local["metadata"] == {"image/png": {"width": 20}}
    remote["metadata"].pop("jupyter_pool")
    assert remote["metadata"] == local["metadata"]


def test_updates_reach_the_runs_own_displays_and_never_the_notebooks(notebook: Notebook) -> None:
    own = notebook.ok("display('mine', display_id='fixed');").of("display_data")[0]
    assert own["transient"]["display_id"] == "fixed"
    code = (
        "%%pool_exec\nfrom IPython.display import update_display\n"
        "display('first', display_id='fixed')\nh = display('a', display_id=True)\n"
        "h.update('b')\nupdate_display('second', display_id='fixed')\n"
        "update_display('lost', display_id='unknown')"
    )
    runs = [notebook.ok(code) for _ in range(2)]
    ids = set()
    for run in runs:
        assert run.kinds == ["display_data", "display_data"] + ["update_display_data"] * 2
        shown = [c["transient"]["display_id"] for c in run.of("display_data")]
        updated = [c["transient"]["display_id"] for c in run.of("update_display_data")]
        assert updated == shown[::-1]
        ids |= set(shown)
    assert len(ids) == 4
    assert "fixed" not in ids


def test_clear_output_is_passed_on(notebook: Notebook) -> None:
    run = notebook.ok(
        "%%pool_exec\nfrom IPython.display import clear_output\nprint('old', flush=True)\n"
        "clear_output(wait=True)\nprint('new')"
    )
    assert run.kinds == ["stream", "clear_output", "stream"]
    assert run.of("clear_output")[0]["wait"] is True


def test_quiet_shows_nothing_and_keeps_everything(notebook: Notebook) -> None:
    run = notebook.ok("%%pool_exec -q --as silent\nprint('hidden')\ndisplay(1)\n2")
    assert run.kinds == []
    assert notebook.ok("silent.stdout, silent.data['text/plain']").text == "('hidden\\n', '2')"


# -- other magics around it ---------------------------------------------------------------------


def test_capture_catches_everything(notebook: Notebook) -> None:
    run = notebook.ok(
        "%%capture caught\n%%pool_exec\nimport sys\nprint('out')\nprint('err', file=sys.stderr)\n"
        "display('shown')\n'value'"
    )
    assert run.kinds == []
    text = notebook.ok(
        "caught.stdout, caught.stderr, [o.data['text/plain'] for o in caught.outputs]"
    ).text
    assert text == "('out\\n', 'err\\n', [\"'shown'\", \"'value'\"])"


def test_capture_keeps_the_order_of_a_value_and_its_plot(notebook: Notebook) -> None:
    notebook.ok(
        "%%capture plot\n%%pool_exec\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);\n3"
    )
    assert notebook.ok("[sorted(o.data) for o in plot.outputs]").text == (
        "[['text/plain'], ['image/png', 'text/plain']]"
    )


def test_time_and_timeit_work_above_it(notebook: Notebook) -> None:
    timed = notebook.ok("%%time\n%%pool_exec\nprint('x')\n'value'")
    assert "Wall time" in timed.stream("stdout")
    assert timed.text == "'value'"
    repeated = notebook.ok("%%timeit -n 2 -r 3\n%%pool_exec\nprint('x')")
    assert repeated.stream("stdout").count("x\n") == 6
    assert "6 runs" in repeated.stream("stdout") or "3 runs" in repeated.stream("stdout")


def test_magics_shell_lines_and_await_work_inside(notebook: Notebook) -> None:
    run = notebook.ok(
        "word = 'hello'\nget_ipython().run_cell_magic('pool_exec', '', '''"
        "import asyncio\n!echo {word}\n%time pass\nawait asyncio.sleep(0, 3)''')"
    )
    assert "hello" in run.stream("stdout")
    assert "Wall time" in run.stream("stdout")
    assert run.text == "3"


# -- what goes along and comes back -------------------------------------------------------------


def test_variables_functions_classes_and_modules_go_along(notebook: Notebook) -> None:
    notebook.ok(
        "import numpy as np\nfactor = 3\narray = np.arange(4)\n"
        "def scale(x): return x * factor\n"
        "class Point:\n    def __init__(self, x): self.x = x\n    def double(self): return self.x * 2\n"
        "point = Point(4)"
    )
    run = notebook.ok("%%pool_exec\nnp.sum(scale(array)), point.double(), isinstance(point, Point)")
    assert run.text == "(np.int64(18), 8, True)"


def test_named_outputs_come_back(notebook: Notebook) -> None:
    notebook.ok("%%pool_exec --out made,Kind -o maker\nimport numpy as np\nmade = np.ones(3)\n"
                "class Kind: size = 7\ndef maker(): return Kind()\nleft = 1")  # fmt: skip
    assert notebook.ok("made.sum(), Kind.size, maker().size").text == "(np.float64(3.0), 7, 7)"
    assert notebook.run("left").reply["ename"] == "NameError"


def test_an_output_that_was_never_set_is_an_error_that_names_it(notebook: Notebook) -> None:
    run = notebook.run("%%pool_exec --out nothing_here\nx = 1")
    assert run.status == "error"
    assert "nothing_here" in run.reply["evalue"]


def test_only_chosen_names_go_along_with_in(notebook: Notebook) -> None:
    notebook.ok("first, second = 1, 2")
    assert notebook.ok("%%pool_exec --in first\n'second' in globals(), first").text == "(False, 1)"
    assert notebook.ok("%%pool_exec --in none\nsorted({'first'} & set(globals()))").text == "[]"
    assert notebook.ok("%%pool_exec --in auto,second\nfirst, globals()['second']").text == "(1, 2)"


def test_a_name_error_for_something_the_notebook_has_says_how_to_send_it(
    notebook: Notebook,
) -> None:
    notebook.ok("hidden = 1")
    run = notebook.run("%%pool_exec\neval('hid' + 'den')")
    text = _plain(run.reply["traceback"])
    assert "NameError: name 'hidden' is not defined" in text
    assert "This notebook has 'hidden', but it was not sent." in text
    assert "%%pool_exec --in auto,hidden" in text


def test_what_cannot_be_sent_is_named_and_nothing_runs(notebook: Notebook) -> None:
    notebook.ok("import threading\nlock = threading.Lock()")
    run = notebook.run("%%pool_exec\nprint('ran')\nlock.acquire()")
    assert run.reply["ename"] == "SerializationError"
    assert "'lock' cannot be sent" in run.reply["evalue"]
    assert "--in" in run.reply["evalue"]
    assert run.stream("stdout") == ""


def test_what_cannot_be_sent_does_no_harm_if_the_cell_makes_it_itself(notebook: Notebook) -> None:
    notebook.ok("import threading\nmutex = threading.Lock()")
    code = "%%pool_exec\nfor mutex in [1, 2]: pass\nmutex"
    assert notebook.ok(code).text == "2"


def test_more_than_100_mb_are_announced(notebook: Notebook) -> None:
    notebook.ok("import numpy as np\nlarge = np.zeros(13_000_000)")
    run = notebook.ok("%%pool_exec\nlarge.nbytes")
    assert run.text == "104000000"
    assert run.stream("stderr").startswith("Sending 104 MB to the worker: large 104 MB.")
    notebook.ok("del large")


def test_the_result_is_kept_with_as_and_by_pool_last(notebook: Notebook) -> None:
    notebook.ok("%%pool_exec --as kept --out y\nprint('hi')\ny = 5")
    assert notebook.ok("kept.status, kept.stdout, kept.outputs['y'], y").text == (
        "('ok', 'hi\\n', 5, 5)"
    )
    assert notebook.ok("last = %pool_last\nlast is kept").text == "True"


def test_ipythons_own_names_are_not_sent(notebook: Notebook) -> None:
    notebook.ok("1")
    run = notebook.ok("%%pool_exec\nimport os\nlen(In), _, Out, open(os.devnull).read(), exit")
    assert run.text.startswith("(")


def test_options_can_hold_variables(notebook: Notebook) -> None:
    notebook.ok("who = 'bob'\nkind = 'process'")
    run = notebook.ok("%%pool_exec --session {who} --isolation $kind\n1")
    assert run.of("execute_result")[0]["metadata"]["jupyter_pool"]["session"] == "bob"


def test_a_seed_makes_random_numbers_repeat(notebook: Notebook) -> None:
    cell = "%%pool_exec --seed 7\nimport random\nrandom.random()"
    assert notebook.ok(cell).text == notebook.ok(cell).text


def test_runs_know_nothing_of_each_other(notebook: Notebook) -> None:
    for _ in range(4):  # more than there are workers
        assert notebook.ok("%%pool_exec\ntrace = globals().get('trace', 0) + 1\ntrace").text == "1"


# -- the line magic ------------------------------------------------------------------------------


def test_the_line_magic_returns_the_value_itself(notebook: Notebook) -> None:
    notebook.ok("numbers = [3, 1, 2]\nordered = %pool_exec sorted(numbers)  # a comment")
    assert notebook.ok("ordered == [1, 2, 3]").text == "True"
    assert notebook.ok("%pool_exec {'a': numbers[0]}").text == "{'a': 3}"
    assert notebook.ok("%pool_exec numbers;").kinds == []
    assert notebook.ok("x = %pool_exec print('shown')\nx is None").stream("stdout") == "shown\n"


def test_the_line_magic_takes_statements_too(notebook: Notebook) -> None:
    assert notebook.ok("%pool_exec --out made_here made_here = 3").kinds == []
    assert notebook.ok("made_here").text == "3"


def test_the_line_magic_sees_local_variables(notebook: Notebook) -> None:
    notebook.ok("def inside(n):\n    value = %pool_exec n + 1\n    return value")
    assert notebook.ok("inside(4)").text == "5"


def test_the_line_magic_says_what_cannot_come_back(notebook: Notebook) -> None:
    run = notebook.run("%pool_exec __import__('threading').Lock()")
    assert run.reply["ename"] == "SerializationError"
    assert "the value of the expression cannot be sent back" in run.reply["evalue"]


# -- errors --------------------------------------------------------------------------------------


def test_an_exception_looks_as_if_it_was_raised_here(notebook: Notebook) -> None:
    code = "def broken():\n    return 1 / 0\nprint('before')\nbroken()"
    run = notebook.run(f"%%pool_exec\n{code}")
    assert run.status == "error"
    assert run.kinds == ["stream", "error"]
    text = _plain(run.reply["traceback"])
    assert f"Cell In[{run.reply['execution_count']}], line 5" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "jupyter_pool" not in text
    assert run.reply["ename"] == "ExecutionError"
    local = _plain(notebook.run(f"# %%pool_exec\n{code}").reply["traceback"])
    numbered = re.compile(r"In\[\d+\]")
    assert numbered.sub("In[]", text) == numbered.sub("In[]", local)


def test_an_error_stops_run_all(notebook: Notebook, tmp_path: Path) -> None:
    # A kernel drops the cells that wait in it: the second has to have come before the first fails.
    with Gate(tmp_path) as gate, notebook.subshell() as subshell:
        cells = (f"%%pool_exec\n{gate.code}1/0", "print('must not run')")
        requests = [notebook.send(code) for code in cells]
        notebook.ask("kernel_info_request", subshell_id=subshell)  # the kernel takes them in turn
        gate.open()
        runs = [notebook.result(request) for request in requests]
    assert [run.status for run in runs] == ["error", "aborted"]


def test_no_raise_error_shows_the_traceback_and_goes_on(notebook: Notebook) -> None:
    requests = [
        notebook.send(code)
        for code in (
            "%%pool_exec --no-raise-error --as failed\nprint('before')\n1/0",
            "failed.status, failed.error.ename, failed.stdout",
        )
    ]
    first, second = [notebook.result(request) for request in requests]
    assert first.status == "ok"
    assert "ZeroDivisionError: division by zero" in _plain([first.stream("stderr")])
    assert first.of("error") == []
    assert second.text == "('error', 'ZeroDivisionError', 'before\\n')"


def test_a_dead_worker_costs_only_its_cell(notebook: Notebook, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    request = notebook.send(
        "%%pool_exec\nimport os, time\nprint('here', flush=True)\n"
        f"while not os.path.exists({str(seen)!r}): time.sleep(0.01)\nos.kill(os.getpid(), 9)"
    )

    def answer(message: Message) -> None:
        if message["content"].get("text") == "here\n":
            seen.touch()

    run = notebook.result(request, answer)
    assert run.reply["ename"] == "WorkerDied"
    assert "SIGKILL" in run.reply["evalue"]
    assert run.kinds == ["stream", "error"]
    assert notebook.ok("%%pool_exec\n'alive'").text == "'alive'"


def test_a_timeout_ends_the_cell(notebook: Notebook) -> None:
    run = notebook.run("%%pool_exec --timeout 2s\nprint('so far', flush=True)\nwhile True: pass")
    assert run.reply["ename"] == "OperationTimeout"
    assert run.stream("stdout") == "so far\n"
    assert notebook.ok("last = %pool_last\nlast.status").text == "'timeout'"


def test_ctrl_c_interrupts_the_worker_and_is_a_keyboard_interrupt(notebook: Notebook) -> None:
    request = notebook.send(
        "%%pool_exec\nimport time\n\nprint('started', flush=True); time.sleep(600)"
    )

    def interrupt(message: Message) -> None:
        if message["content"].get("text") == "started\n":
            notebook.manager.interrupt_kernel()

    run = notebook.result(request, interrupt)
    assert run.reply["ename"] == "KeyboardInterrupt"
    assert run.stream("stderr") == "Interrupting the worker…\n"
    text = _plain(run.reply["traceback"])
    assert f"Cell In[{run.reply['execution_count']}], line 4\n" in text
    assert "magics.py" not in text
    assert notebook.ok("%%pool_exec\n'well'").text == "'well'"
    notebook.rest()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("%%pool_exec --pool defualt\n1", "no pool is named 'defualt'"),
        ("%%pool_exec --in no_such_name\n1", "no variable 'no_such_name'"),
        ("%%pool_exec --background\n1", "unknown option --background"),
        ("%pool_exec", "an expression is missing"),
        ("%pool_status --pool nowhere", "there are 'default'"),
        ("%pool_sessions nobody", "no session 'nobody'"),
        ("%pool_restart 999", "no worker 999"),
        ("%pool_start", "exists already"),
    ],
)
def test_a_misuse_is_a_usage_error_without_traceback(
    notebook: Notebook, code: str, said: str
) -> None:
    run = notebook.run(code)
    assert run.status == "error"
    assert run.stream("stderr").startswith("UsageError: ")
    assert said in run.stream("stderr")
    assert run.of("error") == []
