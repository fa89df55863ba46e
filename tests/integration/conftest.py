"""What the integration tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def pyzmqs_thread() -> None:
    """pyzmq starts it for the first large message, and keeps it for the life of the process."""
    import zmq.utils.garbage

    zmq.utils.garbage.gc.start()
    assert zmq.utils.garbage.gc._push_socket  # and this, when it is first asked for
