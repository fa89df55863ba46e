"""Output: nothing lost, nothing late, nothing in another request's answer."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from integration.kernel.kernel_client import Worker

RUN = "import subprocess, sys\n"


def test_a_childs_output_is_in_its_own_answer(worker: Worker) -> None:
    for number in range(20):
        answer = worker.run(RUN + f"subprocess.run(['echo', 'hi {number}']);")
        assert answer.stdout == f"hi {number}\n"


def test_text_of_python_and_of_children_keeps_its_order(worker: Worker) -> None:
    answer = worker.run(
        "import subprocess, os\nfor i in range(5):\n    print('python', i)\n"
        "    subprocess.run(['echo', 'child', str(i)])\n    os.write(1, b'raw\\n')\n"
    )
    # Python's own text is buffered before the child writes, as on any pipe, but
    # what a child has written is never overtaken by what Python writes after it.
    lines = answer.stdout.splitlines()
    assert sorted(lines) == sorted(
        [f"python {i}" for i in range(5)] + [f"child {i}" for i in range(5)] + ["raw"] * 5
    )
    for i in range(4):
        assert lines.index(f"child {i}") < lines.index(f"python {i + 1}")
        assert lines.index(f"python {i}") < lines.index(f"child {i}")


def test_a_child_that_is_given_our_stream_is_captured(worker: Worker) -> None:
    answer = worker.run(RUN + "subprocess.run(['echo', 'x'], stdout=sys.stderr, check=True);")
    assert (answer.stdout, answer.stderr) == ("", "x\n")


def test_a_display_comes_after_what_was_written_before_it(worker: Worker) -> None:
    answer = worker.run("import os\nos.write(1, b'first')\ndisplay(1)\nos.write(2, b'then');")
    assert answer.types[2:5] == ["stream", "display_data", "stream"]


def test_large_output_of_a_child_arrives_whole(worker: Worker) -> None:
    code = "print('x' * 79 + chr(10), end='') or [print('y' * 79) for _ in range(20000)]"
    answer = worker.run(RUN + f"subprocess.run([sys.executable, '-c', {code!r}]);")
    assert len(answer.stdout) == 80 * 20001


def test_characters_that_are_split_between_reads_are_whole(worker: Worker) -> None:
    answer = worker.run(
        "import os, sys\nfor byte in '€ü'.encode():\n    os.write(1, bytes([byte]))\n"
        "    sys.stdout.flush()"
    )
    assert answer.stdout == "€ü"


def test_half_a_character_does_not_reach_the_next_request(worker: Worker) -> None:
    assert worker.run("import os\nos.write(1, '€'.encode()[:2]);").stdout == "\ufffd"
    assert worker.run("print('ok')").stdout == "ok\n"


def test_the_first_line_comes_at_once_and_the_others_soon(worker: Worker) -> None:
    request = worker.submit(
        "import time\nprint('first')\nprint('second')\n"
        "print('third', end='')\nwhile True: time.sleep(0.01)"
    )
    # While the cell goes on for ever, so not with its end.
    worker.wait_for_text(request, "third")
    worker.interrupt()
    assert worker.finish(request).stdout == "first\nsecond\nthird"


def test_many_lines_are_sent_together(worker: Worker) -> None:
    answer = worker.run(
        "import sys, time\nbegan = time.monotonic()\nfor i in range(10000): print(i)\n"
        "spans = (time.monotonic() - began) / sys.stdout.flush_interval",
        outputs=["spans"],
    )
    assert answer.stdout.splitlines() == [str(i) for i in range(10000)]
    # In each interval there is one, and one more where a line has waited for its end; one at the
    # beginning and one at the end.
    assert answer.types.count("stream") <= 2 * answer.values["spans"] + 4


def test_a_forked_childs_print_is_captured(worker: Worker) -> None:
    answer = worker.run(
        "import os\nif os.fork() == 0:\n    print('from the child')\n    os._exit(0)\n"
        "os.wait()\nprint('from the parent')"
    )
    assert answer.stdout == "from the child\nfrom the parent\n"
    assert answer.report["recycle"] is None


def test_multiprocessing_prints_are_captured(worker: Worker) -> None:
    answer = worker.run(
        "import multiprocessing as mp\nctx = mp.get_context('fork')\n"
        "ps = [ctx.Process(target=print, args=(i,)) for i in range(3)]\n"
        "for p in ps: p.start()\nfor p in ps: p.join()"
    )
    assert sorted(answer.stdout.split()) == ["0", "1", "2"]
    assert answer.report["recycle"] is None


def test_a_thread_prints_into_the_cell_that_started_it(worker: Worker) -> None:
    answer = worker.run(
        "import threading\nt = threading.Thread(target=print, args=('thread',))\n"
        "t.start(); t.join()"
    )
    assert answer.stdout == "thread\n"


def test_a_redirected_descriptor_is_captured_again(worker: Worker) -> None:
    worker.run("import os\nos.dup2(os.open(os.devnull, os.O_WRONLY), 1)\nos.close(2)")
    answer = worker.run("import os\nos.write(1, b'out')\nos.write(2, b'err');")
    assert (answer.stdout, answer.stderr) == ("out", "err")


def test_no_display_is_lost_with_a_reader_that_does_not_read(worker: Worker) -> None:
    request = worker.submit("for i in range(20000): display(i)")
    # The reply is awaited before a single message of iopub is read.
    assert worker.receive(worker.shell, request, 60)["content"]["status"] == "ok"
    messages = worker.drain(request, 60)
    assert sum(message["msg_type"] == "display_data" for message in messages) == 20000


def test_a_reader_that_never_reads_costs_no_more_than_the_limit_for_each_request(
    worker: Worker,
) -> None:
    process = psutil.Process(worker.pid)
    flood = "for i in range(2_000): print('x' * 1000)\nfor i in range(500): display(i)"
    before = process.memory_info().rss
    requests = [worker.submit(flood, output_limit=200_000) for _ in range(20)]
    for request in requests:
        assert worker.receive(worker.shell, request, 60)["content"]["status"] == "ok"
    # ZMQ keeps what is not read; of 40 MB of text that is 20 times the limit, and its overhead.
    assert process.memory_info().rss - before < 20_000_000
    for request in requests:
        messages = worker.drain(request, 60)
        size = sum(len(str(message["content"])) for message in messages)
        assert 100_000 < size < 220_000
        assert messages[-1]["content"] == {"execution_state": "idle"}


def test_widgets_messages_have_a_limit_of_their_own(worker: Worker) -> None:
    answer = worker.run(
        "from comm import create_comm\nwidget = create_comm('w')\n"
        "for i in range(1000): widget.send('x' * 1000)\nprint('seen')",
        output_limit=200_000,
    )
    assert 50 < answer.types.count("comm_msg") < 200
    assert answer.stdout == "seen\n"
    assert answer.report["left_out"] == 0


def test_an_ordinary_client_has_no_limit(worker: Worker) -> None:
    worker.run("print('x' * 100_000)", output_limit=10_000)
    answer = worker.run("print('x' * 100_000)", plain=True)
    assert answer.stdout == "x" * 100_000 + "\n"


def test_text_of_an_earlier_request_is_not_shown_at_this_ones_end(worker: Worker) -> None:
    worker.run(
        "import threading\ngo, gone = threading.Event(), threading.Event()\n"
        "def late():\n    go.wait(20)\n    print('late ' * 10)\n    gone.set()\n"
        "context = __import__('contextvars').copy_context()\n"
        "threading.Thread(target=context.run, args=(late,)).start()",
        keep=True,
        scope="s",
    )
    request = worker.submit(
        "print('x' * 100_000)\ngo.set()\ngone.wait(20)", keep=True, scope="s", output_limit=20_000
    )
    answer = worker.finish(request)
    assert "left out" in answer.stdout
    assert "late" not in answer.stdout
    worker.run("", scope="", reset=True)


# -- what the owner sees ----------------------------------------------------------------


def test_only_c_level_stderr_reaches_the_owners_pipe(fresh_worker: Worker) -> None:
    answer = fresh_worker.run(
        "import os, sys\nprint('py-out')\nprint('py-err', file=sys.stderr)\n"
        "os.write(1, b'fd-out\\n')\nos.write(2, b'fd-err\\n');"
    )
    assert answer.stdout == "py-out\nfd-out\n"
    assert answer.stderr == "py-err\nfd-err\n"
    assert fresh_worker.real_stderr == "fd-err\n"


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="platform: no SIGUSR1")
def test_a_crash_leaves_its_stack_on_the_owners_pipe(
    fresh_worker: Worker, worker_folder: Path
) -> None:
    # What is printed an instant before a crash may be lost with the thread that sends it.
    go = worker_folder / "go"
    request = fresh_worker.submit(
        "import faulthandler, ctypes, os\nfaulthandler.enable()\nprint('before')\n"
        f"while not os.path.exists({str(go)!r}): pass\n"
        "ctypes.string_at(0)"
    )
    fresh_worker.wait_for_text(request, "before")
    go.touch()
    assert fresh_worker.wait_dead() == -signal.SIGSEGV
    assert "Segmentation fault" in fresh_worker.real_stderr
    assert "ctypes" in fresh_worker.real_stderr


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="platform: no SIGUSR1")
def test_stacks_are_dumped_on_demand_with_the_line_of_the_cell(fresh_worker: Worker) -> None:
    request = fresh_worker.submit("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    fresh_worker.wait_for_text(request, "ready")
    deadline = time.monotonic() + 10
    while "line 3 in <module>" not in fresh_worker.real_stderr:
        # It may still be in the print: asked again, since each dump is one moment.
        assert time.monotonic() < deadline, fresh_worker.real_stderr
        size = len(fresh_worker.real_stderr)
        os.kill(fresh_worker.pid, signal.SIGUSR1)
        while len(fresh_worker.real_stderr) == size:
            assert time.monotonic() < deadline
    assert "ipykernel_" in fresh_worker.real_stderr
    fresh_worker.interrupt()
    assert fresh_worker.finish(request).content["ename"] == "KeyboardInterrupt"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")
def test_the_system_prefers_to_kill_workers(worker: Worker) -> None:
    assert worker.run("open('/proc/self/oom_score_adj').read().strip()").result == "'500'"
