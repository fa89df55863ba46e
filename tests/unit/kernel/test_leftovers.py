"""What counts as left running by a request."""

from __future__ import annotations

import _thread
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jupyter_pool.kernel.leftovers import Threads, _is_harmless_thread
from support.cells import DEADLINE
from support.conditions import eventually


def test_a_thread_that_gets_rid_of_its_job_while_it_is_waited_for_is_not_left_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", _thread.start_new_thread)  # it is replaced
    threads, go = Threads(), threading.Event()
    with ThreadPoolExecutor(1) as executor, monkeypatch.context() as patch:
        executor.submit(go.wait, DEADLINE)
        (thread,) = executor._threads

        def join(timeout: float) -> None:
            go.set()
            eventually(lambda: _is_harmless_thread(thread))

        patch.setattr(thread, "join", join)
        assert threads.check() is None
