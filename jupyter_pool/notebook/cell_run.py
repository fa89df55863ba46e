"""One cell as a job: its request, its outputs as they come, its result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jupyter_pool.errors import Cancelled, ExecutionError, PoolError

from .holding import how_long
from .live import Bundle, outputs_html, outputs_text

if TYPE_CHECKING:
    from jupyter_pool.engine.futures import PoolFuture
    from jupyter_pool.pool import KernelPool
    from jupyter_pool.results import ExecutionResult

    from .hold import JobHold
    from .job import State
    from .job_outputs import JobOutputs
    from .underway import Kind

__all__ = ["CellRun", "failure_line"]

_LONGEST = 120


class CellRun:
    """Runs a cell once, for a `Job`.

    Parameters
    ----------
    submit
        Sends it, with a function that gets its outputs, and returns its future.
    value
        The output that is the result, of a line; by default it is the whole `ExecutionResult`.
    variables
        Names of outputs to set in the notebook.
    save_as
        A name for the `ExecutionResult` there.
    outputs
        Takes what it puts out.
    explain
        Adds to an error what the notebook knows of it.
    hold
        Its worker, when the code has ended; None: it holds none.
    """

    kind: Kind = "background"

    def __init__(
        self,
        pool: KernelPool,
        submit: Callable[[JobOutputs], PoolFuture[ExecutionResult]],
        *,
        value: str | None = None,
        variables: tuple[str, ...] = (),
        save_as: str | None = None,
        outputs: JobOutputs,
        explain: Callable[[PoolError], None] | None = None,
        hold: JobHold | None = None,
    ) -> None:
        self.pool = pool
        self._submit = submit
        self._value = value
        self._variables = variables
        self._save_as = save_as
        self._explain = explain
        self._hold = hold
        self._outputs = outputs
        self._future: PoolFuture[ExecutionResult] | None = None
        self._cancelled = False
        #: The end: one of both.
        self._result: ExecutionResult | None = None
        self._error: BaseException | None = None

    @property
    def state(self) -> State:
        if self._result is not None or self._error is not None:
            if self._error is None:
                return "done"
            return "cancelled" if isinstance(self._error, Cancelled) else "failed"
        return "running" if self._future is not None and self._future.running() else "waiting"

    @property
    def progress(self) -> tuple[int, int]:
        return int(self._result is not None and self._error is None), 1

    @property
    def facts(self) -> str:
        return ""

    def start(self, changed: Callable[[], None], ended: Callable[[], None]) -> None:
        self._outputs.changed = changed

        def on_end(future: PoolFuture[ExecutionResult]) -> None:
            try:
                result = future.result(0)
            except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
                self._error = error
            else:
                if result.error is not None and self._explain is not None:
                    self._explain(result.error)
                self._result, self._error = result, result.error
            request_id = future.request_id
            if self._hold is None or not self._hold.begin(request_id, changed):
                self._outputs.end()
            ended()

        self._future = self._submit(self._outputs)
        self._future.add_done_callback(on_end)  # type: ignore[arg-type]
        if self._cancelled:
            self.cancel()

    def cancel(self) -> None:
        self._cancelled = True
        if self._future is not None:
            self.pool.cancel(self._future.request_id)

    @property
    def is_held(self) -> bool:
        return self._hold is not None and self._hold.is_held

    @property
    def held(self) -> str:
        return how_long(self._hold.seconds) if self._hold is not None and self.is_held else ""

    @property
    def keeps_others_waiting(self) -> bool:
        return self._hold is not None and self.is_held and self._hold.seconds is not None

    def let_go(self) -> bool:
        return self._hold is not None and self._hold.end()

    def body(self) -> Bundle:
        outputs = self._outputs.outputs()
        error = self._error
        if error is not None and not isinstance(error, ExecutionError):
            # An exception of the code is among the outputs already.
            outputs.append(
                {
                    "output_type": "error",
                    "ename": type(error).__name__,
                    "evalue": str(error),
                    "traceback": [f"{type(error).__name__}: {error}"],
                }
            )
        ended = self._result is not None or error is not None
        return {
            "text/plain": outputs_text(outputs),
            "text/html": outputs_html(outputs, follow=not ended),
        }

    def show(self) -> None:
        self._outputs.show()

    def outcome(self) -> Any:
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result if self._value is None else self._result.outputs[self._value]

    def failure(self) -> str:
        return "" if self._error is None else failure_line(self._error)

    def variables(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._result is not None:
            if self._error is None:
                found = {name: self._result.outputs[name] for name in self._variables}
            if self._save_as:
                found[self._save_as] = self._result
        return found


def failure_line(error: BaseException) -> str:
    """An error in one short line: ``ValueError: no such file``."""
    if isinstance(error, ExecutionError):
        name, text = error.ename, error.evalue
    else:
        name, text = type(error).__name__, str(error)
    line = text.strip().partition("\n")[0]
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST - 1]}…"
    return f"{name}: {line}" if line else name
