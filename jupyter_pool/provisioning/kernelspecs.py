"""Kernelspecs: checked by name, and the one that this package can install."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from jupyter_pool import kernel
from jupyter_pool.errors import InvalidRequest

#: The name of the kernelspec that `install` writes, and how front ends show it.
INSTANT, INSTANT_TITLE = "python3-instant", "Python 3 (instant)"
#: The entry point of `fork.ForkProvisioner`.
PROVISIONER = "jupyter-pool-fork"


def install(
    *, user: bool = True, prefix: str | None = None, preload: Sequence[str] = ()
) -> tuple[Path, str]:
    """Install a kernelspec for the pool's own kernel from a fork server, for any Jupyter application.

    Parameters
    ----------
    user, prefix
        Where: for this user, or under a prefix such as `sys.prefix`.
    preload
        Modules that each kernel has from its start.

    Returns
    -------
    tuple
        Its folder and its name.
    """
    spec = {
        "argv": kernel.command(preload),
        "display_name": INSTANT_TITLE,
        "language": "python",
        "interrupt_mode": "signal",
        "metadata": {
            "supported_encryption": "curve",
            "kernel_provisioner": {"provisioner_name": PROVISIONER},
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
        where = KernelSpecManager().install_kernel_spec(
            folder, INSTANT, user=user and prefix is None, prefix=prefix
        )
    return Path(where), INSTANT


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
