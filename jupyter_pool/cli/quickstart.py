"""`jupyter pool quickstart`: the quickstart notebook in JupyterLab."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Bool, Int

from jupyter_pool import __version__

from .command import Command, is_installed

NOTEBOOK = "quickstart.ipynb"

# What the extra `lab` brings, as modules: what the quickstart cannot do without.
NEEDED = {
    "jupyterlab": "jupyterlab",
    "matplotlib": "matplotlib",
    "pandas": "pandas",
    "sklearn": "scikit-learn",
}


def find_notebook() -> Path:
    """The quickstart notebook as it was shipped.

    A wheel has it inside the package, a source tree (and so an editable install) beside it.

    Raises
    ------
    FileNotFoundError
        In neither place: the installation is damaged.
    """
    package = Path(__file__).parents[1]
    places = (package / "notebooks" / NOTEBOOK, package.parent / "notebooks" / NOTEBOOK)
    for path in places:
        if path.is_file():
            return path
    looked = " and ".join(str(path) for path in places)
    raise FileNotFoundError(f"no {NOTEBOOK} in this installation; looked at {looked}")


def copy_notebook(folder: Path) -> str:
    """Put the quickstart into `folder`, unless a file of that name is there.

    Returns
    -------
    str
        A sentence that says what was done. An existing file is never touched, whatever is in it.

    Raises
    ------
    OSError
        The folder cannot be written to.
    """
    source, target = find_notebook(), folder / NOTEBOOK
    if not target.exists():
        # Not copyfile: it must not overwrite a file that appears at this very moment.
        with source.open("rb") as reader, target.open("xb") as writer:
            shutil.copyfileobj(reader, writer)
        return f"Copied {NOTEBOOK} to {folder}"
    if target.read_bytes() == source.read_bytes():
        return f"{NOTEBOOK} is already in {folder}"
    return (
        f"{NOTEBOOK} in {folder} differs from the one shipped with jupyter_pool {__version__} "
        "(changed, or from another version).\n"
        "Opening yours; nothing was overwritten. Rename it to get a fresh copy next time."
    )


class QuickstartApp(Command):
    """Copies the notebook, then becomes JupyterLab."""

    name = "jupyter-pool-quickstart"
    description = f"""Open the quickstart notebook in JupyterLab.

    Copies {NOTEBOOK} into the current folder (an existing one is left as it is) and starts
    JupyterLab on it. Stop JupyterLab with Ctrl-C. Anything after `--` is passed on to it.
    """
    option_description = ""
    examples = (
        "jupyter pool quickstart\n"
        "jupyter pool quickstart --no-browser --port=9999\n"
        "jupyter pool quickstart -- --ServerApp.ip=0.0.0.0"
    )
    flags: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # declared on the instance upstream
        "no-browser": (
            {"QuickstartApp": {"open_browser": False}},
            "Print JupyterLab's address instead of opening a browser on it.",
        )
    }
    aliases: ClassVar[dict[str, Any]] = {"port": "QuickstartApp.port"}  # type: ignore[misc]

    open_browser = Bool(True, help="Open a web browser on the notebook.").tag(config=True)
    port = Int(
        None,
        allow_none=True,
        help="The port for JupyterLab; 0 lets the system choose. Default: 8888, or the next free one.",
    ).tag(config=True)

    def start(self) -> None:
        """Copy, say so, and hand the process over to JupyterLab; returns only by SystemExit."""
        super().start()
        missing = [name for module, name in NEEDED.items() if not is_installed(module)]
        if missing:
            sys.exit(
                f"The quickstart needs {', '.join(missing)}, not installed here. To get all of it:\n"
                f'  "{sys.executable}" -m pip install "jupyter-pool[lab]"'
            )
        try:
            report = copy_notebook(Path.cwd())
        except OSError as error:
            sys.exit(f"Cannot put {NOTEBOOK} into {Path.cwd()}: {error}")
        print(report, flush=True)
        command = self.lab_command()
        # Replacing this process gives JupyterLab the terminal and its signals.
        os.execv(command[0], command)

    def lab_command(self) -> list[str]:
        """The command line for the JupyterLab of this interpreter, on the notebook in this folder."""
        # As the default address, not as a file to open: so the address that is printed has it too.
        command = [sys.executable, "-m", "jupyterlab", f"--LabApp.default_url=/lab/tree/{NOTEBOOK}"]
        if not self.open_browser:
            command.append("--no-browser")
        if self.port is not None:
            command.append(f"--ServerApp.port={self.port}")
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # JupyterLab refuses root without it; in a container there often is nobody else.
            command.append("--allow-root")
        return [*command, *self.extra_args]
