"""The core against a simulated engine that does everything in every order.

The simulation keeps its own, much simpler account of what is going on and checks each command
against it:

- a worker is given to one request at a time, and only while nothing else can still hit it
- every request finishes exactly once, with an outcome that something in its history explains
- first come first served within a group, groups take turns; only who wants a process of its own, in
  its turn, may be set aside, and then comes before everybody
- a process of one's own has served nobody before, and serves nobody after
- nobody in line waits while a worker idles; for those set aside a start is under way or due
- a cancelled waiter never gets a worker
- a request may leave its worker to a lease; one on sufferance is over as soon as somebody in line would
  have to wait, or as its worker is wanted for something else, and not without a reason
- who rides along is next in line, and only what is known to be quick rides; what its worker has not
  begun is given back whole, in order, and runs elsewhere; what it has begun is never run again unasked
- no deadline acts early, and none is overlooked
- never more serving workers than size + overflow, never more processes than the bound
- every worker is stopped at most once, for a reason that holds

At the end all faults stop: the pool is back at its size, has served everybody, closes, and says so
once, last. The same events at the same times then give a second core the same commands.

Rules draw each choice from Hypothesis, so failures shrink well; storms draw theirs from a seeded
generator, so runs get deep.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from jupyter_pool.core import (
    Breaker,
    BreakerMoved,
    Cancel,
    Close,
    Closed,
    CoreConfig,
    Degraded,
    Dispatch,
    Drain,
    Finish,
    GivenBack,
    Interrupt,
    InterruptDelivered,
    MemoryExceeded,
    Occupied,
    Outcome,
    PoolCore,
    PoolState,
    ProtocolViolation,
    Recovered,
    RequestDone,
    RequestRefused,
    RequestsDone,
    RequestStarted,
    Reset,
    ResetDone,
    Resize,
    RestartWorker,
    ReturnLease,
    Ride,
    SetUp,
    SetUpAll,
    SetUpDone,
    Start,
    StartWorker,
    StopReason,
    StopWorker,
    Submit,
    SubmitInLease,
    TakeBack,
    Tick,
    WorkerDied,
    WorkerReady,
    WorkerSpent,
    WorkerStartFailed,
    WorkerState,
    WorkerStopped,
)

REDISPATCHES = 3

Pick: TypeAlias = Callable[[Sequence[Any]], Any]
"""Chooses one of several."""


@dataclass
class SimRequest:
    """What the simulation knows of a request."""

    id: str
    group: str = ""
    checkout_deadline: float | None = None
    run_timeout: float | None = None
    retries: int = 0
    lease: bool = False
    isolation: str = "namespace"
    kind: str | None = None
    in_lease: str | None = None
    dispatched: bool = False
    run_deadline: float | None = None
    worker: int | None = None
    started: bool = False
    redispatched: int = 0
    attempt: int = 1
    unwanted: bool = False
    interrupted: bool = False
    done: bool = False
    refused: bool = False
    """Its worker refused it, and it was not dispatched again yet."""
    runs: list[str] = field(default_factory=list)
    on_sufferance: bool = False
    occupied: bool = False


@dataclass
class SimWorker:
    """A simulated process."""

    id: int
    started_at: float
    state: str = "starting"  # starting, up, stopping
    ready_at: float = 0.0
    free_since: float = 0.0
    served: int = 0
    used: bool = False
    for_one_only: bool = False
    request: str | None = None
    riders: list[str] = field(default_factory=list)
    begun: int = 0
    """How many of its request and its riders it has begun, whether or not anybody knows."""
    lease: str | None = None
    interrupted_at: float | None = None
    """Until it has proved idle and the interrupt was delivered."""
    interrupt_on_its_way: bool = False
    reset_at: float | None = None
    """Until it has answered."""
    setting_up_at: float | None = None
    """Until it has answered."""
    lacks: int = 0
    """How many setups there were that it has not begun to run."""

    @property
    def at_work(self) -> bool:
        return bool(
            self.request
            or self.lease
            or self.interrupt_on_its_way
            or self.reset_at is not None
            or self.setting_up_at is not None
        )

    @property
    def has(self) -> list[str]:
        """What it was sent and has not answered, in order."""
        return ([self.request] if self.request else []) + self.riders


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        size=st.integers(0, 3),
        overflow=st.integers(0, 2),
        lazy=st.booleans(),
        reserve=st.integers(0, 2),
        max_waiting=st.sampled_from([0, 0, 2]),
        max_tasks=st.sampled_from([None, None, 1, 3]),
        max_lifetime=st.sampled_from([None, None, 20.0]),
        max_idle=st.sampled_from([None, 2.0]),
        replace_after_request=st.sampled_from([False, False, False, True]),
    )
    def make(self, size: int, overflow: int, **options: Any) -> None:
        # All times are multiples of a quarter, exact in binary: deadlines can be met to the dot.
        self.config = CoreConfig(
            size=max(size, 1 - overflow),
            overflow=overflow,
            interrupt_grace=1.0,
            start_timeout=8.0,
            reset_timeout=2.0,
            backoff_initial=0.25,
            backoff_max=2.0,
            failure_window=10.0,
            **options,
        )
        self.now = 0.0
        self.core = PoolCore(self.config)
        self.log: list[tuple[Any, float, list[Any]]] = []
        self.live: dict[str, SimRequest] = {}
        self.finished: dict[str, Finish] = {}
        self.workers: dict[int, SimWorker] = {}
        self.gone: list[int] = []
        self.queue: OrderedDict[str, list[str]] = OrderedDict()
        self.aside: list[str] = []
        self.last_lease = "never"
        self.wish: bool | None = None  # who is done next keeps its worker: on sufferance, or firmly
        self.due: list[Any] = []  # what the engine tells the core as soon as it listens again
        self.quick: set[str] = set()
        self.rides = 0
        self.ids = 0
        self.degraded = self.closing = self.cancel_queued = self.closed = False
        self.breaker = Breaker.CLOSED
        self.settling = False
        self.trusted = False  # a start was proved a success, and the pool was not degraded since
        self.failures = 0  # workers lost or stopped since then

    # --- rules ---------------------------------------------------------------------------------

    @rule(data=st.data())
    def user_asks(self, data: st.DataObject) -> None:
        self.ask(picking(data))

    @rule(data=st.data())
    def user_asks_for_many(self, data: st.DataObject) -> None:
        self.ask_for_many(picking(data))

    @rule(data=st.data())
    def user_gives_up(self, data: st.DataObject) -> None:
        self.give_up_one(picking(data))

    @rule(data=st.data())
    def worker_works(self, data: st.DataObject) -> None:
        self.work(picking(data))

    @rule(data=st.data())
    def something_breaks(self, data: st.DataObject) -> None:
        self.make_trouble(picking(data))

    @rule(data=st.data())
    def time_passes(self, data: st.DataObject) -> None:
        self.let_time_pass(picking(data))

    @rule(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 25))
    def storm(self, seed: int, steps: int) -> None:
        pick = random.Random(seed).choice
        acts = [self.work] * 10 + [self.ask] * 4 + [self.let_time_pass] * 3
        acts += [self.give_up_one, self.make_trouble, self.ask_for_many, self.use_what_was_left]
        for _ in range(steps):
            if not self.closed:
                pick(acts)(pick)
                self.everything_holds()

    @rule(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 40))
    def calm(self, seed: int, steps: int) -> None:
        """Nothing goes wrong for a while, so that workers get used and idle in between."""
        pick = random.Random(seed).choice
        for _ in range(steps):
            if not self.closed:
                if pick([True, False, False, False]):
                    pick([self.ask, self.ask, self.ask, self.ask_for_many])(pick)
                elif pick([True] * 9 + [False]):
                    self.wish = pick([None, None, True])
                    self.work_well()
                else:
                    self.use_what_was_left(pick)
                self.everything_holds()

    # --- what users do -------------------------------------------------------------------------

    def ask(self, pick: Pick, *, quick: bool = False) -> None:
        self.handle(Tick())
        self.ids += 1
        request = SimRequest(f"r{self.ids}", run_timeout=pick([None, None, 0.0, 1.5, 6.0]))
        self.live[request.id] = request
        if not quick and (leases := self.leases()) and pick([True, False]):
            self.run_in_lease(request, pick(leases))
            return
        patience = pick([None, None, 0.0, 1.0, 5.0])
        if patience is not None:
            request.checkout_deadline = self.now + patience
        request.group = pick("abc")
        request.retries = pick([0, 0, 1, 2])
        if quick:
            request.kind = "quick"
        else:
            request.lease = pick([False, False, True])
            request.isolation = pick(["namespace", "namespace", "process", "none"])
            if not request.lease and request.isolation != "process":
                request.kind = pick([None, "quick", "quick", "mixed"])
        if request.lease:
            self.last_lease = request.id
        full = 0 < self.config.max_waiting <= len(self.line())
        free = self.core.counts()[WorkerState.IDLE] or self.lingering(occupied=False)
        at_once = free and request.isolation != "process"
        refused = self.closing or (full and not at_once)
        if not refused:
            self.queue.setdefault(request.group, []).append(request.id)
        self.send(
            Submit(
                request.id,
                request.group,
                request.checkout_deadline,
                request.run_timeout,
                request.retries,
                request.lease,
                request.isolation,
                request.kind,
            )
        )
        assert not refused or request.id in self.finished

    def ask_for_many(self, pick: Pick) -> None:
        """Quick things, more than there are workers."""
        for _ in range(pick([2, 5, 12])):
            self.ask(pick, quick=True)

    def run_in_lease(self, run: SimRequest, lease_id: str) -> None:
        run.in_lease = lease_id
        if lease := self.live.get(lease_id):
            lease.runs.append(run.id)
        self.send(SubmitInLease(run.id, lease_id, run.run_timeout))
        assert lease is not None or run.id in self.finished

    def leases(self) -> list[str]:
        """Those that are live, and one that may be over."""
        live = [request.id for request in self.live.values() if request.lease]
        return live if self.last_lease in live else [*live, self.last_lease]

    def give_up_one(self, pick: Pick) -> None:
        self.handle(Tick())
        if (leases := self.leases()) and pick([True, False]):
            request_id = pick(leases)
            event: Any = ReturnLease(request_id, discard=pick([False, True]))
        else:
            request_id = pick([*self.live, *list(self.finished)[-1:], "never"])
            event = Cancel(request_id)
        waited = request_id in self.line()
        self.unwant(request_id)
        self.send(event)
        assert not waited or self.finished[request_id].outcome is Outcome.CANCELLED
        if request := self.live.get(request_id):
            worker = self.workers[request.worker or 0]
            begun = request.id in worker.riders
            assert request.interrupted or begun or worker.state == "stopping"

    def lingering(self, *, occupied: bool) -> list[SimRequest]:
        """The leases on sufferance that hold their worker."""
        return [
            request
            for request in self.live.values()
            if request.on_sufferance
            and request.occupied is occupied
            and self.workers[request.worker or 0].state == "up"
        ]

    def use_what_was_left(self, pick: Pick) -> None:
        """The holder of a lease on sufferance has its worker do something, or that is done."""
        self.handle(Tick())
        leases = [request for request in self.live.values() if request.on_sufferance]
        if leases:
            lease = pick(leases)
            lease.occupied = not lease.occupied
            assert self.send(Occupied(lease.id, lease.occupied)) == []

    def unwant(self, request_id: str) -> None:
        if request := self.live.get(request_id):
            request.unwanted = True
            # Of a lease that is held, "done" is that it was returned.
            held = request.worker is not None and not request.refused
            request.done |= request.lease and held

    # --- what workers do -----------------------------------------------------------------------

    def work(self, pick: Pick) -> None:
        """Some worker does something that it should."""
        self.handle(Tick())
        if duties := [duty for worker in self.workers.values() for duty in self.duties(worker)]:
            worker, do = pick(duties)
            self.wish = pick([None, None, True, False])
            do(worker, recycle=pick([None] * 9 + ["unknown threads"]))

    def duties(self, worker: SimWorker) -> list[tuple[SimWorker, Callable[..., None]]]:
        found: list[Callable[..., None]] = []
        if worker.state == "starting":
            found.append(self.become_ready)
        if worker.interrupt_on_its_way:
            found.append(self.deliver_interrupt)
        if worker.reset_at is not None:
            found.append(self.answer_reset)
        if worker.setting_up_at is not None:
            found.append(self.answer_setup)
        if worker.request:
            found += [self.begin, self.refuse, self.reply]
            if worker.begun < len(worker.has):
                found.append(self.begin_next)
            if worker.riders or self.live[worker.request].kind:
                found.append(self.reply_all)
        if worker.state == "stopping":
            found.append(self.disappear)
        return [(worker, do) for do in found]

    def become_ready(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.state = "up"
        worker.ready_at = worker.free_since = self.now
        self.send(WorkerReady(worker.id))

    def begin_next(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.begun += 1

    def begin(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.begun = max(worker.begun, 1)
        request = self.live[worker.request or ""]
        request.started = True
        self.prove(worker)
        self.send(RequestStarted(worker.id, request.id))

    def prove(self, worker: SimWorker) -> None:
        if self.core.workers[worker.id].proven is None:
            self.trusted = True
            self.failures = 0

    def reply(self, worker: SimWorker, recycle: str | None = None) -> None:
        request = self.live[worker.request or ""]
        lease = self.wish_to_keep(worker, recycle)
        event = RequestDone(
            worker.id, request.id, recycle, lease and lease.id, bool(lease and lease.on_sufferance)
        )
        if worker.state == "stopping":
            ended = [] if lease is None else [Finish(lease.id, Outcome.DONE, None)]
            assert self.send(event) == ended
            return
        request.started = request.done = True
        worker.begun = max(worker.begun, 1) - 1
        self.prove(worker)
        worker.served += 1
        worker.free_since = self.now
        if not worker.interrupt_on_its_way:
            worker.interrupted_at = None
        if lease is not None and not request.in_lease:
            worker.lease = lease.id
        commands = self.send(event)
        assert lease is None or (lease.id in self.finished) is lease.done
        finish = self.finished[request.id]
        assert finish in commands
        assert (finish.outcome is Outcome.DONE) is (not request.interrupted)

    def wish_to_keep(self, worker: SimWorker, recycle: str | None) -> SimRequest | None:
        """What a request leaves behind; it is done already if its worker cannot stay."""
        wish, self.wish = self.wish, None
        if wish is None:
            return None
        self.ids += 1
        lease = SimRequest(f"r{self.ids}", lease=True, on_sufferance=wish)
        self.live[lease.id] = lease
        if worker.state == "stopping":
            lease.done = True
            return lease
        request, record = self.live[worker.request or ""], self.core.workers[worker.id]
        lease.worker, lease.dispatched = worker.id, True
        lease.group, lease.isolation = request.group, request.isolation
        stays = not (self.closing or request.interrupted or request.in_lease or worker.riders)
        if wish:
            most = self.config.max_tasks
            stays = stays and not (self.line() or recycle or record.retire or worker.lacks)
            stays = stays and not record.overflow and (most is None or worker.served + 1 < most)
        lease.done = not stays
        return lease

    def is_needed(self, worker: SimWorker) -> bool:
        """There is a reason to end a lease on sufferance."""
        smaller = isinstance(self.event, Resize)
        retired = self.core.workers[worker.id].retire is not None
        return bool(self.line() or self.closing or smaller or retired or worker.lacks)

    def reply_all(self, worker: SimWorker, recycle: str | None = None) -> None:
        """All that it has begun, and what it has then."""
        worker.begun = max(worker.begun, 1)
        ids = tuple(worker.has[: worker.begun])
        stopping = worker.state == "stopping"
        counted = [i for i in ids if not stopping or i != worker.request]
        seconds = 1.0 if recycle else 0.0001
        worker.begun -= len(counted)
        if not stopping:
            worker.free_since = self.now
            worker.begun = 0
            if not worker.interrupt_on_its_way:
                worker.interrupted_at = None
        for request_id in counted:
            self.live[request_id].started = self.live[request_id].done = True
        worker.served += len(counted)
        if counted:
            self.prove(worker)
        self.quick |= {str(self.live[i].kind) for i in counted}
        self.send(RequestsDone(worker.id, ids, (seconds,) * len(ids)))
        assert self.finished.keys() >= set(counted)

    def refuse(self, worker: SimWorker, recycle: str | None = None) -> None:
        request = self.live[worker.request or ""]
        event = RequestRefused(worker.id, request.id, "its modules were edited")
        if worker.state == "stopping":
            assert self.send(event) == []
            return
        worker.free_since = self.now
        if not worker.interrupt_on_its_way:
            worker.interrupted_at = None
        riders, worker.riders, worker.begun = worker.riders, [], 0
        self.expect_all_back(riders)
        if request.interrupted:
            request.done = True
            self.send(event)
            assert request.id in self.finished
            return
        worker.request = None
        waits = request
        if request.in_lease:
            request.refused = True
            waits = self.live[request.in_lease]
            waits.runs.insert(0, request.id)
            worker.lease = None
        waits.refused = True
        self.expect_at_the_head(waits)
        self.send(event)
        assert worker.state == "stopping"
        # It waits or runs again, unless the pool takes nothing back or has nobody to wait for.
        ended = self.finished.get(request.id)
        assert ended is None or self.cancel_queued or ended.outcome is Outcome.START_FAILED

    def deliver_interrupt(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.interrupt_on_its_way = False
        if worker.request is None:
            worker.interrupted_at = None
            worker.free_since = self.now
            self.go_on(worker)
        self.send(InterruptDelivered(worker.id))

    def answer_reset(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.reset_at = None
        worker.free_since = self.now
        self.send(ResetDone(worker.id, recycle))

    def answer_setup(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.setting_up_at = None
        worker.free_since = self.now
        self.send(SetUpDone(worker.id, recycle))
        assert not recycle or worker.state == "stopping"

    def disappear(self, worker: SimWorker, recycle: str | None = None) -> None:
        if worker.begun and len(worker.has) > 1 and worker.state != "starting":
            # Its note tells what it worked on: that, and all before it, is in doubt.
            for request_id in worker.has[: worker.begun]:
                self.live[request_id].started = True
            self.prove(worker)
            self.send(RequestStarted(worker.id, worker.has[worker.begun - 1]))
        del self.workers[worker.id]
        self.gone.append(worker.id)
        self.failures += worker.state != "stopping"
        for rider in reversed([self.live[i] for i in worker.riders]):
            if rider.unwanted:
                continue
            if rider.started:
                self.expect_back(rider)
            else:
                self.expect_at_the_head(rider)
        request = self.live.get(worker.request or "")
        if request and worker.state == "up" and not request.interrupted and not request.in_lease:
            self.expect_back(request)
        match worker.state:
            case "starting":
                self.send(WorkerStartFailed(worker.id, "no such kernel"))
            case "stopping":
                self.send(WorkerStopped(worker.id))
            case _:
                self.send(WorkerDied(worker.id, "segfault"))

    def expect_back(self, request: SimRequest) -> None:
        """A worker died under it: whether it is to wait for another one."""
        if not request.started and request.redispatched < REDISPATCHES:
            request.redispatched += 1
        elif request.started and request.retries:
            request.retries -= 1
            request.attempt += 1
        else:
            return
        self.expect_at_the_head(request)

    def expect_all_back(self, riders: list[str]) -> None:
        for request_id in reversed(riders):
            request = self.live[request_id]
            # One that is run again had found a worker in time.
            request.dispatched = request.attempt > 1
            over = request.unwanted or is_over(request.run_deadline, self.now)
            if request.attempt == 1 and not over:
                request.run_deadline = None
            if not over:
                self.expect_at_the_head(request)

    def give_back(self, worker: SimWorker) -> GivenBack:
        """It will not begin what it has not begun."""
        back = worker.has[worker.begun :]
        return GivenBack(worker.id, tuple(back))

    def go_on(self, worker: SimWorker) -> None:
        """It goes on with the next that rode along."""
        if worker.request is None and worker.riders and worker.state == "up":
            if worker.interrupt_on_its_way:
                return
            worker.request = worker.riders.pop(0)
            request = self.live[worker.request]
            if request.run_timeout is not None and request.run_deadline is None:
                request.run_deadline = self.now + request.run_timeout

    def expect_at_the_head(self, request: SimRequest) -> None:
        if self.cancel_queued:
            request.unwanted = True
        else:
            self.queue.setdefault(request.group, []).insert(0, request.id)
            self.queue.move_to_end(request.group, last=False)

    # --- what goes wrong, and what operators do ------------------------------------------------

    def make_trouble(self, pick: Pick) -> None:
        self.handle(Tick())
        faults = (
            [self.kill, self.break_protocol, self.restart, self.use_memory] if self.workers else []
        )
        do = pick(
            [*faults, *faults, self.resize, self.drain, self.set_up, self.send_noise, self.close]
        )
        do(pick)

    def kill(self, pick: Pick) -> None:
        self.disappear(pick(list(self.workers.values())))

    def break_protocol(self, pick: Pick) -> None:
        worker = pick(list(self.workers.values()))
        self.send(ProtocolViolation(worker.id, "bad signature"))
        assert worker.state == "stopping"

    def use_memory(self, pick: Pick) -> None:
        worker = pick(list(self.workers.values()))
        if holder := worker.request or worker.lease:
            self.send(MemoryExceeded(worker.id, holder, "9 of 8"))
            assert worker.state == "stopping"

    def restart(self, pick: Pick) -> None:
        worker = pick(list(self.workers.values()))
        self.send(RestartWorker(worker.id))
        assert worker.state == "stopping"

    def resize(self, pick: Pick) -> None:
        size, overflow = pick([None, 0, 1, 2, 3]), pick([None, 0, 1, 2])
        config = self.core.config
        if (config.size if size is None else size) == 0:
            overflow = overflow or 1
        self.send(Resize(size, overflow))

    def drain(self, pick: Pick) -> None:
        left = {request.worker for request in self.live.values() if request.on_sufferance}
        free = [w for w in self.workers.values() if not w.at_work or w.id in left]
        self.send(Drain())
        assert all(worker.state == "stopping" for worker in free)

    def set_up(self, pick: Pick) -> None:
        """From here on no worker serves anybody new before it has run it."""
        free = []
        left = {request.worker for request in self.live.values() if request.on_sufferance}
        for worker in self.workers.values():
            if worker.state == "up":
                worker.lacks += 1
                free += [] if worker.at_work and worker.id not in left else [worker]
        self.send(SetUpAll())
        assert all(w.state == "stopping" or w.setting_up_at is not None for w in free)

    def close(self, pick: Pick) -> None:
        if len(self.log) < 300:
            return  # else most runs would be about pools that close
        self.closing = True
        cancel_queued, cancel_running = pick([False, True]), pick([False, True])
        self.cancel_queued |= cancel_queued
        line = self.line()
        for request in self.live.values():
            waits = (request.in_lease or request.id) in line
            if cancel_queued if waits else cancel_running:
                self.unwant(request.id)
        self.send(Close(cancel_queued, cancel_running))

    def send_noise(self, pick: Pick) -> None:
        """News from the dead, and from the living about what they are not doing."""
        before = repr(self.core)
        worker_id = pick([*self.workers, *self.gone[-2:], 999])
        worker = self.workers.get(worker_id)
        others = [i for i in [*self.live, *self.finished] if not worker or i != worker.request]
        request_id = pick([*others, "never"])
        noise: list[Any] = [
            Cancel("never"),
            ReturnLease("never"),
            RequestStarted(worker_id, request_id),
            RequestDone(worker_id, request_id),
            RequestRefused(worker_id, request_id, "late"),
            MemoryExceeded(worker_id, "never", "late"),
            Occupied(request_id if request_id in self.finished else "never", True),
        ]
        if worker is None:
            noise += [
                WorkerStartFailed(worker_id, "late"),
                WorkerDied(worker_id, "late"),
                WorkerStopped(worker_id),
                ProtocolViolation(worker_id, "late"),
                RestartWorker(worker_id),
                WorkerSpent(worker_id, "late"),
            ]
        if worker is None or worker.reset_at is None:
            noise.append(ResetDone(worker_id))
        if worker is None or worker.setting_up_at is None:
            noise.append(SetUpDone(worker_id))
        if worker is None or not worker.interrupt_on_its_way:
            noise.append(InterruptDelivered(worker_id))
        if worker is None or worker.state != "starting":
            noise.append(WorkerReady(worker_id))
        assert [command for event in noise for command in self.send(event)] == []
        assert repr(self.core) == before

    def let_time_pass(self, pick: Pick) -> None:
        """To the next deadline if that is near, or past several at once."""
        deadline, step = self.core.next_deadline(), pick([None, 0.25, 0.5, 1.0])
        if step is not None:
            self.now += step
        elif deadline is not None and deadline <= self.now + 3:
            self.now = deadline
        self.handle(Tick())

    # --- the simulated engine: every command must fit the account ------------------------------

    def send(self, event: Any) -> list[Any]:
        """One event, for which the timers have had their say."""
        self.handle(Tick())
        return self.handle(event)

    def handle(self, event: Any) -> list[Any]:
        self.event = event
        commands = self.core.handle(event, self.now)
        self.log.append((event, self.now, list(commands)))
        for command, self.following in zip(commands, [*commands, None][1:], strict=True):
            getattr(self, f"do_{type(command).__name__}")(command)
        self.set_aside()
        while self.due:
            self.tell_what_is_given_back(self.due.pop(0))
        deadline = self.core.next_deadline()
        assert deadline is None or deadline > self.now
        return list(commands)

    def tell_what_is_given_back(self, worker: SimWorker) -> None:
        if worker.id not in self.workers:
            return
        event = self.give_back(worker)
        back = [str(request_id) for request_id in event.request_ids]
        if worker.state == "stopping" and back[:1] == [worker.request]:
            del back[0]
        if worker.request in back:
            worker.request = None
            worker.free_since = self.now
            if not worker.interrupt_on_its_way:
                worker.interrupted_at = None
        worker.riders = [i for i in worker.riders if i not in back]
        self.expect_all_back(back)
        self.handle(event)
        for request_id in back:
            request = self.live.get(request_id)
            assert request is None or not request.unwanted

    def do_TakeBack(self, command: TakeBack) -> None:
        self.due.append(self.workers[command.worker_id])

    def do_Ride(self, command: Ride) -> None:
        worker = self.workers[command.worker_id]
        assert worker.state == "up"
        assert worker.request is not None
        self.board(worker, command.riders)

    def board(self, worker: SimWorker, riders: Any) -> None:
        self.rides += len(riders)
        assert not riders or worker.lacks == 0
        for request_id, attempt in riders:
            request = self.live[request_id]
            assert not request.unwanted
            assert request.kind in self.quick
            assert attempt == request.attempt
            self.take_turn(request)
            request.dispatched, request.started, request.worker = True, False, worker.id
            worker.riders.append(request_id)
        if riders and self.config.max_tasks is not None:
            assert worker.served + len(worker.has) <= self.config.max_tasks

    def do_StartWorker(self, command: StartWorker) -> None:
        assert not self.closed
        assert command.worker_id == len(self.workers) + len(self.gone) + 1
        self.workers[command.worker_id] = SimWorker(command.worker_id, self.now)
        assert len(self.workers) <= self.core.config.max_processes

    def do_StopWorker(self, command: StopWorker) -> None:
        worker, config = self.workers[command.worker_id], self.core.config
        assert worker.state != "stopping"
        assert command.kill or worker.request is None
        match command.why:
            case StopReason.START_TIMEOUT:
                assert worker.state == "starting"
                assert self.now >= worker.started_at + config.start_timeout
            case StopReason.TIMED_OUT | StopReason.CANCELLED:
                assert worker.interrupted_at is not None
                assert self.now >= worker.interrupted_at + config.interrupt_grace
            case StopReason.MEMORY_LIMIT:
                assert worker.request or worker.lease
            case StopReason.RESET_FAILED:
                assert worker.reset_at is not None
                assert self.now >= worker.reset_at + config.reset_timeout
            case StopReason.SETUP_FAILED:
                assert worker.setting_up_at is not None
                assert self.now >= worker.setting_up_at + config.start_timeout
            case StopReason.RECYCLED if command.detail == "isolation" and not worker.for_one_only:
                # To make way for one that has served nobody, for somebody who wants that.
                assert worker.used
                assert not worker.at_work
                assert any(self.live[i].isolation == "process" for i in self.line())
                # While starts fail, only for one that is there already.
                assert not self.degraded or isinstance(self.following, Dispatch)
            case StopReason.RECYCLED if command.detail == "max_tasks":
                assert config.max_tasks is not None
                assert worker.served >= config.max_tasks
            case StopReason.RECYCLED if command.detail == "lifetime":
                assert config.max_lifetime is not None
                assert self.now >= worker.ready_at + 0.9 * config.max_lifetime
            case StopReason.SHRUNK if isinstance(self.event, Tick) and not self.one_too_many(
                worker
            ):
                assert config.max_idle is not None
                assert self.now >= worker.free_since + config.max_idle
            case StopReason.CLOSED:
                assert self.closing
                assert not self.live
        worker.state = "stopping"
        self.failures += 1

    def one_too_many(self, worker: SimWorker) -> bool:
        """It is given back now, by a lease that is over, to a pool that has become smaller."""
        up = [w for w in self.workers.values() if w.state == "up"]
        return worker.free_since == self.now and len(up) > self.core.config.capacity

    def do_SetUp(self, command: SetUp) -> None:
        worker = self.workers[command.worker_id]
        assert worker.state == "up"
        assert not worker.at_work
        assert worker.lacks or isinstance(self.event, SetUpAll)
        worker.lacks = 0
        worker.setting_up_at = self.now

    def do_Dispatch(self, command: Dispatch) -> None:
        worker, request = self.workers[command.worker_id], self.live[str(command.request_id)]
        assert worker.state == "up"
        assert worker.request is None
        assert worker.reset_at is None
        assert worker.setting_up_at is None
        assert worker.lacks == 0 or request.in_lease
        assert not worker.interrupt_on_its_way
        assert not request.unwanted
        if request.in_lease:
            lease = self.live[request.in_lease]
            assert worker.lease == lease.id
            assert lease.runs.pop(0) == request.id
        else:
            assert worker.lease is None
            assert not worker.for_one_only
            self.take_turn(request)
            if request.isolation == "process" or self.config.replace_after_request:
                assert not worker.used
                worker.for_one_only = True
            worker.used = True
        if request.run_timeout is not None and request.run_deadline is None:
            request.run_deadline = self.now + request.run_timeout
        request.dispatched, request.started, request.worker = True, False, worker.id
        request.refused = False
        assert (command.attempt, command.run_deadline) == (request.attempt, request.run_deadline)
        if request.lease:
            worker.lease = request.id
        else:
            worker.request = request.id
            worker.begun = 1
            self.board(worker, command.riders)
        at_work = [w for w in self.workers.values() if w.state == "up" and w.at_work]
        assert request.in_lease or len(at_work) <= self.core.config.capacity

    def do_Interrupt(self, command: Interrupt) -> None:
        worker, request = self.workers[command.worker_id], self.live[str(command.request_id)]
        assert worker.state == "up"
        assert worker.request == request.id
        assert not request.interrupted
        assert request.unwanted or is_over(request.run_deadline, self.now)
        request.interrupted = worker.interrupt_on_its_way = True
        worker.interrupted_at = self.now
        self.due.append(worker)

    def do_Reset(self, command: Reset) -> None:
        worker = self.workers[command.worker_id]
        assert worker.state == "up"
        assert not worker.at_work
        worker.reset_at = self.now

    def do_Degraded(self, command: Degraded) -> None:
        assert not self.degraded
        self.degraded = True
        self.trusted = False

    def do_Recovered(self, command: Recovered) -> None:
        assert self.degraded
        self.degraded = False

    def do_BreakerMoved(self, command: BreakerMoved) -> None:
        assert not self.closing
        assert command.state is not self.breaker
        # It opens only because of failures, and tries only when it is open.
        assert command.state is not Breaker.HALF_OPEN or self.breaker is Breaker.OPEN
        self.breaker = command.state

    def do_Closed(self, command: Closed) -> None:
        assert self.closing
        assert not self.closed
        assert not self.live
        assert not self.workers
        self.closed = True

    def do_Finish(self, command: Finish) -> None:
        request = self.live.pop(str(command.request_id))
        assert command.worker_id == request.worker
        self.explain(command, request)
        self.finished[request.id] = command
        self.leave_line(request)
        assert not request.runs  # what waited in a lease has ended before it
        if (worker := self.workers.get(request.worker or 0)) is not None:
            assert command.clean
            if worker.request == request.id:
                assert request.done
                worker.request = None
                self.go_on(worker)
            elif request.id in worker.riders:
                assert request.done
                worker.riders.remove(request.id)
            if worker.lease == request.id:
                worker.lease = None
                worker.free_since = self.now
                run = self.live.get(worker.request or "")
                if run is not None and run.in_lease == request.id:
                    run.unwanted = True

    def explain(self, command: Finish, request: SimRequest) -> None:
        """An outcome is a request's own, or that of the lease it waited in."""
        waited_in_lease = request.in_lease and (request.refused or not request.dispatched)
        lost = request.worker in self.gone
        match command.outcome:
            case Outcome.DONE:
                worker = self.workers.get(request.worker or 0)
                given_up = request.on_sufferance and worker and self.is_needed(worker)
                assert request.done or given_up
                assert not request.interrupted
            case Outcome.CHECKOUT_TIMEOUT if not waited_in_lease:
                assert not request.dispatched
                assert is_over(request.checkout_deadline, self.now)
            case Outcome.OPERATION_TIMEOUT if not waited_in_lease:
                assert is_over(request.run_deadline, self.now)
            case Outcome.CANCELLED if not waited_in_lease:
                assert request.unwanted
            case Outcome.SATURATED:
                assert 0 < self.config.max_waiting <= len(self.line())
            case Outcome.CLOSED:
                assert self.closing
            case Outcome.START_FAILED:
                up = [w for w in self.core.workers.values() if w.state in SERVING]
                waiter = self.live.get(request.in_lease or "", request)
                assert not up or (self.degraded and waiter.isolation == "process")
                few = self.failures < self.config.failure_limit
                assert self.degraded or not (self.trusted and few)
            case (
                Outcome.WORKER_DIED
                | Outcome.RESTARTED
                | Outcome.PROTOCOL_ERROR
                | Outcome.MEMORY_LIMIT_EXCEEDED
            ):
                assert lost or waited_in_lease
        assert command.clean is not lost or (command.clean and not request.done)

    # --- the simulation's own queue ------------------------------------------------------------

    def line(self) -> list[str]:
        """Everybody who waits for a worker, in the order of service."""
        groups, order = [list(group) for group in self.queue.values()], list(self.aside)
        while groups:
            group = groups.pop(0)
            order.append(group.pop(0))
            if group:
                groups.append(group)
        return order

    def take_turn(self, request: SimRequest) -> None:
        """It gets a worker: it was the first of those set aside, or comes next in line."""
        if request.id in self.aside:
            assert request.id == self.aside.pop(0)
            return
        while (following := self.next_in_line()) != request.id:
            assert self.live[following].isolation == "process"
            self.aside.append(following)
        assert request.isolation != "process" or not self.aside

    def set_aside(self) -> None:
        """Follow the core: only the next in line, and only who wants a process of its own."""
        while self.aside != list(self.core.set_aside):
            self.aside.append(self.next_in_line())
            assert self.live[self.aside[-1]].isolation == "process"

    def next_in_line(self) -> str:
        group, waiters = next(iter(self.queue.items()))
        first = waiters.pop(0)
        del self.queue[group]
        if waiters:
            self.queue[group] = waiters
        return first

    def leave_line(self, request: SimRequest) -> None:
        lease = self.live.get(request.in_lease or "")
        if lease is not None and request.id in lease.runs:
            lease.runs.remove(request.id)
        if request.id in self.aside:
            self.aside.remove(request.id)
        if request.id in self.queue.get(request.group, ()):
            self.queue[request.group].remove(request.id)
            if not self.queue[request.group]:
                del self.queue[request.group]

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def everything_holds(self) -> None:
        self.accounts_agree()
        self.sizes_are_kept()
        self.nobody_waits_for_nothing()
        self.no_deadline_is_overlooked()

    def accounts_agree(self) -> None:
        core, line = self.core, self.line()
        assert set(core.workers) == set(self.workers)
        for worker in self.workers.values():
            record = core.workers[worker.id]
            assert (record.state is WorkerState.STOPPING) is (worker.state == "stopping")
            assert (record.state is WorkerState.STARTING) is (worker.state == "starting")
            assert (record.request_id, record.lease_id) == (worker.request, worker.lease)
            assert [rider.id for rider in record.riders] == worker.riders
            assert record.served == worker.served
            assert record.pristine is (not worker.used)
        assert core.queue_length == len(line) <= core.high_water
        assert [core.queue_position(i) for i in line] == list(range(len(line)))
        assert (core.state is PoolState.DEGRADED) is (self.degraded and not self.closing)
        assert core.breaker[0] is self.breaker
        if not self.closing:
            assert (self.breaker is not Breaker.CLOSED) is self.degraded

    def sizes_are_kept(self) -> None:
        counts, config = self.core.counts(), self.core.config
        serving = sum(counts[state] for state in SERVING)
        assert serving <= config.capacity or not counts[WorkerState.IDLE]
        assert counts[WorkerState.STANDBY] <= config.reserve
        assert sum(r.overflow for r in self.core.workers.values()) == self.core.overflow_in_use
        assert self.core.overflow_in_use == max(0, serving - config.size)

    def nobody_waits_for_nothing(self) -> None:
        counts = self.core.counts()
        if not self.core.queue_length:
            return
        serving, capacity = sum(counts[state] for state in SERVING), self.core.config.capacity
        idle = [w for w in self.core.workers.values() if w.state is WorkerState.IDLE]
        assert not counts[WorkerState.STANDBY] or serving >= capacity
        left, occupied = self.lingering(occupied=False), self.lingering(occupied=True)
        if self.queue:
            assert not idle
            assert not left
            assert not occupied or counts[WorkerState.RESETTING] >= sum(
                map(len, self.queue.values())
            )
        # Those set aside may wait while used workers idle, but not while others do; and used ones
        # have made way for starts, unless starts fail.
        assert not any(worker.pristine for worker in idle)
        assert not counts[WorkerState.STANDBY] or not (idle or (self.aside and left))
        if self.aside and (idle or left) and not self.degraded:
            reserve = 0 if self.closing else self.core.config.reserve
            to_be_filled = capacity - serving + reserve - counts[WorkerState.STANDBY]
            assert len(self.aside) <= to_be_filled
        if self.aside and self.degraded:
            assert counts[WorkerState.STARTING] or counts[WorkerState.STANDBY]
        if serving < capacity and not counts[WorkerState.STARTING]:
            # A start is due, or a process must go first.
            assert self.core.next_deadline() is not None or counts[WorkerState.STOPPING]

    def no_deadline_is_overlooked(self) -> None:
        for request_id in self.line():
            request = self.live[request_id]
            assert request.dispatched or not is_over(request.checkout_deadline, self.now)
            assert not is_over(request.run_deadline, self.now)
        for worker in self.workers.values():
            if worker.state == "up" and worker.request:
                request = self.live[worker.request]
                assert request.interrupted or not is_over(request.run_deadline, self.now)

    # --- the end -------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        self.settling, self.wish = True, None
        if not self.closing:
            self.send(Start())
            self.settle(self.is_whole)
        self.closing = True
        self.send(Close(cancel_queued=False, cancel_running=False))
        self.settle(lambda: self.closed)
        assert repr(self.core) == "<PoolCore closed [Workers: none | Requests: none]>"
        assert self.core.next_deadline() is None
        assert len(self.finished) == self.ids
        self.check_that_closed_came_last()
        self.replay()

    def settle(self, reached: Callable[[], bool]) -> None:
        """From here on, nothing goes wrong any more."""
        for _ in range(1000):
            while self.work_well():
                pass
            if reached():
                return
            deadline = self.core.next_deadline()
            assert deadline is not None, f"stuck: {self.core}"
            self.now = deadline
            self.handle(Tick())
        raise AssertionError(f"not settled: {self.core}")

    def work_well(self) -> bool:
        for worker in list(self.workers.values()):
            if duties := self.duties(worker):
                _, do = duties[-1]
                do(worker)
                return True
            lease = self.live.get(worker.lease or "")
            if lease and (self.settling or not lease.on_sufferance):
                self.unwant(lease.id)
                self.send(ReturnLease(lease.id))
                return True
        return False

    def is_whole(self) -> bool:
        """Everybody is served, and all workers that there should be are there, and idle."""
        counts, config = self.core.counts(), self.core.config
        idle, standby = counts.pop(WorkerState.IDLE), counts.pop(WorkerState.STANDBY)
        most = config.size if config.max_idle is not None else config.capacity
        return (
            not self.live
            and self.core.state is PoolState.RUNNING
            and not any(counts.values())
            and (0 if config.lazy else config.size) <= idle <= most
            and standby == config.reserve
        )

    def check_that_closed_came_last(self) -> None:
        commands = [command for _, _, commands in self.log for command in commands]
        assert commands.count(Closed()) == 1
        # Nothing may follow but the refusal of a request that came too late.
        for command in commands[commands.index(Closed()) + 1 :]:
            assert isinstance(command, Finish)
            assert command.outcome is Outcome.CLOSED

    def replay(self) -> None:
        twin = PoolCore(self.config)
        for event, now, commands in self.log:
            assert twin.handle(event, now) == commands


SERVING = (
    WorkerState.IDLE,
    WorkerState.BUSY,
    WorkerState.INTERRUPTING,
    WorkerState.LEASED,
    WorkerState.RESETTING,
    WorkerState.SETTING_UP,
)


def is_over(deadline: float | None, now: float) -> bool:
    return deadline is not None and deadline <= now


def picking(data: st.DataObject) -> Pick:
    return lambda options: data.draw(st.sampled_from(options))


# It counts storms, not seconds: on a busy machine they take longer.
TestPoolCore = pytest.mark.timeout(400)(PoolMachine.TestCase)
TestPoolCore.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
