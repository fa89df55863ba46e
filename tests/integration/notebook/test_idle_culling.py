"""A Jupyter server that ends idle kernels, and a kernel whose background cell runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir
from jupyter_core.utils import ensure_event_loop

from support.conditions import eventually

pytestmark = [pytest.mark.requires("module:jupyter_server"), pytest.mark.slow]

IDLE = 8  # seconds; a slow machine must start the kernel, and the job, within it


class Server:
    """A real Jupyter server."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said"
        options = {
            "ServerApp.port": 0,
            "ServerApp.root_dir": os.fspath(folder),
            "ServerApp.token": "secret",
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
            "MappingKernelManager.cull_idle_timeout": IDLE,
            "MappingKernelManager.cull_interval": 1,
        }
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jupyter_server"),
                    *(f"--{name}={value}" for name, value in options.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            self._url = eventually(self._find_url, "its address", within=60)
        except BaseException:
            self.close()
            raise

    def _find_url(self) -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+/", self._said.read_text())
        return found[0] if found else ""

    def ask(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(
            f"{self._url}api/{path}",
            method=method,
            data=b"{}" if method == "POST" else None,
            headers={"Authorization": "token secret"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def is_up(self) -> bool:
        try:
            self.ask("status")
        except urllib.error.URLError:
            return False
        return True

    def last_activity(self, kernel: str) -> float:
        """Of a kernel, in seconds since the epoch; 0 if the kernel is gone."""
        for told in self.ask("kernels"):
            if told["id"] == kernel:
                text = str(told["last_activity"]).replace("Z", "+00:00")
                return datetime.fromisoformat(text).timestamp()
        return 0.0

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    try:
        eventually(server.is_up, "the server answers", within=60)
        yield server
    finally:
        server.close()


def start(server: Server, *cells: str, greeted: bool = False) -> str:
    """Start a kernel, run cells there, and leave it: its id. `greeted`: a panel has been there."""
    kernel = str(server.ask("kernels", "POST")["id"])
    client = BlockingKernelClient()
    client.load_connection_file(os.path.join(jupyter_runtime_dir(), f"kernel-{kernel}.json"))
    client.start_channels(hb=False)  # a slow machine's heart may miss a beat
    try:
        for code in ("%load_ext jupyter_pool", "%pool_start --size 1;", *cells):
            request = client.execute(code)
            reply = client.get_shell_msg(timeout=60)
            assert reply["parent_header"]["msg_id"] == request
            assert reply["content"]["status"] == "ok"
        if greeted:
            client.control_channel.send(client.session.msg("pool_hello", {"v": 1}))
            hello = client.get_control_msg(timeout=60)
            assert hello["msg_type"] == "pool_hello_reply"
            assert hello["content"]["pools"] == ["default"]
    finally:
        client.stop_channels()
        ensure_event_loop().close()
    return kernel


def is_culled(server: Server, kernel: str) -> None:
    eventually(lambda: server.last_activity(kernel) == 0, "it is culled", within=60)


@pytest.mark.parametrize("greeted", [False, True], ids=["alone", "with a panel"])
def test_a_kernel_is_kept_while_a_job_runs_and_not_longer(
    server: Server, tmp_path: Path, greeted: bool
) -> None:
    gate = os.fspath(tmp_path / "go on")
    # It prints nothing, and nobody is connected.
    job = f"import os, time\nwhile not os.path.exists({gate!r}): time.sleep(0.01)"
    kernel = start(server, f"%%pool_exec -q --bg quiet\n{job}", greeted=greeted)
    began = server.last_activity(kernel)
    eventually(lambda: server.last_activity(kernel) > began + 1.5 * IDLE, "it lives on", within=60)
    (tmp_path / "go on").touch()
    is_culled(server, kernel)


def test_a_kernel_whose_pool_is_idle_is_culled_also_with_a_panel(server: Server) -> None:
    is_culled(server, start(server, greeted=True))


@pytest.mark.parametrize("hold", ["", "--hold none"], ids=["on sufferance", "without limit"])
def test_widgets_that_a_job_has_left_do_not_keep_a_kernel(server: Server, hold: str) -> None:
    code = f"%%pool_exec --bg train {hold}\nimport ipywidgets\ndisplay(ipywidgets.IntSlider())"
    is_culled(server, start(server, code, "%pool_wait train", "assert train.held"))
