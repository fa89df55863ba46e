"""The thread that runs users' callbacks: who closes it sees its end, also together with others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from jupyter_pool.engine.futures import CallbackThread
from support.conditions import eventually


def hold(go: threading.Event) -> None:
    go.wait(60)


@pytest.fixture
def go() -> Iterator[threading.Event]:
    go = threading.Event()
    yield go
    go.set()


@pytest.fixture
def callbacks(go: threading.Event) -> CallbackThread:
    """One that has something to do until it may go on."""
    callbacks = CallbackThread("callbacks")
    callbacks.run(partial(hold, go))
    return callbacks


def test_who_closes_it_while_another_one_does_is_not_told_that_it_has_ended(
    callbacks: CallbackThread, go: threading.Event
) -> None:
    first = threading.Thread(target=callbacks.close)
    first.start()
    eventually(lambda: callbacks._thread is None, "the first one waits")
    assert not callbacks.close(time.monotonic())
    go.set()
    first.join(15)
    assert not first.is_alive()


def test_who_has_waited_in_vain_does_not_wait_again(callbacks: CallbackThread) -> None:
    assert not callbacks.close(time.monotonic())
    assert callbacks.close()
