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
        waiting = _Waiting(driver, request, mailbox, on_wait)
        while True:
            kind, value = waiting.hear()
            if kind == "finish":
                completion: Completion = value
                return completion
            if kind == "ask":
                assert on_input is not None
                content = _ask(on_input, *value)
                driver.engine.post(partial(driver.answer, request, content))
            elif kind == "output" and show is not None:
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
    kind, value = _Waiting(driver, request, mailbox, on_wait).hear()
    if kind != "finish":
        return None
    completion: Completion = value
    return completion


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
    """Submits a request and hears what comes for it.

    The caller is told every second why it still waits for a worker, and once that it does not any more.
    """

    def __init__(
        self,
        driver: Driver,
        request: Request,
        mailbox: Mailbox,
        on_wait: Callable[[WaitInfo], None] | None,
    ) -> None:
        self._driver = driver
        self._request = request
        self._mailbox = mailbox
        #: None: nobody wants to be told, or there is nothing more to tell.
        self._on_wait = on_wait
        self._told = False
        driver.engine.post(lambda: driver.submit(request))

    def hear(self) -> tuple[str, Any]:
        """What comes next, as `Mailbox.get` returns it."""
        while True:
            on_wait = self._on_wait
            item = self._mailbox.get(None if on_wait is None else _WAIT_NEWS)
            if item is not None:
                if on_wait is not None and item[0] == "granted":
                    self._granted(on_wait)
                return item
            assert on_wait is not None
            info = self._ask()
            if info.state == "running":
                self._granted(on_wait)
            else:
                self._told = True
                on_wait(info)

    def _granted(self, on_wait: Callable[[WaitInfo], None]) -> None:
        self._on_wait = None
        if self._told:
            on_wait(self._ask())

    def _ask(self) -> WaitInfo:
        return self._driver.engine.ask(lambda: wait_info(self._driver, self._request))
