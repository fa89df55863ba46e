"""The items of ``--each``: read off the magic's line, evaluated, multiplied, named.

``--each lr=[0.1, 0.3] --each a,b=pairs`` gives one item for each combination, the last option
turning fastest. An expression ends at the first blank outside of brackets and quotation marks.
"""

from __future__ import annotations

import ast
import itertools
import keyword
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.core.error import UsageError

__all__ = ["Each", "Item", "item_seed", "make_items", "parse_each", "take_each"]

#: More items than this are taken for a mistake: an endless iterator, say.
MOST_ITEMS = 100_000

_OPTION = "--each"
_OPENING, _CLOSING = "([{", ")]}"
_EXAMPLE = "--each lr=[0.1, 0.3] or --each a,b=pairs"


@dataclass(frozen=True)
class Each:
    """One ``--each``: the names it sets, and the expression of their values."""

    names: tuple[str, ...]
    expression: str


@dataclass(frozen=True)
class Item:
    """One run of the cell: its place, its parameters, and how it is called."""

    index: int
    parameters: Mapping[str, Any]
    label: str


def take_each(line: str) -> tuple[str, list[str]]:
    """Take every ``--each …`` out of a magic's line.

    Returns
    -------
    tuple
        The line without them, and what follows each of them.

    Raises
    ------
    UsageError
        One has no value, or a bracket or quotation mark is not closed.
    """
    rest: list[str] = []
    found: list[str] = []
    at = 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        end = _word_end(line, at)
        word = line[at:end]
        if word == _OPTION or word.startswith(f"{_OPTION}="):
            start = at + len(_OPTION) + (word != _OPTION)
            end = _value_end(line, start)
            value = line[start:end].strip()
            if not value or value.startswith("--"):
                raise UsageError(f"%%pool_exec: --each needs a value: NAME=EXPR, as in {_EXAMPLE}")
            found.append(value)
        else:
            rest.append(word)
        at = end
    return " ".join(rest), found


def _word_end(line: str, at: int) -> int:
    """Where a word of the other options ends, as a shell takes it."""
    quote = ""
    while at < len(line) and (quote or not line[at].isspace()):
        if quote:
            quote = "" if line[at] == quote else quote
        elif line[at] in "'\"":
            quote = line[at]
        at += 1
    return at


def _value_end(line: str, at: int) -> int:
    """Where NAME=EXPR ends; blanks beside its ``=`` and its commas belong to it."""
    depth, quote = 0, ""
    before = ""  # the last character that is no blank
    start = at
    while at < len(line):
        char = line[at]
        if quote:
            if char == "\\":
                at += 1
            elif char == quote:
                quote = ""
        elif char in "'\"":
            quote = char
        elif char in _OPENING:
            depth += 1
        elif char in _CLOSING:
            depth -= 1
        elif char.isspace() and depth <= 0 and before:
            following = line[at:].lstrip()
            if following.startswith("-") or not (
                before in "=," or following[:1] == "=" or following[:1] == ","
            ):
                return at
        if not char.isspace():
            before = char
        at += 1
    if quote or depth > 0:
        raise UsageError(
            f"%%pool_exec: --each {line[start:].strip()}: a "
            f"{'quotation mark' if quote else 'bracket'} is not closed"
        )
    return min(at, len(line))


def parse_each(texts: Iterable[str]) -> tuple[Each, ...]:
    """Parse what follows each ``--each``.

    Raises
    ------
    UsageError
        With what was wrong and what is allowed.
    """
    found: list[Each] = []
    for text in texts:
        source = text
        if source[:1] == source[-1:] and source[:1] in "'\"" and "=" in source:
            source = source[1:-1]  # quoted as a whole, as for a shell
        left, equals, expression = source.partition("=")
        names = tuple(name.strip() for name in left.strip().strip("()").split(",") if name.strip())
        if not equals or expression.startswith("=") or not names:
            raise UsageError(f"%%pool_exec: --each {text!r}: takes NAME=EXPR, as in {_EXAMPLE}")
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise UsageError(f"%%pool_exec: --each {text}: {name!r} is not a variable's name")
        try:
            ast.parse(expression.strip(), mode="eval")
        except (SyntaxError, ValueError) as error:
            why = getattr(error, "msg", None) or str(error)
            raise UsageError(
                f"%%pool_exec: --each {text}: {expression.strip()!r} is no expression: {why}"
            ) from None
        found.append(Each(names, expression.strip()))
    names_of_all = [name for each in found for name in each.names]
    for name in names_of_all:
        if names_of_all.count(name) > 1:
            raise UsageError(f"%%pool_exec: --each sets {name} twice")
    return tuple(found)


def make_items(eachs: Sequence[Each], namespace: dict[str, Any]) -> list[Item]:
    """Evaluate the expressions in the notebook and return the product of their values.

    Raises
    ------
    UsageError
        An expression fails, gives no or endlessly many values, or values that do not unpack.
    """
    columns = [_values(each, namespace) for each in eachs]
    if math.prod(map(len, columns)) > MOST_ITEMS:
        raise UsageError(
            f"%%pool_exec: --each gives {math.prod(map(len, columns)):,} combinations; "
            f"at most {MOST_ITEMS:,} are possible"
        )
    items = []
    for index, combination in enumerate(itertools.product(*columns)):
        parameters = {name: value for values in combination for name, value in values.items()}
        items.append(Item(index, parameters, label(parameters)))
    return items


def _values(each: Each, namespace: dict[str, Any]) -> list[dict[str, Any]]:
    where = f"%%pool_exec: --each {','.join(each.names)}"
    try:
        value = eval(compile(each.expression, "<--each>", "eval"), namespace)  # noqa: S307 - as the cell
        found = list(itertools.islice(_iterate(value), MOST_ITEMS + 1))
    except _NotIterableError:
        hint = f"; range({value}) counts to it" if type(value) is int else ""
        raise UsageError(
            f"{where}: {reprlib.repr(value)} has no items: give a list, a range, …{hint}"
        ) from None
    except Exception as error:  # noqa: BLE001 - the user's expression: told in one line
        raise UsageError(
            f"{where}: {each.expression!r} failed: {type(error).__name__}: {error}"
        ) from None
    if len(found) > MOST_ITEMS:
        raise UsageError(
            f"{where}: more than {MOST_ITEMS:,} items, or endless: itertools.islice cuts it"
        )
    if not found:
        raise UsageError(f"{where}: {each.expression!r} has no items")
    if len(each.names) == 1:
        return [{each.names[0]: item} for item in found]
    return [_unpack(where, each.names, number, item) for number, item in enumerate(found)]


class _NotIterableError(Exception):
    pass


def _iterate(value: Any) -> Iterator[Any]:
    try:
        return iter(value)
    except TypeError:
        raise _NotIterableError from None


def _unpack(where: str, names: tuple[str, ...], number: int, item: Any) -> dict[str, Any]:
    try:
        values = list(_iterate(item))
    except _NotIterableError:
        values = [item]
    if len(values) != len(names):
        raise UsageError(
            f"{where}: item {number} is {reprlib.repr(item)}: {len(values)} "
            f"value{'s' if len(values) != 1 else ''} for {len(names)} names"
        )
    return dict(zip(names, values, strict=True))


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 40


def label(parameters: Mapping[str, Any]) -> str:
    """Say which item it is, in some words: ``lr=0.1, depth=3``."""
    return ", ".join(f"{name}={_short(value)}" for name, value in parameters.items())


def _short(value: Any) -> str:
    try:
        # NumPy's numbers, which say their type with them.
        plain = (
            value.item() if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0 else value
        )
        return " ".join(_SHORT.repr(plain).split())
    except Exception:  # noqa: BLE001 - any class may be in a notebook
        return f"<{type(value).__name__}>"


def item_seed(seed: int, index: int) -> int:
    """The seed of one item: far from its neighbours', the same everywhere and for ever."""
    import hashlib

    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
