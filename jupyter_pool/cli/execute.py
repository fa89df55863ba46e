"""`jupyter pool exec`: scripts and notebooks, each on a worker that has seen nothing of the others."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Bool, TraitError, Unicode, validate

from jupyter_pool._quantities import parse_time
from jupyter_pool.config import PoolConfig
from jupyter_pool.errors import InvalidRequest, PoolError

from .command import Command, KernelPool
from .printing import Printer
from .sources import BadSource, Notebook, Script, language_of, read

__all__ = ["ExecApp"]


class ExecApp(Command):
    """Runs files on a pool."""

    name = "jupyter-pool-exec"
    description = """Run scripts and notebooks on the workers of a pool: jupyter pool exec FILE…

    Every file runs by itself on any free worker, and finds nothing of what another one did. What
    they print appears as it comes, each line behind the name of its file.

    A script runs as `python FILE` runs it: __name__ is "__main__", __file__ and sys.argv are set, the
    working folder is this one, imports look in the script's folder first, tracebacks show its lines.
    What follows `--` is in every script's sys.argv. `-` is a script from standard input. Nobody can
    type into a worker: input() raises an error.

    A notebook's code cells run in order on one worker, in the notebook's folder, until one raises
    (a cell tagged raises-exception may). Of rich outputs the text is shown.

    With a kernel other than the pool's own (--kernel), everything runs in this folder; if it is not
    one for Python, a script is sent to it as a single cell.

    Exit code: 0 if all went well, 1 if any file failed, 2 if nothing was run because something is
    wrong with what was asked for, 130 after Ctrl-C.
    """
    examples = (
        "jupyter pool exec a.py b.py report.ipynb\n"
        "jupyter pool exec -n 8 --timeout=10m sweep/*.py\n"
        "jupyter pool exec train.py -- --epochs 3\n"
        "echo 'print(6 * 7)' | jupyter pool exec -\n"
        "jupyter pool exec --write=done reports/*.ipynb"
    )
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]  # declared on the instance upstream
        ("q", "quiet"): (
            {"ExecApp": {"quiet": True}},
            "Show nothing of what the files print; only errors, and the summary.",
        ),
    }
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        ("n", "workers"): "KernelPool.size",
        ("t", "timeout"): "ExecApp.timeout",
        "retries": "ExecApp.retries",
        "kernel": "KernelPool.kernel_name",
        "isolation": "KernelPool.isolation",
        "write": "ExecApp.write",
        "config": "JupyterApp.config_file",
    }
    classes: ClassVar[list[Any]] = [KernelPool]  # type: ignore[misc]

    timeout = Unicode(
        "none",
        help="""How long each file may run: 90 (seconds), 10m, 2h. Then it is interrupted, and has
        failed. Default: no limit, unless KernelPool.operation_timeout is set.""",
    ).tag(config=True, metavar="TIME")
    retries = Unicode(
        "0",
        help="Run a file again so often if its worker dies under it; never if its code raises.",
    ).tag(config=True, metavar="N")
    quiet = Bool(False, help="Show nothing of what the files print.").tag(config=True)
    write = Unicode(
        "",
        help="""A folder for copies of the notebooks with their new outputs, also of those that
        failed. The originals stay as they are.""",
    ).tag(config=True, metavar="FOLDER")

    _arguments: Sequence[str] = ()

    @validate("timeout")
    def _check_timeout(self, proposal: Any) -> str:
        try:
            seconds = parse_time(proposal["value"])
        except InvalidRequest as error:
            raise TraitError(f"--timeout={proposal['value']}: {error}") from None
        if seconds == 0:
            raise TraitError("--timeout takes a time of more than 0")
        return str(proposal["value"])

    @validate("retries")
    def _check_retries(self, proposal: Any) -> str:
        if not str(proposal["value"]).isdecimal():
            raise TraitError(
                f"--retries={proposal['value']}: it takes a whole number of at least 0"
            )
        return str(proposal["value"])

    def parse_command_line(self, argv: Any = None) -> None:
        """What follows ``--`` is the scripts'."""
        argv = list(sys.argv[1:] if argv is None else argv)
        if "--" in argv:
            at = argv.index("--")
            argv, self._arguments = argv[:at], argv[at + 1 :]
        super().parse_command_line(argv)

    def start(self) -> None:
        """Check everything, run it, say how it went; returns only by SystemExit."""
        super().start()
        if not self.extra_args:
            self.misuse("which file? Give scripts, notebooks, or - for standard input")
        try:
            config = PoolConfig.build()
            language = language_of(config.kernel_name)
        except PoolError as error:
            self.misuse(str(error))
        except KeyError as error:  # NoSuchKernel
            self.misuse(_no_kernel(str(error.args[0])))
        try:
            files = read(self.extra_args, language)
        except BadSource as problem:
            self.misuse(str(problem))
        targets = self._targets(files)
        self.hush()
        sys.exit(self._run(config, language, files, targets))

    def _run(
        self,
        config: PoolConfig,
        language: str,
        files: Sequence[Script | Notebook],
        targets: Sequence[tuple[Notebook, Path]],
    ) -> int:
        # They take a while to import: not before it is clear that there is something to run.
        from jupyter_pool.async_pool import AsyncKernelPool

        from .running import Limits, Runner, summary

        for stream in (sys.stdout, sys.stderr):
            # What cannot be written in the terminal's encoding must not end the run.
            getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
        printer = Printer([file.label for file in files], quiet=self.quiet)
        limits = Limits(self._time_limit(config), int(self.retries))
        runner = Runner(files, self._arguments, limits, printer, language)
        began = time.monotonic()
        try:
            pool = AsyncKernelPool(size=min(config.size, len(files)))
        except PoolError as error:
            self.misuse(str(error))
        runner.run(pool)
        unsaved = self._save(targets)
        interrupted = runner.signum is not None
        failed = unsaved or any(outcome.state != "done" for outcome in runner.outcomes)
        text = summary(runner.outcomes, time.monotonic() - began, interrupted=interrupted)
        for problem in unsaved:
            printer.summary(problem, bad=True)
        printer.summary(text, bad=bool(failed))
        if runner.signum is not None:
            return 128 + runner.signum
        if printer.reader_gone:
            return 128 + signal.SIGPIPE
        return 1 if failed else 0

    def _time_limit(self, config: PoolConfig) -> float | None:
        limit = parse_time(self.timeout)
        if limit is None and "operation_timeout" in self.config.get("KernelPool", {}):
            limit = config.operation_timeout
        return limit

    def _targets(self, files: Sequence[Script | Notebook]) -> list[tuple[Notebook, Path]]:
        """Where to save which notebook."""
        if not self.write:
            return []
        folder = Path(self.write)
        found: dict[Path, Notebook] = {}
        for file in files:
            if not isinstance(file, Notebook):
                continue
            target = folder / os.path.basename(file.path)
            if target in found:
                self.misuse(f"--write: {found[target].label} and {file.label} have the same name")
            if os.path.realpath(target) == os.path.realpath(file.path):
                self.misuse(f"--write={self.write}: {file.label} itself is there")
            found[target] = file
        if not found:
            self.misuse(f"--write={self.write}: there is no notebook among the files")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self.misuse(f"--write={self.write}: {error.strerror or error}")
        return [(file, target) for target, file in found.items()]

    @staticmethod
    def _save(targets: Sequence[tuple[Notebook, Path]]) -> list[str]:
        """Write the notebooks; what could not be written."""
        problems = []
        for file, target in targets:
            text = json.dumps(file.content, indent=1, ensure_ascii=False) + "\n"
            try:
                target.write_text(text, encoding="utf-8")
            except OSError as error:
                problems.append(f"{target} could not be written: {error.strerror or error}")
        return problems


def _no_kernel(name: str) -> str:
    """The message about a kernel that is not installed."""
    from jupyter_pool.provisioning.kernelspecs import check_kernel_name

    try:
        check_kernel_name(name)
    except InvalidRequest as error:
        return str(error)
    return f"kernel {name!r}: cannot be used"
