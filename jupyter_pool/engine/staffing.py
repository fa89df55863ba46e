"""The lives of a pool's workers on the I/O thread: started, heard of, stopped, gone."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jupyter_pool.core import (
    CoreConfig,
    StartWorker,
    StopReason,
    StopWorker,
    WorkerDied,
    WorkerSpent,
    WorkerStartFailed,
    WorkerStopped,
)
from jupyter_pool.errors import WorkerStartError
from jupyter_pool.provisioning.launcher import Exited, Launched, LaunchSpec
from jupyter_pool.provisioning.processes import describe_exit

from .link import Link

if TYPE_CHECKING:
    from jupyter_pool.config import PoolConfig

    from .driver import Driver

__all__ = ["StartFailure", "core_config", "hanging_setup", "start_worker", "stop_worker"]

#: How long the last words of a dead worker may still be on their way, in seconds.
LAST_WORDS = 0.01

_KILLS = {
    StopReason.TIMED_OUT,
    StopReason.CANCELLED,
    StopReason.START_TIMEOUT,
    StopReason.PROTOCOL,
    StopReason.MEMORY_LIMIT,
    StopReason.UNRESPONSIVE,
    StopReason.RESET_FAILED,
    StopReason.SETUP_FAILED,
    StopReason.RESTARTED,
}


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why a worker did not become ready: as the launcher knows it, or because time was up."""

    error: str | None
    status: int | None
    stderr: str
    timed_out: bool = False
    #: What is to be said if a setup is the cause.
    setup: WorkerStartError | None = None


def start_worker(driver: Driver, command: StartWorker) -> None:
    """Have a process started, and hear of it."""
    link = Link(driver, command.worker_id, foreign=driver.foreign)
    driver.links[link.worker_id] = link
    driver.teller.starting(link)
    driver.accounting.workers_started += 1
    if driver.accounting.started_at is None:
        driver.accounting.started_at = time.monotonic()
    spec = LaunchSpec(
        driver.config.kernel_name,
        driver.surroundings.start_folder(),
        driver.surroundings.env,
        tuple(driver.config.preload),
    )

    def post(news: Launched | Exited) -> None:
        driver.engine.post(partial(_heard, driver, link, news))

    link.process = driver.launcher.start(f"w{command.worker_id}-{driver.serial}", spec, post)


def _heard(driver: Driver, link: Link, news: Launched | Exited) -> None:
    if isinstance(news, Launched):
        link.connect(news)
    else:
        link.exited = news
        driver.engine.after(LAST_WORDS if link.flight else 0.0, partial(_gone, driver, link))


def _gone(driver: Driver, link: Link) -> None:
    """A worker's process has ended, and what it said last is read."""
    exited = link.exited
    assert exited is not None
    worker_id = link.worker_id
    if driver.setups.gone(link) and not link.ready and link.stop is None:
        # It is taken back, and the next start is another matter.
        driver.feed(WorkerSpent(worker_id, "its setup failed"))
    if not link.ready and link.stop in (None, StopReason.START_TIMEOUT):
        timed_out = link.stop is not None
        failure = link.setup_failure or hanging_setup(driver, link)
        _note_start_failure(driver, link, exited, timed_out, failure)
        if not timed_out:  # else it was killed, and that was told
            driver.teller.lost(link, "failed to start")
        driver.feed(
            WorkerStartFailed(
                worker_id,
                StartFailure(
                    link.refusal or exited.error,
                    exited.status,
                    exited.stderr,
                    timed_out,
                    failure,
                ),
            )
        )
    elif link.stop is not None:
        if len(link.flights) > 1:  # which of them has begun?
            link.receiver.note_last_work(exited)
        driver.feed(WorkerStopped(worker_id))
    else:
        link.receiver.note_last_work(exited)
        exitcode, signal = describe_exit(exited.status)
        cause = signal or ("unknown" if exitcode is None else f"exit code {exitcode}")
        driver.accounting.lost[cause] += 1
        driver.teller.lost(link, cause, driver.holder(worker_id))
        driver.log(
            logging.WARNING,
            "worker %d (pid %s) died: %s",
            worker_id,
            link.pid,
            cause,
            worker_id=worker_id,
            request=driver.holder(worker_id),
        )
        driver.feed(WorkerDied(worker_id, exited))
    link.close()
    del driver.links[worker_id]
    driver.teller.gone(worker_id)
    driver.setups.missed(worker_id)
    if driver.memory is not None:
        driver.memory.forget(worker_id)


def stop_worker(driver: Driver, command: StopWorker) -> None:
    """Have a process end, by itself or killed."""
    link = driver.links[command.worker_id]
    link.stop = command.why
    driver.teller.stopped(
        link,
        command.why,
        command.detail,
        killed=command.why in _KILLS,
        holder=driver.holder(command.worker_id),
    )
    assert link.process is not None
    if command.why in _KILLS:
        driver.accounting.killed[command.why.value] += 1
    elif command.why is StopReason.RECYCLED:
        _note_recycle(driver, command.worker_id, command.detail or command.why.value)
    elif command.why is StopReason.DRAINED:
        driver.accounting.recycled[command.why.value] += 1
    running = link.flight is not None and link.ready
    # One that is still starting has nothing to tidy up, and does not listen yet.
    kill = command.kill or not link.ready
    if not kill:
        link.shut_down()
    driver.launcher.stop(link.process, kill=kill, dump=kill and running and not driver.foreign)


def _note_start_failure(
    driver: Driver, link: Link, exited: Exited, timed_out: bool, setup: WorkerStartError | None
) -> None:
    driver.accounting.lost["start timed out" if timed_out else "failed to start"] += 1
    exitcode, signal = describe_exit(exited.status)
    how = signal or ("not launched" if exitcode is None else f"exit code {exitcode}")
    if setup is not None:
        how = "its setup failed"
    elif link.refusal:
        how = "it runs, but does not execute"
    elif timed_out:
        how = "not ready in time"
    elif exited.error:  # the launcher's own words
        how = exited.error
    worker_id = link.worker_id
    driver.log(logging.WARNING, "worker %d did not start: %s", worker_id, how, worker_id=worker_id)
    # What a kernel says may be anybody's secret; the error has it as well.
    words = link.refusal or exited.stderr
    driver.log(logging.DEBUG, "worker %d said: %s", worker_id, words, worker_id=worker_id)


def _note_recycle(driver: Driver, worker_id: int, cause: str) -> None:
    # Said once; after that it is counted.
    level = logging.DEBUG if cause in driver.accounting.recycled else logging.INFO
    # Without names that the code has given to threads, or the words of what it raised.
    told = cause if level == logging.DEBUG else cause.split(": ", maxsplit=1)[0]
    driver.log(level, "worker %d is recycled: %s", worker_id, told, worker_id=worker_id)
    driver.accounting.recycled[cause] += 1


def hanging_setup(driver: Driver, link: Link) -> WorkerStartError | None:
    """What is to be said of a worker that runs a setup instead of becoming ready."""
    setup = link.flight.setup if link.flight is not None and not link.ready else None
    return None if setup is None else driver.setups.explain_end(link, setup)


def core_config(config: PoolConfig, *, foreign: bool) -> CoreConfig:
    """The options that are the core's."""
    # A kernel that we cannot reset is stateless by being replaced, with a spare warmed meanwhile.
    replaced = config.isolation == "process" or (foreign and config.isolation != "none")
    return CoreConfig(
        size=config.size,
        overflow=config.overflow,
        lazy=config.lazy,
        reserve=max(config.reserve, 1) if replaced else config.reserve,
        max_waiting=config.max_waiting,
        max_tasks=config.max_tasks,
        max_lifetime=config.max_lifetime,
        max_idle=config.max_idle,
        interrupt_grace=config.interrupt_grace,
        start_timeout=config.start_timeout,
        replace_after_request=replaced,
    )
