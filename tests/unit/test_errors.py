"""Errors keep what they carry, are what they claim to be, and read well in a notebook."""

from __future__ import annotations

import concurrent.futures
import copy
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from jupyter_pool import errors
from jupyter_pool.errors import (
    Cancelled,
    CheckoutTimeout,
    ExecutionError,
    InvalidRequest,
    MemoryLimitExceeded,
    OperationTimeout,
    PoolError,
    PoolNotAvailable,
    PoolSaturated,
    ProtocolError,
    SerializationError,
    UnknownProgram,
    WorkerDied,
    WorkerStartError,
)
from jupyter_pool.results import ExecutionResult

TABLE: list[tuple[type[PoolError], str, str, tuple[type[BaseException], ...], dict[str, Any]]] = [
    (CheckoutTimeout, "timeout_error", "checkout_timeout", (TimeoutError,), {}),
    (OperationTimeout, "timeout_error", "operation_timeout", (TimeoutError,), {"line": 7}),
    (PoolNotAvailable, "resource_error", "pool_not_available", (), {}),
    (PoolSaturated, "resource_error", "pool_saturated", (), {}),
    (WorkerStartError, "resource_error", "worker_start_failed", (), {"stderr": "no such module"}),
    (MemoryLimitExceeded, "resource_error", "memory_limit_exceeded", (), {"peak": 12, "limit": 8}),
    (
        WorkerDied,
        "communication_error",
        "worker_died",
        (),
        {"exitcode": -9, "signal": "SIGKILL", "cause": "out of memory", "stderr": "Killed"},
    ),
    (ProtocolError, "communication_error", "protocol_error", (), {}),
    (
        ExecutionError,
        "execution_error",
        "user_exception",
        (),
        {"ename": "KeyError", "evalue": "'a'", "traceback": ["\x1b[31mKeyError\x1b[0m: 'a'"]},
    ),
    (Cancelled, "execution_error", "cancelled", (concurrent.futures.CancelledError,), {}),
    (SerializationError, "input_error", "serialization_failed", (ValueError, TypeError), {}),
    (InvalidRequest, "input_error", "invalid_request", (ValueError, TypeError), {}),
    (UnknownProgram, "input_error", "unknown_program", (KeyError, ValueError, TypeError), {}),
    (PoolError, "system_error", "unexpected_error", (), {}),
]

by_class = pytest.mark.parametrize(
    ("cls", "category", "type_", "bases", "fields"), TABLE, ids=[row[0].__name__ for row in TABLE]
)


def through_pickle(error: PoolError) -> Any:
    return pickle.loads(pickle.dumps(error))


def through_old_pickle(error: PoolError) -> Any:
    return pickle.loads(pickle.dumps(error, protocol=0))


def test_the_table_covers_every_public_error() -> None:
    assert {row[0].__name__ for row in TABLE} == set(errors.__all__)


@by_class
def test_error_is_what_the_table_says(
    cls: type[PoolError],
    category: str,
    type_: str,
    bases: tuple[type[BaseException], ...],
    fields: dict[str, Any],
) -> None:
    error = cls("what happened\nwhat to do", context={"worker_id": 2}, **fields)
    assert (cls.category, cls.type) == (category, type_)
    assert isinstance(error, (PoolError, *bases))
    for base in bases:
        with pytest.raises(base):
            raise error
    # OSError and KeyError have their own ideas of str().
    assert str(error) == error.message == "what happened\nwhat to do"
    assert error.args == (error.message,)
    assert error.context == {"worker_id": 2}
    for name, value in fields.items():
        assert getattr(error, name) == value


@pytest.mark.parametrize("send", [through_pickle, through_old_pickle, copy.copy, copy.deepcopy])
@by_class
def test_error_survives_travel(
    send: Callable[[PoolError], Any],
    cls: type[PoolError],
    category: str,
    type_: str,
    bases: tuple[type[BaseException], ...],
    fields: dict[str, Any],
) -> None:
    error = cls("what happened\nwhat to do", context={"worker_id": 2}, **fields)
    if sys.version_info >= (3, 11):
        error.add_note("seen in a test")
    arrived = send(error)
    assert type(arrived) is cls
    assert str(arrived) == str(error)
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)
    assert repr(arrived) == repr(error)
    assert arrived._render_traceback_() == error._render_traceback_()


def test_error_and_its_result_that_refer_to_each_other_travel_together() -> None:
    error = OperationTimeout("stopped after 2 s", line=3)
    error.result = ExecutionResult("timeout", "r-1", error=error)
    arrived = pickle.loads(pickle.dumps(error))
    assert arrived.result.error is arrived
    assert arrived.result.status == "timeout"
    assert pickle.loads(pickle.dumps(error.result)).error.line == 3


def test_subclass_with_its_own_arguments_travels() -> None:
    arrived = pickle.loads(pickle.dumps(_Special(3)))
    assert str(arrived) == "code 3"
    assert arrived.code == 3


class _Special(CheckoutTimeout):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def test_context_is_copied() -> None:
    facts = {"a": 1}
    error = PoolError("x", context=facts)
    facts["a"] = 2
    assert error.context == {"a": 1}


@pytest.mark.parametrize("cls", [row[0] for row in TABLE])
def test_plain_traceback_ends_in_class_and_message(cls: type[PoolError]) -> None:
    lines = traceback.format_exception_only(cls("first\nsecond"))
    assert "".join(lines) == f"jupyter_pool.errors.{cls.__name__}: first\nsecond\n"


def test_rendering_is_class_in_red_then_message_then_notes_without_context() -> None:
    error = WorkerDied("worker 2 died\n  Next: smaller input", context={"worker_id": "secret"})
    vars(error)["__notes__"] = ["noted"]  # as add_note() does, from Python 3.11 on
    assert error._render_traceback_() == [
        "\x1b[1;31mWorkerDied\x1b[0m: worker 2 died",
        "  Next: smaller input",
        "noted",
    ]


def test_execution_error_renders_the_remote_traceback_as_it_is() -> None:
    remote = ["\x1b[31m-----\x1b[0m", "Cell In[1], line 1", "ZeroDivisionError: division by zero"]
    error = ExecutionError("ZeroDivisionError: division by zero", traceback=remote)
    shown = error._render_traceback_()
    assert shown == remote
    shown.clear()
    assert error.traceback == remote


def test_execution_error_without_traceback_renders_its_message() -> None:
    assert ExecutionError("KeyError: 'a'")._render_traceback_() == [
        "\x1b[1;31mExecutionError\x1b[0m: KeyError: 'a'"
    ]


def test_ipython_shows_the_message_and_no_frames() -> None:
    code = (
        "from jupyter_pool.errors import *; raise OperationTimeout('after 2 s\\n  was at line 7')"
    )
    options = ["--HistoryManager.enabled=False", "--no-banner", "--no-confirm-exit"]
    done = subprocess.run(
        [sys.executable, "-m", "IPython", *options, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    shown = done.stdout + done.stderr
    assert done.returncode == 1
    assert "\x1b[1;31mOperationTimeout\x1b[0m: after 2 s\n  was at line 7\n" in shown
    assert "Traceback" not in shown
    assert "Unexpected exception formatting" not in shown


def test_importing_errors_results_and_serialize_is_cheap() -> None:
    code = (
        "import sys, jupyter_pool.errors, jupyter_pool.serialize, jupyter_pool.results\n"
        "heavy = {'numpy', 'pandas', 'IPython', 'nbformat', 'zmq', 'cloudpickle', 'traitlets',\n"
        "         'jupyter_client', 'asyncio'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == ""
