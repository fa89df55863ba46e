"""Checks of `jupyter pool doctor` end, whatever they look at."""

from __future__ import annotations

import threading

from jupyter_pool.cli.doctor import bounded
from jupyter_pool.cli.findings import Finding, ok


def test_a_check_that_hangs_is_broken_when_its_time_is_over() -> None:
    let_go = threading.Event()

    def hang() -> Finding:
        let_go.wait()
        return ok("x", "too late")

    (found,) = bounded("sockets", hang, 0.05)
    let_go.set()
    assert (found.name, found.state, found.hangs) == ("sockets", "bad", True)
    assert found.text == "no answer within 0.05 s"


def test_a_check_that_fails_is_broken_and_says_why() -> None:
    def fail() -> Finding:
        raise OSError("no such thing")

    (found,) = bounded("sockets", fail, 60)
    assert (found.state, found.text) == ("bad", "OSError: no such thing")


def test_a_check_may_have_nothing_to_tell() -> None:
    assert list(bounded("sockets", lambda: None, 60)) == []
