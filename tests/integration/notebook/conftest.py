"""Notebooks with the extension loaded: with a kernel of their own, or in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.notebook.front_end import Notebook
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


def _loaded(*, tcp: bool = False) -> Iterator[Notebook]:
    notebook = Notebook(tcp=tcp)
    try:
        notebook.ok("%load_ext jupyter_pool")
        yield notebook
    finally:
        notebook.close()


@pytest.fixture(scope="module")
def notebook(request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """A notebook that the tests of a module share; its default pool has two workers.

    On a busy machine a worker may need longer to prove idle after a Ctrl-C than pools give it.
    """
    for notebook in _loaded(tcp=getattr(request.module, "TCP", False)):
        notebook.ok("%pool_start --size 2 --interrupt-grace 20;")
        yield notebook


@pytest.fixture
def fresh_notebook() -> Iterator[Notebook]:
    """A notebook of the test's own, with nothing started."""
    yield from _loaded()


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """An IPython without front end, in this process, with the extension loaded."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "jupyter_pool")
    yield shell
    shell.run_line_magic("unload_ext", "jupyter_pool")
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()
