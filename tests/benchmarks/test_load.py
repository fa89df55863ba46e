"""What `%load_ext jupyter_pool` takes: in a fresh kernel, as a notebook's first cell, and in a terminal."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

import pytest
from integration.notebook.front_end import Notebook

ROUNDS = 7
#: In seconds.
AT_MOST = 0.150

LOAD = """\
import time
start = time.perf_counter()
{shell}.run_line_magic("load_ext", "jupyter_pool")
print(time.perf_counter() - start)"""

TERMINAL = """\
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
shell = InteractiveShell.instance(config=config)
"""


def in_a_kernel() -> float:
    notebook = Notebook()
    try:
        return float(notebook.ok(LOAD.format(shell="get_ipython()")).stream("stdout"))
    finally:
        notebook.close()


def in_a_terminal() -> float:
    code = TERMINAL + LOAD.format(shell="shell")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return float(done.stdout)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("load", [in_a_kernel, in_a_terminal])
def test_loading_the_extension(load: Callable[[], float]) -> None:
    load()  # what is compiled once
    took = statistics.median(load() for _ in range(ROUNDS))
    print(f"\n%load_ext {load.__name__}: {took * 1e3:.0f} ms (at most {AT_MOST * 1e3:.0f})")
    assert took <= AT_MOST
