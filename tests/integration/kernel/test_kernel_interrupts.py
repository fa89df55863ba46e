"""Interrupts: they stop user code wherever it is, and nothing else."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from integration.kernel.kernel_client import Worker

READY = "print('ready', flush=True)\n"


def interrupt(worker: Worker, code: str, **options: object) -> None:
    """Run code until it prints 'ready', interrupt it, and check that it ended properly."""
    request = worker.submit(code, **options)  # type: ignore[arg-type]
    worker.wait_for_text(request, "ready")
    worker.interrupt()
    answer = worker.finish(request)
    assert answer.content["status"] == "error"
    assert answer.content["ename"] == "KeyboardInterrupt"
    assert answer.types[-2:] == ["error", "idle"]
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(answer.content["traceback"]))
    assert "_on_sigint" not in text
    assert "interrupts.py" not in text
    assert worker.run("1 + 1").result == "2"


@pytest.mark.parametrize(
    "code",
    [
        "import time\n" + READY + "time.sleep(60)",
        READY + "while True: pass",
        "import asyncio\n" + READY + "await asyncio.sleep(60)",
        "import asyncio\nawait asyncio.sleep(0)\n" + READY + "while True: pass\nawait x",
        READY + "while True: print('x' * 100)",
        "import subprocess\n" + READY + "subprocess.run(['sleep', '60'])",
        "import threading\n" + READY + "threading.Event().wait()",
        "import asyncio\nasync def spin():\n    while True: pass\n"
        + READY
        + "await asyncio.create_task(spin())",
    ],
    ids=["sleep", "loop", "await", "async-loop", "print", "child", "lock", "task"],
)
def test_user_code_is_interrupted(worker: Worker, code: str) -> None:
    interrupt(worker, code)


def test_an_interrupt_just_before_a_task_that_never_awaits_ends_it(worker: Worker) -> None:
    # It strikes the loop itself, which then has no time for anything but the task.
    answer = worker.run(
        "import asyncio, os, signal\nasync def spin():\n    while True: pass\n"
        "asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)\n"
        "await asyncio.create_task(spin())"
    )
    assert answer.content["ename"] == "KeyboardInterrupt"
    assert worker.run("1 + 1").result == "2"


def test_an_interrupt_of_a_loop_that_is_late_is_one(worker: Worker) -> None:
    # The loop hears of it after the time at which it would be taken for lost.
    answer = worker.run(
        "import asyncio, os, signal, time\n"
        "loop = asyncio.get_running_loop()\n"
        "loop.call_soon(os.kill, os.getpid(), signal.SIGINT)\n"
        "loop.call_soon(time.sleep, 0.1)\n"
        "try: await asyncio.sleep(60)\n"
        "except asyncio.CancelledError: await asyncio.sleep(0.2)\n"
        "'cleaned up'"
    )
    assert answer.result == "'cleaned up'"


def test_a_shell_command_is_interrupted(worker: Worker) -> None:
    worker.be_patient()
    request = worker.submit("!echo ready; sleep 60")
    worker.wait_for_text(request, "ready")
    worker.interrupt()
    # IPython passes the interrupt on to the command, and goes on with the cell.
    assert worker.finish(request).report["recycle"] is None


@pytest.mark.parametrize("event", ["pre_execute", "pre_run_cell", "post_execute", "post_run_cell"])
def test_an_interrupt_in_a_callback_of_ipythons_ends_the_cell(worker: Worker, event: str) -> None:
    # Swallowed there, it would leave the cell running on for ever.
    register = (
        "def wait(*args):\n    print('ready')\n    import time; time.sleep(60)\n"
        f"get_ipython().events.register({event!r}, wait);"
    )
    if event.startswith("post"):
        request = worker.submit(register, keep=True, scope="s")
    else:
        worker.run(register, keep=True, scope="s")
        request = worker.submit("while True: pass", keep=True, scope="s")
    worker.wait_for_text(request, "ready")
    worker.interrupt()
    assert worker.finish(request).content["ename"] == "KeyboardInterrupt"
    worker.finish(worker.submit("", reset=True))


def test_what_a_callback_of_ipythons_raises_is_shown_and_the_cell_runs(worker: Worker) -> None:
    answer = worker.run(
        "def fail(*args): 1/0\nget_ipython().events.register('post_execute', fail); 'it ran'"
    )
    assert "Error in the callback <function fail" in answer.stdout
    assert any(
        message["content"].get("ename") == "ZeroDivisionError" for message in answer.messages
    )
    assert answer.result == "'it ran'"


def test_an_interrupted_import_costs_the_worker(fresh_worker: Worker, tmp_path: Path) -> None:
    package = tmp_path / "torn"
    package.mkdir()
    (package / "part.py").touch()
    (package / "__init__.py").write_text(
        "from . import part\nprint('ready', flush=True)\nwhile True: pass\n"
    )
    request = fresh_worker.submit("import torn", path=[str(tmp_path), *sys.path])
    fresh_worker.wait_for_text(request, "ready")
    fresh_worker.interrupt()
    answer = fresh_worker.finish(request)
    assert answer.content["ename"] == "KeyboardInterrupt"
    assert answer.report["recycle"] == "the import of torn was interrupted"


def test_the_line_of_an_interrupt_is_told(worker: Worker) -> None:
    request = worker.submit("import time\n\n\nprint('ready'); time.sleep(60)\nx = 1")
    worker.wait_for_text(request, "ready")
    worker.interrupt()
    answer = worker.finish(request)
    assert answer.report["at"] == {
        "line": 4,
        "source": "print('ready'); time.sleep(60)",
    }


@pytest.mark.parametrize("attempt", range(8))
def test_an_interrupt_between_the_lines_of_a_loop_is_shown_as_any_other(
    worker: Worker, attempt: int
) -> None:
    # CPython may count a loop's jump to no line, at which IPython's formatter fails.
    code = "import itertools\nfor n in itertools.count(): n or print('ready', flush=True)"
    request = worker.submit(code)
    worker.wait_for_text(request, "ready")
    worker.interrupt()
    answer = worker.finish(request)
    assert answer.report["at"] == {"line": 2, "source": code.splitlines()[1]}
    shown = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(answer.content["traceback"]))
    assert "Cell In[1], line 2\n" in shown
    assert "----> 2 for n in itertools.count()" in shown
    assert shown.endswith("KeyboardInterrupt: ")


def test_pickling_the_outputs_is_interrupted(worker: Worker) -> None:
    code = (
        "import time\nclass Slow:\n    def __reduce__(self):\n"
        "        print('ready', flush=True)\n        time.sleep(60)\nx = Slow()"
    )
    interrupt(worker, code, outputs=["x"])


def test_a_repr_is_interrupted(worker: Worker) -> None:
    interrupt(
        worker,
        "import time\nclass Slow:\n    def __repr__(self):\n"
        "        print('ready', flush=True)\n        time.sleep(60)\nSlow()",
    )


def test_code_that_catches_the_interrupt_goes_on(worker: Worker) -> None:
    request = worker.submit(
        "import time\ntry:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    print('caught')\n5"
    )
    worker.wait_for_text(request, "ready")
    worker.interrupt()
    answer = worker.finish(request)
    assert answer.content["status"] == "ok"
    assert answer.stdout.endswith("caught\n")
    assert answer.result == "5"


def test_an_interrupt_between_requests_is_ignored(worker: Worker) -> None:
    for _ in range(5):
        os.kill(worker.pid, signal.SIGINT)
    assert worker.run("1 + 1").result == "2"


def test_an_interrupt_by_message_works_while_the_cell_runs(worker: Worker) -> None:
    request = worker.submit("import time\n" + READY + "time.sleep(60)")
    worker.wait_for_text(request, "ready")
    ask = worker.send(worker.control, "interrupt_request", {})
    assert worker.receive(worker.control, ask)["content"]["status"] == "ok"
    answer = worker.finish(request)
    assert answer.content["ename"] == "KeyboardInterrupt"


def test_a_changed_handler_does_not_make_the_next_request_deaf(worker: Worker) -> None:
    answer = worker.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert answer.report["recycle"] is None
    interrupt(worker, "import time\n" + READY + "time.sleep(60)")


@pytest.mark.parametrize("done", [0, 1, 3, 4])
def test_one_that_cuts_ipythons_clean_up_short_costs_no_worker(worker: Worker, done: int) -> None:
    # What IPython has put among the built-in names is taken out again: all, some or none of it, by then.
    answer = worker.run(
        "trap = get_ipython().builtin_trap\n"
        "trap.add_builtin('extra', 1)\n"
        "def cut_short():\n"
        "    del trap.deactivate\n"
        f"    for name, before in list(trap._orig_builtins.items())[:{done}]:\n"
        "        trap.remove_builtin(name, before)\n"
        "    raise KeyboardInterrupt\n"
        "trap.deactivate = cut_short"
    )
    assert answer.content["ename"] == "KeyboardInterrupt"
    assert answer.report["recycle"] is None
    answer = worker.run(
        "import builtins\nget_ipython, [hasattr(builtins, n) for n in ('exit', 'extra')]"
    )
    assert answer.result is not None
    assert "PoolShell" in answer.result
    assert answer.result.endswith("[False, False])")


def test_interrupts_at_random_moments_lose_no_reply(worker: Worker) -> None:
    randomness = random.Random(5)
    code = (
        "import asyncio\nfor i in range(30): print(i, flush=True)\nawait asyncio.sleep(0.001)\n"
        "x = list(range(10000))\nprint(len(x))\ndisplay(5)\nx[:3]"
    )
    # What it imports is there by then: an interrupted import costs the worker.
    assert worker.run(code, outputs=["x"]).content["status"] == "ok"
    # How many strike depends on the machine's speed, so it goes on until enough have.
    interrupted, span = 0, 0.02
    while interrupted < 15:
        began = time.monotonic()
        request = worker.submit(code, outputs=["x"])
        time.sleep(randomness.uniform(0, span))
        os.kill(worker.pid, signal.SIGINT)
        answer = worker.finish(request)
        assert answer.types[0] == "busy"
        assert answer.report["recycle"] is None, interrupted
        if answer.content["status"] == "error":
            assert answer.content["ename"] == "KeyboardInterrupt", answer.content
            assert "error" in answer.types
            interrupted += 1
        else:
            assert answer.values["x"][-1] == 9999
            span = max(0.02, time.monotonic() - began)  # as long as such a request takes now
    answer = worker.run("print('whole')\n1")
    assert answer.stdout == "whole\n"
    assert answer.result == "1"
