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

import asyncio
import hashlib
import hmac
import json
import os
import threading
import time
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread
from jupyter_client.adapter import adapt
from jupyter_client.jsonutil import json_default
from jupyter_client.session import Session, json_packer
from zmq.eventloop.zmqstream import ZMQStream

from jupyter_pool._frames import may_read, receive_frames, send_frames
from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.limit import OutputLimit

__all__ = ["DirectIOPub", "PoolSession", "ShellStream"]

_POLLIN = int(zmq.POLLIN)  # plain: arithmetic on pyzmq's flags is dear

#: A call that takes longer than this, in seconds, is announced as busy. Less would be seen by nobody,
#: and what sends has to wake up as often as that while calls come.
_LASTS = 0.03


class DirectIOPub(IOPubThread):
    """ipykernel's iopub thread, except that nobody waits for it.

    Leans on IOPubThread: `send_multipart` is what BackgroundSocket calls,
    `_setup_xpub_listener` and `_handle_subscription` are the only readers of
    the socket, `_master_pid` is the process that owns it (checked on 7.4).
    """

    #: Of the kernel's status messages.
    status_topic = b"status"

    def __init__(self, socket: Any, *, session: Any) -> None:
        self.lock = threading.RLock()
        self._corked = False
        self._waiting: list[tuple[list[Any], bool]] = []
        #: The header of a call that nothing was published of yet, and when it began.
        self._unannounced: dict[str, Any] | None = None
        self._begun = 0.0
        self._watching = False
        #: What the running request may send; to be asked and told under `lock`.
        self.limit = OutputLimit(self._say, self.send_multipart, self._tell_widget)
        # Forked children would publish through an unencrypted TCP port; their
        # text comes through the captured descriptors, see `streams`.
        super().__init__(socket, pipe=False, session=session)

    def _setup_xpub_listener(self) -> None:
        self.io_loop.add_handler(self.socket, self._on_socket_event, self.io_loop.READ)

    def _on_socket_event(self, fd: Any, events: int) -> None:
        with self.lock:
            self._read_subscriptions()

    def _read_subscriptions(self) -> None:
        while self.socket is not None and may_read(self.socket):
            self._handle_subscription(self.socket.recv_multipart(zmq.NOBLOCK))

    def send_multipart(self, msg: list[Any], flags: int = 0, copy: bool = True, **_: Any) -> None:
        """Send from the calling thread, in the order of the calls."""
        if os.getpid() != self._master_pid:
            return  # a forked child must not touch its parent's socket
        with GATE.hold, self.lock:
            if self._unannounced is not None:
                self._announce()
            if not self.limit.admit(msg):
                return
            self._waiting.append((msg, copy))
            if not self._corked:
                self._send_waiting()

    def begin_request(
        self, limit: int | None, header: dict[str, Any], *, comms: bool = False
    ) -> None:
        """Count the output of a request with this header; parameters as of `OutputLimit.begin`."""
        with self.lock:
            self.limit.begin(limit, header, comms=comms)

    def begin_call(self, limit: int | None, header: dict[str, Any], *, comms: bool = False) -> None:
        """As `begin_request`, for a call: it is announced as busy when it lasts, or shows something."""
        with self.lock:
            self.limit.begin(limit, header, comms=comms)
            self._unannounced = header
            self._begun = time.monotonic()
            if not self._watching:
                self._watching = True
                io_loop: Any = self.io_loop  # asyncio's below it has no type of its own
                loop: asyncio.AbstractEventLoop = io_loop.asyncio_loop
                loop.call_soon_threadsafe(loop.call_later, _LASTS, self._watch)

    def _watch(self) -> None:
        """Announce a call that lasts; look again as long as calls come."""
        with self.lock:
            left = self._begun + _LASTS - time.monotonic()
            if left <= 0 and self._unannounced is not None:
                self._announce()
            # A call that came since the last look may last; later ones start a watch themselves.
            self._watching = left > 0
            if self._watching:
                asyncio.get_running_loop().call_later(left, self._watch)

    def _announce(self) -> None:
        header, self._unannounced = self._unannounced, None
        parent, content = {"header": header}, {"execution_state": "busy"}
        self.session.send(self, "status", content, parent, ident=self.status_topic)

    def finish_call(self) -> tuple[bool, int]:
        """As `finish_request`; first: whether the call was announced, so that idle must follow."""
        with self.lock:
            announced, self._unannounced = self._unannounced is None, None
            return announced, self.limit.finish()

    def finish_request(self) -> int:
        """Send the end of what exceeded the limit. Returns how much was left out."""
        with self.lock:
            return self.limit.finish()

    def _say(self, name: str, text: str, parent: dict[str, Any]) -> None:
        message = self.session.msg("stream", {"name": name, "text": text}, parent=parent)
        self.session.send(self, message, ident=f"stream.{name}".encode())

    def _tell_widget(
        self, content: dict[str, Any], metadata: dict[str, Any], parent: dict[str, Any]
    ) -> None:
        message = self.session.msg("comm_msg", content, parent=parent, metadata=metadata)
        self.session.send(self, message, ident=f"comm-{content['comm_id']}".encode())

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
            send_frames(self.socket, frames, copy)
        # Sending may have swallowed the socket's wake-up for a new
        # subscription (ZMQ's descriptor is edge-triggered): look ourselves.
        if may_read(self.socket):
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

    Leans on ZMQStream: `_handle_events` is what the loop calls, `_recv_callback` is
    what `on_recv` was given, always without copies, `_flushed` is set by `flush` (checked on pyzmq 27).
    """

    def _handle_events(self, fd: Any, events: int) -> None:
        """Take one message; a fifth of the steps of ZMQStream's own."""
        socket: Any = self.socket
        if socket is None or self._recv_callback is None or self._recv_copy:
            super()._handle_events(fd, events)
            return
        try:
            frames = receive_frames(socket)
        except zmq.Again:
            return
        self._recv_callback(frames)
        self._look_again()

    def _look_again(self) -> None:
        """ZMQ's descriptor is edge-triggered: what has come meanwhile would not be told of."""
        socket: Any = self.socket
        if socket is not None and not self._again and may_read(socket):
            self._again = True
            self.io_loop.asyncio_loop.call_soon(self._go_on)  # type: ignore[attr-defined]

    _again = False

    def _go_on(self) -> None:
        self._again = False
        self._handle_events(self.socket, 0)

    def send_multipart(
        self, msg: Any, flags: int = 0, copy: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """Send now, in the calling (main) thread, instead of from the loop."""
        with GATE.hold:
            send_frames(self.socket, msg, copy)
            self._look_again()

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
        self._digest_name = self.signature_scheme.partition("-")[2]
        self._hashed: tuple[bytes | None, Any, Any] = (None, None, None)
        self._parent: tuple[Any, bytes] = (None, b"")
        self._last_call: tuple[list[bytes], list[Any]] = ([], [])
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
        parts = self._verified(frames)
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

    def open_call(self, frames: list[Any]) -> dict[str, Any]:
        """As `open_request`, for calls, which mostly differ in their headers and buffers only.

        What is equal to the last call's is not read again: nobody may change the metadata and the
        content of what this returns.
        """
        parts = self._verified(frames)
        header = json.loads(parts[1])
        if parts[3:] != self._last_call[0]:
            self._last_call = (parts[3:], [json.loads(part) for part in parts[3:]])
        metadata, content = self._last_call[1]
        self._parent = (header, parts[1])
        return {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": {},
            "metadata": metadata,
            "content": content,
            "buffers": [frame.buffer for frame in frames[5:]],
        }

    def _verified(self, frames: list[Any]) -> list[bytes]:
        """Signature and JSON parts of a message."""
        parts = [frame.bytes for frame in frames[:5]]
        if len(parts) < 5:
            raise TypeError(f"a message has at least 5 parts, not {len(parts)}")
        if self.auth is not None:
            signature = parts[0]
            if not hmac.compare_digest(signature, self.sign(parts[1:])):
                raise ValueError(f"invalid signature {signature!r}")
            if signature in self.digest_history:
                raise ValueError(f"signature {signature!r} was seen before")
            self._add_digest(signature)
        return parts

    def sign(self, parts: list[bytes]) -> bytes:
        """The signature of a message's parts: HMAC by its definition, in half of its own time.

        What the key alone decides is hashed once.
        """
        if self.auth is None:
            return b""
        key = self.key
        if key is not self._hashed[0]:
            self._hashed = (key, *_hash_key(key, self._digest_name))
        _, inner, outer = self._hashed
        inner, outer = inner.copy(), outer.copy()
        inner.update(b"".join(parts))
        outer.update(inner.digest())
        return outer.hexdigest().encode()  # type: ignore[no-any-return]

    def packed_parent(self, header: Any) -> bytes:
        """The frame of the header of a request that was opened last, or of any other."""
        parent, packed = self._parent
        return packed if header is parent else self._pack_other(header)

    def _pack(self, value: Any) -> bytes:
        parent, packed = self._parent
        if value is parent:
            return packed
        return self._pack_other(value)  # type: ignore[no-any-return]

    def _cull_digest_history(self) -> None:
        # Any tenth will do; jupyter_client draws it from `random`.
        for digest in list(self.digest_history)[: max(1, len(self.digest_history) // 10)]:
            self.digest_history.discard(digest)


def _hash_key(key: bytes, name: str) -> tuple[Any, Any]:
    """The two hashes that an HMAC consists of, with the key in them (RFC 2104)."""
    size = hashlib.new(name).block_size
    block = (hashlib.new(name, key).digest() if len(key) > size else key).ljust(size, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in block) for pad in (0x36, 0x5C))
    return hashlib.new(name, inner), hashlib.new(name, outer)


# `json.dumps` makes an encoder for each call when it is given options.
_encode = json.JSONEncoder(default=json_default, ensure_ascii=False, allow_nan=False).encode


def _pack_json(value: Any) -> bytes:
    try:
        return _encode(value).encode("utf8", errors="surrogateescape")
    except (TypeError, ValueError):
        return json_packer(value)  # which cleans, and warns
