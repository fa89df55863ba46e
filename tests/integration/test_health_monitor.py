"""The monitor that looks after idle workers."""

from __future__ import annotations

import os
import signal

from jupyter_pool import KernelPool
from support.conditions import eventually, gone


def test_an_idle_worker_that_stands_still_is_replaced() -> None:
    with KernelPool(size=2, health_check_interval=0.2) as pool:
        pool.start(wait=True, timeout=60)
        stopped, sound = pool.get_status().workers
        assert stopped.pid is not None
        os.kill(stopped.pid, signal.SIGSTOP)

        def healed() -> bool:
            states = {worker.id: worker.state for worker in pool.get_status().workers}
            return stopped.id not in states and list(states.values()) == ["idle", "idle"]

        eventually(healed, "two idle workers without the stopped one", within=30)
        assert gone([stopped.pid])()
        assert pool.get_stats().workers_killed == {"unresponsive": 1}
        assert sound.pid in {worker.pid for worker in pool.get_status().workers}
        assert pool.execute("1 + 1").data == {"text/plain": "2"}


def test_a_busy_worker_is_not_taken_for_a_sick_one() -> None:
    with KernelPool(size=1, health_check_interval=0.2) as pool:
        code = "import time\nuntil = time.monotonic() + 7\nwhile time.monotonic() < until: pass"
        assert pool.execute(code).status == "ok"
        assert pool.get_stats().workers_killed == {}
