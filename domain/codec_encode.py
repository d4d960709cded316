"""From rows of files to events on the wire."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np

from domain.codec_time import writer
from domain.pipeline import EventSpec, Field, FieldType

__all__ = ["RowEncoder"]


class RowEncoder:
    """Encodes rows keyed by ``source`` names as JSON; columns that the schema does not name are left out."""

    def __init__(self, event: EventSpec) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._columns: list[tuple[str, bool, Callable[[Any], Any]]] = [
            (f.source, f.required, _converter(f)) for f in event.fields
        ]

    def encode(self, record: Mapping[str, object]) -> bytes:
        """One record as JSON. Missing values (None, NaN, NaT) become null, or are left out if optional."""
        out: dict[str, Any] = {}
        for source, required, convert in self._columns:
            value = convert(record.get(source))
            if value is not None:
                out[source] = value
            elif required and source in record:
                out[source] = None
        return self._encode(out)


def _converter(field: Field) -> Callable[[Any], Any]:
    write_time = writer(field) if field.type is FieldType.TIMESTAMP else None

    def convert(value: Any) -> Any:
        if type(value) is str:
            return value
        if isinstance(value, np.datetime64):
            value = None if np.isnat(value) else value.astype("datetime64[us]").item()
        elif isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Decimal):
            value = float(value)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, datetime):
            if str(value) == "NaT":  # pandas' missing time is a datetime
                return None
            return value.isoformat() if write_time is None else write_time(value)
        if field.type is FieldType.STRING and isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if field.type is FieldType.INTEGER and isinstance(value, float) and value.is_integer():
            return int(value)
        if field.type is FieldType.BOOLEAN and value in (0, 1):
            return bool(value)
        return value

    return convert
