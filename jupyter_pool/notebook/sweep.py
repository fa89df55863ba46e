"""A cell once for each item, in parallel: the run, and the handle that it leaves.

A thread of the sweep's own keeps as many requests in the pool as may run at a time, and no more:
whoever else uses the pool waits for one of them, not for all that are left.
"""

from __future__ import annotations

import contextvars
import html
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jupyter_pool import _reprs
from jupyter_pool.errors import Cancelled, PoolError, PoolNotAvailable

from .cell_run import failure_line
from .items import Item
from .live import Bundle, outputs_html

if TYPE_CHECKING:
    import pandas as pd

    from jupyter_pool.engine.futures import PoolFuture
    from jupyter_pool.pool import KernelPool
    from jupyter_pool.results import ExecutionResult

    from .job import State
    from .underway import Kind

__all__ = ["Sweep", "SweepRun"]

#: How many items are shown, how much HTML they may make, and how much text each.
_MOST_SHOWN, _MOST_HTML, _MOST_TEXT = 200, 3_000_000, 4000
#: How many failures the last line names.
_MOST_NAMED = 3


class Sweep:
    """What a cell with ``--each`` gave, item by item.

    Attributes
    ----------
    items
        The parameters of each item, as dicts by name.
    results
        The `ExecutionResult` of each item, in the same order; None where there is none.
    outputs
        A list for each name of ``--out``, by name; where an item failed its exception is in the
        list.
    """

    def __init__(
        self,
        items: Sequence[Item],
        names: tuple[str, ...],
        rerun: Callable[[Sweep], None],
        cell: Callable[[], object],
    ) -> None:
        self._items = items
        self._rerun = rerun
        #: Tells one run of a cell from another; and which one has shown this already.
        self._cell = cell
        self._shown_by: object = None
        self.items: list[dict[str, Any]] = [dict(item.parameters) for item in items]
        self.results: list[ExecutionResult | None] = [None] * len(items)
        self._errors: list[BaseException | None] = [_NOT_RUN] * len(items)
        self.outputs: dict[str, list[Any]] = {name: [_NOT_RUN] * len(items) for name in names}
        #: Whether what the items put out is to be shown.
        self.quiet = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def errors(self) -> dict[int, BaseException]:
        """What went wrong, by the number of the item."""
        return {number: error for number, error in enumerate(self._errors) if error is not None}

    @property
    def failed(self) -> list[Item]:
        """The items that failed, or never ran."""
        return [self._items[number] for number in self.errors]

    def retry_failed(self) -> Sweep:
        """Run the items that failed, or never ran, once more; wait, and complete this handle.

        Each runs with the code, variables and seed of before. The lists in `outputs`, which are
        also the notebook's variables, are completed in place.

        Returns
        -------
        Sweep
            This one.
        """
        if self.failed:
            self._rerun(self)
            self._shown_by = self._cell()
        return self

    def to_frame(self) -> pd.DataFrame:
        """A table of the items: a column for each parameter and each output, and ``error``.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_frame() needs pandas: pip install pandas") from error
        columns: dict[str, list[Any]] = {
            name: [item[name] for item in self.items] for name in self._items[0].parameters
        }
        for name, values in self.outputs.items():
            columns[name] = [
                None if error is not None else value
                for value, error in zip(values, self._errors, strict=True)
            ]
        if any(self._errors):
            columns["error"] = [
                None if error is None else failure_line(error) for error in self._errors
            ]
        # Series: a value may be an array itself, or a dict.
        frame: pd.DataFrame = pd.DataFrame({k: pd.Series(values) for k, values in columns.items()})
        return frame

    # -- filled by its run -------------------------------------------------------------------

    def settle(
        self, item: Item, result: ExecutionResult | None, error: BaseException | None
    ) -> bool:
        """Note how an item has ended; whether well."""
        number = item.index
        if result is not None and error is None:
            try:
                for name, values in self.outputs.items():
                    values[number] = result.outputs[name]
            except PoolError as failed:
                error = failed
        if error is not None:
            for values in self.outputs.values():
                values[number] = error
        self.results[number] = result
        self._errors[number] = error
        return error is None

    # -- how it looks ------------------------------------------------------------------------

    def summary(self) -> str:
        """``47 of 50 done, 3 failed (lr=0.9: ValueError)``."""
        total = len(self)
        stopped = [n for n, error in self.errors.items() if _was_stopped(error)]
        failed = [n for n in self.errors if n not in set(stopped)]
        line = f"{total - len(stopped) - len(failed)} of {total} done"
        if failed:
            named = [
                f"{self._items[n].label}: {_name_of(self._errors[n])}" for n in failed[:_MOST_NAMED]
            ]
            more = ", …" if len(failed) > _MOST_NAMED else ""
            line += f", {len(failed)} failed ({', '.join(named)}{more})"
        if stopped:
            line += f", {len(stopped)} stopped"
        return line

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a sweep stays in its notebook: send sweep.outputs or sweep.to_frame()")

    def __repr__(self) -> str:
        return f"<Sweep: {self.summary()}>"

    def _ipython_display_(self) -> None:
        # As the value of the cell that has just run it again it would be there twice.
        if self._shown_by is None or self._shown_by != self._cell():
            raise NotImplementedError  # as it is shown otherwise
        self._shown_by = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return self.bundle()

    def bundle(self) -> Bundle:
        """The outputs of the items, each under its name, and the summary. No times: stored
        notebooks should not differ from run to run.
        """
        shown = [] if self.quiet else [n for n in range(len(self)) if self._has_output(n)]
        texts: list[str] = []
        parts: list[str] = []
        size = 0
        for count, number in enumerate(shown):
            part = self._item_html(number)
            size += len(part)
            if parts and (count >= _MOST_SHOWN or size > _MOST_HTML):
                left_out = f"… and {len(shown) - count:,} more; .results has all"
                parts.append(_reprs.line(left_out))
                texts.append(left_out)
                break
            parts.append(part)
            texts.append(self._item_text(number))
        summary = self.summary()
        return {
            "text/plain": "\n".join([*texts, summary]),
            "text/html": f"<div>{''.join(parts)}{_line(summary)}</div>",
        }

    def _has_output(self, number: int) -> bool:
        result, error = self.results[number], self._errors[number]
        shown = result is not None and bool(result.display_outputs)
        return shown or (error is not None and not _was_stopped(error))

    def _outputs(self, number: int) -> list[dict[str, Any]]:
        result, error = self.results[number], self._errors[number]
        outputs = list(result.display_outputs) if result is not None else []
        if error is not None and not any(o["output_type"] == "error" for o in outputs):
            text = f"{type(error).__name__}: {error}"
            outputs.append({"output_type": "error", "traceback": [text]})
        return outputs

    def _item_html(self, number: int) -> str:
        item, error = self._items[number], self._errors[number]
        colour = "var(--jp-error-color1, #d32f2f)" if error is not None else "inherit"
        name = html.escape(item.label)
        failed = f" · {html.escape(_name_of(error))}" if error is not None else ""
        return (
            f'<details><summary style="cursor:pointer;color:{colour}">{name}{failed}</summary>'
            f'<div style="margin-left:1.2em">{outputs_html(self._outputs(number))}</div></details>'
        )

    def _item_text(self, number: int) -> str:
        text = _reprs.cut_middle(_reprs.outputs_text(self._outputs(number)), _MOST_TEXT)
        indented = "\n".join(f"    {line}" for line in text.splitlines())
        return f"{self._items[number].label}:\n{indented}"


_NOT_RUN = Cancelled("cancelled before it ran")


def _was_stopped(error: BaseException | None) -> bool:
    return isinstance(error, Cancelled)


def _name_of(error: BaseException | None) -> str:
    return str(getattr(error, "ename", "") or type(error).__name__)


def _line(text: str) -> str:
    return f'<div style="color:var(--jp-content-font-color1, inherit)">{html.escape(text)}</div>'


class SweepRun:
    """Runs items of a `Sweep`, for a `Job` or for somebody who waits.

    Parameters
    ----------
    submit
        Sends one item and returns its future, of an `ExecutionResult`.
    most
        How many may be in the pool at a time; None: as many as it has workers.
    explain
        Adds to an error what the notebook knows of it.
    """

    kind: Kind = "each"
    #: It holds no worker when it has ended.
    held, keeps_others_waiting = "", False

    def __init__(
        self,
        pool: KernelPool,
        sweep: Sweep,
        items: Iterable[Item],
        submit: Callable[[Item], PoolFuture[ExecutionResult]],
        *,
        most: int | None = None,
        save_as: str | None = None,
        explain: Callable[[PoolError], None] | None = None,
    ) -> None:
        self.sweep = sweep
        self.pool = pool
        self._items = list(items)
        self._submit = submit
        self._most = most
        self._save_as = save_as
        self._explain = explain
        self._news: queue.SimpleQueue[tuple[Item, PoolFuture[ExecutionResult]] | None] = (
            queue.SimpleQueue()
        )
        self._stopped = False
        self._over = threading.Event()
        self._done = self._failed = 0
        self._flying: dict[int, PoolFuture[ExecutionResult]] = {}

    # -- what a `Job` asks -------------------------------------------------------------------

    def let_go(self) -> bool:
        return False

    @property
    def state(self) -> State:
        if not self._over.is_set():
            return "running" if self._done or self._is_running() else "waiting"
        if self._stopped:
            return "cancelled"
        return "failed" if self.sweep.errors else "done"

    def _is_running(self) -> bool:
        return any(future.running() for future in list(self._flying.values()))

    @property
    def progress(self) -> tuple[int, int]:
        return self._done, len(self._items)

    @property
    def facts(self) -> str:
        if self._over.is_set():
            return ""
        told = f"{self._done} of {len(self._items)} done"
        return f"{told}, {self._failed} failed" if self._failed else told

    def start(self, changed: Callable[[], None], ended: Callable[[], None]) -> None:
        # Its requests are caused by the cell that begins it.
        begin = contextvars.copy_context().run
        threading.Thread(
            target=begin, args=(self._main, changed, ended), name="jupyter_pool sweep", daemon=True
        ).start()

    def cancel(self) -> None:
        self._stopped = True
        self._news.put(None)

    def wait(self, timeout: float) -> bool:
        """Wait for the end, at most so many seconds; whether it has come."""
        return self._over.wait(timeout)

    def body(self) -> Bundle:
        if self._over.is_set():
            return self.sweep.bundle()
        return {"text/plain": "", "text/html": progress_html(*self.progress)}

    def show(self) -> None:
        pass  # all is in its body

    def outcome(self) -> Sweep:
        return self.sweep

    def failure(self) -> str:
        return self.sweep.summary() if self.sweep.errors else ""

    def variables(self) -> dict[str, Any]:
        found: dict[str, Any] = dict(self.sweep.outputs)
        if self._save_as:
            found[self._save_as] = self.sweep
        return found

    # -- its thread --------------------------------------------------------------------------

    def _main(self, changed: Callable[[], None], ended: Callable[[], None]) -> None:
        waiting = iter(self._items)
        exhausted = False
        try:
            while True:
                while not (exhausted or self._stopped) and len(self._flying) < self._room():
                    item = next(waiting, None)
                    if item is None:
                        exhausted = True
                    else:
                        self._send(item, changed)
                if not self._flying:
                    break
                news = self._news.get()
                if news is None:
                    for future in self._flying.values():
                        self.pool.cancel(future.request_id)
                    continue
                item, future = news
                del self._flying[item.index]
                self._take(item, future)
                changed()
        finally:
            self._over.set()
            ended()

    def _room(self) -> int:
        config = self.pool.config
        workers = int(config.size) + int(config.overflow)
        return workers if self._most is None else min(self._most, workers)

    def _send(self, item: Item, changed: Callable[[], None]) -> None:
        try:
            future = self._submit(item)
        except Exception as error:  # noqa: BLE001 - it sits in the item's slot
            if isinstance(error, PoolNotAvailable):
                self._stopped = True
            self._count(item, None, error)
            changed()
            return
        self._flying[item.index] = future
        future.add_done_callback(lambda _: self._news.put((item, future)))

    def _take(self, item: Item, future: PoolFuture[ExecutionResult]) -> None:
        try:
            result = future.result(0)
        except BaseException as error:  # noqa: BLE001 - it sits in the item's slot
            self._count(item, None, error)
            return
        if result.error is not None and self._explain is not None:
            self._explain(result.error)
        self._count(item, result, result.error)

    def _count(
        self, item: Item, result: ExecutionResult | None, error: BaseException | None
    ) -> None:
        self._failed += not self.sweep.settle(item, result, error)
        self._done += 1


def progress_html(done: int, total: int) -> str:
    """A bar that fills."""
    share = 100 * done / max(total, 1)
    return (
        '<div style="height:4px;max-width:24em;margin:4px 0;border-radius:2px;'
        'background:var(--jp-border-color2, #ccc)" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="{total}" aria-valuenow="{done}"><div style="height:4px;border-radius:2px;'
        f'width:{share:.1f}%;background:var(--jp-brand-color1, #1976d2)"></div></div>'
    )
