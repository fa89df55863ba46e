"""The checks of `jupyter pool doctor` with workers: they start, are clean, small, and never orphans."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

from jupyter_pool import _reprs
from jupyter_pool.config import PoolConfig
from jupyter_pool.errors import PoolError, WorkerStartError
from jupyter_pool.pool import KernelPool
from jupyter_pool.provisioning.templates import PLAINLY, is_supported

from .findings import Finding, bad, note, ok

__all__ = ["LiveChecks"]

#: The kernel that a plain start is measured with.
STOCK = "python3"
#: How long a worker may outlive its owner, in seconds.
ORPHAN_PATIENCE = 10.0

#: What the pools are called, whatever the configuration says.
_NAME = "doctor"

_OWNER = """
import sys
from jupyter_pool import KernelPool
pool = KernelPool(size=1)
pool.start(wait=True)
print(pool.get_status().workers[0].pid, flush=True)
sys.stdin.read()
"""


class LiveChecks:
    """The checks share a pool, which the first of them starts."""

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self._pool: KernelPool | None = None
        self._plainly: list[str] = []

    def checks(self) -> Iterator[tuple[str, Callable[[], Finding | None]]]:
        """Name and function of each; those that need a worker come only if there is one."""
        yield "worker", self._start
        if self._pool is None:
            return
        yield "stateless round trip", self._round_trip
        if self._config.kernel_name is None:
            yield "fork server", self._fork_server
        yield "start-up", self._start_up
        yield "memory", self._memory
        yield "guardian", self._guardian

    def close(self) -> None:
        """Close the pool."""
        if self._pool is not None:
            self._pool.close(timeout=0)

    def _start(self) -> Finding:
        listener = _Listener(self._plainly)
        logging.getLogger("jupyter_pool").addHandler(listener)
        began = time.monotonic()
        pool = None
        try:
            pool = KernelPool(size=1, name=f"{_NAME}-1", overflow=0, reserve=0, lazy=False)
            pool.start(wait=True, timeout=2 * self._config.start_timeout)
        except (PoolError, TimeoutError) as error:
            if pool is not None:
                pool.close(timeout=0)
            return bad("worker", f"does not start: {error}", _mend(error))
        finally:
            logging.getLogger("jupyter_pool").removeHandler(listener)
        self._pool = pool
        what = self._config.kernel_name or "the pool’s own kernel"
        return ok(
            "worker", f"{what} is ready {time.monotonic() - began:.2f} s after the first start"
        )

    def _round_trip(self) -> Finding:
        name = "stateless round trip"
        assert self._pool is not None
        if self._config.kernel_name is not None:
            # Only kernels of the pool's own take values; what others print is all that there is.
            self._pool.execute("", timeout=20)
            return ok(name, "code runs; this kernel is replaced after each request")
        first = self._pool.execute(
            "doctor_left = x * 7", inputs={"x": 6}, outputs=["doctor_left"], timeout=20
        )
        value = first.outputs["doctor_left"]
        second = self._pool.execute("'doctor_left' in globals()", isolation="namespace", timeout=20)
        left = second.data.get("text/plain")
        if value != 42:
            return bad(name, f"6 * 7 came back as {value!r}", "report this as a bug")
        if left != "False":
            if self._config.isolation == "none":
                return note(name, "a value went there and back; isolation='none' resets nothing")
            return bad(
                name, "the next request found what the first one left", "report this as a bug"
            )
        return ok(name, "a value went there and back, and the next request found nothing of it")

    def _fork_server(self) -> Finding:
        if (reason := is_supported()) is not None:
            return note("fork server", f"{reason}: workers start as stock kernels do")
        if self._plainly:
            mend = "leave out of preload what cannot be forked"
            return note("fork server", self._plainly[-1], mend if self._config.preload else "")
        preload = ", ".join(self._config.preload)
        return ok("fork server", f"workers are forked{f', with {preload}' if preload else ''}")

    def _start_up(self) -> Finding:
        assert self._pool is not None
        began = time.monotonic()
        self._pool.resize(size=2)
        self._pool.start(wait=True, timeout=2 * self._config.start_timeout)
        text = f"one more worker is ready in {(time.monotonic() - began) * 1000:.0f} ms"
        if self._config.kernel_name is None:
            text += self._plain_start()
        return ok("start-up", text)

    def _plain_start(self) -> str:
        """How long a kernel takes that nobody has prepared."""
        try:
            KernelSpecManager().get_kernel_spec(STOCK)
        except NoSuchKernel:
            return ""
        began = time.monotonic()
        with KernelPool(
            size=1, name=f"{_NAME}-2", kernel_name=STOCK, preload=(), overflow=0, reserve=0
        ) as plain:
            plain.start(wait=True, timeout=2 * self._config.start_timeout)
            took = time.monotonic() - began
        return f"; a stock kernel ({STOCK}) in {took * 1000:.0f} ms"

    def _memory(self) -> Finding:
        assert self._pool is not None
        workers = self._pool.get_status().workers
        own = [worker.unshared for worker in workers if worker.unshared is not None]
        free = psutil.virtual_memory().available
        if not own:
            return note("memory", f"cannot be measured here; {_reprs.size(free)} available")
        each = max(own)
        limit = self._config.memory_limit
        size = self._config.size + self._config.overflow + self._config.reserve
        text = (
            f"a new worker has {_reprs.size(each)} to itself; {size} of them "
            f"{_reprs.size(size * each)} of {_reprs.size(free)} available"
        )
        if size * each > free:
            return bad("memory", text, "fewer workers: KernelPool.size, or less to preload")
        if limit is not None and each > limit:
            return bad("memory", f"{text}; memory_limit is {_reprs.size(limit)}", "a larger one")
        return ok("memory", text)

    def _guardian(self) -> Finding:
        """Kill an owner, and see whether its worker goes as well."""
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with owner:
            try:
                assert owner.stdout is not None
                line = owner.stdout.readline().strip()
            finally:
                owner.kill()
        if not line.isdecimal():
            return bad(
                "guardian", "the trial owner did not start a worker", "see the line `worker`"
            )
        began = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            worker = psutil.Process(int(line))
            while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() - began > ORPHAN_PATIENCE:
                    worker.kill()
                    return bad(
                        "guardian",
                        f"a worker outlived its killed owner by {ORPHAN_PATIENCE:g} s",
                        "look for what kills processes of this user, the guardian among them",
                    )
                time.sleep(0.01)
        gone = time.monotonic() - began
        return ok(
            "guardian", f"a worker whose owner was killed was gone {gone * 1000:.0f} ms later"
        )


class _Listener(logging.Handler):
    """Hears why workers are not forked."""

    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == PLAINLY:
            self._heard.append(record.getMessage())


def _mend(error: Exception) -> str:
    if isinstance(error, WorkerStartError):
        return "the kernel’s own last words are above; more time: KernelPool.start_timeout"
    if isinstance(error, TimeoutError):
        return "more time: KernelPool.start_timeout"
    return "see the message"
