"""Several calls in one message, and their answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from jupyter_pool.engine.riding import pack_calls, read_answers, read_entries
from jupyter_pool.engine.wire import Message


def test_calls_of_the_same_surroundings_say_so_once() -> None:
    request: Any = SimpleNamespace(function=None)
    calls: list[Any] = [
        ("a", {"v": 1}, request, 1, [b"f", b"xy"]),
        ("b", {"v": 1}, request, 1, [b"f", b""]),
        ("c", {"v": 1, "cwd": "/"}, request, 1, [b"g", b"z"]),
    ]
    content, metadata, buffer = pack_calls(7, True, calls)
    assert metadata == {"jupyter_pool": {"v": 1, "requests": [{"v": 1}, {"v": 1, "cwd": "/"}]}}
    assert (content["number"], content["first"]) == (7, 1)
    assert content["calls"] == [
        ["a", 0, 1, None, [1, 2]],
        ["b", 0, 1, None, [1, 0]],
        ["c", 1, 1, None, [1, 1]],
    ]
    assert buffer == b"fxyfgz"


def test_answers_are_each_ones_own() -> None:
    failed = {"status": "error", "ename": "E", "evalue": "", "traceback": []}
    said = [["a", 1500, [2, 1]], ["b", 10, [], {"v": 1, "left_out": 3}, failed]]
    message = Message("calls_reply", "", {"v": 1, "calls": said}, {}, [b"xyz"])
    (first, took), (second, _) = read_answers(message)
    assert (first.parent_id, first.buffers, took) == ("a", [b"xy", b"z"], 0.0015)
    assert first.content["status"] == "ok"
    assert (second.parent_id, second.content) == ("b", failed)
    assert second.metadata == {"jupyter_pool": {"v": 1, "left_out": 3}}


def test_an_entry_reads_like_an_answer() -> None:
    ((answer, took),) = read_entries([b'["a",20,[3]]\n1\n2'], {"a"})
    assert (answer.parent_id, answer.buffers, took) == ("a", [b"1\n2"], 2e-05)


def test_entries_that_nobody_waits_for_are_passed_over() -> None:
    entries = [b'["%s",20,[1]]\n1' % name for name in (b"a.1r1", b"a.1r2", b"a.1r3")]
    ((answer, _),) = read_entries(entries, {"a.1r2", "a.1r"})
    assert answer.parent_id == "a.1r2"


def test_large_results_are_writable() -> None:
    message = Message(
        "calls_reply", "", {"v": 1, "calls": [["a", 1, [5000]]]}, {}, [bytearray(5000)]
    )
    ((answer, _),) = read_answers(message)
    assert isinstance(answer.buffers[0], bytearray)
