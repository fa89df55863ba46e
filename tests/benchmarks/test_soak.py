"""Ten thousand requests of all kinds, with timeouts, cancellations, Ctrl-C and kills.

pytest tests/benchmarks/test_soak.py -s
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.owners import Owner

REQUESTS = 10_000
TESTS = Path(__file__).parents[1]

SCRIPT = f"""
sys.path.insert(0, {str(TESTS)!r})
from support import soak
say(soak.main(sys.argv[1], {REQUESTS}, kill_every=0.5, interrupt_every=0.2))
"""

# What an owner's memory may differ by between the first and the last thousand, in MiB.
FLAT = 8.0


def table(told: dict[str, Any]) -> str:
    lines = ["ended      s   uss MiB  rss MiB  descriptors  threads"]
    lines += [
        f"{s['ended']:>5}  {s['at'] - told['begun']:>5.0f}  {s['uss']:>8.1f} {s['rss']:>8.1f}"
        f"  {s['descriptors']:>11}  {s['threads']:>7}"
        for s in told["samples"]
    ]
    lines += [
        f"{REQUESTS} requests in {told['took']:.0f} s",
        f"{told['kills']} workers killed, {told['interrupts']} Ctrl-C's",
        f"ends: {told['outcomes']}",
        f"counted: {told['counted']}, lost {told['lost']}, killed {told['killed']}",
        f"ran twice: {told['ran twice']}",
    ]
    return "\n".join(lines)


@pytest.mark.timeout(1200)
def test_ten_thousand_requests_none_lost_none_doubled_none_crossed(tmp_path: Path) -> None:
    with Owner(SCRIPT, str(tmp_path / "journal")) as owner:
        told = owner.hear(within=1100)
        assert owner.wait() == 0
    print("\n" + table(told))
    if owner.stderr:
        print(owner.stderr)
    # None crossed, none with an end that it was not meant to have.
    assert told["wrong"] == []
    # None lost, none answered twice.
    assert told["ends"] == {"1": REQUESTS}
    assert told["queued"] == 0
    # Leases have no outcome of their own; an interrupted main thread may have had its answer.
    assert sum(told["counted"].values()) <= REQUESTS
    assert sum(told["counted"].values()) >= REQUESTS - told["interrupted"]
    assert told["ran twice"] == []
    assert told["errors logged"] == []
    assert owner.stderr == ""
    first, last = told["samples"][0], told["samples"][-1]
    assert last["uss"] - first["uss"] <= FLAT
    assert last["descriptors"] - first["descriptors"] <= 2 * 13  # two workers more or less
    assert told["kills"] > 0
    assert told["interrupted"] > 0
