"""How code in a worker asks a person: ``input()`` and ``getpass()`` of a pool's request.

The owner of a pool has no stdin channel. It is asked on iopub, and answers on the control channel,
whose thread hears it while the cell waits:

    cell ── input_request ──▶ iopub ──▶ owner ── input_reply ──▶ control ──▶ cell
"""

from __future__ import annotations

import queue
from typing import Any

from jupyter_pool.kernel.shell import no_stdin
from jupyter_pool.kernel.streams import send_streams

__all__ = ["Asking"]

#: A signal that comes just before waiting does not end it: how long it may go unheard, in seconds.
_HEAR_INTERRUPT = 0.5


class Asking:
    """The questions of the code that runs, one at a time."""

    def __init__(self) -> None:
        #: What was answered: a message's content.
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def ask(
        self, session: Any, iopub: Any, parent: dict[str, Any], prompt: str, password: bool
    ) -> str:
        """Ask, in the thread of the cell, and wait for the answer.

        Raises
        ------
        EOFError
            The person has ended the input.
        StdinNotImplementedError
            The asking itself has failed.
        """
        send_streams()
        asked = parent["header"]["msg_id"]
        content = {"prompt": prompt, "password": password}
        session.send(iopub, "input_request", content, parent, ident=b"input")
        while True:
            try:
                answer = self._answers.get(timeout=_HEAR_INTERRUPT)
            except queue.Empty:
                continue
            if answer.get("request") != asked:
                continue  # somebody answered too late
            if answer.get("end"):
                raise EOFError("the end of the input")
            if "error" in answer:
                raise no_stdin("input()", f"asking has failed: {answer['error']}")
            return str(answer.get("value", ""))

    async def on_answer(self, _stream: Any, _ident: list[bytes], message: dict[str, Any]) -> None:
        """The handler of ``input_reply``, in the control channel's thread."""
        self._answers.put(message["content"])
