"""Texts cut to a size: their beginning, their end, and what was overwritten."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence

from jupyter_pool._reprs import size as size_text

__all__ = ["End", "beginning_of", "collapse", "cut_middle", "end_of", "whole_lines"]


class End:
    """The last texts of a stream, in parts with the number of their turn."""

    def __init__(self) -> None:
        self.total = 0
        self._parts: deque[tuple[int, str]] = deque()
        #: Characters that are kept; of `total` that were written.
        self.kept = 0

    def add(self, number: int, text: str, size: int) -> None:
        """Add a text, of which `size` characters were written."""
        self.total += size
        self.kept += len(text)
        self._parts.append((number, text))

    def trim(self, most: int) -> None:
        """Forget what is not among the last `most` characters."""
        while self._parts and self.kept - len(self._parts[0][1]) >= most:
            self.kept -= len(self._parts.popleft()[1])

    def last(self, most: int) -> list[tuple[int, str]]:
        """The last `most` characters, from the beginning of a line if something was dropped."""
        parts = list(self._parts)
        if not parts or self.total <= most:
            return parts
        number, first = parts[0]
        first = first[max(0, self.kept - most) :]
        newline = first.find("\n")
        parts[0] = (number, first[newline + 1 :] if 0 <= newline < len(first) - 1 else first)
        return parts

    def dropped(self, most: int) -> int:
        """How many characters are not in `last`."""
        return self.total - sum(len(part) for _, part in self.last(most))


def end_of(texts: Sequence[str], most: int) -> str:
    """Return the last `most` characters of texts that follow each other, without joining all."""
    parts: list[str] = []
    for text in reversed(texts):
        if most <= 0:
            break
        parts.append(text[-most:])
        most -= len(parts[-1])
    return "".join(reversed(parts))


def collapse(text: str) -> str:
    """Leave out of each line what a carriage return has overwritten, if that is for certain.

    It is where what came last is as long as what was there before, and neither has terminal
    sequences, whose width is not their length. What goes on with a line that was sent before is
    where that has ended, so it stays.
    """
    if "\r" not in text:
        return text
    begun, *lines = text.split("\n")
    first, back, rest = begun.partition("\r")
    return "\n".join([first + _collapse_line(back + rest), *map(_collapse_line, lines)])


def _collapse_line(line: str) -> str:
    body = line.rstrip("\r")
    if "\r" not in body or "\x1b" in body or "\b" in body:
        return line
    before, _, last = body.rpartition("\r")
    if max(map(len, before.split("\r"))) > len(last):
        return line
    # The return itself stays: what it goes back over may have been sent before.
    return f"\r{last}{line[len(body) :]}"


def beginning_of(texts: Sequence[str], room: int) -> str:
    """Return the longest beginning (or nearly) whose JSON takes at most `room` bytes."""
    parts: list[str] = []
    left = room
    for text in texts:
        if left <= 0:
            break
        parts.append(text[:left])
        left -= len(parts[-1])
    found = "".join(parts)
    while found and (size := len(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))):
        if size <= room:
            break
        found = found[: min(len(found) - 1, len(found) * room // size)]
    return found


def whole_lines(text: str) -> str:
    """Leave out a part of a line at the end, unless it is long."""
    end = text.rfind("\n") + 1
    return text[:end] if end and len(text) - end <= 1000 else text


def cut_middle(text: str, most: int, why: str = "") -> str:
    """Return the first and the last of `most` characters, with a line between them."""
    if len(text) <= most:
        return text
    marker = f"\n[… {size_text(len(text) - most)} left out{why} …]\n"
    return text[: most // 2] + marker + text[len(text) - most // 2 :]
