"""Every error is provoked for real: its shape, its message, what became of the worker, and that the next request works."""

from __future__ import annotations

import concurrent.futures
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jupyter_pool
from jupyter_pool import (
    Cancelled,
    CheckoutTimeout,
    ExecutionError,
    InvalidRequest,
    KernelPool,
    OperationTimeout,
    PoolError,
    PoolNotAvailable,
    PoolSaturated,
    ProtocolError,
    SerializationError,
    WorkerDied,
    WorkerStartError,
)
from support.cells import DEADLINE, Gate, Watcher, pid, value
from support.conditions import eventually
from support.kernelspecs import kernelspec, python

#: What every error of a request says about it.
KEYS = {"pool", "request_id", "session_id", "worker_id", "waited", "queued", "busy"}


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    # One worker: whether it was kept is whether the next request finds the same process.
    # It is never killed for being slow: an interrupted cell may take its time on a busy machine.
    with KernelPool(1, name="errors", interrupt_grace=DEADLINE, max_waiting=2) as pool:
        yield pool


@pytest.fixture
def strict() -> Iterator[KernelPool]:
    """A pool that soon kills what does not listen to an interrupt."""
    with KernelPool(1, interrupt_grace=1.0) as pool:
        yield pool.start(wait=True, timeout=DEADLINE)


@pytest.fixture(autouse=True)
def complete(request: pytest.FixtureRequest) -> None:
    if "pool" in request.fixturenames:
        request.getfixturevalue("pool").start(wait=True, timeout=DEADLINE)


class Held:
    """The pool's worker is busy while this lasts."""

    def __init__(self, pool: KernelPool, folder: Path) -> None:
        self._pool = pool
        self._gate = Gate(folder)

    def __enter__(self) -> Held:
        watcher = Watcher()
        self._future = self._pool.submit_code(self._gate.code, on_output=watcher)
        watcher.wait_for()
        return self

    def __exit__(self, *error: object) -> None:
        self._gate.open()
        with self._gate:
            self._future.result(DEADLINE)


def check_shape(
    error: BaseException | None,
    kind: type[PoolError],
    category: str,
    type_: str,
    *also: type[BaseException],
    keys: set[str] | frozenset[str] = frozenset(KEYS),
) -> Any:
    """The design's shape of an error; returns it."""
    assert type(error) is kind
    assert isinstance(error, PoolError)
    assert (error.category, error.type) == (category, type_)
    for base in also:
        assert isinstance(error, base)
    assert str(error) == error.message != ""
    assert keys <= set(error.context), keys - set(error.context)
    # It survives pickling, and shows itself without the pool's own frames.
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.context) == (error.message, error.context)
    shown = "\n".join(error._render_traceback_())
    assert "jupyter_pool/" not in shown
    return error


# --- timeout_error ------------------------------------------------------------------------------


def test_checkout_timeout(pool: KernelPool, tmp_path: Path) -> None:
    before = pid(pool)
    with Held(pool, tmp_path):
        begun = time.monotonic()
        with pytest.raises(CheckoutTimeout) as caught:
            pool.execute("1", checkout_timeout=0.2, session_id="s")
        assert 0.2 <= time.monotonic() - begun < 3
    error = check_shape(
        caught.value, CheckoutTimeout, "timeout_error", "checkout_timeout", TimeoutError
    )
    context = error.context
    assert (context["pool"], context["session_id"], context["worker_id"]) == ("errors", "s", None)
    assert (context["busy"], context["queued"]) == (1, 0)
    assert context["waited"] >= 0.2
    assert "no worker became free within 0.2 s (pool 'errors': 1 busy, 0 others waiting)" in str(
        error
    )
    assert "The code did not run" in str(error)
    assert pid(pool) == before


def test_operation_timeout_of_code_that_can_be_interrupted(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(OperationTimeout) as caught:
        pool.execute("print('x')\nwhile True: pass", timeout=2, session_id="s")
    error = check_shape(
        caught.value, OperationTimeout, "timeout_error", "operation_timeout", TimeoutError
    )
    assert error.context["ran"] >= 2
    assert error.context["session_id"] == "s"
    assert error.context["worker_id"] is not None
    assert (error.line, error.result.stdout) == (2, "x\n")
    assert "interrupted cleanly" in str(error)
    assert pid(pool) == before


def test_operation_timeout_of_code_that_cannot(strict: KernelPool) -> None:
    before = pid(strict)
    with pytest.raises(OperationTimeout) as caught:
        strict.execute("import itertools\nsum(itertools.repeat(1))", timeout=2)
    error = check_shape(
        caught.value, OperationTimeout, "timeout_error", "operation_timeout", TimeoutError
    )
    assert error.context["ran"] >= 2 + 1.0
    assert error.line == 2
    assert "its worker was killed and replaced" in str(error)
    assert pid(strict) != before


# --- resource_error -----------------------------------------------------------------------------


def test_pool_not_available_when_no_pool_has_that_name(pool: KernelPool) -> None:
    with pytest.raises(PoolNotAvailable) as caught:
        jupyter_pool.get_pool("erors")
    error = check_shape(
        caught.value,
        PoolNotAvailable,
        "resource_error",
        "pool_not_available",
        keys={"pool", "pools"},
    )
    assert "no pool is named 'erors': there are 'errors'" in str(error)
    assert "Did you mean 'errors'?" in str(error)
    assert error.context == {"pool": "erors", "pools": ["errors"]}
    assert jupyter_pool.get_pool("errors") is pool


def test_pool_not_available_when_it_is_closed() -> None:
    pool = KernelPool(1, name="closed")
    pool.execute("1")
    pool.close()
    uses: list[Any] = [
        lambda: pool.execute("1"),
        lambda: pool.submit_code("1"),
        lambda: pool.checkout().__enter__(),
        pool.start,
        pool.drain,
        pool.health_check,
        lambda: pool.resize(2),
        lambda: pool.restart_worker(1),
    ]
    for use in uses:
        with pytest.raises(PoolNotAvailable) as caught:
            use()
        error = check_shape(
            caught.value, PoolNotAvailable, "resource_error", "pool_not_available", keys={"pool"}
        )
        assert "pool 'closed' is closed" in str(error)
    with pytest.raises(PoolNotAvailable, match="no pool is named 'closed'"):
        jupyter_pool.get_pool("closed")
    with KernelPool(1, name="closed") as again:  # the name is free
        assert value(again.execute("1")) == "1"


def test_pool_not_available_while_it_closes(tmp_path: Path) -> None:
    pool = KernelPool(1)
    with Gate(tmp_path) as gate:
        watcher = Watcher()
        first = pool.submit_code(gate.code + "'finished'", on_output=watcher)
        watcher.wait_for()
        closer = threading.Thread(target=pool.close)
        closer.start()
        try:
            eventually(lambda: pool.get_status().state == "closing")
            with pytest.raises(PoolNotAvailable):
                pool.execute("1")
        finally:
            gate.open()
            closer.join(DEADLINE)
    assert not closer.is_alive()
    assert value(first.result(0)) == "'finished'"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="platform: no fork")
def test_pool_not_available_in_a_forked_child(pool: KernelPool) -> None:
    before = pid(pool)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: threads and fork
        child = os.fork()
    if child == 0:
        said = b"nothing was raised"
        try:
            for use in (
                lambda: pool.execute("1"),
                lambda: pool.submit_code("1"),
                pool.health_check,
            ):
                try:
                    use()
                except PoolNotAvailable as error:
                    said = f"{type(error).__name__}: {error}".encode()
            pool.close()  # the parent's: not the child's to close
        except BaseException as error:
            said = repr(error).encode()
        os.write(write, said)
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        answer = file.read().decode()
    os.waitpid(child, 0)
    assert answer.startswith("PoolNotAvailable: pool 'errors' belongs to the parent process")
    assert pid(pool) == before


def test_pool_saturated(pool: KernelPool, tmp_path: Path) -> None:
    before = pid(pool)
    with Held(pool, tmp_path):
        waiting = [pool.submit_code("1") for _ in range(2)]
        with pytest.raises(PoolSaturated) as caught:
            pool.execute("2", session_id="s")
        third = pool.submit_code("3")
        assert isinstance(third.exception(DEADLINE), PoolSaturated)
    error = check_shape(caught.value, PoolSaturated, "resource_error", "pool_saturated")
    assert error.context["queued"] == 2
    assert "pool 'errors' already has 2 requests waiting (max_waiting)" in str(error)
    assert [value(future.result(DEADLINE)) for future in waiting] == ["1", "1"]
    assert pid(pool) == before


def test_worker_start_error() -> None:
    dying = python("import sys; sys.stderr.write('no license found\\n'); sys.exit(3)")
    with kernelspec("dying", dying) as name, KernelPool(1, kernel_name=name, lazy=True) as pool:
        begun = time.monotonic()
        with pytest.raises(WorkerStartError) as caught:
            pool.execute("1", session_id="s")
        assert time.monotonic() - begun < 20
    error = check_shape(caught.value, WorkerStartError, "resource_error", "worker_start_failed")
    assert error.stderr == "no license found\n"
    assert "the kernel ended with exit code 3 before it was ready" in str(error)
    assert "no license found" in str(error)
    assert error.context["session_id"] == "s"


# --- communication_error ------------------------------------------------------------------------


def test_worker_died(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(WorkerDied) as caught:
        pool.execute("import ctypes\nctypes.string_at(0)", session_id="s")
    error = check_shape(caught.value, WorkerDied, "communication_error", "worker_died")
    assert (error.exitcode, error.signal) == (None, "SIGSEGV")
    assert error.context["ran"] > 0
    assert "Segmentation fault" in error.stderr
    assert error.result.status == "died"
    assert pid(pool) != before


#: What a worker may send that no kernel must; its own kernel object is at hand in the cell.
NONSENSE = {
    "wrong reply": (
        (
            "kernel.session.send(kernel.shell_stream, 'nonsense_reply', {},\n"
            "    kernel.get_parent('shell'), ident=kernel._parent_ident['shell'])\n"
            "while True: pass"
        ),
        "nonsense_reply",
    ),
    "bad signature": ("kernel.session.key = b'forged'", "signature"),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_protocol_error(pool: KernelPool, kind: str) -> None:
    code, said = NONSENSE[kind]
    before = pid(pool)
    with pytest.raises(ProtocolError) as caught:
        pool.execute(
            f"kernel = get_ipython().kernel\nprint('so far', flush=True)\n{code}",
            timeout=DEADLINE,
            session_id="s",
        )
    error = check_shape(caught.value, ProtocolError, "communication_error", "protocol_error")
    assert said in str(error)
    assert "It was replaced; the request is lost." in str(error)
    assert error.context["worker_id"] is not None
    assert pid(pool) != before


# --- execution_error ----------------------------------------------------------------------------


def test_execution_error(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(ExecutionError) as caught:
        pool.execute("print('x')\n{}['k']", session_id="s")
    error = check_shape(caught.value, ExecutionError, "execution_error", "user_exception")
    assert (error.ename, error.evalue, str(error)) == ("KeyError", "'k'", "KeyError: 'k'")
    assert error.result.stdout == "x\n"
    assert error.context["ran"] > 0
    assert error._render_traceback_() == error.traceback
    assert pid(pool) == before


def test_cancelled_before_it_ran(pool: KernelPool, tmp_path: Path) -> None:
    before = pid(pool)
    trace = tmp_path / "ran"
    with Held(pool, tmp_path):
        future = pool.submit_code(f"open({str(trace)!r}, 'w')", session_id="s")
        pool.cancel(future.request_id)  # type: ignore[attr-defined]
        caught = future.exception(DEADLINE)
    error = check_shape(
        caught, Cancelled, "execution_error", "cancelled", concurrent.futures.CancelledError
    )
    assert str(error) == "cancelled before it ran"
    assert error.result is None
    assert error.context["worker_id"] is None
    assert pid(pool) == before
    assert not trace.exists()


def test_cancelled_while_it_ran(pool: KernelPool) -> None:
    before = pid(pool)
    watcher = Watcher()
    # One statement: between two of them the interrupt would strike in IPython, at no line.
    code = "import itertools\n\nfor n in itertools.count(): n or print('on')"
    future = pool.submit_code(code, on_output=watcher)
    watcher.wait_for("on\n")  # `print` makes two writes, and the interrupt may come between them
    pool.cancel(future.request_id)  # type: ignore[attr-defined]
    error = check_shape(
        future.exception(DEADLINE),
        Cancelled,
        "execution_error",
        "cancelled",
        concurrent.futures.CancelledError,
    )
    assert str(error) == (
        "cancelled while it ran · interrupted cleanly\n"
        "  was at line 3: for n in itertools.count(): n or print('on')"
    )
    assert (error.result.status, error.result.stdout) == ("cancelled", "on\n")
    assert pid(pool) == before


def test_cancelled_while_it_ran_and_did_not_listen(strict: KernelPool) -> None:
    before = pid(strict)
    watcher = Watcher()
    future = strict.submit_code(
        "import itertools, signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('on', flush=True); sum(itertools.repeat(1))",
        on_output=watcher,
    )
    watcher.wait_for("on")
    strict.cancel(future.request_id)  # type: ignore[attr-defined]
    error = check_shape(future.exception(DEADLINE), Cancelled, "execution_error", "cancelled")
    assert "its worker was killed and replaced" in str(error)
    assert "was at line 3: print('on', flush=True); sum(" in str(error)
    assert pid(strict) != before


def test_cancelled_because_its_worker_was_restarted(pool: KernelPool) -> None:
    before = pid(pool)
    watcher = Watcher()
    future = pool.submit_code("print('on')\nwhile True: pass", on_output=watcher)
    watcher.wait_for("on")
    (worker,) = [w for w in pool.get_status().workers if w.state == "busy"]
    pool.restart_worker(worker.id)
    error = check_shape(future.exception(DEADLINE), Cancelled, "execution_error", "cancelled")
    assert str(error) == f"worker {worker.id} was restarted while the code ran on it"
    assert pid(pool) != before


def test_cancelling_what_has_ended_does_nothing(pool: KernelPool) -> None:
    before = pid(pool)
    result = pool.execute("1")
    pool.cancel(result.request_id)
    pool.cancel("no such request")
    assert pid(pool) == before


# --- input_error --------------------------------------------------------------------------------


def test_serialization_error_of_an_input(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(SerializationError) as caught:
        pool.execute("1", inputs={"lock": threading.Lock()})
    error = check_shape(
        caught.value,
        SerializationError,
        "input_error",
        "serialization_failed",
        ValueError,
        TypeError,
        keys={"variable", "reason", "value_type"},
    )
    assert str(error).startswith("'lock' cannot be sent to another process: ")
    assert pid(pool) == before


def test_serialization_error_of_an_output(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(SerializationError) as caught:
        pool.execute("x = (i for i in [])", outputs=["x"], session_id="s")
    error = check_shape(
        caught.value,
        SerializationError,
        "input_error",
        "serialization_failed",
        ValueError,
        TypeError,
        keys=KEYS | {"variable", "reason"},
    )
    assert str(error).startswith("the output 'x' cannot be sent back: ")
    assert pid(pool) == before


def test_invalid_request_of_an_argument(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(InvalidRequest) as caught:
        pool.execute("1", outputs=["not a name"])
    check_shape(
        caught.value,
        InvalidRequest,
        "input_error",
        "invalid_request",
        ValueError,
        TypeError,
        keys={"option", "name"},
    )
    assert str(caught.value) == "outputs: 'not a name' is not a variable name"
    assert pid(pool) == before


def test_invalid_request_of_a_name_never_set(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(InvalidRequest) as caught:
        pool.execute("1", outputs=["x"])
    error = check_shape(
        caught.value,
        InvalidRequest,
        "input_error",
        "invalid_request",
        ValueError,
        TypeError,
        keys=KEYS | {"missing"},
    )
    assert error.context["missing"] == ["x"]
    assert pid(pool) == before


def test_invalid_request_of_a_worker_that_there_is_not(pool: KernelPool) -> None:
    before = pid(pool)
    # A worker that an earlier test has lost may still be on its way out.
    eventually(lambda: len(pool.get_status().workers) == 1)
    with pytest.raises(InvalidRequest) as caught:
        pool.restart_worker(10_000)
    (worker,) = pool.get_status().workers
    assert str(caught.value) == f"pool 'errors' has no worker 10000; it has {worker.id}"
    assert pid(pool) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sise": 2}, r"there is no option sise\. Did you mean size\?"),
        ({"size": 0}, "size=0 is not possible"),
        ({"overflow": -1}, "overflow=-1 is not possible"),
        ({"isolation": "full"}, "isolation='full' is not possible"),
        ({"kernel_name": "no-such-kernel"}, "no-such-kernel"),
        ({"name": "errors"}, "a pool named 'errors' exists already"),
    ],
)
def test_invalid_request_of_a_pools_options(
    pool: KernelPool, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        KernelPool(**options)
    assert value(pool.execute("1")) == "1"


@pytest.mark.parametrize("change", [{}, {"size": 0}, {"overflow": -1}, {"size": "many"}])
def test_invalid_request_of_a_resize(pool: KernelPool, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        pool.resize(**change)
    assert pool.get_status().config["size"] == 1
    assert value(pool.execute("1")) == "1"


# --- Ctrl-C -------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="platform: signals")
def test_an_interrupt_is_raised_again_and_the_worker_kept(pool: KernelPool) -> None:
    before = pid(pool)
    main = threading.main_thread().ident
    assert main is not None

    def strike(event: dict[str, Any]) -> None:
        if event["output_type"] == "stream":
            signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pool.execute("print('on', flush=True)\nwhile True: pass", on_output=strike)
    assert pid(pool) == before


# --- system_error -------------------------------------------------------------------------------


def test_unexpected_error(pool: KernelPool) -> None:
    before = pid(pool)
    with pytest.raises(PoolError) as caught:
        pool.execute("print('so far')\nget_ipython().kernel.shell = None", session_id="s")
    error = check_shape(caught.value, PoolError, "system_error", "unexpected_error")
    assert error.message.startswith("the kernel of worker ")
    assert "AttributeError" in error.message
    assert "It is replaced" in error.message
    assert error.result.stdout == "so far\n"
    assert pid(pool) != before
    assert pool.sessions["s"].failures >= 1
