"""The circuit breaker as a user sees it: in status, health, events and errors."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jupyter_pool import KernelPool, WorkerStartError
from jupyter_pool.reports import BreakerStatus
from jupyter_pool.telemetry import PoolEvent
from support.cells import states
from support.conditions import eventually
from support.kernelspecs import kernelspec, python, scripted

BREAKER = ["breaker_opened", "breaker_half_open", "breaker_closed"]


def breaks_until(folder: Path) -> list[str]:
    """The argv of a kernel that cannot start before there is a file."""
    kernel = scripted("well", folder)
    return python(
        "import os, sys\n"
        f"if not os.path.exists({str(folder / 'licence')!r}):\n"
        "    sys.exit('no licence for s3cr3t')\n"
        f"argv = {kernel!r}\n"
        "os.execv(argv[0], [sys.argv[1] if part == '{connection_file}' else part for part in argv])"
    )


def test_a_pool_whose_workers_cannot_start_breaks_fails_fast_and_heals(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[PoolEvent] = []
    with (
        kernelspec("licensed", breaks_until(tmp_path)) as name,
        KernelPool(1, kernel_name=name, isolation="none") as pool,
        pool.subscribe(events.append) as subscription,
    ):
        assert pool.get_status().breaker.state == "closed"
        assert pool.get_status().breaker.since is None
        before = time.time()

        def opened() -> BreakerStatus | None:
            breaker = pool.get_status().breaker
            return breaker if breaker.state == "open" else None

        # Probes take a while, pauses get longer: sooner or later it is found open.
        breaker = eventually(opened, within=60)
        assert breaker is not None
        assert breaker.cause == "no licence for s3cr3t"
        assert breaker.since is not None
        assert before <= breaker.since <= time.time()
        assert breaker.next_probe is not None
        assert breaker.next_probe <= 30
        status = pool.get_status()
        assert status.state == "degraded"
        assert "breaker" in repr(status)

        health = pool.health_check()
        assert health.status == "unhealthy"
        assert any("no licence" in reason for reason in health.reasons)
        assert any(reason.startswith("the breaker is ") for reason in health.reasons)

        # Callers do not queue behind the crash loop.
        began = time.monotonic()
        with pytest.raises(WorkerStartError, match="no licence") as caught:
            pool.execute("1")
        assert time.monotonic() - began < 5
        error = caught.value
        assert error.stderr == "no licence for s3cr3t\n"
        assert error.context["breaker"] in ("open", "half_open")
        assert "Starts keep failing" in str(error)
        with pytest.raises(WorkerStartError, match="no licence"):
            pool.submit_code("1").result(60)

        (tmp_path / "licence").touch()
        eventually(lambda: pool.get_status().breaker.state == "closed", within=90)
        assert pool.get_status().breaker.cause is None
        eventually(lambda: states(pool) == ["idle"])
        assert pool.execute("hello").stdout == "hello"
        assert pool.health_check().status == "healthy"
        subscription.flush()
        moves = [event for event in events if event.type in BREAKER]
        others = [
            event.type for event in events if event.type in ("pool_degraded", "pool_recovered")
        ]
    told = [event.type for event in moves]
    tries = told.count("breaker_half_open")
    assert tries >= 1
    assert told == [*["breaker_opened", "breaker_half_open"] * tries, "breaker_closed"]
    assert others == ["pool_degraded", "pool_recovered"]
    assert moves[0].data["cause"] == "no licence for s3cr3t"
    # Each pause is longer than the one before.
    pauses = [move.data["next_probe"] for move in moves if move.type == "breaker_opened"]
    assert pauses == sorted(pauses)
    # A kernel's own words are for whoever asked for it, not for the log.
    assert "s3cr3t" not in caplog.text


def test_a_probe_is_half_open_until_it_has_proved_itself(tmp_path: Path) -> None:
    with (
        kernelspec("probed", breaks_until(tmp_path)) as name,
        KernelPool(1, kernel_name=name, isolation="none") as pool,
    ):
        half_open: list[PoolEvent] = []
        pool.subscribe(half_open.append, ["breaker_half_open"])
        pool.start()
        event = eventually(lambda: half_open, within=60)[0]
        assert (event.pool, event.worker_id) == (pool.name, None)
        (tmp_path / "licence").touch()
        eventually(lambda: pool.get_status().breaker.state == "closed", within=90)


def test_workers_that_users_code_kills_do_not_open_it() -> None:
    with KernelPool(1) as pool:
        opened: list[PoolEvent] = []
        pool.subscribe(opened.append, BREAKER)
        for _ in range(5):
            assert pool.execute("import os; os._exit(1)", check=False).status == "died"
        assert pool.execute("1").status == "ok"
        assert pool.get_status().breaker.state == "closed"
    assert opened == []
