"""What one request does to its worker, and what the next one sees of it: nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from integration.kernel.kernel_client import Worker, exists
from integration.kernel.reset_deeds import LASTING

from support.conditions import eventually


@pytest.mark.parametrize("deed", LASTING)
def test_what_cannot_be_undone_asks_for_a_new_process(fresh_worker: Worker, deed: str) -> None:
    code, reason = LASTING[deed]
    answer = fresh_worker.run(code)
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
        # It is still busy when its result is there; it is the loop's own, and stays.
        (
            "import asyncio, threading, time\nawait asyncio.to_thread(abs, 1)\n"
            "pool, go = asyncio.get_running_loop()._default_executor, threading.Event()\n"
            "f = pool.submit(go.wait)\nf.add_done_callback(lambda _: time.sleep(0.02))\n"
            "go.set()\nf.result();"
        ),
        "import asyncio\np = await asyncio.create_subprocess_exec('true')\nawait p.wait()",
        (
            "from multiprocessing import shared_memory\ns = shared_memory.SharedMemory(create=True,"
            " size=10)\ns.close(); s.unlink()"
        ),
    ],
    ids=["ended", "child", "zombie", "pool", "to_thread", "going back", "async child", "tracker"],
)
def test_harmless_leftovers_do_not(worker: Worker, deed: str) -> None:
    worker.be_patient()
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
    # Killed together: which of them ends first is up to the system.
    eventually(lambda: not exists(pid))


_SLEEPER = "import subprocess\npid = subprocess.Popen(['sleep', '60']).pid"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")
def test_without_adoption_an_orphan_is_found_in_the_process_group(fresh_worker: Worker) -> None:
    # As on other systems: no subreaper, so a job in the background is not our child.
    look = "import os\nos.system('sleep 60 & echo $!');"
    fresh_worker.run(
        "import ctypes\nctypes.CDLL(None).prctl(36, 0, 0, 0, 0)\n"
        "get_ipython().kernel.freshness.baseline._children._adopts = False",
        plain=True,
    )
    assert fresh_worker.run("1").report["recycle"] is None
    answer = fresh_worker.run(look)
    assert answer.report["recycle"] == f"it left a child process running: {answer.stdout.strip()}"
    assert not exists(int(answer.stdout))
    assert fresh_worker.run("1").report["recycle"] is None


def test_what_is_leaned_on_is_where_it_was(worker: Worker) -> None:
    """Internals of other projects that the reset uses: here it fails first when they move."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    answer = worker.run(
        "import asyncio, importlib, logging, sys, threading, warnings\n"
        "import matplotlib, matplotlib_inline.config as inline, pandas, numpy\n"
        "from pandas._config import config\n"
        "bootstrap = importlib._bootstrap\n"
        "assert bootstrap._load_unlocked.__code__.co_filename == '<frozen importlib._bootstrap>'\n"
        "assert 'hook' in bootstrap._load_unlocked.__globals__\n"
        "assert 'hook' in bootstrap._exec.__globals__\n"
        "assert isinstance(config._global_config['display'], dict)\n"
        "assert isinstance(matplotlib.rcParams, dict) and len(matplotlib.colormaps) > 1\n"
        "assert inline.InlineBackend._instance or inline.InlineBackend._instance is None\n"
        "assert isinstance(logging.root.manager.loggerDict, dict) and logging.PlaceHolder\n"
        "assert asyncio.tasks and hasattr(asyncio.events, '_event_loop_policy')\n"
        "ip = get_ipython()\n"
        "assert isinstance(ip._trait_values, dict) and ip.history_manager._trait_values\n"
        "assert isinstance(threading._active, dict)"
    )
    assert answer.content["status"] == "ok", answer.content


def test_users_see_no_frames_of_ours_when_an_import_fails(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "broken_module.py").write_text("def f(): 1/0\nf()")
    answer = worker.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport broken_module")
    text = "".join(answer.content["traceback"])
    assert "broken_module.py" in text
    assert "importlib" not in text
    assert "jupyter_pool" not in text.replace(str(tmp_path), "")


def test_what_an_import_changes_stays_and_what_the_request_changes_besides_does_not(
    fresh_worker: Worker, tmp_path: Path
) -> None:
    (tmp_path / "noisy_module.py").write_text(
        "import os, warnings\n"
        "warnings.filterwarnings('ignore', 'of the module')\n"
        "os.environ['OF_THE_MODULE'] = '1'"
    )
    fresh_worker.run(
        "import os, sys, warnings\n"
        "warnings.filterwarnings('ignore', 'of the request')\n"
        "os.environ['OF_THE_REQUEST'] = '1'\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\nimport noisy_module\n"
        "warnings.filterwarnings('ignore', 'also of the request')"
    )
    answer = fresh_worker.run(
        "import os, warnings\n"
        "for owner in ('module', 'request'): warnings.warn(f'of the {owner}')\n"
        "[name for name in os.environ if name.startswith('OF_THE')]"
    )
    assert answer.result == "['OF_THE_MODULE']"
    assert "of the request" in answer.stderr
    assert "of the module" not in answer.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")
def test_a_reset_is_cheap(fresh_worker: Worker) -> None:
    took = [fresh_worker.run("1 + 1").report["reset_ms"] for _ in range(200)]
    # 0.2 ms where nothing comes between; on a busy machine that is not every time.
    assert min(took) < 1.0
