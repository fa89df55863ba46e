"""The owner's side of the fork server: templates, and the workers that they fork.

A template is a process that has a worker ready and forks one for each request (see
`kernel.template`). There is one for each distinct preload and environment; the
pools of a process share it. A request can be sent before the template is ready: it
waits in the socket. A template that is lost, or refuses, closes every pipe that it
was given; then the worker is started plainly. One that is stale, or was killed, is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_pool import kernel
from jupyter_pool._cpus import THREAD_VARIABLES
from jupyter_pool.kernel.template import REFUSES

from . import processes
from .forked import ForkedProcess, UnknownExitCode

__all__ = ["ForkFailed", "ForkedProcess", "Templates", "UnknownExitCode", "is_supported"]

_MOST_REFUSED = 64

_log = logging.getLogger("jupyter_pool")

#: How the log says it.
PLAINLY = "workers are started without a fork server: %s"

#: What Jupyter applications set anew for each kernel, and pytest for each test: no part of a
#: template's environment.
VOLATILE = frozenset(
    {"JPY_PARENT_PID", "JPY_SESSION_NAME", "JPY_INTERRUPT_EVENT", "PYTEST_CURRENT_TEST"}
)


#: How many templates an owner keeps; of more, the one that was not used for longest goes.
MOST = 8
#: How long the imports of a template may take, in seconds.
IMPORT_TIMEOUT = 60.0
#: How long a template that is ready may take to fork, in seconds.
ANSWER_TIMEOUT = 10.0
#: How long workers are started plainly after the imports of a template have failed, in seconds.
FAILURE_PAUSE = 60.0


def is_supported() -> str | None:
    """Why there are no fork servers here; None: there are."""
    if not sys.platform.startswith("linux"):
        return f"not on {sys.platform}"
    if not hasattr(os, "pidfd_open") or not Path("/proc/self/task").exists():
        return "this Linux has no pidfd or no /proc"
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "not with a free-threaded Python"
    return None


class ForkFailed(Exception):
    """There is no worker from this template; the text says why."""


class _Lost(Exception):
    """No more workers come from one template, but they may from another."""


@dataclass(frozen=True)
class Key:
    """What makes templates different."""

    preload: tuple[str, ...]
    env: frozenset[tuple[str, str]]
    #: Where the imports look first, as those of a cell do; where nothing is preloaded it does not matter.
    folder: str = "/"


class Template:
    """One template process, from its start to the end of its use."""

    def __init__(self, key: Key, name: str) -> None:
        self.key = key
        #: Whether it has forked, and so has all its imports.
        self.ready = False
        self._born = time.monotonic()
        env = dict(key.env)
        # Lest the imports start threads; a worker's own values come after the fork.
        env.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        with contextlib.ExitStack() as stack:
            self._stderr = stack.enter_context(tempfile.TemporaryFile())
            self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(self._socket)
            self._socket.setblocking(False)
            with theirs:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        str(Path(kernel.__file__).with_name("template.py")),
                        str(theirs.fileno()),
                        name,
                        *key.preload,
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._stderr,
                    env=env,
                    cwd=key.folder,
                    start_new_session=True,
                )
            stack.pop_all()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None as long as it runs."""
        return self._process.poll()

    @property
    def patience(self) -> float:
        """For how many seconds from now it may keep us waiting."""
        if self.ready:
            return ANSWER_TIMEOUT
        return max(0.0, self._born + IMPORT_TIMEOUT - time.monotonic())

    async def send(self, job: Mapping[str, Any], fds: Sequence[int]) -> None:
        """Ask for a worker. Raises OSError if nobody is there."""
        data = [json.dumps(job).encode()]
        while True:
            try:
                socket.send_fds(self._socket, data, list(fds))
                return
            except OSError as error:
                # Too much, or too many descriptors, are under way: it imports, and many ask.
                if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS):
                    raise
            await asyncio.sleep(0.005)

    async def has_ended(self) -> bool:
        """Whether it is about to end: it closes its sockets a moment before."""
        deadline = time.monotonic() + 1.0
        while self.exit_code is None and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return self.exit_code is not None

    def last_words(self) -> str:
        """What it said last, when it has ended."""
        self._stderr.seek(0)
        said = self._stderr.read().decode("utf-8", "replace").strip().splitlines()
        return said[-1] if said else f"the template ended with exit code {self.exit_code}"

    def dismiss(self) -> None:
        """Want no more workers of it. It ends when it has told the exit codes of all that it has."""
        # A forked child of ours may have the same socket.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if not self.ready:
            self._process.kill()

    def kill(self) -> None:
        """End it now. Its workers go on, but their exit codes are lost."""
        self._process.kill()

    def bury(self, timeout: float = 0.0) -> bool:
        """Whether it has ended, at the latest now if there is a timeout; then nothing is left of it."""
        if timeout:
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.poll() is None:
            return False
        self._socket.close()
        self._stderr.close()
        return True


class Templates:
    """The templates of one owner. Thread-safe.

    Parameters
    ----------
    watch, unwatch
        Called with the process id of each template when it begins and ends.
    """

    def __init__(
        self,
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._lock = threading.Lock()
        #: In the order of their last use.
        self._templates: dict[Key, Template] = {}
        #: Dismissed, but still there for the workers that they have.
        self._dismissed: list[Template] = []
        #: Why no template of this key is tried again, and until when.
        self._refused: dict[Key, tuple[str, float]] = {}
        self._said: set[str] = set()
        self._closed = False
        self._watch = watch
        self._unwatch = unwatch
        # Found by the guardian should we end before a worker is known by its process id.
        self.name = f"jpool-{os.getpid()}"

    def _get(self, key: Key) -> Template:
        with self._lock:
            if self._closed:
                raise ForkFailed("closed")
            reason, until = self._refused.get(key, ("", 0.0))
            if time.monotonic() < until:
                raise ForkFailed(reason)
            self._sweep()
            template = self._templates.pop(key, None)
            if template is not None and template.exit_code is not None and template.ready:
                self._dismiss(template)
                template = None
            if template is None:
                try:
                    template = Template(key, self.name)
                except OSError as error:
                    raise ForkFailed(f"no template could be started: {error}") from None
                self._watch(template.pid)
            self._templates[key] = template
            return template

    def _keep_few(self, used: Template) -> None:
        """Let go of those that were not used for longest; none that still imports, and is waited for."""
        with self._lock:
            idle = [one for one in self._templates.values() if one.ready and one is not used]
            for template in idle[: max(0, len(self._templates) - MOST)]:
                self._dismiss(self._templates.pop(template.key))

    def _dismiss(self, template: Template) -> None:
        template.dismiss()
        self._dismissed.append(template)
        self._sweep()

    def _sweep(self) -> None:
        for template in list(self._dismissed):
            if template.bury():
                self._dismissed.remove(template)
                self._unwatch(template.pid)

    async def fork(
        self,
        command: Sequence[str],
        connection_file: str,
        *,
        cwd: str,
        env: Mapping[str, str],
        preload: Sequence[str] = (),
        stdio: Sequence[int],
    ) -> ForkedProcess:
        """Return a new worker.

        Raises
        ------
        ForkFailed
            It must be started plainly.
        """
        fixed = frozenset((name, value) for name, value in env.items() if name not in VOLATILE)
        key = Key(tuple(preload), fixed, cwd if preload else "/")
        own: dict[str, str | None] = {
            name: env.get(name) for name in (*VOLATILE, *THREAD_VARIABLES)
        }
        job = {"connection_file": connection_file, "cwd": cwd, "env": own}
        try:
            try:
                return await self._ask(self._get(key), job, stdio, command)
            except _Lost:
                return await self._ask(self._get(key), job, stdio, command)
        except _Lost as reason:
            raise ForkFailed(str(reason)) from None

    async def _ask(
        self,
        template: Template,
        job: Mapping[str, Any],
        stdio: Sequence[int],
        command: Sequence[str],
    ) -> ForkedProcess:
        note, theirs = socket.socketpair()
        note.setblocking(False)

        async def ask() -> str | None:
            with theirs:
                try:
                    await template.send(job, [*stdio, theirs.fileno()])
                except OSError:
                    return None
            return await _read_line(note)

        try:
            with theirs:
                line = await asyncio.wait_for(ask(), template.patience)
            kind, _, rest = (line or "").partition(" ")
            if kind != "pid":
                await self._give_up(template, kind, rest.strip())
        except asyncio.TimeoutError:
            _abandon(note)
            template.kill()
            await self._give_up(template, "", "")
            raise AssertionError("unreachable") from None
        except BaseException:
            _abandon(note)
            raise
        template.ready = True
        self._keep_few(template)
        return ForkedProcess(int(rest), note.detach(), command)

    async def _give_up(self, template: Template, kind: str, reason: str) -> None:
        """Raise what comes of an answer without a worker."""
        if kind == "not" and reason.startswith("stale"):
            self._forget(template)
            raise _Lost(reason)
        if kind:
            raise ForkFailed(reason if kind == "not" else f"the worker ended at once ({reason})")
        if not await template.has_ended():
            raise ForkFailed("the template does not answer")
        late = not template.patience
        with self._lock:
            known = self._templates.get(template.key) is template
            if known and not template.ready:
                code = template.exit_code
                said = template.last_words()
                if late:
                    said = f"the imports took more than {IMPORT_TIMEOUT:g} s"
                self._refuse(template.key, said, for_good=code == REFUSES)
        refused = self._refused.get(template.key)
        self._forget(template)
        if refused is not None and not template.ready:
            raise ForkFailed(refused[0])
        raise _Lost("the template was lost")

    def _refuse(self, key: Key, reason: str, *, for_good: bool) -> None:
        until = math.inf if for_good else time.monotonic() + FAILURE_PAUSE
        while len(self._refused) >= _MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[key] = (reason, until)
        if reason not in self._said:
            self._said.add(reason)
            _log.warning(PLAINLY, reason)

    def _forget(self, template: Template) -> None:
        with self._lock:
            if self._templates.get(template.key) is template:
                del self._templates[template.key]
                self._dismiss(template)

    def close(self) -> None:
        """End all templates. The workers that there are go on."""
        with self._lock:
            self._closed = True
            templates = [*self._templates.values(), *self._dismissed]
            for template in self._templates.values():
                template.dismiss()
            self._templates.clear()
            self._dismissed.clear()
            for template in templates:
                template.bury(1.0)
                self._unwatch(template.pid)


def _abandon(note: socket.socket) -> None:
    """Want no worker after all: one that comes from now on ends itself, one that came is killed."""
    with note:
        with contextlib.suppress(OSError):
            note.shutdown(socket.SHUT_RD)  # it notices when it tells its process id
        with contextlib.suppress(OSError):
            words = note.recv(64).split()
            if len(words) == 2 and words[0] == b"pid":  # and not that it has ended since
                processes.send(int(words[1]), signal.SIGKILL)


async def _read_line(note: socket.socket) -> str | None:
    """The first line that comes through a socket; None if it is closed before."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(note, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(note)
    # In one go, as it was written: who is cancelled before has taken nothing of it.
    text = b""
    while not text.endswith(b"\n"):
        chunk = note.recv(1)  # what follows is for others
        if not chunk:
            return None
        text += chunk
    return text.decode()
