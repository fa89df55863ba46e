"""The options of the magics: parsing, help texts, and clear errors.

argparse does the work, with three differences. A misuse is one line of
`UsageError` that says what is allowed. Options are never abbreviated and, except
those that take lists, never given twice: a later option could change what a
notebook does. And a line magic's expression is left exactly as it was typed.
"""

from __future__ import annotations

import argparse
import difflib
import io
import keyword
import math
import re
import shlex
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic_arguments import MagicArgumentParser

from jupyter_pool.config import LEAST_OUTPUT, parse_size, parse_time
from jupyter_pool.errors import InvalidRequest

__all__ = [
    "OptionParser",
    "count",
    "hold_time",
    "identifier",
    "identifiers",
    "job_name",
    "label",
    "once",
    "one_of",
    "output_limit",
    "time_limit",
]


class _Help(argparse.RawDescriptionHelpFormatter):
    """Plain help without argparse's headings; options in a column."""

    def __init__(self, prog: str, **kwargs: Any) -> None:
        super().__init__(prog, max_help_position=26, width=88)

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        return  # each description begins with its own

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        # "-o, --out NAMES" rather than "-o NAMES, --out NAMES".
        return f"{', '.join(action.option_strings)} {action.metavar}"


class OptionParser(MagicArgumentParser):
    """Parses one magic's options.

    Parameters
    ----------
    magic
        Its name with its percent signs, for messages: ``"%pool_stop"``.
    description
        The help text before the list of options.
    """

    def __init__(self, magic: str, description: str) -> None:
        super().__init__(prog=magic, description=description, formatter_class=_Help)
        self.allow_abbrev = False
        self.color = False  # Python 3.14

    @property
    def options(self) -> dict[str, argparse.Action]:
        """Every spelling of every option."""
        return dict(self._option_string_actions)

    @property
    def long_options(self) -> list[str]:
        """The first spelling with two dashes of every option."""
        return [
            next(spelling for spelling in action.option_strings if spelling[:2] == "--")
            for action in self._actions
            if action.option_strings
        ]

    def parse(self, text: str) -> argparse.Namespace:
        """Parse a line that holds nothing but options and arguments.

        Raises
        ------
        UsageError
            Anything else is in it, or a value is not allowed.
        """
        return self._finish(self._split(text))

    def parse_head(self, text: str, expand: Callable[[str], str]) -> tuple[argparse.Namespace, str]:
        """Parse the options that `text` begins with; return them and the rest as it is.

        Parameters
        ----------
        expand
            Fills in ``{name}`` and ``$name``; applied to the options, not to the rest.
        """
        tokens, rest = self._head(text)
        return self._finish([expand(token) for token in tokens]), rest

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        if message.endswith("expected one argument"):
            spelling = message.partition(":")[0]
            action = self._option_string_actions[spelling.split("/")[0]]
            message = f"{spelling} needs a value: {action.metavar}"
        elif ": ignored explicit argument" in message:
            message = f"{message.partition(':')[0]} takes no value"
        raise UsageError(f"{self.prog}: {message}")

    def _finish(self, tokens: Sequence[str]) -> argparse.Namespace:
        # Before argparse: it would take an unknown option's value for an argument.
        for word in takewhile(lambda word: word != "--", tokens):
            if self._looks_like_option(word) and not self._known(word):
                self._unknown(word)
        known, extra = self.parse_known_args(tokens)
        if extra:
            self._unexpected(extra[0])
        return known

    def _unexpected(self, token: str) -> NoReturn:
        hint = ""
        if f"--{token}" in self._option_string_actions:
            hint = f"; did you mean --{token}?"
        elif "--pool" in self._option_string_actions and not self.prog.endswith("pool_exec"):
            hint = f"; a pool is named with --pool {token}"
        elif self.prog.startswith("%%"):
            hint = "; its first line takes options only, the code goes below it"
        self.error(f"unexpected {token!r}{hint}")

    def _unknown(self, token: str) -> NoReturn:
        name = token.partition("=")[0]
        spellings = [option[2:] for option in self._option_string_actions if option[:2] == "--"]
        word = name.lstrip("-")
        close = difflib.get_close_matches(word, spellings, n=1)
        if not close and len(word) > 1:
            close = [spelling for spelling in spellings if spelling.startswith(word)][:1]
        if close:
            hint = f"did you mean --{close[0]}?"
        elif spellings:
            hint = f"there are {', '.join(self.long_options)}"
        else:
            hint = "it takes none"
        self.error(f"unknown option {name}; {hint}")

    @staticmethod
    def _looks_like_option(token: str) -> bool:
        # "-1" and "-(x)" are no options of any magic.
        return bool(re.match(r"--.|-[A-Za-z]", token))

    def _known(self, token: str) -> bool:
        if token.startswith("--"):
            return token.partition("=")[0] in self._option_string_actions
        for position, letter in enumerate(token[1:], start=1):  # "-qsNAME"
            action = self._option_string_actions.get(f"-{letter}")
            if action is None:
                return False
            if action.nargs != 0:
                return True
            if position == len(token) - 1:
                return True
        return False

    def _takes_next(self, token: str) -> bool:
        """Tell whether the value of this known option is in the next token.

        A value that may be missing is not: it could as well be the expression that follows.
        """
        if token.startswith("--"):
            return "=" not in token and self._option_string_actions[token].nargs not in (0, "?")
        for position, letter in enumerate(token[1:], start=1):
            if self._option_string_actions[f"-{letter}"].nargs != 0:
                return position == len(token) - 1
        return False

    def _split(self, text: str) -> list[str]:
        try:
            return shlex.split(text)
        except ValueError:
            self.error("a quotation mark is not closed")

    def _head(self, text: str) -> tuple[list[str], str]:
        source = io.StringIO(text)
        lexer = shlex.shlex(source, posix=True, punctuation_chars=False)
        lexer.whitespace_split = True
        lexer.commenters = ""
        tokens: list[str] = []
        wants_value = False
        while True:
            position = source.tell()
            rest = text[position:].lstrip()
            option = rest.split(None, 1)[0] if rest else ""
            if not wants_value:
                if option == "--":
                    return tokens, rest[2:].lstrip()
                if not self._looks_like_option(option):
                    return tokens, rest
                if not self._known(option):
                    close = "; put -- before an expression that begins with a minus"
                    if option.startswith("--"):
                        self._unknown(option)
                    self.error(f"unknown option {option}{close}")
            try:
                token = lexer.get_token()
            except ValueError:
                self.error("a quotation mark is not closed")
            if token is None:
                return tokens, ""
            tokens.append(token)
            wants_value = not wants_value and self._takes_next(token)


class _Once(argparse.Action):
    """Store a value; a second one is an error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = namespace.__dict__.setdefault("_given", set())
        if self.dest in given:
            parser.error(f"{'/'.join(self.option_strings) or self.metavar} is given twice")
        given.add(self.dest)
        setattr(namespace, self.dest, values)


def once(parser: OptionParser, *spellings: str, **settings: Any) -> None:
    """Add an option (or argument) that takes one value, at most once."""
    parser.add_argument(*spellings, action=_Once, **settings)


# -- types of values --------------------------------------------------------------------------


def identifiers(text: str) -> list[str]:
    """Parse ``a,b``: names of Python variables."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a variable's name" if name else f"a name is missing in {text!r}"
            )
    return names


def identifier(text: str) -> str:
    """Parse one name of a Python variable."""
    names = identifiers(text)
    if len(names) > 1:
        raise argparse.ArgumentTypeError(f"takes one name, not {text!r}")
    return names[0]


def time_limit(text: str) -> float | None:
    """Parse a time of more than zero, or ``none``."""
    try:
        seconds = parse_time(text)
    except InvalidRequest:
        seconds = 0.0
    if seconds == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: 90, 1.5s, 10m, 2h or none")
    return seconds


def hold_time(text: str) -> float:
    """Parse a time of more than zero, or ``none``: infinity."""
    seconds = time_limit(text)
    return math.inf if seconds is None else seconds


def output_limit(text: str) -> str:
    """Check a size that can be an `output_limit`, or ``none``; it stays a text."""
    try:
        size = parse_size(text)
    except InvalidRequest:
        size = 0
    if size is not None and size < LEAST_OUTPUT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not possible: 500kB, 20MB, 1GB (at least 10kB) or none"
        )
    return text


def count(least: int = 0, below: int | None = None) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` on."""
    allowed = f"a whole number from {least}" + (f" to {below - 1}" if below else " on")

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (below is not None and number >= below):
            raise argparse.ArgumentTypeError(f"takes {allowed}, not {text!r}")
        return number

    return parse


def one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    """Return a parser of words."""

    def parse(text: str) -> str:
        if text not in allowed:
            close = difflib.get_close_matches(text, allowed, n=1, cutoff=0.4)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise argparse.ArgumentTypeError(f"takes {', '.join(allowed)}, not {text!r}{hint}")
        return text

    return parse


def label(text: str) -> str:
    """Parse a name that is free text, but not blank."""
    if not text.strip():
        raise argparse.ArgumentTypeError("takes a name, not an empty text")
    return text


def job_name(text: str) -> str:
    """Parse the name of a job, which becomes a variable; empty for the next free one."""
    return identifier(text) if text else ""
