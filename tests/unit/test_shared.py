"""Shared memory between processes, without any: frames go in, descriptors travel, mappings come out."""

from __future__ import annotations

import gc
import hmac
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import mapping, shared
from jupyter_pool.shared import LostSegment, Segment, SharedMemory
from support.tiny_disk import tiny_disk

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: shared memory is used on Linux"
)

KB = 1 << 10


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders are made; an ordinary file system does for most."""
    monkeypatch.setattr(shared, "ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(root: Path) -> Iterator[SharedMemory]:
    made = SharedMemory.make()
    assert made is not None
    yield made
    made.close()


@pytest.fixture
def worker(owner: SharedMemory) -> SharedMemory:
    return SharedMemory.join(owner.invitation("w1-1"))


def files(memory: SharedMemory) -> list[str]:
    return sorted(set(os.listdir(memory.folder)) - {"lock"})


def mappings(memory: SharedMemory) -> int:
    return Path("/proc/self/maps").read_text().count(memory.folder)


def shared_frame(memory: SharedMemory, data: Any) -> Segment:
    segment = memory.share(data)
    assert segment is not None
    return segment


# --- there and back -----------------------------------------------------------------------------


def test_a_frame_is_the_same_on_the_other_side_and_its_file_is_gone_once_mapped(
    owner: SharedMemory, worker: SharedMemory
) -> None:
    data = os.urandom(300 * KB)
    sent = worker.send([b"head", shared_frame(worker, data)])
    assert sum(map(len, sent)) < 200
    head, frame = owner.receive(sent)
    assert head == b"head"
    assert bytes(frame) == data
    assert not files(owner)


def test_only_large_frames_are_shared(owner: SharedMemory) -> None:
    owner.share_from = 1000
    small, large = bytes(999), memoryview(bytearray(1000))
    frames = owner.share_large([small, large, b""])
    assert frames[0] is small
    assert isinstance(frames[1], Segment)
    assert frames[2] == b""


def test_several_frames_make_one_segment_and_none_make_none(owner: SharedMemory) -> None:
    segment = owner.share(b"ab", memoryview(b"cd"))
    assert segment is not None
    assert bytes(segment.buffer) == b"abcd"
    assert owner.share() is None
    assert owner.share(b"") is None


@pytest.fixture
def _split(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the smallest frames are written by four threads, also where there is one processor."""
    monkeypatch.setattr(shared, "SPLIT_FROM", 100)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.usefixtures("_split")
@pytest.mark.parametrize("size", [100, 4096, 4097, 3 * 4096, 4 * 4096, 300 * KB + 1])
def test_a_frame_that_several_threads_wrote_is_the_same(
    owner: SharedMemory, worker: SharedMemory, size: int
) -> None:
    data = os.urandom(size)
    segment = shared_frame(worker, data)
    assert len(files(owner)) == min(4, -(-size // 4096))
    assert segment.buffer == data
    [frame] = owner.receive(worker.send([segment]))
    assert frame == data
    frame[:] = bytes(size)
    assert not files(owner)
    segment = shared_frame(owner, data)
    lent = owner.map(owner.describe(segment))
    assert lent is not None
    for _ in range(2):
        buffer = lent.lend()
        assert buffer == data
        assert buffer is not None
        buffer[size - 1] ^= 1
        del buffer
    segment.release()
    assert not files(owner)


@pytest.mark.usefixtures("_split")
def test_all_files_of_a_segment_go(owner: SharedMemory, worker: SharedMemory) -> None:
    segments = [shared_frame(worker, bytes(40 * KB)) for _ in range(3)]
    worker.send(segments[:1])
    segments[1].release()
    del segments
    gc.collect()
    assert len(files(owner)) == 4
    owner.clear("w1-1")
    assert not files(owner)


@pytest.mark.usefixtures("_split")
def test_a_segment_of_which_a_file_is_gone_is_lost(owner: SharedMemory) -> None:
    segment = shared_frame(owner, bytes(40 * KB))
    os.unlink(f"{segment.path}.2")
    with pytest.raises(LostSegment):
        owner.receive(owner.send([segment]))
    assert not files(owner)


@pytest.mark.usefixtures("_split")
def test_a_full_file_system_stops_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_disk(tmp_path / "shm", "1m") as disk:
        monkeypatch.setattr(shared, "ROOT", str(disk.path))
        memory = SharedMemory.make()
        assert memory is not None
        monkeypatch.setattr(memory, "_has_room", lambda size: True)
        assert memory.share(bytes(2000 * KB)) is None
        assert not files(memory)
        memory.close()


@pytest.mark.usefixtures("_split")
def test_where_no_thread_can_be_started_one_writes_all(
    owner: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    data = os.urandom(50 * KB)
    assert shared_frame(owner, data).buffer == data


def test_what_one_receiver_writes_nobody_else_sees(
    owner: SharedMemory, worker: SharedMemory
) -> None:
    segment = shared_frame(owner, bytes(10 * KB))
    descriptor = owner.describe(segment)
    [one] = worker.receive([descriptor], keep=True)
    [two] = worker.receive([descriptor], keep=True)
    one[:5] = b"mine!"
    assert bytes(two) == bytes(10 * KB)
    assert bytes(segment.buffer) == bytes(10 * KB)
    assert files(owner) == ["o.1"]


def test_a_mapping_outlives_the_folder_and_goes_with_its_last_view(owner: SharedMemory) -> None:
    segment = shared_frame(owner, b"x" * 10 * KB)
    view = segment.buffer[5 * KB :]
    segment.release()
    assert mappings(owner) == 1
    assert bytes(view) == b"x" * 5 * KB
    del view
    assert mappings(owner) == 0


# --- nothing is left ----------------------------------------------------------------------------


def test_a_segment_that_nobody_was_given_goes_with_its_object(owner: SharedMemory) -> None:
    segment: Segment | None = shared_frame(owner, bytes(10))
    assert files(owner) == ["o.1"]
    segment = None
    gc.collect()
    assert segment is None
    assert not files(owner)


def test_what_was_handed_over_is_the_receivers_to_remove(
    owner: SharedMemory, worker: SharedMemory
) -> None:
    worker.send([shared_frame(worker, bytes(10))])
    gc.collect()
    assert files(owner) == ["w1-1.1"]


def test_what_a_dead_worker_made_is_removed_and_nobody_elses(owner: SharedMemory) -> None:
    for name in ("w1-1", "w11-1", "w1-12"):
        member = SharedMemory.join(owner.invitation(name))
        member.send([shared_frame(member, bytes(10))])
    owner.clear("w1-1")
    assert files(owner) == ["w1-12.1", "w11-1.1"]


def test_closing_removes_everything(root: Path) -> None:
    memory = SharedMemory.make()
    assert memory is not None
    segment = memory.share(bytes(10))
    memory.close()
    assert not any(root.iterdir())
    assert segment is not None
    segment.release()  # once more harms nobody


def test_a_forked_child_removes_nothing_of_its_parents(owner: SharedMemory) -> None:
    segment = shared_frame(owner, bytes(10))
    child = os.fork()
    if child == 0:
        try:
            segment.release()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert files(owner) == ["o.1"]


def test_thousands_of_mappings_take_no_descriptors_and_all_go(
    owner: SharedMemory, worker: SharedMemory
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    frames = [
        owner.receive(worker.send([shared_frame(worker, i.to_bytes(8, "little"))]))[0]
        for i in range(3000)
    ]
    assert len(os.listdir("/proc/self/fd")) == before
    assert mappings(owner) == 3000
    assert all(bytes(frame) == i.to_bytes(8, "little") for i, frame in enumerate(frames))
    frames.clear()
    assert mappings(owner) == 0
    assert not files(owner)


# --- no room ------------------------------------------------------------------------------------


def test_a_full_file_system_is_no_place_and_no_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_disk(tmp_path / "shm", "1m") as disk:
        monkeypatch.setattr(shared, "ROOT", str(disk.path))
        memory = SharedMemory.make()
        assert memory is not None
        disk.fill()
        # Also for one who does not ask first whether there is room: somebody else may be quicker.
        monkeypatch.setattr(memory, "_has_room", lambda size: True)
        assert memory.share(bytes(100 * KB)) is None
        disk.make_room()
        assert memory.share(bytes(2000 * KB)) is None
        assert not files(memory)
        segment = memory.share(bytes(100 * KB))
        assert segment is not None
        memory.close()


def test_a_part_of_the_file_system_is_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_disk(tmp_path / "shm", "1m") as disk:
        monkeypatch.setattr(shared, "ROOT", str(disk.path))
        memory = SharedMemory.make()
        assert memory is not None
        kept = []
        while (segment := memory.share(bytes(100 * KB))) is not None:
            kept.append(segment)
        assert len(kept) == 7
        free = os.statvfs(disk.path)
        assert free.f_bavail * free.f_frsize >= 1024 * KB // 4
        memory.close()


def test_more_than_the_limit_for_files_is_not_shared(root: Path) -> None:
    script = f"""
import resource
from jupyter_pool import mapping, shared
shared.ROOT = {str(root)!r}
memory = shared.SharedMemory.make()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
assert memory.share(bytes(2000)) is None
assert memory.share(bytes(500)) is not None
memory.close()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert not any(root.iterdir())


def test_without_descriptors_nothing_is_shared(owner: SharedMemory) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.dup(0))
        assert owner.share(bytes(10)) is None
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("remove", [True, False], ids=["removed", "a file"])
def test_no_place_for_a_folder_means_none(root: Path, remove: bool) -> None:
    root.rmdir()
    if not remove:
        root.touch()
    assert SharedMemory.make() is None
    root.unlink(missing_ok=True)
    root.mkdir()


def test_a_folder_that_somebody_removed_is_used_no_more(owner: SharedMemory) -> None:
    owner.close()
    assert owner.share(bytes(10)) is None


def test_what_cannot_be_mapped_is_read(
    owner: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = shared_frame(owner, b"x" * 10)

    class Libc:
        @staticmethod
        def mmap(*args: Any) -> None:
            return None

    monkeypatch.setattr(mapping, "_libc", Libc)
    monkeypatch.setattr(mapping, "_FAILED", (None,))
    buffer = segment.buffer
    assert isinstance(buffer, bytearray)
    assert buffer == b"x" * 10
    monkeypatch.setattr(shared, "_part_size", lambda size: mmap.PAGESIZE)
    data = os.urandom(10 * KB)
    assert shared_frame(owner, data).buffer == data


def test_a_ctrl_c_in_the_middle_leaves_no_file(
    owner: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "_CHUNK", KB)
    write, written = os.write, []

    def interrupted(fd: int, data: Any) -> int:
        written.append(len(data))
        if len(written) == 2:
            signal.raise_signal(signal.SIGINT)
        return write(fd, data)

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        owner.share(bytes(10 * KB))
    monkeypatch.undo()
    assert not files(owner)


# --- who is to be believed ----------------------------------------------------------------------


def flip(descriptor: bytes, at: int) -> bytes:
    return descriptor[:at] + bytes([descriptor[at] ^ 1]) + descriptor[at + 1 :]


@pytest.mark.parametrize("at", [9, 17, 25, 90], ids=["size", "part", "name", "signature"])
def test_a_descriptor_that_was_changed_is_ordinary_data(owner: SharedMemory, at: int) -> None:
    segment = shared_frame(owner, bytes(10))
    changed = flip(owner.describe(segment), at)
    assert owner.receive([changed]) == [changed]
    assert files(owner) == ["o.1"]


def test_a_descriptor_of_another_owner_is_ordinary_data(owner: SharedMemory) -> None:
    other = SharedMemory.make()
    assert other is not None
    descriptor = other.describe(shared_frame(other, bytes(10)))
    assert owner.receive([descriptor]) == [descriptor]
    other.close()


@pytest.mark.parametrize("name", [b"../o.1", b"lock", b"", b"o.1/../../x", b".."])
def test_even_a_signed_descriptor_never_leads_out_of_the_folder(
    owner: SharedMemory, name: bytes
) -> None:
    head = shared._HEAD.pack(shared._MAGIC, 10, 10, name)
    descriptor = head + hmac.digest(owner._key, head, "sha256")
    assert owner.receive([descriptor]) == [descriptor]


def test_a_link_is_not_followed(owner: SharedMemory, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10))
    segment = shared_frame(owner, bytes(10))
    os.unlink(segment.path)
    os.symlink(secret, segment.path)
    with pytest.raises(LostSegment):
        owner.receive([owner.describe(segment)])
    assert secret.exists()


@pytest.mark.parametrize("harm", [os.unlink, lambda path: os.truncate(path, 5)])
def test_what_was_taken_away_is_lost_and_the_rest_of_the_message_freed(
    owner: SharedMemory, harm: Callable[[str], None]
) -> None:
    segments = [shared_frame(owner, bytes(10)) for _ in range(3)]
    sent = owner.send(segments)
    harm(segments[1].path)
    with pytest.raises(LostSegment):
        owner.receive(sent)
    assert not files(owner)
    assert mappings(owner) == 0


def test_the_folder_and_its_files_are_the_owners_alone(owner: SharedMemory) -> None:
    segment = shared_frame(owner, bytes(10))
    assert os.stat(owner.folder).st_mode & 0o777 == 0o700
    assert os.stat(segment.path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("invitation", [None, {}, {"folder": "x"}, "text"])
def test_a_misshapen_invitation_is_refused(invitation: Any) -> None:
    with pytest.raises(ValueError, match="no invitation"):
        SharedMemory.join(invitation)


# --- what killed owners left --------------------------------------------------------------------


def test_the_next_owner_removes_what_a_killed_one_left_and_nothing_else(
    root: Path, owner: SharedMemory
) -> None:
    script = f"""
import os, signal
from jupyter_pool import mapping, shared
shared.ROOT = {str(root)!r}
memory = shared.SharedMemory.make()
segment = memory.share(bytes(10))
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (root / "jupyter-pool-file").touch()
    (root / "other").mkdir()
    just_made = root / "jupyter-pool-young"
    just_made.mkdir()
    half_made = root / "jupyter-pool-old"
    half_made.mkdir()
    os.utime(half_made, (time.time() - 3600,) * 2)
    assert len(list(root.iterdir())) == 6
    memory = SharedMemory.make()
    assert memory is not None
    memory.close()
    left = {path.name for path in root.iterdir()}
    assert left == {os.path.basename(owner.folder), "jupyter-pool-file", "other", just_made.name}
