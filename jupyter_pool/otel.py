"""Traces and metrics of pools through OpenTelemetry: ``jupyter_pool.otel.instrument()``.

Needs ``pip install "jupyter-pool[otel]"``, and for anything to be seen an SDK that is set up.

    span                     is
    ───────────────────────  ──────────────────────────────────────────────────────────────────
    jupyter_pool.request     a request, from when it was made until it ended. Its parent is the span
                             that was current where it was made
      jupyter_pool.queued    until a worker got it
      jupyter_pool.run       from then on
      …                      spans that the code starts in the worker, where the API is installed:
                             the context, with its baggage, goes along

    metric                            unit       kind        attributes
    ────────────────────────────────  ─────────  ──────────  ───────────────────────────────────────
    jupyter_pool.request.count        {request}  counter     pool.name, kind, outcome, error.type
    jupyter_pool.request.wait_time    s          histogram   as above
    jupyter_pool.request.run_time     s          histogram   as above
    jupyter_pool.request.pending      {request}  gauge       pool.name
    jupyter_pool.worker.count         {worker}   gauge       pool.name, state: idle, busy or starting

Attributes but ``error.type`` are prefixed with ``jupyter_pool.``. Names and units follow the semantic
conventions for connection pools. Spans hold what a request raised, with its text and traceback.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import metrics, propagate, trace
except ImportError as error:
    raise ImportError(
        'jupyter_pool.otel needs OpenTelemetry: pip install "jupyter-pool[otel]"'
    ) from error

import jupyter_pool
from jupyter_pool import _ansi
from jupyter_pool.core import WorkerState
from jupyter_pool.engine.answers import busy_workers
from jupyter_pool.engine.face import PoolFace
from jupyter_pool.engine.futures import CallbackThread
from jupyter_pool.engine.log import LOGGER
from jupyter_pool.engine.registry import all_pools
from jupyter_pool.engine.settle import error_of
from jupyter_pool.engine.telling import end_of
from jupyter_pool.engine.tracing import add_tracer, remove_tracer
from jupyter_pool.errors import ExecutionError, InvalidRequest

if TYPE_CHECKING:
    from jupyter_pool.engine.request import Completion, Request

__all__ = ["Instrumentation", "instrument"]

#: How many ended requests may wait for a slow exporter.
_PENDING_LIMIT = 10_000
#: How long `close` waits for it, in seconds.
_PATIENCE = 5.0
_NAME = "jupyter_pool"
#: Bounds of histograms, in seconds, as the conventions have them for durations, and longer ones.
_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800)


def instrument(
    pool: PoolFace | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Instrumentation:
    """Have a pool's requests make spans and metrics.

    Parameters
    ----------
    pool
        A `KernelPool` or `AsyncKernelPool`; None: all pools of this process, also those to come.
    tracer_provider, meter_provider
        By default the global ones.

    Returns
    -------
    Instrumentation
        Ended by its ``close()``, or by leaving it as a context.

    Raises
    ------
    InvalidRequest
        Not a pool.
    """
    if pool is not None and not isinstance(pool, PoolFace):
        raise InvalidRequest(f"{pool!r} is no pool: instrument takes a KernelPool, or None for all")
    return Instrumentation(pool, tracer_provider, meter_provider)


@dataclass(slots=True)
class _End:
    """What is known of an ended request; without its values. Times are Unix times in nanoseconds."""

    status: str
    queued: int
    dispatched: int | None
    finished: int
    attributes: dict[str, Any]
    error: dict[str, str] = field(default_factory=dict)
    exception: dict[str, str] = field(default_factory=dict)


class Instrumentation:
    """What `instrument` has begun.

    Attributes
    ----------
    dropped
        How many requests have no complete spans because the exporter was too slow.
    """

    def __init__(
        self,
        pool: PoolFace | None,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
    ) -> None:
        self.dropped = 0
        # Not to keep a pool that its user has dropped.
        self._pool = None if pool is None else weakref.ref(pool)
        self._pid = os.getpid()
        self._closed = False
        self._thread = CallbackThread("jupyter_pool OpenTelemetry")
        # Each is written by one thread only: how many ends came, and how many were seen.
        self._taken = self._seen = 0
        version = jupyter_pool.__version__
        self._tracer = trace.get_tracer(_NAME, version, tracer_provider)
        meter = metrics.get_meter(_NAME, version, meter_provider)
        self._count = meter.create_counter(
            "jupyter_pool.request.count", "{request}", "Requests that have ended"
        )
        self._wait_time = meter.create_histogram(
            "jupyter_pool.request.wait_time",
            "s",
            "How long requests waited for a worker",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        self._run_time = meter.create_histogram(
            "jupyter_pool.request.run_time",
            "s",
            "How long requests had a worker",
            explicit_bucket_boundaries_advisory=_BOUNDS,
        )
        meter.create_observable_gauge(
            "jupyter_pool.request.pending", [self._see_queues], "{request}", "Requests that wait"
        )
        meter.create_observable_gauge(
            "jupyter_pool.worker.count", [self._see_workers], "{worker}", "Workers by their state"
        )
        add_tracer(self)
        # Before the SDK's own handler, which was there first, sends what there is.
        atexit.register(self.close)

    def close(self) -> None:
        """Begin no more spans and finish those that have ended, within some seconds."""
        self._closed = True
        remove_tracer(self)
        atexit.unregister(self.close)
        if os.getpid() == self._pid:
            self._thread.close(time.monotonic() + _PATIENCE)

    def flush(self, timeout: float = _PATIENCE) -> None:
        """Wait until what has ended by now has its spans."""
        self._thread.flush(timeout)

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(self, *how: object) -> None:
        self.close()

    # -- spans -------------------------------------------------------------------------------

    def begin(self, pool: PoolFace, request: Request) -> _Trace | None:
        """A request is made here, in its caller's context."""
        if (self._pool is not None and self._pool() is not pool) or os.getpid() != self._pid:
            return None
        # The same for all times of a request, lest its parts overlap or part.
        shift = time.time() - time.monotonic()
        try:
            span = self._tracer.start_span(
                "jupyter_pool.request",
                kind=trace.SpanKind.CLIENT,
                attributes=_identity(pool.name, request),
                start_time=_nanoseconds(shift, request.created),
            )
            carrier: dict[str, str] = {}
            propagate.inject(carrier, trace.set_span_in_context(span))
        except Exception:  # noqa: BLE001 - whatever a processor raises, the request is to run
            LOGGER.log(logging.ERROR, "OpenTelemetry could not begin a span", exc_info=True)
            return None
        if not pool.config.kernel_name:  # other kernels do not know of it
            request.context = {**request.context, "trace": carrier}
        return _Trace(self, span, shift)

    def take(self, span: trace.Span, completion: Completion, shift: float) -> None:
        """A request has ended: note what matters, on the I/O thread."""
        if self._taken - self._seen >= _PENDING_LIMIT:
            self.dropped += 1
            return
        self._taken += 1
        end = _read(completion, shift)
        self._thread.run(lambda: self._finish(span, end))

    def _finish(self, span: trace.Span, end: _End) -> None:
        self._seen += 1
        context = trace.set_span_in_context(span)
        handed = end.finished if end.dispatched is None else end.dispatched
        queued = self._tracer.start_span("jupyter_pool.queued", context, start_time=end.queued)
        ended = [queued]
        queued.end(handed)
        if end.dispatched is not None:
            run = self._tracer.start_span(
                "jupyter_pool.run", context, attributes=end.attributes, start_time=end.dispatched
            )
            self._close_span(run, end)
            ended.append(run)
        span.set_attributes(end.attributes)
        self._close_span(span, end)
        labels = {
            name: end.attributes[name]
            for name in ("jupyter_pool.pool.name", "jupyter_pool.kind", "jupyter_pool.outcome")
        }
        labels |= end.error
        self._count.add(1, labels)
        self._wait_time.record((handed - end.queued) / 1e9, labels)
        if end.dispatched is not None:
            self._run_time.record((end.finished - end.dispatched) / 1e9, labels)

    def _close_span(self, span: trace.Span, end: _End) -> None:
        if end.error:
            span.set_attributes(end.error)
        if end.exception:
            span.add_event("exception", end.exception, end.finished)
        if end.status not in ("ok", "cancelled"):
            span.set_status(
                trace.Status(trace.StatusCode.ERROR, end.exception.get("exception.message"))
            )
        span.end(end.finished)

    # -- gauges ------------------------------------------------------------------------------

    def _pools(self) -> Iterator[PoolFace]:
        if self._closed:  # the meter cannot be told to forget us
            return
        pools = all_pools() if self._pool is None else [self._pool()]
        for pool in pools:
            if pool is not None and pool.driver is not None and not pool.driver.closed.is_set():
                yield pool

    def _see_queues(self, options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        for pool in self._pools():
            assert pool.driver is not None
            yield metrics.Observation(pool.driver.core.queue_length, _labels(pool))

    def _see_workers(self, options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        for pool in self._pools():
            driver = pool.driver
            assert driver is not None
            count = driver.core.count
            states = {
                "idle": count(WorkerState.IDLE) + count(WorkerState.STANDBY),
                "busy": busy_workers(driver),
                "starting": count(WorkerState.STARTING),
            }
            for state, number in states.items():
                yield metrics.Observation(number, _labels(pool, state=state))


class _Trace:
    """One request's span."""

    def __init__(self, owner: Instrumentation, span: trace.Span, shift: float) -> None:
        self._owner = owner
        self._span = span
        self._shift = shift

    def ended(self, completion: Completion) -> None:
        try:
            self._owner.take(self._span, completion, self._shift)
        except Exception:  # noqa: BLE001 - the request's end must reach its caller
            LOGGER.log(logging.ERROR, "OpenTelemetry could not end a span", exc_info=True)


def _read(completion: Completion, shift: float) -> _End:
    request = completion.request
    status, why = end_of(completion)
    began = request.first_dispatched
    attributes = {
        **_identity(completion.pool, request),
        "jupyter_pool.outcome": status,
        "jupyter_pool.attempts": request.attempt,
    }
    if request.worker_id is not None:
        attributes["jupyter_pool.worker.id"] = request.worker_id
    end = _End(
        status,
        _nanoseconds(shift, request.created),
        None if began is None else _nanoseconds(shift, began),
        _nanoseconds(shift, completion.finished),
        attributes,
    )
    if status != "ok":
        end.error = {"error.type": why.get("exception") or why["error"]}
        end.exception = _exception(completion)
    return end


def _exception(completion: Completion) -> dict[str, str]:
    """What went wrong, as the conventions name its parts."""
    error = error_of(completion)
    if error is None:
        return {}
    if not isinstance(error, ExecutionError):
        kind = type(error)
        found = {"type": f"{kind.__module__}.{kind.__qualname__}", "message": str(error)}
    else:
        found = {"type": error.ename, "message": error.evalue}
        found["stacktrace"] = _ansi.strip("\n".join(error.traceback))
    return {f"exception.{name}": text for name, text in found.items()}


def _identity(pool: str, request: Request) -> dict[str, Any]:
    attributes = {
        "jupyter_pool.pool.name": pool,
        "jupyter_pool.kind": request.kind,
        "jupyter_pool.request.id": request.id,
    }
    if request.session_id is not None:
        attributes["jupyter_pool.session.id"] = request.session_id
    return attributes


def _labels(pool: PoolFace, **more: str) -> dict[str, str]:
    labels = {"pool.name": pool.name, **more}
    return {f"jupyter_pool.{name}": value for name, value in labels.items()}


def _nanoseconds(shift: float, monotonic: float) -> int:
    return int((shift + monotonic) * 1e9)
