"""`ForkProvisioner`: kernels from a fork server, for any Jupyter application.

A kernelspec names it in its metadata::

    {"argv": […, "--PoolKernelApp.preload=pandas"],
     "metadata": {"kernel_provisioner": {"provisioner_name": "jupyter-pool-fork"}}}

What it preloads is imported once, before the fork: each kernel has it at once, and shares its memory.
Where a fork server cannot be used (another system, a kernel that is not ours, a preload that does
not survive a fork) it starts the kernel as jupyter_client's `LocalProvisioner` does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import pathlib
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from jupyter_pool import kernel

from .guardian import Guardian
from .kernelspecs import PROVISIONER
from .templates import PLAINLY, ForkFailed, Templates, is_supported

__all__ = ["NAME", "ForkProvisioner"]

NAME = PROVISIONER

#: What of a launch a fork server understands; anything else is for `subprocess.Popen`.
_UNDERSTOOD = {"cwd", "env", "stdin", "stdout", "stderr", "independent", "kernel_id", "close_fds"}


class ForkProvisioner(LocalProvisioner):
    """Starts the pool's own kernel by a fork of a process that has it ready."""

    #: Of an application without a pool: who sees to the kernel's end.
    _watched: Guardian | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Launch a kernel; plainly if it cannot be forked."""
        ours = _parse(cmd)
        if ours is None or not _UNDERSTOOD.issuperset(kwargs):
            return await super().launch_kernel(cmd, **kwargs)
        if (reason := is_supported()) is not None:
            _say_unsupported(reason)
            return await super().launch_kernel(cmd, **kwargs)
        connection_file, preload = ours
        cwd = os.fspath(kwargs.get("cwd") or pathlib.Path.cwd())
        if kwargs.get("independent") or not os.access(cwd, os.X_OK):
            # Ours end with their owner; and what is wrong with the folder, the system says better.
            return await super().launch_kernel(cmd, **kwargs)
        env = dict(kwargs.get("env") or os.environ)
        env["JPY_PARENT_PID"] = str(os.getpid())
        templates: Templates | None = getattr(self.parent, "templates", None)
        shared = None
        if templates is None:
            shared = shared_templates()
            templates = shared.templates
        with _stdio(kwargs) as (stdio, pipes):
            try:
                process = await templates.fork(
                    cmd,
                    connection_file,
                    cwd=cwd,
                    env=env,
                    preload=preload,
                    stdio=stdio,
                )
            except ForkFailed as reason:
                self.log.debug("started plainly: %s", reason)
            else:
                self.process = process  # type: ignore[assignment]
                if shared is not None:
                    shared.guardian.add(process.pid)
                    self._watched = shared.guardian
                for name, file in pipes.items():
                    setattr(process, name, file)
                self.pid = self.pgid = process.pid
                self.cwd = cwd
                return self.connection_info
            for file in pipes.values():
                file.close()
        return await super().launch_kernel(cmd, **kwargs)

    async def wait(self) -> int | None:
        """Wait for the end of the kernel's process."""
        code = await super().wait()
        watched, self._watched = self._watched, None
        if watched is not None and self.pid is not None:
            watched.remove(self.pid)
        return code


@functools.cache
def _say_unsupported(reason: str) -> None:
    # Once, and no warning: there is nothing that anybody could do about it.
    logging.getLogger("jupyter_pool").info(PLAINLY, reason)


def _parse(cmd: list[str]) -> tuple[str, list[str]] | None:
    """Connection file and preload, if this is a command of the pool's own kernel; else None."""
    *own, _ = kernel.command()
    if cmd[: len(own)] != own or len(cmd) == len(own):
        return None
    connection_file, *options = cmd[len(own) :]
    if not all(option.startswith(kernel.PRELOAD) for option in options):
        return None
    return os.path.abspath(connection_file), [option[len(kernel.PRELOAD) :] for option in options]


@contextlib.contextmanager
def _stdio(options: Mapping[str, Any]) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The kernel's three descriptors, as `subprocess.Popen` takes them, and our ends of pipes."""
    stdio: list[int] = []
    pipes: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for name in ("stdin", "stdout", "stderr"):
            given = options.get(name)
            if name == "stdin" and given in (None, subprocess.PIPE):
                given = subprocess.DEVNULL  # nobody writes to a kernel's
            if given is None:
                stdio.append({"stdout": 1, "stderr": 2}[name])
                continue
            if given == subprocess.DEVNULL:
                fd = os.open(os.devnull, os.O_RDWR)
                stack.callback(os.close, fd)
            elif given == subprocess.STDOUT:
                fd = stdio[1]
            elif given == subprocess.PIPE:
                read_end, fd = os.pipe()
                stack.callback(os.close, fd)
                pipes[name] = open(read_end, "rb", buffering=0)  # noqa: SIM115 - the process's
            else:
                fd = given if isinstance(given, int) else given.fileno()
            stdio.append(fd)
        yield stdio, pipes


class _Shared:
    """Templates and guardian of an application that has no pool; as long as its process."""

    def __init__(self) -> None:
        self.guardian = Guardian("")
        self.templates = Templates(self.guardian.add, self.guardian.remove)
        self._pid = os.getpid()
        atexit.register(self._close)

    def _close(self) -> None:
        # The guardian stays for the kernels that are still there, and ends them.
        if os.getpid() == self._pid:
            self.templates.close()


_shared: list[_Shared] = []
_lock = threading.Lock()


def shared_templates() -> _Shared:
    """Those of applications that have no pool: they stay as long as this process."""
    with _lock:
        if not _shared or _shared[-1]._pid != os.getpid():
            _shared.append(_Shared())
        return _shared[-1]


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A forked child must neither use what is its parent's nor, by forgetting it, close it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
