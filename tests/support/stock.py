"""The peer: stock ipykernel kernels, started and driven by jupyter_client alone."""

from __future__ import annotations

import asyncio
import subprocess
import time

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_core.utils import ensure_event_loop

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


async def _start_together(count: int, code: str) -> float:
    managers = [AsyncKernelManager(kernel_name="python3") for _ in range(count)]
    clients = []

    async def one(manager: AsyncKernelManager) -> None:
        await manager.start_kernel(stderr=subprocess.DEVNULL)
        client = manager.client()
        clients.append(client)
        await _ready(client, code)

    begun = time.perf_counter()
    await asyncio.gather(*map(one, managers))
    took = time.perf_counter() - begun
    for client in clients:
        client.stop_channels()
    await asyncio.gather(*(manager.shutdown_kernel(now=True) for manager in managers))
    return took


def start_together(count: int, code: str = "") -> float:
    """Seconds until so many stock kernels, started at once, are ready and have run that code."""
    return asyncio.run(_start_together(count, code))


class StockKernel:
    """One running stock kernel and its blocking client."""

    def __enter__(self) -> BlockingKernelClient:
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(stderr=subprocess.DEVNULL)
        self.client: BlockingKernelClient = self._manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=START_TIMEOUT)
        return self.client

    def __exit__(self, *error: object) -> None:
        self.client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._manager.cleanup_resources()
        ensure_event_loop().close()  # jupyter_client keeps the one that its blocking calls use
