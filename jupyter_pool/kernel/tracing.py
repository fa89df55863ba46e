"""The caller's tracing context, while its request runs: spans of users' code become children of it.

Only where OpenTelemetry's API is installed in the worker, which without such a request is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["in_context_of"]


@contextmanager
def in_context_of(carrier: Mapping[str, str] | None) -> Iterator[None]:
    """Make what the owner has injected into `carrier` the current context."""
    if carrier is None:
        yield
        return
    try:
        from opentelemetry import context, propagate
    except ImportError:
        yield
        return
    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)
