"""Optional parts: where they are, or why they are missing and how to get them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

# Under CI an optional part that is missing is a failure: `.ci/run` installs them all.
CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

# A skip whose reason starts so is right even under CI: no package turns one system into another.
PLATFORM = "platform: "


def find_chromium() -> str | None:
    """The browser on this system, or None. CHROMIUM names one that is not on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, names), str(mac)]
    return next((path for path in candidates if path and Path(path).exists()), None)


def find_missing(thing: str) -> str | None:
    """Why `thing` (see the marker `requires`) cannot be used here and how to get it; None if it can."""
    kind, _, name = thing.partition(":")
    if kind == "chromium":
        if find_chromium() is None:
            return "no Chromium on this system; `apt-get install chromium`, or set CHROMIUM to its path"
        return find_missing("module:playwright")
    if kind == "module":
        if importlib.util.find_spec(name) is None:
            return f"the module {name} is not installed; `pip install -e '.[test]'` brings it"
        return None
    if kind == "kernel" and name == "bash":
        if shutil.which("bash") is None:
            return "no bash on this system; install it with the system's package manager"
        return find_missing("module:bash_kernel")
    raise pytest.UsageError(f"requires({thing!r}): not chromium, module:NAME or kernel:bash")
