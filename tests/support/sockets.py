"""How a test's own kernel is reached."""

from __future__ import annotations

import os
import tempfile


class PrivateSockets:
    """Sockets in a folder of their own, to be closed.

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
