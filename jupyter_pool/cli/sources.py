"""What `jupyter pool exec` is to run: files read and checked before anything runs."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager

__all__ = ["STDIN", "BadSource", "Cell", "Notebook", "Script", "language_of", "read"]

#: How standard input is named, on the command line and in tracebacks.
STDIN, STDIN_FILE = "-", "<stdin>"


class BadSource(Exception):
    """A file that cannot be run; says which and why."""


@dataclass(frozen=True)
class Script:
    """Code that is run as ``python FILE`` runs it.

    Attributes
    ----------
    label
        What it is called in what is printed: as on the command line.
    path
        Absolute, or ``<stdin>``.
    """

    label: str
    path: str
    text: str

    @property
    def folder(self) -> str:
        """Where its imports look first."""
        return "" if self.path == STDIN_FILE else os.path.dirname(self.path)


@dataclass(frozen=True)
class Cell:
    """One code cell: its number in the file, its text, whether it may raise."""

    index: int
    text: str
    may_raise: bool = False


@dataclass(frozen=True)
class Notebook:
    """A notebook's code cells; `content` is all of the file."""

    label: str
    path: str
    cells: Sequence[Cell]
    content: dict[str, Any] = field(repr=False, default_factory=dict)

    @property
    def folder(self) -> str:
        """Where it runs, and where its imports look first."""
        return os.path.dirname(self.path)


def read(names: Sequence[str], language: str) -> list[Script | Notebook]:
    """Read all files, in order.

    Parameters
    ----------
    language
        That of the kernel: a notebook for another one is refused.

    Raises
    ------
    BadSource
        One line for each file that cannot be run.
    """
    found: list[Script | Notebook] = []
    problems = []
    if names.count(STDIN) > 1:
        raise BadSource("standard input (-) can be read only once")
    for name in names:
        try:
            found.append(_read(name, language))
        except BadSource as problem:
            problems.append(str(problem))
    if problems:
        raise BadSource("\n".join(problems))
    return found


def language_of(kernel_name: str | None) -> str:
    """The language of an installed kernel, in lower case."""
    if kernel_name is None:
        return "python"
    return str(KernelSpecManager().get_kernel_spec(kernel_name).language).lower()


def _read(name: str, language: str) -> Script | Notebook:
    if name == STDIN:
        return Script(
            STDIN, STDIN_FILE, _decode(sys.stdin.buffer.read(), "standard input", language)
        )
    path = Path(name)
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise BadSource(f"{name}: is a folder, not a file")
        data = path.read_bytes()
    except OSError as error:
        raise BadSource(f"{name}: {error.strerror or error}") from None
    except ValueError:
        raise BadSource(f"{name!r}: not the name of a file") from None
    absolute = os.path.abspath(name)
    if path.suffix == ".ipynb":
        return _read_notebook(name, absolute, data, language)
    return Script(name, absolute, _decode(data, name, language))


def _decode(data: bytes, name: str, language: str) -> str:
    """The text, in the encoding that a Python file declares."""
    try:
        encoding = "utf-8-sig"
        if language == "python":
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise BadSource(f"{name}: not a text that can be read ({error})") from None
    if "\0" in text:
        raise BadSource(f"{name}: not a text (it has a null character)")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_notebook(name: str, path: str, data: bytes, language: str) -> Notebook:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise BadSource(f"{name}: not a notebook ({error})") from None
    if not isinstance(content, dict) or "nbformat" not in content:
        raise BadSource(f"{name}: not a notebook (it has no nbformat)")
    if content["nbformat"] != 4:
        raise BadSource(
            f"{name}: has notebook format {content['nbformat']}; only 4 can be run: open and save it "
            "in Jupyter"
        )
    try:
        metadata = content.get("metadata") or {}
        written_for = (
            (metadata.get("kernelspec") or {}).get("language")
            or (metadata.get("language_info") or {}).get("name")
            or language
        )
        cells = [
            Cell(
                index,
                _joined(cell["source"]),
                "raises-exception" in ((cell.get("metadata") or {}).get("tags") or ()),
            )
            for index, cell in enumerate(content["cells"])
            if cell["cell_type"] == "code"
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise BadSource(f"{name}: a damaged notebook ({type(error).__name__}: {error})") from None
    if str(written_for).lower() != language:
        raise BadSource(
            f"{name}: is written in {written_for}, the kernel's language is {language}; choose another "
            "one with --kernel (see `jupyter kernelspec list`)"
        )
    return Notebook(name, path, cells, content)


def _joined(source: Any) -> str:
    if isinstance(source, str):
        return source
    return "".join(source)
