"""`Lease`: one worker held exclusively, from ``with pool.checkout()`` to its end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from jupyter_pool.engine.calls import DEFAULT, guarded
from jupyter_pool.engine.face import PoolFace, prepare
from jupyter_pool.engine.request import Mailbox, Request
from jupyter_pool.engine.settle import settle
from jupyter_pool.engine.waiting import OnOutput, run
from jupyter_pool.errors import InvalidRequest

if TYPE_CHECKING:
    from jupyter_pool.results import ExecutionResult

__all__ = ["Lease"]

_log = logging.getLogger("jupyter_pool")


class Lease:
    """An exclusive hold on one worker, from ``with`` to its end."""

    def __init__(
        self, pool: PoolFace, presets: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        self._pool = pool
        self._presets = presets
        self._options = options
        self._request: Request | None = None
        self._fresh = True
        #: The id of the worker that is held; None before and after.
        self.worker_id: int | None = None

    def __enter__(self) -> Lease:
        pool = self._pool
        mailbox = Mailbox()  # a new one each time: the last lease's end may be in the old one
        request = prepare(
            pool,
            self._presets,
            mailbox,
            "",
            limits=True,
            is_lease=True,
            carry_context=False,
            **{**self._options, "timeout": None},
        )
        self._request, self._fresh = request, True
        try:
            pool.tell(lambda driver: driver.submit(request))
            item = mailbox.get(None)
            assert item is not None
            kind, value = item
            if kind == "finish":
                settle(value)
            self.worker_id = request.worker_id
        except BaseException:
            pool.order_cancel(request.id)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        request, self.worker_id = self._request, None
        if request is not None:
            driver = self._pool._driver
            assert driver is not None
            driver.engine.post(lambda: driver.return_lease(request.id))

    def execute(
        self,
        code: str,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Iterable[str] = (),
        timeout: float | str | None = DEFAULT,
        on_output: OnOutput | None = None,
        check: bool = True,
        seed: int | None = None,
        execution_count: int | None = None,
    ) -> ExecutionResult:
        """Run code on the worker that is held; as `KernelPool.execute`, but state stays.

        Raises
        ------
        InvalidRequest
            The lease is not held.
        """
        if self.worker_id is None or self._request is None:
            raise InvalidRequest("this lease is not held: use it within `with pool.checkout()`")
        first, self._fresh = self._fresh, False
        show = guarded(on_output, _log) if on_output is not None else None
        mailbox = Mailbox(wants_output=show is not None)
        presets = {key: value for key, value in self._presets.items() if key == "timeout"}
        request = prepare(
            self._pool,
            presets,
            mailbox,
            code,
            limits=True,
            inputs=inputs,
            outputs=outputs,
            session_id=self._request.session_id,
            timeout=timeout,
            seed=seed,
            execution_count=execution_count,
            lease=self._request.id,
            # Where the caller is holds for the beginning; after that the lease's own code decides.
            carry_context=first,
        )
        completion = run(self._pool, request, mailbox, show, None)
        if self.worker_id is not None:
            self.worker_id = request.worker_id  # another one, if the first was out of date
        return settle(completion, check=check)
