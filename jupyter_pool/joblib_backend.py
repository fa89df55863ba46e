"""joblib on a pool: ``with joblib.parallel_config("jupyter_pool"):`` around scikit-learn's ``n_jobs``.

`register_when_imported` makes the name known to joblib without importing it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

    from jupyter_pool.pool import KernelPool

__all__ = ["register_when_imported"]

_NAME = "jupyter_pool"
_MODULE = "joblib.parallel"


def register_when_imported() -> None:
    """Tell joblib of the backend, now or as soon as somebody imports joblib."""
    if _MODULE in sys.modules:
        _register(sys.modules[_MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _register(joblib_parallel: ModuleType) -> None:
    # Where joblib itself keeps "dask": a function that registers the backend when it is first named.
    known: dict[str, Any] | None = getattr(joblib_parallel, "EXTERNAL_BACKENDS", None)
    if known is not None:
        known[_NAME] = _make_known


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for the import of joblib, lets it happen, and is gone."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # What looks at the module later finds its own loader.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register(module)


def _make_known() -> None:
    from joblib.parallel import (
        AutoBatchingMixin,
        ParallelBackendBase,
        register_parallel_backend,
    )

    class JupyterPoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
        """Batches of tasks are calls of a pool.

        Parameters
        ----------
        pool
            A `KernelPool`, a view of one, or its name. By default the pool ``default`` if there is
            one, else the only pool there is, else one for each `Parallel`.
        """

        default_n_jobs = -1
        supports_retrieve_callback = True
        uses_threads = False
        supports_sharedmem = False

        def __init__(self, pool: Any = None, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self._wanted = pool
            self._own: KernelPool | None = None
            self._futures: set[Future[Any]] = set()
            self._view: Any = None

        def _find(self) -> Any:
            from jupyter_pool import KernelPool, get_pool, list_pools

            wanted = self._wanted
            if wanted is None:
                names = list_pools()
                wanted = "default" if "default" in names or len(names) != 1 else names[0]
                found = get_pool(wanted) if wanted in names else None
                # A pool for asyncio cannot be waited for here.
                return found if isinstance(found, KernelPool) else self._own
            return get_pool(wanted) if isinstance(wanted, str) else wanted

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            if n_jobs is None:
                return 1
            from jupyter_pool.config import PoolConfig

            pool = self._find()
            config = pool._pool.config if pool is not None else PoolConfig.build()
            workers = int(config.size + config.overflow)
            if n_jobs < 0:
                return max(workers + 1 + n_jobs, 1)
            return min(n_jobs, workers) if pool is not None else n_jobs

        def configure(
            self,
            n_jobs: int = 1,
            parallel: Any = None,
            prefer: Any = None,
            require: Any = None,
            **options: Any,
        ) -> int:
            from jupyter_pool import KernelPool

            self.parallel = parallel
            n_jobs = self.effective_n_jobs(n_jobs)
            pool = self._find()
            if pool is None and n_jobs > 1:
                pool = self._own = KernelPool(n_jobs)
            if pool is not None:
                self._view = pool.options(cancel_running=True)
            return n_jobs

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = self._view.submit(func)
            self._futures.add(future)
            future.add_done_callback(self._futures.discard)
            if callback is not None:
                future.add_done_callback(callback)
            return future

        apply_async = submit  # what joblib before 1.5 calls it

        def retrieve_result_callback(self, out: Any) -> Any:
            return out.result()

        def abort_everything(self, ensure_ready: bool = True) -> None:
            for future in list(self._futures):
                future.cancel()

        def terminate(self) -> None:
            own, self._own, self._view = self._own, None, None
            if own is not None:
                own.close()

    register_parallel_backend(_NAME, JupyterPoolBackend)
