"""`jupyter pool …` in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from support.owners import marked, new_mark

DEADLINE = 100.0


def run(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "jupyter_pool.cli", *arguments],
        cwd=cwd,
        env=None if env is None else {**os.environ, **env},
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


class Running:
    """A command that is still running; a context manager.

    Attributes
    ----------
    process
        The command. Its stdout is read line by line with `line`.
    mark
        What the environment of everything that it starts holds.
    """

    def __init__(self, *arguments: str, cwd: Path) -> None:
        self.mark = new_mark()
        # It would inherit that this is ignored, as under nohup, and leave it so.
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_pool.cli", *arguments],
                cwd=cwd,
                env=dict([*os.environ.items(), self.mark]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        finally:
            signal.signal(signal.SIGHUP, before)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stderr = ""
        self._readers = [
            threading.Thread(target=self._read_stdout, name="command's stdout"),
            threading.Thread(target=self._read_stderr, name="command's stderr"),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()

    def _read_stdout(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line)
        self._lines.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self._stderr = stream.read()

    def line(self) -> str:
        """The next line of its stdout."""
        found = self._lines.get(timeout=DEADLINE)
        assert found is not None, f"it has ended: {self.end()}"
        return found

    def send(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def end(self) -> tuple[int, str]:
        """Its exit code and all of its stderr."""
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return code, self._stderr

    def started(self) -> set[int]:
        """The processes that run on its behalf, itself included (Linux)."""
        return marked(self.mark)
