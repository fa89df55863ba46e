"""The peers: what the pool is compared with, how each is opened, and how to get those that are missing.

Each is used as its own documentation has it, with one thread per worker. Opening one is a context
manager that leaves nothing behind: no process, no file.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

__all__ = [
    "PEERS",
    "Peer",
    "dask_client",
    "install_line",
    "ipyparallel_view",
    "is_installed",
    "joblib_parallel",
    "loky_pool",
    "process_pool",
]

_T = TypeVar("_T")

#: For a peer that would else use our application's own.
_quiet = logging.getLogger("jupyter_pool.bench")
_quiet.setLevel(logging.ERROR)

#: How long a peer may take to have its workers, in seconds.
START_TIMEOUT = 60.0


@dataclass(frozen=True)
class Peer:
    """Something to be compared with: how tables call it, its module, and its name for pip."""

    title: str
    module: str = "jupyter_pool"
    package: str = "jupyter-pool"


#: By the name that chooses them.
PEERS = {
    "processpool": Peer("ProcessPoolExecutor"),
    "loky": Peer("loky", "loky", "loky"),
    "joblib": Peer("joblib with memmap", "joblib", "joblib"),
    "ipyparallel": Peer("ipyparallel", "ipyparallel", "ipyparallel"),
    "dask": Peer("dask.distributed", "distributed", "distributed"),
    "jupyter_client": Peer("stock ipykernel", "ipykernel", "ipykernel"),
    "pool": Peer("pool, 1 worker"),
}


def is_installed(module: str) -> bool:
    """Whether it can be imported; it is not."""
    return importlib.util.find_spec(module) is not None


def install_line(*packages: str) -> str:
    """The command that gets these packages for this interpreter."""
    return f'"{sys.executable}" -m pip install {" ".join(packages)}'


# --- opening them -------------------------------------------------------------------------------


def process_pool(workers: int) -> AbstractContextManager[Executor]:
    """A `concurrent.futures.ProcessPoolExecutor`, with its default way to start processes."""
    return _owned(lambda: _process_pool(workers))


def loky_pool(workers: int) -> AbstractContextManager[Executor]:
    """Loky's own executor."""
    return _owned(lambda: _loky_pool(workers), "loky.backend.resource_tracker")


def joblib_parallel(workers: int) -> AbstractContextManager[Any]:
    """A `joblib.Parallel` that keeps its loky workers, and passes large arrays by memmap."""
    return _owned(
        lambda: _joblib_parallel(workers), "joblib.externals.loky.backend.resource_tracker"
    )


def ipyparallel_view(workers: int) -> AbstractContextManager[Any]:
    """A load-balanced view of a new cluster of ipyparallel, on this machine."""
    return _owned(lambda: _ipyparallel_view(workers))


def dask_client(workers: int) -> AbstractContextManager[Any]:
    """A client of a new `LocalCluster` of processes."""
    return _owned(lambda: _dask_client(workers), "multiprocessing.resource_tracker")


@contextmanager
def _process_pool(workers: int) -> Iterator[Executor]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as executor:
        executor.submit(abs, -1).result(START_TIMEOUT)
        yield executor


@contextmanager
def _loky_pool(workers: int) -> Iterator[Executor]:
    import loky

    executor: Executor = loky.ProcessPoolExecutor(workers)
    try:
        executor.submit(abs, -1).result(START_TIMEOUT)
        yield executor
    finally:
        executor.shutdown(wait=True)


@contextmanager
def _joblib_parallel(workers: int) -> Iterator[Any]:
    import joblib
    from joblib.externals.loky import get_reusable_executor

    try:
        with joblib.Parallel(n_jobs=workers, backend="loky") as parallel:
            parallel(joblib.delayed(abs)(-1) for _ in range(workers))
            yield parallel
    finally:
        get_reusable_executor().shutdown(wait=True)


@contextmanager
def _ipyparallel_view(workers: int) -> Iterator[Any]:
    import ipyparallel

    with tempfile.TemporaryDirectory(prefix="jpb-") as folder:
        # A profile of its own: the user's is none of ours.
        cluster = ipyparallel.Cluster(
            n=workers,
            profile_dir=folder,
            log=_quiet,
        )
        try:
            client = cluster.start_and_connect_sync(activate=False)
            try:
                client.wait_for_engines(workers, timeout=START_TIMEOUT, interactive=False)
                yield client.load_balanced_view()
            finally:
                client.close()
        finally:
            cluster.stop_cluster_sync()


@contextmanager
def _dask_client(workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    with (
        tempfile.TemporaryDirectory(prefix="jpb-") as folder,
        dask.config.set({"temporary-directory": folder}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",  # any port, as its usual one may be taken
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers, timeout=START_TIMEOUT)
        yield client


# --- and leaving nothing behind -----------------------------------------------------------------


@contextmanager
def _owned(opener: Callable[[], AbstractContextManager[_T]], tracker: str = "") -> Iterator[_T]:
    """Open it; whatever processes that started are gone afterwards, also if something went wrong.

    `tracker` is the module that has the peer's own helper process, if it has one: multiprocessing's
    or a copy of it.
    """
    before = _children()
    started: set[psutil.Process] = set()
    with ExitStack() as stack:
        stack.callback(_end, started)
        if tracker:
            # Started beforehand, since to start it lets Ctrl-C through again.
            importlib.import_module(tracker).ensure_running()
        try:
            with _interrupts_deferred():
                peer = stack.enter_context(opener())
        finally:
            started |= _children() - before
        yield peer


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: set[psutil.Process]) -> None:
    """Kill those that still run: their owner has been closed, or could not be."""
    killed = []
    for process in processes:
        try:
            # A tracker removes its files when this process ends, and ends then itself.
            if "resource_tracker" not in " ".join(process.cmdline()):
                process.kill()
                killed.append(process)
        except psutil.Error:  # gone by now
            continue
    psutil.wait_procs(killed, timeout=10)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Hold Ctrl-C back: here for a while, in processes started within for good.

    A terminal sends it to all of them: each would end with a traceback of its own, while what is
    asked for is that we end, and close them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
