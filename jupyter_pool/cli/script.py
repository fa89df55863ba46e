"""A Python script as one cell: it runs as ``python FILE`` would run it, on any Python kernel.

The cell holds the script's text, so the file need not be there any more. What it raises is printed to
stderr as Python prints it, with the script's own lines, and raised again for the reply.
"""

from __future__ import annotations

__all__ = ["as_cell"]

_CELL = """\
def __jupyter_pool_run(text, path, argv, folder):
    import linecache, os, sys, traceback
    space = globals()
    del space["__jupyter_pool_run"]
    sys.argv = argv
    if path != "<stdin>":
        space["__file__"] = path
    if folder is not None and sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    linecache.cache[path] = (len(text), None, text.splitlines(True), path)
    try:
        exec(compile(text, path, "exec", dont_inherit=True), space)
    except SystemExit:
        raise
    except BaseException as error:
        trace = last = error.__traceback__.tb_next
        kernel = getattr(sys.modules.get("jupyter_pool.kernel"), "__path__", [None])[0]
        step = trace
        while step is not None and kernel is not None:
            if os.path.dirname(step.tb_frame.f_code.co_filename) != kernel:
                last = step
            step = step.tb_next
        if kernel is not None and last is not None:
            last.tb_next = None
        sys.stdout.flush()
        traceback.print_exception(type(error), error, trace)
        raise
"""


def as_cell(text: str, path: str, argv: list[str], folder: str | None) -> str:
    """The cell.

    Parameters
    ----------
    path
        What tracebacks and ``__file__`` show.
    argv
        ``sys.argv``.
    folder
        The first entry of ``sys.path``; None leaves it as it is.
    """
    return f"{_CELL}__jupyter_pool_run({text!r}, {path!r}, {argv!r}, {folder!r})"
