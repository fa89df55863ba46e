"""A pool core with a hand on its events and its clock."""

from __future__ import annotations

import pytest

from support.scripted_pool import MakePool, ScriptedPool


@pytest.fixture
def make_pool() -> MakePool:
    """Make a core; options as of `CoreConfig`, one worker unless told otherwise."""
    return ScriptedPool
