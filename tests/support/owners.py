"""A process that owns a pool and is told how to end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from types import TracebackType
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

from support.own_kernel import PrivateSockets
from support.processes import Spoken, new_mark

DEADLINE = 60.0


class Owner(Spoken):
    """A Python script in a process of its own, with which a test talks.

    The script says things with ``say(anything)`` and is told to go on where it does ``listen()``.
    """

    def __init__(self, script: str, *arguments: str, cwd: Path | None = None) -> None:
        command = [sys.executable, "-X", "faulthandler", "-c", _PRELUDE + script, *arguments]
        super().__init__(command, name="owner", stdin=subprocess.PIPE, cwd=cwd)

    def hear(self, within: float = DEADLINE) -> Any:
        """What the script says next."""
        return json.loads(self.line(within))

    def tell(self, word: str = "go") -> None:
        """Let the script go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def wait(self, within: float = DEADLINE) -> int:
        """Its exit status, when it has ended."""
        self.process.wait(within)
        # A forked child of it may still listen; it ends with this, and lets go of its words.
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        return super().wait(within)


class KernelOwner:
    """A Jupyter kernel, started as a front end does, in which a script owns a pool."""

    def __init__(self) -> None:
        self.mark = new_mark()
        # A loop of our own: the one that jupyter_client makes for blocking calls is never closed.
        self._loop = asyncio.new_event_loop()
        self._sockets = PrivateSockets()
        self.manager = AsyncKernelManager(kernel_name="python3", **self._sockets.options)
        self.wait_for(self.manager.start_kernel(env=dict([*os.environ.items(), self.mark])))
        self.client = self.manager.client()
        self.client.start_channels(hb=False)
        self.wait_for(self.client.wait_for_ready(timeout=DEADLINE))

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        """Have something done by the manager or the client."""
        return self._loop.run_until_complete(asyncio.wait_for(awaitable, DEADLINE))

    def __enter__(self) -> KernelOwner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.wait_for(self.manager.shutdown_kernel(now=True))
        self.manager.context.destroy(linger=0)
        self._sockets.close()
        self._loop.close()

    @property
    def pid(self) -> int:
        assert isinstance(self.manager.provisioner, LocalProvisioner)
        assert self.manager.provisioner.pid is not None
        return self.manager.provisioner.pid

    def run(self, code: str) -> Any:
        """What the code says, in a cell."""
        said: list[str] = []

        def listen(message: dict[str, Any]) -> None:
            # Not what is on stderr: since Python 3.12 it warns there of a fork beside threads.
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                said.append(message["content"]["text"])

        reply = self.wait_for(
            self.client.execute_interactive(_PRELUDE + code, timeout=DEADLINE, output_hook=listen)
        )
        assert reply["content"]["status"] == "ok", (reply["content"], said)
        return json.loads("".join(said))


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
