"""The pool's part of an execute request and of its reply.

Both are the value of the key ``jupyter_pool`` in the message's metadata,
version 1; the values of inputs and outputs travel as the message's buffers,
made by `jupyter_pool.serialize.pack`. A request without that key is an
ordinary one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jupyter_pool.errors import SerializationError
from jupyter_pool.serialize import Share, pack

__all__ = ["KEY", "VERSION", "BadRequest", "PoolRequest", "collect_outputs"]

KEY = "jupyter_pool"
VERSION = 1


class BadRequest(Exception):
    """The request cannot be run as it is; the text says why. No user code ran."""


@dataclass(frozen=True)
class PoolRequest:
    """What the owner asks of the worker besides running the code."""

    #: The message's buffers hold inputs.
    inputs: bool = False
    #: Names of the values to send back.
    outputs: tuple[str, ...] = ()
    #: Working folder; None: the worker's own.
    cwd: str | None = None
    #: `sys.path`; None: the worker's own.
    path: tuple[str, ...] | None = None
    #: Environment variables to set, or to unset where the value is None.
    env: dict[str, str | None] | None = None
    #: Seed of `random` and of NumPy's legacy generator.
    seed: int | None = None
    #: How many native threads libraries may use; None: as many as they do by themselves.
    threads: int | None = None
    #: No reset afterwards.
    keep: bool = False
    #: For whom `keep` keeps: a lease's id, say. Others find the worker reset.
    scope: str = ""
    #: No reset afterwards if the code has ended well: ``"always"``, or ``"open"`` if it has left comms
    #: open. Empty: as `keep` says.
    stay: str = ""
    #: The number that the cell shows, as in ``Out[3]``.
    execution_count: int | None = None
    #: Folder, path and environment of this request become the worker's own.
    baseline: bool = False
    #: How much output to send, in bytes (see `limit`); None: all of it.
    output_limit: int | None = None
    #: What this leaves every later request finds: no reset afterwards, and a new baseline.
    setup: bool = False
    #: Somebody sees the widgets that it makes.
    comms: bool = False
    #: Run nothing, only reset.
    reset: bool = False
    #: How to take part in the owner's shared memory, from now on (see `shared`).
    shared: dict[str, Any] | None = None
    #: What was put and is needed now: ids, and how many of the message's last buffers bring it; 0: it
    #: is here.
    puts: tuple[tuple[str, int], ...] = ()
    #: What was put, or registered as a program, and is not needed any more.
    forget: tuple[str, ...] = ()
    #: The caller's tracing context, as its propagator wrote it.
    trace: dict[str, str] | None = None

    def stays(self, status: str, comms: Mapping[str, Any]) -> bool:
        """Whether what it has left is kept; by how its code has ended, and the comms that are open."""
        return status == "ok" and (self.stay == "always" or (self.stay == "open" and bool(comms)))

    @classmethod
    def parse(cls, metadata: Any) -> PoolRequest | None:
        """Return the request in a message's metadata, or None without one.

        Raises
        ------
        BadRequest
            It is of another version, or misshapen.
        """
        found = (metadata or {}).get(KEY)
        if found is None:
            return None
        if not isinstance(found, dict) or found.get("v") != VERSION:
            version = found.get("v") if isinstance(found, dict) else found
            raise BadRequest(
                f"this worker speaks version {VERSION} of the pool's messages, not {version!r}"
            )
        get = found.get
        path, env, seed = get("path"), get("env"), get("seed")
        limit, threads, trace = get("output_limit"), get("threads"), get("trace")
        try:
            return cls(
                inputs=bool(get("inputs")),
                outputs=tuple(get("outputs") or ()),
                cwd=get("cwd"),
                path=None if path is None else tuple(path),
                env=None if env is None else dict(env),
                seed=None if seed is None else int(seed),
                threads=None if threads is None else max(1, int(threads)),
                keep=bool(get("keep")),
                scope=str(get("scope") or ""),
                stay=str(get("stay") or ""),
                execution_count=get("execution_count"),
                baseline=bool(get("baseline")),
                output_limit=None if limit is None else int(limit),
                setup=bool(get("setup")),
                comms=bool(get("comms")),
                reset=bool(get("reset")),
                shared=get("shared"),
                puts=tuple((str(key), int(count)) for key, count in get("puts") or ()),
                forget=tuple(get("forget") or ()),
                trace=None if trace is None else dict(trace),
            )
        except (TypeError, ValueError) as error:
            raise BadRequest(f"misshapen request: {error}") from error


def collect_outputs(
    namespace: Mapping[str, Any],
    names: tuple[str, ...],
    report: dict[str, Any],
    frames: list[Any],
    share: Share,
) -> None:
    """Pack the values asked for into `frames`, and report which cannot be had."""
    values = {name: namespace[name] for name in names if name in namespace}
    report["missing"] = [name for name in names if name not in namespace]
    while values:
        try:
            frames[:] = pack(values, share=share)
        except SerializationError as error:
            reason = str(error.context.get("reason") or error)
            culprit = error.context.get("variable")
            # Without a name, all of them: together they cannot be sent.
            for name in [culprit] if culprit in values else list(values):
                report["unpicklable"][name] = reason
                del values[name]
        else:
            report["outputs"] = list(values)
            return
