"""All the comms of workers that a notebook's front ends know of, or as many as there is room for.

They are in the kernel's comm manager, so that messages of front ends find them and a page that is
loaded anew is told of them. JupyterLab asks for the state of all widgets at once, on a comm of target
``jupyter.widget.control``, which ipywidgets answers with the kernel's own: ours go along.

What cells that have ended leave here would grow for as long as the kernel lives. So only the latest of
them are kept, whole cells, up to a number of comms and a size.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .capturing import let_through, undo

if TYPE_CHECKING:
    from .comms import CellComms, RelayedComm

__all__ = ["Registry", "close_registry", "registry_of"]

_CONTROL = "jupyter.widget.control"

#: How many comms of cells that have ended are kept, and how large their states may be, in bytes. The cell
#: that has ended last is kept whatever it has.
MOST_COMMS, MOST_BYTES = 2000, 50_000_000


class Registry:
    """The relayed comms of one kernel.

    Leans on `comm_manager.comms` and `.targets`, on ipywidgets' answer being a ``send`` of
    ``{"method": "update_states", …}`` (checked on comm 0.2.3, ipywidgets 8.1).
    """

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.comms: dict[str, RelayedComm] = {}
        self._manager = kernel.comm_manager
        self._lock = threading.Lock()
        self._answer: Callable[[Any, Any], Any] | None = None
        self._by_cell: dict[CellComms, dict[str, RelayedComm]] = {}
        #: The cells that have ended, the oldest first, and how large what they have is, in bytes.
        self._ended: dict[CellComms, int] = {}
        let_through()

    def add(self, comm: RelayedComm) -> None:
        """A worker has opened it."""
        with self._lock:
            self.comms[comm.comm_id] = comm
            self._by_cell.setdefault(comm.cell, {})[comm.comm_id] = comm
            self._manager.comms[comm.comm_id] = comm
            if comm.model is not None and self._answer is None:
                import ipywidgets  # noqa: F401 - has the kernel answer questions about widgets

                self._answer = self._manager.targets[_CONTROL]
                self._manager.register_target(_CONTROL, self._asked)

    def remove(self, comm_id: str) -> None:
        """One of its ends has closed it."""
        with self._lock:
            self._remove(comm_id)

    def _remove(self, comm_id: str) -> None:
        comm = self.comms.pop(comm_id, None)
        if comm is not None:
            self._manager.comms.pop(comm_id, None)
            own = self._by_cell.get(comm.cell, {})
            own.pop(comm_id, None)
            if not own:
                self._by_cell.pop(comm.cell, None)
                self._ended.pop(comm.cell, None)

    def ended(self, cell: CellComms) -> None:
        """A cell has its worker no more: what it has left may go, as others end."""
        with self._lock:
            own = self._by_cell.get(cell)
            if own is None:
                return
            self._ended[cell] = sum(
                size_of(comm.model.state) for comm in own.values() if comm.model
            )
            count = sum(len(self._by_cell[each]) for each in self._ended)
            size = sum(self._ended.values())
            while (count > MOST_COMMS or size > MOST_BYTES) and len(self._ended) > 1:
                oldest = next(iter(self._ended))
                size -= self._ended[oldest]
                count -= len(self._by_cell[oldest])
                for comm_id in list(self._by_cell[oldest]):
                    self._remove(comm_id)

    def outputs_of(self, cell: CellComms) -> list[RelayedComm]:
        """The Output widgets that a cell has made."""
        with self._lock:
            return [comm for comm in self._by_cell.get(cell, {}).values() if comm.is_output]

    def states(self) -> dict[str, dict[str, Any]]:
        """The state of every widget, in the shape of ``update_states``."""
        with self._lock:
            models = {key: comm.model.state for key, comm in self.comms.items() if comm.model}
        return {
            model_id: {
                "model_name": state.get("_model_name"),
                "model_module": state.get("_model_module"),
                "model_module_version": state.get("_model_module_version"),
                "state": dict(state),
            }
            for model_id, state in models.items()
        }

    def close(self) -> None:
        """Take everything out of the comm manager again."""
        with self._lock:
            for comm_id in self.comms:
                self._manager.comms.pop(comm_id, None)
            self.comms.clear()
            self._by_cell.clear()
            self._ended.clear()
            undo()
            if self._answer is not None:
                self._manager.register_target(_CONTROL, self._answer)
                self._answer = None

    def _asked(self, comm: Any, message: Any) -> None:
        assert self._answer is not None
        self._answer(_ControlComm(comm, self), message)


def size_of(value: Any) -> int:
    """How much memory a widget's state takes, roughly, in bytes."""
    if isinstance(value, dict):
        return 64 + sum(size_of(key) + size_of(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return 64 + sum(map(size_of, value))
    if isinstance(value, memoryview):
        return value.nbytes
    return sys.getsizeof(value)


class _ControlComm:
    """A front end's comm of questions about widgets, as ipywidgets sees it."""

    def __init__(self, comm: Any, registry: Registry) -> None:
        self._comm = comm
        self._registry = registry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        """Answer, and add what workers have."""
        if data.get("method") == "update_states":
            from ipywidgets.widgets.widget import _remove_buffers

            states, paths, more = _remove_buffers(self._registry.states())
            data = {
                **data,
                "states": {**data["states"], **states},
                "buffer_paths": [*data["buffer_paths"], *paths],
            }
            buffers = [*(buffers or ()), *more]
        self._comm.send(data, metadata, buffers)


_registry: Registry | None = None


def registry_of(kernel: Any) -> Registry:
    """The registry of this process's kernel, of which there is one."""
    global _registry
    if _registry is None or _registry.kernel is not kernel:
        _registry = Registry(kernel)
    return _registry


def close_registry() -> None:
    """Forget all comms of workers; their widgets are on display only."""
    global _registry
    if _registry is not None:
        _registry.close()
        _registry = None
