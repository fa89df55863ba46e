"""OpenTelemetry with its SDK: the spans and metrics of real requests, and spans of users' code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_pool import AsyncKernelPool, InvalidRequest, KernelPool

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

pytestmark = pytest.mark.requires("module:opentelemetry.sdk")

#: A span of users' code, and whose child it is.
IN_WORKER = """
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import TracerProvider
with TracerProvider(shutdown_on_exit=False).get_tracer("mine").start_as_current_span("work") as span:
    seen = (span.context.trace_id, span.parent and span.parent.span_id, baggage.get_baggage("who"))
"""


class Lab:
    """Providers that keep what they are given."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)

    def instrument(self, pool: Any = None) -> Any:
        from jupyter_pool.otel import instrument

        return instrument(pool, self.tracers, self.meters)

    def spans(self) -> dict[str, ReadableSpan]:
        """By their names, which must differ."""
        spans = self.exporter.get_finished_spans()
        found = {span.name: span for span in spans}
        assert len(found) == len(spans)
        return found

    def metrics(self) -> dict[str, list[Any]]:
        """The points of each metric."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(1, name="traced") as pool:
        pool.execute("import opentelemetry.sdk.trace")  # takes its time once
        yield pool


def test_a_request_is_a_span_with_its_parts_below_the_callers(pool: KernelPool, lab: Lab) -> None:
    with lab.instrument(pool), lab.tracers.get_tracer("mine").start_as_current_span("caller"):
        result = pool.execute("import time; time.sleep(0.05)", session_id="ada")
    spans = lab.spans()
    request, queued, run = (spans[f"jupyter_pool.{n}"] for n in ("request", "queued", "run"))
    caller = spans["caller"]
    assert request.parent is not None
    assert request.parent.span_id == caller.context.span_id
    for part in (queued, run):
        assert part.parent is not None
        assert part.parent.span_id == request.context.span_id
    assert {span.context.trace_id for span in spans.values()} == {caller.context.trace_id}
    assert request.start_time == queued.start_time
    assert queued.end_time == run.start_time
    assert run.end_time == request.end_time
    assert (run.end_time or 0) - (run.start_time or 0) == pytest.approx(
        result.timings.ran * 1e9, abs=1e6
    )
    assert request.status.status_code.name == "UNSET"
    assert request.attributes == {
        "jupyter_pool.pool.name": "traced",
        "jupyter_pool.kind": "cell",
        "jupyter_pool.request.id": result.request_id,
        "jupyter_pool.session.id": "ada",
        "jupyter_pool.outcome": "ok",
        "jupyter_pool.attempts": 1,
        "jupyter_pool.worker.id": result.worker_id,
    }


def test_what_code_raises_is_recorded(pool: KernelPool, lab: Lab) -> None:
    with lab.instrument(pool):
        pool.execute("1/0", check=False)
    for name in ("request", "run"):
        span = lab.spans()[f"jupyter_pool.{name}"]
        assert span.status.status_code.name == "ERROR"
        assert span.attributes is not None
        assert span.attributes["error.type"] == "ZeroDivisionError"
        (event,) = span.events
        assert event.name == "exception"
        assert event.attributes is not None
        assert event.attributes["exception.type"] == "ZeroDivisionError"
        assert event.attributes["exception.message"] == "division by zero"
        assert "1/0" in str(event.attributes["exception.stacktrace"])
        assert "\x1b" not in str(event.attributes["exception.stacktrace"])
    assert lab.spans()["jupyter_pool.queued"].status.status_code.name == "UNSET"


def test_what_the_pool_raises_is_recorded(pool: KernelPool, lab: Lab) -> None:
    with lab.instrument(pool):
        pool.execute("import os; os._exit(3)", check=False)
    span = lab.spans()["jupyter_pool.request"]
    assert span.attributes is not None
    assert span.attributes["error.type"] == "worker_died"
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "jupyter_pool.errors.WorkerDied"
    assert "exit code 3" in str(event.attributes["exception.message"])


def test_what_never_ran_has_no_run(pool: KernelPool, lab: Lab) -> None:
    with pool.checkout(), lab.instrument(pool):
        pool.execute("1", checkout_timeout=0, check=False)
    assert set(lab.spans()) == {"jupyter_pool.request", "jupyter_pool.queued"}


@pytest.mark.parametrize("kind", ["cell", "call"])
def test_spans_of_the_code_are_the_requests_children(pool: KernelPool, lab: Lab, kind: str) -> None:
    from opentelemetry import baggage, context

    def call() -> Any:
        names: dict[str, Any] = {}
        exec(IN_WORKER, names)
        return names["seen"]

    with lab.instrument(pool):
        token = context.attach(baggage.set_baggage("who", "ada"))
        try:
            if kind == "cell":
                seen = pool.execute(IN_WORKER, outputs=["seen"]).outputs["seen"]
            else:
                seen = pool.submit(call).result()
        finally:
            context.detach(token)
        request = lab_request(lab)
    assert seen == (request.context.trace_id, request.context.span_id, "ada")
    # The next request, of whoever, is nobody's child.
    assert pool.execute(IN_WORKER, outputs=["seen"]).outputs["seen"][1:] == (None, None)


def lab_request(lab: Lab) -> Any:
    from support.conditions import eventually

    return eventually(lambda: lab.spans().get("jupyter_pool.request"))


def test_within_a_lease_each_run_has_its_own_context(pool: KernelPool, lab: Lab) -> None:
    with pool.checkout() as worker:
        with lab.instrument(pool):
            inside = worker.execute(IN_WORKER, outputs=["seen"]).outputs["seen"]
            request = lab_request(lab)
        after = worker.execute(IN_WORKER, outputs=["seen"]).outputs["seen"]
    assert inside[1] == request.context.span_id
    assert after[1] is None


def test_a_map_runs_in_its_callers_context(pool: KernelPool, lab: Lab) -> None:
    from opentelemetry import trace

    caller = lab.tracers.get_tracer("mine").start_span("caller")
    with lab.instrument(pool), trace.use_span(caller):
        list(pool.map(abs, range(3), chunksize=3))
    request = lab.spans()["jupyter_pool.request"]
    assert request.parent is not None
    assert request.parent.span_id == caller.get_span_context().span_id


async def test_tasks_have_their_own_parents(lab: Lab) -> None:
    async def one(pool: AsyncKernelPool, name: str) -> tuple[int, int]:
        with lab.tracers.get_tracer("mine").start_as_current_span(name) as caller:
            found = await pool.execute(IN_WORKER, outputs=["seen"])
        return caller.get_span_context().trace_id, found.outputs["seen"][0]

    async with AsyncKernelPool(2) as pool:
        with lab.instrument(pool):
            pairs = await asyncio.gather(*(one(pool, f"caller {n}") for n in range(4)))
    assert all(mine == theirs for mine, theirs in pairs)
    assert len({mine for mine, _ in pairs}) == 4


def test_metrics_count_and_time_requests_by_outcome(pool: KernelPool, lab: Lab) -> None:
    with lab.instrument(pool) as handle:
        for _ in range(3):
            pool.execute("1")
        pool.execute("1/0", check=False)
        pool.submit(pow, 2, 3).result()
        handle.flush()
        with pool.checkout():
            future = pool.submit_code("1")
            eventually_queued(pool)
            metrics = lab.metrics()
        future.result()
    counted = {
        (
            point.attributes["jupyter_pool.kind"],
            point.attributes["jupyter_pool.outcome"],
            point.attributes.get("error.type"),
        ): point.value
        for point in metrics["jupyter_pool.request.count"]
    }
    assert counted == {
        ("cell", "ok", None): 3,
        ("cell", "error", "ZeroDivisionError"): 1,
        ("call", "ok", None): 1,
    }
    for name in ("wait_time", "run_time"):
        points = metrics[f"jupyter_pool.request.{name}"]
        assert sum(point.count for point in points) == 5
        assert all(0 < point.sum < 60 for point in points)
    (pending,) = metrics["jupyter_pool.request.pending"]
    assert (pending.value, pending.attributes) == (1, {"jupyter_pool.pool.name": "traced"})
    workers = {
        point.attributes["jupyter_pool.state"]: point.value
        for point in metrics["jupyter_pool.worker.count"]
    }
    assert workers == {"idle": 0, "busy": 1, "starting": 0}


def eventually_queued(pool: KernelPool) -> None:
    from support.conditions import eventually

    eventually(lambda: pool.get_status().queue_length == 1)


def test_all_pools_are_seen_also_those_to_come_until_it_is_closed(
    pool: KernelPool, lab: Lab
) -> None:
    handle = lab.instrument()
    with KernelPool(1, name="later") as later:
        later.execute("1")
        pool.execute("1")
        handle.flush()
        names = {
            point.attributes["jupyter_pool.pool.name"]
            for point in lab.metrics()["jupyter_pool.worker.count"]
        }
        assert names >= {"later", "traced"}
        handle.close()
        before = len(lab.exporter.get_finished_spans())
        later.execute("1")
    seen = lab.exporter.get_finished_spans()
    assert len(seen) == before
    assert {(span.attributes or {}).get("jupyter_pool.pool.name") for span in seen} >= {
        "later",
        "traced",
    }


def test_one_pools_instrumentation_sees_no_other(pool: KernelPool, lab: Lab) -> None:
    with KernelPool(1) as other, lab.instrument(other):
        pool.execute("1")
    assert lab.spans() == {}


def test_an_exporter_that_fails_harms_no_request(
    pool: KernelPool, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no collector")

    with lab.instrument(pool):
        monkeypatch.setattr(lab.tracers._active_span_processor, "on_start", fail)
        assert pool.execute("1").status == "ok"
    assert lab.spans() == {}


def test_only_pools_can_be_instrumented(lab: Lab) -> None:
    with pytest.raises(InvalidRequest, match="'traced' is no pool"):
        lab.instrument("traced")
