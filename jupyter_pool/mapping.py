"""Private mappings of files in shared memory: writable, and nobody else sees what is written.

`map_private` maps for one holder. A `Mapping` stays when its holder lets go, for the next one: then what
was written is undone, page by page by the system, and what was only read need not be mapped again.

Standard library only; Linux.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Any

__all__ = ["LostSegment", "Mapping", "map_private"]


_PROT_NONE = 0
_MAP_FIXED = 0x10
_FAILED = (None, ctypes.c_void_p(-1).value)


class LostSegment(OSError):
    """Shared memory that a message promises is not there: somebody removed it."""


@functools.cache
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


class Mapping:
    """One private mapping, lent to one holder after another.

    It needs no descriptor while it lasts, unlike `mmap.mmap`, which keeps one: thousands of arrays
    are no trouble.

    Raises
    ------
    OSError
        There are too many mappings, or there is too little memory.
    """

    def __init__(self, fds: Sequence[int], size: int, part: int) -> None:
        libc = _libc()
        # First a place for all, then the files into it, one after another.
        reserved = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = libc.mmap(None, size, _PROT_NONE, reserved, -1, 0)
        if address in _FAILED:
            raise OSError(ctypes.get_errno(), "there is no place for it")
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        for at, fd in zip(range(0, size, part), fds, strict=True):
            length = min(part, size - at)
            flags = mmap.MAP_PRIVATE | _MAP_FIXED
            if libc.mmap(address + at, length, protection, flags, fd, 0) in _FAILED:
                # What was reserved is not given back: it may be somebody else's by now.
                raise OSError(ctypes.get_errno(), "it cannot be mapped")
        self._address: int = address
        self._size = size
        self._lent: weakref.ref[Any] | None = None
        # At exit all of it goes anyway, and who still has an array may look at it until then.
        weakref.finalize(self, libc.munmap, address, size).atexit = False

    def lend(self) -> Any | None:
        """A buffer over it, as the file is; None if somebody still has the last one."""
        if self._lent is not None and (self._lent() is not None or not self._undo()):
            return None
        buffer: Any = (ctypes.c_char * self._size).from_address(self._address)
        buffer.mapping = self  # which lasts as long as any view of it
        self._lent = weakref.ref(buffer)
        return memoryview(buffer).cast("B")

    def _undo(self) -> bool:
        """Give up the pages that were written; whether that could be done."""
        if not self._is_written():
            return True
        undone: int = _libc().madvise(self._address, self._size, mmap.MADV_DONTNEED)
        return undone == 0

    def _is_written(self) -> bool:
        first = self._address // mmap.PAGESIZE
        pages = -(-self._size // mmap.PAGESIZE)
        try:
            with open("/proc/self/pagemap", "rb", buffering=0) as file:
                found = os.pread(file.fileno(), 8 * pages, 8 * first)
        except OSError:
            return True  # forbidden here: be on the safe side
        return len(found) != 8 * pages or 1 in found[7::8].translate(_WRITTEN)


#: By the last byte of a page's entry: whether it is there, in memory or swapped (bits 63 and 62), and
#: not the file's (61), so a copy that was made for a write (Documentation/admin-guide/mm/pagemap.rst).
_WRITTEN = bytes(bool(byte & 0xC0) and not byte & 0x20 for byte in range(256))


def map_private(fds: Sequence[int], size: int, part: int) -> Any:
    """A writable buffer over `size` bytes of files, whose changes nobody else sees.

    Each file holds `part` bytes, a multiple of the page size; the last one the rest.

    Where it cannot be mapped its bytes are read.
    """
    try:
        return Mapping(fds, size, part).lend()
    except OSError:
        return _read(fds, size, part)


def _read(fds: Sequence[int], size: int, part: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        number, offset = divmod(done, part)
        count = os.preadv(fds[number], [view[done : (number + 1) * part]], offset)
        if not count:
            raise LostSegment(errno.EIO, "it is shorter than it was")
        done += count
    return data
