"""`%%pool_program` and `%pool_call`: a cell as a program, and its execution."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    cell_magic,
    line_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
    output_can_be_silenced,
)

from jupyter_pool.errors import InvalidRequest, UnknownProgram

from .commands import PARSERS
from .relay import Relay
from .waiting import WaitNotice

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.results import ProgramResult

    from .magics import PoolMagics

__all__ = ["PoolProgramMagics", "split_inputs"]

_NAME = re.compile(r"(?:^|(?<=\s))([^\W\d]\w*)\s*=(?!=)")


@magics_class
class PoolProgramMagics(Magics):
    """`%%pool_program` and `%pool_call`."""

    def __init__(self, shell: InteractiveShell, magics: PoolMagics) -> None:
        super().__init__(shell)
        self._shell = shell  # `shell` may be None, says its type
        self._pools = magics.pools

    @no_var_expand
    @cell_magic
    def pool_program(self, line: str, cell: str) -> None:
        """Register a cell as a program."""
        given = PARSERS["pool_program"].parse(line)
        pool, _ = self._pools.for_running(given.pool)
        replaces = given.program in pool.list_programs()
        try:
            pool.register_program(
                given.program,
                cell,
                inputs=list(dict.fromkeys(given.inputs)),
                outputs=list(dict.fromkeys(given.outputs)),
                description=given.description,
            )
        except InvalidRequest as error:
            raise UsageError(f"%%pool_program: {_first_line(error)}") from None
        if replaces:
            sys.stdout.write(f"The program {given.program!r} was replaced.\n")

    @output_can_be_silenced
    @needs_local_scope
    @no_var_expand
    @line_magic
    def pool_call(self, line: str, local_ns: Mapping[str, Any] | None = None) -> ProgramResult:
        """Execute a program."""
        parser = PARSERS["pool_call"]
        line = line.strip().removesuffix(";")
        given, rest = parser.parse_head(line, str)
        program, _, rest = rest.partition(" ")
        if not program or "=" in program:
            raise UsageError("%pool_call: the program's id is missing: %pool_call ID name=value …")
        if given == parser.parse_head("", str)[0]:  # none before the id: they may come after it
            given, rest = parser.parse_head(rest, str)
        inputs = self._evaluate(split_inputs(rest), local_ns)
        pool = self._pools.find(given.pool)
        relay = Relay(self._shell, quiet=given.quiet)
        notice = WaitNotice(self._shell, first_use=False)
        try:
            result = pool.execute_program(
                program,
                inputs,
                session_id=given.session,
                timeout=given.timeout,
                checkout_timeout=None,
                on_output=relay,
                check=False,
                retries=given.retries,
                isolation=given.isolation,
                on_wait=notice,
            )
        except (InvalidRequest, UnknownProgram) as error:  # before anything was run
            raise UsageError(f"%pool_call: {_first_line(error)}") from None
        except KeyboardInterrupt:
            relay.show_last()
            raise
        finally:
            notice.clear()
        relay.flush()
        if result.error is not None:
            raise result.error
        return result

    def _evaluate(
        self, texts: Mapping[str, str], local_ns: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        names = self._shell.user_ns
        return {
            name: eval(text, names, dict(local_ns or {}))  # noqa: S307 - the notebook's own code
            for name, text in texts.items()
        }


def split_inputs(text: str) -> dict[str, str]:
    """Take ``a=1 b=[2, 3]`` apart: expressions by name.

    Raises
    ------
    UsageError
        With what was wrong and what is allowed.
    """
    starts = list(_NAME.finditer(text))
    before = text[: starts[0].start()] if starts else text
    if before.strip():
        raise UsageError(f"%pool_call: {before.strip()!r} is no input: they are name=value")
    found: dict[str, str] = {}
    while starts:
        name = starts[0]
        # To the first place where another name may begin and what is before it is an expression.
        for number in range(1, len(starts) + 1):
            end = starts[number].start() if number < len(starts) else len(text)
            value = text[name.end() : end].strip()
            if _is_expression(value):
                break
        else:
            raise UsageError(f"%pool_call: {name[1]}= needs a Python expression, not {value!r}")
        if name[1] in found:
            raise UsageError(f"%pool_call: {name[1]}= is given twice")
        found[name[1]] = value
        starts = starts[number:]
    return found


def _is_expression(text: str) -> bool:
    try:
        ast.parse(text, mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


for _magic in ("pool_program", "pool_call"):
    getattr(PoolProgramMagics, _magic).__doc__ = PARSERS[_magic].format_help()
