"""A real kernel that misbehaves as a test wants it to. Run as a script.

It leaves files in its folder: ``started``, a line for each start with its time; ``asked``, once it
has answered a kernel_info_request. The file ``go``, once a test makes it, makes it behave well.

    patient     executes nothing before ``go`` is there
    refusing    answers everything that it is to execute with an error
    dying       executes what it gets first, and ends soon after its reply
    losing      never says that it is idle after it was told to execute "lose"; after its reply to
                "lose and end" it answers nothing any more, and ends soon
    late        says so two seconds after its reply, with a last output before it
    held        does not come up while the file ``hold`` is there, then behaves well
    well        behaves well: its output is what it is told to execute
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel
from traitlets import Unicode


class ScriptedKernel(Kernel):
    implementation = "scripted"
    implementation_version = "1"
    banner = ""
    language_info = {"name": "text", "mimetype": "text/plain", "file_extension": ".txt"}

    behaviour = Unicode().tag(config=True)
    folder = Unicode().tag(config=True)
    #: The idle status of what is executed is to be lost, or late.
    lost = False
    ends = False

    def start(self) -> None:
        with open(Path(self.folder, "started"), "a") as file:
            file.write(f"{time.monotonic()}\n")
        while self.behaviour == "held" and Path(self.folder, "hold").exists():
            time.sleep(0.01)
        super().start()

    @property
    def go(self) -> bool:
        return Path(self.folder, "go").exists()

    async def kernel_info_request(self, stream: Any, ident: Any, parent: Any) -> None:
        await super().kernel_info_request(stream, ident, parent)
        Path(self.folder, "asked").touch()

    def _publish_status(self, status: str, *args: Any, **kwargs: Any) -> None:
        if status == "idle" and self.lost:
            self.lost = False
            if self.behaviour == "late":
                time.sleep(2)
                self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": "!"})
            elif self.ends:
                time.sleep(0.2)  # as long as its reply may take
                os._exit(7)
            else:
                return
        super()._publish_status(status, *args, **kwargs)

    async def do_execute(
        self, code: str, silent: bool, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        self.lost = code.startswith("lose")
        self.ends = code == "lose and end"
        if self.behaviour == "patient":
            while not self.go:
                time.sleep(0.01)
        if self.behaviour == "refusing" and not self.go:
            return {"status": "error", "ename": "Refused", "evalue": "not today", "traceback": []}
        if self.behaviour == "dying" and not self.go:
            threading.Timer(0.2, os._exit, (7,)).start()
        if not silent:
            self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code})
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {},
        }


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=ScriptedKernel)
