"""Real workers for the tests of the kernel, started plainly and by a fork server."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.kernel.kernel_client import Worker, start_worker

from jupyter_pool.provisioning.templates import Templates, is_supported
from support.templates import own_templates


@pytest.fixture(scope="module", params=["plain", "forked"])
def templates(request: pytest.FixtureRequest) -> Iterator[Templates | None]:
    """Where workers are forked from, or None."""
    if request.param == "plain":
        yield None
        return
    if reason := is_supported():
        pytest.skip(f"platform: no fork server: {reason}")
    with own_templates() as templates:
        yield templates


@pytest.fixture
def worker_folder() -> Iterator[Path]:
    # Not pytest's own: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="jpk-") as folder:
        yield Path(folder)


@pytest.fixture
def fresh_worker(worker_folder: Path, templates: Templates | None) -> Iterator[Worker]:
    """A worker for one test that may ruin it."""
    with start_worker(worker_folder, templates=templates) as worker:
        yield worker


@pytest.fixture(scope="module")
def worker(templates: Templates | None) -> Iterator[Worker]:
    """A worker that the tests of a module share: each must leave it as it was."""
    with (
        tempfile.TemporaryDirectory(prefix="jpk-") as folder,
        start_worker(Path(folder), templates=templates) as worker,
    ):
        yield worker
