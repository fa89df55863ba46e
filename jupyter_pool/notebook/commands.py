"""The line magics' options and help texts.

`%pool_start` takes every option that a pool has; the others few.
"""

from __future__ import annotations

import argparse
from typing import Any

from traitlets import Bool, Dict, TraitError

from jupyter_pool.config import PoolConfig

from .arguments import ISOLATIONS, exec_parser
from .parsing import OptionParser, count, identifiers, label, once, one_of, time_limit

__all__ = ["PARSERS", "start_options"]

#: Options of `%pool_start` that are spelled other than the pool's.
_SPELLINGS = {"kernel_name": ("--kernel", "--kernel-name")}
_METAVARS = {
    "name": "NAME",
    "kernel_name": "NAME",
    "isolation": "MODE",
    "cwd": "FOLDER",
    "env": "NAME=VALUE",
    "output_limit": "SIZE",
    "memory_limit": "SIZE",
    "preload": "NAMES",
    "setup": "CODE",
    "threads_per_worker": "N|auto|none",
}
_COUNTS = frozenset({"size", "overflow", "reserve", "max_waiting", "max_tasks", "max_sessions"})


def _parser(magic: str, description: str, *, pool: bool = True) -> OptionParser:
    parser = OptionParser(magic, description)
    if pool:
        once(parser, "-p", "--pool", metavar="NAME", type=label,
             help="the pool; default: c.PoolMagics.pool, which is “default”")  # fmt: skip
    return parser


def _start() -> OptionParser:
    parser = _parser(
        "%pool_start",
        """\
Start a pool.

  %pool_start [options]

Every option of KernelPool can be given; what is not given is as in the configuration
(c.KernelPool in ipython_config.py), see %pool_config. The first %%pool_exec starts a pool
by itself, so this is for other sizes, names and kernels. The pool can also be used from
Python: jupyter_pool.get_pool(name).

Examples:

  %pool_start --size 4
  %pool_start --name big --size 2 --overflow 4 --max-idle 10m
  %pool_start --name r --kernel ir
""",
        pool=False,
    )
    traits = PoolConfig.class_traits(config=True)
    for name in PoolConfig.option_names():
        trait = traits[name]
        spellings = _SPELLINGS.get(name, (f"--{name.replace('_', '-')}",))
        about = " ".join(str(trait.help).split()).replace("%", "%%")
        if isinstance(trait, Bool):
            parser.add_argument(*spellings, dest=name, help=about,
                                action=argparse.BooleanOptionalAction, default=None)  # fmt: skip
        elif name == "env":
            parser.add_argument(*spellings, dest=name, help=f"{about} NAME alone unsets it.",
                                action="append", type=_variable, metavar="NAME=VALUE")  # fmt: skip
        else:
            metavar = _METAVARS.get(name, "N" if name in _COUNTS else "TIME")
            once(parser, *spellings, dest=name, metavar=metavar, help=about,
                 type=one_of(ISOLATIONS) if name == "isolation" else label)  # fmt: skip
    return parser


def _variable(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"takes NAME=VALUE, not {text!r}")
    return name, value if equals else None


def start_options(line: str) -> dict[str, Any]:
    """Parse the line of `%pool_start` into options for `KernelPool`.

    Values are texts where the option's own validation reads texts.

    Raises
    ------
    UsageError
        With what was wrong and what is allowed.
    """
    parser = PARSERS["pool_start"]
    given = vars(parser.parse(line))
    options: dict[str, Any] = {}
    for name, trait in PoolConfig.class_traits(config=True).items():
        value = given.get(name)
        if value is None:
            continue
        if name == "env":
            value = dict(value)
        elif not isinstance(trait, (Bool, Dict)):
            try:
                value = trait.from_string(value)
            except (TraitError, ValueError) as error:
                spelling = _SPELLINGS.get(name, (f"--{name.replace('_', '-')}",))[0]
                allowed = str(getattr(trait, "info_text", error))
                parser.error(f"{spelling}: takes {allowed}, not {given[name]!r}")
        options[name] = value
    return options


def _stop() -> OptionParser:
    parser = _parser(
        "%pool_stop",
        """\
Stop a pool: wait for what runs in it, then end its workers.

  %pool_stop [--pool NAME] [--timeout TIME]

Examples:

  %pool_stop
  %pool_stop --pool big --timeout 10s
""",
    )
    once(parser, "-t", "--timeout", metavar="TIME", type=time_limit,
         help="wait only so long for what runs (90, 10m, 2h), then stop it")  # fmt: skip
    return parser


def _status() -> OptionParser:
    parser = _parser(
        "%pool_status",
        """\
Show a pool's state, its main options, and every worker.

  %pool_status [--pool NAME] [--check]

Examples:

  %pool_status
  %pool_status --check
  status = %pool_status --pool big
""",
    )
    parser.add_argument("--check", action="store_true",
                        help="ask every idle worker first whether it answers")  # fmt: skip
    return parser


def _sessions() -> OptionParser:
    parser = _parser(
        "%pool_sessions",
        """\
Show the sessions of a pool: requests, failures and time by --session label.

  %pool_sessions [ID] [--pool NAME]

Examples:

  %pool_sessions
  %pool_sessions alice
""",
    )
    once(parser, "id", nargs="?", metavar="ID", type=label, help="show only this session")
    return parser


def _resize() -> OptionParser:
    parser = _parser(
        "%pool_resize",
        """\
Change how many workers a pool keeps. Busy workers finish what they run.

  %pool_resize [SIZE] [--overflow N] [--pool NAME]

Examples:

  %pool_resize 8
  %pool_resize --size 2 --overflow 6
""",
    )
    once(parser, "positional", nargs="?", metavar="SIZE", type=count(1), help="as --size")
    once(parser, "--size", metavar="N", type=count(1), help="workers to keep")
    once(parser, "--overflow", metavar="N", type=count(), help="workers more while requests wait")
    return parser


def _restart() -> OptionParser:
    parser = _parser(
        "%pool_restart",
        """\
Replace one worker at once, even if it is busy; what it runs is cancelled.

  %pool_restart WORKER [--pool NAME]

WORKER is its number as %pool_status shows it. To replace all of them gently, use
%pool_drain.

Examples:

  %pool_restart 3
""",
    )
    once(parser, "worker", metavar="WORKER", type=count(1), help="the worker's number")
    return parser


def _program() -> OptionParser:
    parser = _parser(
        "%%pool_program",
        """\
Register a cell as a program of a pool, which %pool_call (and execute_program) runs.

  %%pool_program ID [options]
  code

The code runs on a worker, in a fresh namespace with the inputs as variables. A program that
has the ID already is replaced.

Examples:

  %%pool_program scale --in values,by --out scaled
  scaled = [value * by for value in values]
""",
    )
    once(parser, "program", metavar="ID", type=label, help="what the program is called")
    parser.add_argument("-i", "--in", "--input", metavar="NAMES", dest="inputs", action="extend",
                        default=[], type=identifiers, help="variables that it takes, as a,b")  # fmt: skip
    parser.add_argument("-o", "--out", "--output", metavar="NAMES", dest="outputs", action="extend",
                        default=[], type=identifiers, help="variables that are its results")  # fmt: skip
    once(parser, "--description", metavar="TEXT", type=label, help="what it does, for people")
    return parser


def _call() -> OptionParser:
    parser = _parser(
        "%pool_call",
        """\
Execute a program of a pool, and return its ProgramResult.

  %pool_call [options] ID name=value …

Values are Python expressions of this notebook. What the program prints appears here.

Examples:

  %pool_call scale values=[1, 2, 3] by=10
  result = %pool_call --timeout 10s scale values=numbers by=2 + 3
  result.outputs["scaled"]
""",
    )
    once(parser, "-s", "--session", metavar="ID", type=label,
         help="a label under which %%pool_sessions counts the run")  # fmt: skip
    once(parser, "-t", "--timeout", metavar="TIME", type=time_limit,
         help="interrupt the program after 90, 10m, 2h; default: none, no limit")  # fmt: skip
    once(parser, "--isolation", metavar="|".join(ISOLATIONS), type=one_of(ISOLATIONS),
         help="how far this run is kept from the worker's other ones; default: the pool's")  # fmt: skip
    once(parser, "--retries", metavar="N", type=count(), default=0,
         help="run again up to N times if the worker dies (not if the program raises)")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="show nothing of the output")
    once(parser, "program", nargs="?", metavar="ID", type=label, help="the program, as registered")
    return parser


def _jobs(magic: str, description: str) -> OptionParser:
    parser = _parser(f"%{magic}", description, pool=False)
    parser.add_argument("jobs", nargs="*", metavar="NAME", type=label, help="the jobs' names")
    return parser


def _wait() -> OptionParser:
    parser = _jobs(
        "pool_wait",
        """\
Wait for background cells: those named, or all. What they were to bring back is there then.

  %pool_wait [NAME…] [--timeout TIME]

If one failed its error is raised. Interrupting ends the waiting, not the jobs.

Examples:

  %pool_wait
  %pool_wait train test --timeout 10m
""",
    )
    once(parser, "-t", "--timeout", metavar="TIME", type=time_limit,
         help="wait only so long (90, 10m, 2h), then raise TimeoutError")  # fmt: skip
    return parser


def _cancel() -> OptionParser:
    parser = _jobs(
        "pool_cancel",
        """\
Cancel background cells: interrupt those that run, take out of the queue those that wait.

  %pool_cancel NAME…
  %pool_cancel --all

Of those that have ended, and of cells with --hold, the widgets are given up: their worker
serves others. %pool_jobs has the names.

Examples:

  %pool_cancel train
  %pool_cancel In[3]
""",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every job that has not ended, and all widgets that are live",
    )
    return parser


def _monitor() -> OptionParser:
    parser = _parser(
        "%pool_monitor",
        """\
Show a pool live: what each worker runs, what waits, what went wrong.

  %pool_monitor [--pool NAME] [--html]

It goes on while cells run. Without a pool it waits for one. A pool that
a cell ends with shows itself in the same way. In a terminal it is a table of the moment.

Examples:

  %pool_monitor
  %pool_monitor --pool big
  %pool_monitor --html
""",
    )
    parser.add_argument("--html", action="store_true",
                        help="plain HTML, once a second, where no widget can load")  # fmt: skip
    return parser


def _plain(magic: str, what: str, *examples: str) -> OptionParser:
    shown = "\n".join(f"  {example}" for example in (f"%{magic}", *examples))
    return _parser(f"%{magic}", f"{what}\n\n  %{magic} [--pool NAME]\n\nExamples:\n\n{shown}\n")


#: By name of the magic, without its percent signs.
PARSERS: dict[str, OptionParser] = {
    "pool_exec": exec_parser(),
    "pool_program": _program(),
    "pool_call": _call(),
    "pool_start": _start(),
    "pool_stop": _stop(),
    "pool_status": _status(),
    "pool_stats": _plain(
        "pool_stats", "Show a pool's counters: requests, waiting and running times, workers lost."
    ),
    "pool_sessions": _sessions(),
    "pool_health": _plain(
        "pool_health", "Ask every idle worker whether it answers, and say whether the pool is well."
    ),
    "pool_resize": _resize(),
    "pool_restart": _restart(),
    "pool_drain": _plain(
        "pool_drain",
        "Replace every worker by a fresh one: idle ones now, busy ones when they are done.\n\n"
        "After that, all of them import your changed modules anew.",
    ),
    "pool_jobs": _parser(
        "%pool_jobs",
        """\
List the background cells of this notebook: state, items done, elapsed time, and for how
long their widgets are live; and the cells with --hold whose widgets are.

  %pool_jobs

%%pool_exec --bg NAME starts one. The variable NAME holds it: NAME shows its output, live;
NAME.result() waits for it, NAME.cancel() stops it.

Examples:

  %pool_jobs
""",
        pool=False,
    ),
    "pool_wait": _wait(),
    "pool_cancel": _cancel(),
    "pool_monitor": _monitor(),
    "pool_last": _parser(
        "%pool_last",
        """\
Return the ExecutionResult of the latest %pool_exec, also of one that failed.

Of a cell with --each it is the Sweep. Background cells have variables of their own.

  %pool_last

Examples:

  %pool_last
  result = %pool_last
  result.stdout, result.timings
""",
        pool=False,
    ),
    "pool_config": _plain(
        "pool_config", "Show every option with its value and meaning: a pool's, or a new one's."
    ),
}
