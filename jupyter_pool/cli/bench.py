"""`jupyter pool bench`: the benchmark table on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from traitlets import Bool, Int, List, Unicode

from .command import Command

__all__ = ["BenchApp"]

#: The exit status of a command that Ctrl-C has ended, as shells have it.
_INTERRUPTED = 130


class BenchApp(Command):
    """Measures, prints the table, writes the JSON."""

    name = "jupyter-pool-bench"
    description = """Measure the pool against other ways to run Python in other processes.

    Those that are installed: concurrent.futures' ProcessPoolExecutor, loky, joblib, ipyparallel,
    dask.distributed, and stock ipykernel kernels with jupyter_client. Both sides of each row are
    measured in turn, in one run, and results are checked. The table shows medians, below them the
    quartiles; the ratio is the pool's time divided by the peer's, so less is better. It takes some
    minutes, wants an idle machine, and 2 GB of memory. Ctrl-C ends it with what there is.

    Exit code: 0 if all was measured, whatever the figures are, 1 if something failed, 2 if nothing
    was run because something is wrong with what was asked for, 130 after Ctrl-C.
    """
    examples = (
        "jupyter pool bench\n"
        "jupyter pool bench --quick --only submit map --peers processpool loky\n"
        "jupyter pool bench --json figures.json --markdown"
    )
    flags: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # declared on the instance upstream
        "quick": (
            {"BenchApp": {"quick": True}},
            "Little work in few rounds: to see that it runs, in about a minute.",
        ),
        "markdown": ({"BenchApp": {"markdown": True}}, "Print the table as Markdown."),
    }
    aliases: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "only": "BenchApp.only",
        "peers": "BenchApp.peers",
        "workers": "BenchApp.workers",
        "rounds": "BenchApp.rounds",
        "json": "BenchApp.json",
    }

    only = List(
        Unicode(),
        help="Benchmarks to run: submit, submit-loop, map, map-best, in-flight, argument, result, "
        "put, cell, idle, start. Default: all.",
    ).tag(config=True)
    peers = List(
        Unicode(),
        help="Whom to measure against: processpool, loky, joblib, ipyparallel, dask, "
        "jupyter_client, pool (the pool itself, for `idle`). Default: all that are installed.",
    ).tag(config=True)
    workers = Int(2, help="How many workers each side has.").tag(config=True)
    rounds = Int(
        None, allow_none=True, help="Pairs of measurements. Default: each benchmark's own number."
    ).tag(config=True)
    json = Unicode("", help="A file for the figures, with every round, as JSON.").tag(config=True)
    quick = Bool(False, help="Little work in few rounds.").tag(config=True)
    markdown = Bool(False, help="Print the table as Markdown.").tag(config=True)

    def parse_command_line(self, argv: Any = None) -> None:
        """Several words may follow `--only` and `--peers`, which traitlets would have repeated."""
        super().parse_command_line(_repeat(sys.argv[1:] if argv is None else argv))

    def start(self) -> None:
        """Run the benchmarks; progress goes to stderr, the table to stdout."""
        super().start()
        try:
            self._run()
        except KeyboardInterrupt:  # before it began, or for the second time
            self.exit(_INTERRUPTED)

    def _run(self) -> None:
        from jupyter_pool.bench.runner import run

        if self.extra_args:
            self.misuse(f"it takes options only, not {self.extra_args[0]!r}")
        if self.json:
            self._check_writable(Path(self.json))
        try:
            report = run(
                only=self.only,
                against=self.peers,
                workers=self.workers,
                quick=self.quick,
                rounds=self.rounds,
                progress=lambda text: print(text, file=sys.stderr, flush=True),
            )
        except ValueError as error:
            self.misuse(str(error))
        print(report.to_markdown() if self.markdown else report.to_text(), flush=True)
        if self.json:
            report.save(self.json)
            print(f"Wrote {self.json}", file=sys.stderr)
        if report.interrupted:
            self.exit(_INTERRUPTED)
        self.exit(1 if report.failures or not report.figures else 0)

    def _check_writable(self, path: Path) -> None:
        """Now, rather than after minutes of measuring."""
        existed = path.exists()
        try:
            path.open("a").close()
        except OSError as error:
            self.misuse(f"cannot write {path}: {error.strerror}")
        if not existed:
            path.unlink()


def _repeat(argv: Iterable[str]) -> list[str]:
    """``--only a b`` as ``--only=a --only=b``."""
    words: list[str] = []
    option = ""
    for word in argv:
        if word in ("--only", "--peers"):
            option = word
            words.append(word)
        elif option and not word.startswith("-"):
            if words[-1] == option:
                words.pop()
            words.append(f"{option}={word}")
        else:
            option = ""
            words.append(word)
    return words
