"""Reading Chrome traces: https://ui.perfetto.dev shows what keeps to this."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

Item = dict[str, Any]

_NEEDS = {
    "X": {"name", "cat", "ts", "dur", "args"},
    "M": {"name", "args"},
    "i": {"name", "ts", "s"},
    "s": {"name", "cat", "ts", "id"},
    "f": {"name", "cat", "ts", "id", "bp"},
}


def lane_names(trace: Item) -> dict[int, str]:
    return {
        item["tid"]: item["args"]["name"]
        for item in trace["traceEvents"]
        if item["ph"] == "M" and item["name"] == "thread_name"
    }


def slices(trace: Item) -> list[Item]:
    """The complete events, with the names of their lanes, by their beginning within each lane."""
    names = lane_names(trace)
    return [
        {**item, "lane": names[item["tid"]]} for item in trace["traceEvents"] if item["ph"] == "X"
    ]


def check_trace(trace: Item) -> None:
    """Every item has what its phase needs, every lane a name, every flow two ends within slices."""
    assert json.loads(json.dumps(trace)) == trace
    names, by_lane = lane_names(trace), defaultdict(list)
    flows: dict[str, list[Item]] = defaultdict(list)
    for item in trace["traceEvents"]:
        assert _NEEDS[item["ph"]] | {"ph", "pid", "tid"} <= set(item), item
        assert item["tid"] in names
        assert item.get("ts", 0) >= 0
        assert item.get("dur", 0) >= 0
        if item["ph"] == "X":
            by_lane[item["tid"]].append(item)
        elif item["ph"] in "sf":
            flows[item["id"]].append(item)
    for lane in by_lane.values():
        lane.sort(key=lambda item: item["ts"])
        for first, second in pairwise(lane):
            assert first["ts"] + first["dur"] <= second["ts"] + 0.01, (first, second)
    for ends in flows.values():
        assert ends[0]["ph"] == "s"
        for end in ends:
            around = [
                item
                for item in by_lane[end["tid"]]
                if item["ts"] <= end["ts"] <= item["ts"] + item["dur"]
            ]
            assert around, end
