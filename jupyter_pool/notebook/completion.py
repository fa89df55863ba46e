"""Tab completion for the magics: options, and the values that are known."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from IPython.core.completer import SimpleCompletion

from jupyter_pool.errors import PoolError

from .arguments import ISOLATIONS
from .commands import PARSERS
from .names import is_shell_name

if TYPE_CHECKING:
    import argparse

    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

    from .parsing import OptionParser
    from .pools import Pools

__all__ = ["PoolMatcher"]

# "%%pool_exec …", or "x = %pool_status …" anywhere.
_CALL = re.compile(
    r"\s*(?:%%(?P<cell>pool_exec|pool_program)|(?:[^%'\"#]*=\s*)?%(?P<line>pool_\w+))\s+(?P<rest>.*)"
)
_CELL_MAGIC = re.compile(r"\s*%%")


class PoolMatcher:
    """A context matcher (version 2 of IPython's matcher API)."""

    # What IPython's decorator `context_matcher` would set on a function.
    matcher_api_version = 2
    matcher_priority = 0
    matcher_identifier = "jupyter_pool.PoolMatcher"

    def __init__(self, shell: InteractiveShell, pools: Pools, jobs: Iterable[str] = ()) -> None:
        self.__qualname__ = type(self).__qualname__  # IPython takes it for a function
        self._shell = shell
        self._pools = pools
        self._jobs = jobs

    def __call__(self, context: CompletionContext) -> SimpleMatcherResult:
        """Complete on a magic's line; elsewhere there is nothing, and nothing is suppressed."""
        text = context.text_until_cursor
        call = _CALL.fullmatch(text)
        if call is None or (call["cell"] and not _only_magics_above(context)):
            return _result([], "", found=False)
        parser = PARSERS.get(call["cell"] or call["line"])
        if parser is None:
            return _result([], "", found=False)
        words = call["rest"].split()
        fragment = words.pop() if words and not call["rest"][-1:].isspace() else ""
        action, used = _position(parser, words, fragment)
        if action is _CODE:
            return _result([], "", found=False)
        if isinstance(action, _Missing):  # an option, or a positional argument
            candidates = self._options(parser, used, action.positional, words)
            if "=" in fragment and fragment.startswith("--"):
                spelling, _, fragment = fragment.partition("=")
                owner = parser.options.get(spelling)
                candidates = self._values(owner, words) if owner is not None else []
        else:
            candidates = self._values(action, words)
        if action_takes_names(action):
            fragment = fragment.rpartition(",")[2]
        return _result([c for c in candidates if c.startswith(fragment)], fragment, found=True)

    def _options(
        self,
        parser: OptionParser,
        used: set[str],
        positional: argparse.Action | None,
        words: list[str],
    ) -> list[str]:
        found = [
            spelling
            for spelling, action in parser.options.items()
            if spelling.startswith("--") and action.dest not in used
        ]
        if positional is not None:
            found += self._values(positional, words)
        return found

    def _values(self, action: argparse.Action, words: list[str]) -> list[str]:
        match action.dest:
            case "pool":
                from jupyter_pool.pool import list_pools

                return sorted({*list_pools(), self._pools.default})
            case "session" | "id":
                return self._sessions(words)
            case "isolation":
                return list(ISOLATIONS)
            case "inputs":
                return [*self._variables(), "auto", "none"]
            case "outputs" | "save_as":
                return self._variables()
            case "program":
                return list(self._ask(words, lambda pool: pool.list_programs()))
            case "worker":
                return self._workers(words)
            case "jobs" | "background":
                return [name for name in self._jobs if name not in words]
        return []

    def _pool_name(self, words: list[str]) -> str:
        for word, following in itertools.pairwise([*words, ""]):
            if word in {"-p", "--pool"} and following:
                return following
            if word.startswith("--pool="):
                return word.partition("=")[2]
        return self._pools.default

    def _ask(self, words: list[str], question: Any) -> Iterable[str]:
        from jupyter_pool.pool import get_pool

        try:
            return list(question(get_pool(self._pool_name(words))))
        except PoolError:
            return []

    def _sessions(self, words: list[str]) -> list[str]:
        return sorted(self._ask(words, lambda pool: pool.sessions))

    def _workers(self, words: list[str]) -> list[str]:
        from jupyter_pool.engine import answers

        def numbers(pool: Any) -> list[str]:
            # Not its status, for which memory is measured: Tab must be quick.
            return [str(worker.id) for worker in pool.ask(answers.workers)]

        return list(self._ask(words, numbers))

    def _variables(self) -> list[str]:
        return sorted(
            name
            for name, value in self._shell.user_ns.items()
            if not name.startswith("_") and not is_shell_name(name, value)
        )


class _Missing:
    """An option may follow here, or the positional argument that is still free."""

    def __init__(self, positional: argparse.Action | None) -> None:
        self.positional = positional


_CODE = object()


def action_takes_names(action: object) -> bool:
    """Tell whether the value is a list with commas."""
    return getattr(action, "dest", None) in {"inputs", "outputs"}


def _position(parser: OptionParser, words: list[str], begun: str = "") -> tuple[Any, set[str]]:
    """Return what the next word, which is begun, may be, and which options were used."""
    options = parser.options
    used: set[str] = set()
    free = [action for action in parser._actions if not action.option_strings]
    expects: argparse.Action | None = None
    for word in words:
        if expects is not None and not (expects.nargs == "?" and word.startswith("-")):
            expects = None
            continue
        action = options.get(word.partition("=")[0] if word.startswith("--") else word)
        if action is None:
            if not free:
                return _CODE, used
            if free[0].nargs != "*":
                free.pop(0)
            continue
        if not action_takes_names(action) and action.dest != "each":
            used.add(action.dest)
        expects = action if action.nargs != 0 and "=" not in word else None
    if expects is not None and not (expects.nargs == "?" and begun.startswith("-")):
        return expects, used
    return _Missing(free[0] if free else None), used


def _only_magics_above(context: CompletionContext) -> bool:
    above = context.full_text.split("\n")[: context.cursor_line]
    return all(_CELL_MAGIC.match(line) or not line.strip() for line in above)


def _result(texts: Iterable[str], fragment: str, *, found: bool) -> SimpleMatcherResult:
    completions = [SimpleCompletion(text, type="magic") for text in texts]
    # The other keys of the TypedDict are optional in fact.
    told = {
        "completions": completions,
        "matched_fragment": fragment,
        "suppress": found and bool(completions),
    }
    return cast("SimpleMatcherResult", told)
