"""`jupyter pool kernelspec`: the pool's own kernel for other Jupyter applications."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from traitlets import Bool, List, Unicode

from .command import Command, is_installed


class InstallKernelspecApp(Command):
    """Installs the kernelspec of the pool's own kernel."""

    name = "jupyter-pool-kernelspec-install"
    description = """Install the kernel "Python 3 (instant)".

    It is this Python's own, with this environment's packages, but it comes out of a process that
    has it ready: a new notebook is ready at once. Any Jupyter application can use it. Without fork
    servers (they need Linux) it starts as any other kernel.
    """
    option_description = ""
    examples = (
        "jupyter pool kernelspec install --sys-prefix\n"
        "jupyter pool kernelspec install --user --preload=numpy --preload=pandas"
    )
    flags: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "user": (
            {"InstallKernelspecApp": {"sys_prefix": False}},
            "Install for this user (the default).",
        ),
        "sys-prefix": (
            {"InstallKernelspecApp": {"sys_prefix": True}},
            "Install into this Python's environment.",
        ),
    }
    aliases: ClassVar[dict[str, Any]] = {"preload": "InstallKernelspecApp.preload"}  # type: ignore[misc]

    sys_prefix = Bool(False, help="Install into this Python's environment.").tag(config=True)
    preload = List(
        Unicode(), help="A module that each kernel has from its start; may be repeated."
    ).tag(config=True)

    def start(self) -> None:
        """Install it and say where."""
        super().start()
        from jupyter_pool.provisioning.kernelspecs import INSTANT_TITLE, install

        missing = [name for name in self.preload if not is_installed(name.partition(".")[0])]
        if missing:
            sys.exit(f"Cannot preload {', '.join(missing)}: not installed here")
        prefix = sys.prefix if self.sys_prefix else None
        try:
            folder, name = install(prefix=prefix, preload=self.preload)
        except OSError as error:
            sys.exit(f"Cannot install the kernelspec: {error}")
        print(f"Installed {INSTANT_TITLE!r} as {name} in {folder}")
        print(f"To remove it: jupyter kernelspec remove {name}")


class KernelspecApp(Command):
    """What `jupyter pool kernelspec` runs."""

    name = "jupyter-pool-kernelspec"
    description = "The kernelspec of the pool's own kernel, for any Jupyter application."
    subcommand_description = "`jupyter pool kernelspec NAME --help` explains it."
    subcommands: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "install": (InstallKernelspecApp, 'Install the kernel "Python 3 (instant)".'),
    }

    def start(self) -> None:
        """Run the subcommand; without one, say which there are."""
        super().start()
        self.print_help()
        self.exit(2)
