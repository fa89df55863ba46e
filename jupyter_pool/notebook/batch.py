"""Whether this kernel was started by something that runs notebooks from end to end, and then is over.

Nobody would see what a background cell puts out after that. Known by the command line of the process
that has started the kernel: others that run notebooks, such as nbval, look at each cell by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

__all__ = ["is_batch_command", "runs_in_batch"]

#: Commands, as programs or modules.
_RUNNERS = frozenset({"nbconvert", "papermill", "jupyter-nbconvert", "jupyter-execute"})
#: Those that `jupyter` can be followed by.
_SUBCOMMANDS = frozenset({"nbconvert", "execute"})
#: What starts kernels for others.
_TEMPLATE = os.path.join("jupyter_pool", "kernel", "template.py")
#: How many processes are looked at, upwards.
_MOST = 4


@cache
def runs_in_batch() -> bool:
    """Look at the processes above this one, once."""
    import psutil  # late: loading the magics stays cheap

    try:
        process = psutil.Process().parent()
        for _ in range(_MOST):
            if process is None:
                return False
            command = process.cmdline()
            if is_batch_command(command):
                return True
            if not _starts_for_others(command):
                return False
            process = process.parent()
    except psutil.Error:  # gone, or somebody else's
        pass
    return False


def is_batch_command(command: Sequence[str]) -> bool:
    """Whether a command line is that of nbconvert, papermill or ``jupyter execute``."""
    name, following = _program(command)
    if name == "jupyter":
        return any(word in _SUBCOMMANDS for word in following[:1])
    return name in _RUNNERS


def _starts_for_others(command: Sequence[str]) -> bool:
    name, _ = _program(command)
    return name == "jupyter" or any(word.endswith(_TEMPLATE) for word in command[:3])


def _program(command: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What Python runs, a script's name or a module's, and what follows it; else the program."""
    words = list(command)
    if words and os.path.basename(words[0]).lower().startswith(("python", "pypy")):
        del words[0]
        while words and words[0].startswith("-") and words[0] not in ("-m", "-c"):
            # Of the options of Python only these have a value of their own.
            del words[: 2 if words[0] in ("-W", "-X") else 1]
        if words[:1] == ["-c"]:
            return "", ()
        if words[:1] == ["-m"]:
            return "".join(words[1:2]).removesuffix(".__main__"), words[2:]
    if not words:
        return "", ()
    return os.path.basename(words[0]).removesuffix(".py"), words[1:]
