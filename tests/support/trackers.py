"""The helper processes that multiprocessing, loky and joblib keep until the process ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

_MODULES = (
    "joblib.externals.loky.backend.resource_tracker",
    "loky.backend.resource_tracker",
    "multiprocessing.resource_tracker",
)


@pytest.fixture
def trackers_ended() -> Iterator[None]:
    """End them after the test, else they would count as left behind."""
    yield
    for name in _MODULES:
        if name in sys.modules:
            sys.modules[name]._resource_tracker._stop()
