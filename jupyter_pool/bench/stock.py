"""The peer: stock ipykernel kernels, started and driven by jupyter_client alone.

They are reached by sockets in a folder, as a pool's workers are. Ports of TCP, jupyter_client's default,
are chosen before the kernel binds them: of many that start at once, one now and then never answers,
because another process was quicker.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_core.utils import ensure_event_loop

__all__ = ["StockKernel", "start_together"]

START_TIMEOUT = 60.0


async def _ready(client: AsyncKernelClient, code: str) -> None:
    """Ready as the pool means it: a kernel_info reply and an executed probe, no padding."""
    client.start_channels()
    info = client.kernel_info()
    while (await client.get_shell_msg(timeout=START_TIMEOUT))["parent_header"]["msg_id"] != info:
        pass
    probe = client.execute(code, silent=True)
    while (await client.get_shell_msg(timeout=START_TIMEOUT))["parent_header"]["msg_id"] != probe:
        pass


@contextmanager
def _sockets(count: int) -> Iterator[list[dict[str, str]]]:
    """For so many kernels, the options of their managers."""
    with tempfile.TemporaryDirectory(prefix="jupyter-pool-bench-") as folder:
        yield [
            {"transport": "ipc", "ip": os.path.join(folder, f"kernel-{n}")} for n in range(count)
        ]


async def _start_together(sockets: list[dict[str, str]], code: str) -> float:
    managers = [AsyncKernelManager(kernel_name="python3", **options) for options in sockets]
    clients: list[AsyncKernelClient] = []

    async def one(manager: AsyncKernelManager) -> None:
        await manager.start_kernel(stderr=subprocess.DEVNULL)
        client = manager.client()
        clients.append(client)
        await _ready(client, code)

    begun = time.perf_counter()
    try:
        await asyncio.gather(*map(one, managers))
        return time.perf_counter() - begun
    finally:
        for client in clients:
            client.stop_channels()
        await asyncio.gather(
            *(manager.shutdown_kernel(now=True) for manager in managers if manager.has_kernel)
        )


def start_together(count: int, code: str = "") -> float:
    """Seconds until so many stock kernels, started at once, are ready and have run that code."""
    # In a thread of its own: the caller's may have a running loop, as in a notebook.
    with _sockets(count) as sockets, ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _start_together(sockets, code)).result()


def _close_loop() -> None:
    """jupyter_client keeps the loop that its blocking calls use, if they do not find one running."""
    loop = ensure_event_loop()
    if not loop.is_running():
        loop.close()


class StockKernel:
    """One running stock kernel and its blocking client."""

    def __enter__(self) -> BlockingKernelClient:
        with ExitStack() as stack:
            stack.callback(_close_loop)
            (sockets,) = stack.enter_context(_sockets(1))
            manager = KernelManager(kernel_name="python3", **sockets)
            stack.callback(manager.cleanup_resources)
            stack.callback(lambda: manager.has_kernel and manager.shutdown_kernel(now=True))
            manager.start_kernel(stderr=subprocess.DEVNULL)
            client: BlockingKernelClient = manager.client()
            stack.callback(client.stop_channels)
            client.start_channels()
            client.wait_for_ready(timeout=START_TIMEOUT)
            self._stack = stack.pop_all()
        return client

    def __exit__(self, *error: object) -> None:
        self._stack.close()
