"""A worker that dies takes its own request with it and nothing else, and says what killed it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import (
    Cancelled,
    ExecutionError,
    ExecutionResult,
    KernelPool,
    OperationTimeout,
    WorkerDied,
)
from support.cells import DEADLINE, Gate, Watcher, pids, value
from support.conditions import eventually, gone


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    # As long as interrupted code takes to end on a busy machine; nothing is killed but by a test.
    with KernelPool(2, interrupt_grace=DEADLINE) as pool:
        yield pool


@pytest.fixture(autouse=True)
def complete(pool: KernelPool) -> None:
    """Both workers are there when a test begins."""
    pool.start(wait=True, timeout=DEADLINE)


#: Within so many seconds a death is told for its own sake: who finds out by asking, as a health check
#: does (every 30 s), takes longer, also on a busy machine.
AT_ONCE = 10.0


def died(error: BaseException | None) -> tuple[WorkerDied, ExecutionResult]:
    assert isinstance(error, WorkerDied)
    assert error.result is not None
    assert (error.result.status, error.result.error) == ("died", error)
    return error, error.result


def die(pool: KernelPool, code: str, **options: Any) -> tuple[WorkerDied, ExecutionResult]:
    with pytest.raises(WorkerDied) as caught:
        pool.execute(code, **options)
    return died(caught.value)


def speak_and_die(
    pool: KernelPool, folder: Path, words: str, death: str
) -> tuple[WorkerDied, ExecutionResult, float]:
    """A cell that dies once its words have been seen; also for how many seconds that was a secret."""
    with Gate(folder) as gate:
        watcher = Watcher()
        future = pool.submit_code(f"{words}\n{gate.code}{death}", on_output=watcher)
        watcher.wait_for("waiting\n")  # `print` makes two writes, and all of it is to be there
        begun = time.monotonic()
        gate.open()
        error = future.exception(DEADLINE)
        took = time.monotonic() - begun
    return *died(error), took


DEATHS = {
    "segfault": ("import ctypes\nctypes.string_at(0)", None, "SIGSEGV", "segmentation fault"),
    "abort": ("import os\nos.abort()", None, "SIGABRT", "aborted"),
    "bus": ("import os\nos.kill(os.getpid(), 7)", None, "SIGBUS", "memory"),
    "exit 7": ("import os\nos._exit(7)", 7, None, "ended the process"),
    "exit 0": ("import os\nos._exit(0)", 0, None, "ended the process"),
    "kill -9": ("import os\nos.kill(os.getpid(), 9)", None, "SIGKILL", "killed from outside"),
    "kill -15": ("import os\nos.kill(os.getpid(), 15)", None, "SIGTERM", "asked it to end"),
}


@pytest.mark.parametrize("kind", DEATHS)
def test_a_death_is_told_at_once_with_its_cause_and_the_worker_is_replaced(
    pool: KernelPool, tmp_path: Path, kind: str
) -> None:
    code, exitcode, signame, cause = DEATHS[kind]
    before = pids(pool)
    error, result, took = speak_and_die(pool, tmp_path, "print('so far')", code)
    assert took < AT_ONCE
    assert (error.exitcode, error.signal) == (exitcode, signame)
    assert cause in str(error.cause)
    assert result.stdout == "so far\nwaiting\n"
    first = str(error).splitlines()[0]
    assert first.startswith(f"worker {error.context['worker_id']} ")
    assert (signame or f"exit code {exitcode}") in first
    assert "Only this request is lost" in str(error)
    dead = error.context["worker_id"]
    eventually(gone([before[dead] or 0]), "the worker's end")
    assert value(pool.execute("6 * 7")) == "42"
    pool.start(wait=True, timeout=DEADLINE)
    after = pids(pool)
    assert len(after) == 2
    assert dead not in after
    assert set(before) - {dead} <= set(after)


def test_a_crash_in_compiled_code_tells_the_stack_and_the_line(pool: KernelPool) -> None:
    error, _ = die(
        pool,
        "import ctypes\n\ndef crash():\n    ctypes.string_at(0)\n\ncrash()",
    )
    assert "Segmentation fault" in error.stderr
    assert "in crash" in error.stderr
    assert "in string_at" in error.stderr
    assert "at line 4: ctypes.string_at(0)" in str(error)


def test_the_line_of_a_crash_is_counted_in_the_code_as_it_was_given(pool: KernelPool) -> None:
    error, _ = die(pool, "\n\nimport ctypes\nctypes.string_at(0)")
    assert "at line 4: ctypes.string_at(0)" in str(error)


def test_the_last_words_on_standard_error_are_told(pool: KernelPool) -> None:
    error, _ = die(
        pool, "import os\nos.write(2, b'terminate called after throwing\\n')\nos._exit(134)"
    )
    assert "terminate called after throwing" in error.stderr
    assert error.exitcode == 134


def test_all_that_was_shown_before_the_death_is_there(pool: KernelPool, tmp_path: Path) -> None:
    _, result, _ = speak_and_die(
        pool,
        tmp_path,
        "import sys\n"
        "for i in range(1000): print(i)\n"
        "display('shown')\n"
        "print('err', file=sys.stderr)",
        "_os._exit(1)",
    )
    assert result.stdout == "".join(f"{i}\n" for i in range(1000)) + "waiting\n"
    assert result.stderr == "err\n"
    assert [o["data"]["text/plain"] for o in result.display_outputs if "data" in o] == ["'shown'"]


def test_a_kill_from_outside_is_told_to_the_request_it_hit(
    pool: KernelPool, tmp_path: Path
) -> None:
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        future = pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for("waiting\n")
        (busy,) = [w for w in pool.get_status().workers if w.state == "busy"]
        assert busy.pid is not None
        begun = time.monotonic()
        os.kill(busy.pid, signal.SIGKILL)
        error = future.exception(DEADLINE)
        assert time.monotonic() - begun < AT_ONCE
    assert isinstance(error, WorkerDied)
    assert error.signal == "SIGKILL"
    assert error.context["worker_id"] == busy.id
    assert error.result is not None
    assert error.result.stdout == "waiting\n"


def test_an_idle_worker_that_dies_is_replaced_and_nobody_is_told(pool: KernelPool) -> None:
    before = pids(pool)
    for worker_pid in before.values():
        assert worker_pid is not None
        os.kill(worker_pid, signal.SIGKILL)
    results = [pool.submit_code("6 * 7") for _ in range(4)]
    assert [value(future.result(DEADLINE)) for future in results] == ["42"] * 4
    pool.start(wait=True, timeout=DEADLINE)
    assert len(pids(pool)) == 2
    assert not set(before) & set(pids(pool))


def test_others_do_not_notice(pool: KernelPool, tmp_path: Path) -> None:
    """One works on for as long as its neighbour crashes again and again."""
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        long = pool.submit_code(
            "kept = 'state'\n" + gate.code + "print(kept)\nsum(range(1000))",
            on_output=watcher,
            session_id="long",
        )
        watcher.wait_for()
        (busy,) = [w for w in pool.get_status().workers if w.state == "busy"]
        for code in ("import os; os._exit(3)", "import ctypes; ctypes.string_at(0)"):
            error, _ = die(pool, code)
            assert error.context["worker_id"] != busy.id
            assert not long.done()
        gate.open()
        result = long.result(DEADLINE)
    assert (result.stdout, value(result)) == ("waiting\nstate\n", "499500")
    assert result.worker_id == busy.id
    assert pids(pool)[busy.id] == busy.pid
    assert pool.sessions["long"].failures == 0


def test_those_who_wait_are_served_by_the_replacement(pool: KernelPool) -> None:
    futures = [pool.submit_code("import os; os._exit(1)") for _ in range(2)]
    futures += [pool.submit_code("x", inputs={"x": i}) for i in range(6)]
    assert all(isinstance(future.exception(DEADLINE), WorkerDied) for future in futures[:2])
    assert [value(future.result(DEADLINE)) for future in futures[2:]] == list("012345")


def test_children_of_a_worker_that_died_are_ended(pool: KernelPool, tmp_path: Path) -> None:
    words = "import subprocess\nprint(subprocess.Popen(['sleep', '100']).pid)"
    _, result, _ = speak_and_die(pool, tmp_path, words, "_os._exit(1)")
    eventually(gone([int(result.stdout.split()[0])]), "the child's end")


class Bomb:
    """An input that ends whoever unpickles it, and leaves a trace first."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        note = f"with open({str(self.trace)!r}, 'a') as file: print(os.getpid(), file=file)"
        return exec, (f"import os\n{note}\nos._exit(1)",)


def test_a_request_that_ends_its_worker_before_a_message_leaves_it_is_not_run_again(
    pool: KernelPool, tmp_path: Path
) -> None:
    error, _ = die(pool, "x", inputs={"x": Bomb(tmp_path / "trace")})
    assert error.exitcode == 1
    assert len(attempts(tmp_path / "trace")) == 1


# --- retries ------------------------------------------------------------------------------------


def attempts(trace: Path) -> list[int]:
    """The process ids of the workers that began to run the code."""
    return [int(line) for line in trace.read_text().splitlines()]


def dying(trace: Path, times: int) -> str:
    """A cell that dies so many times, then is well."""
    return (
        "import os\n"
        f"with open({str(trace)!r}, 'a') as file: print(os.getpid(), file=file)\n"
        f"attempt = sum(1 for _ in open({str(trace)!r}))\n"
        "print('attempt', attempt, flush=True)\n"
        f"if attempt <= {times}: os._exit(1)\n"
        "x = attempt"
    )


def test_a_retry_runs_the_code_again_on_another_worker(pool: KernelPool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    result = pool.execute(dying(trace, 1), inputs={"given": [1]}, outputs=["x", "given"], retries=1)
    assert dict(result.outputs) == {"x": 2, "given": [1]}
    assert result.stdout == "attempt 2\n"  # of the attempt that this is the result of
    first, second = attempts(trace)
    assert first != second


def test_retries_are_used_up(pool: KernelPool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    error, _ = die(pool, dying(trace, 9), retries=2)
    assert len(set(attempts(trace))) == 3
    assert error.context["attempts"] == 3
    assert "It was tried 3 times." in str(error)


def test_without_retries_the_code_runs_once(pool: KernelPool, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    error, _ = die(pool, dying(trace, 1))
    assert len(attempts(trace)) == 1
    assert "attempts" not in error.context


def test_a_future_is_retried_too(pool: KernelPool, tmp_path: Path) -> None:
    future = pool.submit_code(dying(tmp_path / "trace", 2), outputs=["x"], retries=2)
    assert future.result(DEADLINE).outputs["x"] == 3


def test_retries_are_for_death_only(pool: KernelPool, tmp_path: Path) -> None:
    code = f"with open({str(tmp_path / 'trace')!r}, 'a') as file: print(1, file=file)\n"
    with pytest.raises(ExecutionError):
        pool.execute(code + "1/0", retries=3)
    with pytest.raises(OperationTimeout):
        pool.execute(code + "while True: pass", retries=3, timeout=2)
    with pytest.raises(ExecutionError, match="SystemExit"):
        pool.execute(code + "exit()", retries=3)
    watcher = Watcher()
    future = pool.submit_code(code + "print('on')\nwhile True: pass", retries=3, on_output=watcher)
    watcher.wait_for("on")
    pool.cancel(future.request_id)  # type: ignore[attr-defined]
    assert isinstance(future.exception(DEADLINE), Cancelled)
    assert len(attempts(tmp_path / "trace")) == 4


def test_a_kill_for_a_timeout_is_no_death_to_retry(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with KernelPool(1, interrupt_grace=0.2) as pool:
        with pytest.raises(OperationTimeout):
            pool.execute(
                f"with open({str(trace)!r}, 'a') as file: print(1, file=file)\n"
                "import itertools\nsum(itertools.repeat(1))",
                retries=3,
                timeout=2,
            )
        assert value(pool.execute("1")) == "1"
    assert len(attempts(trace)) == 1


def test_retries_do_not_prolong_the_time(pool: KernelPool, tmp_path: Path) -> None:
    """The limit is one for all attempts, from the first."""
    trace = tmp_path / "trace"
    with pytest.raises(OperationTimeout) as caught:
        pool.execute(
            dying(trace, 1).replace("x = attempt", "while True: pass"), retries=5, timeout=3
        )
    assert len(attempts(trace)) == 2
    # A limit for each attempt would end it later.
    assert 3 <= caught.value.context["ran"] < 3 + 3


def test_a_cell_that_kills_every_worker_leaves_a_pool_that_works(pool: KernelPool) -> None:
    """Deaths in users' code are just replaced: no backoff, no degraded pool."""
    for _ in range(6):
        die(pool, "import os; os._exit(1)")
    assert pool.get_status().state == "running"
    assert value(pool.execute("6 * 7", checkout_timeout=DEADLINE)) == "42"
