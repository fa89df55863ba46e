"""A thousand clients of one pool at once, half of whom give up at some point."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from jupyter_pool import AsyncKernelPool, ExecutionResult
from support.journal import Journal

CLIENTS = 1_000


async def test_of_a_thousand_clients_half_cancel_and_every_other_gets_its_own_answer(
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "journal")
    code = journal.code + "print(n)\nanswer = n"
    chance = random.Random(20)
    patience = {n: chance.uniform(0.0, 1.5) for n in chance.sample(range(CLIENTS), CLIENTS // 2)}

    async with AsyncKernelPool(size=4) as pool:
        await pool.start(wait=True, timeout=60)

        async def client(n: int) -> ExecutionResult:
            # Whoever is to give up is given something that would never end by itself.
            forever = "\nimport time\ntime.sleep(600)" if n in patience else ""
            return await pool.execute(
                code + forever,
                inputs={"n": n},
                outputs=["answer"],
                session_id=f"s{n % 7}",
                timeout=None,
                checkout_timeout=None,
            )

        tasks = [asyncio.create_task(client(n)) for n in range(CLIENTS)]
        loop = asyncio.get_running_loop()
        for n, seconds in patience.items():
            loop.call_later(seconds, tasks[n].cancel)
        ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 90)

        for n, end in enumerate(ends):
            if n in patience:
                assert isinstance(end, asyncio.CancelledError), (n, end)
            else:
                assert isinstance(end, ExecutionResult), (n, end)
                assert (end.outputs["answer"], end.stdout) == (n, f"{n}\n")

        # What was cancelled is settled too before long, and nobody is left anywhere.
        while True:
            status, stats = await pool.get_status(), await pool.get_stats()
            if (
                sum(stats.requests.values()) == CLIENTS
                and [worker.state for worker in status.workers] == ["idle"] * 4
            ):
                break
            await asyncio.sleep(0.01)
        assert status.queue_length == 0
        assert stats.requests == {"ok": CLIENTS // 2, "cancelled": CLIENTS // 2}
        assert stats.workers_lost == {}
        sessions = pool.sessions.values()
        assert sum(session.requests for session in sessions) == CLIENTS
        assert sum(session.failures for session in sessions) == CLIENTS // 2
    runs = journal.runs()
    assert max(runs.values()) == 1
    assert set(range(CLIENTS)) - set(patience) <= set(runs)
