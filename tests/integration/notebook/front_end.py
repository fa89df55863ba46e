"""A notebook's kernel, as a front end sees it: what is sent for each cell, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

import pytest

from support.own_kernel import DEADLINE, OwnKernel

__all__ = ["DEADLINE", "Message", "Notebook", "Run"]

Message = dict[str, Any]


@dataclass
class Run:
    """What one cell gave: its reply, and its messages without status and input."""

    reply: dict[str, Any]
    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> str:
        return str(self.reply["status"])

    @property
    def kinds(self) -> list[str]:
        return [message["msg_type"] for message in self.messages]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m["content"] for m in self.messages if m["msg_type"] == kind]

    def stream(self, name: str) -> str:
        return "".join(c["text"] for c in self.of("stream") if c["name"] == name)

    @property
    def text(self) -> str:
        """The value of the last expression as text."""
        (content,) = self.of("execute_result")
        return str(content["data"]["text/plain"])


class Notebook(OwnKernel):
    """A Python kernel with the extension loaded."""

    def send(self, code: str, **options: Any) -> str:
        return str(self.client.execute(code, **options))

    def result(self, request: str, until: Callable[[Message], object] | None = None) -> Run:
        """Collect what belongs to a request, to its end (and calls `until` with each message).

        What follows on the same stream is one text, as front ends show it: what is printed may come
        in pieces, even a line and its end.
        """
        messages: list[Message] = []
        while True:
            message = self._get(self.client.get_iopub_msg, time.monotonic() + DEADLINE)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind = message["msg_type"]
            if kind == "status" and message["content"]["execution_state"] == "idle":
                break
            if kind not in ("status", "execute_input"):
                if kind == "stream" and messages and _stream(messages[-1]) == _stream(message):
                    messages[-1]["content"]["text"] += message["content"]["text"]
                else:
                    messages.append(message)
                if until is not None:
                    until(messages[-1])
        end = time.monotonic() + DEADLINE
        while True:
            reply = self._get(self.client.get_shell_msg, end)
            if reply["parent_header"].get("msg_id") == request:
                return Run(reply["content"], messages)

    def run(self, code: str, **options: Any) -> Run:
        return self.result(self.send(code, **options))

    def ok(self, code: str) -> Run:
        run = self.run(code)
        assert run.status == "ok", "\n".join(run.reply.get("traceback", [])) or run.stream("stderr")
        return run

    def rest(self, workers: int = 2) -> None:
        """Wait until the default pool has so many workers, and nothing to do."""
        self.ok(
            "import time\nfrom jupyter_pool import get_pool\n"
            f"while [w.state for w in get_pool().get_status().workers] != ['idle'] * {workers}:\n"
            "    time.sleep(0.01)"
        )

    def ask(self, kind: str, content: dict[str, Any] | None = None, **header: Any) -> Message:
        """Send a request on the shell channel; the content of its reply. Others' replies are dropped."""
        request = self.client.session.msg(kind, content or {})
        request["header"].update(header)
        self.client.shell_channel.send(request)
        end = time.monotonic() + DEADLINE
        while True:
            reply = self._get(self.client.get_shell_msg, end)
            if reply["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                return dict(reply["content"])

    def tell_widget(self, comm: str, **content: Any) -> None:
        """Send what a view of this widget sends: a custom message."""
        data = {"method": "custom", "content": content}
        message = self.client.session.msg("comm_msg", {"comm_id": comm, "data": data})
        self.client.shell_channel.send(message)

    @contextmanager
    def subshell(self) -> Iterator[str]:
        """What takes messages while a cell runs, as JupyterLab has it for comms."""
        subshell = self._control("create_subshell_request", {})["subshell_id"]
        try:
            yield subshell
        finally:
            self._control("delete_subshell_request", {"subshell_id": subshell})

    def _control(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        self.client.control_channel.send(self.client.session.msg(kind, content))
        return dict(self.client.get_control_msg(timeout=DEADLINE)["content"])

    @staticmethod
    def _get(get: Callable[..., Message], end: float) -> Message:
        try:
            return get(timeout=max(0.0, end - time.monotonic()))
        except Empty:
            pytest.fail(f"the kernel was silent for {DEADLINE:g} s")


def _stream(message: Message) -> str | None:
    """Which stream a message has text of."""
    return message["content"].get("name") if message["msg_type"] == "stream" else None
