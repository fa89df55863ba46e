"""Ctrl-C at any moment: raised, never swallowed, and nobody and nothing is lost by it."""

from __future__ import annotations

from typing import Any

import pytest

from support.owners import Owner

# `attempt(call, presses)` runs a call during which up to so many Ctrl-Cs come at random moments; it
# gives back "interrupted" or what the call returned. They come only while it runs: the handler is
# deaf otherwise, so that the test itself is not interrupted.
HARNESS = """
import random

rng = random.Random(int(sys.argv[1]))
main = threading.main_thread().ident
presses_left, sent, raised = 0, 0, 0
armed = threading.Semaphore(0)
delays = []

def on_sigint(signum, frame):
    global presses_left, raised
    if presses_left:
        presses_left -= 1
        raised += 1
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, on_sigint)

def press():
    global sent
    while True:
        armed.acquire()
        for delay in delays.pop():
            time.sleep(delay)
            sent += 1
            signal.pthread_kill(main, signal.SIGINT)

threading.Thread(target=press, daemon=True).start()

def attempt(call, presses, mean):
    global presses_left
    delays.append([rng.expovariate(1 / mean) for _ in range(presses)])
    outcome = None
    try:
        try:
            presses_left = presses
            armed.release()
            outcome = call()
            presses_left = 0
        except KeyboardInterrupt:
            presses_left, outcome = 0, "interrupted"
    except KeyboardInterrupt:  # the second one; there is no third
        presses_left, outcome = 0, "interrupted"
    # A press that is still to come finds nobody; the next attempt waits for it.
    while delays:
        pass
    return outcome

def report(pool, **facts):
    deadline = time.monotonic() + 20
    def settled():
        status = pool.get_status()
        return status.queue_length == 0 and [w.state for w in status.workers] == ["idle"] * 2
    while not settled() and time.monotonic() < deadline:
        time.sleep(0.01)
    status, shown = pool.get_status(), repr(pool)
    # Both workers at a time, so that each of them has to answer.
    probes = [pool.submit_code(f"import time; time.sleep(0.1); {n}") for n in range(6)]
    answers = [probe.result(30).data["text/plain"] for probe in probes]
    say({
        "states": [w.state for w in status.workers],
        "holding": [w.request_id for w in status.workers if w.request_id],
        "queued": status.queue_length,
        "answers": answers,
        "pool": shown,
        "requests": pool.get_stats().requests,
        "lost": pool.get_stats().workers_lost,
        "killed": pool.get_stats().workers_killed,
        "raised": raised,
        **facts,
    })
"""


def assert_sound(told: dict[str, Any]) -> None:
    assert told["states"] == ["idle", "idle"]
    assert told["holding"] == []
    assert told["queued"] == 0
    assert "Workers: 2 idle | Requests: none" in told["pool"]
    assert told["answers"] == [str(n) for n in range(6)]
    assert told["lost"] == {}


@pytest.mark.parametrize("seed", [1, 2])
def test_hundreds_of_ctrl_cs_while_cells_are_queued_sent_run_and_received(seed: int) -> None:
    script = f"""{HARNESS}
SHORT = "{{n}}"
OUTPUT = "for i in range(200): print({{n}})\\n{{n}}"
SLEEP = "import time; time.sleep(60); {{n}}"
LOOP = "while True: pass"
AWAIT = "import asyncio; await asyncio.sleep(60)"
CHILD = "!sleep 60"
BIG = b"x" * 3_000_000
endless = (SLEEP, LOOP, AWAIT, CHILD)

interrupted, wrong = 0, []
with KernelPool(size=2, checkout_timeout=None, interrupt_grace=10) as pool:
    pool.start(wait=True)
    for n in range(150):
        kind = rng.choice([SHORT, SHORT, OUTPUT, "big", "queued", *endless])
        blockers = []
        if kind == "queued":  # behind two that are busy
            blockers = [pool.submit_code(SLEEP.format(n=n)) for _ in range(2)]
            deadline = time.monotonic() + 20
            while not all(b.running() for b in blockers) and time.monotonic() < deadline:
                time.sleep(0.001)
        if kind == "big":
            call = lambda: pool.execute(f"y = x; {{n}}", inputs={{"x": BIG}}, outputs=["y"])
        elif kind == "queued":
            call = lambda: pool.execute(f"{{n}}")
        else:
            call = lambda: pool.execute(kind.format(n=n), on_output=lambda event: None)
        mean = 0.02 if kind in endless or blockers else 0.005
        outcome = attempt(call, rng.choice([1, 1, 2]), mean)
        if outcome == "interrupted":
            interrupted += 1
        elif outcome.data.get("text/plain") != str(n) or kind in endless or blockers:
            wrong.append([n, kind, repr(outcome)])
        for blocker in blockers:
            pool.cancel(blocker.request_id)
    report(pool, interrupted=interrupted, wrong=wrong)
"""
    with Owner(script, str(seed)) as owner:
        told = owner.hear(within=100)
        assert told["wrong"] == []
        assert_sound(told)
        # Else this would not be the test that it says it is.
        assert told["raised"] >= told["interrupted"] >= 75
        assert told["killed"] == {}
        assert owner.wait() == 0
        assert owner.stderr == ""


def test_ctrl_cs_around_leases_leave_no_worker_held() -> None:
    script = f"""{HARNESS}
def lease():
    with pool.checkout() as worker:
        worker.execute("kept = 1")
        return worker.execute("kept").data["text/plain"]

found = []
with KernelPool(size=2, checkout_timeout=None, interrupt_grace=10) as pool:
    pool.start(wait=True)
    for n in range(100):
        found.append(attempt(lease, rng.choice([1, 2]), 0.008))
    report(pool, found=sorted(set(found)), interrupted=found.count("interrupted"))
"""
    with Owner(script, "3") as owner:
        told = owner.hear(within=100)
        assert set(told["found"]) <= {"1", "interrupted"}
        assert_sound(told)
        assert told["interrupted"] >= 10
        assert owner.wait() == 0
        assert owner.stderr == ""


def test_ctrl_cs_while_pools_start_and_close_leave_nothing() -> None:
    script = f"""{HARNESS}
import psutil

def live():
    pool = KernelPool(size=1)
    try:
        pool.start(wait=True)
        return pool.execute("'done'").data["text/plain"]
    finally:
        pool.close()

found = []
for n in range(8):
    found.append(attempt(live, 1, 0.25))
# What an interrupted close left to others is over soon, whether or not anybody waits for it.
deadline = time.monotonic() + 20
def command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return "just ended"
def left():
    threads = [t.name for t in threading.enumerate() if "jupyter_pool" in t.name]
    return [threads, [command(p) for p in psutil.Process().children(recursive=True)]]
while left() != [[], []] and time.monotonic() < deadline:
    time.sleep(0.01)
say([left(), found, jupyter_pool.list_pools()])
"""
    with Owner(script, "4") as owner:
        left, found, pools = owner.hear(within=100)
        assert left == [[], []]
        assert pools == []
        assert set(found) <= {"'done'", "interrupted"}
        assert "interrupted" in found
        assert owner.wait() == 0


def test_a_second_ctrl_c_does_not_wait_for_a_cell_that_ignores_the_first() -> None:
    script = """
with KernelPool(size=1, interrupt_grace=60) as pool:
    began = time.monotonic()
    def again():
        while pool.get_status().workers[0].state != "interrupting":
            pass
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    threading.Thread(target=again).start()
    try:
        pool.execute(
            "import signal, time\\n"
            "signal.signal(signal.SIGINT, signal.SIG_IGN)\\n"
            "print(1, end='', flush=True)\\n"  # in one piece: one Ctrl-C for it
            "time.sleep(600)",
            on_output=lambda event: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT),
        )
    except KeyboardInterrupt:
        say(time.monotonic() - began < 30)
    pool.restart_worker(pool.get_status().workers[0].id)  # or wait out the grace
    say(pool.execute("1 + 1").data["text/plain"])
"""
    with Owner(script) as owner:
        assert owner.hear() is True
        assert owner.hear() == "2"
        assert owner.wait() == 0
        assert owner.stderr == ""
