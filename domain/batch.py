"""A batch of decoded, valid events as columns: the only form in which events enter the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["EventBatch", "Floats", "Ints"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EventBatch:
    """``n`` events of one partition in offset order, as columns keyed by field name.

    ids         event ids (text; integers as decimal text)
    times       event time, UTC microseconds, int64[n]
    offsets     source offsets, int64[n], strictly increasing
    entities    per entity field: its value as text (sensitive fields already as keyed hashes)
    numbers     number, integer, boolean and timestamp fields (seconds since 1970), float64[n];
                NaN where an optional field is missing
    strings     string fields that are not sensitive, None where missing; sensitive ones as keyed hashes
    """

    ids: Sequence[str]
    times: Ints
    offsets: Ints
    entities: dict[str, Sequence[str]]
    numbers: dict[str, Floats]
    strings: dict[str, Sequence[str | None]]

    def __len__(self) -> int:
        return len(self.ids)
