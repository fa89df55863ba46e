"""The magics' options: what is understood, and what is said to a misuse."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError

from jupyter_pool.config import PoolConfig
from jupyter_pool.notebook.arguments import ExecOptions, parse_exec
from jupyter_pool.notebook.commands import PARSERS, start_options
from jupyter_pool.notebook.programs import split_inputs


def _same(text: str) -> str:
    return text


def cell(line: str) -> ExecOptions:
    return parse_exec(line, is_cell=True, expand=_same)


def line(text: str) -> ExecOptions:
    return parse_exec(text, is_cell=False, expand=_same)


def test_without_options_everything_is_as_the_help_says() -> None:
    assert cell("") == ExecOptions(
        pool=None,
        session=None,
        timeout=None,
        inputs=(),
        auto=True,
        outputs=(),
        save_as=None,
        background=None,
        each=(),
        most=None,
        isolation=None,
        retries=0,
        seed=None,
        hold=None,
        quiet=False,
        raise_error=True,
        code="",
    )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("-p work", "pool", "work"),
        ("--pool work", "pool", "work"),
        ("--pool=work", "pool", "work"),
        ("-s 'a b'", "session", "a b"),
        ("--session x", "session", "x"),
        ("-t 90", "timeout", 90.0),
        ("--timeout 1.5s", "timeout", 1.5),
        ("--timeout 10m", "timeout", 600.0),
        ("--timeout 2h", "timeout", 7200.0),
        ("--timeout none", "timeout", None),
        ("--hold 10m", "hold", 600.0),
        ("--hold none", "hold", float("inf")),
        ("--hold 10m --bg", "hold", 600.0),
        ("--hold 10m --bg --retries 1", "retries", 1),
        ("-i a,b", "inputs", ("a", "b")),
        ("--in a --input b", "inputs", ("a", "b")),
        ("-o a,b", "outputs", ("a", "b")),
        ("--out a --output b,c -o a", "outputs", ("a", "b", "c")),
        ("--out 'a, b'", "outputs", ("a", "b")),
        ("--as run", "save_as", "run"),
        ("--isolation process", "isolation", "process"),
        ("--output-limit 500kB", "output_limit", "500kB"),
        ("--output-limit none", "output_limit", "none"),
        ("--retries 2", "retries", 2),
        ("--seed 7", "seed", 7),
        ("-q", "quiet", True),
        ("--quiet", "quiet", True),
        ("--no-raise-error", "raise_error", False),
        ("-qs x", "session", "x"),
    ],
)
def test_each_option_is_read_in_each_spelling(text: str, field: str, value: object) -> None:
    assert getattr(cell(text), field) == value
    parsed = line(f"{text} 1 + 1")
    assert getattr(parsed, field) == value
    assert parsed.code == "1 + 1"


@pytest.mark.parametrize(
    ("text", "inputs", "auto"),
    [
        ("", (), True),
        ("--in auto", (), True),
        ("--in none", (), False),
        ("--in a", ("a",), False),
        ("--in auto,a", ("a",), True),
        ("--in a --in auto", ("a",), True),
    ],
)
def test_names_to_send_can_be_automatic_chosen_or_both(
    text: str, inputs: tuple[str, ...], auto: bool
) -> None:
    assert (cell(text).inputs, cell(text).auto) == (inputs, auto)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--timout 3", ["--timout", "did you mean --timeout?"]),
        ("--tim 3", ["unknown option --tim", "--timeout"]),  # no abbreviations
        ("-z", ["unknown option -z", "--pool, --session, --timeout"]),
        ("--bg 1a", ["--bg", "'1a' is not a variable's name"]),
        ("--bg a --bg b", ["--bg is given twice"]),
        ("--each", ["--each needs a value", "NAME=EXPR"]),
        ("--each --out x", ["--each needs a value"]),
        ("--each x", ["--each 'x'", "takes NAME=EXPR"]),
        ("--each x==1", ["takes NAME=EXPR"]),
        ("--each 1a=[1]", ["'1a' is not a variable's name"]),
        ("--each x=[1", ["a bracket is not closed"]),
        ("--each x=['1", ["a quotation mark is not closed"]),
        ("--each x=1+", ["'1+' is no expression"]),
        ("--each x=[1] --each x=[2]", ["sets x twice"]),
        ("--each x=[1] y", ["unexpected 'y'"]),
        ("--max 0 --each x=[1]", ["--max", "a whole number from 1 on"]),
        ("--max 3", ["--max N is for --each"]),
        ("--hold", ["--hold needs a value: TIME"]),
        ("--hold 0", ["'0' is not a time", "10m"]),
        ("--hold 1h -q", ["--hold keeps widgets alive", "--quiet"]),
        ("--hold 1h --retries 1", ["--hold keeps one worker", "--retries"]),
        ("--hold 1h --each n=[1]", ["--hold keeps one worker", "--each"]),
        ("--hold 1h --bg --each n=[1]", ["--hold keeps one worker", "--each"]),
        ("--timeout", ["-t/--timeout needs a value"]),
        ("--timeout abc", ["'abc' is not a time", "10m"]),
        ("--timeout 0", ["'0' is not a time"]),
        ("--timeout -5", ["'-5' is not a time"]),
        ("--pool a --pool b", ["-p/--pool is given twice"]),
        ("--pool ''", ["--pool", "not an empty text"]),
        ("--isolation proces", ["namespace, process, none", "did you mean process?"]),
        ("--output-limit 5kB", ["--output-limit", "'5kB' is not possible", "at least 10kB"]),
        ("--output-limit much", ["'much' is not possible"]),
        ("--retries -1", ["--retries", "a whole number from 0 on", "'-1'"]),
        ("--retries x", ["--retries", "a whole number from 0 on", "'x'"]),
        ("--seed 4294967296", ["--seed", "from 0 to 4294967295"]),
        ("--as 1a", ["'1a' is not a variable's name"]),
        ("--as a,b", ["takes one name"]),
        ("--out class", ["'class' is not a variable's name"]),
        ("--out a,,b", ["a name is missing in 'a,,b'"]),
        ("--in none,x", ["--in none sends nothing"]),
        ("--in none --in x", ["--in none sends nothing"]),
        ("--quiet=3", ["-q/--quiet takes no value"]),
        ("--session 'a", ["a quotation mark is not closed"]),
        ("x + 1", ["unexpected 'x'", "the code goes below it"]),
        ("pool", ["did you mean --pool?"]),
    ],
)
def test_each_misuse_is_one_clear_line(text: str, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        cell(text)
    message = str(caught.value)
    assert message.startswith("%%pool_exec: ")
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("text", "background"),
    [
        ("", None),
        ("--bg", ""),
        ("--bg train", "train"),
        ("--bg=train", "train"),
        ("--bg --out x", ""),
    ],
)
def test_a_background_cell_has_a_name_or_gets_one(text: str, background: str | None) -> None:
    assert cell(text).background == background


def test_what_follows_a_background_line_is_its_expression() -> None:
    assert (line("--bg f(x)").background, line("--bg f(x)").code) == ("", "f(x)")
    assert (line("--bg=train f(x)").background, line("--bg=train f(x)").code) == ("train", "f(x)")


@pytest.mark.parametrize("text", ["--each x=[1] x", "--max 3 x"])
def test_a_line_is_not_run_for_each(text: str) -> None:
    with pytest.raises(UsageError, match="take a cell below %%pool_exec"):
        line(text)


@pytest.mark.parametrize(
    ("text", "names", "expression"),
    [
        ("--each x=[1,2]", ("x",), "[1,2]"),
        ("--each x=[0.1, 0.3, {'a b': (1, 2)}] -q", ("x",), "[0.1, 0.3, {'a b': (1, 2)}]"),
        ("-q --each=x=range(3)", ("x",), "range(3)"),
        ("--each x = [1, 2] -q", ("x",), "[1, 2]"),
        ("--each a,b=zip(p, q)", ("a", "b"), "zip(p, q)"),
        ("--each a, b = pairs -q", ("a", "b"), "pairs"),
        ("--each (a,b)=pairs", ("a", "b"), "pairs"),
        ("""--each x=["it's", 'a]']""", ("x",), """["it's", 'a]']"""),
        ("""--each "x=[1, 2]" """, ("x",), "[1, 2]"),
        ("--each x=[k for k in d if k == 1]", ("x",), "[k for k in d if k == 1]"),
    ],
)
def test_an_expression_ends_outside_of_brackets(
    text: str, names: tuple[str, ...], expression: str
) -> None:
    (each,) = cell(text).each
    assert (each.names, each.expression) == (names, expression)
    assert cell(text).quiet == ("-q" in text)


def test_braces_of_an_expression_are_not_expanded() -> None:
    def fill(text: str) -> str:
        return text.replace("{me}", "alice")

    parsed = parse_exec("--each x=[{me}] -s {me}", is_cell=True, expand=fill)
    assert (parsed.session, parsed.each[0].expression) == ("alice", "[{me}]")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x", "x"),
        ("f('a  b', {'k': \"v\"})", "f('a  b', {'k': \"v\"})"),
        ("it's unfinished", "it's unfinished"),
        ("-1 + 2", "-1 + 2"),
        ("-(x)", "-(x)"),
        ("-q -- -x", "-x"),
        ("-q a - b --timeout", "a - b --timeout"),
        ("-s 'a b'   f(x)", "f(x)"),
        ("", ""),
        ("-q", ""),
    ],
)
def test_an_expression_stays_as_it_was_typed(text: str, code: str) -> None:
    assert line(text).code == code


def test_an_expression_with_a_minus_in_front_is_not_taken_for_an_option() -> None:
    with pytest.raises(UsageError, match="put -- before an expression"):
        line("-x + 1")


def test_options_are_expanded_and_the_expression_is_not() -> None:
    def fill(text: str) -> str:
        return text.replace("{me}", "alice")

    parsed = parse_exec("-s {me} f({me})", is_cell=False, expand=fill)
    assert (parsed.session, parsed.code) == ("alice", "f({me})")
    assert parse_exec("-s {me}", is_cell=True, expand=fill).session == "alice"


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused_with_a_usage_error(text: str) -> None:
    for is_cell in (True, False):
        try:
            parse_exec(text, is_cell=is_cell, expand=_same)
        except UsageError:
            pass


# -- the line magics ------------------------------------------------------------------------------


def test_pool_start_takes_every_option_of_a_pool() -> None:
    options = start_options(
        "--name big --size 3 --overflow 2 --lazy --reserve 1 --kernel ir --isolation process "
        "--checkout-timeout none --operation-timeout 5m --max-waiting 9 --max-tasks 10 "
        "--max-lifetime 2h --max-idle 30 --env A=1 --env B=x=y --env C --cwd . "
        "--preload json,decimal --setup x=1 --threads-per-worker 2 --output-limit 1.5MB --memory-limit 4GiB "
        "--interrupt-grace 1.5 --start-timeout 10s --health-check-interval 1m --session-ttl none "
        "--max-sessions 5"
    )
    assert set(options) == set(PoolConfig.option_names())
    # Only the pool's own kernel has it.
    assert PoolConfig.build({"setup": options.pop("setup")}).setup == ("x=1",)
    assert PoolConfig.build({"preload": options.pop("preload")}).preload == ("json", "decimal")
    config = PoolConfig.build(options)
    assert config.name == "big"
    assert (config.size, config.overflow, config.lazy, config.reserve) == (3, 2, True, 1)
    assert (config.kernel_name, config.isolation) == ("ir", "process")
    assert (config.checkout_timeout, config.operation_timeout) == (None, 300.0)
    assert config.env == {"A": "1", "B": "x=y", "C": None}
    assert config.session_ttl is None
    assert (config.output_limit, config.memory_limit) == (1_500_000, 2**32)


def test_pool_start_passes_nothing_that_was_not_given() -> None:
    assert start_options("") == {}
    assert start_options("--no-lazy") == {"lazy": False}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--size x", ["--size", "a whole number", "'x'"]),
        ("--siz 3", ["did you mean --size?"]),
        ("--kernl ir", ["did you mean --kernel?"]),
        ("--isolation all", ["namespace, process, none"]),
        ("--env =1", ["NAME=VALUE"]),
        ("4", ["unexpected '4'"]),
    ],
)
def test_pool_start_says_what_is_wrong(text: str, said: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        start_options(text)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("magic", "text", "said"),
    [
        ("pool_stop", "work", "a pool is named with --pool work"),
        ("pool_stop", "--force", "unknown option --force"),
        ("pool_status", "--chek", "did you mean --check?"),
        ("pool_resize", "0", "a whole number from 1 on"),
        ("pool_resize", "4 5", "unexpected '5'"),
        ("pool_restart", "", "WORKER"),
        ("pool_restart", "x", "a whole number from 1 on"),
        ("pool_last", "--pool x", "unknown option --pool; it takes none"),
        ("pool_sessions", "a b", "unexpected 'b'"),
        ("pool_call", "--tiemout 3 it", "did you mean --timeout?"),
    ],
)
def test_line_magics_say_what_is_wrong(magic: str, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        PARSERS[magic].parse(text)
    assert str(caught.value).startswith(f"%{magic}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("magic", sorted(PARSERS))
def test_every_magic_has_a_help_with_usage_options_and_examples(magic: str) -> None:
    text = PARSERS[magic].format_help()
    assert f"%{magic}" in text
    assert "Examples:" in text
    for option in PARSERS[magic].long_options:
        assert option in text
    assert max(map(len, text.splitlines())) <= 92
    assert "%%" not in re.sub("%%(pool_exec|pool_program|time)", "", text)


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("", {}),
        ("a=1", {"a": "1"}),
        ("a=1 b=2", {"a": "1", "b": "2"}),
        ("a = 1  b= [1, 2]", {"a": "1", "b": "[1, 2]"}),
        ("a='x b=2' c=3", {"a": "'x b=2'", "c": "3"}),
        ("a=f(x, y=2) b=dict(k=1, l=2)", {"a": "f(x, y=2)", "b": "dict(k=1, l=2)"}),
        ("a=b == c d=1", {"a": "b == c", "d": "1"}),
        ("a=lambda x=1: x b=2", {"a": "lambda x=1: x", "b": "2"}),
    ],
)
def test_the_inputs_of_pool_call_are_expressions_by_name(text: str, inputs: dict[str, str]) -> None:
    assert split_inputs(text) == inputs


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1", "'1' is no input: they are name=value"),
        ("x a=1", "'x' is no input"),
        ("a=", "a= needs a Python expression"),
        ("a=1 a=2", "a= is given twice"),
        ("a=(1", "a= needs a Python expression, not '(1'"),
    ],
)
def test_inputs_of_pool_call_that_are_none(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_inputs(text)
    assert said in str(caught.value)


def test_pool_program_takes_lists_of_names_and_a_description() -> None:
    given = PARSERS["pool_program"].parse("it --in a,b -o c --out d --description 'Adds up.'")
    assert (given.program, given.inputs, given.outputs) == ("it", ["a", "b"], ["c", "d"])
    assert given.description == "Adds up."
    with pytest.raises(UsageError, match="ID"):
        PARSERS["pool_program"].parse("--in a")
