"""What ``--bg`` and ``--each`` do with a cell: from its options to jobs and sweeps."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from jupyter_pool.errors import ExecutionError, InvalidRequest, PoolError, SerializationError

from .cell_run import CellRun
from .holding import cell_id
from .items import Item, item_seed, make_items
from .job_outputs import JobOutputs
from .jobs import Job, Jobs, waits_for_background
from .lines import as_numbered_here
from .live import state_line
from .sending import (
    Inputs,
    explain_missing,
    explain_unsendable,
    inputs_for,
    say_size,
)
from .sweep import Sweep, SweepRun, progress_html
from .underway import under_way
from .waiting import Notice

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.engine.futures import PoolFuture
    from jupyter_pool.pool import KernelPool
    from jupyter_pool.results import ExecutionResult

    from .arguments import ExecOptions
    from .pools import Pools

__all__ = ["Parallel"]

#: When a sweep begins to show its progress, and how often that changes, in seconds.
_PROGRESS_AFTER, _PROGRESS_EVERY = 1.0, 0.25
#: How long an interrupted sweep may take to end beyond what its pool allows, in seconds.
_SLACK = 5.0
#: Values of these types are sent along each time: a handle would be larger, and they do not change.
_PLAIN = (int, float, complex, bool, type(None), types.ModuleType)


class Parallel:
    """Runs cells in the background, and once for each item.

    Parameters
    ----------
    namespaces
        Where values are looked up, the first one winning.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        pools: Pools,
        jobs: Jobs,
        options: ExecOptions,
        namespaces: list[Mapping[str, Any]],
    ) -> None:
        self._shell = shell
        self._pools = pools
        self._jobs = jobs
        self._options = options
        self._namespaces = namespaces

    def in_background(
        self,
        code: str,
        source: str,
        outputs: tuple[str, ...],
        value: str | None = None,
        *,
        show: bool = True,
        numbered: bool = False,
    ) -> Job:
        """Start a cell as a job; parameters as of `CellRun`, `source` is the user's own part."""
        options = self._options
        wait = waits_for_background()
        name = self._jobs.name_for(options.background or "")
        pool, _ = self._pools.for_running(options.pool)
        inputs = inputs_for(pool, source, options, self._shell, self._namespaces)
        say_size(inputs.values)
        if numbered:
            code = as_numbered_here(self._shell, pool, code)

        count = self._shell.displayhook.prompt_count

        def submit(on_output: Any) -> PoolFuture[ExecutionResult]:
            while True:
                try:
                    future = self._submit(
                        pool,
                        code,
                        inputs.values or None,
                        outputs=outputs,
                        seed=options.seed,
                        execution_count=count,
                        on_output=on_output,
                    )
                except SerializationError as error:
                    # Raised before anything is queued, so trying again repeats nothing.
                    if not inputs.leave_out(error):
                        raise explain_unsendable(error, options) from None
                else:
                    inputs.forget_values()
                    return future

        from .hold import JobHold  # with the engine, which loading does without

        taken_by = JobOutputs(self._shell, quiet=options.quiet)
        hold = JobHold(pool, taken_by, options.hold)
        taken_by.stay = hold.stay
        run = CellRun(
            pool,
            submit,
            value=value,
            variables=options.outputs,
            save_as=options.save_as,
            outputs=taken_by,
            explain=partial(self._explain, inputs),
            hold=hold,
        )
        cell = cell_id(self._shell)
        self._jobs.let_go(name, cell)
        job = self._jobs.add(name, run, cell=cell, wait=wait, quiet=options.quiet or not show)
        if wait and options.raise_error:
            job.result()
        return job

    def each(self, code: str) -> Sweep | Job:
        """Run a cell once for each item; of a background one, its job."""
        options = self._options
        background = options.background is not None
        wait = background and waits_for_background()
        name = self._jobs.name_for(options.background or "") if background else ""
        items = make_items(options.each, self._shell.user_ns)
        pool, _ = self._pools.for_running(options.pool)
        if pool.config.kernel_name is not None:
            raise UsageError(
                "%%pool_exec: --each works with the pool's own Python kernel, "
                f"not with {pool.config.kernel_name!r}"
            )
        sweep, run = self._prepare(pool, code, items)
        if background:
            return self._jobs.add(name, run, wait=wait)
        self._watch(pool, run)
        return sweep

    # -- requests ----------------------------------------------------------------------------

    def _submit(
        self, pool: KernelPool, code: str, inputs: Mapping[str, Any] | None, **more: Any
    ) -> PoolFuture[ExecutionResult]:
        options = self._options
        if options.output_limit is not None:  # not given is the pool's, and None would be no limit
            more["output_limit"] = options.output_limit
        return pool.submit_code(  # type: ignore[return-value]
            code,
            inputs=inputs,
            session_id=options.session,
            timeout=options.timeout,
            checkout_timeout=None,
            check=False,
            retries=options.retries,
            isolation=options.isolation,
            **more,
        )

    def _prepare(self, pool: KernelPool, code: str, items: list[Item]) -> tuple[Sweep, SweepRun]:
        options = self._options
        names = {name for item in items[:1] for name in item.parameters}
        inputs = inputs_for(pool, code, options, self._shell, self._namespaces, without=names)
        code = as_numbered_here(self._shell, pool, code)
        say_size(inputs.values)
        shared = self._share(pool, inputs)
        inputs.forget_values()
        count = self._shell.displayhook.prompt_count

        def submit(item: Item) -> PoolFuture[ExecutionResult]:
            seed = None if options.seed is None else item_seed(options.seed, item.index)
            try:
                return self._submit(
                    pool,
                    code,
                    {**shared, **item.parameters},
                    outputs=options.outputs,
                    seed=seed,
                    execution_count=count,
                )
            except SerializationError as error:
                raise explain_unsendable(error, options) from None

        def make(sweep: Sweep, chosen: list[Item]) -> SweepRun:
            return SweepRun(
                pool,
                sweep,
                chosen,
                submit,
                most=options.most,
                save_as=options.save_as,
                explain=partial(self._explain, inputs),
            )

        sweep = Sweep(
            items,
            options.outputs,
            lambda again: self._watch(pool, make(again, again.failed), push=False),
            partial(_run_of_cell, self._shell),
        )
        sweep.quiet = options.quiet
        return sweep, make(sweep, items)

    def _share(self, pool: KernelPool, inputs: Inputs) -> dict[str, Any]:
        """The inputs that all items have: stored once, as they are now."""
        shared: dict[str, Any] = {}
        for name, value in list(inputs.values.items()):
            if isinstance(value, _PLAIN):
                shared[name] = value
                continue
            try:
                shared[name] = pool.put(value)
            except InvalidRequest:  # it has a handle in it, which does what is wanted here
                shared[name] = value
            except SerializationError as error:
                error.context["variable"] = name
                if not inputs.leave_out(error):
                    raise explain_unsendable(error, self._options) from None
        return shared

    def _explain(self, inputs: Inputs, error: PoolError) -> None:
        if isinstance(error, ExecutionError):
            everything: dict[str, Any] = {}
            for namespace in reversed(self._namespaces):
                everything.update(namespace)
            if hint := explain_missing(error, inputs, self._options, everything):
                error.traceback.append(f"\n{hint}")

    # -- waiting for a sweep -----------------------------------------------------------------

    def _watch(self, pool: KernelPool, run: SweepRun, *, push: bool = True) -> None:
        """Run a sweep while the cell waits, with its progress; then show what it gave."""
        notice = Notice(self._shell)
        names = ", ".join(name for each in self._options.each for name in each.names)
        try:
            try:
                with under_way(f"each {names}", "each", pool, run):
                    run.start(_nothing, _nothing)
                    pause = _PROGRESS_AFTER
                    while not run.wait(pause):
                        notice.show(*_progress(run))
                        pause = _PROGRESS_EVERY
            except BaseException:  # Ctrl-C
                run.cancel()
                sys.stderr.write("Interrupting the workers…\n")
                sys.stderr.flush()
                run.wait(pool.force_close_timeout() + _SLACK)
                raise
            finally:
                notice.clear()
        finally:
            if push and (found := run.variables()):
                self._shell.push(found)
            self._show(run.sweep)

    def _show(self, sweep: Sweep) -> None:
        from IPython.display import display

        if hasattr(self._shell, "kernel"):
            display(sweep.bundle(), raw=True)
        else:
            print(sweep.bundle()["text/plain"])  # noqa: T201 - to the terminal


def _run_of_cell(shell: InteractiveShell) -> object:
    """Tells one run of a cell from another."""
    kernel = getattr(shell, "kernel", None)
    return kernel.get_parent()["header"]["msg_id"] if kernel else shell.execution_count


def _nothing() -> None:
    pass


def _progress(run: SweepRun) -> tuple[str, str]:
    text, shown = state_line("--each", run.state, run.facts)
    return text, f"<div>{shown}{progress_html(*run.progress)}</div>"
