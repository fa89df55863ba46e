"""Several calls to one worker in one message, and their answers; see `kernel.ledger`.

    run, ride ──▶ calls_request ══▶ worker ══▶ calls_reply ──▶ landed, in order
                  tickets ──▶ FIFO ──▶ begun
                                └─ what it has not begun ──▶ taken back

Those that a worker has not begun are taken back when it begins none for `PATIENCE` seconds, and
before anything is interrupted. What it has answered without its message being here is read off its
ledger then.
"""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from jupyter_pool.kernel import ledger
from jupyter_pool.kernel.started import beside

from . import wire
from .wire import Buffer, Message

if TYPE_CHECKING:
    from .request import Request

__all__ = ["PATIENCE", "RiddenCall", "Rides", "pack_calls", "read_answers"]

#: How long a call may hold up others that were sent along, in seconds.
PATIENCE = 0.005

#: Message id, envelope, request, how many of the frames are the function, frames.
RiddenCall: TypeAlias = "tuple[str, dict[str, Any], Request, int, list[Buffer]]"


class Rides:
    """The tickets and the ledger of one worker. Lives on the I/O thread."""

    def __init__(self, sockets: str) -> None:
        # The files of a worker are named after its sockets.
        self._note = beside(f"{sockets}.json")
        self._box = ledger.TicketBox(ledger.beside(self._note))
        self._number = 0

    def issue(self, count: int) -> int:
        """Let so many begin, once they are there. Returns the number of their message.

        Raises
        ------
        OSError
            No tickets can be had.
        """
        self._number += 1
        if count:
            self._box.issue(self._number, count)
        return self._number

    def left(self) -> int:
        """How many have not begun."""
        return self._box.left()

    def take_back(self) -> int:
        """Have nothing begin that has not begun: how many that is, the last of those with a ticket."""
        return self._box.take_back()

    def answers(self, wanted: Container[str]) -> list[tuple[Message, float]]:
        """What the worker has entered, of these messages."""
        return read_entries(ledger.read(self._note), wanted)

    def close(self) -> None:
        """The worker is gone."""
        self._box.close()


def pack_calls(
    number: int,
    first: bool,
    calls: Sequence[RiddenCall],
) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Content, metadata and buffer of several calls.

    Parameters
    ----------
    first
        The first one needs no ticket.
    calls
        Those that say the same had better have the same envelope.
    """
    requests: list[dict[str, Any]] = []
    listed, frames = [], []
    for message_id, envelope, request, split, buffers in calls:
        if not requests or (envelope is not requests[-1] and envelope != requests[-1]):
            requests.append(envelope)
        sizes = [len(buffer) for buffer in buffers]
        listed.append([message_id, len(requests) - 1, split, request.function, sizes])
        frames += buffers
    content = {"v": 1, "number": number, "first": int(first), "calls": listed}
    return content, {"jupyter_pool": {"v": 1, "requests": requests}}, b"".join(frames)


def read_answers(message: Message) -> list[tuple[Message, float]]:
    """The answers that came together, and how many seconds each call took."""
    answers = []
    (buffer,) = message.buffers
    position = 0
    for said in message.content["calls"]:
        answer, position = _read_answer(said, buffer, position)
        answers.append(answer)
    return answers


def read_entries(entries: Sequence[bytes], wanted: Container[str]) -> list[tuple[Message, float]]:
    """The same of a ledger's entries, as far as they are answers to these messages."""
    answers = []
    for entry in entries:
        said, _, frames = entry.partition(b"\n")
        # They begin with the id, which needs no escapes; most are of what has come as a message.
        if said[2 : said.index(b'"', 2)].decode() in wanted:
            answers.append(_read_answer(json.loads(said), frames, 0)[0])
    return answers


def _read_answer(
    said: list[Any], buffer: Buffer, position: int
) -> tuple[tuple[Message, float], int]:
    message_id, micros, sizes, *more = said
    frames: list[Buffer] = []
    for size in sizes:
        frame = buffer[position : position + size]
        frames.append(bytes(frame) if size < 4096 else bytearray(frame))
        position += size
    if not more:
        message = Message("call_reply", message_id, wire.WELL, wire.PLAIN, frames, True)
        return (message, micros / 1e6), position
    report, content = more
    metadata = wire.PLAIN if report is None else {"jupyter_pool": report}
    return (Message("call_reply", message_id, content, metadata, frames), micros / 1e6), position
