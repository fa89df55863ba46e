"""A real JupyterLab on the quickstart notebook, started as a user starts it, and desks on it."""

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
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import nbformat
import psutil

#: Both are there on the one server, at addresses of their own.
FrontEnd = Literal["lab", "notebook7"]

# A cold start of JupyterLab takes 2 s here; a loaded CI machine may need many times that.
START_DEADLINE = 90.0
STOP_DEADLINE = 30.0

_ADDRESS = re.compile(r"(http://127\.0\.0\.1:(\d+)/lab/tree/quickstart\.ipynb\?token=(\w+))")

# Where one was that had stopped serving, but not ended: on a busy machine anyio (4), by which a server reads
# files, may leave a thread that nobody tells to end, and the interpreter waits for it.
_WAITS_FOR_ANYIO = re.compile(
    r"Fatal Python error: Aborted(?s:.*)anyio/_backends/_asyncio\.py(?s:.*)"
    r"most recent call first\):\n  File \S+threading\.py\S+ line \d+ in _shutdown\n"
)

# No question to answer and no news from the network, and every cell in the page however far down:
# a test looks at all of them.
_DISABLED = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
_SETTINGS: dict[str, dict[str, Any]] = {
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

    What tests that share it change of its settings and layout ends with `clear`.
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
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
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

    def clear(self) -> None:
        """End all kernels, and forget what was open and what was set."""
        for kernel in self._ask("GET", "kernels"):
            self._ask("DELETE", f"kernels/{kernel['id']}")
        self._configure()

    def _ask(self, method: str, what: str) -> Any:
        request = urllib.request.Request(
            f"{self.url.partition('/lab/')[0]}/api/{what}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=STOP_DEADLINE) as answer:
            return json.loads(answer.read() or "null")

    @staticmethod
    def _configure() -> None:
        config = Path(os.environ["JUPYTER_CONFIG_DIR"])
        # What an earlier test had open, JupyterLab would open again.
        for changed in ("workspaces", "user-settings"):
            shutil.rmtree(config / "lab" / changed, ignore_errors=True)
        (config / "labconfig").mkdir(exist_ok=True)
        (config / "labconfig" / "page_config.json").write_text(json.dumps(_DISABLED))
        for name, values in _SETTINGS.items():
            set_for_user(f"@jupyterlab/{name}", values)

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
            self._process.send_signal(signal.SIGABRT)  # it says where it was
            self._process.wait(STOP_DEADLINE)
            self._reader.join(STOP_DEADLINE)
            if not _WAITS_FOR_ANYIO.search(self.output()):
                raise AssertionError(f"JupyterLab did not stop:\n{self.output()}") from None
        finally:
            self._reader.join(STOP_DEADLINE)


class Desk:
    """A folder of one test's own on a server that several tests share.

    Parameters
    ----------
    server
        It runs.
    folder
        Below the server's folder.
    front_end
        In which of them `url` opens a notebook.
    """

    def __init__(self, server: QuickstartServer, folder: Path, front_end: FrontEnd) -> None:
        self.server = server
        self.folder = folder
        self.front_end = front_end

    def url(self, name: str) -> str:
        """Where a browser finds this notebook, token and all."""
        base = self.server.url.partition("/lab/")[0]
        path = (self.folder / name).relative_to(self.server.folder).as_posix()
        place = {"lab": "lab/tree", "notebook7": "notebooks"}[self.front_end]
        return f"{base}/{place}/{path}?token={self.server.token}"

    def write(
        self,
        *cells: str,
        name: str = "work.ipynb",
        kernel: str = "python3",
        language: str = "python",
    ) -> None:
        """A notebook with these code cells."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(text) for text in cells]
        )
        notebook.metadata["kernelspec"] = {
            "name": kernel,
            "display_name": kernel,
            "language": language,
        }
        nbformat.write(notebook, self.folder / name)


def set_for_user(plugin: str, values: dict[str, Any]) -> None:
    """Settings as the user has chosen them, from the next page on."""
    home = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab" / "user-settings"
    path = home / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
