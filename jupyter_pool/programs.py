"""Programs: registered with a pool once, executed by id on any of its workers.

`ProgramCalls` is the part of a pool, and of its views, that knows programs; `AsyncProgramCalls` is the
same for asyncio.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from jupyter_pool.engine.calls import DEFAULT, Guarded
from jupyter_pool.engine.face import PoolFace, prepare_execution
from jupyter_pool.engine.programs import make_program, settle_program
from jupyter_pool.engine.request import LoopSink, Mailbox
from jupyter_pool.engine.waiting import OnOutput, run

if TYPE_CHECKING:
    from jupyter_pool.results import ProgramInfo, ProgramResult, WaitInfo

__all__ = ["AsyncProgramCalls", "ProgramCalls"]


class _Face:
    """What a pool and its views know."""

    _presets: Mapping[str, Any] = {}

    @property
    def _pool(self) -> Any:
        raise NotImplementedError

    def _register(self, program_id: str, program: Any, **options: Any) -> ProgramInfo:
        driver = self._pool.running()
        made = make_program(driver, program_id, program, **options)
        driver.programs.add(made)
        return made.info()

    def _info(self, program_id: str) -> ProgramInfo:
        driver = self._pool.running()
        program = driver.programs.get(program_id)
        # There it is counted, so this is of one moment.
        info: ProgramInfo = driver.engine.ask(program.info)
        return info

    def _shown(self, on_output: Any) -> Guarded | None:
        if on_output is DEFAULT:
            on_output = self._presets.get("on_output")
        return Guarded(on_output, self._pool.log) if on_output is not None else None

    def _checked(self, check: Any) -> bool:
        return bool(self._presets.get("check", True) if check is DEFAULT else check)


class ProgramCalls(_Face):
    """The programs of a pool."""

    def register_program(
        self,
        program_id: str,
        program: Callable[..., Any] | str,
        *,
        inputs: Iterable[str] | None = None,
        outputs: Iterable[str] | None = None,
        description: str | None = None,
        reload: bool = False,
    ) -> ProgramInfo:
        """Register a program, to be executed by its id on any worker.

        Parameters
        ----------
        program_id
            What it is called; a program that has this id already is replaced, and counted anew.
            Executions of the old one that run finish with the old one.
        program
            Anything that can be called (a function, an object with ``__call__``, a DSPy module), or
            source code, which runs as a cell.

            A callable is pickled as it is now. A worker unpickles it at its first execution there
            and keeps it alive: its state is shared by the executions on that worker, whoever they
            are for. After an execution that was interrupted a new one is made.
        inputs
            Names of its inputs; by default a callable's parameters. Source code finds them as
            variables.
        outputs
            Names of its outputs. Of a callable: one name is what it returns, or the field of that
            name of a record with ``toDict()``, as DSPy's predictions are; several are the items of a
            tuple, a mapping, or attributes; None is ``["result"]``. Of source code: variables.
        description
            For people; by default the first line of a callable's docstring.
        reload
            Unpickle a callable afresh for each execution: no state is shared.

        Returns
        -------
        ProgramInfo

        Raises
        ------
        InvalidRequest
            Not a program; names that it does not have; the pool's kernel is not Python's.
        SerializationError
            It cannot be pickled.
        PoolNotAvailable
            The pool is closed.
        """
        return self._register(
            program_id,
            program,
            inputs=inputs,
            outputs=outputs,
            description=description,
            reload=reload,
        )

    def execute_program(
        self,
        program_id: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        session_id: str | None = DEFAULT,
        timeout: float | str | None = DEFAULT,
        checkout_timeout: float | str | None = DEFAULT,
        on_output: OnOutput | None = DEFAULT,
        check: bool = DEFAULT,
        retries: int = DEFAULT,
        isolation: str | None = DEFAULT,
        output_limit: float | str | None = DEFAULT,
        seed: int | None = DEFAULT,
        on_wait: Callable[[WaitInfo], None] | None = None,
    ) -> ProgramResult:
        """Execute a registered program on a free worker, and wait for it.

        Parameters
        ----------
        program_id
            As registered.
        inputs
            Values by name.
        session_id, timeout, checkout_timeout, on_output, check, retries, isolation, output_limit, seed, on_wait
            As of `execute`.

        Returns
        -------
        ProgramResult

        Raises
        ------
        UnknownProgram
            None is registered under this id; says which are.
        InvalidRequest
            Inputs that are missing or that it does not take: nothing was run. Or it has not returned
            the outputs that were registered.
        PoolError
            As of `execute`; an `ExecutionError` has the program's traceback.
        """  # fmt: skip
        pool: PoolFace = self._pool
        driver = pool.running()
        program = driver.programs.get(program_id)
        show = self._shown(on_output)
        mailbox = Mailbox(wants_output=show is not None)
        request = prepare_execution(
            pool,
            driver,
            self._presets,
            mailbox,
            program,
            inputs,
            show=show,
            session_id=session_id,
            timeout=timeout,
            checkout_timeout=checkout_timeout,
            retries=retries,
            isolation=isolation,
            output_limit=output_limit,
            seed=seed,
        )
        completion = run(pool, request, mailbox, show, on_wait)
        return settle_program(completion, check=self._checked(check))

    def list_programs(self) -> list[str]:
        """The ids of the registered programs, the latest new one last."""
        found: list[str] = self._pool.running().programs.ids()
        return found

    def get_program_info(self, program_id: str) -> ProgramInfo:
        """What is known of a program: signature, size, how often it was executed. Raises UnknownProgram."""
        return self._info(program_id)

    def delete_program(self, program_id: str) -> None:
        """Forget a program; executions that were begun finish. Raises UnknownProgram."""
        self._pool.running().programs.remove(program_id)


class AsyncProgramCalls(_Face):
    """The programs of a pool for asyncio."""

    async def register_program(
        self, program_id: str, program: Callable[..., Any] | str, **options: Any
    ) -> ProgramInfo:
        """Register a program; as `KernelPool.register_program`. It is pickled in this thread."""
        return self._register(program_id, program, **options)

    async def execute_program(
        self,
        program_id: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        on_output: OnOutput | None = DEFAULT,
        check: bool = DEFAULT,
        **options: Any,
    ) -> ProgramResult:
        """Execute a registered program; as `KernelPool.execute_program`.

        `on_output` is called in the event loop. Inputs are pickled in this thread.
        """
        pool: PoolFace = self._pool
        driver = pool.running()
        program = driver.programs.get(program_id)
        show = self._shown(on_output)
        sink = LoopSink(asyncio.get_running_loop(), show)
        request = prepare_execution(
            pool,
            driver,
            self._presets,
            sink,
            program,
            inputs,
            show=show,
            snapshot=True,
            **options,
        )
        driver.engine.post(lambda: driver.submit(request))
        try:
            completion = await sink.done
        except BaseException:
            driver.cancel_soon(request.id)
            raise
        return settle_program(completion, check=self._checked(check))

    async def list_programs(self) -> list[str]:
        """The ids of the registered programs; as `KernelPool.list_programs`."""
        found: list[str] = self._pool.running().programs.ids()
        return found

    async def get_program_info(self, program_id: str) -> ProgramInfo:
        """What is known of a program; as `KernelPool.get_program_info`."""
        return self._info(program_id)

    async def delete_program(self, program_id: str) -> None:
        """Forget a program; as `KernelPool.delete_program`."""
        self._pool.running().programs.remove(program_id)
