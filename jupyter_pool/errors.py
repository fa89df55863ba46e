"""The pool's errors: what happened, where, what was spared, what to do.

Every error derives from `PoolError` and carries

category, type
    stable identifiers for programs, as class attributes
    (``"timeout_error"``, ``"operation_timeout"``, ...);
message
    text for a person; the first line says what happened, further lines say
    what was spared and what to do next;
context
    a dict of plain facts: pool name, worker id, request id, session id,
    durations in seconds, queue lengths. Its keys depend on the error.

Where the standard library has a class for the same situation, the error is
also an instance of that one, so ``except TimeoutError`` works. Errors survive
`pickle` and `copy` with all their fields, and a notebook shows them without
the pool's own frames.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from pickle import PicklingError
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jupyter_pool.results import ExecutionResult

__all__ = [
    "Cancelled",
    "CheckoutTimeout",
    "ExecutionError",
    "InvalidRequest",
    "MemoryLimitExceeded",
    "OperationTimeout",
    "PoolError",
    "PoolNotAvailable",
    "PoolSaturated",
    "ProtocolError",
    "SerializationError",
    "UnknownProgram",
    "WorkerDied",
    "WorkerStartError",
]

_BOLD_RED = "\x1b[1;31m"
_RESET = "\x1b[0m"

_E = TypeVar("_E", bound="PoolError")


def _rebuild(cls: type[_E], args: tuple[Any, ...]) -> _E:
    # Not through __init__: a subclass may ask for arguments that we do not
    # know. The fields follow as pickle's state. OSError leaves `args` empty
    # when only __new__ ran, hence the assignment.
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class PoolError(Exception):
    """Base of all errors of a pool, and itself the unexpected one.

    Parameters
    ----------
    message
        What a person reads; also ``str(error)``.
    context
        Plain facts for programs; copied.
    """

    category: ClassVar[str] = "system_error"
    type: ClassVar[str] = "unexpected_error"

    message: str
    context: dict[str, Any]
    #: What the code had put out by then; None if it did not run.
    result: ExecutionResult | None = None

    def __init__(self, message: str, *, context: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.context = dict(context or {})

    # KeyError would show the message's repr, OSError looks for an errno.
    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.__class__, self.args), self.__dict__.copy())

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows in place of a traceback.

        The frames between the caller and the pool's engine say nothing about
        what went wrong, so there are none.
        """
        first, *rest = self.message.split("\n")
        notes = [str(note) for note in getattr(self, "__notes__", ())]
        return [f"{_BOLD_RED}{self.__class__.__name__}{_RESET}: {first}", *rest, *notes]


class CheckoutTimeout(PoolError, TimeoutError):
    """No worker became free within the checkout timeout. The code did not run."""

    category = "timeout_error"
    type = "checkout_timeout"


class OperationTimeout(PoolError, TimeoutError):
    """The code ran longer than its timeout and was stopped.

    Attributes
    ----------
    result
        The outputs up to then, or None if there is nothing to tell.
    line
        The line of the cell, counted from 1, where the code was; None if unknown.
    """

    category = "timeout_error"
    type = "operation_timeout"

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[str, Any] | None = None,
        result: ExecutionResult | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.result = result
        self.line = line


class PoolNotAvailable(PoolError, RuntimeError):
    """There is no such pool, or it is closing, closed, or belongs to the parent process."""

    category = "resource_error"
    type = "pool_not_available"


class PoolSaturated(PoolError):
    """As many requests wait as the pool admits (`max_waiting`). The code did not run."""

    category = "resource_error"
    type = "pool_saturated"


class WorkerStartError(PoolError):
    """No worker could be started.

    Attributes
    ----------
    stderr
        What the kernel itself wrote to its standard error, possibly empty.
    """

    category = "resource_error"
    type = "worker_start_failed"

    def __init__(
        self, message: str, *, context: Mapping[str, Any] | None = None, stderr: str = ""
    ) -> None:
        super().__init__(message, context=context)
        self.stderr = stderr


class MemoryLimitExceeded(PoolError):
    """The worker used more memory than `memory_limit` allows and was replaced.

    Attributes
    ----------
    peak, limit
        Bytes; None if unknown. What counts is memory that the worker shares with no other one, and
        that of its child processes.
    result
        The outputs up to then, or None.
    """

    category = "resource_error"
    type = "memory_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[str, Any] | None = None,
        peak: int | None = None,
        limit: int | None = None,
        result: ExecutionResult | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.peak = peak
        self.limit = limit
        self.result = result


class WorkerDied(PoolError):
    """The worker's process ended while it ran the code. Only this request is lost.

    Attributes
    ----------
    exitcode
        The process's exit status, or None if a signal ended it or it is unknown.
    signal
        The signal's name, such as ``"SIGSEGV"``, or None.
    cause
        The likely cause in words, or None if unknown.
    stderr
        The end of what the process wrote to its real standard error, with
        the interpreter's own stack dump if there was one.
    result
        The outputs up to then, or None.
    """

    category = "communication_error"
    type = "worker_died"

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[str, Any] | None = None,
        exitcode: int | None = None,
        signal: str | None = None,
        cause: str | None = None,
        stderr: str = "",
        result: ExecutionResult | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.exitcode = exitcode
        self.signal = signal
        self.cause = cause
        self.stderr = stderr
        self.result = result


class ProtocolError(PoolError):
    """A worker sent what a kernel must not: a bad signature, version or shape."""

    category = "communication_error"
    type = "protocol_error"


class ExecutionError(PoolError):
    """The code raised an exception.

    Attributes
    ----------
    ename, evalue
        The exception's class name and text.
    traceback
        The lines that the worker's IPython made of it, with ANSI colours.
    result
        The outputs up to then and the error as the last of them, or None.
    """

    category = "execution_error"
    type = "user_exception"

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[str, Any] | None = None,
        ename: str = "",
        evalue: str = "",
        traceback: Iterable[str] = (),
        result: ExecutionResult | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.ename = ename
        self.evalue = evalue
        self.traceback = list(traceback)
        self.result = result

    def _render_traceback_(self) -> list[str]:
        """Return the remote traceback as it is: it reads like a local one."""
        return list(self.traceback) or super()._render_traceback_()


class Cancelled(PoolError, CancelledError):
    """The request was cancelled, before it ran or while it did.

    Attributes
    ----------
    result
        The outputs up to then, or None if it never ran.
    """

    category = "execution_error"
    type = "cancelled"

    def __init__(
        self,
        message: str,
        *,
        context: Mapping[str, Any] | None = None,
        result: ExecutionResult | None = None,
    ) -> None:
        super().__init__(message, context=context)
        self.result = result


class InvalidRequest(PoolError, ValueError, TypeError):
    """An option, a name or a combination that cannot work. Nothing was run."""

    category = "input_error"
    type = "invalid_request"


class SerializationError(PoolError, PicklingError, ValueError, TypeError):
    """A value cannot travel between processes; the message names it.

    ``context["variable"]`` is the variable's name and ``context["reason"]``
    the reason alone, where a single one is to blame.
    """

    category = "input_error"
    type = "serialization_failed"


class UnknownProgram(PoolError, KeyError, ValueError, TypeError):
    """No program is registered under this name."""

    category = "input_error"
    type = "unknown_program"
