"""The options of `%pool_exec` and `%%pool_exec`, and their help."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .items import Each, parse_each, take_each
from .parsing import (
    OptionParser,
    count,
    hold_time,
    identifier,
    identifiers,
    job_name,
    label,
    once,
    one_of,
    output_limit,
    time_limit,
)

__all__ = ["ISOLATIONS", "ExecOptions", "exec_parser", "parse_exec"]

ISOLATIONS = ("namespace", "process", "none")
_MAX_SEED = 2**32  # what NumPy's random state accepts


@dataclass(frozen=True)
class ExecOptions:
    """What the options of `%pool_exec` say.

    `inputs` are the names to send; `auto` adds those that the code reads.
    `raise_error` is False if errors are only shown. `background` is the job's name, empty for
    the next free one, or None if the cell is waited for. `code` is what follows the options, for
    the line magic.
    """

    pool: str | None = None
    session: str | None = None
    timeout: float | None = None
    inputs: tuple[str, ...] = ()
    auto: bool = True
    outputs: tuple[str, ...] = ()
    save_as: str | None = None
    background: str | None = None
    each: tuple[Each, ...] = ()
    most: int | None = None
    isolation: str | None = None
    output_limit: str | None = None
    retries: int = 0
    seed: int | None = None
    hold: float | None = None
    quiet: bool = False
    raise_error: bool = True
    code: str = ""


_EXEC_HELP = """\
Run a cell, or an expression, on a worker of a pool.

  %%pool_exec [options]        value = %pool_exec [options] expression
  code
  …

The cell runs on another kernel, in a fresh namespace. The names that it reads and this
notebook has go along by themselves. What it prints, displays and raises appears here;
what it assigns stays there, except the names given with --out. With no pool running,
the first use starts one (see %pool_start). This kernel stays free of what the cell does:
if the worker runs out of memory or crashes, only the cell fails. Interrupting this kernel
interrupts the worker. Widgets work, and input() asks here; --hold keeps the worker for
the callbacks of widgets when the code has ended.

With --each the cell runs once for each item, in parallel: --out gives lists in the order of
the items, in which a failed one has its exception; --as gives a handle with .to_frame(),
.results, .errors, .retry_failed(). An expression ends at the first blank that is outside
of brackets; a,b=pairs unpacks; several --each give all combinations.

With --bg the cell becomes a job, and this notebook goes on. Its output is live in its cell.
The variable NAME holds it: NAME shows it anywhere, NAME.result() and await NAME wait for
it, NAME.cancel() stops it; see %pool_jobs, %pool_wait, %pool_cancel. Its widgets are
answered while it awaits something, and when its code has ended: until a worker is needed,
or for as long as --hold says. With --each it is a sweep in the background.

Examples:

  %%pool_exec --out model,score
  model = LinearRegression().fit(X, y)
  score = model.score(X, y)

  total = %pool_exec sum(x * x for x in data)

  %%pool_exec --timeout 10m --as run --no-raise-error
  long_computation()

  %%pool_exec --each rate=[0.1, 0.3] --each depth=range(1, 9) --out score --as sweep
  score = fit(X, y, rate, depth).score(X, y)

  %%pool_exec --bg train --out model
  model = long_training(X, y)

  %%pool_exec --hold 10m
  ipywidgets.interact(plot, rate=(0.1, 0.9))
"""


def _exec_parser(magic: str) -> OptionParser:
    parser = OptionParser(magic, _EXEC_HELP)
    once(parser, "-p", "--pool", metavar="NAME", type=label,
         help="the pool to use (%%pool_status lists them); default: c.PoolMagics.pool")  # fmt: skip
    once(parser, "-s", "--session", metavar="ID", type=label,
         help="a label under which %%pool_sessions counts the run")  # fmt: skip
    once(parser, "-t", "--timeout", metavar="TIME", type=time_limit,
         help="interrupt the code after 90, 10m, 2h; default: none, no limit")  # fmt: skip
    parser.add_argument(
        "-i", "--in", "--input", metavar="NAMES|auto|none", dest="inputs", action="extend",
        type=_inputs, help="variables to send, as a,b; auto (the default): those that the code "
        "reads; none: nothing",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", "--output", metavar="NAMES", dest="outputs", action="extend", default=[],
        type=identifiers, help="variables to bring back, as a,b",
    )  # fmt: skip
    once(parser, "--as", metavar="NAME", dest="save_as", type=identifier,
         help="keep the whole result, an ExecutionResult, in this variable")  # fmt: skip
    once(parser, "--bg", metavar="[NAME]", dest="background", nargs="?", const="", type=job_name,
         help="go on at once: the cell becomes the job NAME (job1, …), see %%pool_jobs")  # fmt: skip
    once(parser, "--each", metavar="NAME=EXPR", type=label,
         help="run the cell once for each item of EXPR, in parallel; more than one: the product")  # fmt: skip
    once(parser, "--max", metavar="N", dest="most", type=count(1),
         help="with --each: run at most N at a time; default: as many as there are workers")  # fmt: skip
    once(parser, "--isolation", metavar="|".join(ISOLATIONS), type=one_of(ISOLATIONS),
         help="how far this run is kept from the worker's other ones; default: the pool's")  # fmt: skip
    once(parser, "--output-limit", metavar="SIZE", type=output_limit,
         help="leave out the middle of more output than 500kB, 20MB, none; default: the pool's")  # fmt: skip
    once(parser, "--retries", metavar="N", type=count(), default=0,
         help="run again up to N times if the worker dies (not if the code raises)")  # fmt: skip
    once(parser, "--seed", metavar="N", type=count(below=_MAX_SEED),
         help="seed the random generators, with --each every item's own way; default: fresh entropy")  # fmt: skip
    once(parser, "--hold", metavar="TIME", type=hold_time,
         help="keep the worker for the cell's widgets when the code has ended, for 90, 10m, 2h; none: no limit")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="show nothing of the output")
    parser.add_argument("--no-raise-error", action="store_true", dest="no_raise_error",
                        help="show an error as text and go on")  # fmt: skip
    return parser


def _inputs(text: str) -> list[str]:
    return [text.strip()] if text.strip() in {"auto", "none"} else identifiers(text)


def exec_parser(magic: str = "%pool_exec") -> OptionParser:
    """Return the parser of ``%pool_exec`` or ``%%pool_exec``."""
    return _EXEC_PARSERS[magic]


def parse_exec(line: str, *, is_cell: bool, expand: Callable[[str], str]) -> ExecOptions:
    """Parse the first line of ``%%pool_exec``, or the whole of ``%pool_exec``.

    Parameters
    ----------
    expand
        Fills in ``{name}`` and ``$name`` in options.

    Raises
    ------
    UsageError
        With what was wrong and what is allowed.
    """
    parser = exec_parser("%%pool_exec" if is_cell else "%pool_exec")
    eachs: tuple[Each, ...] = ()
    if is_cell:
        # Before the rest is split as a shell does, which would take quotation marks away.
        line, texts = take_each(line)
        eachs = parse_each(texts)
        values, code = parser.parse(expand(line)), ""
        if values.most is not None and not eachs:
            parser.error("--max N is for --each NAME=EXPR")
    else:
        values, code = parser.parse_head(line, expand)
        if values.each is not None or values.most is not None:
            parser.error("--each and --max take a cell below %%pool_exec")
    inputs = _unique(values.inputs or ["auto"])
    if "none" in inputs and len(inputs) > 1:
        parser.error("--in none sends nothing and goes with no other --in")
    if values.hold is not None and values.quiet:
        parser.error("--hold keeps widgets alive, and --quiet shows none")
    if values.hold is not None and eachs:
        parser.error("--hold keeps one worker, and --each uses many: one of them only")
    if values.hold is not None and values.retries and values.background is None:
        parser.error("--hold keeps one worker, and --retries takes another: one of them only")
    return ExecOptions(
        pool=values.pool,
        session=values.session,
        timeout=values.timeout,
        inputs=tuple(name for name in inputs if name not in {"auto", "none"}),
        auto="auto" in inputs,
        outputs=tuple(_unique(values.outputs)),
        save_as=values.save_as,
        background=values.background,
        each=eachs,
        most=values.most,
        isolation=values.isolation,
        output_limit=values.output_limit,
        retries=values.retries,
        seed=values.seed,
        hold=values.hold,
        quiet=values.quiet,
        raise_error=not values.no_raise_error,
        code=code,
    )


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


_EXEC_PARSERS = {magic: _exec_parser(magic) for magic in ("%pool_exec", "%%pool_exec")}
