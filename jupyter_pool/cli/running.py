"""Runs scripts and notebooks on a pool, all at once, from one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from jupyter_pool.async_pool import AsyncKernelPool, AsyncLease
from jupyter_pool.errors import ExecutionError, PoolError, WorkerDied
from jupyter_pool.results import ExecutionResult

from .printing import Interrupted, Printer
from .script import as_cell
from .sources import Cell, Notebook, Script

__all__ = ["Limits", "Outcome", "Runner", "summary"]

#: Signals that end a run: what runs is interrupted, and everything is left clean.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Where an error points into the one cell that holds a whole script.
_AT_LINE = re.compile(r"( · |  was )at line \d+: .*")


@dataclass(frozen=True)
class Limits:
    """For each file: seconds that it may run (None: no limit), and how often to try it again."""

    timeout: float | None = None
    retries: int = 0


@dataclass
class Outcome:
    """How a file ended: ``"done"``, ``"failed"``, or ``"unfinished"`` if all was given up before."""

    label: str
    state: str = "unfinished"
    why: str = ""


class Runner:
    """One run of `files` on a pool that is not started yet.

    Attributes
    ----------
    outcomes
        One for each file.
    signum
        The signal that ended the run, or None.
    """

    def __init__(
        self,
        files: Sequence[Script | Notebook],
        argv: Sequence[str],
        limits: Limits,
        printer: Printer,
        language: str,
    ) -> None:
        self._files = files
        self._argv = list(argv)
        self._limits = limits
        self.printer = printer
        self._language = language
        # Python puts a script's folder first, unless told not to (-P): now that of this command.
        self._safe_path = bool(getattr(sys.flags, "safe_path", False))
        self._path = sys.path[:] if self._safe_path else sys.path[1:]
        self._home = os.getcwd()
        self.outcomes = [Outcome(file.label) for file in files]
        self.signum: int | None = None

    def run(self, pool: AsyncKernelPool) -> None:
        """Run all files; return when the pool is closed."""
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            task = loop.create_task(self._main(pool))
            self.printer.on_reader_gone = task.cancel
            with _signals(self, loop, task):
                try:
                    loop.run_until_complete(task)
                except asyncio.CancelledError:  # before it began, or when it was about to end
                    loop.run_until_complete(pool.close(0))
                finally:
                    self._place(self._home, self._path)

    def on_signal(self, signum: int) -> None:
        """End everything; the second time, at once: the guardian sees to the workers."""
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum

    async def _main(self, pool: AsyncKernelPool) -> None:
        runs = [
            asyncio.ensure_future(self._run_file(pool, file, outcome))
            for file, outcome in zip(self._files, self.outcomes, strict=True)
        ]
        try:
            await asyncio.gather(*runs)
        except asyncio.CancelledError:
            pass  # a signal, or nobody reads any more
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
            cut_short = self.printer.reader_gone or self.signum is not None
            await pool.close(0 if cut_short else None)

    async def _run_file(
        self, pool: AsyncKernelPool, file: Script | Notebook, outcome: Outcome
    ) -> None:
        try:
            if isinstance(file, Script):
                await self._run_script(pool, file)
            else:
                await self._run_notebook(pool, file)
        except ExecutionError as error:
            if (why := exit_status(error)) is None:
                outcome.state = "done"
            else:
                outcome.state, outcome.why = "failed", why
                if error.ename == "SystemExit" and why == error.evalue:
                    self.printer.say(file.label, why)
        except PoolError as error:
            outcome.state = "failed"
            why = error.message.splitlines()[0].split(" · ")[0]
            outcome.why = f"{type(error).__name__}: {why}"
            self.printer.say(file.label, explain(error, file))
        else:
            outcome.state = "done"
        self.printer.end(file.label)

    async def _run_script(self, pool: AsyncKernelPool, file: Script) -> None:
        if self._language == "python":
            folder = None if self._safe_path else file.folder
            code = as_cell(file.text, file.path, [file.label, *self._argv], folder)
        else:
            code = file.text
        # The request carries the place of this moment, for its imports.
        self._place(self._home, self._import_path(file))
        await pool.submit_code(
            code,
            session_id=file.label,
            timeout=self._limits.timeout,
            retries=self._limits.retries,
            on_output=lambda event: self.printer.show(
                file.label, event, errors=self._language != "python"
            ),
        )

    async def _run_notebook(self, pool: AsyncKernelPool, file: Notebook) -> None:
        for left in reversed(range(self._limits.retries + 1)):
            try:
                async with pool.checkout(session_id=file.label, checkout_timeout=None) as worker:
                    await self._run_cells(worker, file)
            except WorkerDied as error:
                if not left:
                    raise
                self.printer.say(file.label, f"{error.message.splitlines()[0]}; running it again")
            else:
                return

    async def _run_cells(self, worker: AsyncLease, file: Notebook) -> None:
        limit = self._limits.timeout
        deadline = None if limit is None else time.monotonic() + limit
        for cell in file.cells:
            cell_data = file.content["cells"][cell.index]
            cell_data["outputs"], cell_data["execution_count"] = [], None
        for number, cell in enumerate((c for c in file.cells if c.text.strip()), 1):
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            self._place(file.folder, self._import_path(file))
            result: ExecutionResult | None = None
            try:
                result = await worker.execute(
                    cell.text,
                    timeout=left,
                    execution_count=number,
                    on_output=lambda event: self.printer.show(file.label, event, errors=True),
                )
            except ExecutionError as error:
                result = error.result
                if not cell.may_raise:
                    raise
            except PoolError as error:
                result = error.result
                raise
            finally:
                _keep(file, cell, number, result)

    def _import_path(self, file: Script | Notebook) -> list[str]:
        return self._path if self._safe_path else [file.folder, *self._path]

    @staticmethod
    def _place(cwd: str, path: list[str]) -> None:
        """Be where the next request is to run: a pool sends that along."""
        sys.path[:] = path
        os.chdir(cwd)


def _keep(file: Notebook, cell: Cell, number: int, result: ExecutionResult | None) -> None:
    """Put what a cell showed into the notebook's content."""
    if result is not None:
        content = file.content["cells"][cell.index]
        content["outputs"], content["execution_count"] = result.display_outputs, number


@contextlib.contextmanager
def _signals(
    runner: Runner, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]
) -> Iterator[None]:
    """Have signals end the run while this lasts."""

    def handle(signum: int, _frame: FrameType | None) -> None:
        writing = runner.printer.writing
        runner.on_signal(signum)
        loop.call_soon_threadsafe(task.cancel)
        if writing:
            raise Interrupted

    before: dict[int, Any] = {}
    for ending in _ENDING:
        # What whoever started us has switched off (nohup) stays off.
        if signal.getsignal(ending) is not signal.SIG_IGN:
            before[ending] = signal.signal(ending, handle)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def exit_status(error: ExecutionError) -> str | None:
    """Why code failed, in short; None if it only ended itself, as by ``sys.exit()``."""
    if error.ename != "SystemExit":
        return error.message.splitlines()[0]
    if error.evalue in ("", "None", "0", "False"):
        return None
    return f"exit status {error.evalue}" if re.fullmatch(r"-?\d+", error.evalue) else error.evalue


def explain(error: PoolError, file: Script | Notebook) -> str:
    """What happened, as a person reads it, with the lines of a script and not of its cell."""
    text = error.message
    stderr = getattr(error, "stderr", "")
    if isinstance(file, Script):
        text = "\n".join(
            line for line in (_AT_LINE.sub("", line) for line in text.split("\n")) if line.strip()
        )
        found = re.search(rf'File "{re.escape(file.path)}", line (\d+)', stderr)
        if found:
            text += f"\n  It was at {file.label}, line {found[1]}."
    return f"{type(error).__name__}: {text}"


def summary(outcomes: Sequence[Outcome], seconds: float, *, interrupted: bool) -> str:
    """``3 of 4 files done in 2.1 s, 1 failed: b.py (ValueError: …)``."""
    total = len(outcomes)
    done = sum(outcome.state == "done" for outcome in outcomes)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    files = "1 file" if total == 1 else f"{total} files"
    count = files if done == total else f"{done} of {files}"
    text = f"{count} done in {seconds:.1f} s"
    if failed:
        named = ", ".join(f"{one.label} ({_short(one.why)})" for one in failed)
        text += f", {len(failed)} failed: {named}"
    if interrupted:
        text = f"Interrupted: {text}"
        if unfinished := [one.label for one in outcomes if one.state == "unfinished"]:
            text += f", not finished: {', '.join(unfinished)}"
    return text


def _short(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
