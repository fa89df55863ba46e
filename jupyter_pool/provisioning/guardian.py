"""The guardian: a small process that outlives its owner just long enough to clean up.

    owner process ── pipe: "+PID\\n" started, "-PID\\n" gone ──▶ guardian (own session)
          └── dies (however) ── pidfd / kqueue ─────────────────▶ kills every worker's session,
                                                                   removes its folders, exits

Why a process: a poller inside a worker stops when C code holds the GIL; the parent-death signal
follows the *thread* that forked; the end of a pipe is not seen while a forked child still holds it;
and foreign kernels watch nothing. Run as a script with ``python -I -S`` it needs only the standard
library and starts in some ten milliseconds.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __name__ != "__main__":
    from . import processes
else:  # run as a script: only this folder's own modules are wanted
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import processes


class Guardian:
    """The owner's handle on its guardian. Thread-safe; restarts it if somebody killed it."""

    def __init__(self, folder: str, shared: str = "") -> None:
        self._folder = folder
        self._shared = shared
        self._lock = threading.Lock()
        self._workers: set[int] = set()
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        """Process id of the guardian."""
        return self._process.pid

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                os.path.abspath(__file__),
                str(os.getpid()),
                str(processes.start_time(os.getpid())),
                self._folder,
                self._shared,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            self._replace()

    def _replace(self) -> None:
        self._reap()
        self._process = self._spawn()
        assert self._process.stdin is not None
        known = "".join(f"+{pid}\n" for pid in sorted(self._workers))
        try:
            self._process.stdin.write(known.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # ended as well: the next word or `revive` finds out

    def revive(self) -> None:
        """Put another one in its place if it has ended, with all that it knew."""
        with self._lock:
            if self._process.poll() is not None:
                self._replace()

    def add(self, pid: int) -> None:
        """Watch over a worker from now on."""
        with self._lock:
            self._workers.add(pid)
            self._tell(f"+{pid}\n")

    def remove(self, pid: int) -> None:
        """A worker is verified gone."""
        with self._lock:
            self._workers.discard(pid)
            self._tell(f"-{pid}\n")

    def _reap(self) -> None:
        try:
            assert self._process.stdin is not None
            self._process.stdin.close()
        except OSError:
            pass
        self._process.wait()

    def close(self) -> None:
        """Dismiss the guardian: nothing is left to watch."""
        with self._lock:
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(b"bye\n")
                self._process.stdin.flush()
            except (BrokenPipeError, ValueError):
                pass
            self._reap()


def _owner_gone(pid: int, started: int) -> Any | None:
    """Something to poll that becomes readable when the owner ends; None: it has ended already."""
    if hasattr(os, "pidfd_open"):
        try:
            fd: int = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        return fd if processes.is_running(pid, started) else None
    kqueue: Any = vars(select)  # macOS and BSD only
    queue = kqueue["kqueue"]()
    ending = kqueue["kevent"](
        pid,
        filter=kqueue["KQ_FILTER_PROC"],
        flags=kqueue["KQ_EV_ADD"],
        fflags=kqueue["KQ_NOTE_EXIT"],
    )
    try:
        queue.control([ending], 0)
    except ProcessLookupError:
        return None
    return queue


def _unannounced(owner: int, folder: str) -> list[int]:
    """Kernels of this owner that were started in its very last moment, before it could say so.

    Started plainly, they have a connection file in its folder; forked, its process id in their name,
    and in the command of the template, which is theirs too.
    """
    name = f"jpool-{owner}".encode()
    found = []
    if sys.platform.startswith("linux"):
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                try:
                    with open(f"/proc/{entry}/cmdline", "rb") as file:
                        command = file.read()
                    with open(f"/proc/{entry}/comm", "rb") as file:
                        called = file.read()
                except OSError:
                    continue
                ours = called == name + b"\n" or name in command.split(b"\0")
                if ours or (folder and os.fsencode(folder) + b"/" in command):
                    found.append(int(entry))
    return found


def main(owner: int, started: int, folder: str, shared: str) -> None:
    """Watch the owner; on its death kill what it left and remove its folders."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    workers: dict[int, int] = {}
    watch = _owner_gone(owner, started)
    pipe = sys.stdin.fileno()
    os.set_blocking(pipe, False)
    text = b""
    poller = select.poll()
    poller.register(pipe, select.POLLIN)
    if watch is not None:
        poller.register(watch if isinstance(watch, int) else watch.fileno(), select.POLLIN)
    ended = watch is None
    while True:
        ready = [] if ended else [fd for fd, _ in poller.poll()]
        # Read what was said last even if the owner is gone: it names its newest workers.
        while pipe in ready or ended:
            try:
                chunk = os.read(pipe, 65536)
            except BlockingIOError:
                break
            if not chunk:  # closed; a forked child of the owner may hold it open for ever
                poller.unregister(pipe)
                break
            text += chunk
        *lines, text = text.split(b"\n")
        for line in lines:
            if line == b"bye":
                return
            pid = int(line[1:])
            if line.startswith(b"+"):
                workers[pid] = processes.start_time(pid)
            else:
                workers.pop(pid, None)
        if ended or any(fd != pipe for fd in ready):
            break
    for pid, known in workers.items():
        # A session id is not given out again while any process is in it.
        if not processes.is_running(pid) or processes.is_running(pid, known):
            processes.kill_session(pid)
    for pid in _unannounced(owner, folder):
        # Forked but a moment ago, it is still in the session of its template.
        processes.kill_session(pid)
        processes.send(pid, signal.SIGKILL, group=False)
    for path in (folder, shared):
        if path:
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
