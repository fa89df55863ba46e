"""A pool's life: it starts when used, all at once, and leaves nothing behind when it ends."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import psutil
import pytest

from jupyter_pool import (
    Cancelled,
    InvalidRequest,
    KernelPool,
    PoolNotAvailable,
    get_pool,
    list_pools,
)
from jupyter_pool.engine.loop import Engine
from support.cells import Watcher, states
from support.conditions import eventually, gone
from support.held import Held
from support.kernelspecs import kernelspec, scripted
from support.owners import Owner

SLEEP = "import time; time.sleep(60)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("waiting", flush=True)
time.sleep(60)
"""


def pids(pool: KernelPool) -> list[int]:
    found = [worker.pid for worker in pool.get_status().workers]
    assert None not in found
    return [pid for pid in found if pid is not None]


def busy(pool: KernelPool) -> Callable[[], bool]:
    """A condition: every worker has something to do."""
    return lambda: set(states(pool)) == {"busy"}


def current_engine() -> Engine | None:
    return Engine._current


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "jupyter_pool" in thread.name]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


# --- starting -----------------------------------------------------------------------------------


def test_a_new_pool_starts_nothing() -> None:
    before = descriptors(), psutil.Process().children(), threading.active_count()
    pool = KernelPool(size=2)
    status = pool.get_status()
    assert (status.state, status.workers, status.queue_length) == ("new", (), 0)
    assert pool.get_stats().workers_started == 0
    assert "not started" in repr(pool)
    assert (descriptors(), psutil.Process().children(), threading.active_count()) == before
    pool.close()
    with pytest.raises(PoolNotAvailable, match="closed"):
        pool.start()


def test_the_first_request_starts_a_pool_and_is_answered() -> None:
    pool = KernelPool(size=2)
    try:
        assert pool.execute("6 * 7").data["text/plain"] == "42"
        assert pool.get_stats().workers_started == 2
    finally:
        pool.close()


def test_the_first_submitted_request_starts_a_pool_and_is_answered() -> None:
    pool = KernelPool(size=1)
    try:
        assert pool.submit_code("print(1)").result(timeout=30).stdout == "1\n"
    finally:
        pool.close()


def test_entering_starts_the_workers_and_starting_again_changes_nothing() -> None:
    with KernelPool(size=1) as pool:
        assert pool.start(wait=True, timeout=30) is pool
        assert states(pool) == ["idle"]
        (pid,) = pids(pool)
        pool.start().start(wait=True)
        assert pids(pool) == [pid]


def test_workers_start_all_at_once() -> None:
    with KernelPool(size=4) as pool:
        pool.start(wait=True, timeout=60)
        workers = pool.get_status().workers
        started = [worker.started_at for worker in workers]
        launched = [psutil.Process(worker.pid).create_time() for worker in workers]
        ready = [worker.since for worker in workers if worker.since is not None]
    assert len(workers) == len(ready) == 4
    assert [worker.state for worker in workers] == ["idle"] * 4
    assert max(filter(None, started)) < min(ready)
    # None waited for another: the last process was there before the first worker was ready.
    assert max(launched) < min(ready)


def test_starting_waits_no_longer_than_it_was_told_to(tmp_path: Path) -> None:
    with (
        kernelspec("patient", scripted("patient", tmp_path)) as name,
        KernelPool(size=1, kernel_name=name, isolation="none") as pool,
    ):
        with pytest.raises(TimeoutError, match="not ready within 0.1 s"):
            pool.start(wait=True, timeout=0.1)
        assert states(pool) == ["starting"]


def test_a_worker_is_ready_only_when_it_has_executed_a_probe(tmp_path: Path) -> None:
    with (
        kernelspec("patient", scripted("patient", tmp_path)) as name,
        KernelPool(size=1, kernel_name=name, isolation="none") as pool,
    ):
        future = pool.submit_code("hello")
        eventually((tmp_path / "asked").exists, "the kernel answers kernel_info")
        # A second answer to something else on the same channel comes after that to kernel_info.
        assert states(pool) == ["starting"]
        assert not future.running()
        (tmp_path / "go").touch()
        assert future.result(timeout=15).stdout == "hello"
        assert states(pool) == ["idle"]


# --- closing ------------------------------------------------------------------------------------


def test_leaving_normally_finishes_what_was_submitted() -> None:
    with KernelPool(size=1) as pool:
        futures = [pool.submit_code(f"import time; time.sleep(0.1); {n}") for n in range(4)]
        workers = pool.get_status().workers
    assert [future.result(timeout=0).data["text/plain"] for future in futures] == list("0123")
    assert gone(pid for worker in workers if (pid := worker.pid))()


def test_leaving_by_an_exception_cancels_what_waits_and_interrupts_what_runs() -> None:
    with pytest.raises(ZeroDivisionError), KernelPool(size=1) as pool:
        at_work = pool.submit_code(SLEEP)
        waiting = pool.submit_code("1")
        eventually(at_work.running, "the first one runs")
        known = pids(pool)
        left = time.monotonic()
        1 / 0  # noqa: B018
    assert time.monotonic() - left < 2 + 3  # the grace, and some time for a busy machine
    assert gone(known)()
    for future in (at_work, waiting):
        with pytest.raises(CancelledError):
            future.result(timeout=0)
    error = at_work.exception(timeout=0)
    assert isinstance(error, Cancelled)
    assert "interrupted cleanly" in str(error)
    error = waiting.exception(timeout=0)
    assert isinstance(error, Cancelled)
    assert "before it ran" in str(error)


def test_closing_at_once_interrupts_what_runs() -> None:
    with KernelPool(size=2) as pool:
        futures = [pool.submit_code(SLEEP) for _ in range(3)]
        eventually(busy(pool))
        pool.close(timeout=0)
        assert all(isinstance(future.exception(timeout=0), Cancelled) for future in futures)


def test_closing_at_once_kills_what_ignores_the_interrupt() -> None:
    with KernelPool(size=1, interrupt_grace=0.2) as pool:
        watcher = Watcher()
        future = pool.submit_code(STUBBORN, on_output=watcher)
        watcher.wait_for("waiting")
        known = pids(pool)
        pool.close(timeout=0)
        assert gone(known)()
        error = future.exception(timeout=0)
    assert isinstance(error, Cancelled)
    assert "killed" in str(error)


def test_closing_with_a_timeout_finishes_what_it_can_and_cancels_the_rest() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        short = pool.submit_code("'done'")
        long = pool.submit_code(SLEEP)
        waiting = pool.submit_code("1")
        eventually(long.running)
        began = time.monotonic()
        pool.close(timeout=0.3)
        assert 0.3 <= time.monotonic() - began < 0.3 + 5
    assert short.result(timeout=0).data["text/plain"] == "'done'"
    assert isinstance(long.exception(timeout=0), Cancelled)
    assert isinstance(waiting.exception(timeout=0), Cancelled)


def test_a_pool_may_be_closed_twice_and_stays_closed() -> None:
    pool = KernelPool(size=1)
    pool.start(wait=True)
    pool.close()
    pool.close()
    pool.close(timeout=0)
    assert "closed" in repr(pool)
    assert pool.get_status().state == "closed"
    assert pool.get_status().workers == ()
    assert pool.get_stats().workers_started == 1
    assert dict(pool.sessions) == {}
    for use in (
        pool.start,
        pool.__enter__,
        pool.drain,
        lambda: pool.execute("1"),
        lambda: pool.submit_code("1"),
        lambda: pool.resize(size=2),
        lambda: pool.restart_worker(1),
        lambda: pool.checkout().__enter__(),
        pool.health_check,
    ):
        with pytest.raises(PoolNotAvailable, match="closed"):
            use()


def test_closing_from_several_threads_closes_once_and_all_see_it_closed() -> None:
    pool = KernelPool(size=1)
    future = pool.submit_code("import time; time.sleep(0.3)")
    pool.start(wait=True)
    known = pids(pool)
    seen: list[bool] = []

    def close() -> None:
        pool.close()
        seen.append(future.done() and gone(known)())

    threads = [threading.Thread(target=close) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [True] * 5


def test_closing_while_the_workers_start_leaves_none() -> None:
    pool = KernelPool(size=3)
    pool.start()
    pool.close()
    assert pool.get_stats().workers_started == 3
    assert pool.get_stats().workers_lost == {}


def test_closing_while_the_workers_start_finishes_what_was_submitted() -> None:
    pool = KernelPool(size=1)
    future = pool.submit_code("1")
    pool.close()
    assert future.result(timeout=0).data["text/plain"] == "1"


def test_a_request_in_another_thread_ends_when_the_pool_is_closed_at_once() -> None:
    pool = KernelPool(size=1)
    errors: list[BaseException] = []

    def execute() -> None:
        try:
            pool.execute(SLEEP)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=execute) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: states(pool) == ["busy"] and pool.get_status().queue_length == 1)
    pool.close(timeout=0)
    for thread in threads:
        thread.join(10)
    assert [type(error) for error in errors] == [Cancelled, Cancelled]


def test_a_dropped_pool_warns_and_its_workers_end() -> None:
    pool = KernelPool(size=1, name="forgotten")
    pool.start(wait=True)
    known = pids(pool)
    held = [pool]
    del pool
    with pytest.warns(ResourceWarning, match="'forgotten' was dropped without close"):
        held.clear()
    eventually(gone(known), "the workers end")
    eventually(lambda: not our_threads(), "the engine ends")
    assert "forgotten" not in list_pools()


def test_a_dropped_pool_that_was_never_started_or_is_closed_needs_no_warning() -> None:
    pool = KernelPool(size=1)
    pool.start()
    pool.close()
    del pool
    KernelPool(size=1)
    gc.collect()


def test_after_the_last_pool_nothing_is_left() -> None:
    threads, open_before = set(threading.enumerate()), descriptors()
    with KernelPool(size=1) as first:
        with KernelPool(size=1) as second:
            engine = current_engine()
            assert engine is not None
            folder = Path(engine.folder)
            assert folder.stat().st_mode & 0o777 == 0o700
            guardian = engine.launcher._guardian.pid
            first.execute("1")
            second.execute("1")
            names = our_threads()
            assert len(names) == len(set(names))  # one of each kind for both
            children = {child.pid for child in psutil.Process().children(recursive=True)}
            assert {*pids(first), *pids(second), guardian} <= children
        first.execute("1")  # the engine stays for whom it serves
        assert current_engine() is engine
    assert current_engine() is None
    assert gone(children)()
    assert not folder.exists()
    assert set(threading.enumerate()) == threads
    assert descriptors() == open_before


@pytest.mark.slow
def test_opening_and_closing_twenty_times_leaves_what_was_there_before() -> None:
    """With two hundred, and memory: tests/benchmarks/test_open_and_close.py."""
    with KernelPool(size=1) as pool:  # what libraries open once is open then
        pool.execute("1")
    before = Held.now()
    for _ in range(20):
        with KernelPool(size=1) as pool:
            pool.execute("1")
        assert Held.now() == before


# --- the process's end --------------------------------------------------------------------------


def test_the_interpreter_finishes_submitted_futures_before_it_exits(tmp_path: Path) -> None:
    script = """
pool = KernelPool(size=1)
first = pool.submit_code("import time; time.sleep(0.3); open('first', 'w')")
second = pool.submit_code("open('second', 'w'); 'second'")
second.add_done_callback(lambda future: say(future.result().data["text/plain"]))
say(folder())
"""
    with Owner(script, cwd=tmp_path) as owner:
        folder = owner.hear()
        assert owner.hear() == "'second'"
        assert owner.wait() == 0
        assert owner.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert not os.path.exists(folder)


def test_an_exit_status_survives_an_open_pool() -> None:
    with Owner("pool = KernelPool(size=1).start(wait=True); say(pids(pool)); sys.exit(3)") as owner:
        known = owner.hear()
        assert owner.wait() == 3
        assert gone(known)()
        assert owner.stderr == ""


def test_a_ctrl_c_in_close_is_raised_and_leaves_nothing_behind() -> None:
    script = """
pool = KernelPool(size=1)
future = pool.submit_code("import time; time.sleep(60)")
while not future.running():
    pool.get_status()
say(pids(pool))
def interrupt():
    while pool.get_status().state != "closing":
        pass
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
threading.Thread(target=interrupt).start()
try:
    pool.close()
except KeyboardInterrupt:
    say([type(future.exception(0)).__name__, folder() if Engine._current else None])
"""
    with Owner(script) as owner:
        known = owner.hear()
        assert owner.hear() == ["Cancelled", None]
        assert gone(known)()
        assert owner.wait() == 0
        assert owner.stderr == ""


def test_a_ctrl_c_in_close_before_anything_is_waited_for_leaves_nothing_behind_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = KernelPool(size=1)
    future = pool.submit_code(SLEEP)
    eventually(future.running)
    known, begin = pids(pool), pool.begin_close

    def interrupted(*, now: bool, cancel_futures: bool = False) -> None:
        monkeypatch.undo()
        begin(now=now, cancel_futures=cancel_futures)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "begin_close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    assert isinstance(future.exception(0), Cancelled)
    assert gone(known)()
    assert current_engine() is None


# --- names --------------------------------------------------------------------------------------


@contextlib.contextmanager
def unstarted(**options: str) -> Iterator[KernelPool]:
    pool = KernelPool(size=1, **options)
    try:
        yield pool
    finally:
        pool.close()


def test_unnamed_pools_are_numbered() -> None:
    with unstarted() as first, unstarted() as second:
        found = [re.fullmatch(r"pool-(\d+)", pool.name) for pool in (first, second)]
        numbers = [int(match[1]) for match in found if match]
        assert len(numbers) == 2
        assert numbers[0] < numbers[1]
        assert {first.name, second.name} <= set(list_pools())
        assert get_pool(second.name) is second


def test_a_number_that_somebody_uses_as_a_name_is_passed_over() -> None:
    with unstarted() as before:
        taken = f"pool-{int(before.name.removeprefix('pool-')) + 1}"
        with unstarted(name=taken), unstarted() as after:
            assert after.name not in (before.name, taken)


def test_a_name_in_use_is_an_error_that_names_it_until_that_pool_is_closed() -> None:
    with unstarted(name="sweep") as pool:
        with pytest.raises(InvalidRequest, match="'sweep' exists already") as caught:
            KernelPool(size=1, name="sweep")
        assert caught.value.context["pool"] == "sweep"
        assert get_pool("sweep") is pool
    with unstarted(name="sweep") as again:
        assert get_pool("sweep") is again


def test_an_impossible_option_does_not_occupy_the_name() -> None:
    with pytest.raises(InvalidRequest):
        KernelPool(size=0, name="mine")
    with pytest.raises(InvalidRequest):
        KernelPool(size=1, name="mine", kernel_name="there-is-none")
    with unstarted(name="mine"):
        pass


def test_get_pool_says_which_pools_there_are() -> None:
    with unstarted(name="reports"), unstarted(name="sweep"):
        with pytest.raises(PoolNotAvailable) as caught:
            get_pool("report")
        message = str(caught.value)
        assert "'report'" in message
        assert "'reports', 'sweep'" in message
        assert "Did you mean 'reports'?" in message
        assert caught.value.context["pools"] == ["reports", "sweep"]
    with pytest.raises(PoolNotAvailable, match="there is none"):
        get_pool()


# --- forks --------------------------------------------------------------------------------------


def test_a_forked_child_cannot_use_its_parents_pool_and_the_parents_goes_on() -> None:
    script = """
pool = KernelPool(size=2, name="parents")
unstarted = KernelPool(size=1)
pool.start(wait=True)
future = pool.submit_code("import time; time.sleep(0.5); 'finished'")
before = pids(pool)
read, write = os.pipe()
child = os.fork()
if not child:
    uses = {
        "execute": lambda: pool.execute("1"),
        "submit_code": lambda: pool.submit_code("1"),
        "execute of an unstarted one": lambda: unstarted.execute("1"),
        "checkout": lambda: pool.checkout().__enter__(),
        "options": lambda: pool.options(timeout=5).execute("1"),
        "start": pool.start,
        "enter": pool.__enter__,
        "status": pool.get_status,
        "stats": pool.get_stats,
        "sessions": lambda: pool.sessions,
        "health": pool.health_check,
        "resize": lambda: pool.resize(size=3),
        "restart": lambda: pool.restart_worker(1),
        "drain": pool.drain,
        "cancel": lambda: pool.cancel(future.request_id),
        "get_pool": lambda: jupyter_pool.get_pool("parents"),
    }
    answers = {}
    for name, use in uses.items():
        try:
            answers[name] = repr(use())
        except Exception as error:
            answers[name] = type(error).__name__
    pool.close()
    unstarted.close()
    os.write(write, json.dumps(answers).encode())
    sys.exit(0)  # by way of the interpreter's own end, which closes pools
os.close(write)
answers = b"".join(iter(lambda: os.read(read, 4096), b""))
status = os.waitpid(child, 0)[1]
say([json.loads(answers), status])
say([future.result(30).data["text/plain"], pids(pool) == before, pool.execute("1 + 1").data["text/plain"]])
pool.close()
unstarted.close()
"""
    with Owner(script) as owner:
        answers, status = owner.hear()
        assert set(answers.values()) == {"PoolNotAvailable"}, answers
        assert status == 0
        assert owner.hear() == ["'finished'", True, "2"]
        assert owner.wait() == 0


def test_a_forked_child_can_have_a_pool_of_its_own() -> None:
    script = """
with KernelPool(size=1, name="shared name") as pool:
    pool.start(wait=True)
    parents, their_folder = pids(pool), folder()
    child = os.fork()
    if not child:
        with KernelPool(size=1, name="shared name") as own:
            say([own.execute("'child'").data["text/plain"], folder() != their_folder])
        sys.exit(0)
    say(os.waitpid(child, 0)[1])
    say([pool.execute("'parent'").data["text/plain"], pids(pool) == parents])
"""
    with Owner(script) as owner:
        assert owner.hear() == ["'child'", True]
        assert owner.hear() == 0
        assert owner.hear() == ["'parent'", True]
        assert owner.wait() == 0
