"""Real workers for the tests of the kernel."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.kernel.kernel_client import Worker, start_worker


@pytest.fixture
def worker_folder() -> Iterator[Path]:
    # Not pytest's own: a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="jpk-") as folder:
        yield Path(folder)


@pytest.fixture
def fresh_worker(worker_folder: Path) -> Iterator[Worker]:
    """A worker for one test that may ruin it."""
    with start_worker(worker_folder) as worker:
        yield worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """A worker that the tests of a module share: each must leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="jpk-") as folder, start_worker(Path(folder)) as worker:
        yield worker
