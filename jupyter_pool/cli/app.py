"""What `jupyter pool` runs: it finds the command, and imports no other."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar

from .command import MISUSE, Command


class PoolApp(Command):
    """What `jupyter pool` runs; all work is in the subcommands."""

    name = "jupyter-pool"
    description = "jupyter_pool: run any notebook cell on another kernel."
    subcommand_description = (
        "Run one as `jupyter pool NAME`; `jupyter pool NAME --help` explains it."
    )
    # By name: they are imported when they are run.
    subcommands: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # declared on the instance upstream
        "quickstart": (
            "jupyter_pool.cli.quickstart.QuickstartApp",
            "Open the quickstart notebook in JupyterLab.",
        ),
        "exec": (
            "jupyter_pool.cli.execute.ExecApp",
            "Run scripts and notebooks on the workers of a pool.",
        ),
        "doctor": (
            "jupyter_pool.cli.doctor.DoctorApp",
            "Check this installation, and say how to mend what is wrong.",
        ),
        "bench": (
            "jupyter_pool.cli.bench.BenchApp",
            "Measure the pool against its peers.",
        ),
        "kernelspec": (
            "jupyter_pool.cli.kernelspec.KernelspecApp",
            'Install the kernel "Python 3 (instant)" for JupyterLab.',
        ),
    }

    def start(self) -> None:
        """Run the subcommand; without one, say which there are and exit with 2, as for any misuse."""
        super().start()
        if self.extra_args:
            asked = self.extra_args[0]
            close = difflib.get_close_matches(asked, self.subcommands, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            self.misuse(f"no command {asked!r}; it has: {', '.join(self.subcommands)}.{hint}")
        self.print_help()
        self.exit(MISUSE)
