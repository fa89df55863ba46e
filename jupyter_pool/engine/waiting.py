"""How a thread waits for its request: outputs, news while it waits, Ctrl-C, and its end."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from jupyter_pool.results import WaitInfo

from .answers import wait_info
from .driver import Driver
from .face import PoolFace
from .request import LONGEST_WAIT, Completion, Event, Mailbox, Request

_T = TypeVar("_T")

OnOutput = Callable[[Event], None]
OnInput = Callable[[str, bool], str]

#: When a waiting caller is first told why, and how often after that, in seconds.
_WAIT_NEWS = 1.0


def run(
    pool: PoolFace,
    request: Request,
    mailbox: Mailbox,
    show: OnOutput | None,
    on_wait: Callable[[WaitInfo], None] | None,
    on_input: OnInput | None = None,
) -> Completion:
    """Submit a request and wait for its end in this thread, where its callbacks run too.

    Whatever interrupts the wait gives the request up, sees its worker settled (or killed), and is
    raised again.
    """
    driver = pool.running()
    if on_input is not None:
        request.ask = mailbox.ask
    try:
        driver.engine.post(lambda: driver.submit(request))
        news = _Waiting(driver, request, on_wait) if on_wait is not None else None
        while True:
            item = mailbox.get(_WAIT_NEWS if news is not None else None)
            if item is None:
                assert news is not None
                news = news.tell()
                continue
            kind, value = item
            if kind == "finish":
                completion: Completion = value
                return completion
            if kind == "granted":
                if news is not None:
                    news.granted()
                    news = None
            elif kind == "ask":
                assert on_input is not None
                content = _ask(on_input, *value)
                driver.engine.post(partial(driver.answer, request, content))
            elif show is not None:
                show(value)
    except BaseException as error:
        driver.engine.post(lambda: _give_up(driver, request, mailbox))
        if on_wait is not None and isinstance(error, KeyboardInterrupt):
            _tell_interrupt(request, on_wait)
        _drain(mailbox, show, pool.force_close_timeout())
        raise


def wait_for(answer: queue.SimpleQueue[_T]) -> _T:
    """What comes, however long that takes. Never in one wait: see `Mailbox.get`."""
    while True:
        try:
            return answer.get(timeout=LONGEST_WAIT)
        except queue.Empty:
            continue


def _ask(on_input: OnInput, prompt: str, password: bool) -> dict[str, Any]:
    """What a person answers, or why there is no answer."""
    try:
        return {"value": str(on_input(prompt, password))}
    except EOFError:
        return {"end": True}
    except Exception as error:  # noqa: BLE001 - the code that asked gets it
        return {"error": f"{type(error).__name__}: {error}"}


def _tell_interrupt(request: Request, on_wait: Callable[[WaitInfo], None]) -> None:
    """Say at once that the Ctrl-C was heard: what runs may take its time to end."""
    if request.worker_id is not None:
        on_wait(WaitInfo("interrupting", time.monotonic() - request.created))


def await_worker(
    driver: Driver,
    request: Request,
    mailbox: Mailbox,
    on_wait: Callable[[WaitInfo], None] | None = None,
) -> Completion | None:
    """Submit a lease and wait until it has its worker: None, or how it ended without one."""
    driver.engine.post(lambda: driver.submit(request))
    news = _Waiting(driver, request, on_wait) if on_wait is not None else None
    while True:
        item = mailbox.get(_WAIT_NEWS if news is not None else None)
        if item is None:
            assert news is not None
            news = news.tell()
            continue
        kind, value = item
        if kind == "finish":
            completion: Completion = value
            return completion
        if news is not None:
            news.granted()
        return None


def _give_up(driver: Driver, request: Request, mailbox: Mailbox) -> None:
    """Cancel a request, on the I/O thread, so that its mailbox sees an end in any case.

    The interrupt may have come before the request was posted, or after its end was taken out.
    """
    driver.cancel(request.id)
    if request.id not in driver.requests:
        mailbox.end()


def _drain(mailbox: Mailbox, show: OnOutput | None, patience: float) -> None:
    """See a cancelled request to its end, with what it still says, for a bounded time."""
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0:
        item = mailbox.get(left)
        if item is None or item[0] == "finish":
            return
        if item[0] == "output" and show is not None:
            show(item[1])


class _Waiting:
    """Tells a caller every second why it still waits, and once that it does not any more."""

    def __init__(
        self, driver: Driver, request: Request, on_wait: Callable[[WaitInfo], None]
    ) -> None:
        self._driver = driver
        self._request = request
        self._on_wait = on_wait
        self._told = False

    def tell(self) -> _Waiting | None:
        info = self._driver.engine.ask(lambda: wait_info(self._driver, self._request))
        if info.state == "running":
            self.granted()
            return None
        self._told = True
        self._on_wait(info)
        return self

    def granted(self) -> None:
        if self._told:
            self._told = False
            self._on_wait(self._driver.engine.ask(lambda: wait_info(self._driver, self._request)))
