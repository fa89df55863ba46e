"""Large frames on one machine: written once into shared memory, mapped by whoever gets them.

    sender                         /dev/shm/jupyter-pool-…          receiver
    share(frame) ── one copy ────▶ a file ◀──── private mapping ──── receive(frames)
    the message ─── descriptor: name, size, signature ─────────────▶

The folder belongs to one owner (mode 0700, a name that cannot be foreseen) and goes with it: removed
when its engine ends, by the guardian if the owner is killed, and by the next owner if that was killed
too. A file in it goes when it is no longer needed to pass something on, the memory when the last
mapping of it goes.

Mappings are private: whoever writes to one gets pages of its own (copy on write), so nobody sees what
another does to a value, and a value is writable on both sides.

Files are filled by ``write``, which reserves every page before it is used: what is full says so
(ENOSPC) and the frame travels as an ordinary one. Only a store into a *mapping* of a file without its
pages would be SIGBUS, and there is none. For others who use ``/dev/shm`` less carefully a part of it
is left free.

Descriptors ride where Jupyter's signature does not reach, so they have one of their own. Nobody else
can enter the folder; against code in the worker itself it is no protection, as the pool has none.

Standard library only, on Linux; elsewhere, and for workers on other machines, frames travel as frames.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hmac
import itertools
import mmap
import os
import re
import secrets
import shutil
import stat
import struct
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from jupyter_pool.mapping import LostSegment, Mapping, map_private

__all__ = ["SHARE_FROM", "Descriptor", "LostSegment", "Segment", "SharedMemory"]

#: Frames of so many bytes and more are shared. New pages of shared memory cost more than copies through
#: memory that is in use already, so a single small value is quicker without (2 MB: 4.2 against 5.8 ms,
#: 100 MB: 89 against 80 ms); but such copies are made by the one thread that serves all workers.
SHARE_FROM = 1 << 22

#: Where the folders are made: a file system in memory.
ROOT = "/dev/shm"  # noqa: S108 - in it a folder that only this user can enter
_PREFIX = "jupyter-pool-"
_LOCK = "lock"
#: A folder without a lock is being made, unless it is older than this, in seconds.
_MAKING = 60.0
#: One part in so many of the file system is left to others.
_LEFT_FREE = 4
#: Bytes of one write: between two of them a Ctrl-C is heard.
_CHUNK = 1 << 24

#: From this size on a frame is written by several threads at once: most of the time goes into new pages,
#: not into copying. Each has a file of its own, since a file has one writer at a time.
SPLIT_FROM = 1 << 24
_MOST_PARTS = 4

_MAGIC = b"\x93jpshm1\n"
_HEAD = struct.Struct("<8sQQ48s")
_DESCRIPTOR_SIZE = _HEAD.size + 32
_NAME = re.compile(rb"[a-z0-9-]+\.[0-9]+")

Descriptor = bytes
_T = TypeVar("_T")


class Segment:
    """A frame in shared memory, not yet passed on for good. Its file goes with this object."""

    __slots__ = ("__weakref__", "_finalizer", "part", "path", "size")

    def __init__(self, path: str, size: int, part: int) -> None:
        self.path = path
        self.size = size
        #: How much of it is in each of its files.
        self.part = part
        self._finalizer = weakref.finalize(self, _unlink, _parts(path, size, part), os.getpid())

    @property
    def buffer(self) -> Any:
        """A private mapping of it."""
        return _with_files(self.path, self.size, self.part, map_private)

    def release(self) -> None:
        """Remove the file now. Who has mapped it keeps the memory."""
        self._finalizer()

    def hand_over(self) -> None:
        """From here on the receiver removes it."""
        self._finalizer.detach()

    def __repr__(self) -> str:
        return f"<Segment {os.path.basename(self.path)}, {self.size} bytes>"


class SharedMemory:
    """One process's access to an owner's folder. Thread-safe."""

    def __init__(self, folder: str, key: bytes, sender: str, share_from: int) -> None:
        self.folder = folder
        #: From how many bytes on.
        self.share_from = share_from
        self._key = key
        self._sender = sender
        self._numbers = itertools.count(1)
        self._lock_fd = -1

    # -- its life ----------------------------------------------------------------------------

    @classmethod
    def make(cls) -> SharedMemory | None:
        """A new folder; None where there can be none."""
        if not sys.platform.startswith("linux"):
            return None
        _sweep(ROOT)
        try:
            # Whose it is, for people who look there; nothing here goes by it (see _sweep).
            folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=ROOT)
        except OSError:
            return None
        made = cls(folder, secrets.token_bytes(32), "o", SHARE_FROM)
        try:
            made._lock_fd = os.open(
                os.path.join(folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(made._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            made.close()
            return None
        return made

    def close(self) -> None:
        """Remove the folder with all that is in it. What is mapped stays mapped."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def invitation(self, sender: str) -> dict[str, Any]:
        """What a worker needs to take part; it travels signed."""
        return {
            "folder": self.folder,
            "key": self._key.hex(),
            "sender": sender,
            "from": self.share_from,
        }

    @classmethod
    def join(cls, invitation: Any) -> SharedMemory:
        """A worker's access.

        Raises
        ------
        ValueError
            This is no invitation.
        """
        try:
            return cls(
                str(invitation["folder"]),
                bytes.fromhex(invitation["key"]),
                str(invitation["sender"]),
                int(invitation["from"]),
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"no invitation to shared memory: {error!r}") from error

    def clear(self, sender: str) -> None:
        """Remove what a sender that is gone had not passed on."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                if name.startswith(f"{sender}."):
                    _unlink([os.path.join(self.folder, name)], os.getpid())

    # -- sending -----------------------------------------------------------------------------

    def share(self, *frames: Any) -> Segment | None:
        """Copy frames into one segment, one after another; None: there is no room for it."""
        views = [memoryview(frame).cast("B") for frame in frames]
        size = sum(view.nbytes for view in views)
        if not size or not self._has_room(size):
            return None
        path = os.path.join(self.folder, f"{self._sender}.{next(self._numbers)}")
        part = _part_size(size) if len(views) == 1 else size
        segment = Segment(path, size, part)
        try:
            if part < size:
                _write_parts(_parts(path, size, part), views[0], part)
            else:
                _write(path, views)
        except OSError:  # full, or over a limit
            segment.release()
            return None
        except BaseException:
            segment.release()
            raise
        return segment

    def _has_room(self, size: int) -> bool:
        try:
            disk = os.statvfs(self.folder)
        except OSError:
            return False
        left = disk.f_bavail - disk.f_blocks // _LEFT_FREE
        return size <= left * disk.f_frsize

    def share_large(self, frames: Iterable[Any]) -> list[Any]:
        """The frames, with the large ones in shared memory as far as there is room."""
        return [
            (self.share(frame) or frame) if memoryview(frame).nbytes >= self.share_from else frame
            for frame in frames
        ]

    def describe(self, segment: Segment) -> Descriptor:
        """The frame that is sent in its place."""
        name = os.path.basename(segment.path).encode()
        head = _HEAD.pack(_MAGIC, segment.size, segment.part, name)
        return head + hmac.digest(self._key, head, "sha256")

    def send(self, frames: Iterable[Any]) -> list[Any]:
        """The frames as they are sent to somebody in the same folder, who removes the segments."""
        return [self._sent(frame) for frame in frames]

    def _sent(self, frame: Any) -> Any:
        if not isinstance(frame, Segment):
            return frame
        descriptor = self.describe(frame)
        frame.hand_over()
        return descriptor

    # -- receiving ---------------------------------------------------------------------------

    def receive(self, frames: Iterable[Any], *, keep: bool = False) -> list[Any]:
        """The frames, with private mappings in place of descriptors.

        Parameters
        ----------
        frames
            As they came: bytes, memoryviews, message frames.
        keep
            Leave the files: whoever sent them removes them.

        Raises
        ------
        LostSegment
            A segment is not there, or not what was sent. The others are removed all the same.
        """
        found: list[Any] = []
        lost: tuple[Any, ...] | None = None
        for frame in frames:
            described = self._described(frame)
            if described is None:
                found.append(frame)
                continue
            try:
                found.append(_with_files(*described, map_private))
            except LostSegment as error:
                lost = error.args[0], error.args[1], described[0]
            finally:
                if not keep:
                    _unlink(_parts(*described), os.getpid())
        if lost is not None:
            found.clear()  # a traceback would hold it
            raise LostSegment(*lost)
        return found

    def map(self, frame: Any) -> Mapping | None:
        """A mapping to lend of what a descriptor describes; None: it is none.

        Raises
        ------
        LostSegment
            As `receive`.
        OSError
            It cannot be mapped.
        """
        described = self._described(frame)
        return None if described is None else _with_files(*described, Mapping)

    def _described(self, frame: Any) -> tuple[str, int, int] | None:
        view = frame if isinstance(frame, bytes) else memoryview(getattr(frame, "buffer", frame))
        if len(view) != _DESCRIPTOR_SIZE or view[: len(_MAGIC)] != _MAGIC:
            return None
        head, signature = bytes(view[: _HEAD.size]), bytes(view[_HEAD.size :])
        if not hmac.compare_digest(hmac.digest(self._key, head, "sha256"), signature):
            return None  # somebody's own bytes, which only look like it
        _, size, part, padded = _HEAD.unpack(head)
        name = padded.rstrip(b"\0")
        if not _NAME.fullmatch(name):
            return None
        return os.path.join(self.folder, name.decode()), size, part


# -- files -----------------------------------------------------------------------------------


def _parts(path: str, size: int, part: int) -> list[str]:
    """The files of a segment."""
    return [path, *(f"{path}.{number}" for number in range(1, -(-size // part)))]


def _part_size(size: int) -> int:
    """How much goes into each file of a segment."""
    count = min(_MOST_PARTS, len(os.sched_getaffinity(0)))
    if size < SPLIT_FROM or count < 2:
        return size
    return -(-size // (count * mmap.PAGESIZE)) * mmap.PAGESIZE


def _write(path: str, views: Sequence[memoryview], given_up: Sequence[object] = ()) -> None:
    """Write a file; raises OSError where there is no room."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for view in views:
            done = 0
            while done < view.nbytes and not given_up:
                done += os.write(fd, view[done : done + _CHUNK])
    finally:
        os.close(fd)


def _write_parts(paths: Sequence[str], view: memoryview, part: int) -> None:
    """Write files at the same time; raises OSError where there is no room."""
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            _write(paths[number], [view[number * part : (number + 1) * part]], errors)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, len(paths))]
    begun: list[threading.Thread] = []
    try:
        for number, thread in enumerate(threads, 1):
            try:
                thread.start()
                begun.append(thread)
            except RuntimeError:  # the system gives us no more, or Python is about to end
                write(number)
        write(0)
    except BaseException as error:
        errors.append(error)
        raise
    finally:
        for thread in begun:
            thread.join()
    if errors:
        raise errors[0]


def _unlink(paths: Iterable[str], made_by: int) -> None:
    # A fork of its maker has the object too, but not the say.
    if os.getpid() == made_by:
        for path in paths:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _with_files(
    path: str, size: int, part: int, use: Callable[[Sequence[int], int, int], _T]
) -> _T:
    fds: list[int] = []
    try:
        for number, name in enumerate(_parts(path, size, part)):
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            fds.append(fd)
            found = os.fstat(fd)
            wanted = min(part, size - number * part)
            if not stat.S_ISREG(found.st_mode) or found.st_size != wanted:
                raise LostSegment(errno.EIO, "shared memory is not what was sent", name)
        return use(fds, size, part)
    except LostSegment:
        raise
    except OSError as error:
        raise LostSegment(
            error.errno, f"shared memory cannot be opened: {error.strerror}", path
        ) from error
    finally:
        for fd in fds:
            os.close(fd)


# -- what killed owners left -----------------------------------------------------------------


def _sweep(root: str) -> None:
    """Remove the folders of owners that were killed together with their guardians.

    An owner holds a lock for as long as it lives. (A lock, since process ids mean nothing to somebody
    in another container that shares the file system.)
    """
    try:
        names = [name for name in os.listdir(root) if name.startswith(_PREFIX)]
    except OSError:
        return
    for name in names:
        folder = os.path.join(root, name)
        with contextlib.suppress(OSError):
            found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            if _is_abandoned(folder, found.st_mtime):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: str, changed: float) -> bool:
    try:
        fd = os.open(os.path.join(folder, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - changed > _MAKING
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
