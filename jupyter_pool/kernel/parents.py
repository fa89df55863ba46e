"""Which message a call's output belongs to, told to all who show something.

ipykernel keeps it in a context variable for each of them, with an attribute beside that for threads,
which have no context of the request's. To set seven variables, each of which copies a part of the
context, costs a twentieth of a call. So calls run in a context in which these are not set: then the
attributes count, and they are set at once. Nothing of a call runs while another one is served.

Leans on `_parent_header_global` of ipykernel's shell, display hook, publisher and streams, and on the
kernel's `_shell_context`, where it looks for `_shell_parent` and `_shell_parent_ident` when those are
not set (checked on ipykernel 7.4).
"""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_pool.kernel.kernel import PoolKernel

__all__ = ["CallParent"]


class CallParent:
    """Sets the parent of calls, in contexts of its own making."""

    def __init__(self, kernel: PoolKernel, context: contextvars.Context) -> None:
        self._kernel: Any = kernel
        self._shell = kernel.shell
        self._streams: tuple[Any, ...] = (kernel._stdout, kernel._stderr)
        owners: tuple[Any, ...] = (
            self._shell,
            self._shell.displayhook,
            self._shell.display_pub,
            *self._streams,
        )
        variables = {owner._parent_header for owner in owners}
        variables |= {self._kernel._shell_parent, self._kernel._shell_parent_ident}
        self._context = contextvars.Context()
        for variable, value in context.items():
            if variable not in variables:
                self._context.run(variable.set, value)

    def new_context(self) -> contextvars.Context:
        """A context for one call."""
        return self._context.copy()

    def set(self, idents: list[bytes], message: dict[str, Any]) -> None:
        """From here on, what is shown in such a context belongs to this message."""
        kernel, shell = self._kernel, self._shell
        kernel._shell_context = {
            kernel._shell_parent: message,
            kernel._shell_parent_ident: idents,
        }
        shell._parent_header_global = message
        header = message["header"]
        shell.displayhook._parent_header_global = header
        shell.display_pub._parent_header_global = header
        for stream in self._streams:
            stream._parent_header_global = header
