"""A notebook's kernel of a test's own, and the blocking client that drives it."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

__all__ = ["DEADLINE", "OwnKernel", "PrivateSockets"]

DEADLINE = 60.0


class PrivateSockets:
    """How it is reached: by sockets in a folder of their own, to be closed.

    Ports of TCP are chosen before the kernel binds them. Of many kernels that start at once, each beside
    other tests' processes, one finds another there now and then.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jp-")
        #: Options of a kernel manager.
        self.options = {"transport": "ipc", "ip": os.path.join(self._folder.name, "kernel")}

    def close(self) -> None:
        """Remove what the kernel may have left."""
        self._folder.cleanup()


class OwnKernel:
    """A stock Python kernel, started; to be closed.

    `tcp`: reached as JupyterLab does it. The system buffers more for it: a flood that is published at once
    would in part be dropped by the kernel's own socket otherwise.
    """

    def __init__(self, *, tcp: bool = False) -> None:
        self._sockets = PrivateSockets()
        options = {} if tcp else self._sockets.options
        self.manager = KernelManager(kernel_name="python3", **options)
        self.manager.start_kernel()
        self.client: BlockingKernelClient = self.manager.client()
        # Without its heart, here and in all tests: stopped before its thread has begun, that would beat on
        # for ever, making one socket after another.
        self.client.start_channels(hb=False)
        try:
            self.client.wait_for_ready(timeout=DEADLINE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self._sockets.close()
        # jupyter_client's blocking calls ran in it; the next ones make a new one.
        ensure_event_loop().close()

    def send_cell(
        self,
        code: str,
        metadata: dict[str, Any] | None = None,
        *,
        allow_stdin: bool = False,
        stop_on_error: bool = True,
    ) -> str:
        """Have code run, as a front end does that says something about the cell; the request's id."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": allow_stdin,
            "stop_on_error": stop_on_error,
        }
        request = self.client.session.msg("execute_request", content, metadata=metadata or {})
        self.client.shell_channel.send(request)
        return str(request["header"]["msg_id"])
