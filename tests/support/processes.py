"""A process that a test starts and listens to, and whatever runs on its behalf."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from jupyter_pool.provisioning.processes import is_running

_P = TypeVar("_P", bound="Spoken")


class Spoken:
    """A process whose words are heard while it runs; a context manager, which leaves none behind.

    Attributes
    ----------
    process
        The running process.
    stderr
        What it wrote to standard error, once `wait` has returned.
    mark
        What its environment holds, and that of all that it starts.
    """

    def __init__(
        self, command: Sequence[str], *, name: str, stdin: int, cwd: Path | None = None
    ) -> None:
        self.mark = new_mark()
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict([*os.environ.items(), self.mark]),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stderr = ""
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # Whoever inherited stderr may hold it open after the process's end: read by a thread.
        self._readers = [
            threading.Thread(target=self._read_stdout, name=f"{name}'s stdout"),
            threading.Thread(target=self._read_stderr, name=f"{name}'s stderr"),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self: _P) -> _P:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.stderr = stream.read()

    def line(self, within: float) -> str:
        """The next line of its stdout."""
        try:
            line = self._lines.get(timeout=within)
        except queue.Empty:
            self.process.send_signal(signal.SIGABRT)  # one with a faulthandler says where it was
            self.wait()
            raise AssertionError(f"it said nothing within {within:g} s:\n{self.stderr}") from None
        if line is None:
            status = self.wait()
            raise AssertionError(f"it has ended ({status}):\n{self.stderr}")
        return line

    def wait(self, within: float = 100.0) -> int:
        """Its exit status, when it has ended."""
        status = self.process.wait(within)
        for reader in self._readers:
            reader.join(within)
        return status


def new_mark() -> tuple[str, str]:
    """A variable for the environment of a process, and its value."""
    return "POOL_TEST_OWNER", uuid.uuid4().hex


def marked(mark: tuple[str, str]) -> set[int]:
    """The running processes that one with this mark, or what it started, has started (Linux)."""
    sign = "=".join(mark).encode()
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if sign in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return {pid for pid in found if is_running(pid)}
