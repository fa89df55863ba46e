"""A pool core with a hand on its events and its clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from jupyter_pool.core import (
    Command,
    CoreConfig,
    Event,
    PoolCore,
    RequestDone,
    RequestStarted,
    Start,
    Submit,
    SubmitInLease,
    Tick,
    WorkerReady,
    WorkerStopped,
)


class ScriptedPool:
    """A core at a time. Every method returns the commands that it brought about."""

    def __init__(self, **options: object) -> None:
        self.core = PoolCore(CoreConfig(**{"size": 1, **options}))  # type: ignore[arg-type]
        self.now = 0.0

    def __call__(self, *events: Event) -> list[Command]:
        return [command for event in events for command in self.core.handle(event, self.now)]

    def __repr__(self) -> str:
        return repr(self.core)

    def at(self, now: float) -> list[Command]:
        """Let time pass until then, step by step."""
        commands = []
        while (deadline := self.core.next_deadline()) is not None and deadline <= now:
            assert deadline > self.now
            self.now = deadline
            commands += self(Tick())
        self.now = now
        return commands

    def start(self, *worker_ids: int) -> list[Command]:
        """Start the pool; these workers become ready, and time passes until that is old news."""
        commands = self(Start()) + self.ready(*worker_ids)
        return commands + self.at(10.0)

    def ready(self, *worker_ids: int) -> list[Command]:
        return self(*map(WorkerReady, worker_ids))

    def stopped(self, *worker_ids: int) -> list[Command]:
        return self(*map(WorkerStopped, worker_ids))

    def submit(
        self,
        request_id: str,
        group: str = "g",
        *,
        wait: float | None = None,
        limit: float | None = None,
        **options: object,
    ) -> list[Command]:
        """`wait` and `limit` in seconds from now."""
        deadline = None if wait is None else self.now + wait
        return self(Submit(request_id, group, deadline, limit, **options))  # type: ignore[arg-type]

    def run(self, request_id: str, lease_id: str, limit: float | None = None) -> list[Command]:
        return self(SubmitInLease(request_id, lease_id, limit))

    def started(self, worker_id: int, request_id: str) -> list[Command]:
        return self(RequestStarted(worker_id, request_id))

    def done(self, worker_id: int, request_id: str, recycle: str | None = None) -> list[Command]:
        return self(RequestDone(worker_id, request_id, recycle))


MakePool: TypeAlias = Callable[..., ScriptedPool]
