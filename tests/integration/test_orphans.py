"""However the owner of a pool ends: no worker, no child of one, no guardian and no file outlives it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import KernelPool
from jupyter_pool.engine.loop import Engine
from jupyter_pool.provisioning.processes import is_running
from support.cells import states
from support.conditions import eventually, gone
from support.owners import Owner

# How long what an owner left may outlive it, in seconds.
WITHIN = 3.0

# One worker idles with a child that a cell left behind, one runs a cell that waits for a child.
OWNER = """
def owner():
    pool = KernelPool(size=2).start(wait=True)
    at_work = threading.Event()
    found = []
    def on_output(event):
        found.append(int(event["text"]))
        at_work.set()
    if BUSY:
        pool.submit_code(
            "import subprocess; p = subprocess.Popen(['sleep', '604']); print(p.pid, flush=True); p.wait()",
            on_output=on_output,
        )
        at_work.wait(30)
    # The last request of its worker: the next one would have it reset, and with that the child ended.
    left = pool.execute(
        "import subprocess; subprocess.Popen(['sleep', '603']).pid", isolation="none"
    )
    found.append(int(left.data["text/plain"]))
    say({"workers": pids(pool), "children": found, "guardian": guardian(), "folder": folder()})
    return pool
"""


def everything(told: dict[str, Any]) -> list[int]:
    return [*told["workers"], *told["children"], told["guardian"]]


def all_gone(told: dict[str, Any]) -> Callable[[], bool]:
    ended = gone(everything(told))
    return lambda: ended() and not os.path.exists(told["folder"])


def kill(signum: signal.Signals) -> Callable[[Owner], None]:
    return lambda owner: owner.process.send_signal(signum)


ABRUPT = {
    "sigkill": ("listen()", kill(signal.SIGKILL), -signal.SIGKILL),
    "sigterm": ("listen()", kill(signal.SIGTERM), -signal.SIGTERM),
    "os._exit": ("listen(); os._exit(5)", Owner.tell, 5),
    "segfault": ("listen(); import ctypes; ctypes.string_at(0)", Owner.tell, -signal.SIGSEGV),
}

ORDERLY = {
    "its code ends": ("", 0),
    "an exception": ("raise ZeroDivisionError", 1),
    "sys.exit": ("sys.exit(6)", 6),
    "ctrl-c": ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
}


@pytest.mark.parametrize("how", ABRUPT)
def test_nothing_outlives_an_owner_that_ends_abruptly(how: str) -> None:
    end, act, status = ABRUPT[how]
    with Owner(f"BUSY = True{OWNER}\npool = owner()\n{end}") as owner:
        told = owner.hear()
        assert all(map(is_running, everything(told)))
        act(owner)
        assert owner.process.wait(10) == status
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


@pytest.mark.parametrize("how", ORDERLY)
def test_nothing_outlives_an_owner_that_ends_in_order(how: str) -> None:
    end, status = ORDERLY[how]
    with Owner(f"BUSY = False{OWNER}\npool = owner()\nlisten()\n{end}") as owner:
        told = owner.hear()
        assert all(map(is_running, told["workers"]))
        owner.tell()
        assert owner.process.wait(20) == status
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_leaving_with_by_an_exception_ends_what_runs_and_its_children() -> None:
    with Owner(f"BUSY = True{OWNER}\nwith owner():\n    listen()\n    1 / 0") as owner:
        told = owner.hear()
        owner.tell()
        assert owner.process.wait(20) == 1
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_a_forked_child_that_goes_on_does_not_keep_its_parents_workers_alive() -> None:
    script = f"BUSY = True{OWNER}\npool = owner()\nif os.fork(): say('forked')\nlisten()"
    with Owner(script) as owner:
        told = owner.hear()
        assert owner.hear() == "forked"
        owner.process.kill()
        owner.process.wait(10)
        # The child still holds every pipe and socket of its parent; it ends with our pipe to it.
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_workers_that_were_just_being_started_do_not_outlive_their_owner() -> None:
    script = "pool = KernelPool(size=4).start(); say([folder(), guardian()]); listen()"
    for _ in range(2):
        with Owner(script) as owner:
            folder, guardian = owner.hear()
            owner.process.kill()
            owner.process.wait(10)
            eventually(gone([guardian]), within=WITHIN)
            eventually(lambda where=folder: not mentions(where), within=WITHIN)  # type: ignore[misc]
            assert not os.path.exists(folder)


def mentions(folder: str) -> list[int]:
    """Processes with that folder in their command, as kernels have the one of their sockets."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if folder.encode() in command and is_running(int(entry.name)):
            found.append(int(entry.name))
    return found


def test_a_worker_that_is_stopped_and_one_that_ignores_signals_do_not_outlive_their_owner() -> None:
    script = """
pool = KernelPool(size=2).start(wait=True)
ignores = threading.Event()
pool.submit_code(
    "import signal, time\\n"
    "for n in signal.SIGINT, signal.SIGTERM, signal.SIGHUP: signal.signal(n, signal.SIG_IGN)\\n"
    "print('ignores', flush=True)\\n"
    "time.sleep(600)",
    on_output=lambda event: ignores.set(),
)
ignores.wait(30)
for worker in pool.get_status().workers:
    if worker.state == "idle":
        os.kill(worker.pid, signal.SIGSTOP)
say({"workers": pids(pool), "children": [], "guardian": guardian(), "folder": folder()})
listen()
"""
    with Owner(script) as owner:
        told = owner.hear()
        owner.process.kill()
        owner.process.wait(10)
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


# --- the guardian -------------------------------------------------------------------------------


def guardian_pid() -> int:
    assert Engine._current is not None
    return Engine._current.launcher._guardian.pid


def test_the_guardian_is_in_a_session_of_its_own_and_ignores_what_a_terminal_sends() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        pid = guardian_pid()
        assert os.getsid(pid) == pid
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, signum)
        # Whoever ended by them would end before it could answer to a worker's start.
        pool.restart_worker(pool.get_status().workers[0].id)
        eventually(lambda: states(pool) == ["idle"])
        assert guardian_pid() == pid
        assert is_running(pid)
    assert not is_running(pid)


def test_a_killed_guardian_is_replaced_at_once_by_one_that_knows_the_workers() -> None:
    script = f"""BUSY = True{OWNER}
pool = owner()
while listen() == "guardian?":
    say(guardian())
"""
    with Owner(script) as owner:
        told = owner.hear()
        first = told["guardian"]
        os.kill(first, signal.SIGKILL)

        def another() -> int | None:
            owner.tell("guardian?")
            pid = owner.hear()
            return pid if pid != first and is_running(pid) else None

        told["guardian"] = eventually(another)
        assert all(map(is_running, told["workers"]))
        owner.process.kill()
        owner.process.wait(10)
        eventually(all_gone(told), f"{told} are gone", within=WITHIN)


def test_a_pool_works_and_closes_without_its_guardian() -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        os.kill(guardian_pid(), signal.SIGKILL)
        assert pool.execute("1 + 1").data["text/plain"] == "2"
        pool.restart_worker(pool.get_status().workers[0].id)
        assert pool.execute("1 + 1").data["text/plain"] == "2"
        os.kill(guardian_pid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="platform: POSIX processes")
def test_a_child_of_a_worker_does_not_outlive_its_worker() -> None:
    with KernelPool(size=1) as pool:
        result = pool.execute(
            "import subprocess; subprocess.Popen(['sleep', '605']).pid", isolation="none"
        )
        child = int(result.data["text/plain"])
        assert is_running(child)
        (worker,) = pool.get_status().workers
        pool.restart_worker(worker.id)
        eventually(gone([worker.pid or 0, child]), within=WITHIN)
