"""Jupyter messages as the engine writes and reads them.

The format is Jupyter's own (messaging protocol 5.3): ``identities… <IDS|MSG> signature header parent
metadata content buffers…``, signed by HMAC-SHA256 over the four JSON frames. jupyter_client's
``Session`` speaks it too; the engine keeps one key per worker and wants neither Session's digest
history (it draws on the global ``random``) nor its cost, so it packs the few frames itself.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PROTOCOL_VERSION = "5.3"
DELIMITER = b"<IDS|MSG>"
_EMPTY = b"{}"

#: What a frame may be: bytes, a view of a value's own memory (sent), a copy to write to (received).
Buffer = bytes | bytearray | memoryview


class WireError(ValueError):
    """A message that does not have the shape or the signature it must have."""


@dataclass(slots=True)
class Message:
    """One received message."""

    msg_type: str
    parent_id: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    buffers: list[Buffer] = field(default_factory=list)
    #: It is known, without looking into it, that a call returned and there is nothing else to tell.
    well: bool = False


#: Metadata and content of a reply to a call that returned and has nothing else to tell.
CALL_IS_PLAIN = b'{"jupyter_pool":{"v":1}}'
CALL_IS_WELL = b'{"status":"ok","kind":"value","facts":{}}'
PLAIN: dict[str, Any] = json.loads(CALL_IS_PLAIN)
WELL: dict[str, Any] = json.loads(CALL_IS_WELL)


def dump(value: object) -> bytes:
    """A JSON frame."""
    # ASCII only: a lone surrogate in somebody's code must not make bytes that no kernel can read.
    return json.dumps(value, separators=(",", ":"), default=str).encode("ascii")


class Signer:
    """Writes and checks the messages of one worker; holds its key."""

    __slots__ = ("_head", "_key")

    def __init__(self, key: bytes, session: str) -> None:
        self._key = key
        # Everything in a header but its id and type is the same for every message.
        self._head = dump(
            {"username": "jupyter_pool", "session": session, "version": PROTOCOL_VERSION}
        )[:-1]

    def sign(self, frames: Sequence[bytes]) -> bytes:
        """The hex signature of the four JSON frames."""
        return hmac.digest(self._key, b"".join(frames), "sha256").hex().encode()

    def pack(
        self,
        msg_id: str,
        msg_type: str,
        content: dict[str, Any],
        *,
        date: str,
        metadata: dict[str, Any] | None = None,
        buffers: Sequence[Buffer] = (),
    ) -> list[Buffer]:
        """The frames of a new request, without identities."""
        header = (
            self._head
            + (f',"msg_id":"{msg_id}","msg_type":"{msg_type}","date":"{date}"}}').encode()
        )
        signed = [header, _EMPTY, dump(metadata) if metadata else _EMPTY, dump(content)]
        return [DELIMITER, self.sign(signed), *signed, *buffers]

    def pack_call(
        self, msg_id: str, date: str, metadata: bytes, content: bytes, buffers: Sequence[Buffer]
    ) -> tuple[list[Buffer], bytes]:
        """The frames of a call, whose metadata and content are packed already, and its header."""
        header = (
            self._head
            + (f',"msg_id":"{msg_id}","msg_type":"call_request","date":"{date}"}}').encode()
        )
        signed = (header, _EMPTY, metadata, content)
        return [DELIMITER, self.sign(signed), *signed, *buffers], header

    def read_call(self, frames: Sequence[Buffer], header: bytes, msg_id: str) -> Message | None:
        """Read the reply to the call with this header, if it only says that all is well.

        Anything else, and whatever is wrong with it, is for `unpack`.
        """
        if len(frames) < 5 or frames[2] != header:
            return None
        if (
            frames[3] != CALL_IS_PLAIN
            or frames[4] != CALL_IS_WELL
            or b"call_reply" not in frames[1]
        ):
            return None
        signature, *signed = frames[:5]
        if not hmac.compare_digest(self.sign(signed), signature):  # type: ignore[arg-type]
            return None
        return Message("call_reply", msg_id, WELL, PLAIN, list(frames[5:]), True)

    def unpack(self, frames: Sequence[Buffer]) -> Message:
        """Read the frames after the delimiter.

        Raises
        ------
        WireError
            Too few frames, a wrong signature, or JSON that is none.
        """
        if len(frames) < 5:
            raise WireError(f"a message of {len(frames)} frames (at least 5 are needed)")
        signature, *signed = (bytes(frame) for frame in frames[:5])
        if not hmac.compare_digest(self.sign(signed), signature):
            raise WireError("a message with a wrong signature")
        try:
            # As text: given bytes, it looks for the encoding first.
            header, parent, metadata, content = (json.loads(frame.decode()) for frame in signed)
            return Message(
                header["msg_type"],
                parent.get("msg_id", "") if parent else "",
                content,
                metadata,
                list(frames[5:]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WireError(f"a message that cannot be read: {error!r}") from error


def split(frames: Sequence[Buffer]) -> tuple[Sequence[Buffer], Sequence[Buffer]]:
    """Identities (or the topic) and the frames after the delimiter.

    Raises
    ------
    WireError
        There is no delimiter.
    """
    for position, frame in enumerate(frames):
        if len(frame) == len(DELIMITER) and bytes(frame) == DELIMITER:
            return frames[:position], frames[position + 1 :]
    raise WireError("a message without its delimiter")


def parent_id(frames: Sequence[Buffer]) -> str:
    """The id of the request a message answers, read before its signature can be checked.

    iopub messages of all workers arrive on one socket; which worker's key must fit is known only
    from the request that the message claims to belong to.
    """
    if len(frames) < 3 or len(frames[2]) <= 2:
        return ""
    try:
        found = json.loads(bytes(frames[2])).get("msg_id", "")
    except (ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""
