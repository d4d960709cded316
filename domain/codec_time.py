"""Timestamps on the wire: RFC 3339 text or numbers since 1970, to and from UTC microseconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from domain.clock import from_micros, to_micros
from domain.pipeline import Field

__all__ = ["EARLIEST", "LATEST", "BadTimeError", "reader", "writer", "zone_of"]

EARLIEST = 0
LATEST = to_micros(datetime(2200, 1, 1, tzinfo=UTC))
"""Event times lie in [1970, 2200): outside, a producer has mixed up its units."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER = {"s": 1_000_000, "ms": 1_000, "us": 1}


class BadTimeError(ValueError):
    """A timestamp that is well written but lies outside 1970 to 2200."""


def zone_of(field: Field) -> tzinfo | None:
    """The zone of values that carry none."""
    if field.timezone is None:
        return None
    return UTC if field.timezone == "UTC" else ZoneInfo(field.timezone)


def reader(field: Field) -> Callable[[Any], int]:
    """From what msgspec decoded (datetime or float) to UTC microseconds; raises BadTimeError."""
    if field.unit != "iso":
        scale = _PER[field.unit]

        def from_number(value: float) -> int:
            micros = round(value * scale) if -1e16 < value < 1e16 else -1
            if not EARLIEST <= micros < LATEST:
                raise BadTimeError
            return micros

        return from_number

    zone = zone_of(field)

    def from_datetime(value: datetime) -> int:
        if value.tzinfo is None:
            value = value.replace(tzinfo=zone)
        try:
            delta = value - _EPOCH
        except OverflowError:
            raise BadTimeError from None
        micros = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
        if not EARLIEST <= micros < LATEST:
            raise BadTimeError
        return micros

    return from_datetime


def writer(field: Field) -> Callable[[datetime], Any]:
    """From a datetime (a naive one is in the field's zone, UTC by default) to the value on the wire."""
    zone = zone_of(field) or UTC
    scale = _PER.get(field.unit)

    def write(value: datetime) -> Any:
        if value.tzinfo is None:
            value = value.replace(tzinfo=zone)
        micros = to_micros(value)
        if scale is None:
            return from_micros(micros).isoformat().replace("+00:00", "Z")
        whole, rest = divmod(micros, scale)
        return micros / scale if rest else whole

    return write
