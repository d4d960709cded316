"""The verdict file of a backtest: Parquet, one row a verdict, columns described in docs/backtest.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from domain.batch import Floats, Ints
from domain.pipeline import Pipeline
from domain.verdict import DECISIONS
from lifecycle.parquet_file import WholeParquet, moments, numbers
from scoring.scored import FLAG_BITS, ScoredBatch, flags_of

__all__ = ["VerdictFile", "read_feature", "read_row_numbers", "read_sample"]

_DECISIONS = pa.array([str(d) for d in DECISIONS])
_FLAGS = [",".join(flags_of(mask)) for mask in range(2 ** len(FLAG_BITS))]


class VerdictFile:
    """Writes verdicts to ``path``, which appears when all went well."""

    def __init__(self, path: Path, pipeline: Pipeline) -> None:
        self._features = pipeline.feature_names
        self._detectors = tuple(d.name for d in pipeline.detectors)
        number = pa.float64()
        self._file = WholeParquet(
            path,
            pipeline,
            [
                ("id", pa.string()),
                ("row", pa.int64()),
                ("event_time", pa.timestamp("us", "UTC")),
                ("score", number),
                *([("probability", number)] if pipeline.learns else []),
                ("decision", pa.string()),
                ("flags", pa.string()),
                *((f"f_{name}", number) for name in self._features),
                *((f"d_{name}", number) for name in self._detectors),
                ("reasons", pa.string()),
            ],
        )

    def __enter__(self) -> VerdictFile:
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def write(self, scored: ScoredBatch) -> None:
        """Append the verdicts of a batch. Missing numbers are null."""
        reasons: list[str | None] = [None] * len(scored)
        for row, why in scored.reasons.items():
            reasons[row] = msgspec.json.encode(why).decode()
        arrays = [
            pa.array(scored.batch.ids, pa.string()),
            pa.array(scored.batch.offsets),
            moments(scored.batch.times),
            numbers(scored.score),
            *([] if scored.probability is None else [numbers(scored.probability)]),
            _DECISIONS.take(pa.array(scored.decision)),
            pa.array([_FLAGS[mask] for mask in scored.flags.tolist()], pa.string()),
            *(numbers(scored.features[:, i]) for i in range(len(self._features))),
            *(numbers(scored.raw[:, i]) for i in range(len(self._detectors))),
            pa.array(reasons, pa.string()),
        ]
        self._file.add(arrays)


def read_sample(path: Path, names: Sequence[str], limit: int) -> Floats:
    """The features of the first ``limit`` verdicts of a file (float64[n, names]), NaN where missing."""
    parts: list[Floats] = []
    left = limit
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=[f"f_{name}" for name in names]):
            rows = batch.slice(0, left)
            columns = [column.to_numpy(zero_copy_only=False).astype(np.float64) for column in rows.columns]
            parts.append(np.column_stack(columns))
            left -= rows.num_rows
            if left == 0:
                break
    return np.concatenate(parts) if parts else np.empty((0, len(names)))


def read_feature(path: Path, name: str) -> Floats:
    """One feature's column of a verdict file, NaN where missing."""
    column = pq.read_table(path, columns=[f"f_{name}"]).column(0)
    values: Floats = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def read_row_numbers(path: Path) -> Ints:
    """The row of the event file that each verdict of a verdict file is about."""
    values: Ints = pq.read_table(path, columns=["row"]).column(0).to_numpy().astype(np.int64)
    return values
