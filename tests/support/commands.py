"""`jupyter pool …` in a process of its own, as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.processes import Spoken, marked

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


class Running(Spoken):
    """A command that is still running; its stdout is read line by line with `line`."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        # It would inherit that this is ignored, as under nohup, and leave it so.
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        try:
            super().__init__(
                [sys.executable, "-m", "jupyter_pool.cli", *arguments],
                name="command",
                stdin=subprocess.DEVNULL,
                cwd=cwd,
            )
        finally:
            signal.signal(signal.SIGHUP, before)

    def line(self, within: float = DEADLINE) -> str:
        return super().line(within)

    def send(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def end(self) -> tuple[int, str]:
        """Its exit code and all of its stderr."""
        return self.wait(DEADLINE), self.stderr

    def started(self) -> set[int]:
        """The processes that run on its behalf, itself included (Linux)."""
        return marked(self.mark)
