"""Parquet files that are there whole or not at all, with the pipeline they were made by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from domain.batch import Floats, Ints
from domain.errors import Fatal
from domain.pipeline import Pipeline

__all__ = ["WholeParquet", "moments", "numbers"]

ROW_GROUP = 20_000
"""Rows kept until they are written together: readers skip and decode by groups, small ones cost them dearly."""


class WholeParquet:
    """Writes next to ``path`` and moves the file there when all went well, so that half a file never looks whole."""

    def __init__(self, path: Path, pipeline: Pipeline, columns: Sequence[tuple[str, Any]]) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        self._schema = pa.schema(
            list(columns), metadata={"pipeline": pipeline.name, "pipeline_digest": pipeline.digest}
        )
        self._held: list[Any] = []
        self._rows = 0

    def __enter__(self) -> WholeParquet:
        try:
            self._writer: Any = pq.ParquetWriter(self._partial, self._schema)
        except OSError as error:
            raise Fatal(f"{self._path} cannot be written: {error}", remedy="choose another --out.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._write()
        except BaseException:
            kind = OSError
            raise
        finally:
            self._writer.close()
            if kind is None:
                self._partial.replace(self._path)
            else:
                self._partial.unlink(missing_ok=True)

    def add(self, arrays: Sequence[Any]) -> None:
        """Append rows; one array for each column."""
        batch = pa.record_batch(list(arrays), schema=self._schema)
        self._held.append(batch)
        self._rows += batch.num_rows
        if self._rows >= ROW_GROUP:
            self._write()

    def _write(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held, self._schema))
        self._held, self._rows = [], 0


def numbers(values: Floats) -> Any:
    """A column of numbers, NaN as null."""
    return pa.array(np.ascontiguousarray(values), pa.float64(), from_pandas=True)


def moments(values: Ints) -> Any:
    """A column of times (UTC microseconds)."""
    return pa.array(values, pa.int64()).cast(pa.timestamp("us", "UTC"))
