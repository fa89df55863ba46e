"""The engine's sockets: three for all workers together.

A ROUTER can name a peer before it connects to it (``CONNECT_ROUTING_ID``), so one ROUTER reaches the
shell channels of any number of kernels, each by the name of its worker; another one their control
channels; and one SUB hears all of them. What a worker costs in descriptors is its three connections.

    shell    ROUTER ──"w7"──▶ ROUTER of worker 7        frames: [b"w7", <IDS|MSG>, …]
    control  ROUTER ──"w7"──▶ ROUTER of worker 7
    iopub    SUB    ◀──────── (X)PUB of every worker
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from jupyter_pool._frames import may_read, receive_frames, send_frames

from .wire import Buffer

_DONTWAIT = int(zmq.DONTWAIT)
#: Messages with a frame of this size, in bytes, are sent without a copy.
_LARGE = 1 << 16
#: A client that comes before the kernel has bound asks again this soon, in milliseconds.
RECONNECT_MS = 5


class Channels:
    """The three sockets for the workers that share one kind of transport security."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.shell = self._open(context, zmq.ROUTER)
        self.control = self._open(context, zmq.ROUTER)
        self.iopub = self._open(context, zmq.SUB)
        self.iopub.subscribe(b"")
        self.all = (self.iopub, self.shell, self.control)

    @staticmethod
    def _open(context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
        socket = context.socket(kind)
        socket.linger = 0
        # iopub must not drop and shell must not block: workers limit their output themselves.
        socket.set_hwm(0)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a peer that is gone is an error
        return socket

    def connect(self, name: bytes, connection: dict[str, Any]) -> None:
        """Connect to one kernel's shell, control and iopub channels."""
        if connection.get("curve_publickey"):
            public, secret = zmq.curve_keypair()
            for socket in self.all:
                socket.curve_serverkey = _bytes(connection["curve_publickey"])
                socket.curve_publickey, socket.curve_secretkey = public, secret
        self.iopub.connect(endpoint(connection, "iopub"))
        for socket, channel in ((self.shell, "shell"), (self.control, "control")):
            socket.setsockopt(zmq.CONNECT_ROUTING_ID, name)
            socket.connect(endpoint(connection, channel))

    def disconnect(self, connection: dict[str, Any]) -> None:
        """Let go of a kernel that is gone, or ZMQ would try to reach it for ever."""
        for socket, channel in (
            (self.iopub, "iopub"),
            (self.shell, "shell"),
            (self.control, "control"),
        ):
            try:
                socket.disconnect(endpoint(connection, channel))
            except zmq.ZMQError as error:
                if error.errno != errno.ENOENT:
                    raise

    def close(self) -> None:
        """Close the sockets, dropping what is unsent."""
        for socket in self.all:
            socket.close(linger=0)


def endpoint(connection: dict[str, Any], channel: str) -> str:
    """The address of one channel of a kernel's connection information."""
    port = connection[f"{channel}_port"]
    if connection["transport"] == "ipc":
        return f"ipc://{connection['ip']}-{port}"
    return f"{connection['transport']}://{connection['ip']}:{port}"


def send(socket: zmq.Socket[bytes], name: bytes, frames: Sequence[Buffer]) -> bool:
    """Send frames to one worker; False if there is no connection to it any more."""
    try:
        copy = max(map(len, frames)) < _LARGE
        send_frames(socket, [name, *frames], copy, _DONTWAIT)
    except zmq.ZMQError as error:
        if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
            return False
        raise
    return True


def receive(socket: zmq.Socket[bytes], limit: int) -> Iterator[list[Buffer]]:
    """Up to `limit` messages that wait on a socket, without waiting for more.

    Frames are copied out of ZMQ's memory, once, and the large ones are writable. Without the copy a
    value would hold its zmq.Frame and free it in the caller's thread, where pyzmq looks for signals
    while it does so: a Ctrl-C that came in that moment would be lost.
    """
    for number in range(limit):
        # One that was found readable has a message, or it was read meanwhile.
        if number and not may_read(socket):
            return
        try:
            frames = receive_frames(socket)
        except zmq.Again:
            return
        yield [frame.bytes if len(frame) < 4096 else bytearray(frame.buffer) for frame in frames]


def _bytes(text: str | bytes) -> bytes:
    return text.encode("ascii") if isinstance(text, str) else text
