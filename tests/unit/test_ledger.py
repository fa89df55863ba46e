"""Tickets and ledger: who may begin a call, and what is known of it when the worker is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool.kernel import ledger, started

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="platform: FIFOs")


@pytest.fixture
def note(tmp_path: Path) -> str:
    path = str(tmp_path / "w1.run")
    started.make(path)
    ledger.make(path)
    return path


@pytest.fixture
def box(note: str) -> Iterator[ledger.TicketBox]:
    box = ledger.TicketBox(ledger.beside(note))
    yield box
    box.close()


@pytest.fixture
def tickets(note: str) -> Iterator[ledger.Tickets]:
    tickets = ledger.Tickets(ledger.beside(note))
    yield tickets
    os.close(tickets._fd)


def test_a_ticket_lets_one_call_begin(box: ledger.TicketBox, tickets: ledger.Tickets) -> None:
    box.issue(1, 2)
    assert [tickets.take(1) for _ in range(3)] == [True, True, False]
    assert box.take_back() == 0


def test_the_owner_sees_how_many_have_not_begun(
    box: ledger.TicketBox, tickets: ledger.Tickets
) -> None:
    assert box.left() == 0
    box.issue(1, 3)
    assert box.left() == 3
    assert tickets.take(1)
    assert box.left() == 2
    box.take_back()
    assert box.left() == 0


def test_what_is_taken_back_does_not_begin(box: ledger.TicketBox, tickets: ledger.Tickets) -> None:
    box.issue(1, 5)
    assert tickets.take(1)
    assert box.take_back() == 4
    assert not tickets.take(1)


def test_tickets_of_a_later_message_are_not_for_what_was_taken_back(
    box: ledger.TicketBox, tickets: ledger.Tickets
) -> None:
    box.issue(255, 3)
    assert box.take_back() == 3
    box.issue(256, 1)
    assert [tickets.take(255) for _ in range(3)] == [False, False, False]
    assert tickets.take(256)
    assert not tickets.take(256)


def test_a_worker_without_tickets_says_so(tmp_path: Path) -> None:
    assert not ledger.Tickets(str(tmp_path / "none.tickets")).usable
    assert not ledger.Ledger(str(tmp_path / "none.run")).usable
    assert not ledger.Ledger(str(tmp_path / "none.run")).enter(1, b"lost")
    assert ledger.read(str(tmp_path / "none.run")) == []


def test_an_owner_without_tickets_says_so(tmp_path: Path) -> None:
    box = ledger.TicketBox(str(tmp_path / "none.tickets"))
    assert box.take_back() == 0
    with pytest.raises(OSError, match="No such file"):
        box.issue(1, 1)


def test_entries_are_read_even_of_a_process_that_was_killed(note: str) -> None:
    code = (
        "import os, sys; from jupyter_pool.kernel.ledger import Ledger; it = Ledger(sys.argv[1]);"
        "it.enter(1, b'one'); it.enter(1, b'two'); it.enter(2, b'three'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, note], check=False, timeout=60)
    assert sorted(ledger.read(note)) == [b"one", b"three", b"two"]


def test_entries_give_way_to_those_of_the_message_after_the_next(note: str) -> None:
    book = ledger.Ledger(note)
    for number in (1, 2, 3):
        for which in b"ab":
            assert book.enter(number, bytes([which, number]))
    assert sorted(ledger.read(note)) == [b"a\2", b"a\3", b"b\2", b"b\3"]


def test_what_does_not_fit_is_not_entered(note: str) -> None:
    book = ledger.Ledger(note)
    assert book.enter(1, b"small")
    assert not book.enter(1, bytes(40_000))
    assert book.enter(1, b"small too")
    assert ledger.read(note) == [b"small", b"small too"]


def test_an_entry_that_was_being_written_is_none(note: str) -> None:
    book = ledger.Ledger(note)
    book.enter(1, b"whole")
    book.enter(1, b"torn")
    with open(note, "r+b") as file:
        content = file.read()
        file.seek(content.index(b"torn"))
        file.write(b"t")
        file.write(b"0rn")
    assert ledger.read(note) == [b"whole"]


def test_the_note_stays_what_it_is(note: str) -> None:
    page = started.Note(note)
    page.put("t-1.1")
    ledger.Ledger(note).enter(1, b"entry")
    assert started.read(note) == "t-1.1"
