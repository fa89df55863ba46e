"""What one request does to its worker, and what the next one sees of it: nothing."""

from __future__ import annotations

import statistics
import sys

import pytest
from integration.kernel.kernel_client import Worker, exists

LOOK = {
    "names": "sorted(n for n in globals() if not n.startswith('_'))",
    "results": "(_, __, ___, dict(Out), In[1:-1] if len(In) > 1 else In)",
    "previous input": "(_i, _ii)",
    "last error": "[n for n in dir(__import__('sys')) if n.startswith('last_')]",
    "cwd": "__import__('os').getcwd()",
    "environment": "sorted(__import__('os').environ.items())",
    "sys.path": "list(__import__('sys').path)",
    "sys.argv": "list(__import__('sys').argv)",
    "streams": "[type(s).__name__ for s in (__import__('sys').stdout, __import__('sys').stderr)]",
    "builtins": "sorted(n for n in dir(__import__('builtins')) if n != 'get_ipython')",
    "len": "len([1, 2])",
    "warnings": "[f[:1] + f[2:3] for f in __import__('warnings').filters]",
    "showwarning": "__import__('warnings').showwarning.__module__",
    "logging": "(lambda r: (r.level, len(r.handlers), r.manager.disable))(__import__('logging').root)",
    "trace": "(__import__('sys').gettrace(), __import__('sys').getprofile())",
    "recursion": "__import__('sys').getrecursionlimit()",
    "gc": "(__import__('gc').isenabled(), __import__('gc').get_threshold())",
    "umask": "(lambda o: (o.umask(o.umask(0)), o.umask(0)) and o.popen('umask').read())"
    "(__import__('os'))",
    "locale": "__import__('locale').setlocale(0)",
    "decimal": "__import__('decimal').getcontext().prec",
    "magics": "sorted(get_ipython().magics_manager.lsmagic()['line'])",
    "events": "{k: len(v) for k, v in get_ipython().events.callbacks.items()}",
    "extensions": "sorted(get_ipython().extension_manager.loaded)",
    "transformers": "(len(get_ipython().ast_transformers),"
    " len(get_ipython().input_transformers_post))",
    "formatters": "[len(f.type_printers) for f in"
    " get_ipython().display_formatter.formatters.values()]",
    "interactivity": "get_ipython().ast_node_interactivity",
    "future": "get_ipython().compile.flags",
    "main": "__import__('sys').modules['__main__'].__dict__ is globals()",
    "hooks": "(__import__('sys').excepthook.__module__, __import__('threading').excepthook.__name__)",
    "breakpoint": "__import__('sys').breakpointhook.__name__",
    "input": "input.__qualname__",
    "alarm": "__import__('signal').getitimer(0)",
}
LOOK_CODE = "r = {" + ", ".join(f"{k!r}: repr({v})" for k, v in LOOK.items()) + "}"

DEEDS = {
    "names": "x = 1\ndel open\nprint = None\nget_ipython().user_ns['In'] = 3",
    "results": "5",
    "error": "1/0",
    "syntax error": "1 +",
    "cwd": "import os\nos.chdir('/')",
    "environment": "import os\nos.environ['A'] = '1'\ndel os.environ['PATH']\n"
    "os.environ['HOME'] = 'x'",
    "environment replaced": "import os\nos.environ = {'only': 'this'}",
    "sys": "import sys\nsys.path.insert(0, 'x')\nsys.argv[:] = ['a']\nsys.setrecursionlimit(5000)",
    "sys replaced": "import sys\nsys.path = ['x']\nsys.argv = []\nsys.excepthook = None",
    "streams": "import sys, io\nsys.stdout = io.StringIO()\nsys.stderr = None",
    "streams closed": "import sys\nsys.displayhook = None",
    "builtins": "import builtins\nbuiltins.extra = 1\nbuiltins.len = lambda x: 7\ndel builtins.sum\n"
    "builtins._ = 5",
    "warnings": "import warnings\nwarnings.simplefilter('ignore')\nwarnings.showwarning = print",
    "logging": "import logging\nlogging.basicConfig(level=1)\nlogging.disable(50)\n"
    "logging.captureWarnings(True)",
    "trace": "import sys, threading\nsys.settrace(lambda *a: None)\n"
    "threading.settrace(lambda *a: None)\nthreading.excepthook = print",
    "profile": "import sys\nsys.setprofile(lambda *a: None)",
    "gc": "import gc\ngc.disable()\ngc.set_threshold(5)",
    "umask": "import os\nos.umask(0o777)",
    "decimal": "import decimal\ndecimal.getcontext().prec = 3",
    "magic": "from IPython.core.magic import register_line_magic\n"
    "@register_line_magic\ndef mine(line): return 1",
    "alias": "%alias_magic t timeit",
    "event": "get_ipython().events.register('pre_run_cell', lambda *a: print('leaked'))\n"
    "get_ipython().events.register('post_execute', lambda *a: None)",
    "extension": "%load_ext autoreload\n%autoreload 2",
    "transformers": "ip = get_ipython()\nip.input_transformers_post.append(lambda lines: lines)\n"
    "import ast\nip.ast_transformers.append(ast.NodeTransformer())",
    "formatter": "get_ipython().display_formatter.formatters['text/html'].for_type(int, str)",
    "interactivity": "get_ipython().ast_node_interactivity = 'all'",
    "future": "from __future__ import annotations",
    "main": "import sys, types\nsys.modules['__main__'] = types.ModuleType('__main__')",
    "run": "%%writefile script_for_run.py\nvariable = 1",
    "finalizer": "class F:\n    def __del__(self): globals()['back'] = 1\nf = F()",
    "breakpoint": "import sys\nsys.breakpointhook = print",
    "input": "import builtins\nbuiltins.input = lambda *a: 'fake'",
    "alarm": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 1000)",
    "task": "import asyncio\nasyncio.get_running_loop().call_later(0.01, print, 'leaked')\n"
    "async def f():\n    while True:\n        await asyncio.sleep(0.001); print('leaked')\n"
    "t = asyncio.create_task(f())\nawait asyncio.sleep(0)",
}


@pytest.fixture(scope="module")
def untouched(worker: Worker) -> dict[str, str]:
    return worker.run(LOOK_CODE, outputs=["r"]).values["r"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("deed", DEEDS)
def test_the_next_request_sees_nothing_of(
    worker: Worker, untouched: dict[str, str], deed: str
) -> None:
    answer = worker.run(DEEDS[deed])
    assert answer.report["recycle"] is None
    after = worker.run(LOOK_CODE, outputs=["r"])
    assert after.content["status"] == "ok", after.content
    assert after.stdout == after.stderr == ""
    differences = {
        key: (untouched[key], value)
        for key, value in after.values["r"].items()
        if untouched[key] != value
    }
    assert differences == {}


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        (
            (
                "import threading\nthreading.Thread(target=threading.Event().wait, name='mine',"
                " daemon=True).start()"
            ),
            "it left a thread running: mine",
        ),
        (
            "import subprocess\np = subprocess.Popen(['sleep', '60'])",
            "it left a child process running",
        ),
        (
            "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
            "the handler of SIGTERM was changed",
        ),
        (
            (
                "import asyncio\nasync def f():\n    while True:\n        try: await asyncio.sleep(9)\n"
                "        except asyncio.CancelledError: pass\nt = asyncio.create_task(f())\n"
                "await asyncio.sleep(0)"
            ),
            "a task refused to be cancelled",
        ),
    ],
    ids=["thread", "child", "signal", "task"],
)
def test_what_cannot_be_undone_asks_for_a_new_process(
    fresh_worker: Worker, deed: str, reason: str
) -> None:
    answer = fresh_worker.run(deed)
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
