"""One background cell: what users hold, and how it looks.

What it does is a `Run`: one request, or many. A job adds its name, its time, and its display.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator
from concurrent import futures
from typing import TYPE_CHECKING, Any, Literal, Protocol

from . import underway
from .live import Bundle, LiveDisplay, ago, elapsed, state_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.pool import KernelPool

    from .underway import Kind

__all__ = ["Job", "Run", "State"]

State = Literal["waiting", "running", "done", "failed", "cancelled"]

#: How often a display changes at most, in seconds, and what it may send, in characters a second.
_LEAST_PAUSE, _CHARACTERS_A_SECOND = 0.25, 400_000
#: Which part of a core may go into rendering displays.
_SHARE = 0.05
#: How often the elapsed time is told, in seconds, by how much of it there is. Also a sign of life
#: for a server that ends idle kernels: not less often than every 20 seconds.
_TICKS = ((60.0, 1.0), (600.0, 5.0), (float("inf"), 15.0))
#: How long somebody who waits may be deaf to Ctrl-C, in seconds.
_LONGEST_WAIT = 1.0


class Run(Protocol):
    """What a job does: one request, or many."""

    #: Which pool does it.
    pool: KernelPool
    #: What it is.
    kind: Kind

    @property
    def state(self) -> State:
        """How far it is."""

    @property
    def progress(self) -> tuple[int, int]:
        """How many of its items are done, and how many there are."""

    @property
    def facts(self) -> str:
        """What else to say beside the state, if anything."""

    @property
    def held(self) -> str:
        """After the end: for how long the worker is held for its widgets; empty if it is not."""

    @property
    def keeps_others_waiting(self) -> bool:
        """Whether it holds a worker that others wait for."""

    def let_go(self) -> bool:
        """Give back the worker that is held; False if none is."""

    def start(self, changed: Callable[[], None], ended: Callable[[], None]) -> None:
        """Begin. Both are called from other threads; `ended` once, and last."""

    def cancel(self) -> None:
        """Give up what waits, interrupt what runs; the end follows."""

    def body(self) -> Bundle:
        """What it has put out so far."""

    def show(self) -> None:
        """Show in the cell that runs what is not in the body, below it."""

    def outcome(self) -> Any:
        """What it gave. Raises what went wrong. Only after the end."""

    def failure(self) -> str:
        """What went wrong, in a line; empty if nothing."""

    def variables(self) -> dict[str, Any]:
        """What to set in the notebook at the end."""


class Job:
    """A background cell: look at it, wait for it, cancel it.

    Shown anywhere it shows all its outputs, from the start, and goes on live. ``await job`` waits
    as ``job.result()`` does.

    Attributes
    ----------
    name
        The variable that holds it.
    """

    def __init__(self, name: str, run: Run, shell: InteractiveShell, cell: object = None) -> None:
        self.name = name
        #: Which cell made it, if the front end says so.
        self.cell = cell
        self._run = run
        self._shell = shell
        self._live = LiveDisplay(shell)
        self._began = time.monotonic()
        self._ended: float | None = None
        self._over: futures.Future[None] = futures.Future()
        #: Nobody needs to be told of its end any more.
        self.seen = False
        #: Its end has been shown. Claimed under the lock: two threads may be about to tell of it.
        self._told = False
        self._telling = threading.Lock()
        self._followed = False
        self._showed_end = False
        self._delivered = False
        #: The display is older than what there is to show.
        self.stale = False
        self._due = 0.0

    # -- what users ask ----------------------------------------------------------------------

    @property
    def status(self) -> State:
        """``"waiting"``, ``"running"``, ``"done"``, ``"failed"`` or ``"cancelled"``."""
        return self._run.state

    @property
    def elapsed(self) -> float:
        """Seconds since it was started, to its end if it has ended."""
        return (self._ended or time.monotonic()) - self._began

    def done(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self._over.done()

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end.

        Interrupting the notebook ends the waiting, not the job.

        Parameters
        ----------
        timeout
            How long to wait, in seconds; None: for ever.

        Returns
        -------
        ExecutionResult or Sweep
            Of a cell with ``--each`` its `Sweep`; of ``%pool_exec`` the expression's value.

        Raises
        ------
        TimeoutError
            It has not ended by then; it goes on.
        PoolError
            It failed, or was cancelled.
        """
        if not self.wait(timeout):
            raise TimeoutError(f"job {self.name!r} has not ended within {timeout:g} s; it goes on")
        self.seen = True
        self.deliver()
        return self._run.outcome()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most so many seconds; whether it has come."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._over.done():
            left = _LONGEST_WAIT if end is None else end - time.monotonic()
            if left <= 0:
                return False
            futures.wait([self._over], min(left, _LONGEST_WAIT))
        return True

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        import asyncio  # a terminal's IPython may never need it

        # Shielded: who stops waiting does not stop the job.
        await asyncio.shield(asyncio.wrap_future(self._over))
        return self.result(0)

    def cancel(self) -> bool:
        """Interrupt it, or take it out of the queue; once it has ended: give up its widgets.

        False if there is nothing to be cancelled any more.
        """
        if self.done():
            return self._run.let_go()
        self._run.cancel()
        return True

    def show(self) -> None:
        """Show it here, with all its outputs, live until its end."""
        if self.done():
            self.seen = self._told = True
        self._live.show(self.bundle(), last=self.done())
        self._run.show()

    # -- how it looks ------------------------------------------------------------------------

    def _ipython_display_(self) -> None:
        self.show()

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a job stays in its notebook: send what its result() gives")

    def __repr__(self) -> str:
        return f"<Job {self.name!r}: {self.headline()}>"

    def headline(self) -> str:
        """``running · 12 s``, and the like."""
        return " · ".join(filter(None, (self.status, *self._facts())))

    def _facts(self) -> tuple[str, ...]:
        held = f"widgets live {self.held}" if self.held else ""
        return self._run.facts, elapsed(self.elapsed), held

    def bundle(self) -> Bundle:
        """The handle as it is now, for a display."""
        state = self._run.state
        if state not in ("waiting", "running") and not self.done():
            # Whoever sees its end finds what it brings back from the next cell on.
            state = "running"
        text, html = state_line(self.name, state, *self._facts())
        body = self._run.body()
        return {
            "text/plain": "\n".join(filter(None, [text, body["text/plain"]])),
            "text/html": f"<div>{html}{body['text/html']}</div>",
        }

    # -- for `Jobs` --------------------------------------------------------------------------

    def begin(self, wake: Callable[[Job], None]) -> None:
        """Start what it does. `wake` is called when there is something new, from `follow` on."""
        self._wake = wake

        def changed() -> None:
            self.stale = True
            if self._followed:
                wake(self)

        def ended() -> None:
            self._ended = time.monotonic()
            underway.end(entry)
            self.stale = True
            self._over.set_result(None)
            if self._followed:
                wake(self)

        entry = underway.begin(self.name, self._run.kind, self._run.pool, self._run)
        try:
            self._run.start(changed, ended)
        except BaseException:
            underway.end(entry)
            raise

    def follow(self) -> None:
        """From now on its display is kept up to date. Not before: the first one shows it."""
        self._followed = True
        if not self._told:
            self._wake(self)

    def refresh(self) -> float | None:
        """Update the display if it is time; return when to look again, None after the end."""
        now = time.monotonic()
        over = self.done()
        if now < self._due and not self.is_due_to_end:
            return self._due
        self.stale = False  # from here on it may change again
        began = time.thread_time()
        length = self._live.update(self.bundle(), last=over) if self._live.can_update else 0
        pause = max(
            _LEAST_PAUSE,
            length / _CHARACTERS_A_SECOND,
            (time.thread_time() - began) / _SHARE,
        )
        self._due = now + pause
        if over:
            self._showed_end = True
            self._say_end()
            return None
        return now + max(pause, next(tick for until, tick in _TICKS if self.elapsed < until))

    def due(self) -> float:
        """When the display may change next."""
        return self._due

    @property
    def is_due_to_end(self) -> bool:
        """It has ended, and its display does not show that."""
        return self.done() and not self._showed_end

    @property
    def held(self) -> str:
        """For how long its worker is held for its widgets, now that it has ended; or empty."""
        return self._run.held if self.done() else ""

    def keeps_waiting(self, pool: object) -> bool:
        """Whether it has ended and still holds a worker of a pool, that others wait for."""
        return self.done() and self._run.pool is pool and self._run.keeps_others_waiting

    def let_go(self) -> None:
        """Give back the worker that is held, if one is."""
        if self.done():
            self._run.let_go()

    def _may_tell(self) -> bool:
        """Whether its end is still to be told, for the first who asks."""
        with self._telling:
            first, self._told = not self._told, True
        return first

    def _say_end(self) -> None:
        if self._live.can_update or not self._may_tell():
            return
        # A terminal: one line, wherever its prompt is. It is seen with its first character.
        self.seen = True
        text, _ = state_line(self.name, self.status, self._run.facts, elapsed(self.elapsed))
        failure = self._run.failure()
        sys.stdout.write(f"{text}{f': {failure}' if failure else ''}\n")
        sys.stdout.flush()

    def deliver(self) -> None:
        """Set what the cell was to bring back, once; it waits for the end of a cell if need be."""
        if not self._delivered:
            self._delivered = True
            if variables := self._run.variables():
                self._shell.push(variables)

    def close(self) -> None:
        """Leave nothing behind in the kernel."""
        self._live.close()

    def announcement(self) -> str:
        """What to tell of a failure that nobody has seen yet, once."""
        if self.seen or not self.done():
            return ""
        self.seen = True
        failure = self._run.failure()
        if self.status != "failed" or self._ended is None:
            return ""
        if not self._live.can_update and not self._may_tell():
            return ""  # just being told, in a terminal
        when = ago(time.monotonic() - self._ended)
        return f"[{self.name}] failed {when}: {failure} · {self.name}.show()"

    def snapshot(self) -> dict[str, Any]:
        """Name, state, done, total, elapsed (in seconds)."""
        done, total = self._run.progress
        return {
            "name": self.name,
            "state": self.status,
            "done": done,
            "total": total,
            "elapsed": self.elapsed,
        }
