"""A private mapping that is lent to one holder after another: each finds the file as it is."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool.mapping import Mapping

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: shared memory is used on Linux"
)

PAGES = 300
SIZE = PAGES * mmap.PAGESIZE - 100  # the last page is not whole
DATA = os.urandom(SIZE)


@pytest.fixture
def mapping(tmp_path: Path) -> Iterator[Mapping]:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    mapping = Mapping([fd], SIZE, SIZE)
    os.close(fd)
    yield mapping
    assert path.read_bytes() == DATA


def lend(mapping: Mapping) -> Any:
    buffer = mapping.lend()
    assert buffer is not None
    return buffer


@pytest.mark.parametrize(
    "where", [0, 1, mmap.PAGESIZE, SIZE // 2, SIZE - 1], ids="at byte {}".format
)
def test_what_one_holder_wrote_the_next_does_not_see(mapping: Mapping, where: int) -> None:
    for _ in range(3):
        buffer = lend(mapping)
        assert buffer == DATA
        buffer[where] ^= 1
        assert buffer != DATA
        del buffer


def test_all_of_it_may_be_written(mapping: Mapping) -> None:
    for _ in range(2):
        buffer = lend(mapping)
        assert buffer == DATA
        buffer[:] = bytes(SIZE)
        del buffer


def test_it_is_lent_to_one_at_a_time(mapping: Mapping) -> None:
    buffer = lend(mapping)
    part = buffer[10:20]
    assert mapping.lend() is None
    del buffer
    assert mapping.lend() is None
    part[0] ^= 1
    del part
    assert lend(mapping) == DATA


def test_what_was_read_only_stays_mapped(mapping: Mapping) -> None:
    buffer = lend(mapping)
    assert sum(buffer) > 0
    del buffer
    assert resident(mapping) > PAGES // 2
    buffer = lend(mapping)
    assert resident(mapping) > PAGES // 2
    buffer[5] ^= 1
    del buffer
    lend(mapping)
    assert resident(mapping) == 0


def resident(mapping: Mapping) -> int:
    """How many of its pages this process has in its page table."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith(f"{mapping._address:x}-"))
    rss = next(line for line in lines[begin:] if line.startswith("Rss:"))
    return int(rss.split()[1]) * 1024 // mmap.PAGESIZE


def test_where_the_page_table_may_not_be_read_all_is_undone(
    mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: Any) -> bytes:
        raise PermissionError

    monkeypatch.setattr(os, "pread", forbidden)
    for _ in range(2):
        buffer = lend(mapping)
        assert buffer == DATA
        buffer[7] ^= 1
        del buffer


def test_a_buffer_outlives_the_mapping_that_lent_it(mapping: Mapping, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"x" * 5000)
    fd = os.open(path, os.O_RDONLY)
    buffer = lend(Mapping([fd], 5000, 5000))
    os.close(fd)
    path.unlink()
    assert buffer == b"x" * 5000
    assert str(path) in Path("/proc/self/maps").read_text()
    del buffer
    assert str(path) not in Path("/proc/self/maps").read_text()
