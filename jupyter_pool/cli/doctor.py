"""`jupyter pool doctor`: checks an installation for real, and says how to mend what is wrong."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from traitlets import Bool

from jupyter_pool import __version__
from jupyter_pool.config import PoolConfig
from jupyter_pool.errors import PoolError

from . import installation
from .command import Command, KernelPool
from .findings import BAD, Finding, bad

__all__ = ["DoctorApp", "bounded"]

#: How long a check may take beyond the start of a worker, in seconds.
PATIENCE = 30.0

_MARKS = {"ok": "✓", "bad": "✗", "note": "–"}
_PLAIN_MARKS = {"ok": "ok  ", "bad": "BAD ", "note": "-   "}


class DoctorApp(Command):
    """Runs the checks."""

    name = "jupyter-pool-doctor"
    description = """Check this installation, and say how to mend what is wrong.

    Nothing is taken for granted: workers are started, code runs on them, and one is orphaned. Each
    line begins with ✓ (in order), ✗ (broken; the next line says what to do) or – (good to know).

    Exit code: 0, or 1 if anything is broken.
    """
    examples = (
        "jupyter pool doctor\n"
        "jupyter pool doctor --kernel=ir\n"
        "jupyter pool doctor --KernelPool.size=100 --KernelPool.preload=torch\n"
        "jupyter pool doctor --json"
    )
    flags: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]  # declared on the instance upstream
        "json": (
            {"DoctorApp": {"as_json": True}},
            "Print a JSON object: version, ok, and checks, a list of name, state, text and mend.",
        ),
    }
    aliases: ClassVar[dict[Any, Any]] = {  # type: ignore[misc]
        ("n", "workers"): "KernelPool.size",
        "kernel": "KernelPool.kernel_name",
        "config": "JupyterApp.config_file",
    }
    classes: ClassVar[list[Any]] = [KernelPool]  # type: ignore[misc]

    as_json = Bool(False, help="Print JSON.").tag(config=True)

    def start(self) -> None:
        """Check, and print each finding as it comes; returns only by SystemExit."""
        super().start()
        if self.extra_args:
            self.misuse(f"it takes no files: {' '.join(self.extra_args)}")
        try:
            config = PoolConfig.build()
        except PoolError as error:
            self.misuse(str(error))
        self.hush()
        found = []
        for finding in self._findings(config):
            found.append(finding)
            if not self.as_json:
                _show(finding)
        broken = [finding for finding in found if finding.state == BAD]
        if self.as_json:
            checks = [finding.as_dict() for finding in found]
            print(
                json.dumps({"version": __version__, "ok": not broken, "checks": checks}, indent=1)
            )
        else:
            names = ", ".join(finding.name for finding in broken)
            print(f"{len(broken)} of {len(found)} broken: {names}" if broken else "All in order.")
        sys.stdout.flush()
        if any(finding.hangs for finding in broken):
            # What hangs would keep this process too; the guardian cleans up behind it.
            os._exit(1)
        sys.exit(1 if broken else 0)

    @staticmethod
    def _findings(config: PoolConfig) -> Iterator[Finding]:
        for name, check in installation.CHECKS:
            yield from bounded(name, lambda check=check: check(config), PATIENCE)  # type: ignore[misc]
        # It imports the engine: not before the packages have been looked at.
        from .live import LiveChecks

        live = LiveChecks(config)
        limit = PATIENCE + 2 * config.start_timeout
        try:
            for name, live_check in live.checks():
                yield from bounded(name, live_check, limit)
        finally:
            yield from bounded("closing", live.close, limit)


def bounded(name: str, check: Callable[[], Finding | None], seconds: float) -> Iterator[Finding]:
    """What a check finds, if anything; one that fails or takes too long is broken itself."""
    answer: queue.SimpleQueue[Finding | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put(check())
        except BaseException as error:  # noqa: BLE001 - it is the finding
            answer.put(error)

    threading.Thread(target=run, name=f"jupyter_pool doctor: {name}", daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        yield bad(name, f"no answer within {seconds:g} s", "see what blocks it", hangs=True)
        return
    if isinstance(found, BaseException):
        yield bad(name, f"{type(found).__name__}: {found}", "see the message")
    elif found is not None:
        yield found


def _show(finding: Finding) -> None:
    lines = [f"{_MARKS[finding.state]} {finding.name}: {finding.text}"]
    lines += [f"  → {line}" for line in finding.mend.splitlines()]
    text = "\n".join(lines)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        for state, mark in _MARKS.items():
            text = text.replace(mark, _PLAIN_MARKS[state]) if finding.state == state else text
        text = text.replace("→", "->").encode("ascii", "replace").decode()
    print(text, flush=True)
