"""What a pool request does and what comes back."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from integration.kernel.kernel_client import Worker


def test_messages_of_a_cell_come_in_the_protocols_order(worker: Worker) -> None:
    answer = worker.run("print('hi')\ndisplay('shown')\n1 + 1")
    assert answer.order == [
        "busy",
        "execute_input",
        "stream",
        "display_data",
        "execute_result",
        "idle",
    ]
    assert answer.content["status"] == "ok"
    assert answer.content["execution_count"] == 1
    assert answer.result == "2"
    assert answer.report["recycle"] is None


def test_inputs_and_outputs_travel(worker: Worker) -> None:
    array = np.arange(100_000, dtype="f8")
    answer = worker.run(
        "x += 1\ny = f(x.sum())\nx.flags.writeable",
        inputs={"x": array, "f": lambda value: value / 2},
        outputs=["x", "y", "f"],
    )
    assert answer.result == "True"
    assert answer.report["outputs"] == ["x", "y", "f"]
    values = answer.values
    np.testing.assert_array_equal(values["x"], array + 1)
    assert values["y"] == (array + 1).sum() / 2
    assert values["f"](4) == 2


def test_a_class_defined_in_a_cell_comes_back_as_itself(worker: Worker) -> None:
    answer = worker.run(
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "    def double(self): return self.x * 2\np = Point(4)",
        outputs=["p", "Point"],
    )
    assert isinstance(answer.values["p"], object)
    values = answer.values
    assert type(values["p"]) is values["Point"]
    assert values["p"].double() == 8


def test_a_class_sent_again_with_another_method_is_the_new_one(worker: Worker) -> None:
    code = "class K:\n    def f(self): return {}\nk = K()"
    first = worker.run(code.format(1), outputs=["k"]).reply["buffers"]
    for _ in range(2):
        second = worker.run("r = k.f(), type(k)", buffers=first, outputs=["r"])
        assert second.values["r"][0] == 1
    assert worker.run(code.format(2) + "\nk.f()").result == "2"


def test_missing_and_unpicklable_outputs_are_named_and_the_others_sent(worker: Worker) -> None:
    answer = worker.run(
        "import threading\na = 1\nlock = threading.Lock()", outputs=["a", "nope", "lock"]
    )
    assert answer.content["status"] == "ok"
    assert answer.report["outputs"] == ["a"]
    assert answer.report["missing"] == ["nope"]
    assert list(answer.report["unpicklable"]) == ["lock"]
    assert "lock" in answer.report["unpicklable"]["lock"]
    assert answer.values == {"a": 1}


def test_inputs_that_cannot_be_rebuilt_are_bad_inputs(worker: Worker) -> None:
    answer = worker.run("print('never')", buffers=[b"no pickle"])
    assert answer.content["status"] == "error"
    assert "could not be rebuilt" in answer.report["bad_inputs"]
    assert answer.types == ["busy", "idle"]
    assert worker.run("1").result == "1"


def test_another_version_of_the_messages_is_refused(worker: Worker) -> None:
    answer = worker.run("1", v=99)
    assert answer.content["status"] == "error"
    assert "version 1" in answer.report["bad_inputs"]


def test_ipython_syntax_works(worker: Worker) -> None:
    answer = worker.run("!echo from the shell\n%pwd")
    assert "from the shell" in answer.stdout
    assert answer.result is not None
    assert worker.run("%%capture out\nprint('hi')").stdout == ""
    timed = worker.run("%%time\nx = 41 + 1\nx")
    assert timed.result == "42"
    assert "Wall time" in timed.stdout


def test_a_cell_may_await_at_its_top_level(worker: Worker) -> None:
    answer = worker.run("import asyncio\nx = await asyncio.sleep(0.01, 5)\nx + 1", outputs=["x"])
    assert answer.result == "6"
    assert answer.values == {"x": 5}


def test_a_semicolon_silences_the_result(worker: Worker) -> None:
    assert worker.run("1 + 1;").result is None


def test_the_count_of_the_request_is_shown(worker: Worker) -> None:
    answer = worker.run("7", execution_count=12)
    counts = [
        message["content"]["execution_count"]
        for message in answer.messages
        if "execution_count" in message["content"]
    ]
    assert counts == [12, 12]
    assert answer.content["execution_count"] == 12


def test_user_expressions_are_evaluated(worker: Worker) -> None:
    answer = worker.run("x = 3", user_expressions={"twice": "x * 2"})
    assert answer.content["user_expressions"]["twice"]["data"]["text/plain"] == "6"


# -- errors ---------------------------------------------------------------------------


def test_an_error_has_ipythons_traceback_and_the_line_in_the_cell(worker: Worker) -> None:
    answer = worker.run("\n\ndef f(x):\n    return 1 / x\n\nf(0)")
    assert answer.types == ["busy", "execute_input", "error", "idle"]
    assert answer.content["ename"] == "ZeroDivisionError"
    assert answer.report["at"] == {"line": 4, "source": "return 1 / x"}
    error = next(m["content"] for m in answer.messages if m["msg_type"] == "error")
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error["traceback"]))
    assert "\x1b[" in error["traceback"][0]
    assert "Cell In[1], line" in text
    assert "jupyter_pool" not in text
    assert error["traceback"] == answer.content["traceback"]


def test_the_line_is_the_cells_own_when_a_library_raises(worker: Worker) -> None:
    answer = worker.run("import json\nx = 1\njson.loads('{')")
    assert answer.content["ename"] == "JSONDecodeError"
    assert answer.report["at"] == {"line": 3, "source": "json.loads('{')"}


def test_a_syntax_error_is_an_error_with_its_line(worker: Worker) -> None:
    answer = worker.run("x = 1\ny = = 2")
    assert answer.content["ename"] == "SyntaxError"
    assert answer.report["at"] == {"line": 2, "source": "y = = 2"}
    assert "error" in answer.types


@pytest.mark.skipif(sys.version_info < (3, 11), reason="platform: no exception groups")
def test_an_exception_group_is_shown_as_an_error_too(worker: Worker) -> None:
    answer = worker.run("raise ExceptionGroup('several', [ValueError('one'), KeyError('two')])")
    assert "error" in answer.types
    assert answer.content["ename"] == "ExceptionGroup"
    assert "ValueError: one" in "\n".join(answer.content["traceback"])


def test_an_error_while_a_result_is_displayed_fails_the_cell(worker: Worker) -> None:
    code = "class Bad:\n    def __repr__(self): raise ValueError('no repr')\nBad()"
    answer = worker.run(code)
    assert answer.content["status"] == "error"
    assert "no repr" in "\n".join(answer.content["traceback"])


@pytest.mark.parametrize("code", ["exit()", "quit()", "exit", "import sys\nsys.exit(3)"])
def test_exit_ends_the_cell_and_not_the_worker(worker: Worker, code: str) -> None:
    pid = worker.pid
    answer = worker.run(code)
    assert answer.content["ename"] == "SystemExit"
    assert answer.stderr == ""
    assert worker.run("import os\nos.getpid()").result == str(pid)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("input('name? ')", "input() is not available in a pool cell"),
        ("import getpass\ngetpass.getpass()", "getpass() is not available"),
        ("breakpoint()", "breakpoint() is not available"),
        ("%debug", "%debug is not available"),
        ("%pdb on", "%pdb is not available"),
        ("x = 1\n%debug x + 1", "%debug is not available"),
        ("import pdb\npdb.set_trace()\nx = 1", "is not available in a pool cell"),
    ],
)
def test_what_would_wait_for_a_person_fails_at_once(worker: Worker, code: str, says: str) -> None:
    answer = worker.run(code)
    assert answer.content["status"] == "error"
    assert answer.content["ename"] == "StdinNotImplementedError"
    assert says in answer.content["evalue"]
    assert "kernel.py" not in "\n".join(answer.content["traceback"][-2:])
    assert worker.run("1").result == "1"


# -- place, seed, keep, reset -----------------------------------------------------------


def test_folder_path_and_environment_are_the_requests_and_do_not_stay(
    worker: Worker, tmp_path: Path
) -> None:
    (tmp_path / "only_here_module.py").write_text("x = 5")
    home = worker.run("import os\nhere = os.getcwd(), os.environ['HOME']", outputs=["here"])
    code = "import os, sys, only_here_module\nr = os.getcwd(), dict(os.environ), list(sys.path)"
    answer = worker.run(
        code,
        outputs=["r"],
        cwd=str(tmp_path),
        path=[str(tmp_path), *sys.path],
        env={"POOL_TEST": "1", "HOME": None},
    )
    cwd, env, path = answer.values["r"]
    assert cwd == os.path.realpath(tmp_path)
    assert env["POOL_TEST"] == "1"
    assert "HOME" not in env
    assert path[0] == str(tmp_path)
    code = "import os, sys\nhere = os.getcwd(), os.environ['HOME']\n'POOL_TEST' in os.environ"
    after = worker.run(code, outputs=["here"])
    assert after.result == "False"
    assert after.values == home.values


def test_a_folder_that_does_not_exist_is_bad_inputs(worker: Worker) -> None:
    answer = worker.run("print('never')", cwd="/does/not/exist")
    assert "/does/not/exist" in answer.report["bad_inputs"]
    assert answer.stdout == ""
    assert answer.content["status"] == "error"
    assert worker.run("1").result == "1"


def test_baseline_makes_the_requests_place_the_workers_own(
    fresh_worker: Worker, tmp_path: Path
) -> None:
    fresh_worker.run("", cwd=str(tmp_path), env={"POOL_TEST": "base"}, baseline=True)
    answer = fresh_worker.run("import os\nr = os.getcwd(), os.environ['POOL_TEST']", outputs=["r"])
    assert answer.values["r"] == (os.path.realpath(tmp_path), "base")


def test_a_folder_that_vanished_does_not_take_the_worker_with_it(
    fresh_worker: Worker,
) -> None:
    answer = fresh_worker.run(
        "import os, shutil\nos.mkdir('gone')\nos.chdir('gone')\nshutil.rmtree(os.getcwd())"
    )
    assert answer.content["status"] == "ok"
    assert answer.report["recycle"] is None
    assert fresh_worker.run("import os\nbool(os.getcwd())").result == "True"


def test_keep_keeps_and_reset_resets(fresh_worker: Worker) -> None:
    fresh_worker.run("x = 5", keep=True)
    answer = fresh_worker.run("x + 1", keep=True)
    assert answer.result == "6"
    assert answer.content["execution_count"] == 2
    reset = fresh_worker.run("ignored(", reset=True)
    assert reset.content["status"] == "ok"
    assert reset.types == ["busy", "idle"]
    assert fresh_worker.run("x").content["ename"] == "NameError"


DRAW = "import random, numpy\nr = random.random(), float(numpy.random.rand())"


def test_a_seed_gives_the_same_numbers_in_a_new_and_in_a_warm_worker(
    fresh_worker: Worker,
) -> None:
    # The first request is the one that imports NumPy.
    drawn = [fresh_worker.run(DRAW, outputs=["r"], seed=7).values["r"] for _ in range(3)]
    assert drawn[0] == drawn[1] == drawn[2]


def test_without_a_seed_the_numbers_differ_and_tell_nothing(fresh_worker: Worker) -> None:
    drawn = [fresh_worker.run(DRAW, outputs=["r"]).values["r"] for _ in range(3)]
    fresh_worker.run("import random, numpy\nrandom.seed(1)\nnumpy.random.seed(1)")
    drawn.append(fresh_worker.run(DRAW, outputs=["r"]).values["r"])
    fresh_worker.run("1", seed=1)
    drawn.append(fresh_worker.run(DRAW, outputs=["r"]).values["r"])
    assert len(set(drawn)) == 5
