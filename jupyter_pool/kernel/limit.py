"""The limit of a request's output, where all of it leaves the worker.

Beyond the limit the worker goes on as fast as before, and keeps what matters most: the end.

    head ─────────────────────────▶ sent as it comes, up to `output_limit`
    "[… output_limit reached …]" ─▶ sent once for each stream that is cut
    middle ───────────────────────▶ counted, and dropped
    end ──────────────────────────▶ kept in a buffer of bounded size, sent before the reply:
                                    "[… 183 MB left out …]", the last lines, the last displays

The beginning gets what the end does not need (a quarter of the limit, at most 256 kB). Errors,
status and the reply are no output: they always leave, but are themselves cut to a size that a
person can read. What replaces earlier output (a progress bar, an updated display, a cleared
cell) goes on being sent beyond the limit, ever more rarely, so that it costs little in all.

Messages that show nothing by themselves, such as those of widgets, are not counted as output.
They have a limit of the same size of their own. Beyond it, where they are seen, a widget's new state is kept, sent ever more
rarely, and with the end; what cannot be kept so (new widgets, binary data) is left out, and said to be.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from jupyter_client.session import DELIM

from jupyter_pool._reprs import size as size_text
from jupyter_pool.kernel.cutting import (
    End,
    beginning_of,
    collapse,
    cut_middle,
    end_of,
    whole_lines,
)

__all__ = ["OutputLimit", "Passing"]

#: How much of the end is kept: characters of each stream, bytes of displays.
TAIL = 64_000
#: What a message takes beside its content, at most: headers, signature, topic. In bytes.
OVERHEAD = 1500
#: As JSON a character takes up to so many bytes ("\\u0000").
_WORST = 6
#: Beyond the limit, what replaces earlier output is sent at most this often, in seconds.
_REPLACE_EVERY = 0.5
#: An error's text and each line of its traceback; all of its traceback. In characters.
_ERROR_LINE, _ERROR_MOST = 20_000, 200_000

_OUTPUT = (b"stream.", b"display_data")
_ALWAYS = (b".status", b".execute_input", b".error", b".shutdown")

Frames = list[Any]


class OutputLimit:
    """What the running request may still send. Its methods are called under iopub's lock.

    Parameters
    ----------
    say
        Sends a stream's text: ``say(name, text, parent)``.
    forward
        Sends the frames of a message that was kept.
    tell_widget
        Sends a comm message: ``tell_widget(content, metadata, parent)``.
    """

    def __init__(
        self,
        say: Callable[[str, str, dict[str, Any]], None],
        forward: Callable[[Frames], None],
        tell_widget: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], None],
    ) -> None:
        self._say = say
        self._forward = forward
        self._tell_widget = tell_widget
        self._used = 1  # until `begin` sets everything
        self.limit: int | None = None
        self.begin(None, {})

    def begin(self, limit: int | None, parent: dict[str, Any], *, comms: bool = False) -> None:
        """A request with this header begins. `limit` is in bytes; None: no limit.

        With `comms` somebody sees its widgets.
        """
        self.comms = comms
        if limit == self.limit and self._untouched():
            # The last one has put out nothing: all is as it was.
            self._parent, self._begun = parent, time.monotonic()
            return
        self.limit = limit
        self._parent = parent
        self._begun = time.monotonic()
        reserve = min(4 * TAIL, (limit or 0) // 4)
        self._head = (limit or 0) - reserve
        self._tail_size = reserve // 4
        self._used = 0
        self._used_unseen = 0
        #: The beginning is over: what comes now may only become the end.
        self.over = False
        #: What is sent now is counted only: it was found to fit, or is the end.
        self.passing = False
        self._finished = False
        self._marked: set[str] = set()
        self._next_replacement = 0.0
        self._left_out = 0
        self._at_line_start = True
        self._number = 0
        #: Beyond the limit, by comm: the latest state that was not sent.
        self._widgets: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {}
        self._forget_end()

    def _untouched(self) -> bool:
        return not (self._used or self._used_unseen or self.over or self._left_out)

    def _forget_end(self) -> None:
        """There is nothing (any more) that the end should show."""
        self._texts = {name: End() for name in ("stdout", "stderr")}
        self._displays: deque[tuple[int, int, Frames]] = deque()
        self._displays_size = 0
        self._displays_dropped = 0
        self._updates: dict[str, tuple[int, int, Frames]] = {}
        # Errors always leave, in their place at the end: here bounded, where somebody shows many.
        self._errors: deque[tuple[int, int, Frames]] = deque(maxlen=10)
        self._clear: Frames | None = None

    # -- text ----------------------------------------------------------------------------

    def fit(self, name: str, texts: Sequence[str], parent: Mapping[str, Any]) -> str:
        """Return the text to send now, of these that a stream was given one after the other.

        The caller sends it, as `passing`, before it lets go of iopub's lock.
        """
        if self.limit is None:
            return "".join(texts)
        size, head = sum(map(len, texts)), ""
        if not self.over:
            room = self._head - self._used - OVERHEAD
            head = "".join(texts) if size * _WORST <= room else beginning_of(texts, room)
            if len(head) == size:
                self._at_line_start = head.endswith("\n")
                return head
            self.over = True
            if head := whole_lines(head):
                self._at_line_start = head.endswith("\n")
                self._say_passing(name, head)
                size -= len(head)
        if self._finished or not self._is_ours(parent):
            return ""
        end = self._texts[name]
        end.add(self._next(), end_of(texts, min(size, self._tail_size)), size)
        end.trim(self._tail_size)
        self._mark(name)
        return self._progress(texts)

    def _progress(self, texts: Sequence[str]) -> str:
        """What a progress bar shows now, if the text is one and it is time to show it."""
        last = end_of(texts, 1000)
        line = last.rstrip("\r").rpartition("\r")[2]
        if "\r" not in last or "\n" in line or not self._may_replace(len(line) + OVERHEAD):
            return ""
        self._at_line_start = False
        return f"\r{line}"

    # -- messages ------------------------------------------------------------------------

    def admit(self, frames: Frames) -> bool:
        """Whether to send a message; one that is not may be kept for the end."""
        if self.limit is None:
            return True
        topic = bytes(frames[0])
        if topic.endswith(_ALWAYS) and not (self.over and topic.endswith(b".error")):
            return True
        size = sum(map(_length, frames))
        if self.passing:
            self._used += size
            return True
        if not (topic.startswith(_OUTPUT) or topic.endswith((b".execute_result", b".error"))):
            if self._used_unseen + size <= self.limit:
                self._used_unseen += size
                return True
            return self._admit_unseen(frames, frames.index(DELIM), size)
        if not self.over and self._used + size <= self._head:
            self._used += size
            return True
        start = frames.index(DELIM)
        if self._finished or not self._is_ours(json.loads(bytes(frames[start + 3]))):
            return False
        return self._admit_beyond(frames, start, size)

    def _admit_unseen(self, frames: Frames, start: int, size: int) -> bool:
        """Whether to send a message that shows nothing, beyond the limit."""
        kind = json.loads(bytes(frames[start + 2]))["msg_type"]
        if not (self.comms and kind.startswith("comm_")):
            return bool(kind == "iopub_welcome")  # whoever connects now is welcomed in any case
        parent, metadata, content = (json.loads(bytes(frames[start + n])) for n in (3, 4, 5))
        comm_id = str(content.get("comm_id"))
        if kind == "comm_close":
            self._send_widget(comm_id)
            return True
        data = content.get("data")
        if (
            kind == "comm_msg"
            and isinstance(data, dict)
            and data.get("method") in ("update", "echo_update")
            and len(frames) == start + 6
            and self._is_ours(parent)
            and not self._finished
        ):
            before = self._widgets.pop(comm_id, None)
            if before is not None:
                data["state"] = {**before[0]["data"]["state"], **data["state"]}
            self._widgets[comm_id] = (content, metadata, parent)
            if self._may_replace(size):
                self._send_widget(comm_id)
            return False
        self._left_out += size
        self._mark("widgets")
        return False

    def _send_widget(self, comm_id: str) -> None:
        if comm_id in self._widgets:
            with Passing(self):
                self._tell_widget(*self._widgets.pop(comm_id))

    def _is_ours(self, parent: Mapping[str, Any]) -> bool:
        """Whether this is the running request's header; beyond the limit others' are dropped."""
        return parent.get("msg_id") == self._parent.get("msg_id")

    def _admit_beyond(self, frames: Frames, start: int, size: int) -> bool:
        kind = json.loads(bytes(frames[start + 2]))["msg_type"]
        if not self.over and self._head - self._used >= max(OVERHEAD, self._head // 50):
            # Alone too large for what is left: others may still fit.
            self._left_out += size
            self._note("stderr", f"[… a display of {size_text(size)} left out: {self._why()} …]\n")
            return False
        self.over = True
        if kind == "error":
            self._errors.append((self._next(), size, frames))
            return False
        if kind == "clear_output":
            self._begin_anew(frames)
            return False
        if kind == "update_display_data" and self._update(frames, start, size):
            return True
        dropped = self._displays_dropped
        if kind != "update_display_data":
            self._keep_display(frames, size)
        if kind != "update_display_data" or self._displays_dropped > dropped:
            self._mark("display")
        return False

    def _keep_display(self, frames: Frames, size: int) -> None:
        if size > self._tail_size:
            self._displays_dropped += size
            return
        self._displays.append((self._next(), size, frames))
        self._displays_size += size
        while self._displays_size > self._tail_size:
            _, dropped, _ = self._displays.popleft()
            self._displays_size -= dropped
            self._displays_dropped += dropped

    def _update(self, frames: Frames, start: int, size: int) -> bool:
        """Whether to send an update now; it is kept in place of an earlier one in any case."""
        content = json.loads(bytes(frames[start + 5]))
        display_id = str((content.get("transient") or {}).get("display_id"))
        self._updates.pop(display_id, None)
        # Also if it is sent: what it updates may itself be kept for the end.
        self._updates[display_id] = (self._next(), size, frames)
        while sum(size for _, size, _ in self._updates.values()) > self._tail_size:
            _, dropped, _ = self._updates.pop(next(iter(self._updates)))
            self._displays_dropped += dropped
        return self._may_replace(size)

    def _begin_anew(self, clear: Frames) -> None:
        """The cell is cleared: what was kept so far is shown for a moment, or never."""
        size = self._displays_size + sum(text.kept for text in self._texts.values())
        if self._clear is not None and self._may_replace(size + OVERHEAD):
            self._send_end()
        self._forget_end()
        self._left_out = 0  # nobody would see it any more
        self._clear = clear

    def _may_replace(self, size: int) -> bool:
        """Whether to send what replaces earlier output beyond the limit.

        After `t` seconds it may take a tenth of the limit per `t` seconds: over any time a small
        multiple of the limit, as the logarithm grows.
        """
        assert self.limit is not None
        now = time.monotonic()
        if now < self._next_replacement:
            return False
        pause = size * (now - self._begun) * 10 / self.limit
        self._next_replacement = now + max(_REPLACE_EVERY, pause)
        return True

    # -- markers and the end -------------------------------------------------------------

    def _why(self) -> str:
        return f"output_limit={size_text(self.limit).replace(' ', '')}"

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _mark(self, what: str) -> None:
        """Say, once for each, that a stream or the displays end here for now."""
        if what not in self._marked:
            self._marked.add(what)
            subject = {"display": "displays end", "widgets": "widgets end"}.get(
                what, f"{what} ends"
            )
            self._note(
                what if what in self._texts else "stderr",
                f"[… {subject} here for now: {self._why()} is reached; the end will follow …]\n",
            )

    def _note(self, name: str, text: str) -> None:
        newline = "" if self._at_line_start else "\n"
        self._at_line_start = True
        self._say_passing(name, newline + text)

    def _say_passing(self, name: str, text: str) -> None:
        with Passing(self):
            self._say(name, text, self._parent)

    def finish(self) -> int:
        """Send the end of the output. Returns how much was left out, 0 if all is there."""
        if self.over and not self._finished:
            self._finished = True
            self._left_out += self._displays_dropped
            self._left_out += sum(text.dropped(self._tail_size) for text in self._texts.values())
            self._send_end()
            self._forget_end()
        for comm_id in list(self._widgets):
            self._send_widget(comm_id)
        return self._left_out

    def _send_end(self) -> None:
        """Send what was kept: the clearing of the cell, then everything in its order."""
        with Passing(self):
            if self._clear is not None:
                self._forward(self._clear)
            if self._finished:
                for name, text in self._texts.items():
                    self._note_left_out(name, text.dropped(self._tail_size))
                self._note_left_out("stderr", self._displays_dropped, " of displays")
            entries: list[tuple[int, str, Any]] = []
            for name, text in self._texts.items():
                entries += [(number, name, part) for number, part in text.last(self._tail_size)]
            for number, _, frames in (*self._displays, *self._updates.values(), *self._errors):
                entries.append((number, "", frames))
            entries.sort(key=lambda entry: entry[0])
            for name, run in groupby(entries, key=lambda entry: entry[1]):
                if name:
                    self._say(name, collapse("".join(part for _, _, part in run)), self._parent)
                else:
                    for _, _, frames in run:
                        self._forward(frames)

    def _note_left_out(self, name: str, size: int, what: str = "") -> None:
        if size:
            self._note(name, f"[… {size_text(size)}{what} left out: {self._why()} …]\n")

    # -- what is too large by itself -------------------------------------------------------

    def shorten(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a display's data without what is too large, and with a line that says so.

        Looks only at texts and bytes by themselves, before they are packed: what they hold is
        measured for certain in `admit`.
        """
        if self.limit is None:
            return data
        room = self._tail_size if self.over else self._head - self._used
        sizes = {
            mime: len(value) for mime, value in data.items() if isinstance(value, (str, bytes))
        }
        if sum(sizes.values()) + OVERHEAD <= room:
            return data
        plain = data.get("text/plain", "")
        plain = plain if isinstance(plain, str) else ""
        others = [
            f"{mime} of {size_text(size)}" for mime, size in sizes.items() if mime != "text/plain"
        ]
        self._left_out += sum(size for mime, size in sizes.items() if mime != "text/plain")
        most = self._tail_size // 4
        self._left_out += max(0, len(plain) - most)
        plain = cut_middle(plain, most, f": {self._why()}")
        if others:
            plain += f"\n[… {', '.join(others)} left out: {self._why()} …]"
        return {"text/plain": plain.lstrip("\n")}

    def shorten_error(self, content: dict[str, Any]) -> None:
        """Cut an error's texts, which always leave, to what a person can read."""
        if self.limit is None:
            return
        content["evalue"] = cut_middle(content.get("evalue", ""), _ERROR_LINE)
        lines = [cut_middle(line, _ERROR_LINE) for line in content.get("traceback") or ()]
        if sum(map(len, lines)) > _ERROR_MOST:
            lines = cut_middle("\n".join(lines), _ERROR_MOST).split("\n")
        content["traceback"] = lines


class Passing:
    """``with Passing(limit):`` what is sent is counted only; under iopub's lock."""

    def __init__(self, limit: OutputLimit) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        self._before, self._limit.passing = self._limit.passing, True

    def __exit__(self, *error: object) -> None:
        self._limit.passing = self._before


def _length(frame: Any) -> int:
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)
