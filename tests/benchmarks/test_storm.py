"""A thousand requests while somebody kills the workers, one after another.

pytest tests/benchmarks/test_storm.py -s
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import Future, wait
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from jupyter_pool import ExecutionResult, KernelPool, PoolError
from support.cells import states
from support.conditions import eventually
from support.journal import Journal

REQUESTS = 1_000
WORKERS = 4
RETRIES = 3


class Killer:
    """Kills a worker every so often, whatever it does just then; a context manager."""

    def __init__(self, pool: KernelPool, every: float, victims: frozenset[str]) -> None:
        self._pool = pool
        self._every = every
        self._victims = victims
        self._over = threading.Event()
        self._random = random.Random(every)
        self._thread = threading.Thread(target=self._main, name="killer")
        #: How many were killed, by what they did.
        self.killed: Counter[str] = Counter()

    def _main(self) -> None:
        while not self._over.wait(self._every):
            alive = [
                worker
                for worker in self._pool.get_status().workers
                if worker.pid is not None and worker.state in self._victims
            ]
            if alive:
                victim = self._random.choice(alive)
                assert victim.pid is not None
                try:
                    os.kill(victim.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.killed[victim.state] += 1

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()


ANY = frozenset({"busy", "idle", "starting"})
SERVING = frozenset({"busy", "idle"})


# Faster than a worker starts nobody would ever serve if those that start were killed too.
@pytest.mark.parametrize(
    ("every", "seconds", "victims"), [(2.0, 0.1, ANY), (0.3, 0.05, SERVING)], ids=["2 s", "0.3 s"]
)
@pytest.mark.timeout(600)
def test_a_thousand_requests_while_workers_are_killed(
    tmp_path: Path, every: float, seconds: float, victims: frozenset[str]
) -> None:
    journal = Journal(tmp_path / "journal")
    code = f"{journal.code}import time\ntime.sleep({seconds})\nprint(n)\nanswer = n"
    answered: Counter[int] = Counter()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with KernelPool(size=WORKERS) as pool:
        pool.start(wait=True, timeout=60)
        begun = time.monotonic()
        with Killer(pool, every, victims) as killer:
            futures: list[Future[ExecutionResult]] = []
            for n in range(REQUESTS):
                future = pool.submit_code(
                    code, inputs={"n": n}, outputs=["answer"], retries=RETRIES
                )
                future.add_done_callback(lambda _, n=n: answered.update([n]))  # type: ignore[misc]
                futures.append(future)
            assert not wait(futures, timeout=500).not_done
        took = time.monotonic() - begun
        eventually(lambda: states(pool) == ["idle"] * WORKERS, "the pool at its size", within=60)
        stats, status = pool.get_stats(), pool.get_status()

    own = 0
    errors: Counter[str] = Counter()
    for n, future in enumerate(futures):
        error = future.exception(0)
        if error is None:
            result = future.result(0)
            assert (result.outputs["answer"], result.stdout) == (n, f"{n}\n")
            own += 1
        else:
            assert isinstance(error, PoolError), error
            assert error.category
            assert error.type
            assert str(error)
            assert error.context["request_id"] == future.request_id  # type: ignore[attr-defined]
            errors[type(error).__name__] += 1
    runs = journal.runs()
    print(
        f"\n{REQUESTS} requests over {WORKERS} workers, one killed every {every:g} s: {took:.1f} s"
        f"\n  killed               {killer.killed.total()} {dict(killer.killed)}"
        f"\n  own result           {own} ({own / REQUESTS:.1%})"
        f"\n  structured errors    {dict(errors)}"
        f"\n  answered             {len(answered)}, each {max(answered.values())} times"
        f"\n  runs                 {runs.total()}, at most {max(runs.values())} of one request"
        f"\n  workers started      {stats.workers_started}, lost {stats.workers_lost}"
    )
    assert killer.killed.total() > 0
    assert answered == Counter(range(REQUESTS))
    assert own >= 0.99 * REQUESTS
    assert max(runs.values()) <= 1 + RETRIES
    assert sum(stats.requests.values()) == REQUESTS
    assert stats.requests["ok"] == own
    assert status.queue_length == 0
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
