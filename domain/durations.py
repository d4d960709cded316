"""Durations as people write them: ``90s``, ``5m``, ``1h``, ``30d``, ``2w``, ``250ms``; kept in microseconds."""

from __future__ import annotations

import re

__all__ = ["format_duration", "parse_duration"]

_UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|d|w)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> int:
    """Microseconds meant by ``text``; parts may be joined (``1h30m``). Raises ValueError otherwise.

    >>> parse_duration("1h30m") == 90 * 60 * 1_000_000
    True
    """
    cleaned = text.strip()
    if not _WHOLE.fullmatch(cleaned):
        raise ValueError(f"{text!r} is not a duration; write a number and a unit, such as 90s, 5m, 1h, 30d")
    return sum(round(float(number) * _UNITS[unit]) for number, unit in _PART.findall(cleaned))


def format_duration(micros: int) -> str:
    """The shortest spelling of a duration, in at most two units where that is exact.

    >>> format_duration(parse_duration("3.5h"))
    '3h30m'
    >>> format_duration(0)
    '0s'
    """
    if micros == 0:
        return "0s"
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, micros = divmod(micros, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)
