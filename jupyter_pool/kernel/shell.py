"""The worker's IPython shell: cheap cell names, clean tracebacks, defined exits."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import hashlib
import io
import linecache
import os
import re
import sys
import traceback
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any

from ipykernel.compiler import XCachingCompiler
from ipykernel.displayhook import ZMQShellDisplayHook
from ipykernel.zmqshell import ZMQDisplayPublisher, ZMQInteractiveShell
from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.core.events import EventManager, available_events
from IPython.core.interactiveshell import _asyncio_runner
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from traitlets import Type

from jupyter_pool.kernel.interrupts import GATE
from jupyter_pool.kernel.streams import PoolOutStream, send_streams

__all__ = ["CELL_FILE", "PoolShell", "no_stdin"]

#: The file name that a cell has in tracebacks and stack dumps.
CELL_FILE = re.compile(r"ipykernel_\d+[/\\]\d+\.py$")

_OWN_FOLDER = os.path.dirname(__file__)


def no_stdin(what: str, instead: str) -> StdinNotImplementedError:
    """The error for something that would wait for a person in front of the cell."""
    return StdinNotImplementedError(f"{what} is not available in a pool cell: {instead}")


class CellCompiler(XCachingCompiler):
    """Names cells as ipykernel does (libraries such as joblib and numba look for it).

    Its own hash costs a microsecond per character of the cell.
    """

    #: Where cells pretend to be; of another process until `attach`.
    folder = ""
    #: The last expression of the running cell, if its value is to be displayed.
    last_expression: Any = None

    def __call__(self, source: Any, filename: str, symbol: str, **kwargs: Any) -> Any:
        """Compile one statement of a cell."""
        code = super().__call__(source, filename, symbol, **kwargs)
        self.last_expression = code if symbol == "single" else None
        return code

    def get_code_name(self, raw_code: str, code: str, number: int) -> str:
        """Return the file name of a cell, the same for the same text."""
        digest = hashlib.blake2b(raw_code.encode("utf-8", "surrogatepass"), digest_size=4).digest()
        return os.path.join(self.folder, f"{int.from_bytes(digest, 'big')}.py")


class PoolDisplayHook(ZMQShellDisplayHook):
    """The display hook: the value of a cell's end leaves together with its reply."""

    shell: Any

    def finish_displayhook(self) -> None:
        """Publish the result."""
        shell = self.shell
        iopub = shell.kernel.iopub_thread
        send_streams()
        if self.msg:
            content = self.msg["content"]
            with GATE.hold, iopub.lock:
                content["data"] = iopub.limit.shorten(content["data"])
        # Two frames up is who displays: the interpreter, for the end of the
        # cell, or somebody's call in the middle of it.
        if (
            sys._getframe(2).f_code is shell.compile.last_expression
            and shell.ast_node_interactivity != "all"
        ):
            iopub.cork()
        super().finish_displayhook()

    def quiet(self) -> bool:
        """Whether the cell ends in a semicolon."""
        cells = self.shell.history_manager.input_hist_parsed
        if cells and ";" not in cells[-1]:
            return False
        return bool(super().quiet())


class PoolDisplayPublisher(ZMQDisplayPublisher):
    """The display publisher: what is too large is not even packed.

    Leans on ZMQDisplayPublisher's `publish`, which calls `_flush_streams` (checked on ipykernel 7.4).
    """

    shell: Any

    def publish(self, data: Any, *args: Any, **kwargs: Any) -> None:
        """Publish a display, or an update of one."""
        if isinstance(data, dict):
            iopub = self.shell.kernel.iopub_thread
            with GATE.hold, iopub.lock:
                data = iopub.limit.shorten(data)
        super().publish(data, *args, **kwargs)

    def _flush_streams(self) -> None:
        send_streams()


@magics_class
class _DebuggerMagics(Magics):
    """Magics that need someone to answer: an error where nobody can."""

    shell: Any

    @line_cell_magic
    def debug(self, line: str = "", cell: str | None = None) -> Any:
        """Debug post mortem, or a statement; see IPython's own %debug."""
        self._check("%debug")
        return self._original("debug", line, cell)

    @line_magic
    def pdb(self, line: str = "") -> Any:
        """Switch the automatic debugger; see IPython's own %pdb."""
        self._check("%pdb")
        return self._original("pdb", line)

    def _check(self, name: str) -> None:
        if not self.shell.kernel._allow_stdin:
            raise no_debugger(name)

    def _original(self, name: str, *args: Any) -> Any:
        return getattr(self.shell.magics_manager.registry["ExecutionMagics"], name)(*args)


def no_debugger(what: str) -> StdinNotImplementedError:
    """The error for whatever would open a debugger."""
    return no_stdin(what, "nobody can type into it. Run the cell in your own kernel to debug it.")


class InterruptibleEvents(EventManager):
    """IPython's callbacks before and after a cell; an interrupt in one ends the cell.

    IPython's own shows it and goes on, so the cell would run as if nobody had interrupted it. Leans
    on EventManager's `callbacks` and `shell` (checked on IPython 9.18).
    """

    def trigger(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Call what is registered for an event; what one raises is shown, and the next is called."""
        for function in list(self.callbacks[event]):
            try:
                function(*args, **kwargs)
            except Exception:  # noqa: BLE001 - users' code: told, and survived
                print(f"Error in the callback {function} for {event}:")  # noqa: T201 - to the cell
                self.shell.showtraceback()


class PoolShell(ZMQInteractiveShell):
    """The shell.

    Leans on InteractiveShell: `_get_exc_info` is asked for every exception that
    is shown, `_showtraceback` publishes, `_format_exception_for_storage` is for its history, `ask_exit` is what exit() and quit()
    call, `InteractiveTB` formats (checked on IPython 9.18, ipykernel 7.4); ZMQInteractiveShell's
    `set_parent` tells the parts that are named in ours, which have a `_parent_header` for tasks and a
    `_parent_header_global` for threads (checked on ipykernel 7.3 and 7.4).
    """

    displayhook_class = Type(PoolDisplayHook)
    display_pub_class = Type(PoolDisplayPublisher)

    #: Name and text of the error that was published last.
    last_shown = ("Exception", "")

    def set_parent(self, parent: dict[str, Any]) -> None:
        """What is shown from now on belongs to this message; as ipykernel's own, in a third of it."""
        self.parent_header = parent
        header = parent.get("header", {})
        parts: tuple[Any, ...] = (self.displayhook, self.display_pub)
        for part in parts:
            # As its own `parent_header = header`, which ipykernel has only since 7.4 (Python 3.11).
            part._parent_header.set(header)
            part._parent_header_global = header
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, PoolOutStream):
                stream.parent_header = header
            elif hasattr(stream, "set_parent"):
                stream.set_parent(parent)

    def init_events(self) -> None:
        """Make the events, with what IPython registers itself."""
        super().init_events()
        callbacks = self.events.callbacks
        self.events = InterruptibleEvents(self, available_events)
        self.events.callbacks = callbacks

    def init_magics(self) -> None:
        """Register IPython's magics, and ours over them."""
        super().init_magics()
        self.register_magics(_DebuggerMagics)

    def ask_exit(self) -> None:
        """What exit() and quit() do: end a pool cell, or a plain client's kernel."""
        if self.kernel.in_pool_request:
            raise SystemExit
        super().ask_exit()

    def debugger(self, force: bool = False) -> None:
        """Open the debugger on the last traceback."""
        if not self.kernel._allow_stdin:
            raise no_debugger("the debugger")
        super().debugger(force)

    # -- running -----------------------------------------------------------------

    async def run_cell_here(
        self, code: str, silent: bool, store_history: bool, cell_id: str | None
    ) -> BaseException | None:
        """Run a cell on the running loop, as IPython does.

        Returns
        -------
        BaseException or None
            The exception that ended the cell, already shown.
        """
        result: Any = None
        failed: Exception | None = None
        try:
            transformed, bad = code, None
            try:
                transformed = self.transform_cell(code)
            except Exception:  # noqa: BLE001 - IPython shows it as the cell's own
                bad = sys.exc_info()
            cell = self.run_cell_async(
                code,
                store_history=store_history,
                silent=silent,
                transformed_cell=transformed,
                preprocessing_exc_tuple=bad,
                cell_id=cell_id,
            )
            # Only these words can make a cell asynchronous; the full answer compiles it.
            awaits = ("await" in code or "async" in code) and self.should_run_async(
                code, transformed_cell=transformed, preprocessing_exc_tuple=bad
            )
            if not awaits:
                result = _run_to_end(cell)
            elif self.loop_runner is _asyncio_runner:
                with GATE.hold:  # torn apart, it would leave a task that nobody knows
                    task = asyncio.get_running_loop().create_task(cell)
                    GATE.watch(task)
                result = await task
                GATE.watch(None)
            else:  # %autoawait with another runner
                result = self.loop_runner(cell)
        except Exception as stumbled:  # noqa: BLE001 - IPython itself stumbled
            failed = stumbled
        finally:
            self.events.trigger("post_execute")
            if not silent:
                self.events.trigger("post_run_cell", result)
        if failed is not None:
            self.show_outside_cell(failed)
            return failed
        error: BaseException | None = result.error_before_exec
        return error if error is not None else result.error_in_exec

    # -- tracebacks ------------------------------------------------------------

    def is_cell_file(self, filename: str) -> bool:
        """Whether code with this file name is a cell's own."""
        return filename in self.compile._filename_map

    def _get_exc_info(self, exc_tuple: Any = None) -> tuple[Any, Any, TracebackType | None]:
        etype, value, tb = super()._get_exc_info(exc_tuple)
        if GATE.cancelled_cell and issubclass(etype, asyncio.CancelledError):
            etype, value = KeyboardInterrupt, KeyboardInterrupt().with_traceback(tb)
        _drop_own_tail(tb)
        return etype, value, tb

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        """Publish an error, and remember what was said."""
        self.last_shown = (etype.__name__, text_of(evalue))
        content = {"evalue": self.last_shown[1], "traceback": stb}
        self.kernel.iopub_thread.limit.shorten_error(content)
        if content["evalue"] != self.last_shown[1]:
            evalue = content["evalue"]
        with _flushable_streams():  # sent first, whatever the cell has put there
            send_streams()
            super()._showtraceback(etype, evalue, content["traceback"])

    def _format_exception_for_storage(self, exception: Any, *args: Any, **kwargs: Any) -> Any:
        """Nothing: IPython keeps errors for its history, and a worker has none."""
        return {}

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Publish an exception. Groups too: IPython only prints them to stderr."""
        try:
            etype, value, tb = self._get_exc_info(exc_tuple)
        except ValueError:
            super().showtraceback(exc_tuple, *args, **kwargs)
            return
        if issubclass(etype, SystemExit):
            # IPython would send people to %tb, which another request cannot see.
            self._showtraceback(etype, value, self.InteractiveTB.get_exception_only(etype, value))
            return
        if value is not None and text_of(value) == _UNPRINTABLE.format(etype.__name__):
            # IPython's formatter asks for the text; it gets another exception of that name.
            value = _stand_in(value).with_traceback(tb)
            etype = type(value)
        if _lacks_line(tb):
            self._showtraceback(etype, value, self._format_simply(etype, value, tb))
            return
        if etype is UsageError:  # IPython only prints it to stderr
            self._showtraceback(etype, value, [f"UsageError: {value}"])
            return
        if _has_group(value):
            stb = "".join(traceback.format_exception(etype, value, self.trim_to_cell(tb)))
            self._showtraceback(etype, value, stb.splitlines())
            return
        super().showtraceback((etype, value, tb), *args, **kwargs)

    def _format_simply(
        self, etype: type[BaseException], value: BaseException, tb: TracebackType | None
    ) -> list[str]:
        """Format a traceback in IPython's manner, where IPython's own formatter cannot.

        An interrupt may strike a loop's jump, which CPython may count to no line.
        """
        cells = self.compile._filename_map
        frames = []
        tb = self.trim_to_cell(tb) or tb
        while tb is not None:
            code, line = tb.tb_frame.f_code, _nearest_line(tb)
            cell = cells.get(code.co_filename)
            where = f"Cell In[{cell}], line {line}" if cell else f"File {code.co_filename}:{line}"
            name = "" if code.co_name == "<module>" else f", in {code.co_name}"
            frames.append(
                f"{where}{name}\n----> {line} {linecache.getline(code.co_filename, line)}"
            )
            tb = tb.tb_next
        title = f"{etype.__name__:<42}Traceback (most recent call last)"
        return ["-" * 75, title, *frames, f"{etype.__name__}: {text_of(value)}"]

    def show_outside_cell(self, error: BaseException) -> None:
        """Publish an exception that was not raised by the cell's own code."""
        tb = self.trim_to_cell(error.__traceback__)
        if tb is None:
            etype = type(error)
            self._showtraceback(etype, error, self.InteractiveTB.get_exception_only(etype, error))
        else:
            self.showtraceback((type(error), error, tb), tb_offset=0)

    def trim_to_cell(self, tb: TracebackType | None) -> TracebackType | None:
        """Return the traceback from the first frame of a cell on; None if there is none."""
        while tb is not None and not self.is_cell_file(tb.tb_frame.f_code.co_filename):
            tb = tb.tb_next
        return tb

    def find_cell_line(self, error: BaseException, code: str) -> dict[str, Any] | None:
        """Return the innermost line of the cell that an error came from.

        Returns
        -------
        dict or None
            ``line`` counts from 1 in `code` as sent; ``source`` is that line.
        """
        number = None
        if isinstance(error, SyntaxError) and self.is_cell_file(error.filename or ""):
            number = error.lineno
        tb = error.__traceback__
        while tb is not None:
            if self.is_cell_file(tb.tb_frame.f_code.co_filename):
                number = _nearest_line(tb)
            tb = tb.tb_next
        if number is None:
            return None
        lines = code.splitlines()
        # IPython drops empty lines at the top before it compiles a cell.
        number += next((i for i, line in enumerate(lines) if line.strip()), 0)
        if not 1 <= number <= len(lines):
            return None
        return {"line": number, "source": lines[number - 1].strip()}


@contextlib.contextmanager
def _flushable_streams() -> Iterator[None]:
    kept = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001 - users' objects
            setattr(sys, name, io.StringIO())
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept


_UNPRINTABLE = "<unprintable {} object>"


def text_of(error: BaseException) -> str:
    """An exception's text, or what `traceback` says where its own ``__str__`` fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - users' code
        return _UNPRINTABLE.format(type(error).__name__)


def _stand_in(error: BaseException) -> Exception:
    name = type(error).__name__
    shadow: type[Exception] = type(name, (Exception,), {"__module__": type(error).__module__})
    return shadow(_UNPRINTABLE.format(name))


def _drop_own_tail(tb: TracebackType | None) -> None:
    """Cut the kernel's own frames off the inner end: they are not the user's doing."""
    last = None
    while tb is not None:
        if os.path.dirname(tb.tb_frame.f_code.co_filename) != _OWN_FOLDER:
            last = tb
        tb = tb.tb_next
    if last is not None:
        last.tb_next = None


def _line_of(tb: TracebackType) -> int | None:
    # CPython knows instructions of no line: None, whatever its type says, or -1 in Python 3.10.
    return tb.tb_lineno if (tb.tb_lineno or 0) > 0 else None


def _lacks_line(tb: TracebackType | None) -> bool:
    while tb is not None:
        if _line_of(tb) is None:
            return True
        tb = tb.tb_next
    return False


def _nearest_line(tb: TracebackType) -> int:
    """The frame's line, or the last one before the instruction that has one."""
    line = _line_of(tb)
    if line is None:
        code = tb.tb_frame.f_code
        before = [n for start, _, n in code.co_lines() if n and start <= tb.tb_lasti]
        line = before[-1] if before else code.co_firstlineno
    return line


def _has_group(error: BaseException | None) -> bool:
    group = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.11
    seen = 0
    while group is not None and error is not None and seen < 100:
        if isinstance(error, group):
            return True
        error = error.__context__
        seen += 1
    return False


def _run_to_end(cell: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never really waits."""
    try:
        cell.send(None)
    except StopIteration as end:
        return end.value
    cell.close()
    raise RuntimeError("a cell without await waited for something")
