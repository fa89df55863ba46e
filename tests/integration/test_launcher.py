"""The launcher by itself: where its tasks meet."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool.provisioning.launcher import Exited, Launched, Launcher, LaunchSpec, Worker
from support.cells import DEADLINE
from support.conditions import eventually, gone


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    launcher = Launcher(str(folder))
    yield launcher
    launcher.close()


# A preload that breaks after a fork, so that the start is a plain one.
@pytest.mark.parametrize("preload", [(), ("threaded",)], ids=["forked", "plain"])
def test_a_worker_that_is_stopped_as_its_launch_ends_is_stopped(
    launcher: Launcher, preload: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    started: Future[Worker] = Future()
    news: queue.SimpleQueue[Launched | Exited] = queue.SimpleQueue()

    def post(said: Launched | Exited) -> None:
        if isinstance(said, Launched):
            # From within its last step: the launch is complete before anybody could know.
            launcher.stop(started.result(DEADLINE), kill=True)
        news.put(said)

    spec = LaunchSpec(None, str(tmp_path), dict(os.environ), preload)
    started.set_result(launcher.start("w1", spec, post))
    launched = news.get(timeout=DEADLINE)
    assert isinstance(launched, Launched)
    assert launched.pid is not None
    assert isinstance(news.get(timeout=DEADLINE), Exited)
    eventually(gone([launched.pid]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: needs /proc")
async def test_a_tap_that_comes_when_its_worker_is_being_buried_is_closed() -> None:
    read_end, write_end = os.pipe()
    taps: list[int] = []
    real_open = os.open

    def slow_open(*arguments: Any) -> int:
        taps.append(real_open(*arguments))
        worker.read_tap()  # the other thread is faster
        return taps[-1]

    worker = Worker("w1", LaunchSpec(None, "", {}), lambda said: None, pid=os.getpid())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", slow_open)
        worker.tap(read_end)
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(*taps)
