"""Times and sizes as people write them: a number, a number with a unit, or "none" for no limit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from jupyter_pool.errors import InvalidRequest

__all__ = ["parse_size", "parse_time"]

_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>[a-z]*)", re.ASCII)

# By unit; "" is a number without one.
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {
    "": 1.0,
    "b": 1.0,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
    "tib": 2.0**40,
}
_TIME_FORMS = 'seconds such as 90 or 1.5, or a text such as "90", "1.5s", "10m", "2h" or "none"'
_SIZE_FORMS = (
    'bytes such as 20_000_000, or a text such as "500kB", "20MB", "1.5GB", "2GiB" or "none"'
)


def parse_time(text: str | float | None) -> float | None:
    """Return a duration in seconds, or None for "no limit".

    Parameters
    ----------
    text
        A number of seconds, or a text: a number with the unit ``ms``, ``s``
        (also if it has none), ``m`` or ``h``, or ``none``.

    Raises
    ------
    InvalidRequest
        It is neither, or negative, or not finite.
    """
    return _parse(text, _SECONDS, f"a time: give {_TIME_FORMS}")


def parse_size(text: str | float | None) -> int | None:
    """Return a number of bytes, or None for "no limit".

    Parameters
    ----------
    text
        A number of bytes, or a text: a number with the unit ``B`` (also if it
        has none), ``kB``, ``MB``, ``GB`` or ``TB`` (powers of 1000) or ``KiB``,
        ``MiB``, ``GiB`` or ``TiB`` (powers of 1024) in any case, or ``none``.

    Raises
    ------
    InvalidRequest
        It is neither, or negative, or not finite.
    """
    size = _parse(text, _BYTES, f"a size: give {_SIZE_FORMS}")
    return None if size is None else round(size)


def _parse(text: str | float | None, units: Mapping[str, float], what: str) -> float | None:
    if text is None:
        return None
    number = math.nan
    if isinstance(text, str):
        word = text.strip().lower()
        if word == "none":
            return None
        match = _NUMBER.fullmatch(word)
        if match and match["unit"] in units:
            number = float(match["number"]) * units[match["unit"]]
    elif not isinstance(text, bool):
        try:
            number = float(text)
        except (TypeError, ValueError, OverflowError):
            pass
    if math.isfinite(number) and number >= 0:
        return number
    raise InvalidRequest(f"{text!r} is not {what}")
