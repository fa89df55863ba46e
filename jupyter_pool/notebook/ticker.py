"""The thread that keeps the displays of jobs up to date."""

from __future__ import annotations

import logging
import threading
import time

from .job import Job

__all__ = ["Ticker"]

_LOGGER = logging.getLogger("jupyter_pool")
#: After an update that failed, the next is tried in so many seconds.
_TRY_AGAIN = 5.0


class Ticker:
    """The thread that updates the displays of jobs for as long as there are any that run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._jobs: dict[Job, float] = {}
        #: The latest; it may be about to end, and is waited for all the same.
        self._thread: threading.Thread | None = None
        self._runs = False

    def wake(self, job: Job) -> None:
        """Something has changed."""
        with self._lock:
            self._jobs[job] = 0.0
            if not self._runs:
                self._runs = True
                self._thread = threading.Thread(
                    target=self._main, name="jupyter_pool jobs", daemon=True
                )
                self._thread.start()
        self._news.set()

    def close(self, timeout: float) -> None:
        """Wait, at most so many seconds, until the ends of all jobs are shown."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _main(self) -> None:
        while True:
            self._news.clear()
            with self._lock:
                if not self._jobs:
                    self._runs = False
                    return
                jobs = dict(self._jobs)
            now = time.monotonic()
            for job, due in jobs.items():
                if due > now:
                    continue
                following = _refresh(job)
                with self._lock:
                    if following is None:
                        self._jobs.pop(job, None)
                    elif job.is_due_to_end:
                        self._jobs[job] = 0.0  # it ended meanwhile
                    else:
                        self._jobs[job] = job.due() if job.stale else following
            with self._lock:
                until = min(self._jobs.values(), default=0.0)
            self._news.wait(max(0.0, until - time.monotonic()))


def _refresh(job: Job) -> float | None:
    """Refresh a job's display; whatever there is in one must not stop the others."""
    over = job.done()
    try:
        return job.refresh()
    except Exception:
        _LOGGER.exception("the display of job %s could not be updated", job.name)
        return None if over else time.monotonic() + _TRY_AGAIN
