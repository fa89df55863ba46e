"""Kernelspecs for a test, and kernels that misbehave."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SCRIPTED_KERNEL = Path(__file__).with_name("scripted_kernel.py")


@contextmanager
def kernelspec(name: str, argv: Sequence[str], **spec: Any) -> Iterator[str]:
    """Have a kernelspec of that name installed; the context's value is the name."""
    folder = Path(os.environ["JUPYTER_DATA_DIR"]) / "kernels" / name
    folder.mkdir(parents=True)
    whole = {"argv": list(argv), "display_name": name, "language": "text", **spec}
    (folder / "kernel.json").write_text(json.dumps(whole))
    try:
        yield name
    finally:
        shutil.rmtree(folder)


def python(code: str) -> list[str]:
    """The argv of a "kernel" that is just some Python code; sys.argv[1] is its connection file."""
    return [sys.executable, "-I", "-S", "-c", code, "{connection_file}"]


def scripted(behaviour: str, folder: Path) -> list[str]:
    """The argv of a real kernel that behaves as `scripted_kernel.py` says."""
    return [
        sys.executable,
        str(SCRIPTED_KERNEL),
        "-f",
        "{connection_file}",
        f"--ScriptedKernel.behaviour={behaviour}",
        f"--ScriptedKernel.folder={folder}",
    ]
