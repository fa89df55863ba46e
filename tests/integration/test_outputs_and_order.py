"""Outputs keep the protocol's full fidelity and their order; whoever watches them harms nobody."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_pool import ExecutionError, KernelPool
from support.cells import DEADLINE, THERE_BY_THEN, Watcher, states, value
from support.conditions import eventually


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(2, interrupt_grace=10) as pool:  # a slow worker is not replaced for it
        yield pool.start(wait=True, timeout=DEADLINE)


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def brief(outputs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What and which text, of outputs or events."""
    return [
        (
            str(output.get("name") or output["output_type"]),
            str(
                output.get("text")
                or output.get("data", {}).get("text/plain")
                or output.get("ename")
            ),
        )
        for output in outputs
    ]


# --- order --------------------------------------------------------------------------------------


def test_streams_displays_results_and_errors_keep_their_order(pool: KernelPool) -> None:
    result = pool.execute(
        "import sys\n"
        "print('1')\n"
        "print('2', file=sys.stderr)\n"
        "display('3')\n"
        "print('4')\n"
        "print('5')\n"
        "display('6', '7')\n"
        "print('8', file=sys.stderr)\n"
        "print('9')\n"
        "'10'"
    )
    assert brief(result.display_outputs) == [
        ("stdout", "1\n"),
        ("stderr", "2\n"),
        ("display_data", "'3'"),
        ("stdout", "4\n5\n"),
        ("display_data", "'6'"),
        ("display_data", "'7'"),
        ("stderr", "8\n"),
        ("stdout", "9\n"),
        ("execute_result", "'10'"),
    ]


def test_stdout_and_stderr_in_turn_stay_in_turn(pool: KernelPool) -> None:
    result = pool.execute(
        "import sys\n"
        "for i in range(200):\n"
        "    print(i, end='', file=sys.stdout if i % 2 == 0 else sys.stderr)"
    )
    assert brief(result.display_outputs) == [
        (("stdout", "stderr")[i % 2], str(i)) for i in range(200)
    ]


def test_an_error_is_the_last_output(pool: KernelPool) -> None:
    result = pool.execute("print('a', end='')\ndisplay('b')\nprint('c', end='')\n1/0", check=False)
    assert brief(result.display_outputs) == [
        ("stdout", "a"),
        ("display_data", "'b'"),
        ("stdout", "c"),
        ("error", "ZeroDivisionError"),
    ]


def test_the_output_of_shell_lines_comes_between_that_of_its_neighbours(pool: KernelPool) -> None:
    result = pool.execute("print('before')\n!echo shell\nprint('after')")
    assert result.stdout.split() == ["before", "shell", "after"]


def test_what_compiled_code_and_subprocesses_write_is_shown(pool: KernelPool) -> None:
    result = pool.execute(
        "import os, subprocess\n"
        "print('python')\n"
        "os.write(1, b'descriptor\\n')\n"
        "subprocess.run(['echo', 'subprocess'])\n"
        "os.write(2, b'errors\\n');"
    )
    assert sorted(result.stdout.split()) == ["descriptor", "python", "subprocess"]
    assert result.stderr == "errors\n"


def test_threads_of_the_cell_print_into_it(pool: KernelPool) -> None:
    result = pool.execute(
        "import threading\n"
        "t = threading.Thread(target=print, args=('from a thread',)); t.start(); t.join()\n"
        "print('from the cell')"
    )
    assert result.stdout == "from a thread\nfrom the cell\n"


def test_nothing_is_lost_of_very_many_outputs(pool: KernelPool) -> None:
    result = pool.execute(
        "for i in range(20_000):\n    display({'text/plain': str(i)}, raw=True)",
        timeout=DEADLINE * 2,
    )
    texts = [output["data"]["text/plain"] for output in result.display_outputs]
    assert texts == [str(i) for i in range(20_000)]


def test_a_long_text_comes_whole(pool: KernelPool) -> None:
    result = pool.execute("for i in range(3000):\n    print(i, 'x' * 1000)")
    lines = result.stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(3000))
    assert len(result.display_outputs) == 1


def test_outputs_of_concurrent_requests_do_not_mix(pool: KernelPool) -> None:
    code = "for i in range(200): print(name, flush=True)"
    futures = [pool.submit_code(code, inputs={"name": name}) for name in "abcdef"]
    for name, future in zip("abcdef", futures, strict=True):
        assert future.result(DEADLINE).stdout == f"{name}\n" * 200


# --- displays -----------------------------------------------------------------------------------


def test_an_update_replaces_what_was_displayed(pool: KernelPool) -> None:
    watcher = Watcher()
    result = pool.execute(
        "handle = display('old', display_id='here')\n"
        "display('other')\n"
        "handle.update('new')\n"
        "print('after')",
        on_output=watcher,
    )
    assert brief(result.display_outputs) == [
        ("display_data", "'new'"),
        ("display_data", "'other'"),
        ("stdout", "after\n"),
    ]
    assert brief(watcher.outputs) == [
        ("display_data", "'old'"),
        ("display_data", "'other'"),
        ("update_display_data", "'new'"),
        ("stdout", "after\n"),
    ]
    assert watcher.events[0]["transient"] == {"display_id": "here"}
    assert watcher.events[2]["transient"] == {"display_id": "here"}


def test_an_update_reaches_all_displays_of_its_id(pool: KernelPool) -> None:
    result = pool.execute(
        "display('a', display_id='x'); display('b', display_id='y'); display('c', display_id='x')\n"
        "from IPython.display import update_display\n"
        "update_display('new', display_id='x')\n"
        "update_display('lost', display_id='nowhere')"
    )
    assert [text for _, text in brief(result.display_outputs)] == ["'new'", "'b'", "'new'"]


def test_clear_output_clears_at_once_or_with_the_next_output(pool: KernelPool) -> None:
    watcher = Watcher()
    result = pool.execute(
        "from IPython.display import clear_output\n"
        "print('gone'); display('gone too')\n"
        "clear_output()\n"
        "print('replaced')\n"
        "clear_output(wait=True)\n"
        "print('stays')\n"
        "clear_output(wait=True)",
        on_output=watcher,
    )
    assert result.display_outputs == [stream("stays\n")]
    assert [event for event in watcher.events if event["output_type"] == "clear_output"] == [
        {"output_type": "clear_output", "wait": False},
        {"output_type": "clear_output", "wait": True},
        {"output_type": "clear_output", "wait": True},
    ]


def test_all_types_and_metadata_of_a_display_arrive(pool: KernelPool) -> None:
    result = pool.execute(
        "display({'text/html': '<i>x</i>', 'application/json': {'a': [1, None]}},"
        " metadata={'text/html': {'isolated': True}}, raw=True)"
    )
    (output,) = result.display_outputs
    assert output == {
        "output_type": "display_data",
        "data": {"text/html": "<i>x</i>", "application/json": {"a": [1, None]}},
        "metadata": {"text/html": {"isolated": True}},
    }


@pytest.mark.requires("module:matplotlib")
def test_figures_are_shown_inline(pool: KernelPool) -> None:
    result = pool.execute(
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.title('t')\nprint('below');",
        timeout=DEADLINE * 2,
    )
    images = [o for o in result.display_outputs if "image/png" in o.get("data", {})]
    assert len(images) == 1
    assert images[0]["output_type"] == "display_data"
    assert images[0]["data"]["image/png"].startswith("iVBOR")
    assert result.stdout == "below\n"


def test_a_carriage_return_is_kept_as_it_was_sent(pool: KernelPool) -> None:
    assert pool.execute("print('10%\\r20%')").stdout == "10%\r20%\n"


# --- on_output ----------------------------------------------------------------------------------


def test_on_output_sees_each_output_as_it_happens(pool: KernelPool) -> None:
    """The cell waits for its own output to be seen before it makes the next."""
    code = (
        "import os\n"
        "for i in range(3):\n"
        "    print(i, flush=True)\n"
        "    os.read(fd, 1)\n"
        "display('end')"
    )
    read, write = os.pipe()
    try:
        path = f"/proc/{os.getpid()}/fd/{read}"
        if not os.path.exists(path):
            pytest.skip("platform: no /proc to reach another process's pipe by")

        def answer(event: dict[str, Any]) -> None:
            if event["output_type"] == "stream":
                os.write(write, b"." * event["text"].count("\n"))

        watcher = Watcher(answer)
        result = pool.execute(
            f"fd = __import__('os').open({path!r}, 0)\n" + code, on_output=watcher
        )
    finally:
        os.close(read)
        os.close(write)
    assert brief(watcher.outputs) == [
        ("stdout", "0\n1\n2\n"),
        ("display_data", "'end'"),
    ]
    assert result.stdout == "0\n1\n2\n"


def test_on_output_is_called_in_the_callers_thread(pool: KernelPool) -> None:
    watcher = Watcher()
    pool.execute("print(1)\n2\n", on_output=watcher)
    assert watcher.threads == {threading.current_thread().name}


def test_on_output_of_a_future_is_called_on_a_thread_that_may_wait_for_the_pool(
    pool: KernelPool,
) -> None:
    answers: list[str] = []

    def ask(event: dict[str, Any]) -> None:
        answers.append(value(pool.execute("6 * 7", timeout=DEADLINE)))

    watcher = Watcher(ask)
    future = pool.submit_code("print('x')", on_output=watcher)
    assert future.result(DEADLINE).stdout == "x\n"
    assert answers == ["42"] * len(watcher.events)
    assert answers
    assert threading.current_thread().name not in watcher.threads


def test_a_future_is_done_after_its_last_output_was_seen(pool: KernelPool) -> None:
    proceed = threading.Event()
    watcher = Watcher(lambda event: proceed.wait(DEADLINE))
    future = pool.submit_code("print('x')", on_output=watcher)
    watcher.wait_for("x")
    # The worker is free again, but this request's watcher is not through yet.
    assert value(pool.execute("1")) == "1"
    assert not future.done()
    proceed.set()
    assert future.result(DEADLINE).stdout == "x\n"


def test_a_slow_on_output_holds_up_nobody_else(pool: KernelPool) -> None:
    proceed = threading.Event()
    slow = Watcher(lambda event: proceed.wait(DEADLINE))
    future = pool.submit_code("for i in range(50): print(i, flush=True)", on_output=slow)
    slow.wait_for("0")
    begun = time.monotonic()
    # On both workers: the one whose outputs nobody takes in is free too.
    others = [pool.submit_code("import os; os.getpid()") for _ in range(20)]
    pids = {value(other.result(DEADLINE)) for other in others}
    assert pids <= {str(worker.pid) for worker in pool.get_status().workers}
    assert time.monotonic() - begun < DEADLINE / 2
    assert not future.done()
    proceed.set()
    assert future.result(DEADLINE).stdout == "".join(f"{i}\n" for i in range(50))
    assert "".join(event["text"] for event in slow.events) == future.result().stdout


def test_a_slow_on_output_does_not_use_up_the_codes_time(pool: KernelPool) -> None:
    pause = threading.Event()
    watcher = Watcher(lambda event: pause.wait(THERE_BY_THEN + 0.1))
    result = pool.execute("print('x')", on_output=watcher, timeout=THERE_BY_THEN)
    assert result.status == "ok"
    assert result.timings.ran < THERE_BY_THEN


@pytest.mark.parametrize("how", ["execute", "submit_code"])
def test_a_raising_on_output_is_logged_and_harms_nothing(
    pool: KernelPool, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    def fail(event: dict[str, Any]) -> None:
        raise RuntimeError("from the callback")

    watcher = Watcher(fail)
    with caplog.at_level(logging.ERROR, logger="jupyter_pool"):
        if how == "execute":
            result = pool.execute("print('x')\ndisplay('y')\n'z'", on_output=watcher)
        else:
            future = pool.submit_code("print('x')\ndisplay('y')\n'z'", on_output=watcher)
            result = future.result(DEADLINE)
    assert brief(result.display_outputs) == [
        ("stdout", "x\n"),
        ("display_data", "'y'"),
        ("execute_result", "'z'"),
    ]
    assert brief(watcher.outputs) == brief(result.display_outputs)
    assert caplog.text.count("RuntimeError: from the callback") == len(watcher.events)


def test_an_interrupt_from_on_output_gives_the_request_up(pool: KernelPool) -> None:
    def stop(event: dict[str, Any]) -> None:
        if event["output_type"] == "stream":
            raise KeyboardInterrupt

    eventually(lambda: states(pool) == ["idle", "idle"])  # none that another test left ending
    before = {worker.pid for worker in pool.get_status().workers}
    with pytest.raises(KeyboardInterrupt):
        pool.execute("print('x', flush=True)\nwhile True: pass", on_output=stop)
    eventually(lambda: states(pool) == ["idle", "idle"])
    assert {worker.pid for worker in pool.get_status().workers} == before


def test_changing_an_event_changes_nothing(pool: KernelPool) -> None:
    def scribble(event: dict[str, Any]) -> None:
        event["text"] = event["data"] = event["ename"] = "scribbled"

    result = pool.execute("print('x')\ndisplay('y')", on_output=scribble)
    assert brief(result.display_outputs) == [("stdout", "x\n"), ("display_data", "'y'")]


def test_errors_reach_on_output_too(pool: KernelPool) -> None:
    watcher = Watcher()
    with pytest.raises(ExecutionError) as caught:
        pool.execute("1/0", on_output=watcher)
    (event,) = watcher.events
    assert event["output_type"] == "error"
    assert event["traceback"] == caught.value.traceback


def test_a_left_over_thread_of_a_request_prints_into_no_other(pool: KernelPool) -> None:
    first = pool.execute(
        "import threading, time, os\n"
        "def late(print=print, sleep=time.sleep):\n"  # what it needs survives the reset
        "    while True: print('late', flush=True); sleep(0.001)\n"
        "threading.Thread(target=late, daemon=True).start()\n"
        "os.getpid()"
    )
    for _ in range(10):
        futures = [pool.submit_code("import os; print('mine'); os.getpid()") for _ in range(4)]
        results = [future.result(DEADLINE) for future in futures]
        assert {result.stdout for result in results} == {"mine\n"}
        assert value(first) not in {value(result) for result in results}


def test_the_recursion_of_display_is_no_harm(pool: KernelPool) -> None:
    depth = sys.getrecursionlimit() * 2
    result = pool.execute(f"x = []\nfor _ in range({depth}): x = [x]\nx", check=False)
    assert result.status in {"ok", "error"}
    assert value(pool.execute("1")) == "1"
