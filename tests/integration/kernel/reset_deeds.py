"""What users' code does to its process: each is a cell that the next request must not notice."""

from __future__ import annotations

#: Restored: no new process is needed.
DEEDS = {
    "names": "x = 1\ndel open\nprint = None\nget_ipython().user_ns['In'] = 3",
    "results": "5",
    "error": "def f(): 1/0\nf()",
    "syntax error": "1 +",
    "exit": "exit()",
    "cwd": "import os\nos.chdir('/')",
    "environment": "import os\nos.environ['PROBED'] = '1'\ndel os.environ['PATH']",
    "environment replaced": "import os\nos.environ = {'only': 'this'}",
    "timezone": "import os, time\nos.environ['TZ'] = 'Asia/Tokyo'\ntime.tzset()",
    "path": "import sys\nsys.path.insert(0, 'probed')\nsys.argv.append('probed')",
    "path replaced": "import sys\nsys.path = ['probed']\nsys.argv = []",
    "finders": "import sys\nsys.meta_path.insert(0, type('F', (), {'find_spec': "
    "staticmethod(lambda *a: None)})())\nsys.path_hooks.clear()",
    "finders replaced": "import sys\nsys.meta_path = list(sys.meta_path)[:1]",
    "hooks": "import sys, threading\nsys.excepthook = print\nsys.unraisablehook = print\n"
    "threading.excepthook = print\nsys.displayhook = None",
    "streams": "import sys, io\nsys.stdout = io.StringIO()\nsys.stderr = sys.__stderr__ = None",
    "streams that cannot flush": "import sys\nsys.stdout = sys.stderr = None\n1/0",
    "streams closed": "import io, sys\nsys.stdout = io.StringIO()\nsys.stdout.close()\n1/0",
    "descriptors": "import os\nfd = os.open(os.devnull, os.O_WRONLY)\nos.dup2(fd, 1)\nos.close(2)",
    "builtins": "import builtins\nbuiltins.extra = 1\nbuiltins.bin = lambda x: 7\ndel builtins.ascii",
    "modules": "import sys, types\nsys.modules['probed'] = types.ModuleType('probed')\n"
    "sys.modules['probed.absent'] = None",
    "module removed": "import sys, colorsys\ndel sys.modules['colorsys']",
    "main": "import sys, types\nsys.modules['__main__'] = types.ModuleType('__main__')",
    "trace": "import sys, threading\nthreading.settrace(print)\nsys.settrace(lambda *a: None)",
    "profile": "import sys, threading\nthreading.setprofile(print)\nsys.setprofile(lambda *a: None)",
    "tracemalloc": "import tracemalloc\ntracemalloc.start()",
    "monitoring": "import sys\nif hasattr(sys, 'monitoring'):\n"
    "    sys.monitoring.use_tool_id(3, 'probed')\n"
    "    sys.monitoring.register_callback(3, sys.monitoring.events.LINE, lambda *a: None)\n"
    "    sys.monitoring.set_events(3, sys.monitoring.events.LINE)",
    "interpreter": "import sys\nsys.setrecursionlimit(5000)\nsys.setswitchinterval(0.1)\n"
    "sys.tracebacklimit = 1\nsys.dont_write_bytecode = True\n"
    "getattr(sys, 'set_int_max_str_digits', int)(0)",
    "gc": "import gc\ngc.disable()\ngc.set_threshold(5)\ngc.set_debug(gc.DEBUG_SAVEALL)",
    "stack size": "import threading\nthreading.stack_size(1 << 20)",
    "warnings": "import warnings\nwarnings.simplefilter('error')\nwarnings.showwarning = print",
    "warnings replaced": "import warnings\nwarnings.filters = []\nwarnings.resetwarnings()",
    "warnings entered": "import warnings\nc = warnings.catch_warnings()\nc.__enter__()\n"
    "warnings.simplefilter('ignore')",
    "root logger": "import logging\nlogging.basicConfig(level=1)\nlogging.disable(50)\n"
    "logging.captureWarnings(True)\nlogging.root.addFilter(print)",
    "loggers": "import logging\nlog = logging.getLogger('probed.log')\nlog.setLevel(10)\n"
    "log.addHandler(logging.StreamHandler())\nlog.propagate = False\n"
    "logging.getLogger('asyncio').setLevel(50)\nlogging.getLogger('asyncio').disabled = True",
    "parent logger": "import logging\nlogging.getLogger('probed').addHandler(logging.NullHandler())",
    "logging": "import logging\nlogging.addLevelName(30, 'PROBED')\nlogging.addLevelName(77, 'P')\n"
    "logging.raiseExceptions = False\nlogging.setLoggerClass(type('L', (logging.Logger,), {}))\n"
    "logging.setLogRecordFactory(print)",
    "alarm": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 1000)\n"
    "signal.setitimer(signal.ITIMER_PROF, 1000)",
    "mask": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])",
    "interrupt handler": "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)",
    "umask": "import os\nos.umask(0o777)",
    "locale": "import locale\nlocale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')",
    "limits": "import resource as r\n"
    "r.setrlimit(r.RLIMIT_CORE, (0, r.getrlimit(r.RLIMIT_CORE)[1]))\n"
    "r.setrlimit(r.RLIMIT_NOFILE, (200, r.getrlimit(r.RLIMIT_NOFILE)[1]))",
    "affinity": "import os\nif hasattr(os, 'sched_setaffinity'):\n"
    "    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])",
    "sockets": "import socket\nsocket.setdefaulttimeout(3)",
    "temporary": "import tempfile\ntempfile.tempdir = '/'",
    "decimal": "import decimal\ndecimal.getcontext().prec = 3\ndecimal.DefaultContext.prec = 5\n"
    "decimal.DefaultContext.traps[decimal.Inexact] = True",
    "policy": "import asyncio, warnings\nwith warnings.catch_warnings():\n"
    "    warnings.simplefilter('ignore')\n"
    "    asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy())",
    "tasks": "import asyncio\nasyncio.get_running_loop().call_later(0.01, print, 'leaked')\n"
    "async def f():\n    while True:\n        await asyncio.sleep(0.001); print('leaked')\n"
    "t = asyncio.create_task(f())\nawait asyncio.sleep(0)",
    "finalizer": "class F:\n    def __del__(self): globals()['back'] = 1\nf = F()",
    "magic": "from IPython.core.magic import register_line_magic\n"
    "@register_line_magic\ndef mine(line): return 1",
    "alias": "%alias_magic t timeit\n%alias probed ls",
    "event": "get_ipython().events.register('pre_run_cell', lambda *a: print('leaked'))\n"
    "get_ipython().events.register('post_execute', lambda *a: None)",
    "extension": "%load_ext autoreload\n%autoreload 2",
    "transformers": "ip = get_ipython()\nip.input_transformers_post.append(lambda lines: lines)\n"
    "import ast\nip.ast_transformers.append(ast.NodeTransformer())\n"
    "ip.input_transformer_manager.cleanup_transforms.append(lambda lines: lines)",
    "formatter": "f = get_ipython().display_formatter.formatters\nf['text/html'].for_type(int, str)\n"
    "f['image/png'].for_type_by_name('probed', 'Thing', str)\nf['text/latex'].enabled = False",
    "printing": "%precision 3\n%pprint\n%config PlainTextFormatter.max_seq_length = 3\n"
    "get_ipython().display_formatter.active_types = ['text/plain']",
    "shell": "ip = get_ipython()\nip.ast_node_interactivity = 'all'\n%autoawait off\n"
    "%automagic off\n%colors NoColor\n%xmode Plain\n%config IPCompleter.greedy = True",
    "handler": "get_ipython().set_custom_exc((ValueError,), lambda *a, **k: print('leaked'))",
    "logstart": "import os\n%logstart -q {os.devnull}",
    "future": "from __future__ import annotations",
    "breakpoint": "import sys, builtins\nsys.breakpointhook = print\nbuiltins.input = print",
    "payload": "get_ipython().set_next_input('leaked')",
    "import": "import colorsys, html.parser, sqlite3",
    "import with effects": "import warnings\nwith warnings.catch_warnings():\n    import effects",
    "effects and more": "import effects, warnings, logging, os, sys\n"
    "warnings.simplefilter('ignore')\nlogging.getLogger('effects').setLevel(10)\n"
    "os.environ['EFFECTS'] = 'x'\nsys.path.clear()",
    "threads that end": "import threading\nt = threading.Thread(target=abs, args=(1,))\nt.start()",
    "thread pool": "from concurrent.futures import ThreadPoolExecutor\n"
    "list(ThreadPoolExecutor(1).map(abs, [1]))",
    "child that ends": "import subprocess\nsubprocess.run(['true'])",
}

#: The same with libraries that are large.
LIBRARIES = {
    "rcParams": "import matplotlib as m, matplotlib.style\nm.rcParams['lines.linewidth'] = 9\n"
    "m.rcParams['font.family'].append('probed')\nm.style.use('ggplot')",
    "colormap": "import matplotlib as m\nm.colormaps.register(m.colormaps['gray'], name='probed')",
    "figures": "import matplotlib.pyplot as plt\nplt.ioff()\nplt.plot([1])\nplt.figure();",
    "backend": "import matplotlib.pyplot as plt\nplt.switch_backend('agg')",
    "inline": "import matplotlib.pyplot as plt\nplt.plot([1]);\n"
    "%config InlineBackend.figure_format = 'svg'\n%config InlineBackend.close_figures = False",
    "pandas": "import pandas as pd\npd.set_option('display.max_rows', 3)\n"
    "pd.options.display.precision = 2\npd.set_option('compute.use_numexpr', False)",
    "numpy": "import numpy as np\nnp.set_printoptions(precision=2, suppress=True)\n"
    "np.seterr(all='raise')\nnp.setbufsize(8192 * 2)\nnp.seterrcall(print)",
    "sklearn": "import sklearn\nsklearn.set_config(display='text', working_memory=5)",
}

#: Recycled: the reply must say so. With the reason.
LASTING = {
    "thread": (
        (
            "import threading\nthreading.Thread(target=threading.Event().wait, name='mine',"
            " daemon=True).start()"
        ),
        "a thread running: mine",
    ),
    "bare thread": (
        "import _thread, threading\n_thread.start_new_thread(threading.Event().wait, ())",
        "one of the _thread module",
    ),
    "child": (
        "import subprocess\np = subprocess.Popen(['sleep', '60'])",
        "it left a child process running",
    ),
    "orphan": ("import os\nos.system('sleep 60 &')", "it left a child process running"),
    "signal": (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "the handler of SIGTERM was changed",
    ),
    "task": (
        (
            "import asyncio\nasync def f():\n    while True:\n        try: await asyncio.sleep(9)\n"
            "        except asyncio.CancelledError: pass\nt = asyncio.create_task(f())\n"
            "await asyncio.sleep(0)"
        ),
        "a task refused to be cancelled",
    ),
    "hard limit": (
        "import resource as r\nr.setrlimit(r.RLIMIT_CORE, (0, 0))",
        "settings could not be restored",
    ),
    "closed stream": ("import sys\nsys.stdout.close()", "it closed sys.stdout"),
    "event loop of a GUI": (
        "get_ipython().kernel.eventloop = lambda kernel: None",
        "it started a GUI's event loop",
    ),
    "folder": (
        "import os, shutil\nshutil.rmtree(os.getcwd())",
        "its working folder",
    ),
}

#: A module of the user's whose import changes much; that stays with it.
EFFECTS = """
import logging, os, sys, warnings
warnings.filterwarnings("ignore", "effects")
with warnings.catch_warnings():
    warnings.simplefilter("always")
logging.getLogger("effects").addHandler(logging.NullHandler())
os.environ["EFFECTS"] = "1"
sys.path.append("/effects")
"""
