"""A real JupyterLab on the quickstart notebook, started as a user starts it."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

# A cold start of JupyterLab takes 2 s here; a loaded CI machine may need many times that.
START_DEADLINE = 90.0
STOP_DEADLINE = 30.0

_ADDRESS = re.compile(r"(http://127\.0\.0\.1:(\d+)/lab/tree/quickstart\.ipynb\?token=(\w+))")

# No question to answer and no news from the network, and every cell in the page however far down:
# a test looks at all of them.
_DISABLED = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
_SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}


class QuickstartServer:
    """`jupyter pool quickstart --no-browser` in `folder`; a context manager.

    Attributes
    ----------
    url : str
        The address it printed, with its token.
    token : str
        The token alone.
    report : str
        What the command printed before JupyterLab took over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.token = ""
        self.report = ""
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._seen: list[str] = []

    def __enter__(self) -> QuickstartServer:
        self._configure()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_pool.cli", "quickstart", "--no-browser", "--port=0"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="jupyterlab output")
        self._reader.start()
        try:
            self._await_address()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def output(self) -> str:
        """Everything the server printed so far."""
        while not self._lines.empty():
            self._seen.append(self._lines.get())
        return "".join(self._seen)

    @staticmethod
    def _configure() -> None:
        config = Path(os.environ["JUPYTER_CONFIG_DIR"])
        # What an earlier test had open, JupyterLab would open again.
        shutil.rmtree(config / "lab" / "workspaces", ignore_errors=True)
        (config / "labconfig").mkdir(exist_ok=True)
        (config / "labconfig" / "page_config.json").write_text(json.dumps(_DISABLED))
        for name, values in _SETTINGS.items():
            path = config / "lab" / "user-settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line)

    def _await_address(self) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, min(1.0, deadline - time.monotonic())))
            except queue.Empty:
                if not self._reader.is_alive() or time.monotonic() > deadline:
                    raise AssertionError(f"JupyterLab did not start:\n{self.output()}") from None
                continue
            self._seen.append(line)
            if not self.report:
                self.report = line.strip()
            if found := _ADDRESS.search(line):
                self.url, port, self.token = found.groups()
                self._await_listener(int(port), deadline)
                return

    def _await_listener(self, port: int, deadline: float) -> None:
        """JupyterLab prints its address a moment before it listens there."""
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            except ConnectionRefusedError:
                if not self._reader.is_alive() or time.monotonic() > deadline:
                    raise
                self._reader.join(timeout=0.02)
            else:
                return

    def _stop(self) -> None:
        """Ask it to go, as a service manager does; it ends its kernels first."""
        descendants = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            for process in descendants:
                if process.is_running():
                    process.kill()
            self._process.kill()
            self._process.wait(STOP_DEADLINE)
            raise AssertionError(f"JupyterLab did not stop:\n{self.output()}") from None
        finally:
            self._reader.join(STOP_DEADLINE)
