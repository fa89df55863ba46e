"""Cells that tests hold up and let go, and an `on_output` that a test can wait on."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from jupyter_pool import ExecutionResult, KernelPool

#: How long anything that must happen may take, in seconds; nothing here takes more than a few.
DEADLINE = 30.0

#: How long a timeout must be for code to be where it strikes, in seconds: what takes a cell some
#: milliseconds takes a worker longer that the system lets wait for others.
THERE_BY_THEN = 1.5

Event = dict[str, Any]


class Gate:
    """A cell's way to say that it runs, and a test's way to let it go on; a context manager.

    The cell blocks in ``os.read``, which a Ctrl-C interrupts. Whoever still waits at the end of the
    context goes on, so that a failed test ends at once.
    """

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = folder / name
        os.mkfifo(self.path)
        # Both ends, so that opening waits for nobody and a byte may come before its reader.
        self._fd = os.open(self.path, os.O_RDWR)

    @property
    def code(self) -> str:
        """Lines of a cell: print "waiting", then wait for `open`."""
        return (
            "import os as _os\n"
            f"_fd = _os.open({str(self.path)!r}, _os.O_RDONLY)\n"
            "print('waiting', flush=True)\n"
            "_os.read(_fd, 1)\n"
            "_os.close(_fd)\n"
        )

    def open(self, cells: int = 1) -> None:
        """Let so many cells go on."""
        os.write(self._fd, b"." * cells)

    def __enter__(self) -> Gate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)


def joined(outputs: Iterable[Event]) -> list[Event]:
    """Outputs in the notebook format, with what follows on the same stream as one.

    What is printed may come in pieces, even a line and its end: it depends on the time between them.
    """
    found: list[Event] = []
    for output in outputs:
        last = found[-1] if found else {}
        if output["output_type"] == "stream" and output["name"] == last.get("name"):
            found[-1] = {**last, "text": last["text"] + output["text"]}
        else:
            found.append(output)
    return found


class Watcher:
    """An `on_output` that remembers every event and whose thread, and lets a test wait for one."""

    def __init__(self, then: Callable[[Event], object] | None = None) -> None:
        self.events: list[Event] = []
        self.threads: set[str] = set()
        self._then = then
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
        self._queue.put(event)
        if self._then is not None:
            self._then(event)

    @property
    def outputs(self) -> list[Event]:
        """What was seen."""
        return joined(self.events)

    def wait_for(self, text: str = "waiting", within: float = DEADLINE) -> str:
        """The text of the streams up to the event in which `text` has come."""
        end = time.monotonic() + within
        seen = ""
        while text not in seen:
            try:
                event = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text!r} within {within:g} s, but {seen!r}") from None
            seen += str(event.get("text", ""))
        return seen


def value(result: ExecutionResult) -> str:
    """The last expression's value as text."""
    return str(result.data["text/plain"])


def pid(pool: KernelPool) -> int:
    """The process id of the worker that serves next."""
    return int(value(pool.execute("import os; os.getpid()")))


def pids(pool: KernelPool) -> dict[int, int | None]:
    """Process ids of all workers, by worker id."""
    return {worker.id: worker.pid for worker in pool.get_status().workers}


def states(pool: KernelPool) -> list[str]:
    """The workers' states, sorted."""
    return sorted(worker.state for worker in pool.get_status().workers)
