"""Code that takes too long is stopped: politely, then by force; what it said and where it was is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool import (
    CheckoutTimeout,
    ExecutionResult,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
)
from jupyter_pool.provisioning.launcher import DUMP_GRACE
from support.cells import DEADLINE, THERE_BY_THEN, Gate, Watcher, pid, pids, value
from support.conditions import eventually, gone

TIMEOUT = THERE_BY_THEN
#: A pool that waits long for those who are about to stop, and one that is quick to kill.
PATIENT, STRICT = 10.0, 0.3
#: How long a loaded machine may take to do what takes milliseconds, in seconds.
SLACK = 3.0


@pytest.fixture(scope="module")
def patient() -> Iterator[KernelPool]:
    with KernelPool(1, interrupt_grace=PATIENT) as pool:
        yield pool


@pytest.fixture(scope="module")
def strict() -> Iterator[KernelPool]:
    # Two, so that nobody waits while a killed one is replaced.
    with KernelPool(2, interrupt_grace=STRICT) as pool:
        yield pool


def time_out(pool: KernelPool, code: str) -> tuple[OperationTimeout, ExecutionResult]:
    pool.start(wait=True, timeout=DEADLINE)
    with pytest.raises(OperationTimeout) as caught:
        pool.execute(code, timeout=TIMEOUT, checkout_timeout=DEADLINE)
    error = caught.value
    assert error.result is not None
    assert error.result.error is error
    assert error.result.status == "timeout"
    assert error.context["ran"] == pytest.approx(error.result.timings.ran)
    return error, error.result


# --- code that stops when interrupted: the worker is kept ---------------------------------------

POLITE = {
    "loop": ("while True:\n    pass", {2, 3}),
    "sleep": ("import time\ntime.sleep(100)", {3}),
    "function": ("def f():\n    while True: pass\nf()", {3}),
    "subprocess": ("import subprocess\nsubprocess.run(['sleep', '100'])", {3}),
    "awaiting": ("import asyncio\nawait asyncio.sleep(100)", {3}),
    "task": (
        "import asyncio\nasync def f():\n    await asyncio.Event().wait()\nawait asyncio.gather(f())",
        # Before Python 3.11 a cancelled task does not tell where it was.
        {4} if sys.version_info >= (3, 11) else {5},
    ),
    "lock": ("import threading\nthreading.Semaphore(0).acquire()", {3}),
    "join": ("import threading\nthreading.Event().wait()", {3}),
    "pipe": ("import os\nos.read(os.pipe()[0], 1)", {3}),
    "regex": ("import re\nre.match('(a+)+$', 'a' * 50 + 'b')", {3}),
}


@pytest.mark.parametrize("kind", POLITE)
def test_code_that_can_be_interrupted_is_and_the_worker_is_kept(
    patient: KernelPool, kind: str
) -> None:
    code, lines = POLITE[kind]
    before = pid(patient)
    error, result = time_out(patient, f"print('so far')\n{code}\nprint('never')")
    assert TIMEOUT <= result.timings.ran < TIMEOUT + SLACK
    assert result.stdout == "so far\n"
    assert error.line in lines
    source = f"print('so far')\n{code}".splitlines()[error.line - 1].strip()
    assert str(error).splitlines() == [
        f"stopped after {TIMEOUT} s (limit: timeout) · interrupted cleanly",
        f"  was at line {error.line}: {source}",
    ]
    (output,) = [o for o in result.display_outputs if o["output_type"] == "error"]
    assert output["ename"] == "KeyboardInterrupt"
    assert "jupyter_pool" not in "".join(output["traceback"])
    assert pid(patient) == before


def test_a_shell_line_is_interrupted(patient: KernelPool) -> None:
    before = pid(patient)
    _, result = time_out(patient, "print('so far')\n!sleep 100")
    assert TIMEOUT <= result.timings.ran < TIMEOUT + SLACK
    assert result.stdout.startswith("so far\n")
    assert pid(patient) == before


def test_a_cell_magic_is_interrupted(patient: KernelPool) -> None:
    before = pid(patient)
    _, result = time_out(patient, "%%bash\nsleep 100")
    assert TIMEOUT <= result.timings.ran < TIMEOUT + SLACK
    assert pid(patient) == before


def test_a_subprocess_ends_with_its_cell(patient: KernelPool) -> None:
    _, result = time_out(
        patient,
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()",
    )
    eventually(gone([int(result.stdout)]), "the child's end")


def test_cleaning_up_after_the_interrupt_may_take_its_time(patient: KernelPool) -> None:
    before = pid(patient)
    error, result = time_out(
        patient,
        "import time\n"
        "try:\n"
        "    time.sleep(100)\n"
        "finally:\n"
        "    time.sleep(0.5); print('cleaned up')\n",
    )
    assert result.stdout == "cleaned up\n"
    assert error.line == 3
    assert TIMEOUT + 0.5 <= result.timings.ran < TIMEOUT + 0.5 + SLACK
    assert pid(patient) == before


def test_a_cell_that_ends_well_after_the_interrupt_has_still_timed_out(
    patient: KernelPool,
) -> None:
    before = pid(patient)
    error, result = time_out(
        patient,
        "import time\n"
        "try:\n    time.sleep(100)\nexcept KeyboardInterrupt:\n    print('fine')\nx = 1\n",
    )
    assert (result.status, result.stdout) == ("timeout", "fine\n")
    assert "interrupted cleanly" in str(error)
    assert pid(patient) == before


def test_displays_and_streams_before_the_timeout_are_kept_in_order(patient: KernelPool) -> None:
    _, result = time_out(patient, "print('a')\ndisplay('b')\nprint('c', end='')\nwhile True: pass")
    kinds = [output["output_type"] for output in result.display_outputs]
    assert kinds == ["stream", "display_data", "stream", "error"]


def test_the_line_is_counted_in_the_code_as_it_was_given(patient: KernelPool) -> None:
    error, _ = time_out(patient, "\n\n# comment\nwhile True: pass\n")
    assert error.line == 4


# --- code that does not: the worker is killed and replaced --------------------------------------

STUBBORN = {
    "catches KeyboardInterrupt": (
        (
            "import time\n"
            "while True:\n"
            "    try:\n"
            "        time.sleep(100)\n"
            "    except KeyboardInterrupt:\n"
            "        pass"
        ),
        {3, 4, 5, 6, 7},
    ),
    "C code that holds the interpreter": ("import itertools\nsum(itertools.repeat(1))", {3}),
    "C code that ignores signals": (
        (
            "import ctypes\n"
            "libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)\n"
            "libc.pthread_mutex_init(mutex, None)\n"
            "libc.pthread_mutex_lock(mutex)\n"
            "libc.pthread_mutex_lock(mutex)"
        ),
        {6},
    ),
    "ignores SIGINT": (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(100)",
        {4},
    ),
    "blocks SIGINT": (
        (
            "import signal, time\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
            "time.sleep(100)"
        ),
        {4},
    ),
}


@pytest.mark.parametrize("kind", STUBBORN)
def test_code_that_ignores_the_interrupt_is_killed_and_its_worker_replaced(
    strict: KernelPool, kind: str
) -> None:
    code, lines = STUBBORN[kind]
    strict.start(wait=True, timeout=DEADLINE)
    before = pids(strict)
    error, result = time_out(strict, f"print('so far', flush=True)\n{code}\nprint('never')")
    least = TIMEOUT + STRICT
    assert least <= result.timings.ran < least + DUMP_GRACE + SLACK
    assert result.stdout == "so far\n"
    assert error.line in lines
    assert "did not stop when interrupted, so its worker was killed and replaced" in str(error)
    assert f"was at line {error.line}: " in str(error)
    killed = error.context["worker_id"]
    after = pids(strict)
    assert killed in before
    assert killed not in after
    eventually(gone([before[killed] or 0]), "the worker's end")
    assert value(strict.execute("6 * 7")) == "42"
    strict.start(wait=True, timeout=DEADLINE)
    assert len(pids(strict)) == 2


def test_code_that_hangs_while_it_cleans_up_is_killed_there() -> None:
    with KernelPool(1, interrupt_grace=1.0) as pool:  # the grace is what it has to come there
        error, _ = time_out(
            pool, "import time\ntry:\n    time.sleep(100)\nfinally:\n    time.sleep(99)"
        )
    assert error.line == 5
    assert "did not stop when interrupted, so its worker was killed and replaced" in str(error)


def test_the_line_is_counted_in_the_code_as_it_was_given_also_when_killed(
    strict: KernelPool,
) -> None:
    error, _ = time_out(strict, "\n\nimport itertools\nsum(itertools.repeat(1))")
    assert error.line == 4


def test_a_coroutine_that_refuses_to_be_cancelled_is_killed(strict: KernelPool) -> None:
    error, result = time_out(
        strict,
        "import asyncio\n"
        "print('so far', flush=True)\n"
        "while True:\n"
        "    try: await asyncio.sleep(100)\n"
        "    except BaseException: pass",
    )
    assert result.stdout == "so far\n"
    assert result.timings.ran < TIMEOUT + STRICT + DUMP_GRACE + SLACK
    assert error.context["worker_id"] not in pids(strict)


def test_the_children_of_a_killed_worker_are_killed_too(strict: KernelPool) -> None:
    _, result = time_out(
        strict,
        "import itertools, subprocess\n"
        "child = subprocess.Popen(['sh', '-c', 'trap \"\" INT; sleep 100 & wait; sleep 100'])\n"
        "print(child.pid, flush=True)\n"
        "sum(itertools.repeat(1))",
    )
    eventually(gone([int(result.stdout)]), "the child's end")


def test_a_reset_that_hangs_gives_the_answer_and_costs_only_the_worker(
    strict: KernelPool,
) -> None:
    """An object's finaliser runs while the namespace is cleared, after the code."""
    strict.start(wait=True, timeout=DEADLINE)
    with pytest.raises(OperationTimeout):
        strict.execute(
            "import time\nclass Slow:\n    def __del__(self, sleep=time.sleep): sleep(100)\nx = Slow()",
            timeout=TIMEOUT,
        )
    assert value(strict.execute("6 * 7")) == "42"


# --- the limit itself ---------------------------------------------------------------------------


def test_code_that_is_done_in_time_is_not_disturbed(patient: KernelPool) -> None:
    result = patient.execute("import time\ntime.sleep(0.3)\n'done'", timeout=2)
    assert value(result) == "'done'"


def test_the_next_request_is_not_hit_by_an_interrupt_that_came_late(patient: KernelPool) -> None:
    """Cells that end about when their time is up, each followed by one that an interrupt would hit."""
    for step in range(40):
        patient.execute(
            f"import time\ntime.sleep({0.05 + 0.0005 * (step - 20)})", timeout=0.06, check=False
        )
        assert patient.execute("for i in range(20_000): pass", check=False).status == "ok"


def test_the_pools_own_limit_holds_where_none_is_given() -> None:
    with KernelPool(1, operation_timeout=0.3) as pool:
        with pytest.raises(OperationTimeout) as caught:
            pool.execute("while True: pass")
        assert 0.3 <= caught.value.context["ran"] < 0.3 + SLACK
        assert value(pool.execute("import time; time.sleep(0.5); 1", timeout=None)) == "1"
        # submit_code has no limit unless given one.
        future = pool.submit_code("import time; time.sleep(0.5); 2")
        assert value(future.result(DEADLINE)) == "2"
        late = pool.submit_code("while True: pass", timeout=0.3)
        assert isinstance(late.exception(DEADLINE), OperationTimeout)


def test_waiting_for_a_worker_does_not_use_up_the_codes_time(
    patient: KernelPool, tmp_path: Path
) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = patient.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        second = patient.submit_code("'ran'", timeout=TIMEOUT)
        longer = TIMEOUT + 0.1
        third = patient.submit_code("1", checkout_timeout=longer)
        assert isinstance(third.exception(DEADLINE), CheckoutTimeout)  # so long it has waited
        gate.open()
        first.result(DEADLINE)
        assert value(second.result(DEADLINE)) == "'ran'"
        assert second.result().timings.waited >= longer


def test_a_checkout_timeout_of_zero_takes_a_free_worker_or_none(
    patient: KernelPool, tmp_path: Path
) -> None:
    patient.start(wait=True, timeout=DEADLINE)
    assert value(patient.execute("1", checkout_timeout=0)) == "1"
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = patient.submit_code(gate.code, on_output=watcher)
        watcher.wait_for()
        begun = time.monotonic()
        with pytest.raises(CheckoutTimeout):
            patient.execute("1", checkout_timeout=0)
        assert time.monotonic() - begun < SLACK
        gate.open()
        first.result(DEADLINE)


@pytest.mark.parametrize("bad", [0, -1, "never", float("nan")])
def test_a_limit_that_is_none_is_refused(patient: KernelPool, bad: object) -> None:
    with pytest.raises(InvalidRequest, match="timeout"):
        patient.execute("1", timeout=bad)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="platform: signals")
def test_many_timeouts_in_a_row_leave_the_pool_as_it_was(patient: KernelPool) -> None:
    before = pid(patient)
    for _ in range(15):
        result = patient.execute("while True: pass", timeout=0.05, check=False)
        assert result.status == "timeout"
        assert value(patient.execute("1")) == "1"
    assert pid(patient) == before
