"""A process that somebody else has forked for us, to be used like one of `subprocess`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO

from . import processes

__all__ = ["ForkedProcess", "UnknownExitCode"]

#: How long a dead worker's exit code may be on its way from a template that lives, in seconds.
NOTE_TIMEOUT = 5.0


class UnknownExitCode(int):
    """The exit code of a worker whose template was gone by then: nobody could ask the system."""

    def __repr__(self) -> str:
        return "unknown exit code"


class ForkedProcess:
    """A worker that a template has forked, with the methods of `subprocess.Popen`.

    Its exit code comes through `note`, a socket, from the template, which is its parent. Without the template
    its end is noticed all the same, and the code is an `UnknownExitCode`.
    """

    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None
    stderr: IO[bytes] | None = None

    def __init__(self, pid: int, note: int, args: Sequence[str]) -> None:
        self.pid = pid
        self.args = list(args)
        self.returncode: int | None = None
        self._note = note
        self._started = processes.start_time(pid)
        self._text = b""
        self._ended: float | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pid}: returncode {self.returncode!r}>"

    def __del__(self) -> None:
        if self._note >= 0:
            os.close(self._note)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        with self._lock:
            if self.returncode is None:
                self.returncode = self._look()
                if self.returncode is not None:
                    os.close(self._note)
                    self._note = -1
            return self.returncode

    def _look(self) -> int | None:
        template_lives = True
        while template_lives and b"\n" not in self._text:
            try:
                chunk = os.read(self._note, 64)
            except BlockingIOError:
                break
            self._text += chunk
            template_lives = bool(chunk)
        if b"\n" in self._text:
            return int(self._text.split()[1])
        if self._is_running():
            return None
        if not template_lives:
            return UnknownExitCode(255)
        # Its template has still to bury it; one that is stuck must not hold up others for ever.
        self._ended = self._ended or time.monotonic()
        if time.monotonic() - self._ended > NOTE_TIMEOUT:
            return UnknownExitCode(255)
        return None

    def _is_running(self) -> bool:
        # Without a start time it was gone before we could ask; another may have its number.
        return bool(self._started) and processes.is_running(self.pid, self._started)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = 0.1 if deadline is None else min(0.1, deadline - time.monotonic())
            if left <= 0:
                assert timeout is not None
                raise subprocess.TimeoutExpired(self.args, timeout)
            if self._ended is None:
                poller = select.poll()
                poller.register(self._note, select.POLLIN)
                poller.poll(left * 1000)
                if self._text or not self._is_running():
                    continue
            time.sleep(min(left, 0.005))
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)
