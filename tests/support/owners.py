"""A process that owns a pool and is told how to end."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

DEADLINE = 60.0


class Owner:
    """A Python script in a process of its own, with which a test talks; a context manager.

    The script says things with ``say(anything)`` and is told to go on where it does ``listen()``.

    Attributes
    ----------
    process
        The running script.
    stderr
        What it wrote to standard error, once `wait` has returned.
    """

    def __init__(self, script: str, *arguments: str, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PRELUDE + script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        self.stderr = ""
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # Whoever inherited stderr may hold it open after the owner's end: read by a thread.
        self._readers = [
            threading.Thread(target=self._read_said, name="owner's words"),
            threading.Thread(target=self._read_stderr, name="owner's stderr"),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Owner:
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

    def _read_said(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._said.put(line)
        self._said.put(None)

    def _read_stderr(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            self.stderr = stream.read()

    def hear(self, within: float = DEADLINE) -> Any:
        """What the script says next."""
        try:
            line = self._said.get(timeout=within)
        except queue.Empty:
            raise AssertionError(f"the owner said nothing within {within:g} s") from None
        if line is None:
            self.wait()
            raise AssertionError(f"the owner ended ({self.process.returncode}):\n{self.stderr}")
        return json.loads(line)

    def tell(self, word: str = "go") -> None:
        """Let the script go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def wait(self, within: float = DEADLINE) -> int:
        """Its exit status, when it has ended."""
        status = self.process.wait(within)
        # A forked child of it may still listen; it ends with this, and lets go of its words.
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        for reader in self._readers:
            reader.join(within)
        return status


_PRELUDE = """
import json, os, signal, sys, threading, time
import jupyter_pool
from jupyter_pool import KernelPool, PoolNotAvailable
from jupyter_pool.engine.loop import Engine

def say(thing):
    sys.stdout.write(json.dumps(thing) + "\\n")
    sys.stdout.flush()

def listen():
    return sys.stdin.readline().strip()

def pids(pool):
    return [worker.pid for worker in pool.get_status().workers]

def guardian():
    return Engine._current.launcher._guardian.pid

def folder():
    return Engine._current.folder

"""
