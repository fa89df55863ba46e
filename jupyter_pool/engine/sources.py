"""Source lines for a worker's traceback: only this process knows what its notebook's cells say.

What travels by value arrives without its file's name: cloudpickle calls it ``<dynamic-code>`` (checked
on cloudpickle 3.1). So the source of a program is looked up when it is registered, that of a call's
function when it has failed, by the names of the functions that can be reached from it, and put into
tracebacks where the worker had none.
"""

from __future__ import annotations

import functools
import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

__all__ = ["UNKNOWN_FILE", "Sources", "codes_of"]

#: What cloudpickle calls the file of a function that travels by value.
UNKNOWN_FILE = "<dynamic-code>"

_FRAME = re.compile(rf'  File "{UNKNOWN_FILE}", line (?P<line>\d+), in (?P<name>.+)')
_BELOW = "    "
#: How many functions and classes are looked at at most.
_MOST = 200


@dataclass(frozen=True)
class _Source:
    """The lines of one function."""

    file: str
    first: int
    lines: tuple[str, ...]


class Sources:
    """The source of functions, as it is now. Reads files."""

    def __init__(self, codes: Iterable[CodeType]) -> None:
        self._by_name: dict[str, list[_Source]] = {}
        for code in codes:
            source = _read(code)
            if source is not None:
                self._by_name.setdefault(code.co_name, []).append(source)

    def put_into(self, traceback: Iterable[str]) -> list[str]:
        """The lines of a traceback, with file and source where the worker had none."""
        shown = []
        for line in traceback:
            line = line.rstrip("\n")  # noqa: PLW2901 - the same, tidied
            frame = _FRAME.match(line)
            found = None if frame is None else self._find(frame["name"], int(frame["line"]))
            if frame is None or found is None:
                shown.append(line)
                continue
            where = _name_of_cell(found.file) or f'File "{found.file}"'
            shown.append(f"  {where}, line {frame['line']}, in {frame['name']}")
            shown.append(_BELOW + found.lines[int(frame["line"]) - found.first].strip())
        return shown

    def _find(self, name: str, line: int) -> _Source | None:
        for source in self._by_name.get(name, ()):
            if 0 <= line - source.first < len(source.lines):
                return source
        return None


def _name_of_cell(file: str) -> str | None:
    """``Cell In[3]``, if the code is a cell of the notebook that we run in."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    name = shell.compile.format_code_name(file) if shell is not None else None
    return " ".join(name) if name else None


def _read(code: CodeType) -> _Source | None:
    first = code.co_firstlineno
    last = max((line for _, _, line in code.co_lines() if line), default=first)
    lines = linecache.getlines(code.co_filename)[first - 1 : last]
    return _Source(code.co_filename, first, tuple(lines)) if lines else None


def codes_of(program: object) -> tuple[CodeType, ...]:
    """The code of a program, and of what of the notebook (or script) it uses."""
    try:
        return tuple(_codes(program))
    except Exception:  # noqa: BLE001 - it looks at attributes, which are users' code
        return ()


def _codes(program: object) -> Iterator[CodeType]:
    """The code that can be reached from a program, of its own module and of the main one."""
    queue: list[Any] = [program]
    seen: set[int] = set()
    homes = {"__main__", getattr(program, "__module__", None)}
    while queue and len(seen) < _MOST:
        found = queue.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, functools.partial):
            queue.append(found.func)
        elif isinstance(found, MethodType):
            queue += [found.__func__, found.__self__]
        elif isinstance(found, (staticmethod, classmethod)):
            queue.append(found.__func__)
        elif isinstance(found, FunctionType):
            if found.__module__ in homes:
                yield from _with_nested(found.__code__)
                queue += _used_by(found)
        elif isinstance(found, type):
            if found.__module__ in homes:
                queue += [*vars(found).values(), *found.__bases__]
        elif type(found).__module__ in homes:
            queue += [type(found), *getattr(found, "__dict__", {}).values()]


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


def _used_by(function: FunctionType) -> Iterator[Any]:
    for code in _with_nested(function.__code__):
        for name in code.co_names:
            if name in function.__globals__:
                yield function.__globals__[name]
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
