"""What a pool logs, and that every record says whom it concerns."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest

from jupyter_pool import KernelPool, WorkerDied, WorkerStartError
from support.cells import pid
from support.conditions import eventually
from support.kernelspecs import kernelspec, python

WHERE = ("pool", "worker_id", "request_id", "session_id")


@pytest.fixture(scope="module")
def pool() -> Iterator[KernelPool]:
    with KernelPool(1, name="logged") as pool:
        yield pool


def find(caplog: pytest.LogCaptureFixture, text: str) -> logging.LogRecord:
    return next(record for record in caplog.records if text in record.getMessage())


def test_every_step_of_a_request_is_logged_with_its_session(
    pool: KernelPool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="jupyter_pool"):
        result = pool.execute("1", session_id="ada")
    records = [r for r in caplog.records if getattr(r, "request_id", "") == result.request_id]
    assert [record.levelname for record in records] == ["DEBUG"] * 3
    assert [record.session_id for record in records] == ["ada"] * 3  # type: ignore[attr-defined]
    assert [record.getMessage() for record in records] == [
        f"pool logged: {what} (request {result.request_id} of session ada)"
        for what in (
            "request queued",
            f"request goes to worker {result.worker_id}",
            "request ended: done",
        )
    ]


def test_a_death_is_logged_with_the_session_that_it_struck(
    pool: KernelPool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(WorkerDied) as caught:
        pool.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", session_id="bob")
    record = find(caplog, "died: SIGKILL")
    error = caught.value.context
    assert {name: getattr(record, name) for name in WHERE} == {
        "pool": "logged",
        "worker_id": error["worker_id"],
        "request_id": error["request_id"],
        "session_id": "bob",
    }


def test_a_death_that_struck_nobody_says_so(
    pool: KernelPool, caplog: pytest.LogCaptureFixture
) -> None:
    process = pid(pool)
    pool.pop_stats()
    os.kill(process, signal.SIGKILL)
    eventually(lambda: pool.get_stats().workers_lost)
    record = find(caplog, f"(pid {process}) died")
    assert (record.session_id, record.request_id) == (None, None)  # type: ignore[attr-defined]


def test_an_exception_of_a_callback_is_logged_with_its_session(
    pool: KernelPool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: object) -> None:
        raise RuntimeError("mine")

    result = pool.execute("print(1)", session_id="eve", on_output=fail)
    record = find(caplog, "exception in on_output")
    assert (record.session_id, record.request_id) == ("eve", result.request_id)  # type: ignore[attr-defined]
    assert "RuntimeError: mine" in caplog.text


def test_a_format_may_name_the_session_whatever_the_record_is_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logging.getLogger("jupyter_pool").warning("about nobody")
    formatter = logging.Formatter("%(pool)s %(worker_id)s %(request_id)s %(session_id)s")
    assert formatter.format(caplog.records[-1]) == "None None None None"


# --- secrets ------------------------------------------------------------------------------------

SECRET = "s3cr3t-marker"


def test_nothing_of_users_is_logged_above_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deaf = f"import signal, time  # {SECRET}\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    named = f"import threading, time; threading.Thread(target=time.sleep, args=(60,), name='{SECRET}').start()"
    child = f"import subprocess; subprocess.Popen(['sleep', '60'], env={{'X': '{SECRET}'}})"
    caplog.set_level(logging.INFO, logger="jupyter_pool")
    with KernelPool(2, env={"TOKEN": SECRET}, interrupt_grace=1) as pool:
        pool.execute(f"x = '{SECRET}' + y; print(x); x", inputs={"y": SECRET}, outputs=["x"])
        pool.execute(f"raise ValueError('{SECRET}')", check=False, session_id="s")
        pool.execute(
            f"import os; print('{SECRET}'); os._exit(1)  # {SECRET}", check=False, retries=1
        )
        pool.execute(f"import os, sys; sys.stderr.write('{SECRET}'); os.abort()", check=False)
        pool.execute(deaf, timeout=0.1, check=False)
        pool.execute(named)
        pool.execute(child)
        pool.execute("1", outputs=["missing"], check=False)
        with pytest.raises(KeyError):
            pool.submit(lambda key: {}[key], SECRET).result()
        with pool.checkout() as worker:
            worker.execute(f"z = '{SECRET}'")
            worker.execute(f"import os; os._exit(1)  # {SECRET}", check=False)
    forgotten = KernelPool(1)
    lease = forgotten.checkout(session_id="s").__enter__()  # s3cr3t-marker
    forgotten.close(timeout=0)
    leases = [lease]
    del lease
    with pytest.warns(ResourceWarning, match=SECRET):
        leases.clear()
    records = [r for r in caplog.records if r.name.startswith("jupyter_pool")]
    assert {record.levelname for record in records} == {"INFO", "WARNING"}
    assert [text for text in map(written, records) if SECRET in text] == []
    assert all(hasattr(record, name) for record in records for name in WHERE)


def test_a_start_that_fails_is_logged_without_its_words_above_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.DEBUG, logger="jupyter_pool"),
        kernelspec("unlicensed", python(f"import sys; sys.exit('{SECRET}')")) as name,
        KernelPool(1, kernel_name=name, isolation="none", env={"TOKEN": SECRET}) as pool,
    ):
        with pytest.raises(WorkerStartError, match=SECRET):
            pool.execute("1")
        find(caplog, "worker 1 did not start: exit code 1")
        assert find(caplog, SECRET).levelno == logging.DEBUG
    loud = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert [record for record in loud if SECRET in written(record)] == []


def written(record: logging.LogRecord) -> str:
    """All that a handler could write of a record."""
    return logging.Formatter().format(record) + repr(record.__dict__)
