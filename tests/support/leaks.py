"""The leak check: what a test started must be gone when it ends."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq

from support.isolation import Isolation

# How long a test may take to be rid of what it started, after its own teardown.
DEADLINE = 10.0

_LINUX = sys.platform.startswith("linux")

# Threads that libraries start once and keep for the life of the process: not ours, and harmless.
_KEPT_THREADS = ("tqdm_monitor", "pytest_timeout")

# What the interpreter and libraries open once and keep, whichever test comes first.
_KEPT_DESCRIPTORS = ("/dev/null", "/dev/urandom", "/dev/random")
# Mapped libraries, fonts, caches: no reading of the interpreter's own installation is a leak.
_KEPT_PREFIXES = (sys.prefix, sys.base_prefix, "/usr/", "/dev/shm/", "/proc/", "/dev/pts/")


@dataclass(frozen=True)
class Snapshot:
    """What the test process holds right now."""

    children: frozenset[tuple[int, float]]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[str] = field(default_factory=frozenset)
    files: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def take(cls, isolation: Isolation) -> Snapshot:
        return cls(
            children=frozenset(_children(isolation)),
            threads=frozenset(t for t in threading.enumerate() if t.name not in _KEPT_THREADS),
            descriptors=frozenset(_descriptors()),
            files=frozenset(_files(isolation)),
        )

    def plus(self, other: Snapshot) -> Snapshot:
        return Snapshot(
            self.children | other.children,
            self.threads | other.threads,
            self.descriptors | other.descriptors,
            self.files | other.files,
        )

    def minus(self, other: Snapshot) -> Snapshot:
        return Snapshot(
            self.children - other.children,
            self.threads - other.threads,
            self.descriptors - other.descriptors,
            self.files - other.files,
        )

    def __bool__(self) -> bool:
        return bool(self.children or self.threads or self.descriptors or self.files)

    def describe(self) -> str:
        lines = []
        for pid, created in sorted(self.children):
            lines.append(f"process {pid}: {_command(pid, created)}")
        lines += [f"thread {thread.name}" for thread in self.threads]
        lines += [f"descriptor {text}" for text in sorted(self.descriptors)]
        lines += [f"file {path}" for path in sorted(self.files)]
        return "\n".join(f"  {line}" for line in lines)


def _children(isolation: Isolation) -> Iterator[tuple[int, float]]:
    """Descendants, and on Linux also orphans: processes that carry this session's environment."""
    me = psutil.Process()
    known = set()
    for child in me.children(recursive=True):
        known.add(child.pid)
        try:
            yield child.pid, child.create_time()
        except psutil.NoSuchProcess:
            continue
    if not _LINUX:
        return
    sign = f"JUPYTER_RUNTIME_DIR={isolation.runtime}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in known or int(entry) == me.pid:
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                ours = sign in file.read().split(b"\0")
            if ours:
                yield int(entry), psutil.Process(int(entry)).create_time()
        except (OSError, psutil.Error):
            continue


def _command(pid: int, created: float) -> str:
    try:
        process = psutil.Process(pid)
        if process.create_time() != created:
            return "gone by now"
        return f"[{process.status()}] {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return "gone by now"


def _descriptors() -> Iterator[str]:
    folder = "/proc/self/fd" if _LINUX else "/dev/fd"
    if not os.path.isdir(folder):
        return
    for number in os.listdir(folder):
        try:
            if _LINUX:
                target = os.readlink(f"{folder}/{number}")
            else:
                stat = os.fstat(int(number))
                target = f"mode {stat.st_mode:o} inode {stat.st_ino}"
        except OSError:  # listing the folder took a descriptor itself, gone by now
            continue
        if target not in _KEPT_DESCRIPTORS and not target.startswith(_KEPT_PREFIXES):
            yield f"{number} -> {target}"


def _files(isolation: Isolation) -> Iterator[str]:
    for folder in (isolation.temp, isolation.runtime):
        for path in folder.iterdir():
            if path.name != "jupyter_cookie_secret":  # a server makes it once, for all that follow
                yield str(path)


def _start_what_stays() -> None:
    """Have pyzmq open what it opens once per process, for the first large message that is freed.

    That is a thread with a context of its own, and one more descriptor when it hears of the message.
    """
    context = zmq.Context()
    sender, receiver = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    sender.bind("inproc://large")
    receiver.connect("inproc://large")
    sender.send(bytes(1_000_000), copy=False)
    receiver.recv()
    context.destroy(linger=0)


class LeakCheck:
    """After each test, what it started must be gone: processes, threads, descriptors, files.

    What a module's fixture holds may stay until the fixture ends; then the check is made for the
    module. What a session's fixture holds becomes part of the baseline.
    """

    def __init__(self, isolation: Isolation) -> None:
        self.isolation = isolation
        self.baseline: Snapshot | None = None
        self.holders: set[int] = set()  # fixtures of a module or class that hold something

    def take(self) -> Snapshot:
        return Snapshot.take(self.isolation)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if self.baseline is None:
            _start_what_stays()
            self.baseline = self.take()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        before = self.take()
        try:
            return (yield)
        finally:
            held = self.take().minus(before)
            if held and self.baseline is not None:
                if fixturedef.scope == "session":
                    self.baseline = self.baseline.plus(held)
                else:
                    self.holders.add(id(fixturedef))

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        self.holders.discard(id(fixturedef))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        try:
            return (yield)
        finally:
            if not self.holders:
                self.check()

    def check(self) -> None:
        assert self.baseline is not None
        deadline = time.monotonic() + DEADLINE
        pause = 0.0
        while left := self.take().minus(self.baseline):
            if time.monotonic() > deadline:
                found = left.describe()
                self._clear(left)
                self.baseline = self.take()  # one test is blamed, not all that follow
                pytest.fail(f"left behind:\n{found}", pytrace=False)
            gc.collect()  # what only a cycle holds is released when the collector runs, not leaked
            self._wait(left, pause)
            pause = 0.02

    @staticmethod
    def _wait(left: Snapshot, pause: float) -> None:
        for thread in left.threads:
            thread.join(timeout=pause)
        processes = []
        for pid, _ in left.children:
            try:
                processes.append(psutil.Process(pid))
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=pause)
        if left.descriptors or left.files:
            threading.Event().wait(pause)

    @staticmethod
    def _clear(left: Snapshot) -> None:
        for pid, created in left.children:
            try:
                process = psutil.Process(pid)
                if process.create_time() == created:
                    process.kill()
            except psutil.Error:
                continue
        for path in map(Path, left.files):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
