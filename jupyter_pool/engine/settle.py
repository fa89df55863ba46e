"""From how a request ended to what its caller gets: a result, or an error that explains itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jupyter_pool._reprs import size as size_text
from jupyter_pool.calling import Outcome as CallOutcome
from jupyter_pool.core import Outcome
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
    WorkerDied,
    WorkerStartError,
)
from jupyter_pool.provisioning.processes import describe_exit
from jupyter_pool.results import ExecutionResult, ExecutionStatus, Timeline, Timings
from jupyter_pool.serialize import LazyOutputs, unpack

from .sources import UNKNOWN_FILE, Sources

if TYPE_CHECKING:
    from jupyter_pool.provisioning.launcher import Exited

    from .memory_watch import Excess
    from .programs import Program
    from .request import Completion, Request
    from .wire import Message

_STATUS: dict[Outcome, ExecutionStatus] = {
    Outcome.DONE: "ok",
    Outcome.OPERATION_TIMEOUT: "timeout",
    Outcome.CHECKOUT_TIMEOUT: "timeout",
    Outcome.CANCELLED: "cancelled",
    Outcome.CLOSED: "cancelled",
    Outcome.RESTARTED: "cancelled",
    Outcome.WORKER_DIED: "died",
    Outcome.MEMORY_LIMIT_EXCEEDED: "died",
}

#: A frame of the cell's own code in a stack dump of faulthandler.
_CELL_FRAME = re.compile(r'File "[^"]*ipykernel_\d+[^"]*", line (\d+)')


def settle(completion: Completion, *, check: bool = True) -> ExecutionResult:
    """The request's result; with `check`, what went wrong is raised instead.

    Raises
    ------
    PoolError
        Any of the error classes, with `result` set where code had run.
    """
    request = completion.request
    error = _explain(completion)
    status = _STATUS.get(completion.outcome, "error")
    if status == "ok" and error is not None:
        status = "error"
    reply = completion.reply
    ours = reply.metadata.get("jupyter_pool", {}) if reply else {}
    started = request.first_dispatched
    result = ExecutionResult(
        status=status,
        request_id=request.id,
        worker_id=request.worker_id,
        session_id=request.session_id,
        display_outputs=completion.collector.display_outputs if completion.collector else [],
        outputs=LazyOutputs(ours.get("outputs", ()), reply.buffers if reply else ()),
        error=error,
        timings=Timings(
            waited=(started or completion.finished) - request.created,
            ran=completion.finished - started if started is not None else 0.0,
            total=completion.finished - request.created,
        ),
        execution_count=reply.content.get("execution_count") if reply else None,
        left_out=int(ours.get("left_out") or 0),
        timeline=completion.timeline or Timeline(),
    )
    if error is not None:
        if started is not None:
            error.result = result
        if check:
            raise error
    return result


def status_of(completion: Completion) -> ExecutionStatus:
    """What the result's `status` is, of a call and a lease as well. Unpickles nothing."""
    status = _STATUS.get(completion.outcome, "error")
    failed = completion.reply is not None and not succeeded(completion.reply)
    return "error" if status == "ok" and failed else status


def settle_call(completion: Completion) -> Any:
    """The value of a call, unpickled here and now.

    Raises
    ------
    BaseException
        What the call raised, with the remote traceback as its cause.
    PoolError
        The call did not come to its end, or its value cannot be unpickled here.
    """
    reply = completion.reply
    if reply is not None and reply.well and completion.outcome is Outcome.DONE:
        return unpack(reply.buffers)["value"]
    outcome = call_outcome(completion)
    show_sources(outcome, completion.request)
    return outcome.open(_context(completion) if outcome.kind == "error" else {})


def call_failed(completion: Completion) -> bool:
    """Whether `settle_call` will raise; unpickles nothing of users'."""
    if completion.outcome is not Outcome.DONE:
        return True
    if completion.reply is not None and completion.reply.well:
        return False
    try:
        return call_outcome(completion).kind == "error"
    except PoolError:
        return True


def error_text(completion: Completion) -> str:
    """What went wrong, in words; unpickles nothing of users'."""
    reply = completion.reply
    done = completion.outcome is Outcome.DONE
    if done and reply is not None and reply.content.get("status") == "error":
        return f"{reply.content.get('ename', '')}: {reply.content.get('evalue', '')}".rstrip(": ")
    return str(_explain(completion) or "")


def call_outcome(completion: Completion) -> CallOutcome:
    """What the worker tells of a call.

    Raises
    ------
    PoolError
        The call did not come to its end.
    """
    reply = completion.reply
    if completion.outcome is not Outcome.DONE or reply is None or _is_refused(reply):
        error = _explain(completion)
        assert error is not None
        raise error
    content = reply.content
    if content["status"] == "ok":
        return CallOutcome(content["kind"], content["facts"], reply.buffers)
    facts = {
        "name": content.get("ename", ""),
        "text": content.get("evalue", ""),
        "traceback": "".join(content.get("traceback") or ()),
    }
    return CallOutcome("error", facts, reply.buffers)


def show_sources(outcome: CallOutcome, request: Request) -> None:
    """Put source lines into the traceback of a function that travelled by value."""
    facts = outcome.facts if outcome.kind == "error" else outcome.facts.get("error")
    if facts and request.codes and UNKNOWN_FILE in facts["traceback"]:
        lines = Sources(request.codes).put_into(facts["traceback"].splitlines())
        facts["traceback"] = "\n".join(lines) + "\n"


def _is_refused(reply: Message) -> bool:
    """Whether the worker could not even begin."""
    ours = reply.metadata.get("jupyter_pool") or {}
    if len(ours) == 1:
        return False
    return bool(ours.get("failed") or ours.get("bad_inputs"))


def succeeded(reply: Message) -> bool:
    """Whether a reply means what `settle` calls ``"ok"``."""
    if reply.well:
        return True
    ours = reply.metadata.get("jupyter_pool") or {}
    if len(ours) == 1:  # the version
        return bool(reply.content.get("status") == "ok")
    faults = (ours.get(fault) for fault in ("bad_inputs", "missing", "unpicklable"))
    return reply.content.get("status") == "ok" and not any(faults)


def _context(completion: Completion) -> dict[str, Any]:
    request = completion.request
    started = request.first_dispatched
    context: dict[str, Any] = {
        "pool": completion.pool,
        "request_id": request.id,
        "session_id": request.session_id,
        "worker_id": request.worker_id,
        "waited": (started or completion.finished) - request.created,
        **completion.facts,
    }
    if started is not None:
        context["ran"] = completion.finished - started
    if request.attempt > 1:
        context["attempts"] = request.attempt
    return context


def error_of(completion: Completion) -> PoolError | None:
    """What went wrong with a request, as `settle` would raise it; None: nothing."""
    return _explain(completion)


def _explain(completion: Completion) -> PoolError | None:
    return _EXPLAIN[completion.outcome](completion, _context(completion))


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "no limit"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


def _at(completion: Completion, line: int | None) -> str:
    """``line 3: X = np.repeat(X, 50)``, or nothing."""
    lines = completion.request.code.splitlines()
    if line is None or not 1 <= line <= len(lines):
        return ""
    return f"line {line}: {lines[line - 1].strip()}"


def _line(completion: Completion) -> int | None:
    """Where the code was: told by the kernel, or read off its last stack dump."""
    if completion.reply is not None:
        at = completion.reply.metadata.get("jupyter_pool", {}).get("at")
        if at:
            return int(at["line"])
    stderr = getattr(completion.reason, "stderr", "")
    # The dump of the main thread is the last; its innermost frame comes first.
    main = stderr[max(stderr.rfind("most recent call first"), 0) :]
    found = _CELL_FRAME.search(main) or _CELL_FRAME.search(stderr)
    if found is None:
        return None
    # IPython drops empty lines at the top before it compiles a cell.
    code = completion.request.code.splitlines()
    return int(found[1]) + next((i for i, line in enumerate(code) if line.strip()), 0)


# -- one function per outcome ----------------------------------------------------------------


def _done(completion: Completion, context: dict[str, Any]) -> PoolError | None:
    reply = completion.reply
    if reply is None:  # a lease that was returned
        return None
    ours = reply.metadata.get("jupyter_pool", {})
    if ours.get("failed"):
        return PoolError(
            f"the kernel of worker {completion.request.worker_id} failed: {ours['failed']}\n"
            "  It is replaced; your process and the other workers are unaffected.\n"
            "  Either the code took the kernel apart, or this is a bug of jupyter_pool.",
            context=context,
        )
    program = completion.request.program
    called = program is not None and program.source is None
    if ours.get("bad_inputs"):
        what = f"the program {program.id!r}" if called and program is not None else "the inputs"
        return SerializationError(
            f"{what} could not be rebuilt in the worker: {ours['bad_inputs']}\n"
            "  The code did not run; the worker is unharmed.",
            context=context,
        )
    content = reply.content
    if content.get("status") == "error":
        ename, evalue = content.get("ename", ""), content.get("evalue", "")
        traceback = content.get("traceback") or []
        if program is not None and program.sources is not None:
            traceback = program.sources.put_into(traceback)
        return ExecutionError(
            f"{ename}: {evalue}" if evalue else ename,
            context=context,
            ename=ename,
            evalue=evalue,
            traceback=traceback,
        )
    if content.get("status") != "ok":
        return ProtocolError(
            f"the kernel answered with status {content.get('status')!r}", context=context
        )
    if ours.get("missing"):
        if called and program is not None:
            return _unfit(program, ours, context)
        return _missing(ours["missing"], context)
    for name, why in ours.get("unpicklable", {}).items():
        return SerializationError(
            f"the output {name!r} cannot be sent back: {why}\n"
            "  The code ran to its end; its other outputs are in error.result.",
            context={**context, "variable": name, "reason": why},
        )
    return None


def _missing(names: list[str], context: dict[str, Any]) -> PoolError:
    listed = " and ".join(map(repr, names))
    return InvalidRequest(
        f"the code never set the output{'s' if len(names) > 1 else ''} {listed}\n"
        "  It ran to its end; what it printed and its other outputs are in error.result.",
        context={**context, "missing": names},
    )


def _unfit(program: Program, ours: dict[str, Any], context: dict[str, Any]) -> PoolError:
    names = ", ".join(map(repr, program.output_names))
    returned = ours.get("returned", "something else")
    return InvalidRequest(
        f"the program {program.id!r} returned {returned}, where its outputs are {names}: "
        f"{' and '.join(map(repr, ours['missing']))} cannot be told\n"
        "  It ran to its end. It must return so many values, a mapping with these names, or an object "
        "with these attributes.",
        context={**context, "missing": ours["missing"], "returned": returned},
    )


def _checkout_timeout(completion: Completion, context: dict[str, Any]) -> PoolError:
    request = completion.request
    busy, ahead = context.get("busy", 0), context.get("queued", 0)
    held = "".join(
        f"\n  {number} held by a lease: {where}"
        for where, number in Counter(context["leases"]).most_common(4)
    )
    return CheckoutTimeout(
        f"no worker became free within {_seconds(request.checkout_timeout)} "
        f"(pool {completion.pool!r}: {busy} busy, {ahead} others waiting){held}\n"
        "  The code did not run.\n"
        "  Next: a longer checkout_timeout, or more workers: pool.resize(size=…) or overflow=…",
        context=context,
    )


def _operation_timeout(completion: Completion, context: dict[str, Any]) -> PoolError:
    request = completion.request
    line = _line(completion)
    how = (
        "interrupted cleanly"
        if completion.clean
        else "it did not stop when interrupted, so its worker was killed and replaced"
    )
    at = _at(completion, line)
    lines = [f"stopped after {_seconds(request.timeout)} (limit: timeout) · {how}"]
    if at:
        lines.append(f"  was at {at}")
    return OperationTimeout("\n".join(lines), context=context, line=line)


def _cancelled(completion: Completion, context: dict[str, Any]) -> PoolError:
    if completion.request.first_dispatched is None:
        if completion.request.lease is not None:
            return Cancelled(
                "the lease has ended: its worker was lost, or it was returned\n"
                "  The code did not run. What the lease had defined is gone; next: a new checkout().",
                context=context,
            )
        return Cancelled("cancelled before it ran", context=context)
    how = "interrupted cleanly" if completion.clean else "its worker was killed and replaced"
    at = _at(completion, _line(completion))
    return Cancelled(
        f"cancelled while it ran · {how}" + (f"\n  was at {at}" if at else ""), context=context
    )


def _worker_died(completion: Completion, context: dict[str, Any]) -> PoolError:
    request = completion.request
    reason: Exited | None = completion.reason  # type: ignore[assignment]
    exitcode, signal = describe_exit(reason.status if reason else None)
    stderr = reason.stderr if reason else ""
    out_of_memory = bool(completion.facts.get("out_of_memory"))
    cause: str | None = None
    if signal == "SIGKILL":
        cause = (
            "out of memory"
            if out_of_memory
            else "killed from outside, by a person or by the system when memory ran out"
        )
        what = (
            "was killed by the system (SIGKILL), out of memory"
            if out_of_memory
            else ("was killed (SIGKILL): by the system if memory ran out, or by somebody's kill -9")
        )
    elif signal is not None:
        cause = _SIGNAL_CAUSES.get(signal)
        what = f"was ended by {signal}" + (f": {cause}" if cause else "")
    elif exitcode is not None:
        cause = "the code, or a library, ended the process"
        what = f"ended with exit code {exitcode}: {cause}"
    else:
        what = "died; its exit code is not known"
    at = _at(completion, _line(completion))
    ran = context.get("ran")
    lines = [f"worker {request.worker_id} {what}"]
    where = ([f"after {_seconds(ran)}"] if ran is not None else []) + ([f"at {at}"] if at else [])
    if where:
        lines.append("  " + " · ".join(where))
    lines.append("  Only this request is lost: your process and the other workers are unaffected.")
    lines.append("  A replacement is on its way.")
    if request.attempt > 1:
        lines.append(f"  It was tried {request.attempt} times.")
    return WorkerDied(
        "\n".join(lines),
        context=context,
        exitcode=exitcode,
        signal=signal,
        cause=cause,
        stderr=stderr,
    )


_SIGNAL_CAUSES = {
    "SIGSEGV": "a crash in compiled code (segmentation fault)",
    "SIGABRT": "a library aborted the process",
    "SIGBUS": "a bad memory access, or shared memory that is full",
    "SIGFPE": "an arithmetic fault in compiled code",
    "SIGILL": "an instruction that this processor does not have",
    "SIGTERM": "somebody asked it to end",
}


def _start_failed(completion: Completion, context: dict[str, Any]) -> PoolError:
    return start_error(completion.reason, completion.facts.get("start_timeout"), context)


def _breaker(context: dict[str, Any]) -> str:
    """What the pool does about starts that keep failing, if they do."""
    if context.get("breaker") == "half_open":
        return "\n  Starts keep failing; one is being tried, and the pool goes on if it succeeds."
    if context.get("breaker") != "open":
        return ""
    pause = _seconds(context.get("next_probe"))
    return f"\n  Starts keep failing, so nothing waits for them. The next one is tried in {pause}."


def start_error(
    reason: object, start_timeout: float | None, context: dict[str, Any]
) -> WorkerStartError:
    """The error for a worker that did not become ready."""
    stderr = getattr(reason, "stderr", "") or ""
    error = getattr(reason, "error", None)
    setup: WorkerStartError | None = getattr(reason, "setup", None)
    if setup is not None:
        return WorkerStartError(
            setup.message, context={**setup.context, **context}, stderr=setup.stderr
        )
    status = getattr(reason, "status", None)
    exitcode, signal = describe_exit(status)
    if error:
        what = f"the kernel could not be started: {error}"
    elif getattr(reason, "timed_out", False) or reason is None or not hasattr(reason, "status"):
        what = f"the kernel was not ready within start_timeout={start_timeout:g} s"
    elif signal is not None:
        what = f"the kernel was ended by {signal} before it was ready"
    else:
        what = f"the kernel ended with exit code {exitcode} before it was ready"
    last = stderr.strip().splitlines()[-8:]
    shown = "".join(f"\n  │ {line}" for line in last)
    words = "\n  The kernel's own last words:" + shown if shown else ""
    return WorkerStartError(
        what + words + _breaker(context),
        context=context,
        stderr=stderr,
    )


def _saturated(completion: Completion, context: dict[str, Any]) -> PoolError:
    return PoolSaturated(
        f"pool {completion.pool!r} already has {context.get('queued', 0)} requests waiting "
        "(max_waiting)\n  The code did not run. Next: try later, or a larger max_waiting.",
        context=context,
    )


def _closed(completion: Completion, context: dict[str, Any]) -> PoolError:
    return PoolNotAvailable(
        f"pool {completion.pool!r} is closed or closing; the code did not run", context=context
    )


def _restarted(completion: Completion, context: dict[str, Any]) -> PoolError:
    return Cancelled(
        f"worker {completion.request.worker_id} was restarted while the code ran on it",
        context=context,
    )


def _protocol_error(completion: Completion, context: dict[str, Any]) -> PoolError:
    return ProtocolError(
        f"worker {completion.request.worker_id} sent {completion.reason}\n"
        "  It was replaced; the request is lost.",
        context=context,
    )


def _memory_limit_exceeded(completion: Completion, context: dict[str, Any]) -> PoolError:
    request = completion.request
    excess: Excess = completion.reason  # type: ignore[assignment]
    at = _at(completion, _line(completion))
    ran = context.get("ran")
    facts = [f"peak {size_text(excess.peak)} of {size_text(excess.limit)}"]
    facts += [f"after {_seconds(ran)}"] if ran is not None else []
    facts += [f"at {at}"] if at else []
    who = "the worker of the lease" if ran is None else f"worker {request.worker_id}"
    lines = [
        f"{who} used more memory than memory_limit allows and was killed",
        "  " + " · ".join(facts),
    ]
    if excess.at_ready > excess.limit / 2:
        begun = size_text(excess.at_ready)
        lines.append(f"  A new worker already has {begun}, what it shares with others included.")
    if ran is None:
        lines.append("  This code did not run. What the lease had defined is gone.")
    else:
        lines.append(
            "  Only this request is lost: your process and the other workers are unaffected."
        )
    lines += [
        "  A replacement is on its way.",
        "  Next: less data at a time, or a larger memory_limit.",
    ]
    return MemoryLimitExceeded(
        "\n".join(lines),
        context={**context, "peak": excess.peak, "limit": excess.limit},
        peak=excess.peak,
        limit=excess.limit,
    )


_EXPLAIN: dict[Outcome, Callable[[Completion, dict[str, Any]], PoolError | None]] = {
    Outcome.DONE: _done,
    Outcome.CHECKOUT_TIMEOUT: _checkout_timeout,
    Outcome.OPERATION_TIMEOUT: _operation_timeout,
    Outcome.CANCELLED: _cancelled,
    Outcome.WORKER_DIED: _worker_died,
    Outcome.START_FAILED: _start_failed,
    Outcome.SATURATED: _saturated,
    Outcome.CLOSED: _closed,
    Outcome.RESTARTED: _restarted,
    Outcome.PROTOCOL_ERROR: _protocol_error,
    Outcome.MEMORY_LIMIT_EXCEEDED: _memory_limit_exceeded,
}
