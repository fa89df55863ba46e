"""`Lease`: one worker held exclusively, from ``with pool.checkout()`` to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jupyter_pool.engine.calls import DEFAULT, Guarded
from jupyter_pool.engine.holding import Holding
from jupyter_pool.engine.request import Mailbox
from jupyter_pool.engine.settle import settle
from jupyter_pool.engine.waiting import OnOutput, await_worker, run

if TYPE_CHECKING:
    from jupyter_pool.results import ExecutionResult, WaitInfo

__all__ = ["Lease"]


class Lease(Holding):
    """An exclusive hold on one worker, from ``with`` to its end.

    The worker is reset when it is returned, however the block ends. A lease that is forgotten
    instead is returned when it is garbage-collected, with a ResourceWarning that shows where it was
    borrowed.
    """

    def __enter__(self) -> Lease:
        # A new mailbox each time: the last lease's end may be in the old one.
        self._check_out(Mailbox())
        return self

    def _check_out(
        self,
        mailbox: Mailbox,
        on_wait: Callable[[WaitInfo], None] | None = None,
        *,
        comms: bool = False,
    ) -> None:
        request = self._make_hold(mailbox)
        request.comms = comms
        driver = self._pool.running()
        try:
            completion = await_worker(driver, request, mailbox, on_wait)
            if completion is not None:
                settle(completion)
            self._take(driver, request)
        except BaseException:
            self._give_up(driver, request)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._give_back()

    def execute(
        self,
        code: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Iterable[str] = (),
        timeout: float | str | None = DEFAULT,
        output_limit: float | str | None = DEFAULT,
        on_output: OnOutput | None = None,
        check: bool = True,
        seed: int | None = None,
        execution_count: int | None = None,
        on_wait: Callable[[WaitInfo], None] | None = None,
        on_input: Callable[[str, bool], str] | None = None,
    ) -> ExecutionResult:
        """Run code on the worker that is held; as `KernelPool.execute`, but state stays.

        Raises
        ------
        InvalidRequest
            The lease is not held.
        """
        self._check_held("with")
        show = Guarded(on_output, self._pool.log) if on_output is not None else None
        mailbox = Mailbox(wants_output=show is not None)
        options = {
            "inputs": inputs,
            "outputs": outputs,
            "timeout": timeout,
            "output_limit": output_limit,
            "seed": seed,
            "execution_count": execution_count,
        }
        request = self._make_run(mailbox, code, show, options)
        completion = run(self._pool, request, mailbox, show, on_wait, on_input)
        self._ran(request)
        return settle(completion, check=check)
