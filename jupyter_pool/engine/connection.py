"""The channels to one worker: every message to it is made, signed and sent here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .sockets import Channels, send
from .wire import Buffer, Signer

if TYPE_CHECKING:
    from jupyter_pool.provisioning.launcher import Launched

    from .loop import Engine

__all__ = ["Connection"]


class Connection:
    """A worker that was launched, as one can write to it. Lives on the I/O thread.

    Attributes
    ----------
    local
        The worker is on this machine, and nobody else reads what it is told.
    signer, shell
        The parts, for calls, which have a shorter way.
    """

    def __init__(self, engine: Engine, name: bytes, launched: Launched) -> None:
        self.name = name
        self.signer = Signer(launched.key, engine.token)
        self._engine = engine
        self._info = launched.connection
        self._channels: Channels | None = None
        # Others may be on another machine, and what they are told not be private.
        self.local = launched.pid is not None and self._info["transport"] == "ipc"

    def open(self) -> None:
        """Connect to the worker. What fails halfway is put right by `close`."""
        self._channels = self._engine.channels(curve=bool(self._info.get("curve_publickey")))
        self.shell = self._channels.shell
        self._control = self._channels.control
        self._channels.connect(self.name, self._info)

    def send(
        self,
        msg_type: str,
        message_id: str,
        content: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Buffer] = (),
        *,
        control: bool = False,
    ) -> None:
        """Send a message on the shell channel, or on the control channel."""
        frames = self.signer.pack(
            message_id,
            msg_type,
            content,
            date=datetime.now(timezone.utc).isoformat(),
            metadata=metadata,
            buffers=buffers,
        )
        # A peer that is gone is found out by its process, which is watched.
        send(self._control if control else self.shell, self.name, frames)

    def execute(
        self,
        message_id: str,
        code: str,
        metadata: dict[str, Any] | None,
        *,
        silent: bool = False,
        allow_stdin: bool = False,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Send an execute_request."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": allow_stdin,
            "stop_on_error": False,
        }
        self.send("execute_request", message_id, content, metadata, buffers)

    def close(self) -> None:
        """Let go of it; the worker is gone."""
        if self._channels is not None:
            self._channels.disconnect(self._info)
            self._channels = None
