"""How messages leave a worker: at once, in the thread that makes them.

ipykernel hands every iopub message to a background thread, which costs two
thread switches each and loses the last messages of a process that dies. A ZMQ
socket may be used from several threads if a lock lies between; then a message
is in the hands of ZMQ's own I/O thread, which needs no interpreter, when the
call returns. ipykernel's thread stays for what is periodic: streams and pipes.

Waking ZMQ's thread is the dearest part of sending (up to a quarter of a
millisecond on a virtual machine), so messages that follow each other anyway
are corked and leave together: busy with execute_input, the result with the
reply and idle.
"""

from __future__ import annotations

import json
import os
import threading
from hmac import compare_digest
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread
from jupyter_client.adapter import adapt
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session, json_packer
from zmq.eventloop.zmqstream import ZMQStream

from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.limit import OutputLimit

__all__ = ["DirectIOPub", "PoolSession", "ShellStream"]

_SNDMORE = int(zmq.SNDMORE)  # plain: arithmetic on pyzmq's flags costs more than a send
_POLLIN = int(zmq.POLLIN)


def _send_all(socket: Any, frames: list[Any], copy: bool) -> None:
    for frame in frames[:-1]:
        socket.send(frame, _SNDMORE, copy)
    socket.send(frames[-1], 0, copy)


class DirectIOPub(IOPubThread):
    """ipykernel's iopub thread, except that nobody waits for it.

    Leans on IOPubThread: `send_multipart` is what BackgroundSocket calls,
    `_setup_xpub_listener` and `_handle_subscription` are the only readers of
    the socket, `_master_pid` is the process that owns it (checked on 7.4).
    """

    def __init__(self, socket: Any, *, session: Any) -> None:
        self.lock = threading.RLock()
        self._corked = False
        self._waiting: list[tuple[list[Any], bool]] = []
        #: What the running request may send; to be asked and told under `lock`.
        self.limit = OutputLimit(self._say, self.send_multipart)
        # Forked children would publish through an unencrypted TCP port; their
        # text comes through the captured descriptors, see `streams`.
        super().__init__(socket, pipe=False, session=session)

    def _setup_xpub_listener(self) -> None:
        self.io_loop.add_handler(self.socket, self._on_socket_event, self.io_loop.READ)

    def _on_socket_event(self, fd: Any, events: int) -> None:
        with self.lock:
            self._read_subscriptions()

    def _read_subscriptions(self) -> None:
        while self.socket is not None and self.socket.getsockopt(zmq.EVENTS) & _POLLIN:
            self._handle_subscription(self.socket.recv_multipart(zmq.NOBLOCK))

    def send_multipart(self, msg: list[Any], flags: int = 0, copy: bool = True, **_: Any) -> None:
        """Send from the calling thread, in the order of the calls."""
        if os.getpid() != self._master_pid:
            return  # a forked child must not touch its parent's socket
        with GATE.hold, self.lock:
            if not self.limit.admit(msg):
                return
            self._waiting.append((msg, copy))
            if not self._corked:
                self._send_waiting()

    def begin_request(self, limit: int | None, header: dict[str, Any]) -> None:
        """Count the output of a request with this header; `limit` is in bytes."""
        with self.lock:
            self.limit.begin(limit, header)

    def finish_request(self) -> int:
        """Send the end of what exceeded the limit. Returns how much was left out."""
        with self.lock:
            return self.limit.finish()

    def _say(self, name: str, text: str, parent: dict[str, Any]) -> None:
        message = self.session.msg("stream", {"name": name, "text": text}, parent=parent)
        self.session.send(self, message, ident=f"stream.{name}".encode())

    def cork(self) -> None:
        """Keep messages back until `uncork`, which must follow soon."""
        self._corked = True

    def uncork(self) -> None:
        """Send what was kept back."""
        with GATE.hold, self.lock:
            self._corked = False
            if self._waiting:
                self._send_waiting()

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if self.socket is None:
            return
        for frames, copy in waiting:
            _send_all(self.socket, frames, copy)
        # Sending may have swallowed the socket's wake-up for a new
        # subscription (ZMQ's descriptor is edge-triggered): look ourselves.
        if self.socket.getsockopt(zmq.EVENTS) & _POLLIN:
            self._read_subscriptions()

    def close(self) -> None:
        """Close the socket, once the thread has stopped."""
        with self.lock:
            self._corked = False
            if self._waiting:
                self._send_waiting()
            super().close()


class ShellStream(ZMQStream):
    """The shell channel, read by the main loop; replies leave at once.

    Leans on ZMQStream: `_update_handler(_state)` looks for messages whose
    wake-up a send has swallowed (checked on pyzmq 27).
    """

    def send_multipart(
        self, msg: Any, flags: int = 0, copy: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Send now, in the calling (main) thread, instead of from the loop."""
        with GATE.hold:
            _send_all(self.socket, msg, copy)
            self._update_handler(self._state)

    def flush(self, flag: int = _POLLIN, limit: int | None = None) -> int:
        """Hand over what has arrived, if asked to; nothing ever waits to be sent."""
        return super().flush(zmq.POLLIN, limit) if flag & _POLLIN else 0


class PoolSession(Session):
    """A session that packs faster, and leaves the user's random generator alone.

    Leans on Session's `pack`, which `serialize` calls for each part of a
    message, and on its `_cull_digest_history` (checked on jupyter_client 8.10).
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._parent: tuple[Any, bytes] = (None, b"")
        self._pack_other = self.pack
        if self.pack is json_packer:
            self._pack_other = _pack_json
        self.pack = self._pack

    def open_request(self, frames: list[Any]) -> dict[str, Any]:
        """Verify and unpack a request, and remember its header for the answers.

        As `deserialize`, except that dates stay text: nobody here reads them,
        parsing costs a third of it all, and the header goes back as it came.

        Parameters
        ----------
        frames
            The message from its signature on, as ZMQ frames.

        Raises
        ------
        ValueError, TypeError
            Unsigned, wrongly signed, seen before, too short, or no JSON.
        """
        parts = [frame.bytes for frame in frames[:5]]
        if len(parts) < 5:
            raise TypeError(f"a message has at least 5 parts, not {len(parts)}")
        if self.auth is not None:
            signature = parts[0]
            if not compare_digest(signature, self.sign(parts[1:])):
                raise ValueError(f"invalid signature {signature!r}")
            if signature in self.digest_history:
                raise ValueError(f"signature {signature!r} was seen before")
            self._add_digest(signature)
        header, parent, metadata, content = map(self.unpack, parts[1:])
        self._parent = (header, parts[1])
        message = {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": parent,
            "metadata": metadata,
            "content": content,
            "buffers": [frame.buffer for frame in frames[5:]],
        }
        # Also what clients of older protocol versions send.
        return message if str(header.get("version")).startswith("5.") else adapt(message)

    def _pack(self, value: Any) -> bytes:
        parent, packed = self._parent
        if value is parent:
            return packed
        return self._pack_other(value)  # type: ignore[no-any-return]

    def _cull_digest_history(self) -> None:
        # Any tenth will do; jupyter_client draws it from `random`.
        for digest in list(self.digest_history)[: max(1, len(self.digest_history) // 10)]:
            self.digest_history.discard(digest)


# `json.dumps` makes an encoder for each call when it is given options.
_encode = json.JSONEncoder(default=json_default, ensure_ascii=False, allow_nan=False).encode


def _pack_json(value: Any) -> bytes:
    try:
        return _encode(value).encode("utf8", errors="surrogateescape")
    except (TypeError, ValueError):
        return json_packer(value)  # which cleans, and warns
