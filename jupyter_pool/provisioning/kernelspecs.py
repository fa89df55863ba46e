"""Kernelspecs by name."""

from __future__ import annotations

import difflib

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from jupyter_pool.errors import InvalidRequest


def check_kernel_name(name: str | None) -> None:
    """Make sure that a kernelspec of this name is installed; None is the pool's own.

    Raises
    ------
    InvalidRequest
        It is not; the message lists those that are.
    """
    if name is None:
        return
    manager = KernelSpecManager()
    try:
        manager.get_kernel_spec(name)
    except NoSuchKernel:
        names = sorted(manager.find_kernel_specs())
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InvalidRequest(
            f"kernel_name={name!r}: no such kernel is installed.{hint} Installed: "
            f"{', '.join(names) or 'none'}; None is the pool's own Python kernel",
            context={"option": "kernel_name", "value": name, "allowed": names},
        ) from None
