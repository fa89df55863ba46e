"""Setups: run on every worker before it takes requests, kept by every reset, taken back if they fail."""

from __future__ import annotations

import ast
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jupyter_pool import (
    AsyncKernelPool,
    ExecutionError,
    InvalidRequest,
    KernelPool,
    PoolNotAvailable,
    SerializationError,
    WorkerStartError,
)
from support.cells import DEADLINE, Gate, Watcher, pid, pids, states, value
from support.conditions import eventually, gone


def notebook(code: str, **names: Any) -> dict[str, Any]:
    """What a notebook has after this cell."""
    namespace: dict[str, Any] = {"__name__": "__main__", **names}
    exec(code, namespace)
    return namespace


@pytest.fixture
def two() -> Iterator[KernelPool]:
    with KernelPool(2) as pool:
        yield pool.start(wait=True)


def on_each(pool: KernelPool, code: str, tmp_path: Path) -> list[str]:
    """A value from each of two workers, which run the code at the same time."""
    with Gate(tmp_path, f"gate{len(list(tmp_path.iterdir()))}") as gate:
        watchers = [Watcher() for _ in range(2)]
        futures = [
            pool.submit_code(f"{gate.code}{code}", on_output=watcher) for watcher in watchers
        ]
        for watcher in watchers:
            watcher.wait_for()
        gate.open(2)
        return [value(future.result(DEADLINE)) for future in futures]


# --- what it does ---------------------------------------------------------------------------------


def test_every_worker_runs_it_now_and_each_request_finds_it(
    two: KernelPool, tmp_path: Path
) -> None:
    before = pids(two)
    two.setup("import math\nfacts = {'pi': math.pi}")
    assert on_each(two, "round(facts['pi'], 2)", tmp_path) == ["3.14", "3.14"]
    two.execute("del facts, math\nspare = 1")
    assert on_each(two, "(len(facts), 'spare' in globals())", tmp_path) == ["(1, False)"] * 2
    assert pids(two) == before


def test_what_it_makes_is_live_and_shared_per_worker() -> None:
    with KernelPool(1, setup="seen = []") as pool:
        found = [value(pool.execute("seen.append(1); len(seen)")) for _ in range(3)]
    assert found == ["1", "2", "3"]


def test_a_function_assigns_with_global_and_sees_what_the_notebook_has() -> None:
    own = notebook(
        """
class Model:
    def __init__(self, size):
        self.size = size

def make(size):
    return Model(size)

SIZE = 7

def setup():
    global model
    model = make(SIZE)

def use():
    return model
"""
    )
    with KernelPool(1) as pool:
        pool.setup(own["setup"])
        for _ in range(2):
            assert value(pool.execute("model.size")) == "7"
            result = pool.execute("same = isinstance(model, Model)", outputs=["same", "model"])
            assert result.outputs["same"]
            # Its class is the notebook's, also when it comes back.
            assert isinstance(result.outputs["model"], own["Model"])
            assert isinstance(pool.submit(own["use"]).result(), own["Model"])


def test_source_programs_and_calls_find_it() -> None:
    with KernelPool(1, setup="base = 40") as pool:
        pool.register_program("add", "total = base + x", inputs=["x"], outputs=["total"])
        assert pool.execute_program("add", {"x": 2}).outputs["total"] == 42
        own = notebook("def f(x):\n    return base + x")
        assert pool.submit(own["f"], 3).result() == 43


def test_several_run_in_their_order_and_each_sees_those_before(two: KernelPool) -> None:
    two.setup("a = 1")
    two.setup("b = a + 1")
    two.setup(notebook("def more():\n    global c\n    c = b + 1")["more"])
    assert value(two.execute("(a, b, c)")) == "(1, 2, 3)"
    with KernelPool(1, setup=["a = 1", "b = a + 1"]) as pool:
        pool.setup("c = b + 1")
        assert value(pool.execute("(a, b, c)")) == "(1, 2, 3)"


def test_settings_environment_threads_and_children_of_a_setup_stay() -> None:
    code = """
import os, subprocess, sys, threading, warnings
os.environ["SET_UP"] = "yes"
sys.path.append("/of/the/setup")
warnings.simplefilter("error", FutureWarning)
stop = threading.Event()
thread = threading.Thread(target=stop.wait, daemon=True)
thread.start()
child = subprocess.Popen(["sleep", "600"])
"""
    look = (
        "import os, sys, warnings\n"
        "(os.environ.get('SET_UP'), '/of/the/setup' in sys.path, thread.is_alive(), child.poll(),"
        " any(f[0] == 'error' and f[2] is FutureWarning for f in warnings.filters), os.getpid())"
    )
    with KernelPool(1, setup=code) as pool:
        found = {value(pool.execute(look)) for _ in range(3)}
        assert len(found) == 1, found
        assert found.pop().startswith("('yes', True, True, None, True,")
        pool.execute("import threading; threading.Thread(target=stop.wait, daemon=True).start()")
        eventually(lambda: pool.get_stats().workers_recycled)


def test_it_runs_where_its_caller_is_and_leaves_no_other_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module_of_a_setup.py").write_text("import os\nvalue = os.environ['OF_CALLER']")
    own = notebook(
        """
import os
def load():
    global where
    import module_of_a_setup
    where = (os.getcwd(), module_of_a_setup.value)
    os.chdir("/")
"""
    )
    with KernelPool(1) as pool:
        home = value(pool.execute("import os; os.getcwd()"))
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            patch.syspath_prepend(tmp_path)
            patch.setenv("OF_CALLER", "set")
            pool.setup(own["load"])
            pool.setup("import module_of_a_setup\nalso = os.getcwd()")
        found = value(pool.execute("(where[0], where[1], also)"))
        assert ast.literal_eval(found) == (str(tmp_path), "set", str(tmp_path))
        assert value(pool.execute("import os; os.getcwd()")) == home
        assert value(pool.execute("import os; 'OF_CALLER' in os.environ")) == "False"


def test_one_after_which_no_worker_can_go_on(two: KernelPool) -> None:
    with pytest.raises(WorkerStartError, match="no worker can go on after it: it closed sys.std"):
        two.setup("import sys; sys.stdout.close()")
    assert value(two.execute("1")) == "1"


def test_a_large_array_in_a_setup(pyzmqs_thread: None) -> None:
    own = notebook(
        "def load():\n    global data\n    data = weights * 2", weights=np.ones(2_000_000)
    )
    with KernelPool(2) as pool:
        pool.setup(own["load"])
        assert {value(pool.execute("float(data.sum())")) for _ in range(4)} == {"4000000.0"}


def test_what_was_put_can_be_part_of_a_setup() -> None:
    with KernelPool(1) as pool:
        own = notebook("def load():\n    global n\n    n = len(data)", data=pool.put([1, 2, 3]))
        pool.setup(own["load"])
        assert value(pool.execute("n")) == "3"


def test_its_functions_show_their_lines_in_later_errors() -> None:
    with KernelPool(1, setup="def fail(x):\n    return nowhere") as pool:
        for _ in range(2):
            error = pool.execute("fail(1)", check=False).error
            assert isinstance(error, ExecutionError)
            assert "return nowhere" in re.sub("\x1b[^m]*m", "", "\n".join(error.traceback))


# --- which workers --------------------------------------------------------------------------------


def test_a_replaced_worker_has_run_it(two: KernelPool) -> None:
    two.setup("x = 1")
    for _ in range(2):
        victim = pid(two)
        os.kill(victim, signal.SIGKILL)
        eventually(gone([victim]))
    assert {value(two.execute("x")) for _ in range(4)} == {"1"}


def test_overflow_standby_and_isolated_workers_have_run_it(tmp_path: Path) -> None:
    with KernelPool(1, overflow=1, reserve=1) as pool:
        pool.start(wait=True)
        pool.setup("x = 1")
        assert on_each(pool, "x", tmp_path) == ["1", "1"]
        for _ in range(2):
            assert value(pool.execute("x", isolation="process")) == "1"
    with KernelPool(1, isolation="process", setup="x = 2") as pool:
        assert [value(pool.execute("x")) for _ in range(3)] == ["2"] * 3


def test_a_busy_worker_runs_it_before_its_next_request(tmp_path: Path) -> None:
    with KernelPool(1) as pool, Gate(tmp_path) as gate, ThreadPoolExecutor(2) as threads:
        watcher = Watcher()
        busy = threads.submit(pool.execute, f"{gate.code}'x' in globals()", on_output=watcher)
        watcher.wait_for()
        setup = threads.submit(pool.setup, "x = 1")
        gate.open()
        assert value(busy.result(DEADLINE)) == "False"
        setup.result(DEADLINE)  # all were busy, so it was waited for
        assert value(pool.execute("x")) == "1"


def test_with_one_busy_the_free_ones_are_what_is_waited_for(
    two: KernelPool, tmp_path: Path
) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        busy = two.submit_code(f"{gate.code}'x' in globals()", on_output=watcher)
        watcher.wait_for()
        two.setup("x = 1")
        assert value(two.execute("x")) == "1"
        gate.open()
        assert value(busy.result(DEADLINE)) == "False"
    assert on_each(two, "x", tmp_path) == ["1", "1"]


def test_a_lease_keeps_its_worker_and_the_next_one_finds_the_setup() -> None:
    with KernelPool(2) as pool:
        with pool.checkout() as worker:
            worker.execute("mine = 1")
            pool.setup("x = 1")
            assert value(worker.execute("(mine, 'x' in globals())")) == "(1, False)"
        for _ in range(3):
            with pool.checkout() as worker:
                assert value(worker.execute("(x, 'mine' in globals())")) == "(1, False)"


def test_isolation_none_finds_it_and_its_state_is_none_of_the_baseline() -> None:
    with KernelPool(1, isolation="none", setup="x = 1") as pool:
        pool.execute("kept = x + 1")
        assert value(pool.execute("kept")) == "2"
        pool.setup("y = 1")
        pool.execute("kept = 5")
        found = value(pool.execute("(x, y, 'kept' in globals())", isolation="namespace"))
        assert found == "(1, 1, False)"


def test_an_unstarted_and_a_lazy_pool_run_it_when_workers_start() -> None:
    with KernelPool(1, lazy=True) as pool:
        pool.setup("x = 1")
        assert states(pool) == []
        assert value(pool.execute("x")) == "1"
    pool = KernelPool(1)
    pool.setup("x = 2")
    assert value(pool.execute("x")) == "2"
    pool.close()


def test_right_after_the_start(tmp_path: Path) -> None:
    with KernelPool(2) as pool:
        pool.setup("x = 1")
        assert on_each(pool, "x", tmp_path) == ["1", "1"]


# --- failures -------------------------------------------------------------------------------------


def test_a_failing_one_says_why_and_is_taken_back(two: KernelPool, tmp_path: Path) -> None:
    two.setup("x = 1")
    for _ in range(4):  # more than it takes to degrade a pool whose starts fail
        with pytest.raises(WorkerStartError, match="failed: ZeroDivisionError") as caught:
            two.setup("x = 2\ny = x / 0")
    assert "----> 2 y = x / 0" in str(caught.value)
    assert caught.value.context["pool"] == two.name
    assert on_each(two, "(x, 'y' in globals())", tmp_path) == ["(1, False)"] * 2
    assert two.get_status().state == "running"


def test_a_failing_function_shows_its_lines(two: KernelPool, tmp_path: Path) -> None:
    script = tmp_path / "cell.py"
    script.write_text("def load():\n    rows = 3\n    return rows / 0\n")
    own: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script.read_text(), str(script), "exec"), own)
    with pytest.raises(WorkerStartError, match="the setup load failed") as caught:
        two.setup(own["load"])
    assert "return rows / 0" in str(caught.value)


def test_one_that_fails_on_one_worker_only_is_taken_back_on_all(
    two: KernelPool, tmp_path: Path
) -> None:
    # Whoever comes second fails.
    code = (
        f"import os\nx = 1\nos.close(os.open({str(tmp_path / 'first')!r}, os.O_CREAT | os.O_EXCL))"
    )
    with pytest.raises(WorkerStartError, match="FileExistsError"):
        two.setup(code)
    assert on_each(two, "'x' in globals()", tmp_path) == ["False"] * 2


def test_one_that_ends_its_worker(two: KernelPool) -> None:
    with pytest.raises(WorkerStartError, match="ended its worker .exit code 3"):
        two.setup("import os; os._exit(3)")
    assert value(two.execute("1")) == "1"


def test_one_that_hangs_is_given_up_after_start_timeout() -> None:
    with KernelPool(1, start_timeout=6) as pool:
        pool.start(wait=True)
        with pytest.raises(WorkerStartError, match="did not end within start_timeout=6 s"):
            pool.setup("import time; time.sleep(600)")
        assert value(pool.execute("1")) == "1"


def test_a_failing_option_is_told_to_whoever_waits_and_is_no_crash_loop() -> None:
    with KernelPool(2, setup=["x = 1", "nowhere"]) as pool:
        with pytest.raises(
            WorkerStartError, match="the setup “nowhere” failed: NameError"
        ) as caught:
            pool.execute("1")
        assert "name 'nowhere' is not defined" in str(caught.value)
        with pytest.raises(WorkerStartError, match="nowhere"):
            pool.start(wait=True)
        eventually(lambda: pool.get_status().state == "degraded")
        assert "nowhere" in str(pool.health_check())
        with pytest.raises(WorkerStartError, match="nowhere"):
            pool.execute("1")
        assert pool.get_stats().workers_started < 20


def test_a_failing_option_heals_when_its_cause_is_gone(tmp_path: Path) -> None:
    wanted = tmp_path / "wanted"
    with KernelPool(1, setup=f"text = open({str(wanted)!r}).read()") as pool:
        with pytest.raises(WorkerStartError, match="FileNotFoundError"):
            pool.execute("1")
        (tmp_path / "new").write_text("here")
        (tmp_path / "new").rename(wanted)  # whole, for whoever reads it just now
        eventually(lambda: "idle" in states(pool), within=DEADLINE)
        assert value(pool.execute("text")) == "'here'"


def test_an_option_that_hangs_is_named() -> None:
    with (
        KernelPool(1, start_timeout=8, setup="import time; time.sleep(600)") as pool,
        pytest.raises(WorkerStartError, match="setup.*did not end within start_timeout=8 s"),
    ):
        pool.execute("1")


def test_ctrl_c_takes_it_back(two: KernelPool) -> None:
    def interrupt() -> None:
        eventually(lambda: states(two) == ["setting up"] * 2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        two.setup("import time; time.sleep(600)")
    thread.join()
    assert value(two.execute("1")) == "1"


# --- what is not possible -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        ("  ", InvalidRequest, "not an empty text"),
        (3, InvalidRequest, "code or a function, not int"),
        (threading.Lock().acquire, SerializationError, "cannot be sent"),
    ],
)
def test_impossible_setups(two: KernelPool, setup: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        two.setup(setup)
    with pytest.raises(error), KernelPool(1, setup=setup) as pool:
        pool.execute("1")


@pytest.mark.requires("kernel:bash")
def test_setups_need_the_pools_own_kernel(bash_kernel: str) -> None:
    with (
        KernelPool(1, lazy=True, kernel_name=bash_kernel) as pool,
        pytest.raises(InvalidRequest, match="not with 'bash'"),
    ):
        pool.setup("x=1")
    with pytest.raises(InvalidRequest, match="not for kernel_name='bash'"):
        KernelPool(1, kernel_name=bash_kernel, setup="x=1")


def test_a_closed_pool_takes_none() -> None:
    pool = KernelPool(1, lazy=True)
    pool.close()
    with pytest.raises(PoolNotAvailable):
        pool.setup("x = 1")


async def test_the_same_for_asyncio() -> None:
    async with AsyncKernelPool(2) as pool:
        await pool.setup("x = 1")
        assert value(await pool.execute("x")) == "1"
        with pytest.raises(WorkerStartError, match="ZeroDivisionError"):
            await pool.options(timeout=5).setup("1/0")
        assert value(await pool.execute("x")) == "1"
