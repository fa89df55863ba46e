"""No request sees what another one left behind; imported modules stay warm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool import KernelPool, OperationTimeout
from support.cells import DEADLINE, pid, value


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    # One worker: whatever a request leaves behind, the next one would find. A slow one is not replaced.
    with KernelPool(1, interrupt_grace=10) as pool:
        yield pool


#: What a request does, and how the next one would see it: as the second value instead of the first.
TRACES = {
    "variable": ("x = 1", "'x' in globals()", "False", "True"),
    "function": ("def f(): pass", "'f' in globals()", "False", "True"),
    "input": ("1", "'given' in globals()", "False", "True"),
    "last value": ("41 + 1", "'_' in globals() and _ == 42", "False", "True"),
    "Out": ("41 + 1", "len(Out)", "0", "1"),
    "In": ("41 + 1", "len(In)", "2", "3"),
    "shadowed built-in name": ("print = len", "print is len", "False", "True"),
    "changed built-in": ("import builtins; builtins.bin = lambda x: 7", "bin(1)", "'0b1'", "7"),
    "added built-in": (
        "import builtins; builtins.left = 1",
        "'left' in dir(__builtins__)",
        "False",
        "True",
    ),
    "working folder": (
        "import os; os.chdir('/')",
        "import os; os.getcwd() == '/'",
        "False",
        "True",
    ),
    "environment": (
        "import os; os.environ['LEFT'] = '1'",
        "import os; os.environ.get('LEFT')",
        None,
        "'1'",
    ),
    "environment removed": (
        "import os; del os.environ['PATH']",
        "import os; 'PATH' in os.environ",
        "True",
        "False",
    ),
    "sys.path": (
        "import sys; sys.path.append('/left')",
        "import sys; '/left' in sys.path",
        "False",
        "True",
    ),
    "sys.path rebound": (
        "import sys; sys.path = ['/left']",
        "import sys; '/left' in sys.path",
        "False",
        "True",
    ),
    "sys.argv": (
        "import sys; sys.argv.append('left')",
        "import sys; 'left' in sys.argv",
        "False",
        "True",
    ),
    "stdout": (
        "import io, sys; sys.stdout = io.StringIO()",
        "import sys; type(sys.stdout).__name__ == 'StringIO'",
        "False",
        "True",
    ),
    "last exception": (
        "try:\n    get_ipython().run_cell('1/0')\nexcept Exception: pass",
        "import sys; hasattr(sys, 'last_value')",
        "False",
        "True",
    ),
    "user magic": (
        (
            "from IPython.core.magic import register_line_magic\n"
            "@register_line_magic\n"
            "def left(line): pass"
        ),
        "'left' in get_ipython().magics_manager.magics['line']",
        "False",
        "True",
    ),
    "figure": (
        (
            "import matplotlib.pyplot as plt\n"
            "from matplotlib_inline.config import InlineBackend\n"
            "InlineBackend.instance().close_figures = False\n"
            "plt.figure(); plt.plot([1]);"
        ),
        "import matplotlib.pyplot as plt; plt.get_fignums()",
        "[]",
        "[1]",
    ),
    "warning filter": (
        "import warnings; warnings.simplefilter('error')",
        "import warnings; warnings.filters[0][0]  == 'error'",
        "False",
        "True",
    ),
    "execution count": (
        "1",
        # IPython 9 counts when a cell begins, IPython 8 when it has ended.
        "import IPython; get_ipython().execution_count - (IPython.version_info[0] >= 9)",
        "1",
        "2",
    ),
}


@pytest.mark.parametrize("kind", TRACES)
def test_the_next_request_on_the_worker_does_not_see_the_trace(pool: KernelPool, kind: str) -> None:
    leave, look, fresh, left = TRACES[kind]
    if kind == "figure":
        pytest.importorskip("matplotlib")
    before = pid(pool)
    inputs = {"given": 1} if kind == "input" else None
    pool.execute(leave, inputs=inputs, timeout=DEADLINE)
    seen = pool.execute(look, timeout=DEADLINE).data.get("text/plain")
    assert seen == fresh
    # The trace is one: in the same request, or without a reset, it is seen.
    with pool.checkout() as worker:
        worker.execute(leave, inputs=inputs, timeout=DEADLINE)
        assert value(worker.execute(look, timeout=DEADLINE)) == left
    assert pid(pool) == before


def test_a_failed_request_leaves_nothing_either(pool: KernelPool) -> None:
    pool.execute("x = 1; import os; os.chdir('/'); 1/0", check=False)
    assert value(pool.execute("import os; 'x' in globals() or os.getcwd() == '/'")) == "False"


def test_a_request_that_timed_out_leaves_nothing_either(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(OperationTimeout):
        pool.execute("x = 1\nimport os; os.chdir('/')\nwhile True: pass", timeout=0.3)
    assert value(pool.execute("import os; 'x' in globals() or os.getcwd() == '/'")) == "False"
    assert pid(pool) == before


def test_the_traceback_of_a_request_does_not_keep_its_objects_alive(pool: KernelPool) -> None:
    pool.execute(
        "import weakref, builtins, email\n"
        "class Big: pass\n"
        "big = Big()\n"
        "email.left = weakref.ref(big)\n"
        "def f(argument): 1/0\n"
        "f(big)",
        check=False,
    )
    assert value(pool.execute("import email, gc; gc.collect(); email.left() is None")) == "True"


def test_imported_modules_stay_warm(pool: KernelPool, tmp_path: Path) -> None:
    (tmp_path / "heavy_to_import.py").write_text("print('imported')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nimport heavy_to_import"
    before = pid(pool)
    assert pool.execute(code).stdout == "imported\n"
    assert pool.execute(code).stdout == ""
    assert value(pool.execute("import sys; 'heavy_to_import' in sys.modules")) == "True"
    assert pid(pool) == before


def test_random_numbers_are_fresh_after_a_seeded_request(pool: KernelPool) -> None:
    draw = "import random, numpy as np\n(random.random(), float(np.random.rand()))"
    seen = [value(pool.execute(draw, seed=1))]
    seen += [value(pool.execute(draw)) for _ in range(3)]
    pool.execute("import random, numpy as np; random.seed(1); np.random.seed(1)")
    seen.append(value(pool.execute(draw)))
    assert len(set(seen)) == 5


def test_left_over_tasks_of_the_event_loop_end_with_their_request(pool: KernelPool) -> None:
    before = pid(pool)
    pool.execute(
        "import asyncio, email\n"
        "email.ticks = 0\n"
        "async def tick(module=email, sleep=asyncio.sleep):\n"
        "    while True:\n"
        "        module.ticks += 1\n"
        "        await sleep(0)\n"
        "task = asyncio.create_task(tick())\n"
        "await asyncio.sleep(0.01)"
    )
    code = "import asyncio, email\na = email.ticks\nawait asyncio.sleep(0.01)\nemail.ticks - a"
    assert value(pool.execute(code)) == "0"
    assert pid(pool) == before


def test_left_over_threads_and_children_cost_the_worker(pool: KernelPool) -> None:
    for leave in (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import subprocess; child = subprocess.Popen(['sleep', '100'])",
    ):
        before = pid(pool)
        pool.execute(leave)
        assert pid(pool) != before
    reasons = " ".join(pool.get_stats().workers_recycled)
    assert "thread" in reasons
    assert "child" in reasons


def test_process_isolation_shares_the_process_with_no_other_request(pool: KernelPool) -> None:
    before = pid(pool)
    alone = int(value(pool.execute("import os; x = 1; os.getpid()", isolation="process")))
    assert len({before, alone, pid(pool)}) == 3


def test_a_pool_with_process_isolation_never_uses_a_worker_twice() -> None:
    with KernelPool(1, isolation="process") as pool:
        seen = [pid(pool) for _ in range(3)]
        pool.execute("import email; email.left = 1")
        assert value(pool.execute("import email; hasattr(email, 'left')")) == "False"
    assert len(set(seen)) == 3


def test_isolation_none_keeps_everything_for_the_next_such_request(pool: KernelPool) -> None:
    pool.execute("x = 1", isolation="none")
    result = pool.execute("x += 1", isolation="none", outputs=["x"])
    assert result.outputs["x"] == 2


def test_a_stateless_request_does_not_see_what_isolation_none_has_kept(pool: KernelPool) -> None:
    pool.execute("x = 1\nimport os; os.chdir('/')", isolation="none")
    look = "import os; ('x' in globals(), os.getcwd() == '/')"
    assert value(pool.execute(look)) == "(False, False)"


def test_a_pool_without_isolation_is_one_long_session() -> None:
    with KernelPool(1, isolation="none") as pool:
        pool.execute("x = [1]")
        pool.execute("x.append(2)")
        assert value(pool.execute("x")) == "[1, 2]"
