"""A fork server for tests that need no pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jupyter_pool.provisioning.guardian import Guardian
from jupyter_pool.provisioning.templates import Templates


@contextmanager
def own_templates() -> Iterator[Templates]:
    """Templates with a guardian of their own."""
    guardian = Guardian("")
    templates = Templates(guardian.add, guardian.remove)
    try:
        yield templates
    finally:
        templates.close()
        guardian.close()
