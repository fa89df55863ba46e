"""A pool under everything at once, in a process of its own, which then says what became of each request.

    main thread      execute, and Ctrl-C's from the tormentor while it does
    timer, canceller, lessee, loop    execute with timeouts · submit_code and cancels · leases · asyncio
    tormentor        kills workers, sends SIGINT

Each request has a number. It notes that it runs, prints its number and gives it back; so whatever is
lost, doubled or crossed shows. What may become of a request is decided before it is made.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import psutil

from jupyter_pool import (
    AsyncKernelPool,
    Cancelled,
    ExecutionResult,
    KernelPool,
    OperationTimeout,
    PoolError,
    WorkerDied,
    WorkerStartError,
)
from support.cells import states
from support.conditions import eventually
from support.journal import Journal

#: How requests with a limit run over it, and those that are cancelled while they run are caught.
LONG = "import time\ntime.sleep(30)\n"


class Told(logging.Handler):
    """What the pool logs as an error: nothing that happens here should be one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


class Ledger:
    """Numbers the requests and takes down their ends; what it keeps of each is one byte."""

    def __init__(self, requests: int, journal: Journal) -> None:
        self.requests = requests
        self.code = journal.code + "print(n)\nanswer = n\n"
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.samples: list[dict[str, float]] = []
        self.interrupted: set[int] = set()
        self._ends = bytearray(requests)
        self._lock = threading.Lock()
        self._given = 0
        self._ended = 0
        self._process = psutil.Process()

    def number(self) -> int | None:
        """The next request's number; None: they are all made."""
        with self._lock:
            if self._given >= self.requests:
                return None
            self._given += 1
            return self._given - 1

    @property
    def progress(self) -> int:
        return self._ended

    def end(
        self, n: int, got: ExecutionResult | BaseException, *allowed: type[BaseException]
    ) -> None:
        """A request has ended: with its own result, or in a way that it was meant to."""
        if isinstance(got, ExecutionResult):
            self._check_result(n, got)
            what = "ok"
        else:
            what = type(got).__name__
            if not isinstance(got, (*allowed, WorkerDied, WorkerStartError)):
                self.wrong.append(f"{n}: {got!r}")
            if isinstance(got, PoolError):
                self._check_error(n, got)
        with self._lock:
            self._ends[n] += 1
            self.outcomes[what] += 1
            self._ended += 1
            if self._ended % 1000 == 0:
                self._sample()

    def _check_result(self, n: int, result: ExecutionResult) -> None:
        if result.stdout != f"{n}\n" or result.outputs["answer"] != n:
            self.wrong.append(f"{n}: got {result.stdout!r}")

    def _check_error(self, n: int, error: PoolError) -> None:
        if not (error.category and error.type and str(error) and error.context.get("request_id")):
            self.wrong.append(f"{n}: an error without all its parts: {error!r}")
        # Killed or interrupted halfway through, it has put out a part of it.
        if error.result is not None and not f"{n}\n".startswith(error.result.stdout):
            self.wrong.append(f"{n}: put out {error.result.stdout!r}")

    def _sample(self) -> None:
        gc.collect()
        memory = self._process.memory_full_info()
        self.samples.append(
            {
                "ended": self._ended,
                "at": time.monotonic(),
                "rss": memory.rss / 2**20,
                "uss": memory.uss / 2**20,
                "descriptors": self._process.num_fds(),
                "threads": threading.active_count(),
            }
        )

    def ends(self) -> Counter[int]:
        """How many requests ended so often."""
        return Counter(self._ends)


class Soak:
    """One run. Every client takes numbers until there are none."""

    def __init__(self, pool: KernelPool, apool: AsyncKernelPool, ledger: Ledger) -> None:
        self.pool = pool
        self.apool = apool
        self.ledger = ledger
        self.over = threading.Event()
        self.interruptible = False
        self.kills = 0
        self.interrupts = 0

    # -- clients -----------------------------------------------------------------------------

    def in_main_thread(self) -> None:
        """`execute`, interrupted now and then by a Ctrl-C that comes at any moment of it."""
        chance = random.Random(1)
        while (n := self.ledger.number()) is not None:
            code = self.ledger.code + (LONG if chance.random() < 0.03 else "")
            got: ExecutionResult | BaseException
            try:
                self.interruptible = True
                try:
                    got = self.pool.execute(
                        code, inputs={"n": n}, outputs=["answer"], timeout=None, session_id="main"
                    )
                    if code.endswith(LONG):
                        got = AssertionError("nobody interrupted it")
                finally:
                    self.interruptible = False
            except KeyboardInterrupt as interrupt:
                got = interrupt
                self.ledger.interrupted.add(n)
            except PoolError as error:
                got = error
            self.ledger.end(n, got, KeyboardInterrupt)

    def with_timeouts(self) -> None:
        """`execute` with limits, some of them too short."""
        chance = random.Random(2)
        while (n := self.ledger.number()) is not None:
            late = chance.random() < 0.05
            allowed = (OperationTimeout,) if late else ()
            try:
                got: ExecutionResult | BaseException = self.pool.execute(
                    self.ledger.code + (LONG if late else ""),
                    inputs={"n": n},
                    outputs=["answer"],
                    timeout=chance.uniform(0.001, 0.2) if late else 60,
                    checkout_timeout=None,
                    session_id=f"timer {n % 50}",
                )
            except PoolError as error:
                got = error
            self.ledger.end(n, got, *allowed)

    def with_futures(self) -> None:
        """`submit_code` in handfuls, some of which are given up: by their future or by their id."""
        chance = random.Random(3)
        more = True
        while more:
            futures: list[tuple[int, Future[ExecutionResult], bool]] = []
            for _ in range(chance.randrange(1, 20)):
                n = self.ledger.number()
                if n is None:
                    more = False
                    break
                unwanted = chance.random() < 0.2
                shown: list[Any] = []
                future = self.pool.submit_code(
                    self.ledger.code + (LONG if unwanted else ""),
                    inputs={"n": n},
                    outputs=["answer"],
                    on_output=shown.append if chance.random() < 0.3 else None,
                )
                futures.append((n, future, unwanted))
            for _, future, unwanted in futures:
                if unwanted:
                    time.sleep(chance.uniform(0, 0.01))
                    if not future.cancel():
                        self.pool.cancel(future.request_id)  # type: ignore[attr-defined]
            for n, future, unwanted in futures:
                try:
                    got: ExecutionResult | BaseException = future.result(60)
                except BaseException as error:
                    got = error
                self.ledger.end(n, got, *((CancelledError, Cancelled) if unwanted else ()))

    def with_leases(self) -> None:
        """A worker for some requests in a row; what one leaves the next one sees."""
        chance = random.Random(4)
        n = self.ledger.number()
        while n is not None:
            try:
                with self.pool.checkout(checkout_timeout=None, session_id="lease") as worker:
                    before: int | None = None
                    for _ in range(chance.randrange(1, 6)):
                        if n is None:
                            break
                        extra = "" if before is None else f"assert before == {before}\n"
                        got: ExecutionResult | BaseException
                        try:
                            got = worker.execute(
                                extra + self.ledger.code + "before = n",
                                inputs={"n": n},
                                outputs=["answer"],
                            )
                            before = n
                        except PoolError as error:
                            got = error
                        # A killed worker ends its lease: what comes later in it is cancelled.
                        self.ledger.end(n, got, Cancelled)
                        n = self.ledger.number()
                        if not isinstance(got, ExecutionResult):
                            break
            except (WorkerDied, WorkerStartError):
                continue  # before it was ours

    async def in_a_loop(self) -> None:
        """Tasks on the other pool, some of them cancelled at some point."""
        chance = random.Random(5)

        async def one(n: int) -> None:
            fate = chance.random()
            task = asyncio.create_task(
                self.apool.execute(
                    self.ledger.code + (LONG if fate < 0.1 else ""),
                    inputs={"n": n},
                    outputs=["answer"],
                    timeout=None,
                    checkout_timeout=None,
                )
            )
            if fate < 0.1:
                await asyncio.sleep(chance.uniform(0, 0.1))
                task.cancel()
            try:
                got: ExecutionResult | BaseException = await task
            except (asyncio.CancelledError, PoolError) as error:
                got = error
            self.ledger.end(n, got, *((asyncio.CancelledError,) if fate < 0.1 else ()))

        async def client() -> None:
            while (n := self.ledger.number()) is not None:
                await one(n)

        await asyncio.gather(*(client() for _ in range(8)))

    # -- torment -----------------------------------------------------------------------------

    def kill(self, every: float) -> None:
        """SIGKILL some worker of either pool, at times also one that only starts or ends.

        Only at times: where nothing can start, every client is told so, and nothing else happens.
        """
        chance = random.Random(6)
        while not self.over.wait(every):
            pool = chance.choice([self.pool, self.apool])
            whatever = chance.random() < 0.1
            pids = [
                worker.pid
                for worker in pool.read_status().workers
                if worker.pid and (whatever or worker.state not in ("starting", "stopping"))
            ]
            if pids:
                try:
                    os.kill(chance.choice(pids), signal.SIGKILL)
                    self.kills += 1
                except ProcessLookupError:
                    pass

    def interrupt(self, every: float) -> None:
        """Ctrl-C for the main thread while it waits in `execute`."""
        chance = random.Random(7)
        main = threading.main_thread().ident
        assert main is not None
        while not self.over.wait(chance.uniform(0, 2 * every)):
            if self.interruptible:
                signal.pthread_kill(main, signal.SIGINT)
                self.interrupts += 1

    def run(self, kill_every: float, interrupt_every: float) -> None:
        torment = [
            threading.Thread(target=self.kill, args=(kill_every,), name="killer"),
            threading.Thread(target=self.interrupt, args=(interrupt_every,), name="interrupter"),
        ]
        roles: list[Callable[[], object]] = [
            self.with_timeouts,
            self.with_futures,
            self.with_leases,
            lambda: asyncio.run(self.in_a_loop()),
        ]
        clients = [threading.Thread(target=role) for role in roles]
        signal.signal(signal.SIGINT, self.on_sigint)
        for thread in clients + torment:
            thread.start()
        self.in_main_thread()
        for thread in clients:
            thread.join()
        self.over.set()
        for thread in torment:
            thread.join()

    def on_sigint(self, signum: int, frame: object) -> None:
        """As Python's own handler, but a Ctrl-C that comes when `execute` has ended is none."""
        if self.interruptible:
            self.interruptible = False
            raise KeyboardInterrupt


def main(
    journal_path: str, requests: int, kill_every: float, interrupt_every: float
) -> dict[str, Any]:
    """Run it and report."""
    told = Told()
    logging.getLogger("jupyter_pool").addHandler(told)
    journal = Journal(Path(journal_path))
    ledger = Ledger(requests, journal)
    with KernelPool(size=3, interrupt_grace=1) as pool:
        apool = AsyncKernelPool(size=2)
        try:
            pool.start(wait=True, timeout=60)
            begun = time.monotonic()
            soak = Soak(pool, apool, ledger)
            soak.run(kill_every, interrupt_every)
            took = time.monotonic() - begun
            eventually(lambda: states(pool) == ["idle"] * 3, "the pool at its size", within=60)
            stats, astats = pool.get_stats(), apool.read_stats()
            status = pool.get_status()
            state = str(pool), str(apool)
        finally:
            asyncio.run(apool.close(timeout=0))
    runs = journal.runs()
    return {
        "took": took,
        "begun": begun,
        "ends": dict(ledger.ends()),
        "outcomes": dict(ledger.outcomes),
        "wrong": ledger.wrong,
        "errors logged": told.said,
        "samples": ledger.samples,
        "kills": soak.kills,
        "interrupts": soak.interrupts,
        "interrupted": len(ledger.interrupted),
        "ran twice": sorted(n for n, times in runs.items() if times > 1),
        "queued": status.queue_length + astats.queued,
        "counted": dict(Counter(stats.requests) + Counter(astats.requests)),
        "lost": stats.workers_lost,
        "killed": {"pool": stats.workers_killed, "async": astats.workers_killed},
        "state": state,
    }
