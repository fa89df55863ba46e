"""The core against a simulated engine that does everything in every order.

The simulation keeps its own, much simpler account of what is going on and checks each command
against it. What it holds, step by step:

- a worker is given to one request at a time, and only while nothing else can still hit it
- every request finishes exactly once, with an outcome that something in its history explains
- first come first served within a group, groups take turns
- a cancelled waiter never gets a worker
- no deadline acts early, and none is overlooked
- never more serving workers than size + overflow, never more processes than the bound
- every stopped worker is stopped once

and at the end, when all faults stop: the pool is back at its size, serves everybody, closes, and says
so once, last. The same events at the same times then give a second core the same commands.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from jupyter_pool.core import (
    Cancel,
    Close,
    Closed,
    CoreConfig,
    Degraded,
    Dispatch,
    Drain,
    Finish,
    Interrupt,
    InterruptDelivered,
    Outcome,
    PoolCore,
    PoolState,
    ProtocolViolation,
    Recovered,
    RequestDone,
    RequestStarted,
    Reset,
    ResetDone,
    Resize,
    RestartWorker,
    ReturnLease,
    Start,
    StartWorker,
    StopReason,
    StopWorker,
    Submit,
    SubmitInLease,
    Tick,
    WorkerDied,
    WorkerReady,
    WorkerStartFailed,
    WorkerState,
    WorkerStopped,
)

REDISPATCHES = 3
Act: TypeAlias = "Callable[..., None]"


@dataclass
class SimRequest:
    """What the simulation knows of a request."""

    id: str
    group: str
    checkout_deadline: float | None
    run_timeout: float | None
    retries: int
    lease: bool
    in_lease: str | None = None
    dispatched: int = 0
    run_deadline: float | None = None
    worker: int | None = None
    started: bool = False
    redispatched: int = 0
    attempt: int = 1
    unwanted: bool = False
    interrupted: bool = False
    done: bool = False
    runs: list[str] = field(default_factory=list)


@dataclass
class SimWorker:
    """A simulated process."""

    id: int
    state: str = "starting"  # starting, up, stopping
    stopped_for: StopReason | None = None
    request: str | None = None
    lease: str | None = None
    interrupt_on_its_way: bool = False
    resetting: bool = False


def seconds(low: int = 0, high: int = 40) -> st.SearchStrategy[float]:
    # Quarters are exact in binary, so that deadlines can be met to the dot.
    return st.integers(low, high).map(lambda quarters: quarters / 4)


class PoolMachine(RuleBasedStateMachine):
    # --- the simulated engine ------------------------------------------------------------------

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
    def make(self, size: int, overflow: int, **options: object) -> None:
        self.config = CoreConfig(
            size=max(size, 1 - overflow),
            overflow=overflow,
            interrupt_grace=1.0,
            start_timeout=8.0,
            reset_timeout=2.0,
            backoff_initial=0.25,
            backoff_max=2.0,
            failure_window=10.0,
            **options,  # type: ignore[arg-type]
        )
        self.now = 0.0
        self.core = PoolCore(self.config)
        self.log: list[tuple[object, float, list[object]]] = []
        self.live: dict[str, SimRequest] = {}
        self.finished: dict[str, Finish] = {}
        self.workers: dict[int, SimWorker] = {}
        self.gone: list[int] = []
        self.queue: OrderedDict[str, list[str]] = OrderedDict()
        self.ids = 0
        self.leases: list[str] = []
        self.degraded = False
        self.closing = self.cancel_queued = self.closed = False

    def send(self, event: object) -> list[object]:
        """One event; the timers have their say before, as in the engine's loop."""
        self.handle(Tick())
        return self.handle(event)

    def handle(self, event: object) -> list[object]:
        commands = self.core.handle(event, self.now)  # type: ignore[arg-type]
        self.log.append((event, self.now, list(commands)))
        for command in commands:
            getattr(self, f"do_{type(command).__name__}")(command)
        deadline = self.core.next_deadline()
        assert deadline is None or deadline > self.now
        return list(commands)

    def do_StartWorker(self, command: StartWorker) -> None:
        assert not self.closed
        assert command.worker_id == len(self.workers) + len(self.gone) + 1
        self.workers[command.worker_id] = SimWorker(command.worker_id)
        assert len(self.workers) <= self.core.config.max_processes

    def do_StopWorker(self, command: StopWorker) -> None:
        worker = self.workers[command.worker_id]
        assert worker.state != "stopping"
        if not command.kill:
            assert worker.request is None
        worker.state, worker.stopped_for = "stopping", command.why

    def do_Dispatch(self, command: Dispatch) -> None:
        worker, request = self.workers[command.worker_id], self.live[command.request_id]
        assert worker.state == "up"
        assert worker.request is None
        assert not worker.resetting
        assert not worker.interrupt_on_its_way
        assert not request.unwanted
        if request.in_lease:
            lease = self.live[request.in_lease]
            assert worker.lease == lease.id
            assert lease.runs.pop(0) == request.id
        else:
            assert worker.lease is None
            assert request.id == self.next_in_line()
        if request.run_timeout is not None and request.run_deadline is None:
            request.run_deadline = self.now + request.run_timeout
        request.dispatched += 1
        request.worker, request.started = worker.id, False
        assert (command.attempt, command.run_deadline) == (request.attempt, request.run_deadline)
        if request.lease:
            worker.lease = request.id
        else:
            worker.request = request.id

    def do_Interrupt(self, command: Interrupt) -> None:
        worker, request = self.workers[command.worker_id], self.live[command.request_id]
        assert worker.state == "up"
        assert worker.request == request.id
        assert not request.interrupted
        assert request.unwanted or self.is_over(request.run_deadline)
        request.interrupted = worker.interrupt_on_its_way = True

    def do_Reset(self, command: Reset) -> None:
        worker = self.workers[command.worker_id]
        assert worker.state == "up"
        assert worker.request is None
        assert worker.lease is None
        worker.resetting = True

    def do_Degraded(self, command: Degraded) -> None:
        assert not self.degraded
        self.degraded = True

    def do_Recovered(self, command: Recovered) -> None:
        assert self.degraded
        self.degraded = False

    def do_Closed(self, command: Closed) -> None:
        assert self.closing
        assert not self.closed
        assert not self.live
        assert not self.workers
        self.closed = True

    def do_Finish(self, command: Finish) -> None:
        request = self.live.pop(command.request_id)
        self.finished[request.id] = command
        self.leave_line(request)
        worker = self.workers.get(request.worker) if request.worker is not None else None
        assert command.worker_id == request.worker
        self.explain(command, request)
        if worker is not None:
            # Whoever is finished while a worker still has it was replied to, or hands it back.
            assert command.clean
            if worker.request == request.id:
                assert request.done
                worker.request = None
            if worker.lease == request.id:
                worker.lease = None
                if worker.request is not None:
                    self.live[worker.request].unwanted = True
        for run in request.runs:
            assert run not in self.live  # what waited in a lease has ended before it

    def explain(self, command: Finish, request: SimRequest) -> None:
        lease = self.live.get(request.in_lease or "")
        match command.outcome:
            case Outcome.DONE:
                assert request.done
            case Outcome.CHECKOUT_TIMEOUT:
                if lease is None and request.in_lease:
                    return
                assert not request.dispatched
                assert self.is_over(request.checkout_deadline) or lease
            case Outcome.OPERATION_TIMEOUT:
                assert self.is_over(request.run_deadline) or (
                    lease and self.is_over(lease.run_deadline)
                )
            case Outcome.CANCELLED:
                assert (
                    request.unwanted or (lease is not None and lease.unwanted) or request.in_lease
                )
            case Outcome.SATURATED:
                assert 0 < self.config.max_waiting <= len(self.line())
            case Outcome.CLOSED:
                assert self.closing
            case Outcome.WORKER_DIED:
                assert request.worker in self.gone or request.in_lease
            case Outcome.START_FAILED:
                assert self.core.counts()[WorkerState.IDLE] == 0
            case Outcome.RESTARTED | Outcome.PROTOCOL_ERROR:
                assert request.worker in self.gone or request.in_lease

    def is_over(self, deadline: float | None) -> bool:
        return deadline is not None and deadline <= self.now

    # --- the simulation's own queue ------------------------------------------------------------

    def line(self) -> list[str]:
        """Everybody who waits, in the order of service."""
        groups, order = [list(group) for group in self.queue.values()], []
        while groups:
            group = groups.pop(0)
            order.append(group.pop(0))
            if group:
                groups.append(group)
        return order

    def next_in_line(self) -> str:
        group, waiters = next(iter(self.queue.items()))
        first = waiters.pop(0)
        del self.queue[group]
        if waiters:
            self.queue[group] = waiters
        return first

    def leave_line(self, request: SimRequest) -> None:
        if request.in_lease:
            lease = self.live.get(request.in_lease)
            if lease is not None and request.id in lease.runs:
                lease.runs.remove(request.id)
        elif request.id in self.queue.get(request.group, ()):
            self.queue[request.group].remove(request.id)
            if not self.queue[request.group]:
                del self.queue[request.group]

    # --- what users do -------------------------------------------------------------------------

    @rule(
        groups=st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
        patience=st.none() | seconds(0, 20),
        run_timeout=st.none() | seconds(),
        retries=st.integers(0, 2),
        lease=st.sampled_from([False, False, True]),
        isolation=st.sampled_from(["namespace", "namespace", "process", "none"]),
    )
    def submit(
        self,
        groups: list[str],
        patience: float | None,
        run_timeout: float | None,
        retries: int,
        lease: bool,
        isolation: str,
    ) -> None:
        self.handle(Tick())
        for group in groups:
            self.ids += 1
            deadline = None if patience is None else self.now + patience
            request = SimRequest(f"r{self.ids}", group, deadline, run_timeout, retries, lease)
            self.live[request.id] = request
            if lease:
                self.leases.append(request.id)
            saturated = 0 < self.config.max_waiting <= len(self.line())
            if not saturated and not self.closing:
                self.queue.setdefault(group, []).append(request.id)
            self.send(Submit(request.id, group, deadline, run_timeout, retries, lease, isolation))
            if saturated or self.closing:
                assert request.id in self.finished

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), run_timeout=st.none() | seconds())
    def submit_in_lease(self, data: st.DataObject, run_timeout: float | None) -> None:
        self.handle(Tick())
        lease_id = data.draw(st.sampled_from(self.leases))
        self.ids += 1
        run = SimRequest(f"r{self.ids}", "", None, run_timeout, 0, False, in_lease=lease_id)
        self.live[run.id] = run
        if lease := self.live.get(lease_id):
            lease.runs.append(run.id)
        self.send(SubmitInLease(run.id, lease_id, run_timeout))
        assert (run.id in self.finished) is (lease is None or run.id not in self.live)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), discard=st.booleans())
    def return_lease(self, data: st.DataObject, discard: bool) -> None:
        self.handle(Tick())
        lease_id = data.draw(st.sampled_from(self.leases))
        self.give_up(lease_id)
        self.send(ReturnLease(lease_id, discard))
        self.assert_given_up(lease_id)

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.handle(Tick())
        request_id = data.draw(st.sampled_from([*self.live, *self.finished]))
        waited = request_id in self.line()
        self.give_up(request_id)
        commands = self.send(Cancel(request_id))
        if waited:
            assert (
                Finish(request_id, Outcome.CANCELLED, self.finished[request_id].worker_id)
                in commands
            )
        self.assert_given_up(request_id)

    def give_up(self, request_id: str) -> None:
        if request := self.live.get(request_id):
            request.unwanted = True
            if request.lease and request.worker is not None:
                request.done = True  # for a lease that is held, "done" is that it was returned

    def assert_given_up(self, request_id: str) -> None:
        """It has ended, or a worker that holds it is interrupted or being killed."""
        if request := self.live.get(request_id):
            assert request.worker is not None
            worker = self.workers[request.worker]
            assert request.interrupted or worker.state == "stopping"

    @rule(size=st.none() | st.integers(0, 3), overflow=st.none() | st.integers(0, 2))
    def resize_or_drain(self, size: int | None, overflow: int | None) -> None:
        self.handle(Tick())
        if size is overflow is None:
            self.drain()
            return
        new_size = self.core.config.size if size is None else size
        if new_size + (self.core.config.overflow if overflow is None else overflow) == 0:
            overflow = 1
        self.send(Resize(size, overflow))

    def drain(self) -> None:
        before = {w.id for w in self.workers.values() if w.state != "stopping"}
        busy = {w.id for w in self.workers.values() if w.request or w.lease or w.resetting}
        busy |= {w.id for w in self.workers.values() if w.interrupt_on_its_way}
        self.send(Drain())
        for worker_id in before - busy:
            assert self.workers[worker_id].state == "stopping"

    # Rare, else most runs would be about a pool that closes.
    @precondition(lambda self: len(self.log) > 150)
    @rule(cancel_queued=st.booleans(), cancel_running=st.booleans())
    def close(self, cancel_queued: bool, cancel_running: bool) -> None:
        self.handle(Tick())
        self.closing = True
        self.cancel_queued |= cancel_queued
        for request in self.live.values():
            waits = (request.in_lease or request.id) in self.line()
            if (waits and cancel_queued) or (not waits and cancel_running):
                self.give_up(request.id)
        self.send(Close(cancel_queued, cancel_running))

    # --- what workers do -----------------------------------------------------------------------

    @precondition(lambda self: self.workers)
    @rule(
        data=st.data(), steps=st.integers(1, 5), recycle=st.sampled_from([None, None, None, "why"])
    )
    def work(self, data: st.DataObject, steps: int, recycle: str | None) -> None:
        """Workers do what they should, in any order."""
        self.handle(Tick())
        for _ in range(steps):
            if acts := [act for worker in self.workers.values() for act in self.duties(worker)]:
                worker, act = data.draw(st.sampled_from(acts))
                act(self, worker, recycle)

    def duties(self, worker: SimWorker) -> list[tuple[SimWorker, Act]]:
        acts: list[Act] = []
        if worker.state == "starting":
            acts.append(PoolMachine.become_ready)
        if worker.state == "stopping":
            acts.append(PoolMachine.disappear)
        if worker.interrupt_on_its_way:
            acts.append(PoolMachine.deliver)
        if worker.request:
            acts += [PoolMachine.begin, PoolMachine.reply]
        if worker.resetting:
            acts.append(PoolMachine.finish_reset)
        return [(worker, act) for act in acts]

    def become_ready(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.state = "up"
        self.send(WorkerReady(worker.id))

    def begin(self, worker: SimWorker, recycle: str | None = None) -> None:
        self.live[worker.request or ""].started = True
        self.send(RequestStarted(worker.id, worker.request))

    def reply(self, worker: SimWorker, recycle: str | None = None) -> None:
        request = self.live[worker.request or ""]
        request.done = worker.state == "up"
        request.started = True
        commands = self.send(RequestDone(worker.id, request.id, recycle))
        if request.done:
            finish = self.finished[request.id]
            assert finish in commands
            assert finish.clean
            assert (finish.outcome is Outcome.DONE) is (not request.interrupted)
        else:
            assert commands == []  # too late: it is being killed

    def deliver(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.interrupt_on_its_way = False
        self.send(InterruptDelivered(worker.id))

    def finish_reset(self, worker: SimWorker, recycle: str | None = None) -> None:
        worker.resetting = False
        self.send(ResetDone(worker.id, recycle))

    def disappear(self, worker: SimWorker, recycle: str | None = None) -> None:
        del self.workers[worker.id]
        self.gone.append(worker.id)
        request = self.live.get(worker.request or "")
        if (
            request is not None
            and worker.state == "up"
            and not request.interrupted
            and not request.in_lease
            and not self.cancel_queued
        ):
            back = False
            if not request.started and request.redispatched < REDISPATCHES:
                request.redispatched += 1
                back = True
            elif request.started and request.retries:
                request.retries -= 1
                request.attempt += 1
                back = True
            if back:
                self.queue.setdefault(request.group, []).insert(0, request.id)
                self.queue.move_to_end(request.group, last=False)
        elif request is not None and self.cancel_queued:
            request.unwanted = True
        match worker.state:
            case "starting":
                self.send(WorkerStartFailed(worker.id, "no such kernel"))
            case "stopping":
                self.send(WorkerStopped(worker.id))
            case _:
                self.send(WorkerDied(worker.id, "segfault"))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), fault=st.sampled_from(["death", "death", "protocol", "restart"]))
    def something_breaks(self, data: st.DataObject, fault: str) -> None:
        self.handle(Tick())
        if not self.workers:
            return
        worker = data.draw(st.sampled_from(list(self.workers.values())))
        if fault == "death":
            self.disappear(worker)
        elif fault == "protocol":
            self.send(ProtocolViolation(worker.id, "bad signature"))
            assert worker.state == "stopping"
        else:
            self.send(RestartWorker(worker.id))
            assert worker.state == "stopping"

    @rule(data=st.data())
    def news_that_mean_nothing(self, data: st.DataObject) -> None:
        """From the dead, and from the living about what they are not doing."""
        self.handle(Tick())
        before = repr(self.core)
        worker = self.workers.get(data.draw(st.sampled_from([*self.workers, *self.gone[-2:], 999])))
        requests = [i for i in [*self.live, *self.finished] if not worker or i != worker.request]
        request_id = data.draw(st.sampled_from([*requests, "never"]))
        worker_id = worker.id if worker else data.draw(st.sampled_from([*self.gone[-2:], 999]))
        events = [
            RequestStarted(worker_id, request_id),
            RequestDone(worker_id, request_id),
            Cancel("never"),
            ReturnLease("never"),
        ]
        if worker is None:
            events += [
                WorkerStartFailed(worker_id, "late"),
                WorkerDied(worker_id, "late"),
                WorkerStopped(worker_id),
                ProtocolViolation(worker_id, "late"),
                RestartWorker(worker_id),
            ]
        if worker is None or not worker.resetting:
            events.append(ResetDone(worker_id))
        if worker is None or not worker.interrupt_on_its_way:
            events.append(InterruptDelivered(worker_id))
        if worker is None or worker.state != "starting":
            events.append(WorkerReady(worker_id))
        for event in events:
            assert self.send(event) == []
        assert repr(self.core) == before

    # --- time ----------------------------------------------------------------------------------

    @rule(by=seconds(1, 8))
    def time_passes(self, by: float) -> None:
        """All at once, as for an engine that was held up."""
        self.now += by
        self.handle(Tick())

    @rule()
    def next_deadline_comes(self) -> None:
        deadline = self.core.next_deadline()
        if deadline is not None:
            self.now = deadline
            self.handle(Tick())

    # --- what always holds ---------------------------------------------------------------------

    @invariant()
    def accounts_agree(self) -> None:
        core = self.core
        assert set(core.workers) == set(self.workers)
        for worker in self.workers.values():
            record = core.workers[worker.id]
            assert (record.state is WorkerState.STOPPING) is (worker.state == "stopping")
            assert (record.state is WorkerState.STARTING) is (worker.state == "starting")
            assert (record.request_id, record.lease_id) == (worker.request, worker.lease)
        line = self.line()
        assert core.queue_length == len(line)
        assert [core.queue_position(i) for i in line] == list(range(len(line)))
        assert core.high_water >= core.queue_length
        assert (core.state is PoolState.DEGRADED) is (self.degraded and not self.closing)

    @invariant()
    def sizes_are_kept(self) -> None:
        counts, config = self.core.counts(), self.core.config
        free = counts[WorkerState.IDLE]
        serving = self.serving()
        assert serving <= config.capacity or not free
        assert counts[WorkerState.STANDBY] <= config.reserve
        assert sum(r.overflow for r in self.core.workers.values()) == self.core.overflow_in_use
        assert self.core.overflow_in_use == max(0, serving - config.size)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        counts = self.core.counts()
        if self.line():
            assert not counts[WorkerState.IDLE]
            if counts[WorkerState.STANDBY]:
                assert self.serving() >= self.core.config.capacity
            if not (self.serving() or counts[WorkerState.STARTING]):
                # Something will happen: a start is due, or a process must go first.
                assert self.core.next_deadline() is not None or counts[WorkerState.STOPPING]

    @invariant()
    def no_deadline_is_overlooked(self) -> None:
        for request_id in self.line():
            request = self.live[request_id]
            if not request.dispatched and request.checkout_deadline is not None:
                assert request.checkout_deadline > self.now
            if request.run_deadline is not None:
                assert request.run_deadline > self.now
        for worker in self.workers.values():
            if worker.state == "up" and worker.request:
                request = self.live[worker.request]
                if request.run_deadline is not None and not request.interrupted:
                    assert request.run_deadline > self.now

    def serving(self) -> int:
        counts = self.core.counts()
        apart = (WorkerState.STANDBY, WorkerState.STARTING, WorkerState.STOPPING)
        return sum(n for state, n in counts.items() if state not in apart)

    # --- the end -------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "core"):
            return
        if not self.closing:
            self.send(Start())
            self.settle(self.is_whole)
            assert self.core.state is PoolState.RUNNING
            assert not self.live
        self.closing = True
        self.send(Close(False, False))
        self.settle(lambda: self.closed)
        assert self.core.state is PoolState.CLOSED
        assert repr(self.core) == "<PoolCore closed [Workers: none | Requests: none]>"
        assert self.core.next_deadline() is None
        assert self.handle(Tick()) == []
        commands = [command for _, _, commands in self.log for command in commands]
        assert commands.count(Closed()) == 1
        # Nothing may follow but the refusal of a request that came too late.
        for command in commands[commands.index(Closed()) + 1 :]:
            assert isinstance(command, Finish)
            assert command.outcome is Outcome.CLOSED
        assert len(self.finished) == self.ids
        self.replay()

    def is_whole(self) -> bool:
        counts, config = self.core.counts(), self.core.config
        if self.live or counts[WorkerState.STARTING] or counts[WorkerState.STOPPING]:
            return False
        if self.core.state is not PoolState.RUNNING or self.serving() != counts[WorkerState.IDLE]:
            return False
        if counts[WorkerState.STANDBY] != config.reserve:
            return False
        most = config.size if config.max_idle is not None else config.capacity
        return (0 if config.lazy else config.size) <= self.serving() <= most

    def settle(self, reached: object) -> None:
        """From here on, nothing goes wrong any more."""
        for _ in range(2000):
            while self.act_well():
                pass
            if reached():  # type: ignore[operator]
                return
            deadline = self.core.next_deadline()
            assert deadline is not None, f"stuck: {self.core}"
            self.now = deadline
            self.handle(Tick())
        raise AssertionError(f"not settled: {self.core}")

    def act_well(self) -> bool:
        for worker in list(self.workers.values()):
            if worker.state == "stopping":
                self.disappear(worker)
                return True
            if duties := self.duties(worker):
                _, act = duties[-1]
                act(self, worker)
                return True
            if worker.lease:
                self.give_up(worker.lease)
                self.send(ReturnLease(worker.lease))
                return True
        return False

    def replay(self) -> None:
        twin = PoolCore(self.config)
        for event, now, commands in self.log:
            assert twin.handle(event, now) == commands  # type: ignore[arg-type]


TestPoolCore = PoolMachine.TestCase
TestPoolCore.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
