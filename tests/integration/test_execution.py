"""A cell runs on a free worker: what it may hold, what it gives back, how it is asked for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.blocking.client import BlockingKernelClient
from traitlets.config import Config

from jupyter_pool import (
    ExecutionError,
    ExecutionResult,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
)
from jupyter_pool.bench.stock import StockKernel
from jupyter_pool.results import WaitInfo
from support.cells import DEADLINE, Gate, Watcher, pid, states, value
from support.conditions import eventually


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    # As long as interrupted code takes to end on a busy machine; nothing may be killed here.
    with KernelPool(1, interrupt_grace=DEADLINE) as pool:
        yield pool


@pytest.fixture(scope="module")
def stock() -> Iterator[BlockingKernelClient]:
    """A client of a kernel as Jupyter starts it."""
    with StockKernel() as client:
        yield client


# --- what a cell may hold -----------------------------------------------------------------------


def test_the_last_expression_is_displayed(pool: KernelPool) -> None:
    result = pool.execute("x = 20\nx + 1")
    assert result.status == "ok"
    assert result.data["text/plain"] == "21"
    assert result.display_outputs == [
        {
            "output_type": "execute_result",
            "execution_count": 1,
            "data": {"text/plain": "21"},
            "metadata": {},
        }
    ]


@pytest.mark.parametrize("code", ["x = 1", "1 + 1;", "None", "", "# nothing", "\n\n"])
def test_a_cell_without_a_last_expression_displays_nothing(pool: KernelPool, code: str) -> None:
    result = pool.execute(code)
    assert (result.status, result.display_outputs, result.data) == ("ok", [], {})


def test_a_value_with_a_rich_repr_comes_in_all_its_types(pool: KernelPool) -> None:
    result = pool.execute(
        "class Rich:\n"
        "    def _repr_html_(self): return '<b>rich</b>'\n"
        "    def __repr__(self): return 'plain'\n"
        "Rich()"
    )
    assert result.data == {"text/html": "<b>rich</b>", "text/plain": "plain"}


def test_top_level_await_works(pool: KernelPool) -> None:
    result = pool.execute(
        "import asyncio\n"
        "async def double(x):\n"
        "    await asyncio.sleep(0)\n"
        "    return 2 * x\n"
        "a, b = await asyncio.gather(double(1), double(2))\n"
        "async with asyncio.Lock(): a += 10\n"
        "[a, b]"
    )
    assert value(result) == "[12, 4]"


def test_an_exception_in_an_awaited_coroutine_is_shown_at_its_line(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError) as caught:
        pool.execute("import asyncio\nawait asyncio.sleep(0)\nraise LookupError('gone')")
    assert (caught.value.ename, caught.value.evalue) == ("LookupError", "gone")
    assert "----> 3 raise LookupError" in plain(caught.value)


def test_cell_magics_work(pool: KernelPool) -> None:
    result = pool.execute("%%capture caught\nprint('hidden')\n")
    assert result.display_outputs == []
    result = pool.execute("%%bash\necho from bash")
    assert result.stdout == "from bash\n"


def test_line_magics_work(pool: KernelPool) -> None:
    result = pool.execute("seconds = %timeit -n1 -r1 -q -o pass\ntype(seconds).__name__")
    assert value(result) == "'TimeitResult'"


def test_shell_lines_work_and_give_their_output(pool: KernelPool) -> None:
    result = pool.execute("!echo to the shell")
    assert result.stdout.split() == ["to", "the", "shell"]
    assert value(pool.execute("lines = !printf 'a\\nb\\n'\nlist(lines)")) == "['a', 'b']"
    assert value(pool.execute("!exit 3\n_exit_code")) == "3"


def test_ipythons_names_are_there(pool: KernelPool) -> None:
    result = pool.execute("display('shown')\nget_ipython().__class__.__name__")
    assert [output["output_type"] for output in result.display_outputs] == [
        "display_data",
        "execute_result",
    ]
    assert value(result) == "'PoolShell'"


def test_help_is_shown_and_not_an_error(pool: KernelPool) -> None:
    assert pool.execute("len?").status == "ok"


def test_unicode_goes_through(pool: KernelPool) -> None:
    result = pool.execute("grüße = 'žluťoučký 🐍 \\x00'\nprint(grüße)\ngrüße", outputs=["grüße"])
    assert result.outputs["grüße"] == "žluťoučký 🐍 \x00"
    assert result.stdout == "žluťoučký 🐍 \x00\n"


# --- what ends a cell early ---------------------------------------------------------------------


def plain(error: ExecutionError) -> str:
    """The traceback without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))


@pytest.mark.parametrize(
    ("code", "evalue"),
    [
        ("exit()", ""),
        ("quit()", ""),
        ("raise SystemExit", ""),
        ("raise SystemExit(3)", "3"),
        ("import sys; sys.exit('enough')", "enough"),
    ],
)
def test_exit_ends_the_cell_and_not_the_worker(pool: KernelPool, code: str, evalue: str) -> None:
    before = pid(pool)
    result = pool.execute(f"print('before')\n{code}\nprint('after')", check=False)
    error = result.error
    assert isinstance(error, ExecutionError)
    assert (error.ename, error.evalue) == ("SystemExit", evalue)
    assert result.stdout == "before\n"
    assert result.stderr == ""
    assert plain(error).strip() == f"SystemExit: {evalue}".rstrip(
        ": "
    )  # asked for: no traceback, no hints
    assert pid(pool) == before


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("breakpoint()", "breakpoint()"),
        ("%debug", "%debug"),
        ("%%debug\n1", "%debug"),
        ("%pdb on", "%pdb"),
        ("get_ipython().debugger(force=True)", "the debugger"),
    ],
)
def test_a_debugger_is_refused_at_once(pool: KernelPool, code: str, name: str) -> None:
    before = pid(pool)
    with pytest.raises(ExecutionError) as caught:
        pool.execute(code, timeout=DEADLINE)
    assert caught.value.ename == "StdinNotImplementedError"
    assert f"{name} is not available in a pool cell" in caught.value.evalue
    assert "your own kernel" in caught.value.evalue
    assert pid(pool) == before


def test_debug_after_an_error_of_another_request_is_refused_too(pool: KernelPool) -> None:
    pool.execute("1/0", check=False)
    with pytest.raises(ExecutionError, match="%debug is not available"):
        pool.execute("%debug", timeout=DEADLINE)


@pytest.mark.parametrize(
    "code", ["input()", "input('name? ')", "import getpass; getpass.getpass()"]
)
def test_input_fails_at_once_and_says_what_to_do(pool: KernelPool, code: str) -> None:
    before = pid(pool)
    with pytest.raises(ExecutionError) as caught:
        pool.execute(f"print('before')\n{code}", timeout=DEADLINE)
    assert caught.value.ename == "StdinNotImplementedError"
    assert "is not available in a pool cell" in caught.value.evalue
    assert "inputs=" in caught.value.evalue
    assert caught.value.result is not None
    assert caught.value.result.stdout == "before\n"
    assert pid(pool) == before


def test_reading_standard_input_finds_its_end(pool: KernelPool) -> None:
    result = pool.execute("import sys\nsys.stdin.read()", timeout=DEADLINE)
    assert value(result) == "''"


# --- user exceptions ----------------------------------------------------------------------------


def test_an_exception_is_raised_with_what_was_printed_before(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError) as caught:
        pool.execute("print('so far')\ndisplay(1)\n{}['key']")
    error = caught.value
    assert (error.ename, error.evalue) == ("KeyError", "'key'")
    assert str(error) == "KeyError: 'key'"
    assert error.result is not None
    assert error.result.status == "error"
    assert error.result.error is error
    assert error.result.stdout == "so far\n"
    assert [output["output_type"] for output in error.result.display_outputs] == [
        "stream",
        "display_data",
        "error",
    ]


@pytest.mark.parametrize(
    "code",
    [
        "def inner():\n    return 1 / 0\n\ndef outer():\n    return inner()\n\nouter()",
        "import json\njson.loads('{')",
        "x = 1\ny = = 2",
        "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('b') from e",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    raise OSError(2, 'no')\nawait f()",
        "class Odd:\n    def __repr__(self): raise TypeError('no repr')\nOdd()",
    ],
    ids=["functions", "library", "syntax", "chained", "await", "repr"],
)
def test_the_traceback_is_to_the_letter_what_jupyter_shows(
    pool: KernelPool, stock: BlockingKernelClient, code: str
) -> None:
    theirs: list[dict[str, Any]] = []

    def collect(message: dict[str, Any]) -> None:
        if message["msg_type"] == "error":
            theirs.append(message["content"])

    reply = stock.execute_interactive(code, output_hook=collect, timeout=DEADLINE)
    with pytest.raises(ExecutionError) as caught:
        pool.execute(code, execution_count=reply["content"]["execution_count"])
    error = caught.value
    (content,) = theirs
    assert (error.ename, strip_files(error.evalue)) == (
        content["ename"],
        strip_files(content["evalue"]),
    )
    assert error.traceback == [*map(str, content["traceback"])]
    assert "\x1b[" in "".join(error.traceback)
    assert "jupyter_pool" not in "".join(error.traceback)


def strip_files(text: str) -> str:
    """A syntax error's text names the cell's file, whose name differs from process to process."""
    return re.sub(r"\d+\.py", "N.py", text)


def test_a_notebook_shows_the_remote_traceback_and_nothing_else(
    pool: KernelPool, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    try:
        with pytest.raises(ExecutionError) as caught:
            pool.execute("def f():\n    raise OSError('no luck')\nf()")
        shell.showtraceback((type(caught.value), caught.value, caught.value.__traceback__))
        shown = capsys.readouterr().out
    finally:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()
    assert shown.strip() == "\n".join(caught.value.traceback).strip()
    assert "jupyter_pool" not in shown
    assert "ExecutionError" not in shown


def test_chained_exceptions_are_shown_whole(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError) as caught:
        pool.execute(
            "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('b') from e"
        )
    shown = plain(caught.value)
    assert "ZeroDivisionError: division by zero" in shown
    assert "The above exception was the direct cause" in shown
    assert shown.rstrip().endswith("KeyError: 'b'")


def test_a_syntax_error_points_at_its_place(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError) as caught:
        pool.execute("x = 1\ny = = 2")
    assert caught.value.ename == "SyntaxError"
    shown = plain(caught.value)
    assert "Cell In[1], line 2" in shown
    assert "    y = = 2\n        ^" in shown


def test_the_caller_answers_what_the_code_asks(pool: KernelPool) -> None:
    asked: list[tuple[str, bool]] = []

    def answer(prompt: str, password: bool) -> str:
        asked.append((prompt, password))
        return prompt.upper()

    code = "import getpass\n(input('a'), getpass.getpass('b'))"
    result = pool.execute(code, on_input=answer)
    assert result.data["text/plain"] == "('A', 'B')"
    assert asked == [("a", False), ("b", True)]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (EOFError(), "EOFError: the end of the input"),
        (ValueError("no"), "asking has failed: ValueError: no"),
    ],
)
def test_a_caller_that_cannot_answer_is_an_error_of_the_code(
    pool: KernelPool, error: Exception, said: str
) -> None:
    def answer(prompt: str, password: bool) -> str:
        raise error

    with pytest.raises(ExecutionError) as caught:
        pool.execute("input()", on_input=answer)
    assert said in str(caught.value)
    assert pool.execute("1").status == "ok"


def test_nobody_is_asked_without_a_function_for_it(pool: KernelPool) -> None:
    with pytest.raises(ExecutionError, match="StdinNotImplementedError"):
        pool.execute("input()")
    with pytest.raises(ExecutionError, match="StdinNotImplementedError"):
        pool.submit_code("input()").result(60)


def test_the_execution_count_of_the_caller_is_shown(pool: KernelPool) -> None:
    result = pool.execute("1/0", execution_count=41, check=False)
    assert isinstance(result.error, ExecutionError)
    assert "Cell In[41], line 1" in plain(result.error)
    result = pool.execute("1", execution_count=42)
    assert result.execution_count == 42
    assert result.display_outputs[0]["execution_count"] == 42


def test_a_name_error_does_not_end_the_pool_for_others(pool: KernelPool) -> None:
    before = pid(pool)
    for _ in range(5):
        with pytest.raises(ExecutionError, match="NameError"):
            pool.execute("undefined")
    assert pid(pool) == before


def test_without_check_errors_are_told_and_not_raised(pool: KernelPool) -> None:
    result = pool.execute("print('x')\n1/0", check=False)
    assert result.status == "error"
    assert isinstance(result.error, ExecutionError)
    assert result.error.result is result
    result = pool.execute("1", check=False)
    assert (result.status, result.error) == ("ok", None)


def test_an_exception_whose_text_raises_is_still_reported(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(ExecutionError) as caught:
        pool.execute(
            "class Bad(Exception):\n    def __str__(self): raise ValueError('twice')\nraise Bad"
        )
    assert caught.value.ename == "Bad"
    assert "----> 3 raise Bad" in plain(caught.value)
    assert "jupyter_pool" not in plain(caught.value)
    assert caught.value.result is not None
    assert len(caught.value.result.display_outputs) == 1
    assert pid(pool) == before


# --- the result ---------------------------------------------------------------------------------


def test_a_result_says_who_ran_it_for_whom(pool: KernelPool) -> None:
    (worker,) = pool.get_status().workers
    first = pool.execute("1", session_id="someone")
    second = pool.execute("1")
    assert first.worker_id == second.worker_id == worker.id
    assert (first.session_id, second.session_id) == ("someone", None)
    assert first.request_id != second.request_id


def test_timings_add_up_and_fit_what_the_caller_saw(pool: KernelPool, tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        begun = time.monotonic()
        second = pool.submit_code("1")
        submitted = time.monotonic()
        assert pool.get_status().queue_length == 1
        held = time.monotonic() - submitted
        gate.open()
        second.result(DEADLINE)
        first.result(DEADLINE)
        took = time.monotonic() - begun
    timings = second.result().timings
    assert timings.total == pytest.approx(timings.waited + timings.ran)
    assert held <= timings.waited < took
    assert 0 < timings.ran < took
    assert timings.total <= took
    # The first ran for as long as the second was held up by it.
    assert first.result().timings.ran >= held


def test_to_text_is_what_a_terminal_would_show(pool: KernelPool) -> None:
    result = pool.execute(
        "import sys\nprint('\\x1b[31mred\\x1b[0m')\nprint('err', file=sys.stderr)\ndisplay([1])\n2"
    )
    assert result.to_text() == "red\nerr\n[1]\n2"
    failed = pool.execute("print('x')\n1/0", check=False)
    text = failed.to_text()
    assert text.startswith("x\n---")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in text


def test_to_text_cuts_the_middle_out(pool: KernelPool) -> None:
    result = pool.execute("print('first'); print('x' * 5000); print('last')")
    text = result.to_text(max_chars=200)
    assert len(text) <= 200
    assert text.startswith("first\n")
    assert text.endswith("last")
    assert len(result.to_text(max_chars=None)) > 5000


def test_a_result_shows_itself_in_a_notebook(pool: KernelPool) -> None:
    result = pool.execute("print('printed')\nx = 1\n'<value>'", outputs=["x"])
    html = result._repr_html_()
    assert "printed" in html
    assert "&lt;value&gt;" in html
    assert "outputs: x" in html
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"] == "printed\n'<value>'\noutputs: x"
    assert bundle["text/html"] == html
    assert re.fullmatch(
        r"<ExecutionResult ok, request \S+, worker \d+, 2 displayed, outputs: x>", repr(result)
    )


def test_display_outputs_make_a_valid_notebook(pool: KernelPool) -> None:
    result = pool.execute(
        "import sys\nprint('a')\nprint('b', file=sys.stderr)\ndisplay({'c': 1})\n1/0", check=False
    )
    cell = nbformat.v4.new_code_cell("", outputs=result.display_outputs, execution_count=1)
    nbformat.validate(nbformat.v4.new_notebook(cells=[cell]))
    assert [output["output_type"] for output in result.display_outputs] == [
        "stream",
        "stream",
        "display_data",
        "error",
    ]


# --- how it is asked for ------------------------------------------------------------------------


def test_execute_in_session_and_execute_anonymous_are_execute(pool: KernelPool) -> None:
    result = pool.execute_in_session("s-7", "x = y + 1", inputs={"y": 1}, outputs=["x"])
    assert (result.session_id, result.outputs["x"]) == ("s-7", 2)
    before = len(pool.sessions)
    anonymous = pool.execute_anonymous("x = y + 1", inputs={"y": 1}, outputs=["x"])
    assert (anonymous.session_id, anonymous.outputs["x"]) == (None, 2)
    assert len(pool.sessions) == before


def test_options_give_a_view_with_other_defaults(pool: KernelPool) -> None:
    seen = Watcher()
    view = pool.options(session_id="viewed", timeout=2, check=False, on_output=seen, seed=7)
    result = view.execute("import random\nprint(random.random())")
    assert result.session_id == "viewed"
    # `print` makes two writes, which may be sent one by one.
    assert "".join(event["text"] for event in seen.events) == result.stdout
    assert view.execute("import random\nprint(random.random())").stdout == result.stdout
    assert view.execute("while True: pass").status == "timeout"
    # What the call says wins, None included, and the pool itself is as before.
    assert view.execute("1", session_id=None).session_id is None
    with pytest.raises(ExecutionError):
        view.execute("1/0", check=True)
    assert pool.execute("1").session_id is None


def test_views_of_views_add_up(pool: KernelPool) -> None:
    view = pool.options(session_id="a", check=False).options(session_id="b")
    result = view.execute("1/0")
    assert (result.session_id, result.status) == ("b", "error")
    assert view.submit_code("1/0").result(DEADLINE).session_id == "b"
    with view.checkout() as worker:
        assert worker.execute("1").session_id == "b"


def test_an_anonymous_request_of_a_view_with_a_session_is_anonymous(pool: KernelPool) -> None:
    assert pool.options(session_id="a").execute_anonymous("1").session_id is None


def test_options_refuse_what_they_do_not_know(pool: KernelPool) -> None:
    with pytest.raises(InvalidRequest, match="'timeuot'.* Did you mean timeout?"):
        pool.options(timeuot=5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"checkout_timeout": -1}, "checkout_timeout"),
        ({"retries": -1}, "retries"),
        ({"retries": 1.5}, "retries"),
        ({"retries": True}, "retries"),
        ({"isolation": "total"}, "isolation"),
        ({"seed": -1}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"session_id": ""}, "session_id"),
        ({"session_id": 5}, "session_id"),
        ({"inputs": [1]}, "inputs"),
        ({"inputs": {"not a name": 1}}, "not a name"),
        ({"inputs": {"class": 1}}, "class"),
        ({"outputs": "x"}, "outputs"),
        ({"outputs": ["a b"]}, "a b"),
        ({"outputs": 5}, "outputs"),
        ({"on_output": "print"}, "on_output"),
    ],
)
def test_impossible_arguments_are_named_before_anything_runs(
    pool: KernelPool, tmp_path: Path, options: dict[str, object], named: str
) -> None:
    trace = tmp_path / "ran"
    with pytest.raises(InvalidRequest, match=named):
        pool.execute(f"open({str(trace)!r}, 'w')", **options)  # type: ignore[arg-type]
    assert value(pool.execute("1")) == "1"
    assert not trace.exists()


def test_impossible_presets_are_named_when_used(pool: KernelPool) -> None:
    with pytest.raises(InvalidRequest, match="retries"):
        pool.options(retries=-1).execute("1")


def test_code_that_is_no_text_is_refused(pool: KernelPool) -> None:
    with pytest.raises(InvalidRequest, match="code must be text, not int"):
        pool.execute(5)  # type: ignore[arg-type]


def test_times_may_be_texts(pool: KernelPool) -> None:
    with pytest.raises(OperationTimeout) as caught:
        pool.execute("while True: pass", timeout="300ms")
    assert caught.value.context["ran"] >= 0.3
    assert value(pool.execute("1", timeout="none", checkout_timeout="10m")) == "1"


def test_a_seed_makes_a_request_reproducible(pool: KernelPool) -> None:
    draw = "import random, numpy\nprint(random.random(), numpy.random.rand())"
    assert pool.execute(draw, seed=5).stdout == pool.execute(draw, seed=5).stdout
    assert pool.execute(draw, seed=5).stdout != pool.execute(draw, seed=6).stdout
    assert pool.execute(draw).stdout != pool.execute(draw).stdout


def test_waiting_longer_than_a_second_is_told_with_the_reason(
    pool: KernelPool, tmp_path: Path
) -> None:
    told: list[WaitInfo] = []
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()

        def tell(info: WaitInfo) -> None:
            told.append(info)
            if len(told) == 2:
                gate.open()

        result = pool.execute("1", on_wait=tell, timeout=None)
        first.result(DEADLINE)
    assert value(result) == "1"
    # What is still before it may take so long that it is told again.
    assert [info.state for info in told] == ["queued"] * (len(told) - 1) + ["running"]
    assert len(told) >= 3
    assert (told[0].busy, told[0].idle, told[0].ahead) == (1, 0, 0)
    assert all(info.elapsed >= number for number, info in enumerate(told[:-1], 1))


def test_who_waits_less_than_a_second_is_told_nothing(pool: KernelPool) -> None:
    # The worker may still be made clean after a lease.
    eventually(lambda: states(pool) == ["idle"])
    told: list[WaitInfo] = []
    pool.execute("1", on_wait=told.append)
    assert told == []


def test_the_working_folder_path_and_environment_are_the_callers_at_the_request(
    pool: KernelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "local_module.py").write_text("WHERE = 'beside the notebook'\n")
    (tmp_path / "data.txt").write_text("local data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.setenv("POOL_TEST_SET", "set after the start")
    result = pool.execute(
        "import os, local_module\n"
        "print(open('data.txt').read(), local_module.WHERE, os.environ['POOL_TEST_SET'])"
    )
    assert result.stdout == "local data beside the notebook set after the start\n"
    monkeypatch.undo()
    result = pool.execute(
        "import os, sys\nprint(os.getcwd(), os.environ.get('POOL_TEST_SET'))\n"
        f"{str(tmp_path / 'lib')!r} in sys.path"
    )
    assert result.stdout == f"{os.getcwd()} None\n"
    assert value(result) == "False"


def test_workers_run_the_callers_interpreter(pool: KernelPool) -> None:
    import sys

    assert value(pool.execute("import sys; sys.executable")) == repr(sys.executable)


def test_a_pool_starts_on_first_use_and_stays_closed() -> None:
    pool = KernelPool(1)
    try:
        assert pool.get_status().state == "new"
        assert value(pool.execute("6 * 7")) == "42"
        assert pool.get_status().state == "running"
    finally:
        pool.close()
    assert pool.get_status().state == "closed"


def test_many_callers_share_few_workers(pool: KernelPool) -> None:
    import threading

    results: list[tuple[int, ExecutionResult]] = []

    def call(number: int) -> None:
        for step in range(5):
            wanted = 100 * number + step
            results.append((wanted, pool.execute("x", inputs={"x": wanted})))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert len(results) == 40
    assert all(value(result) == str(wanted) for wanted, result in results)
    assert len({result.request_id for _, result in results}) == 40
