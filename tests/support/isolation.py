"""Folders of its own for a test session."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


class Isolation:
    """A home for one test session: no user's configuration gets in, nothing gets out."""

    def __init__(self) -> None:
        # Short, because sockets live below it and their paths end at some 100 bytes.
        self.root = Path(
            tempfile.mkdtemp(prefix="jpt-", dir="/tmp" if os.name == "posix" else None)
        )
        self.temp = self.root / "tmp"
        self.runtime = self.root / "run"
        self.data = self.root / "data"
        folders = {
            "TMPDIR": self.temp,
            "JUPYTER_RUNTIME_DIR": self.runtime,
            "JUPYTER_DATA_DIR": self.data,
            "JUPYTER_CONFIG_DIR": self.root / "config",
            "IPYTHONDIR": self.root / "ipython",
            # Its font cache takes seconds to build: once for all tests.
            "MPLCONFIGDIR": self.root / "matplotlib",
        }
        self._before = dict(os.environ)
        self._tempdir = tempfile.tempdir
        # pytest's own folders stay where they always are, to be looked at after a failure.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        for name, path in folders.items():
            path.mkdir(mode=0o700)
            os.environ[name] = str(path)
        # The last one: IPython warns if another environment than the one in use is active.
        for name in (
            "JUPYTER_PATH",
            "JUPYTER_CONFIG_PATH",
            "MPLBACKEND",
            "PYTHONSTARTUP",
            "VIRTUAL_ENV",
        ):
            os.environ.pop(name, None)
        os.environ["JUPYTER_PLATFORM_DIRS"] = (
            "1"  # else jupyter_core warns, and warnings are errors
        )
        # An npm on the path, which JupyterLab's server asks where packages are, leaves its cache.
        os.environ["NODE_DISABLE_COMPILE_CACHE"] = "1"
        tempfile.tempdir = None

    def close(self) -> None:
        tempfile.tempdir = self._tempdir
        os.environ.clear()
        os.environ.update(self._before)
        shutil.rmtree(self.root, ignore_errors=True)
