"""What the integration tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def pyzmqs_thread() -> None:
    """pyzmq starts it for the first large message, and keeps it for the life of the process."""
    from zmq.utils.garbage import gc

    # The leak check has already had it started; starting it twice breaks it.
    assert gc.is_alive()
