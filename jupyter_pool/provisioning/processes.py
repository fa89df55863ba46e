"""Processes of a worker: its session, its group, and how to be sure that they are gone.

Every worker is started in a session of its own, so the kernel's process id names its session and
its first process group too. Children stay in that session unless they call ``setsid``; those are found
as descendants, on Linux and as long as the worker lives: our kernel adopts what its children leave.
Standard library only: the guardian runs this file with ``python -I -S``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping

_LINUX = sys.platform.startswith("linux")


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the command name, or None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode("ascii", "replace")
    except OSError:
        return None
    # The command may hold blanks and brackets; it ends at the last one.
    return text[text.rfind(")") + 2 :].split()


def start_time(pid: int) -> int:
    """A number that tells two processes with the same id apart; 0 where it cannot be had."""
    fields = _stat_fields(pid) if _LINUX else None
    return int(fields[19]) if fields else 0


def is_running(pid: int, started: int = 0) -> bool:
    """Whether that process exists and is no zombie (nor, with ``started``, a later one)."""
    if _LINUX:
        fields = _stat_fields(pid)
        if fields is None or fields[0] in "ZX":
            return False
        return not started or int(fields[19]) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _pids() -> Iterator[int]:
    """Ids of all processes, zombies too. Empty where there is no /proc."""
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit()) if _LINUX else iter(())


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def session_members(session: int) -> Iterator[int]:
    """Ids of the running processes of a session. Empty where there is no /proc."""
    # One system call for each process of the machine, not a file to open.
    return (pid for pid in _pids() if _session(pid) == session and is_running(pid))


def descendants(pid: int) -> dict[int, int]:
    """Start times of a process's children, their children and so on, by id; none without /proc."""
    found: dict[int, int] = {}
    fresh = [pid]
    while fresh:
        parent = fresh.pop()
        # While one ends, the list of its siblings may lack another: read again.
        for _ in range(3):
            children = {child: _stat_fields(child) for child in _children(parent)}
            running = {
                child: int(fields[19])
                for child, fields in children.items()
                if fields and fields[0] not in "ZX"
            }
            fresh += running.keys() - found.keys()
            found.update(running)
            if len(running) == len(children):
                break
    return found


def _children(pid: int) -> Iterator[int]:
    if not os.path.exists("/proc/thread-self/children"):  # a Linux built without these lists
        for child in _pids():
            fields = _stat_fields(child)
            if fields and int(fields[1]) == pid:
                yield child
        return
    for task in _listed(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
            yield from map(int, file.read().split())


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def families(pids: Iterable[int]) -> dict[int, set[int]]:
    """Each process's children, their children and so on, and who else is in its session.

    Read at one go, as there may be many processes to look through; nobody without /proc.
    """
    below: dict[int, list[int]] = {}
    for each in _pids():
        fields = _stat_fields(each)
        if fields and fields[0] not in "ZX":
            for above in {int(fields[1]), int(fields[3])}:
                below.setdefault(above, []).append(each)
    found: dict[int, set[int]] = {}
    for pid in pids:
        family, fresh = {pid}, [pid]
        while fresh:
            fresh = [each for each in below.get(fresh.pop(), ()) if each not in family] + fresh
            family.update(fresh)
        found[pid] = family - {pid}
    return found


def send(pid: int, signum: int, *, group: bool = True) -> bool:
    """Send a signal to a worker (its whole process group by default); False if it is gone."""
    try:
        if group:
            os.killpg(pid, signum)
        else:
            os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM for a group whose members are all zombies.
        return False
    return True


def kill_session(session: int) -> None:
    """SIGKILL everything in a worker's process group and session. Returns at once.

    Also what it has started that made itself a session of its own, if the worker still lives to tell.
    """
    family = descendants(session)
    send(session, signal.SIGKILL)
    kill_all(family)
    # Job control (an interactive shell, `process_group=0`) makes groups of its own in the session.
    # A killed parent may have had a child in the making, so look until nobody is found.
    for _ in range(10):
        members = list(session_members(session))
        if not members:
            return
        for pid in members:
            send(pid, signal.SIGKILL, group=False)


def kill_all(started: Mapping[int, int]) -> None:
    """SIGKILL these processes, by id, if they are still those of these start times."""
    for pid, when in started.items():
        if is_running(pid, when):
            send(pid, signal.SIGKILL, group=False)


def describe_exit(status: int | None) -> tuple[int | None, str | None]:
    """``(exit code, None)`` or ``(None, signal name)`` of a subprocess-style return code."""
    if status is None:
        return None, None
    if status < 0:
        try:
            return None, signal.Signals(-status).name
        except ValueError:
            return None, f"signal {-status}"
    return status, None
