"""What workers cost their owner: few descriptors."""

from __future__ import annotations

import pytest

from support.conditions import gone
from support.owners import Owner

WORKERS = 60
LIMIT = 1024  # what `ulimit -n` says on most systems

SCRIPT = f"""
import gc, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT} if hard == resource.RLIM_INFINITY else min(hard, {LIMIT})))

def count():
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))

began = time.monotonic()
with KernelPool(size=1) as pool:
    pool.execute("1")
    one = count()
    pool.resize(size={WORKERS})
    pool.start(wait=True, timeout=100)
    ready = time.monotonic() - began
    # Each answer is a worker's only if all run at a time: every cell waits for all the others.
    code = '''
import os, time
open(os.path.join(folder, str(os.getpid())), "w").close()
deadline = time.monotonic() + 60
while len(os.listdir(folder)) < workers and time.monotonic() < deadline:
    time.sleep(0.05)
me, met = os.getpid(), len(os.listdir(folder))
'''
    inputs = {{"folder": sys.argv[1], "workers": {WORKERS}}}
    futures = [pool.submit_code(code, inputs=inputs, outputs=["me", "met"]) for _ in range({WORKERS})]
    answers = [[f.result(100).outputs["me"], f.result().outputs["met"]] for f in futures]
    many = count()
    say({{"answers": answers, "pids": pids(pool), "one": one, "many": many, "ready": ready,
          "lost": pool.get_stats().workers_lost}})
"""


@pytest.mark.slow
def test_sixty_workers_fit_a_limit_of_1024_descriptors_and_each_answers(
    tmp_path: object, capsys: pytest.CaptureFixture[str]
) -> None:
    with Owner(SCRIPT, str(tmp_path)) as owner:
        told = owner.hear(within=110)
        assert owner.wait() == 0
        assert owner.stderr == ""
    each = (told["many"] - told["one"]) / (WORKERS - 1)
    with capsys.disabled():
        print(
            f"\n  {WORKERS} workers ready after {told['ready']:.1f} s, "
            f"{each:.1f} descriptors each, {told['many']} in all"
        )
    assert sorted(pid for pid, _ in told["answers"]) == sorted(told["pids"])
    assert {met for _, met in told["answers"]} == {WORKERS}
    assert told["lost"] == {}
    # 25 is what a KernelClient of its own takes; three connections, stderr, pidfd are needed.
    assert each <= 13
    assert gone(told["pids"])()
