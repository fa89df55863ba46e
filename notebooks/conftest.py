"""What a notebook needs beyond the tests' own packages: skipped without it, with how to get it."""

from __future__ import annotations

import importlib.util
import os

import pytest

#: Module and extra by notebook.
_NEEDS = {"programs_dspy.ipynb": ("dspy", "dspy")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the cells of a notebook whose module is missing; under CI they fail by that instead."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        return
    for item in items:
        module, extra = _NEEDS.get(item.path.name, (None, ""))
        if module is not None and importlib.util.find_spec(module) is None:
            reason = (
                f"the module {module} is not installed; `pip install -e '.[{extra}]'` brings it"
            )
            item.add_marker(pytest.mark.skip(reason=reason))
