"""stdout and stderr of a worker.

What Python writes is buffered and sent soon: a first line at once, then at most
every `flush_interval`. `flush` sends in the calling thread and waits for nobody.

Whoever flushes after every line (logging does) is sent at once as well, until it
becomes a flood; then the interval holds for flushes too.

What C code and child processes write to the descriptors 1 and 2 lands in a
pipe that the iopub thread reads. Whoever writes or flushes reads it first, so
that text keeps its order, and everything written before a request's end is
sent before its reply.

                    print ──────────────┐
    child, C code ── fd 1, 2 ── pipe ── buffer ── iopub
                                  └── (fd 2 only) the owner's stderr pipe

How much is sent is limited in `limit`; what waits here is bounded by `_MOST`.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ipykernel.iostream import OutStream
from jupyter_client.session import extract_header

from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.limit import Passing

__all__ = ["PoolOutStream", "finish_request", "send_streams"]

_READ_SIZE = 1 << 16
# POSIX: a pipe that polls writable takes this many bytes without blocking.
_PIPE_BUF = getattr(select, "PIPE_BUF", 512)
#: How many characters wait for the next send at most, apart from one text that is longer.
_MOST = 1 << 18
#: How many flushes may follow each other without a pause.
_FLUSHES = 50


# The pipes of both streams, to be looked at together.
_pipes = select.poll() if hasattr(select, "poll") else None

# One lock for both streams, since each sends what the other one holds before it takes text.
_LOCK = threading.RLock()
#: This is a forked child of the worker. (To ask for the process id would cost a system call.)
_FORKED = False
#: The stream that text was written to last.
_last: PoolOutStream | None = None


def _after_fork_in_child() -> None:
    global _FORKED
    _FORKED = True
    _LOCK.release()


class PoolOutStream(OutStream):
    """A text stream that publishes on iopub.

    Leans on OutStream: the constructor's arguments and its call of
    `_setup_stream_redirects(name)`; `parent_header` (and `_parent_header_global`
    for other threads), `_hooks`, `topic`, `session`, `pub_thread`, `_io_loop`,
    `_master_pid` (checked on ipykernel 7.4).
    """

    flush_interval = 0.05  # seconds between two sends of a stream that is written to
    first_delay = 0.01  # seconds: a write without a line's end waits for the rest this long

    def __init__(
        self, session: Any, pub_thread: Any, name: str, *, watchfd: Any = True, **kwargs: Any
    ) -> None:
        self._lock = _LOCK
        # One entry per run of writes with the same parent: (parent header, texts).
        self._chunks: list[tuple[dict[str, Any], list[str]]] = []
        self._waiting = 0  # characters
        self._flushes = float(_FLUSHES)
        self._flushed = 0.0
        self._timer_set = False
        self._pausing = False
        self._next_send = 0.0
        self._child_text = ""
        self._original_stdstream_fd: int = {"stdout": 1, "stderr": 2}[name]
        self._pipe_write = -1
        self._pipe_size = _READ_SIZE
        # Whether the pipe holds anything, in half the time that an attempt to read takes.
        self._has_data: Callable[[int], Any] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        # "force": ipykernel does not capture when the variables say that pytest
        # runs, but a pool used by somebody's tests must behave as elsewhere.
        watch: Any = "force" if watchfd and os.name == "posix" else False
        global _FORKED
        _FORKED = False  # forked or not, this process is the worker
        super().__init__(session, pub_thread, name, watchfd=watch, **kwargs)

    # -- writing ---------------------------------------------------------------

    def write(self, string: str) -> int:
        """Take text; it is sent soon, or with the next `flush`."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if self.pub_thread is None:
            raise ValueError("I/O operation on closed file")
        if _FORKED:
            self._write_in_child(string)
            return len(string)
        parent = self.parent_header
        with GATE.hold, self._lock:
            self._drain()
            self._append(parent, string)
            if self._waiting > _MOST:
                self._send()
            elif self._pausing:
                pass  # the timer is set for the end of the pause
            elif (wait := self._next_send - time.monotonic()) > 0:
                self._send_later(wait)
                self._pausing = True
            elif "\n" in string:
                self._send()
            else:
                self._send_later(self.first_delay)
        return len(string)

    def flush(self) -> None:
        """Send all text so far, including what the descriptor has received; in a flood, soon."""
        if self.pub_thread is not None and self._may_flush():
            self.send_now()

    def _may_flush(self) -> bool:
        if _FORKED:
            return True
        with GATE.hold, self._lock:
            now = time.monotonic()
            regained = (now - self._flushed) / self.flush_interval
            self._flushes = min(float(_FLUSHES), self._flushes + regained)
            self._flushed = now
            if self._flushes >= 1 or not self._chunks:
                self._flushes -= 1 if self._chunks else 0
                return True
            self._send_later(max(0.0, self._next_send - now))
            return False

    def send_now(self) -> None:
        """Send all text so far, whatever there was before."""
        if self.pub_thread is None:
            return
        if _FORKED:
            self._flush_child()
            return
        with GATE.hold, self._lock:
            self._drain()
            self._send()

    def finish_request(self) -> None:
        """Send everything; what is left of a broken character does not outlive the request."""
        with GATE.hold, self._lock:
            self._drain()
            if self._decoder.getstate()[0]:
                self._append(self._parent_header_global, self._decoder.decode(b"", final=True))
            self._send()
            self._flushes = float(_FLUSHES)  # those of the next request are its own

    def set_parent(self, parent: dict[str, Any]) -> None:
        """Set the message that what is written from now on belongs to."""
        self.parent_header = extract_header(parent)

    def _append(self, parent: dict[str, Any], text: str) -> None:
        if not text:
            return
        global _last
        if _last is not self:
            # What was written first is sent first, whichever stream it went to.
            if _last is not None and _last._chunks and _last.pub_thread is not None:
                _last._send()
            _last = self
        self._waiting += len(text)
        if self._chunks and self._chunks[-1][0] is parent:
            self._chunks[-1][1].append(text)
        else:
            self._chunks.append((parent, [text]))

    def _send(self) -> None:
        """Serialise and enqueue in this thread; the lock keeps the order."""
        if not self._chunks:
            return
        chunks, self._chunks, self._waiting = self._chunks, [], 0
        self._next_send = time.monotonic() + self.flush_interval
        for parent, texts in chunks:
            with self.pub_thread.lock:
                text = self.pub_thread.limit.fit(self.name, texts, parent)
                if text:
                    self._publish(text, parent)

    def _publish(self, text: str, parent: dict[str, Any]) -> None:
        message = self.session.msg("stream", {"name": self.name, "text": text}, parent=parent)
        for hook in self._hooks:
            message = hook(message)
            if message is None:
                return
        with Passing(self.pub_thread.limit):
            self.session.send(self.pub_thread, message, ident=self.topic)

    def _send_later(self, delay: float) -> None:
        if self._timer_set:
            return
        self._timer_set = True
        loop = self._io_loop.asyncio_loop
        try:
            loop.call_soon_threadsafe(loop.call_later, delay, self._on_timer)
        except RuntimeError:  # the loop is closed: the process is about to end
            self._send()

    def _on_timer(self) -> None:
        with self._lock:
            self._timer_set = self._pausing = False
            if self.pub_thread is not None:
                self._send()

    def _write_in_child(self, string: str) -> None:
        # A forked child has no iopub thread. Its text takes the way of every
        # child's output, through the descriptor, which its parent captures; by
        # lines, so that those of several children do not mix.
        self._child_text += string
        if "\n" in string or len(self._child_text) > _PIPE_BUF:
            self._flush_child()

    def _flush_child(self) -> None:
        data, self._child_text = self._child_text.encode("utf-8", "replace"), ""
        while data:
            data = data[os.write(self._original_stdstream_fd, data) :]

    # -- the captured descriptor -----------------------------------------------

    def fileno(self) -> int:
        """The descriptor that is captured, so that ``run(..., stdout=sys.stdout)`` is too."""
        if self._fid is None:
            raise io.UnsupportedOperation("fileno")
        return self._original_stdstream_fd

    def _setup_stream_redirects(self, name: str) -> None:
        import fcntl  # not on Windows, where nothing is captured

        fd = self._original_stdstream_fd
        read, write = os.pipe()
        os.set_blocking(read, False)
        if hasattr(fcntl, "F_GETPIPE_SZ"):  # Linux; elsewhere no pipe is larger than one read
            self._pipe_size = fcntl.fcntl(read, fcntl.F_GETPIPE_SZ)
        try:
            self._original_stdstream_copy = os.dup(fd)
        except OSError:  # started without this descriptor
            self._original_stdstream_copy = os.open(os.devnull, os.O_WRONLY)
        os.dup2(write, fd)
        # Kept: the pipe never reports its end, and a request that redirected
        # the descriptor can be undone.
        self._pipe_write = write
        self._fid = read
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(read, select.POLLIN)
            self._has_data = poll.poll
            assert _pipes is not None
            _pipes.register(read, select.POLLIN)
        self._io_loop.add_callback(
            self._io_loop.add_handler, read, self._on_readable, self._io_loop.READ
        )

    @property
    def captured_fd(self) -> int | None:
        """The pipe's end that we read; on Linux the owner can read it when we are dead."""
        return self._fid

    def restore_descriptor(self) -> None:
        """Capture the descriptor again if user code redirected or closed it."""
        if self._fid is not None:
            # Looking whether it is the same still would cost more.
            os.dup2(self._pipe_write, self._original_stdstream_fd)

    def _on_readable(self, fd: int, events: int) -> None:
        with self._lock:
            self._drain()
            if self._waiting > _MOST:
                self._send()
            elif self._chunks:
                self._send_later(max(0.0, self._next_send - time.monotonic()))

    def _drain(self) -> None:
        """Move what the descriptor has received into the buffer; never blocks.

        What is written meanwhile is for the next time: somebody may write for ever.
        """
        if self._fid is None or (self._has_data is not None and not self._has_data(0)):
            return
        received = 0
        while received < self._pipe_size:
            try:
                data = os.read(self._fid, _READ_SIZE)
            except OSError:  # empty
                return
            if not data:
                return
            if self.name == "stderr":
                self._echo(data)
            self._append(self._parent_header_global, self._decoder.decode(data))
            received += len(data)
            if len(data) < _READ_SIZE:
                return

    def _echo(self, data: bytes) -> None:
        """Pass C-level stderr on to the owner, who may need it when we die.

        Never waits: an owner who does not read loses it, not us.
        """
        if not hasattr(select, "poll"):
            return
        poll = select.poll()
        poll.register(self._original_stdstream_copy, select.POLLOUT)
        while data:
            if not poll.poll(0):
                return
            try:
                data = data[os.write(self._original_stdstream_copy, data[:_PIPE_BUF]) :]
            except OSError:
                return

    def close(self) -> None:
        """Send what is left and give the descriptor back."""
        if self.pub_thread is None:
            return
        self.flush()
        if self._fid is not None:
            os.dup2(self._original_stdstream_copy, self._original_stdstream_fd)
            if _pipes is not None:
                _pipes.unregister(self._fid)
            self._fid = None
        self.pub_thread = None


def finish_request(out: PoolOutStream, err: PoolOutStream) -> None:
    """As both streams' `finish_request`, quicker where nothing was written."""
    with _LOCK:
        # Under the lock: nobody has taken text out of a pipe and not yet put it down.
        if (
            _pipes is not None
            and not out._chunks
            and not err._chunks
            and not out._decoder.getstate()[0]
            and not err._decoder.getstate()[0]
            and not _pipes.poll(0)
        ):
            out._flushes = err._flushes = float(_FLUSHES)
            return
    out.finish_request()
    err.finish_request()


def send_streams() -> None:
    """Send what was written so far, so that what is published next comes after it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, PoolOutStream):
            stream.send_now()
        else:
            stream.flush()


# Fork only while nobody holds the lock: a child would wait for it for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_after_fork_in_child
    )
