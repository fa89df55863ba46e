"""Imported modules stay warm; one that was edited since is noticed before the next request."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_pool import AsyncKernelPool, KernelPool
from jupyter_pool.reports import PoolStatus
from support.cells import Watcher, pid, value


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A working folder that is on the path too, as a notebook's is."""
    with (
        tempfile.TemporaryDirectory(prefix="jpm-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield Path(folder)


@pytest.fixture(scope="module")
def shared_pool(home: Path) -> Iterator[KernelPool]:
    with KernelPool(1, reserve=1) as pool:
        yield pool


@pytest.fixture
def pool(shared_pool: KernelPool, home: Path) -> KernelPool:
    """One worker in that folder; there are no modules in it, and nothing is counted yet."""
    # One that only the code of a test can find would stay.
    shared_pool.execute("", isolation="process")
    for path in home.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shared_pool.pop_stats()
    return shared_pool


USE = "import helper; helper.answer()"


def write(path: Path, answer: object, more: str = "") -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"import os\n{more}\ndef answer(): return {answer!r}, os.getpid()\n")


def ask(pool: KernelPool, code: str = USE) -> tuple[object, int]:
    answer, worker = eval(value(pool.execute(code, timeout=20)))
    return answer, worker


def test_an_edited_module_is_noticed_before_the_next_request(pool: KernelPool) -> None:
    write(Path("helper.py"), "old")
    old, first = ask(pool)
    write(Path("helper.py"), "new one")
    new, second = ask(pool)
    assert (old, new) == ("old", "new one")
    assert first != second
    assert ask(pool) == (new, second)
    stats = pool.get_stats()
    assert stats.workers_recycled == {"the module helper was edited": 1}
    assert stats.requests == {"ok": 3}


def test_unchanged_modules_stay_warm(pool: KernelPool) -> None:
    write(Path("helper.py"), 1, "print('imported')")
    first = pool.execute(USE)
    later = [pool.execute(USE) for _ in range(3)]
    assert first.stdout == "imported\n"
    assert [result.stdout for result in later] == [""] * 3
    assert len({value(result) for result in [first, *later]}) == 1
    assert pool.get_stats().workers_recycled == {}


def _replace() -> None:
    write(Path("new.py"), "new")
    os.replace("new.py", "helper.py")


def _same_size_and_time() -> None:
    before = os.stat("helper.py")
    write(Path("new.py"), "new")
    os.utime("new.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace("new.py", "helper.py")


def _to_package() -> None:
    os.unlink("helper.py")
    write(Path("helper/__init__.py"), "new")


@pytest.mark.parametrize("edit", [_replace, _same_size_and_time, _to_package])
def test_it_is_noticed_however_it_is_changed(pool: KernelPool, edit: Callable[[], None]) -> None:
    write(Path("helper.py"), "old")
    assert ask(pool)[0] == "old"
    edit()
    assert ask(pool)[0] == "new"


def test_a_removed_module_cannot_be_imported_any_more(pool: KernelPool) -> None:
    write(Path("helper.py"), "old")
    ask(pool)
    os.unlink("helper.py")
    result = pool.execute(USE, check=False)
    assert result.error is not None
    assert "ModuleNotFoundError" in str(result.error)
    assert pool.get_stats().workers_recycled == {"the module helper was removed": 1}


def test_a_module_of_a_package_that_another_module_imports_counts_too(pool: KernelPool) -> None:
    write(Path("package/__init__.py"), 0)
    write(Path("package/part.py"), "old")
    write(Path("helper.py"), 0, "from package.part import answer as part")
    assert ask(pool, "import helper; helper.part()")[0] == "old"
    write(Path("package/part.py"), "new one")
    assert ask(pool, "import helper; helper.part()")[0] == "new one"
    assert pool.get_stats().workers_recycled == {"the module package.part was edited": 1}


def test_an_edit_during_the_request_that_imports_it_is_noticed(pool: KernelPool) -> None:
    write(Path("helper.py"), "old")
    edit = "import helper, pathlib; p = pathlib.Path('helper.py')\n"
    edit += "p.write_text(p.read_text().replace('old', 'new one')); helper.answer()"
    assert ask(pool, edit)[0] == "old"
    assert ask(pool)[0] == "new one"


def test_a_module_that_the_request_has_reloaded_is_up_to_date(pool: KernelPool) -> None:
    write(Path("helper.py"), "old")
    edit = "import helper, importlib, pathlib; p = pathlib.Path('helper.py')\n"
    edit += "p.write_text(p.read_text().replace('old', 'new one'))\n"
    edit += "importlib.reload(helper).answer()"
    new = ask(pool, edit)
    assert new[0] == "new one"
    assert ask(pool) == new
    assert pool.get_stats().workers_recycled == {}


def test_a_module_whose_import_failed_is_not_missed(pool: KernelPool) -> None:
    Path("helper.py").write_text("1/0")
    before = pid(pool)
    assert pool.execute(USE, check=False).status == "error"
    write(Path("helper.py"), "mended")
    assert ask(pool) == ("mended", before)


def test_where_a_request_runs_decides_which_file_a_module_is(
    pool: KernelPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(tmp_path / "a" / "helper.py", "of a")
    write(tmp_path / "b" / "helper.py", "of b")
    for folder in ("a", "b", "a"):
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(tmp_path / folder))
            assert ask(pool)[0] == f"of {folder}"
            assert ask(pool)[0] == f"of {folder}"
    cause = "the module helper is another file in the folders of the request"
    assert pool.get_stats().workers_recycled == {cause: 2}


def test_a_new_file_that_comes_first_is_found(pool: KernelPool, tmp_path: Path) -> None:
    write(tmp_path / "aside" / "helper.py", "aside")
    assert ask(pool, f"import sys; sys.path.insert(0, {str(tmp_path / 'aside')!r})\n{USE}")
    write(Path("helper.py"), "first")
    assert ask(pool)[0] == "first"


def test_what_only_the_code_of_a_request_can_find_stays_warm(
    pool: KernelPool, tmp_path: Path
) -> None:
    write(tmp_path / "aside" / "helper.py", "aside")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'aside')!r})\n{USE}"
    assert ask(pool, code) == ask(pool, code)


def test_every_worker_looks_for_itself(pool: KernelPool) -> None:
    pool.resize(size=2)
    for answer in ("old", "newer", "newest one"):
        write(Path("helper.py"), answer)
        both = [pool.submit_code(USE) for _ in range(6)]
        assert {eval(value(future.result(20)))[0] for future in both} == {answer}
    pool.resize(size=1)


def test_it_costs_neither_a_retry_nor_output_nor_a_failure(pool: KernelPool) -> None:
    write(Path("helper.py"), "old")
    ask(pool)
    write(Path("helper.py"), "new one")
    watcher = Watcher()
    result = pool.execute(f"print('once')\n{USE}", session_id="s", on_output=watcher, timeout=20)
    assert result.stdout == "once\n"
    assert watcher.wait_for("\n") == "once\n"
    session = pool.sessions["s"]
    assert (session.requests, session.failures) == (1, 0)
    assert pool.get_stats().requests == {"ok": 2}


def test_a_lease_begins_up_to_date_and_keeps_what_it_has_imported(pool: KernelPool) -> None:
    write(Path("helper.py"), "old")
    ask(pool)
    write(Path("helper.py"), "new one")
    with pool.checkout() as worker:
        seen = [value(worker.execute("x = 1\n" + USE))]
        write(Path("helper.py"), "newest")
        seen.append(value(worker.execute(f"assert x == 1\n{USE}")))
        assert seen[0] == seen[1]
        assert "new one" in seen[0]
        assert worker.worker_id == _leased(pool.get_status())
    assert ask(pool)[0] == "newest"


def _leased(status: PoolStatus) -> int:
    [worker] = [worker.id for worker in status.workers if worker.state == "leased"]
    return worker


async def test_a_lease_of_an_asynchronous_pool_begins_up_to_date_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / "helper.py"
    await asyncio.to_thread(write, helper, "old")
    async with AsyncKernelPool(1) as pool:
        await pool.execute(USE)
        await asyncio.to_thread(write, helper, "new one")
        async with pool.checkout() as worker:
            assert "new one" in value(await worker.execute(USE))
            assert worker.worker_id == _leased(await pool.get_status())


def test_what_isolation_none_keeps_is_not_looked_at_until_somebody_else_comes(
    pool: KernelPool,
) -> None:
    write(Path("helper.py"), "old")
    first = value(pool.execute(f"x = 1\n{USE}", isolation="none"))
    write(Path("helper.py"), "new one")
    assert value(pool.execute(f"assert x == 1\n{USE}", isolation="none")) == first
    assert ask(pool)[0] == "new one"


def test_what_another_request_was_allowed_to_leave_running_is_not_met_by_the_next(
    pool: KernelPool,
) -> None:
    leave = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    before = pid(pool)
    pool.execute(leave, isolation="none")
    assert value(pool.execute("import threading; 'wait' in str(threading.enumerate())")) == "False"
    assert pid(pool) != before
