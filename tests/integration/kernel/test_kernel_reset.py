"""What one request does to its worker, and what the next one sees of it: nothing."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.kernel.kernel_client import Worker, exists, start_worker
from integration.kernel.reset_deeds import LASTING


@pytest.fixture(scope="module")
def ruined_worker() -> Iterator[Worker]:
    """One that is only asked whether it knows that it is."""
    with tempfile.TemporaryDirectory(prefix="jpk-") as folder, start_worker(Path(folder)) as worker:
        yield worker


@pytest.mark.parametrize("deed", LASTING)
def test_what_cannot_be_undone_asks_for_a_new_process(ruined_worker: Worker, deed: str) -> None:
    code, reason = LASTING[deed]
    answer = ruined_worker.run(code)
    assert answer.content["status"] == "ok"
    assert reason in answer.report["recycle"]


@pytest.mark.parametrize(
    "deed",
    [
        "import threading\nt = threading.Thread(target=print)\nt.start()",
        "import subprocess\nsubprocess.run(['true'])",
        (
            "import subprocess\np = subprocess.Popen(['true'])\nimport os\n"
            "os.waitid(os.P_PID, p.pid, os.WEXITED | os.WNOWAIT);"
        ),
        (
            "from concurrent.futures import ThreadPoolExecutor\ne = ThreadPoolExecutor(2)\n"
            "list(e.map(abs, [1, 2]))"
        ),
        "import asyncio\nawait asyncio.to_thread(abs, 1)",
        "import asyncio\np = await asyncio.create_subprocess_exec('true')\nawait p.wait()",
        (
            "from multiprocessing import shared_memory\ns = shared_memory.SharedMemory(create=True,"
            " size=10)\ns.close(); s.unlink()"
        ),
    ],
    ids=["ended", "child", "zombie", "pool", "to_thread", "async child", "tracker"],
)
def test_harmless_leftovers_do_not(worker: Worker, deed: str) -> None:
    answer = worker.run(deed)
    assert answer.content["status"] == "ok", answer.content
    assert answer.report["recycle"] is None


def test_objects_of_a_request_are_freed_with_it_also_after_an_error(worker: Worker) -> None:
    code = (
        "import warnings\nclass Big: pass\nb = Big()\nimport weakref, sys\n"
        "sys.modules['weakref'].pool_test = weakref.ref(b)\n"
    )
    for end in ("b", "def f(x): 1/0\nf(b)", "Out[99] = b", "get_ipython().nothing = None"):
        worker.run(code + end)
        assert worker.run("import weakref, gc\ngc.collect()\nweakref.pool_test()").result is None


def test_figures_of_a_request_are_closed_and_the_next_one_still_shows_its_own(
    fresh_worker: Worker,
) -> None:
    pytest.importorskip("matplotlib")
    plot = "import matplotlib.pyplot as plt\nplt.plot([1]);"
    for _ in range(2):
        answer = fresh_worker.run(plot)
        shown = [m for m in answer.messages if m["msg_type"] == "display_data"]
        assert len(shown) == 1
        assert "image/png" in shown[0]["content"]["data"]
    fresh_worker.run(
        "from matplotlib_inline.config import InlineBackend\nimport matplotlib.pyplot as plt\n"
        "plt.switch_backend('agg')\nplt.figure()"
    )
    assert fresh_worker.run("import matplotlib.pyplot as plt\nplt.get_fignums()").result == "[]"


def test_a_warning_is_shown_to_every_request(worker: Worker) -> None:
    for _ in range(2):
        assert "careful" in worker.run("import warnings\nwarnings.warn('careful')").stderr


def test_an_imported_module_stays_warm(worker: Worker) -> None:
    worker.run("import colorsys")
    assert worker.run("import sys\n'colorsys' in sys.modules").result == "True"


def test_a_child_left_behind_ends_with_its_request(fresh_worker: Worker) -> None:
    answer = fresh_worker.run(_SLEEPER, outputs=["pid"])
    assert not exists(answer.values["pid"])


def test_a_child_that_is_kept_dies_with_the_workers_group(fresh_worker: Worker) -> None:
    pid = fresh_worker.run(_SLEEPER, outputs=["pid"], keep=True).values["pid"]
    assert exists(pid)
    fresh_worker.close_process()
    assert not exists(pid)


_SLEEPER = "import subprocess\npid = subprocess.Popen(['sleep', '60']).pid"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")
def test_a_reset_is_cheap(fresh_worker: Worker) -> None:
    took = [fresh_worker.run("1 + 1").report["reset_ms"] for _ in range(200)]
    # 0.2 ms on a quiet machine; the margin is for a busy one.
    assert statistics.median(took) < 1.0
