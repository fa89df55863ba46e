"""What several files print at the same time, told apart: each line behind the name of its file.

A line is shown when it is complete, so that lines of different files do not mix; of a single file
everything is shown as it comes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from jupyter_pool import _ansi, _reprs

__all__ = ["Interrupted", "Printer"]

#: A line without an end is shown all the same when it is longer than this, in characters.
_LONGEST = 64_000
#: Colours of the names, in turn: those that are readable on dark and on light.
_COLOURS = (36, 33, 35, 32, 34)
_RED, _RESET = "\x1b[31m", "\x1b[0m"


class Interrupted(BaseException):
    """Raised by a signal handler while something is being written: nobody may be reading."""


class Printer:
    """Prints outputs of files to stdout and stderr.

    Parameters
    ----------
    labels
        The names of the files; with a single one, lines stand alone.
    quiet
        Show no outputs, only what was said with `say`.
    """

    def __init__(self, labels: Sequence[str], *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._alone = len(labels) == 1
        self._width = max(map(len, labels), default=0)
        self._numbers: dict[str, int] = {}
        for label in labels:
            self._numbers.setdefault(label, len(self._numbers))
        self._pending: dict[tuple[str, str], str] = {}
        #: Whether the next text begins a line, where there is a single file.
        self._at_start = {"stdout": True, "stderr": True}
        #: Nobody reads what we write any more (``| head``), so nothing more is said; who is told so.
        self.reader_gone = False
        self.on_reader_gone: Callable[[], object] = lambda: None
        #: Show nothing more on stdout.
        self.muted = False
        #: Whether a signal handler may raise `Interrupted`.
        self.writing = False

    def show(self, label: str, event: Mapping[str, Any], *, errors: bool) -> None:
        """One event of a request: see `OutputCollector.add`. `errors`: show tracebacks too."""
        kind = event["output_type"]
        if kind == "error":
            if errors:
                trace = "\n".join(event["traceback"]) or f"{event['ename']}: {event['evalue']}"
                self.say(label, trace)
        elif self._quiet or kind == "clear_output":
            return
        elif kind == "stream":
            self._add(label, "stderr" if event["name"] == "stderr" else "stdout", event["text"])
        else:
            shown = {**event, "output_type": "display_data"}
            if text := _reprs.output_text(shown):
                self._end_line(label, "stdout")
                self._add(label, "stdout", f"{text}\n")

    def say(self, label: str, text: str) -> None:
        """A message about a file, on stderr, on lines of its own."""
        self._end_line(label, "stdout")
        self._end_line(label, "stderr")
        if not _in_colour(sys.stderr):
            text = _ansi.strip(text)
        self._add(label, "stderr", f"{text}\n")

    def end(self, label: str) -> None:
        """Nothing more comes from this file."""
        self._end_line(label, "stdout")
        self._end_line(label, "stderr")

    def summary(self, text: str, *, bad: bool) -> None:
        """The last line, on stderr."""
        if self._alone and not all(self._at_start.values()):
            text = f"\n{text}"
        coloured = bad and _in_colour(sys.stderr)
        self._write("stderr", f"{_RED}{text}{_RESET}\n" if coloured else f"{text}\n")

    def _add(self, label: str, name: str, text: str) -> None:
        if self._alone:
            self._at_start[name] = text.endswith("\n")
            self._write(name, text)
            return
        *lines, rest = (self._pending.pop((label, name), "") + text).split("\n")
        if len(rest) > _LONGEST and "\r" in rest:
            rest = rest[rest.rindex("\r") + 1 :]  # a progress bar: what it shows last
        if len(rest) > _LONGEST:
            lines.append(rest)
            rest = ""
        if rest:
            self._pending[label, name] = rest
        if lines:
            before = self._prefix(label, name)
            self._write(name, "".join(f"{before}{_last_state(line)}\n" for line in lines))

    def _end_line(self, label: str, name: str) -> None:
        if self._alone:
            if not self._at_start[name]:
                self._add(label, name, "\n")
        elif (label, name) in self._pending:
            self._add(label, name, "\n")

    def _prefix(self, label: str, name: str) -> str:
        stream = sys.stderr if name == "stderr" else sys.stdout
        shown = label.ljust(self._width)
        if _in_colour(stream):
            colour = _COLOURS[self._numbers[label] % len(_COLOURS)]
            shown = f"\x1b[{colour}m{shown}{_RESET}"
        return f"{shown} | "

    def _write(self, name: str, text: str) -> None:
        if self.reader_gone or (self.muted and name == "stdout"):
            return
        stream = sys.stderr if name == "stderr" else sys.stdout
        try:
            try:
                self.writing = True
                stream.write(text)
                stream.flush()
            finally:
                self.writing = False
        except Interrupted:
            self.muted = True
        except (BrokenPipeError, ValueError):
            _discard(stream)
            self.reader_gone = True
            self.on_reader_gone()


def _last_state(line: str) -> str:
    """What a terminal shows of a line that was drawn several times, such as a progress bar."""
    line = line.removesuffix("\r")
    return line[line.rindex("\r") + 1 :] if "\r" in line else line


def _in_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _discard(stream: TextIO) -> None:
    """Python flushes at its end, and would complain that nobody reads."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except (OSError, ValueError):
        pass  # no descriptor of its own
    finally:
        os.close(nowhere)
