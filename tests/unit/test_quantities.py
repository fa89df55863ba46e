"""Times and sizes as people write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jupyter_pool import InvalidRequest
from jupyter_pool.config import parse_size, parse_time

# --- times --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (90, 90.0),
        (1.5, 1.5),
        (0, 0.0),
        (np.float32(2), 2.0),
        ("90", 90.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("10m", 600.0),
        ("10 M", 600.0),
        (" 2h ", 7200.0),
        ("none", None),
        ("None", None),
        (None, None),
    ],
)
def test_times_that_are_read(given: Any, seconds: float | None) -> None:
    assert parse_time(given) == seconds


@pytest.mark.parametrize(
    "wrong",
    ["", "s", "-1", "1e3", "1 day", "10mm", "1:30", "nan", "inf", -1, float("nan"), float("inf"),
     True, [1], "٣s", "9" * 400, 10**400],
)  # fmt: skip
def test_times_that_are_not(wrong: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_time(wrong)
    assert str(caught.value).startswith(f"{wrong!r} is not a time")
    assert "10m" in str(caught.value)


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (20_000_000, 20_000_000),
        (1e6, 1_000_000),
        (np.int64(5), 5),
        (0, 0),
        ("500", 500),
        ("500B", 500),
        ("64kB", 64_000),
        ("64 KB", 64_000),
        ("1.5GB", 1_500_000_000),
        ("2GiB", 2 * 2**30),
        (" .5 mib ", 2**19),
        ("1TB", 10**12),
        ("none", None),
        ("None", None),
        (None, None),
    ],
)
def test_sizes_that_are_read(given: Any, size: int | None) -> None:
    assert parse_size(given) == size


@pytest.mark.parametrize(
    "wrong",
    ["", "MB", "-1", "1e3", "1 M", "ib", "10kk", "1,5GB", "nan", -1, float("nan"), float("inf"), True,
     [1], "٣kB", "9" * 400, 10**400],
)  # fmt: skip
def test_sizes_that_are_not(wrong: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_size(wrong)
    assert str(caught.value).startswith(f"{wrong!r} is not a size")
    assert "20MB" in str(caught.value)
