"""Messages as the engine writes and reads them, against jupyter_client's own Session."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session

from jupyter_pool.engine import wire
from jupyter_pool.engine.wire import DELIMITER, Signer, WireError

KEY = b"0123456789abcdef"
DATE = "2024-05-06T07:08:09.101112+00:00"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
contents = st.dictionaries(texts, values, max_size=4)
names = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True)


def signer(key: bytes = KEY) -> Signer:
    return Signer(key, "session-id")


def session(key: bytes = KEY) -> Session:
    # Without a digest history: it is about replays, and these tests read messages twice.
    return Session(key=key, session="other-session", digest_history_size=0)


def read(frames: list[Any]) -> dict[str, Any]:
    """What a session makes of frames from the delimiter on."""
    return session().deserialize(frames[1:])


def reply(content: dict[str, Any], buffers: list[bytes] | None = None, **more: Any) -> list[bytes]:
    """The frames after the delimiter of a message that a kernel would send."""
    theirs = session()
    parent = theirs.msg("execute_request", {"code": ""})
    message = theirs.msg("execute_reply", content, parent=parent["header"], **more)
    frames = theirs.serialize(message, ident=b"peer")
    return [bytes(frame) for frame in wire.split([*frames, *(buffers or [])])[1]]


# --- what we write, Jupyter reads ---------------------------------------------------------------


def test_a_session_reads_what_is_packed() -> None:
    frames = signer().pack(
        "id-1",
        "execute_request",
        {"code": "print('ä€😀')"},
        date=DATE,
        metadata={"jupyter_pool": {"v": 1}},
        buffers=[b"first", memoryview(b"second")],
    )
    assert frames[0] == DELIMITER
    message = read(frames)
    assert message["header"]["msg_id"] == message["msg_id"] == "id-1"
    assert message["msg_type"] == "execute_request"
    assert message["header"]["session"] == "session-id"
    assert message["header"]["username"] == "jupyter_pool"
    assert message["header"]["version"] == "5.3"
    assert message["header"]["date"].isoformat() == DATE
    assert message["parent_header"] == {}
    assert message["metadata"] == {"jupyter_pool": {"v": 1}}
    assert message["content"] == {"code": "print('ä€😀')"}
    assert [bytes(buffer) for buffer in message["buffers"]] == [b"first", b"second"]


@given(names, names, contents, contents, st.lists(st.binary(max_size=50), max_size=3))
def test_a_session_reads_whatever_is_packed(
    msg_id: str,
    msg_type: str,
    content: dict[str, Any],
    metadata: dict[str, Any],
    buffers: list[bytes],
) -> None:
    frames = signer().pack(msg_id, msg_type, content, date=DATE, metadata=metadata, buffers=buffers)
    message = read(frames)
    assert (message["msg_id"], message["msg_type"]) == (msg_id, msg_type)
    assert (message["content"], message["metadata"]) == (content, metadata)
    assert [bytes(buffer) for buffer in message["buffers"]] == buffers


def test_a_session_with_another_key_refuses_what_is_packed() -> None:
    frames = signer().pack("id", "execute_request", {"code": ""}, date=DATE)
    assert all(isinstance(frame, bytes) for frame in frames)
    with pytest.raises(ValueError, match="Invalid Signature"):
        session(b"another key").deserialize([bytes(frame) for frame in frames[1:]])


def test_buffers_are_handed_on_as_they_are() -> None:
    big = memoryview(bytearray(1_000_000))
    frames = signer().pack("id", "execute_request", {}, date=DATE, buffers=[big])
    assert frames[-1] is big


# --- what Jupyter writes, we read ---------------------------------------------------------------


def test_a_message_of_a_session_is_read() -> None:
    theirs = session()
    parent = theirs.msg("execute_request", {"code": ""})
    message = theirs.msg("execute_reply", {"status": "ok", "text": "ä€😀"}, parent=parent["header"])
    message["metadata"] = {"engine": "x"}
    frames = [*theirs.serialize(message, ident=[b"peer", b"topic"]), b"buffer"]
    identities, rest = wire.split(frames)
    assert list(identities) == [b"peer", b"topic"]
    found = signer().unpack(rest)
    assert found.msg_type == "execute_reply"
    assert found.parent_id == parent["msg_id"] == wire.parent_id(rest)
    assert found.content == {"status": "ok", "text": "ä€😀"}
    assert found.metadata == {"engine": "x"}
    assert found.buffers == [b"buffer"]


@given(contents, contents, st.lists(st.binary(max_size=50), max_size=3))
def test_whatever_a_session_writes_is_read(
    content: dict[str, Any], metadata: dict[str, Any], buffers: list[bytes]
) -> None:
    frames = reply(content, buffers, metadata=metadata)
    for given_frames in (frames, [memoryview(frame) for frame in frames]):
        message = signer().unpack(given_frames)
        assert (message.content, message.metadata) == (content, metadata)
        assert [bytes(buffer) for buffer in message.buffers] == buffers


@given(names, names, contents, contents, st.lists(st.binary(max_size=50), max_size=3))
def test_what_is_packed_is_read_back(
    msg_id: str,
    msg_type: str,
    content: dict[str, Any],
    metadata: dict[str, Any],
    buffers: list[bytes],
) -> None:
    frames = signer().pack(msg_id, msg_type, content, date=DATE, metadata=metadata, buffers=buffers)
    identities, rest = wire.split([b"peer", *frames])
    message = signer().unpack(rest)
    assert list(identities) == [b"peer"]
    assert message.msg_type == msg_type
    assert message.parent_id == ""
    assert (message.content, message.metadata, message.buffers) == (content, metadata, buffers)


# --- what must be refused -----------------------------------------------------------------------


def test_another_key_is_refused() -> None:
    with pytest.raises(WireError, match="wrong signature"):
        signer(b"another key").unpack(reply({"status": "ok"}))


@given(st.integers(0, 4), st.integers(0, 10_000), st.integers(1, 255))
def test_a_single_changed_byte_is_refused(frame: int, position: int, change: int) -> None:
    frames = reply({"status": "ok"}, metadata={"a": 1})
    damaged = bytearray(frames[frame])
    damaged[position % len(damaged)] ^= change
    frames[frame] = bytes(damaged)
    with pytest.raises(WireError, match="wrong signature"):
        signer().unpack(frames)


@pytest.mark.parametrize("count", range(5))
def test_too_few_frames_are_refused(count: int) -> None:
    with pytest.raises(WireError, match=f"a message of {count} frames"):
        signer().unpack(reply({})[:count])


@pytest.mark.parametrize(
    "frames",
    [
        [b"{", b"{}", b"{}", b"{}"],
        [b"{}", b"{}", b"{}", b"{}"],
        [b"[]", b"{}", b"{}", b"{}"],
        [b'{"msg_type": "x"}', b"[1]", b"{}", b"{}"],
        [b'{"msg_type": "x"}', b"{}", b"{}", b"\xff"],
    ],
    ids=["no JSON", "no type", "a list", "a parent that is a list", "not UTF-8"],
)
def test_signed_nonsense_is_refused(frames: list[bytes]) -> None:
    ours = signer()
    with pytest.raises(WireError, match="cannot be read"):
        ours.unpack([ours.sign(frames), *frames])


@pytest.mark.parametrize("frames", [[], [b"a"], [b"<IDS|MSG"], [b"a", b"<ids|msg>"]])
def test_a_message_without_delimiter_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(WireError, match="delimiter"):
        wire.split(frames)


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        b"{}",
        b"{",
        b"[]",
        b"[1]",
        b'"text"',
        b"123",
        b"\xff\xff\xff",
        b'{"msg_id": 5}',
        b"null",
    ],
)
def test_a_parent_that_is_none_names_no_request(parent: bytes) -> None:
    assert wire.parent_id([b"", b"{}", parent, b"{}", b"{}"]) == ""


def test_a_parent_is_read_before_any_signature_is_checked() -> None:
    parent = json.dumps({"msg_id": "id-1"}).encode()
    assert wire.parent_id([b"forged", b"{}", memoryview(parent), b"{}", b"{}"]) == "id-1"
    assert wire.parent_id([b"forged", b"{}"]) == ""
