"""What the README says is so: its commands, its tables, its first screen."""

from __future__ import annotations

import inspect
import re

import jupyter_pool
from jupyter_pool import errors, results, telemetry
from jupyter_pool.cli.app import PoolApp
from jupyter_pool.cli.execute import ExecApp
from jupyter_pool.config import PoolConfig
from jupyter_pool.kernel import leftovers, reset
from jupyter_pool.notebook.arguments import exec_parser
from jupyter_pool.notebook.commands import PARSERS
from support import option_table, readme

TEXT = readme.README.read_text(encoding="utf-8")

# The design's words; changing them is a decision, not an edit.
SECURITY = (
    "A worker is a process with your rights: your files, your network, your credentials. "
    '`isolation="process"` separates requests from one another, not from you. '
    "`namespace` is not for mutually distrusting users. "
    "For untrusted code, run the pool inside a container or VM."
)

REPORTS = (
    "ExecutionResult",
    "Timings",
    "Timeline",
    "ProgramResult",
    "ProgramInfo",
    "PoolStatus",
    "BreakerStatus",
    "WorkerInfo",
    "PoolStats",
    "Distribution",
    "HealthReport",
    "WorkerVerdict",
    "SessionInfo",
)


def test_it_opens_with_what_it_is_a_picture_and_two_commands() -> None:
    first = "Run any notebook cell on another kernel. Yours stays free, and alive."
    picture = re.search(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert picture
    assert (readme.ROOT / picture[1]).is_file()
    places = [TEXT.index(first), picture.start(), *map(TEXT.index, readme.commands())]
    assert places == sorted(places)
    assert TEXT.index("%%pool_exec") < TEXT.index("KernelPool(") < TEXT.index(SECURITY[:30])


def test_each_command_sets_itself_up_from_nothing_but_python() -> None:
    quickstart, test = readme.commands()
    for command in (quickstart, test):
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ")
    assert quickstart.endswith('".[lab]" && .venv/bin/jupyter pool quickstart')
    assert test.endswith('".[test]" && .venv/bin/pytest -n 3')


def test_ci_runs_the_commands_that_the_readme_has() -> None:
    script = (readme.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r'grep -E "([^"]+)" README\.md \| head -n 1', script)
    assert pattern
    for word, expected in zip(("quickstart", "pytest"), readme.commands(), strict=True):
        assert f"readme_command {word}" in script
        found = re.findall(f"{pattern[1].replace('$1', word)}.*", TEXT, flags=re.MULTILINE)
        assert found[0] == expected


def test_the_security_text_is_the_designs() -> None:
    assert SECURITY in " ".join(TEXT.split())


def test_the_table_of_options_is_what_the_configuration_says() -> None:
    assert option_table.current_table(TEXT) == option_table.option_table(), (
        "run: python tests/support/option_table.py"
    )


def test_every_option_that_is_named_as_one_exists() -> None:
    named = set(re.findall(r"(?:c\.|--)KernelPool\.(\w+)", TEXT))
    assert named
    assert named <= set(PoolConfig.option_names())


def test_every_public_name_is_documented_and_mentioned() -> None:
    undocumented, unmentioned = set(), set()
    names = {name: getattr(jupyter_pool, name) for name in jupyter_pool.__all__}
    for cls in (jupyter_pool.KernelPool, jupyter_pool.AsyncKernelPool):
        names |= {f"{cls.__name__}.{name}": getattr(cls, name) for name in _methods(cls)}
    for name, thing in names.items():
        if not inspect.getdoc(thing):
            undocumented.add(name)
        if not re.search(rf"(?<!\w){re.escape(name.split('.')[-1])}(?!\w)", TEXT):
            unmentioned.add(name)
    assert (undocumented, unmentioned) == (set(), set())


def test_everything_that_results_and_reports_tell_is_listed() -> None:
    listed = {
        words[0]: {re.split(r"\W", word)[0] for word in words[1:]}
        for words in (
            [readme.code_words(first)[0], *readme.code_words(attributes)]
            for first, attributes in readme.table("class, and where it comes from")
        )
    }
    for name in REPORTS:
        cls = getattr(results, name)
        attributes = {attribute for attribute in dir(cls) if not attribute.startswith("_")}
        if issubclass(cls, tuple):
            attributes = set(cls._fields)
        attributes -= {"of"}  # makes one
        assert listed.pop(name) == attributes, name
        assert inspect.getdoc(cls), name
    assert listed == {}


def test_every_error_has_advice() -> None:
    advised = [readme.code_words(row[0])[0] for row in readme.table("error")]
    assert sorted(advised) == sorted(errors.__all__)


def test_every_command_and_every_option_of_exec_is_described() -> None:
    for command in PoolApp.subcommands:
        assert f"`jupyter pool {command}" in TEXT
    section = TEXT[TEXT.index("## On the command line") : TEXT.index("## Errors\n")]
    told = {word.split("=")[0].lstrip("-") for word in re.findall(r"--?[\w-]+", section)}
    for names in (*ExecApp.aliases, *ExecApp.flags):
        spellings = {names} if isinstance(names, str) else set(names)
        assert spellings & (told | {"config"}), names


def test_every_error_is_listed_with_its_names() -> None:
    rows = readme.table("category")
    for category, kind, text, _ in rows:
        cls = getattr(errors, readme.code_words(text)[0])
        assert [cls.category, cls.type] == readme.code_words(f"{category} {kind}")
    assert {readme.code_words(row[2])[0] for row in rows} == set(errors.__all__)


def test_every_magic_and_every_option_of_pool_exec_is_listed() -> None:
    listed = {word for row in readme.table("magic") for word in readme.code_words(row[0])}
    assert listed | {"%pool_exec"} == {parser.prog for parser in PARSERS.values()}
    spellings = {
        word.split(" ")[0]
        for row in readme.table("`%%pool_exec`")
        for word in readme.code_words(row[0])
    }
    known = exec_parser("%%pool_exec").options
    assert spellings <= set(known)
    assert {known[spelling].dest for spelling in spellings} == {
        action.dest for action in known.values()
    }


def test_the_documented_methods_exist_on_both_pools() -> None:
    names = {
        re.split(r"\W", word)[0]
        for row in readme.table("`KernelPool`")
        for word in readme.code_words(row[0])
        if not word.startswith("jupyter_pool.")
    }
    for cls in (jupyter_pool.KernelPool, jupyter_pool.AsyncKernelPool):
        assert {name for name in names if not hasattr(cls, name)} == set()


def test_every_event_is_listed() -> None:
    listed = [word for row in readme.table("event") for word in readme.code_words(row[0])]
    assert sorted(listed) == sorted(telemetry.EVENT_TYPES)


def test_the_three_lists_of_statelessness_are_there_and_name_what_is_harmless() -> None:
    documentation = " ".join((reset.__doc__ or "").split())
    for heading in ("Restored", "Recycled", "Not covered"):
        assert f"**{heading}**" in TEXT
        assert heading.lower().split()[0] in documentation
    text = " ".join(TEXT.split())
    for what in ("matplotlib", "pandas", "NumPy", "scikit-learn", "audit hooks", "signal mask"):
        assert what in text
        assert what in documentation
    packages = {module.split(".")[0] for module, _ in leftovers.HARMLESS_THREADS}
    packages |= {module.split(".")[0] for module, _, _ in leftovers.HARMLESS_CHILDREN}
    assert packages == {"tqdm", "zmq", "multiprocessing", "joblib"}
    for name in ("tqdm", "pyzmq", "multiprocessing", "joblib", "thread pools", "event loop"):
        assert name in text


def _methods(cls: type) -> set[str]:
    """What users call: what is defined where the pools and their calls are."""
    modules = ("jupyter_pool.pool", "jupyter_pool.async_pool", "jupyter_pool.executor")
    homes = [home for home in cls.__mro__ if home.__module__ in modules]
    return {name for home in homes for name in vars(home) if not name.startswith("_")}
