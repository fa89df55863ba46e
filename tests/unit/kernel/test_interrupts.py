"""The watch over interrupts that reached no handler, with a loop whose time is the test's."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jupyter_pool.kernel.interrupts import InterruptGate


class Loop:
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.later.append(call)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[InterruptGate]:
    """One that believes to have SIGINT, whose signals come by `arrive`."""
    gate = InterruptGate()
    read, write = os.pipe()
    os.set_blocking(read, False)
    gate._wakeup = (read, write)
    monkeypatch.setattr(signal, "getsignal", lambda number: gate._on_sigint)
    yield gate
    os.close(read)
    os.close(write)


def arrive(gate: InterruptGate) -> None:
    """SIGINT, which no handler is called for yet."""
    os.write(gate._wakeup[1], bytes([signal.SIGINT]))


def watched(gate: InterruptGate) -> Any:
    """The loop that looks after the one that has arrived for a request."""
    loop: Any = Loop()
    gate.arm()
    arrive(gate)
    gate._on_wakeup(loop)
    return loop


def test_one_of_the_next_request_is_sent_again_whoever_reads_of_it(
    gate: InterruptGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(signal, "pthread_kill", lambda *to: sent.append(to))
    loop = watched(gate)
    gate.disarm()
    gate.arm()
    arrive(gate)
    loop.later.pop()()  # the look after the first one reads what tells of the second
    assert sent == []
    loop.later.pop()()
    assert sent == [(gate._main, signal.SIGINT)]


def test_one_that_is_handled_while_the_watch_reads_is_not_sent_again(
    gate: InterruptGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "pthread_kill", lambda *to: pytest.fail("sent again"))
    loop = watched(gate)
    read = gate._read_wakeups

    def read_slowly() -> bool:
        found = read()
        gate._on_sigint(signal.SIGINT, None)  # the main thread comes first
        return found

    with monkeypatch.context() as patch:
        patch.setattr(gate, "_read_wakeups", read_slowly)
        loop.later.pop()()
    loop.later.pop()()  # looks once more, and is done
    assert loop.later == []


def test_one_that_was_handled_meanwhile_is_not(
    gate: InterruptGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "pthread_kill", lambda *to: pytest.fail("sent again"))
    loop = watched(gate)
    gate._on_sigint(signal.SIGINT, None)
    loop.later.pop()()
    assert loop.later == []
