"""The note of what a worker runs: it is there when the worker is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_pool.kernel import started


def test_it_lies_beside_the_connection_file() -> None:
    assert started.beside("/run/pool-1/w1-1.json") == "/run/pool-1/w1-1.run"


def test_the_last_id_is_read_even_from_a_process_that_was_killed(tmp_path: Path) -> None:
    path = str(tmp_path / "w1.run")
    started.make(path)
    assert started.read(path) == ""
    code = (
        "import os, sys; from jupyter_pool.kernel import started; note = started.Note(sys.argv[1]);"
        "note.put('a long one that another follows.1'); note.put('t-12.1'); os.kill(os.getpid(), 9)"
    )
    process = subprocess.run([sys.executable, "-c", code, path], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert started.read(path) == "t-12.1"


def test_a_worker_without_one_does_without(tmp_path: Path) -> None:
    path = str(tmp_path / "none.run")
    started.Note(path).put("t-1.1")
    assert started.read(path) == ""
    assert not os.path.exists(path)


def test_a_file_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        started.make(str(tmp_path / "gone" / "w1.run"))
