"""What our kernel is told beside the code: a dict that rides in the message's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_pool._cpus import usable_cpus

from .staying import lease_of

if TYPE_CHECKING:
    from jupyter_pool.core import PoolCore

    from .request import Request
    from .surroundings import Surroundings

__all__ = ["Envelopes"]


class Envelopes:
    """Writes the envelopes of one pool's requests. Lives on the I/O thread."""

    def __init__(
        self, threads_per_worker: int | str | None, surroundings: Surroundings, core: PoolCore
    ) -> None:
        self._threads_per_worker = threads_per_worker
        self._surroundings = surroundings
        self._core = core
        self._cpus = usable_cpus()

    def of(self, request: Request) -> dict[str, Any]:
        """That of a request that starts now."""
        envelope: dict[str, Any] = {"v": 1, "outputs": list(request.outputs), **request.context}
        if request.frames:
            envelope["inputs"] = True
        if request.output_limit is not None:
            envelope["output_limit"] = request.output_limit
        if request.comms:
            envelope["comms"] = True
        if request.stay is not None:
            envelope["stay"] = "open" if request.stay.on_sufferance else "always"
            envelope["scope"] = lease_of(request.id)
        if (threads := self._threads()) is not None:
            envelope["threads"] = threads
        if request.seed is not None:
            envelope["seed"] = request.seed
        if request.execution_count is not None:
            envelope["execution_count"] = request.execution_count
        if request.lease is not None or request.isolation == "none":
            envelope["keep"] = True
            envelope["scope"] = request.lease or "none"
        return envelope

    def _threads(self) -> int | None:
        """How many native threads it gets."""
        wanted = self._threads_per_worker
        if wanted != "auto":
            return None if wanted is None else int(wanted)
        if self._surroundings.bounds_threads:
            return None
        return max(1, self._cpus // max(1, self._core.taken))
