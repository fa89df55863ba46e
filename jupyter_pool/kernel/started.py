"""A note of what a worker runs that outlives the worker.

Messages of a process that dies are lost on their way through ZMQ's I/O thread, also the one which
says that a request has started. Whoever runs the request again because of that would run it twice.
So its id is put down in a page of memory that the owner reads from a file once the worker is gone:
no message, no system call.

    launcher makes NAME.run ── worker maps it, notes the id ── dies ── launcher reads it, removes it

Standard library only: the owner imports this too.
"""

from __future__ import annotations

import contextlib
import mmap
import os

__all__ = ["LENGTH", "Note", "beside", "make", "read"]

#: Bytes of a note; ids are much shorter.
LENGTH = 128


def beside(connection_file: str) -> str:
    """Where the note of the worker with this connection file is."""
    return os.path.splitext(connection_file)[0] + ".run"


def make(path: str) -> None:
    """Make an empty note. Its bytes are there: a full disk is found out here, not by SIGBUS."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, bytes(LENGTH))
    finally:
        os.close(descriptor)


def read(path: str) -> str:
    """The id that was noted last; empty if there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(LENGTH).rstrip(b"\0").decode("ascii", "replace")
    except OSError:
        return ""


class Note:
    """The worker's side."""

    def __init__(self, path: str) -> None:
        self._page: mmap.mmap | None = None
        # Started by somebody else than a pool there is none.
        with contextlib.suppress(OSError, ValueError), open(path, "r+b") as file:
            self._page = mmap.mmap(file.fileno(), LENGTH)

    def put(self, request_id: str) -> None:
        """From here on the request may have done something."""
        if self._page is not None:
            self._page[:] = request_id.encode("ascii", "replace")[:LENGTH].ljust(LENGTH, b"\0")
