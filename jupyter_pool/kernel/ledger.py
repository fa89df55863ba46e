"""What lets a worker have several calls at a time, and its owner take back those it has not begun.

    tickets   a FIFO. The owner puts in one byte for each call that it sends along; the worker takes one
              out before it begins such a call. What the owner takes out again will not be begun: who
              gets a byte is the system's affair, so both sides always agree, whatever the worker does.
    ledger    pages of memory that the owner reads from a file. The worker enters how a call ended
              before it begins the next, so that a result can neither die with the worker nor wait for
              a later call, though it is sent together with others.

The byte of a ticket is the number of the message, modulo 256: a worker that finds the ticket of a later
one knows that the call was taken back. An entry stays until the message after the next: the owner sends
that only when it has all answers to this one.

    ledger    (number of the message, entries) twice; an entry: length, CRC-32, bytes; the last: length 0

Standard library only: the owner imports this too.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import mmap
import os
import struct
import termios
from collections.abc import Iterator
from zlib import crc32

from jupyter_pool.kernel.started import LENGTH

__all__ = ["Ledger", "TicketBox", "Tickets", "beside", "make", "read"]

_HALF = 32 << 10
_ENTRY = struct.Struct("=II")
_NUMBER = struct.Struct("=I")


def beside(note: str) -> str:
    """Where the tickets of the worker with this note are."""
    return os.path.splitext(note)[0] + ".tickets"


def make(note: str) -> None:
    """Make an empty ledger behind a note, and the FIFO. Where there can be none, calls go alone."""
    with contextlib.suppress(OSError, AttributeError):  # no room, or no FIFOs on this file system
        if _make_room(note):
            os.mkfifo(beside(note), 0o600)


def _make_room(note: str) -> bool:
    """Make the file longer, unless the disk is full. Not by a hole: to write there could kill."""
    with open(note, "r+b", buffering=0) as file:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), LENGTH, 2 * _HALF)
                return True
            file.seek(LENGTH)
            if file.write(bytes(2 * _HALF)) == 2 * _HALF:
                return True
        except OSError:
            pass
        file.truncate(LENGTH)
        return False


def read(note: str) -> list[bytes]:
    """The entries that are there, in no order; some may be of long ago."""
    try:
        with open(note, "rb", buffering=0) as file:
            file.seek(LENGTH)
            pages = file.read(2 * _HALF)
    except OSError:
        return []
    return [*_entries(pages[:_HALF]), *_entries(pages[_HALF:])]


def _entries(page: bytes) -> Iterator[bytes]:
    position = _NUMBER.size
    while position + _ENTRY.size <= len(page):
        length, check = _ENTRY.unpack_from(page, position)
        position += _ENTRY.size
        entry = page[position : position + length]
        # The process may have died while it wrote, or still be writing.
        if not length or len(entry) < length or crc32(entry) != check:
            return
        yield entry
        position += length


class Ledger:
    """The worker's side."""

    def __init__(self, note: str) -> None:
        self._page: mmap.mmap | None = None
        self._number = -1
        self._position = self._end = 0
        size = LENGTH + 2 * _HALF
        with contextlib.suppress(OSError, ValueError), open(note, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), size)

    @property
    def usable(self) -> bool:
        """Whether there is one."""
        return self._page is not None

    def enter(self, number: int, entry: bytes) -> bool:
        """Enter how a call of this message ended; False if there is no room for it."""
        page = self._page
        if page is None:
            return False
        if number != self._number:
            self._number = number
            start = LENGTH + _HALF * (number % 2)
            self._position, self._end = start + _NUMBER.size, start + _HALF
            _ENTRY.pack_into(page, self._position, 0, 0)
        start, length = self._position, len(entry)
        end = start + _ENTRY.size + length
        if end + _ENTRY.size > self._end:
            return False
        page[start + _ENTRY.size : end] = entry
        _ENTRY.pack_into(page, end, 0, 0)
        # Last, for it makes the entry one.
        _ENTRY.pack_into(page, start, length, crc32(entry))
        self._position = end
        return True


class Tickets:
    """The worker's side."""

    def __init__(self, path: str) -> None:
        self._fd = _open(path)
        self._ahead: int | None = (
            None  # taken, and of a message that comes after what was asked for
        )

    @property
    def usable(self) -> bool:
        """Whether there are any."""
        return self._fd >= 0

    def take(self, number: int) -> bool:
        """Whether a call of the message with this number may begin: else it was taken back.

        Raises
        ------
        OSError
            That cannot be told: a request has closed what is the kernel's.
        """
        if self._ahead is None:
            try:
                found = os.read(self._fd, 1)
            except BlockingIOError:
                return False
            self._ahead = found[0]
        if self._ahead != number % 256:
            return False
        self._ahead = None
        return True


class TicketBox:
    """The owner's side; opened when it is needed first."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def issue(self, number: int, count: int) -> None:
        """Let so many calls of the message with this number begin.

        Raises
        ------
        OSError
            There is no FIFO, or no descriptor left for it.
        """
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        os.write(self._fd, bytes([number % 256]) * count)

    def left(self) -> int:
        """How many calls have not begun."""
        if self._fd < 0:
            return 0
        waiting = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
        return waiting[0]

    def take_back(self) -> int:
        """Have nothing begin that has not begun. Returns how many calls those are: the last ones."""
        if self._fd < 0:
            return 0
        try:
            return len(os.read(self._fd, 1 << 16))
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Give back the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
