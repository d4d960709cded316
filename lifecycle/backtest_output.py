"""The verdict file of a backtest: Parquet, one row a verdict, columns described in docs/backtest.md."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from domain.batch import Floats
from domain.errors import Fatal
from domain.pipeline import Pipeline
from domain.verdict import DECISIONS
from scoring.scored import ScoredBatch, flags_of

__all__ = ["VerdictFile", "read_feature"]

_DECISIONS = pa.array([str(d) for d in DECISIONS])
_FLAGS = [",".join(flags_of(mask)) for mask in range(32)]


class VerdictFile:
    """Writes next to ``path`` and moves the file there when all went well, so that half a file never looks whole."""

    def __init__(self, path: Path, pipeline: Pipeline) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._features = pipeline.feature_names
        self._detectors = tuple(d.name for d in pipeline.detectors)
        number = pa.float64()
        self._schema = pa.schema(
            [
                ("id", pa.string()),
                ("row", pa.int64()),
                ("event_time", pa.timestamp("us", "UTC")),
                ("score", number),
                ("decision", pa.string()),
                ("flags", pa.string()),
                *((f"f_{name}", number) for name in self._features),
                *((f"d_{name}", number) for name in self._detectors),
                ("reasons", pa.string()),
            ],
            metadata={"pipeline": pipeline.name, "pipeline_digest": pipeline.digest},
        )

    def __enter__(self) -> VerdictFile:
        try:
            self._writer: Any = pq.ParquetWriter(self._partial, self._schema)
        except OSError as error:
            raise Fatal(f"{self._path} cannot be written: {error}", remedy="choose another --out.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            self._partial.replace(self._path)
        else:
            self._partial.unlink(missing_ok=True)

    def write(self, scored: ScoredBatch) -> None:
        """Append the verdicts of a batch. Missing numbers are null."""
        reasons: list[str | None] = [None] * len(scored)
        for row, why in scored.reasons.items():
            reasons[row] = msgspec.json.encode(why).decode()
        arrays = [
            pa.array(scored.batch.ids, pa.string()),
            pa.array(scored.batch.offsets),
            pa.array(scored.batch.times).cast(pa.timestamp("us", "UTC")),
            _numbers(scored.score),
            _DECISIONS.take(pa.array(scored.decision)),
            pa.array([_FLAGS[mask] for mask in scored.flags.tolist()], pa.string()),
            *(_numbers(scored.features[:, i]) for i in range(len(self._features))),
            *(_numbers(scored.raw[:, i]) for i in range(len(self._detectors))),
            pa.array(reasons, pa.string()),
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))


def _numbers(values: Floats) -> Any:
    return pa.array(np.ascontiguousarray(values), pa.float64(), from_pandas=True)


def read_feature(path: Path, name: str) -> Floats:
    """One feature's column of a verdict file, NaN where missing."""
    column = pq.read_table(path, columns=[f"f_{name}"]).column(0)
    values: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values
