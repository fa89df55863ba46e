"""Tab completion on the magics' lines, and only there."""

from __future__ import annotations

import pytest
from IPython.core.completer import CompletionContext, provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from jupyter_pool.notebook.commands import PARSERS
from jupyter_pool.notebook.completion import PoolMatcher
from jupyter_pool.notebook.pools import Pools


@pytest.fixture
def matcher(shell: InteractiveShell) -> PoolMatcher:
    shell.user_ns.update(model=1, matrix=2, _hidden=3)
    return PoolMatcher(shell, Pools(lambda: "default"), ["test", "train"])


def complete(matcher: PoolMatcher, text: str) -> list[str]:
    """Complete at the end of `text`; return the line's last word as each match would make it."""
    lines = text.split("\n")
    line = lines[-1]
    result = matcher(
        CompletionContext(
            token=line.split(" ")[-1],
            full_text=text,
            cursor_position=len(line),
            cursor_line=len(lines) - 1,
            limit=None,
        )
    )
    fragment = result["matched_fragment"]
    assert line.endswith(fragment)
    start = line[: len(line) - len(fragment)].split(" ")[-1]
    found = [start + completion.text for completion in result["completions"]]
    assert result["suppress"] == bool(found)
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%%pool_exec --se", ["--session", "--seed"]),
        ("%%pool_exec --pool x --se", ["--session", "--seed"]),
        ("%%pool_exec --seed 3 --se", ["--session"]),  # each once
        ("%%pool_exec --out a --ou", ["--out", "--output", "--output-limit"]),  # but lists add up
        ("%%pool_exec --isolation ", ["namespace", "process", "none"]),
        ("%%pool_exec --isolation p", ["process"]),
        ("%%pool_exec --isolation=p", ["--isolation=process"]),
        ("%%pool_exec --pool d", ["default"]),
        ("%%pool_exec -p d", ["default"]),
        ("%%pool_exec --in m", ["matrix", "model"]),
        ("%%pool_exec --in model,m", ["model,matrix", "model,model"]),
        ("%%pool_exec --in a", ["auto"]),
        ("%%pool_exec --timeout ", []),
        ("%%time\n%%pool_exec --qu", ["--quiet"]),
        ("%pool_exec --qu", ["--quiet"]),
        ("x = %pool_exec --qu", ["--quiet"]),
        ("a = 1\n%pool_status --ch", ["--check"]),
        ("%pool_stop --", ["--pool", "--timeout"]),
        ("%pool_start --ke", ["--kernel", "--kernel-name"]),
        ("%pool_last --", []),
        ("%pool_wait t", ["test", "train"]),
        ("%pool_wait test t", ["train"]),
        ("%pool_wait --timeout ", []),
        ("%pool_cancel --a", ["--all"]),
        ("%pool_jobs --", []),
        ("%%pool_exec --ea", ["--each"]),
        ("%%pool_exec --each x=[1] --ea", ["--each"]),  # more than one: the product
        ("%%pool_exec --bg tr", ["train"]),
        ("%%pool_exec --bg --ma", ["--max"]),
        ("%%pool_exec --bg train --ma", ["--max"]),
        # not on these lines
        ("%%pool_exec\n--se", []),
        ("a = 1\n%%pool_exec --se", []),
        ("%pool_exec x --se", []),
        ("%pool_exec x", []),
        ("%pool_nothing --se", []),
        ("%%time --se", []),
        ("pool_exec --se", []),
        ("print('%pool_exec --se", []),
    ],
)
def test_what_is_offered(matcher: PoolMatcher, text: str, expected: list[str]) -> None:
    assert complete(matcher, text) == expected


def test_all_options_are_offered_after_a_blank(matcher: PoolMatcher) -> None:
    assert {"--pool", "--session", "--timeout", "--in", "--out", "--as"} <= set(
        complete(matcher, "%%pool_exec ")
    )


def test_it_is_a_matcher_for_ipython(shell: InteractiveShell, matcher: PoolMatcher) -> None:
    shell.Completer.custom_matchers.append(matcher)
    shell.Completer.use_jedi = False
    with provisionalcompleter():
        found = list(shell.Completer.completions("%%pool_exec --se", 16))
    assert sorted(completion.text for completion in found) == ["--seed", "--session"]


@pytest.mark.parametrize("magic", sorted(PARSERS))
def test_every_option_of_every_magic_is_offered(matcher: PoolMatcher, magic: str) -> None:
    percent = "%%" if magic in ("pool_exec", "pool_program") else "%"
    spellings = [spelling for spelling in PARSERS[magic].options if spelling.startswith("--")]
    assert sorted(complete(matcher, f"{percent}{magic} --")) == sorted(spellings)
