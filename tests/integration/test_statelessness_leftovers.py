"""What a request leaves running: it is never heard of again, and it does not run on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jupyter_pool import KernelPool
from support.cells import DEADLINE, THERE_BY_THEN, Gate, pid

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    # One worker: whatever is left behind would be heard in the next request.
    with KernelPool(1, reserve=1) as pool:
        yield pool


#: Code that leaves something behind which waits for the file `go` and then says LATE in every way.
_SAY = """
import os, sys, time
def say(os=os, time=time, print=print):  # its names outlive the namespace
    while not os.path.exists({go!r}):
        time.sleep(0.002)
    for _ in range(50):
        print("LATE", flush=True)
        os.write(1, b"LATE")
        os.write(2, b"LATE")
        time.sleep(0.002)
"""

_LOOP = "while [ ! -e {go} ]; do sleep .01; done; for i in 1 2 3 4 5 6 7 8 9; do echo LATE; sleep .01; done"

LEAVE = {
    "background job": "import os\nos.system({loop!r}.join(['(', ') &']))",
    "Popen": "import subprocess\nchild = subprocess.Popen(['sh', '-c', {loop!r}])",
    "thread": "import threading\nthreading.Thread(target=say).start()",
    "daemon thread": "import threading\nthreading.Thread(target=say, daemon=True).start()",
    "bare thread": "import _thread\n_thread.start_new_thread(say, ())",
    "timer": "import threading\nthreading.Timer(0.05, say).start()",
    "executor": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "executor = ThreadPoolExecutor()\nexecutor.submit(say)"
    ),
    "fork": "import os\nif not os.fork():\n    say(); os._exit(0)",
    "multiprocessing": (
        "import multiprocessing\n"
        "multiprocessing.get_context('fork').Process(target=say, daemon=True).start()"
    ),
    "daemon": (
        "import os\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    say(); os._exit(0)\n"
        "os.wait();"
    ),
}


@pytest.mark.parametrize("kind", LEAVE)
def test_nothing_that_is_left_running_is_heard_later(
    pool: KernelPool, tmp_path: Path, kind: str
) -> None:
    if kind == "daemon" and not sys.platform.startswith("linux"):
        pytest.skip("platform: Linux adopts them, elsewhere they escape")
    go = str(tmp_path / "go")
    before = pid(pool)
    first = pool.execute(_SAY.format(go=go) + LEAVE[kind].format(loop=_LOOP.format(go=go)))
    (tmp_path / "go").touch()
    listen = f"import time\ntime.sleep(0.02)\nopen({go!r}).close()"
    later = [pool.execute(listen, timeout=DEADLINE) for _ in range(5)]
    assert "LATE" not in first.stdout + first.stderr
    assert [result.stdout + result.stderr for result in later] == [""] * 5
    assert pid(pool) != before


def test_tasks_and_timers_of_the_event_loop_say_nothing_later_either(pool: KernelPool) -> None:
    before = pid(pool)
    pool.execute(
        "import asyncio\n"
        "loop = asyncio.get_running_loop()\n"
        "loop.call_later(0.01, print, 'LATE')\n"
        "async def say():\n"
        "    while True:\n"
        "        await asyncio.sleep(0.001)\n"
        "        print('LATE')\n"
        "task = asyncio.create_task(say())"
    )
    later = [pool.execute("import asyncio; await asyncio.sleep(0.02)") for _ in range(3)]
    assert [result.stdout for result in later] == [""] * 3
    assert pid(pool) == before


@LINUX
@pytest.mark.parametrize("kind", ["child", "session", "daemon"])
def test_processes_that_are_left_running_are_ended_with_their_request(
    pool: KernelPool, kind: str
) -> None:
    result = pool.execute(
        f"kind = {kind!r}\n"
        "import os, time\n"
        "read, write = os.pipe()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    if kind != 'child': os.setsid()\n"
        "    if kind == 'daemon' and os.fork(): os._exit(0)\n"
        "    os.write(write, str(os.getpid()).encode())\n"
        "    time.sleep(1000)\n"
        "if kind == 'daemon': os.waitpid(child, 0)\n"  # it is not what is left
        "left = int(os.read(read, 100))",
        outputs=["left"],
    )
    _wait_gone(result.outputs["left"])
    [cause] = [c for c in pool.get_stats().workers_recycled if str(result.outputs["left"]) in c]
    assert cause == f"it left a child process running: {result.outputs['left']}"


@LINUX
@pytest.mark.parametrize("how", ["timeout", "lease", "close"])
def test_a_worker_that_is_ended_takes_its_daemons_along(tmp_path: Path, how: str) -> None:
    escape = (
        "import os, time\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        f"    with open({str(tmp_path / 'new')!r}, 'w') as file: file.write(str(os.getpid()))\n"
        f"    os.rename({str(tmp_path / 'new')!r}, {str(tmp_path / 'pid')!r})\n"
        "    time.sleep(1000)\n"
        f"while not os.path.exists({str(tmp_path / 'pid')!r}): time.sleep(0.002)\n"
    )
    stubborn = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
    stubborn += "while True: time.sleep(1)"
    with KernelPool(1, interrupt_grace=0.1) as pool, Gate(tmp_path) as gate:
        if how == "timeout":
            assert not pool.execute(escape + stubborn, timeout=THERE_BY_THEN, check=False).outputs
        elif how == "lease":
            with pool.checkout() as worker:
                worker.execute(escape)
        else:
            future = pool.submit_code(escape + gate.code)
            _wait_for(tmp_path / "pid")
            pool.close(timeout=0.1)
            assert future.done()
        _wait_gone(int((tmp_path / "pid").read_text()))


def _wait_for(path: Path) -> None:
    end = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < end, f"no {path}"
        os.sched_yield()


def _wait_gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(DEADLINE)
    except psutil.NoSuchProcess:
        pass
