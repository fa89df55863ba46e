"""Where executors are accepted: joblib and scikit-learn, tqdm, and functions as tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import tqdm.std

from jupyter_pool import KernelPool
from support.calls import by_value
from support.cells import DEADLINE, pids


@pytest.fixture(scope="module", autouse=True)
def _travels_whole() -> Iterator[None]:
    with by_value(__name__):
        yield


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(2) as pool:
        yield pool.start(wait=True, timeout=DEADLINE)


def square(x: int) -> int:
    return x * x


def refuse_seven(x: int) -> int:
    if x == 7:
        raise ValueError("seven")
    return x


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# --- joblib -------------------------------------------------------------------------------------


@pytest.mark.requires("module:joblib")
def test_joblib_runs_on_the_pool_there_is(pool: KernelPool) -> None:
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("jupyter_pool", n_jobs=2):
        assert Parallel()(delayed(square)(x) for x in range(50)) == [x * x for x in range(50)]
        found = set(Parallel()(delayed(os.getpid)() for _ in range(20)))
        lazily = Parallel(return_as="generator")(delayed(square)(x) for x in range(5))
        assert list(lazily) == [0, 1, 4, 9, 16]
    assert found <= set(pids(pool).values())


@pytest.mark.requires("module:joblib")
def test_joblib_may_be_given_a_pool_a_view_or_a_name(pool: KernelPool) -> None:
    from joblib import Parallel, delayed, parallel_config

    with KernelPool(2, name="for-joblib") as other:
        for wanted in (other, other.options(session_id="jobs"), "for-joblib"):
            with parallel_config("jupyter_pool", n_jobs=-1, pool=wanted):
                found = set(Parallel()(delayed(os.getpid)() for _ in range(6)))
            assert found <= set(pids(other).values())
        assert "jobs" in other.sessions


def test_a_job_that_fails_ends_the_others(pool: KernelPool) -> None:
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("jupyter_pool", n_jobs=2), pytest.raises(ValueError, match="seven"):
        Parallel()(delayed(refuse_seven)(x) for x in range(1000))
    assert pool.submit(abs, -1).result(DEADLINE) == 1


@pytest.mark.requires("module:sklearn")
def test_scikit_learn_computes_the_same_on_it(pool: KernelPool) -> None:
    from joblib import parallel_config
    from sklearn.datasets import load_iris
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    data, target = load_iris(return_X_y=True)
    here = GridSearchCV(SVC(), {"C": [1, 2]}, cv=2).fit(data, target)
    with parallel_config("jupyter_pool"):
        there = GridSearchCV(SVC(), {"C": [1, 2]}, cv=2, n_jobs=2).fit(data, target)
    assert there.best_score_ == here.best_score_


@pytest.mark.parametrize(
    "imports",
    ["import jupyter_pool, joblib", "import joblib, jupyter_pool"],
    ids=["before joblib", "after joblib"],
)
@pytest.mark.requires("module:joblib")
def test_joblib_knows_the_name_and_makes_a_pool_of_its_own(imports: str) -> None:
    script = f"""
{imports}
with joblib.parallel_config("jupyter_pool", n_jobs=2):
    print(joblib.Parallel()(joblib.delayed(abs)(-x) for x in range(4)))
print(jupyter_pool.list_pools())
"""
    assert run(script) == "[0, 1, 2, 3]\n[]\n"


def test_import_jupyter_pool_does_not_import_joblib() -> None:
    assert run("import sys, jupyter_pool; print('joblib' in sys.modules)") == "False\n"


# --- tqdm ---------------------------------------------------------------------------------------


def test_tqdms_concurrent_map_takes_a_pool(
    pool: KernelPool, capsys: pytest.CaptureFixture[str]
) -> None:
    from tqdm.contrib import concurrent

    with warnings.catch_warnings():
        found: list[Any] = concurrent._executor_map(
            KernelPool, square, range(30), max_workers=2, tqdm_class=tqdm.std.tqdm
        )
    assert found == [x * x for x in range(30)]
    assert "30/30" in capsys.readouterr().err


# --- tasks --------------------------------------------------------------------------------------


def test_a_task_is_a_function_that_can_be_submitted_and_mapped(pool: KernelPool) -> None:
    @pool.task
    def double(x: int) -> int:
        """Twice as much."""
        return 2 * x

    @pool.task(session_id="tasks")
    def where(_: object) -> int:
        return os.getpid()

    assert (double(2), double.__name__, double.__doc__) == (4, "double", "Twice as much.")
    assert double.submit(3).result(DEADLINE) == 6
    assert list(double.map(range(3))) == [0, 2, 4]
    assert set(where.map(range(3))) <= set(pids(pool).values())
    assert "tasks" in pool.sessions
    # In a worker it is the plain function, also as what another one refers to.
    assert pool.submit(lambda x: double(x) + 1, 3).result(DEADLINE) == 7
    assert pool.submit(double, 5).result(DEADLINE) == 10
