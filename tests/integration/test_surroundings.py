"""Where code runs: the caller's folder, module path and environment, as they are at the request."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_pool import ExecutionError, InvalidRequest, KernelPool
from support.cells import DEADLINE, Gate, Watcher, value

HERE = "import os; os.getcwd()"


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(size=1) as pool:
        yield pool.start(wait=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caller's new working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def there(pool: KernelPool, expression: str) -> object:
    """The value of the last expression, which may be None."""
    *statements, last = expression.split("; ")
    return eval(eval(value(pool.execute("; ".join([*statements, f"repr({last})"])))))


def variable(pool: KernelPool, name: str) -> object:
    return there(pool, f"import os; os.environ.get({name!r})")


# --- working folder -----------------------------------------------------------------------------


def test_code_runs_in_the_callers_folder(pool: KernelPool) -> None:
    assert there(pool, HERE) == os.getcwd()


def test_code_runs_in_the_folder_that_the_caller_changed_to(pool: KernelPool, folder: Path) -> None:
    pool.execute("open('made', 'w')")
    assert [path.name for path in folder.iterdir()] == ["made"]


def test_the_folder_is_the_one_at_the_time_of_the_request_not_of_its_run(
    pool: KernelPool, folder: Path
) -> None:
    (folder / "other").mkdir()
    with Gate(folder) as gate:
        watcher = Watcher()
        pool.submit_code(gate.code, on_output=watcher)
        watcher.wait_for("waiting")
        waiting = pool.submit_code(HERE)
        os.chdir("other")
        gate.open()
        assert value(waiting.result(timeout=DEADLINE)) == repr(str(folder))
        assert there(pool, HERE) == str(folder / "other")


def test_where_code_goes_does_not_concern_the_next(pool: KernelPool, folder: Path) -> None:
    pool.execute("import os; os.chdir('/')")
    assert there(pool, HERE) == str(folder)


def test_a_fixed_folder_stays_wherever_the_caller_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, elsewhere = tmp_path / "fixed", tmp_path / "elsewhere"
    fixed.mkdir()
    elsewhere.mkdir()
    with KernelPool(size=1, cwd=str(fixed)) as pool:
        assert there(pool, HERE) == str(fixed)
        monkeypatch.chdir(elsewhere)
        assert there(pool, HERE) == str(fixed)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cwd"):
        KernelPool(cwd=str(tmp_path / "missing"))


def test_a_folder_that_was_removed_meanwhile_is_no_reason_not_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    with KernelPool(size=1) as pool:
        assert there(pool, HERE) == str(tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
        assert there(pool, "1 + 1") == 2
        pool.restart_worker(pool.get_status().workers[0].id)
        assert there(pool, "1 + 1") == 2


# --- modules ------------------------------------------------------------------------------------


def test_a_module_beside_the_notebook_imports(
    pool: KernelPool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A notebook has its folder on the path as "", wherever that is.
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (folder / "beside_the_notebook.py").write_text("answer = 42\n")
    assert there(pool, "import beside_the_notebook; beside_the_notebook.answer") == 42


def test_a_folder_that_the_caller_put_on_the_path_is_there_too(
    pool: KernelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "put_on_the_path.py").write_text("answer = 42\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert there(pool, "import put_on_the_path; put_on_the_path.answer") == 42
    assert there(pool, "import sys; sys.path") == sys.path


def test_a_folder_that_the_caller_took_off_the_path_is_not_there_any_more(
    pool: KernelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken_off_the_path.py").write_text("answer = 42\n")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        pool.execute("import sys; sys.path")
    with pytest.raises(ExecutionError, match="ModuleNotFoundError"):
        pool.execute("import taken_off_the_path")


def test_what_code_does_to_the_path_does_not_concern_the_next(pool: KernelPool) -> None:
    pool.execute("import sys; sys.path.insert(0, '/nowhere')")
    assert there(pool, "import sys; sys.path") == sys.path


def test_functions_of_local_modules_travel_as_inputs(
    pool: KernelPool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "local_function.py").write_text("def double(x):\n    return 2 * x\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    import local_function  # type: ignore[import-not-found]

    monkeypatch.delitem(sys.modules, "local_function", raising=False)
    sys.modules["local_function"] = local_function
    result = pool.execute("y = double(21)", inputs={"double": local_function.double}, outputs=["y"])
    assert result.outputs["y"] == 42


# --- environment --------------------------------------------------------------------------------


def test_the_environment_is_the_callers_at_the_time_of_the_request(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variable(pool, "HOME") == os.environ.get("HOME")
    monkeypatch.setenv("NEW", "new")
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/changed")
    monkeypatch.delenv("HOME", raising=False)
    assert variable(pool, "NEW") == "new"
    assert str(variable(pool, "PATH")).endswith(":/changed")
    assert variable(pool, "HOME") is None
    # Its children have it as well.
    assert pool.execute("!echo $NEW").stdout.strip() == "new"
    monkeypatch.undo()
    assert variable(pool, "NEW") is None
    assert variable(pool, "HOME") == os.environ.get("HOME")


def test_what_code_does_to_the_environment_does_not_concern_the_next(pool: KernelPool) -> None:
    home = os.environ.get("HOME")
    pool.execute("import os; os.environ['HOME'] = '/changed'; os.environ['LEFT'] = '1'")
    assert variable(pool, "HOME") == home
    assert variable(pool, "LEFT") is None


def test_the_pools_own_environment_goes_before_the_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UNSET", "here")
    monkeypatch.setenv("INHERITED", "here")
    with KernelPool(size=1, env={"SET": "by the pool", "UNSET": None}) as pool:
        assert variable(pool, "SET") == "by the pool"
        assert variable(pool, "UNSET") is None
        assert variable(pool, "INHERITED") == "here"
        monkeypatch.setenv("SET", "by the caller")
        monkeypatch.setenv("UNSET", "by the caller")
        monkeypatch.setenv("INHERITED", "by the caller")
        assert variable(pool, "SET") == "by the pool"
        assert variable(pool, "UNSET") is None
        assert variable(pool, "INHERITED") == "by the caller"


def test_a_worker_that_is_started_later_knows_the_callers_surroundings_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KernelPool(size=1) as pool:
        pool.start(wait=True)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NEW", "new")
        pool.restart_worker(pool.get_status().workers[0].id)
        assert there(pool, HERE) == str(tmp_path)
        assert variable(pool, "NEW") == "new"


def test_a_lease_runs_where_the_caller_is_and_keeps_where_its_code_goes(
    pool: KernelPool, folder: Path
) -> None:
    (folder / "deeper").mkdir()
    with pool.checkout() as worker:
        assert value(worker.execute(HERE)) == repr(str(folder))
        worker.execute("import os; os.chdir('deeper'); os.environ['KEPT'] = '1'")
        assert value(worker.execute(HERE)) == repr(str(folder / "deeper"))
        assert value(worker.execute("os.environ['KEPT']")) == "'1'"
    assert there(pool, HERE) == str(folder)
    assert variable(pool, "KEPT") is None
