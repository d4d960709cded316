"""Records of ``verdicts`` and ``labels.joined`` as the columns that drift monitors take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from domain.batch import Floats, Ints
from domain.label_codec import JoinedLabel
from domain.pipeline import Pipeline
from domain.verdict import DECISIONS, DecisionName, Flag, Source

__all__ = ["BadRecord", "MonitorCodec", "VerdictRow"]

_CODES = {name: float(code) for code, name in enumerate(DECISIONS)}


class BadRecord(ValueError):
    """No verdict, or no joined label."""


class _Versions(msgspec.Struct, frozen=True, gc=False):
    pipeline_digest: str


class VerdictRow(msgspec.Struct, frozen=True, gc=False):
    """What of a verdict is monitored."""

    event_time: int
    score: float | None
    decision: DecisionName
    features: dict[str, float | None]
    flags: list[Flag]
    versions: _Versions
    source: Source


class MonitorCodec:
    """Decodes the records of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._features = pipeline.feature_names
        self._digest = pipeline.digest
        self._verdict = msgspec.json.Decoder(VerdictRow).decode
        self._label = msgspec.json.Decoder(JoinedLabel).decode

    def verdict(self, raw: bytes) -> VerdictRow:
        """Raises BadRecord."""
        try:
            return self._verdict(raw)
        except msgspec.DecodeError as error:
            raise BadRecord(str(error)) from error

    def label(self, raw: bytes) -> JoinedLabel:
        """Raises BadRecord."""
        try:
            return self._label(raw)
        except msgspec.DecodeError as error:
            raise BadRecord(str(error)) from error

    def counts(self, row: VerdictRow) -> bool:
        """Whether ``row`` is monitored: this pipeline's, and no repetition of another."""
        return row.versions.pipeline_digest == self._digest and Flag.DUPLICATE not in row.flags

    def columns(self, rows: Sequence[VerdictRow]) -> tuple[Ints, Ints, Ints, Floats]:
        """Event times, partitions, offsets, and values in the order of lifecycle.drift.pipeline.columns_of."""
        x = np.array(
            [
                [
                    *(_number(row.features.get(name)) for name in self._features),
                    _number(row.score),
                    _CODES[row.decision],
                ]
                for row in rows
            ],
            dtype=np.float64,
        )
        places: Any = np.array(
            [(row.event_time, row.source.partition, row.source.offset) for row in rows], dtype=np.int64
        )
        return places[:, 0], places[:, 1], places[:, 2], x


def _number(value: float | None) -> float:
    return math.nan if value is None else value
