"""What every worker runs before it takes requests: `setup=` and `pool.setup`.

    pool.setup ─▶ add ─▶ on trial ── the workers there are run it: idle ones now, starting ones before
                            │         they are ready, busy ones when they are free
                            ├── has run on all that did not work: it stays
                            └── has failed on one: it is taken back; who has run it is replaced

A worker that becomes ready runs all setups in their order, and a failure of one that is to stay is a
failed start: told to whoever waits, and tried again ever more rarely. Lives on the I/O thread.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_pool.core import (
    RestartWorker,
    SetUpAll,
    SetUpDone,
    StopReason,
    WorkerSpent,
    WorkerState,
)
from jupyter_pool.errors import (
    InvalidRequest,
    PoolError,
    PoolNotAvailable,
    WorkerStartError,
)
from jupyter_pool.handles import Puts
from jupyter_pool.provisioning.processes import describe_exit

from .data import pack_lasting
from .sources import Sources, codes_of

if TYPE_CHECKING:
    from jupyter_pool.config import SetupCode
    from jupyter_pool.handles import Stored

    from .driver import Driver
    from .link import Link
    from .wire import Message

__all__ = ["Setup", "Setups", "pack_setup"]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
#: Whose workers are left to what they do when a setup is new.
_AT_WORK = (
    WorkerState.BUSY,
    WorkerState.LEASED,
    WorkerState.INTERRUPTING,
    WorkerState.STOPPING,
    WorkerState.STANDBY,
)
#: A worker that is stopped so while it runs a setup is stopped for it.
_FOR_IT = (StopReason.SETUP_FAILED, StopReason.START_TIMEOUT)

Answer = Callable[[PoolError | None], None]


@dataclass(eq=False)
class Setup:
    """One setup: code, or a function as bytes."""

    #: For people.
    name: str
    code: str | None = None
    frames: Sequence[Any] = ()
    puts: tuple[Stored, ...] = ()
    sources: Sources | None = None
    stored: Stored | None = None
    #: Folder, path and environment of who asked for it, where they differ from the pool's.
    context: dict[str, Any] = field(default_factory=dict)
    #: Its trial is over, and it stays.
    kept: bool = True
    #: Who waits for the end of its trial.
    answer: Answer | None = None
    #: The workers whose answer is waited for; and whether one has run it.
    pending: set[int] = field(default_factory=set)
    proved: bool = False


def pack_setup(setup: SetupCode, puts: Puts | None = None) -> Setup:
    """Check and pickle a setup, in the caller's thread.

    Raises
    ------
    InvalidRequest
        It is neither code nor a function.
    SerializationError
        The function cannot be pickled.
    """
    if isinstance(setup, str):
        if not setup.strip():
            raise InvalidRequest("setup takes code or a function, not an empty text")
        first = next(line for line in setup.splitlines() if line.strip())
        return Setup(f"“{first.strip()[:60]}”", code=setup)
    if not callable(setup):
        raise InvalidRequest(f"setup takes code or a function, not {type(setup).__name__}")
    name = getattr(setup, "__qualname__", None) or type(setup).__qualname__
    frames, needed = pack_lasting({"function": setup}, f"the setup {name}", {"setup": name}, puts)
    return Setup(name, frames=frames, puts=needed, sources=Sources(codes_of(setup)))


class Setups:
    """The setups of one pool, in the order in which they came."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._all: list[Setup] = []

    def keep(self, setup: Setup) -> None:
        """Have one for all workers to come; before there are any."""
        self._all.append(setup)

    def add(self, setup: Setup, answer: Answer) -> None:
        """Try a new one on the workers that there are, and keep it if it does not fail."""
        driver = self._driver
        if driver.closed.is_set():
            answer(_closed(driver))
            return
        setup.kept, setup.answer = False, answer
        self._all.append(setup)
        driver.feed(SetUpAll())
        setup.pending = {
            worker_id
            for worker_id, record in driver.core.workers.items()
            if record.state not in _AT_WORK
        }
        self._look(setup)

    def give_up(self, setup: Setup) -> None:
        """Nobody waits for its trial any more: it is taken back."""
        if not setup.kept:
            setup.answer = None
            self._take_back(setup)

    def close(self) -> None:
        """The pool is at its end."""
        for setup in self._all:
            self._settle(setup, _closed(self._driver))
        self._all.clear()

    def missing(self, done: Sequence[Setup]) -> Setup | None:
        """The next one for a worker that has run these."""
        return next((setup for setup in self._all if setup not in done), None)

    def has(self, setup: Setup) -> bool:
        """Whether it was not taken back."""
        return setup in self._all

    # -- news of workers -----------------------------------------------------------------------

    def ran(self, link: Link, setup: Setup) -> None:
        """A worker has run it."""
        setup.pending.discard(link.worker_id)
        setup.proved = True
        self._look(setup)

    def failed(self, link: Link, setup: Setup, error: WorkerStartError) -> None:
        """It went wrong on a worker, which cannot stay."""
        if setup.kept:
            link.fail_setup(error)
            return
        self._settle(setup, error)
        self._take_back(setup)
        self.replace(link, "its setup failed")

    def gone(self, link: Link) -> bool:
        """A worker's process has ended. Whether a setup on trial was the cause."""
        flight = link.flight
        setup = flight.setup if flight is not None else None
        blamed = False
        if setup is not None and not setup.kept and (link.stop is None or link.stop in _FOR_IT):
            blamed = True
            self._settle(setup, self.explain_end(link, setup))
            self._take_back(setup)
        return blamed

    def missed(self, worker_id: int) -> None:
        """That worker is no more."""
        for setup in list(self._all):
            setup.pending.discard(worker_id)
            self._look(setup)

    # -- a trial's end -------------------------------------------------------------------------

    def _look(self, setup: Setup) -> None:
        """It stays if all have answered; but one at least, if there is anybody."""
        if setup.kept or setup.pending or setup not in self._all:
            return
        workers = self._driver.core.workers.values()
        if setup.proved or all(worker.state is WorkerState.STOPPING for worker in workers):
            setup.kept = True
            self._settle(setup, None)

    def _settle(self, setup: Setup, error: PoolError | None) -> None:
        answer, setup.answer = setup.answer, None
        if answer is not None:
            answer(error)

    def _take_back(self, setup: Setup) -> None:
        if setup not in self._all:
            return
        self._all.remove(setup)
        for link in list(self._driver.links.values()):
            if setup in link.set_up:
                self._driver.feed(WorkerSpent(link.worker_id, "its setup was taken back"))
            elif link.flight is not None and link.flight.setup is setup:
                self._driver.feed(RestartWorker(link.worker_id))

    def replace(self, link: Link, why: str) -> None:
        """No failed start: the next one has not got this setup."""
        if link.ready:
            self._driver.feed(SetUpDone(link.worker_id, why))
        else:
            self._driver.feed(WorkerSpent(link.worker_id, why))

    # -- errors --------------------------------------------------------------------------------

    def explain(self, link: Link, setup: Setup, content: dict[str, Any]) -> WorkerStartError:
        """What a worker's reply says went wrong."""
        lines = [_ANSI.sub("", line) for line in content.get("traceback") or ()]
        if setup.sources is not None:
            lines = setup.sources.put_into(lines)
        shown = "".join(f"\n  │ {line}" for line in "\n".join(lines).splitlines())
        ename, evalue = content.get("ename", ""), content.get("evalue", "")
        return self._error(link, setup, f"failed: {ename}: {evalue}{shown}")

    def explain_spent(self, link: Link, setup: Setup, why: str) -> WorkerStartError:
        """Why a worker that has run it cannot serve anybody."""
        return self._error(link, setup, f"ran, but no worker can go on after it: {why}")

    def explain_end(self, link: Link, setup: Setup) -> WorkerStartError:
        """Why a worker is no more that was running it."""
        exited = link.exited
        if link.stop in _FOR_IT:
            limit = self._driver.config.start_timeout
            return self._error(link, setup, f"did not end within start_timeout={limit:g} s")
        exitcode, signal = describe_exit(exited.status if exited is not None else None)
        how = signal or ("exit code unknown" if exitcode is None else f"exit code {exitcode}")
        stderr = exited.stderr if exited is not None else ""
        shown = "".join(f"\n  │ {line}" for line in stderr.strip().splitlines()[-8:])
        return self._error(link, setup, f"ended its worker ({how}){shown}", stderr)

    def _error(self, link: Link, setup: Setup, what: str, stderr: str = "") -> WorkerStartError:
        return WorkerStartError(
            f"the setup {setup.name} {what}",
            context={
                "pool": self._driver.name,
                "worker_id": link.worker_id,
                "setup": setup.name,
            },
            stderr=stderr,
        )


def _closed(driver: Driver) -> PoolNotAvailable:
    return PoolNotAvailable(f"pool {driver.name!r} is closed", context={"pool": driver.name})


class SettingUp:
    """Has one worker run the setups that it lacks, one after another."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def go_on(self) -> None:
        """Send the next one; or say that there is none."""
        link, setups = self._link, self._link.driver.setups
        setup = setups.missing(link.set_up)
        if setup is None:
            link.is_set_up()
        else:
            link.run_setup(setup)

    def landed(self, setup: Setup, reply: Message) -> None:
        """A worker has answered."""
        link, setups = self._link, self._link.driver.setups
        ours = reply.metadata.get("jupyter_pool") or {}
        if ours.get("refused") or not setups.has(setup):
            setups.replace(link, str(ours.get("refused") or "its setup was taken back"))
        elif reply.content.get("status") == "ok" and (why := ours.get("recycle")):
            setups.failed(link, setup, setups.explain_spent(link, setup, str(why)))
        elif reply.content.get("status") != "ok":
            content = dict(reply.content)
            if ours.get("bad_inputs"):
                content.update(ename="SerializationError", evalue=ours["bad_inputs"])
            setups.failed(link, setup, setups.explain(link, setup, content))
        else:
            link.set_up.append(setup)
            setups.ran(link, setup)
            if setups.has(setup):
                self.go_on()
