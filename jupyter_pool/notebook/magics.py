"""The magics: `%%pool_exec`, and what looks after pools."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
    output_can_be_silenced,
)
from IPython.utils.text import DollarFormatter
from traitlets import Unicode

from jupyter_pool.errors import ExecutionError, PoolError, SerializationError

from .admin import PoolAdminMagics
from .arguments import ExecOptions, parse_exec
from .asking import input_of
from .commands import PARSERS
from .completion import PoolMatcher
from .holding import Holds, cell_id
from .jobs import Jobs
from .lines import as_numbered_here
from .parallel import Parallel
from .pools import Pools
from .programs import PoolProgramMagics
from .registry import close_registry
from .relay import Relay
from .render import traceback_text
from .sending import Inputs, explain_missing, explain_unsendable, inputs_for, say_size
from .sweep import Sweep
from .waiting import WaitNotice

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.pool import KernelPool
    from jupyter_pool.results import ExecutionResult

    from .causes import Causes
    from .panel import Panel

__all__ = ["PoolMagics", "load", "unload"]

#: Holds the value of the line magic's expression, in the worker.
_VALUE = "__pool_value"


@magics_class
class PoolMagics(Magics):
    """`%pool_exec` and `%%pool_exec`."""

    pool = Unicode(
        "default",
        help="""The name of the pool that the magics use if no other is named with --pool. It is
        started on first use if it is not there.""",
    ).tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self._shell = shell  # `shell` may be None, says its type
        self.pools = Pools(lambda: self.pool)
        #: The workers that cells hold.
        self.holds = Holds()
        #: The result of the latest run, also of one that failed.
        self.last: ExecutionResult | Sweep | None = None
        #: The background cells.
        self.jobs = Jobs(shell)
        #: What front ends' panels talk to, in a kernel.
        self.panel: Panel | None = None
        #: What notes which cell requests come from, in a kernel.
        self.causes: Causes | None = None

    @output_can_be_silenced
    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def pool_exec(
        self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a cell, or an expression, on a worker of a pool."""
        namespaces = _namespaces(local_ns, self._shell.user_ns)
        expand = _expander(namespaces)
        options = parse_exec(line, is_cell=cell is not None, expand=expand)
        if cell is not None:
            return self._run_cell(cell, options, namespaces)
        code = options.code.strip().removesuffix(";").rstrip()
        if not code:
            raise UsageError("%pool_exec: an expression is missing, or a cell below %%pool_exec")
        return self._run_line(code, options, namespaces)

    def _run_cell(
        self, cell: str, options: ExecOptions, namespaces: list[Mapping[str, Any]]
    ) -> Any:
        parallel = Parallel(self._shell, self.pools, self.jobs, options, namespaces)
        if options.each:
            found = parallel.each(cell)
            self.last = found if isinstance(found, Sweep) else self.last
            return None
        if options.background is not None:
            parallel.in_background(cell, cell, options.outputs, numbered=True)
            return None
        relay = Relay(self._shell, quiet=options.quiet)
        result = self._run(cell, cell, options, options.outputs, namespaces, relay, numbered=True)
        if result is None:
            return None
        self._bring_back(result, options.outputs)
        return relay.take_value(result, self.pools.default if not options.pool else options.pool)

    def _run_line(
        self, line: str, options: ExecOptions, namespaces: list[Mapping[str, Any]]
    ) -> Any:
        parallel = Parallel(self._shell, self.pools, self.jobs, options, namespaces)
        relay = Relay(self._shell, quiet=options.quiet)
        if not _is_expression(line):
            if options.background is not None:
                return parallel.in_background(line, line, options.outputs, show=False)
            result = self._run(line, line, options, options.outputs, namespaces, relay)
            if result is not None:
                relay.flush()
                self._bring_back(result, options.outputs)
            return None
        # The parenthesis on a line of its own: the expression may end in a comment.
        code = f"{_VALUE} = ({line}\n)"
        outputs = (_VALUE, *options.outputs)
        if options.background is not None:
            return parallel.in_background(code, line, outputs, _VALUE, show=False)
        try:
            result = self._run(code, line, options, outputs, namespaces, relay)
        except SerializationError as error:
            if error.context.get("variable") == _VALUE:
                raise SerializationError(
                    "the value of the expression cannot be sent back: "
                    f"{error.context.get('reason')}\n  It was computed. "
                    "Next: an expression that makes something plainer of it.",
                    context=error.context,
                ) from None
            raise
        if result is None:
            return None
        self._bring_back(result, options.outputs)
        return result.outputs[_VALUE]

    def _run(
        self,
        code: str,
        source: str,
        options: ExecOptions,
        outputs: tuple[str, ...],
        namespaces: list[Mapping[str, Any]],
        relay: Relay,
        *,
        numbered: bool = False,
    ) -> ExecutionResult | None:
        """Run `code`; None if it failed and the error has only been shown.

        `source` is the user's own part of it, where the names to send are looked for. With
        `numbered` it is the cell's body, whose lines are to have the numbers that the cell shows.
        """
        pool, first_use = self.pools.for_running(options.pool)
        inputs = inputs_for(pool, source, options, self._shell, namespaces)
        if numbered:
            code = as_numbered_here(self._shell, pool, code)
        self.holds.end(cell_id(self._shell))  # run again, it shows the old widgets no more
        held = self.holds.count(pool) + self.jobs.count_held(pool)
        notice = WaitNotice(self._shell, first_use=first_use, held=held)
        say_size(inputs.values)
        try:
            result = self._execute(pool, code, options, outputs, inputs, relay, notice)
        except SerializationError as error:
            raise explain_unsendable(error, options) from None
        finally:
            notice.clear()
        self.last = result
        if options.save_as:
            self._shell.push({options.save_as: result})
        if result.error is None:
            return result
        relay.flush()
        self._fail(result.error, inputs, options, namespaces)
        return None

    def _execute(
        self,
        pool: KernelPool,
        code: str,
        options: ExecOptions,
        outputs: tuple[str, ...],
        inputs: Inputs,
        relay: Relay,
        notice: WaitNotice,
    ) -> ExecutionResult:
        # Not given is the pool's, and None would be no limit.
        given: dict[str, Any] = {"on_wait": notice, "on_input": input_of(self._shell)}
        if options.output_limit is not None:
            given["output_limit"] = options.output_limit
        where: dict[str, Any] = {
            "session_id": options.session,
            "isolation": options.isolation,
            "checkout_timeout": None,
        }
        execute: Callable[..., ExecutionResult] = pool.execute
        hold = None
        if options.hold is not None and relay.comms is not None:
            from .hold import Hold  # with the engine, which loading does without

            hold = Hold(pool, where, relay)
            execute = hold.execute
        else:
            given.update(where, retries=options.retries)
        held = False
        try:
            if hold is not None:
                hold.begin(notice)
            result = self._try(execute, code, options, outputs, inputs, relay, given)
            if hold is not None and options.hold is not None and result.error is None:
                name = f"In[{self._shell.displayhook.prompt_count}]"
                self.holds.add(cell_id(self._shell), hold, name)
                hold.keep(options.hold)
                held = True
        finally:
            if hold is not None and not held:
                hold.end()
            elif relay.comms is not None and not held:
                relay.comms.end()
        return result

    def _try(
        self,
        execute: Callable[..., ExecutionResult],
        code: str,
        options: ExecOptions,
        outputs: tuple[str, ...],
        inputs: Inputs,
        relay: Relay,
        given: dict[str, Any],
    ) -> ExecutionResult:
        while True:
            try:
                return execute(
                    code,
                    inputs=inputs.values or None,
                    outputs=outputs,
                    timeout=options.timeout,
                    on_output=relay,
                    check=False,
                    seed=options.seed,
                    # Newer IPythons count on before a cell runs; the display hook knows.
                    execution_count=self._shell.displayhook.prompt_count,
                    **given,
                )
            except KeyboardInterrupt as struck:
                relay.show_last()
                if relay.traceback:
                    # Where the code was, and not where this notebook has waited for it.
                    lines = relay.traceback
                    struck._render_traceback_ = partial(list, lines)  # type: ignore[attr-defined]
                raise
            except SerializationError as error:
                # Raised before anything is queued, so trying again repeats nothing.
                if not inputs.leave_out(error):
                    raise

    def _fail(
        self,
        error: PoolError,
        inputs: Inputs,
        options: ExecOptions,
        namespaces: list[Mapping[str, Any]],
    ) -> None:
        if isinstance(error, ExecutionError):
            everything: dict[str, Any] = {}
            for namespace in reversed(namespaces):
                everything.update(namespace)
            if hint := explain_missing(error, inputs, options, everything):
                error.traceback.append(f"\n{hint}")
        if options.raise_error:
            raise error
        # As a stream, not as an error output: runners of notebooks take an error
        # output for a failed cell, which is not wanted here.
        sys.stderr.write(traceback_text(error))
        sys.stderr.flush()

    def _bring_back(self, result: ExecutionResult, names: tuple[str, ...]) -> None:
        if names:
            self._shell.push({name: result.outputs[name] for name in names})


def _is_expression(line: str) -> bool:
    try:
        ast.parse(f"({line}\n)", mode="eval")
    except (SyntaxError, ValueError):
        return False
    return True


def _namespaces(
    local_ns: Mapping[str, Any] | None, user_ns: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """The innermost first: a line magic inside a function sees its local variables."""
    if local_ns is None or local_ns is user_ns:
        return [user_ns]
    return [local_ns, user_ns]


def _expander(namespaces: list[Mapping[str, Any]]) -> Callable[[str], str]:
    # IPython would expand the whole line; braces in an expression are a dict.
    def expand(text: str) -> str:
        if "{" not in text and "$" not in text:
            return text
        values: dict[str, Any] = {}
        for namespace in reversed(namespaces):
            values.update(namespace)
        try:
            return str(DollarFormatter().vformat(text, args=[], kwargs=values))
        except Exception:  # noqa: BLE001 - as IPython does: what is no template stays as it is
            return text

    return expand


PoolMagics.pool_exec.__doc__ = PARSERS["pool_exec"].format_help()


_OTHERS = ("PoolAdminMagics", "PoolProgramMagics")


def load(shell: InteractiveShell) -> None:
    """Register everything with a shell, once."""
    registry = shell.magics_manager.registry
    if "PoolMagics" in registry:
        return
    magics = PoolMagics(shell)
    shell.register_magics(magics)
    shell.register_magics(PoolAdminMagics(shell, magics))
    shell.register_magics(PoolProgramMagics(shell, magics))
    shell.Completer.custom_matchers.append(PoolMatcher(shell, magics.pools, magics.jobs))
    if hasattr(shell, "kernel"):
        from .causes import Causes
        from .panel import open_panel

        magics.panel = open_panel(shell, magics.pools)
        magics.causes = Causes(shell, cell_id(shell))


def unload(shell: InteractiveShell) -> None:
    """Undo `load`, and close the pool that was started on first use."""
    manager = shell.magics_manager
    magics = manager.registry.pop("PoolMagics", None)
    gone = [magics, *(manager.registry.pop(name, None) for name in _OTHERS)]
    shell.configurables[:] = [
        configurable
        for configurable in shell.configurables
        if not any(configurable is one for one in gone)
    ]
    for table in manager.magics.values():
        for name in PARSERS:
            table.pop(name, None)
    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if not isinstance(matcher, PoolMatcher)]
    if magics is not None:
        if magics.panel is not None:
            magics.panel.close()
        if magics.causes is not None:
            magics.causes.close()
        magics.jobs.unload()
        magics.holds.end_all()
        magics.pools.unload()
    monitor = sys.modules.get("jupyter_pool.notebook.monitor")
    if monitor is not None:
        monitor.unhook()
    close_registry()
