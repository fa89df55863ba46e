"""How many threads numeric libraries use in a worker."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import pytest

from jupyter_pool import KernelPool
from jupyter_pool._cpus import THREAD_VARIABLES, usable_cpus
from support.calls import by_value

pytestmark = pytest.mark.requires("module:sklearn")

CPUS = usable_cpus()
# What libraries go by, to which a cgroup's share is nothing.
ALLOWED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# NumPy and SciPy bring a BLAS each, scikit-learn an OpenMP.
USED = "import numpy, scipy.linalg, sklearn.cluster, threadpoolctl\n"
ASK = "n = sorted({library['num_threads'] for library in threadpoolctl.threadpool_info()})"


@pytest.fixture(autouse=True)
def no_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def threads(pool: KernelPool, code: str = USED + ASK, **options: Any) -> list[int]:
    found: list[int] = pool.execute(code, outputs=["n"], **options).outputs["n"]
    return found


@pytest.mark.parametrize("preload", [[], ["numpy", "scipy.linalg", "sklearn.cluster"]])
def test_a_lone_request_has_all_cpus_and_many_share_them(preload: list[str]) -> None:
    with KernelPool(size=CPUS, preload=preload) as pool:
        assert threads(pool) == [CPUS]
        with ExitStack() as leases:
            for _ in range(CPUS - 1):
                leases.enter_context(pool.checkout())
            assert threads(pool) == [1]
        assert threads(pool) == [CPUS]


def seen_by_call() -> list[int]:
    space: dict[str, list[int]] = {}
    exec(USED + ASK, space)
    return space["n"]


def test_function_calls_share_them_as_cells_do() -> None:
    with by_value(__name__), KernelPool(size=CPUS) as pool:
        assert pool.submit(seen_by_call).result() == [CPUS]
        with ExitStack() as leases:
            for _ in range(CPUS - 1):
                leases.enter_context(pool.checkout())
            assert pool.submit(seen_by_call).result() == [1]
        assert list(pool.map(lambda _: seen_by_call(), range(3), chunksize=3)) == [[CPUS]] * 3
    with by_value(__name__), KernelPool(size=1, threads_per_worker=3) as pool:
        assert pool.submit(seen_by_call).result() == [3]


def test_a_number_is_for_every_request_from_its_first_import_on() -> None:
    with KernelPool(size=1, threads_per_worker=3) as pool:
        assert threads(pool) == [3]


def test_what_a_request_sets_is_not_for_the_next_one() -> None:
    with KernelPool(size=1, threads_per_worker=3) as pool:
        assert threads(pool, USED + "threadpoolctl.threadpool_limits(1)\n" + ASK) == [1]
        assert threads(pool) == [3]


@pytest.mark.parametrize("preload", [[], ["numpy", "scipy.linalg"]])
def test_none_leaves_them_as_the_libraries_have_them(preload: list[str]) -> None:
    with KernelPool(size=1, threads_per_worker=None, preload=preload) as pool:
        assert threads(pool) == [ALLOWED]


def test_environment_variables_go_before_auto_and_a_number_before_them() -> None:
    with KernelPool(size=1, env={"OMP_NUM_THREADS": "1"}) as pool:
        assert threads(pool) == [1]
    with KernelPool(size=1, env={"OMP_NUM_THREADS": "1"}, threads_per_worker=2) as pool:
        assert threads(pool) == [2]
