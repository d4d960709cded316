"""Training sets: the vectors that live scoring had, with what the events turned out to be.

The rows come from the worker's own engine, fed with events in log order and with labels at the moment at which they
counted; what is written here knows nothing of where they come from (``stream.feature_log``: from Kafka).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from domain.batch import EventBatch, Floats, Ints
from domain.erasure import Erasure
from domain.label import LabelBatch
from domain.pipeline import Pipeline
from featurestore.tables import Advanced
from lifecycle.event_files import FileChunk, RejectedRow
from lifecycle.known_labels import History, KnownLabels, label_as_of
from lifecycle.parquet_file import WholeParquet, moments, numbers

__all__ = ["Engine", "FileExport", "TrainingFile", "export_file"]

_EXAMPLES = 20
"""Refused rows kept with their detail; the others are only counted."""


class Engine(Protocol):
    """One partition's features; :class:`scoring.engine.PartitionScorer` is the one there is."""

    def advance(self, batch: EventBatch, labels: LabelBatch | None = None) -> Advanced:
        """Move feature state on over a batch and the labels that become known in it."""
        ...

    def erase(self, erasure: Erasure, offset: int) -> None:
        """Forget an entity, as the record at ``offset`` of the events says."""
        ...


class TrainingFile:
    """Writes a training set to ``path``, which appears when all went well.

    Duplicates are left out, and events older than ``since`` (UTC microseconds).
    """

    def __init__(self, path: Path, pipeline: Pipeline, *, since: int | None = None) -> None:
        self._names = pipeline.feature_names
        self._key = pipeline.event.key
        self._since = since
        self.rows = 0
        self.labelled = 0
        self.positives = 0
        time = pa.timestamp("us", "UTC")
        self._file = WholeParquet(
            path,
            pipeline,
            [
                ("id", pa.string()),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                ("event_time", time),
                ("late", pa.bool_()),
                (f"e_{self._key}", pa.string()),
                *((f"f_{name}", pa.float64()) for name in self._names),
                ("label", pa.int8()),
                ("label_known_at", time),
            ],
        )

    def __enter__(self) -> TrainingFile:
        self._file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def wanted(self, batch: EventBatch, advanced: Advanced) -> npt.NDArray[np.intp]:
        """The rows of a batch that go into the set."""
        take = ~advanced.duplicate
        if self._since is not None:
            take &= batch.times >= self._since
        return np.flatnonzero(take)

    def write(
        self,
        partition: int,
        batch: EventBatch,
        advanced: Advanced,
        rows: npt.NDArray[np.intp],
        labels: Floats,
        known_at: Ints,
    ) -> None:
        """Append ``rows`` of a batch; ``labels`` (1, 0, NaN unknown) and ``known_at`` are theirs alone."""
        if not len(rows):
            return
        unknown = np.isnan(labels)
        keys = batch.entities[self._key]
        picked = rows.tolist()
        # JSON has no infinity, so that verdicts carry null for it; a row is what its verdict carries
        vectors = np.where(np.isfinite(advanced.features[rows]), advanced.features[rows], np.nan)
        self._file.add(
            [
                pa.array([batch.ids[i] for i in picked], pa.string()),
                pa.array(np.full(len(rows), partition, dtype=np.int32)),
                pa.array(batch.offsets[rows]),
                moments(batch.times[rows]),
                pa.array(advanced.late[rows]),
                pa.array([keys[i] for i in picked], pa.string()),
                *(numbers(vectors[:, i]) for i in range(len(self._names))),
                pa.array(np.where(unknown, 0, labels).astype(np.int8), pa.int8(), mask=unknown),
                pa.array(known_at, pa.int64(), mask=unknown).cast(pa.timestamp("us", "UTC")),
            ]
        )
        self.rows += len(rows)
        self.labelled += int((~unknown).sum())
        self.positives += int((labels == 1).sum())


@dataclass(frozen=True, slots=True)
class FileExport:
    """What happened to the events of a file; ``rows`` went into the set."""

    read: int
    rows: int
    labelled: int
    positives: int
    duplicates: int
    rejected: Mapping[str, int]
    rejected_examples: tuple[RejectedRow, ...]
    out_of_order: int


def export_file(
    pipeline: Pipeline,
    chunks: Iterable[FileChunk],
    engine: Engine,
    out: Path,
    *,
    label_delay: int,
    labels: Mapping[str, float] | None = None,
    histories: Mapping[str, History] | None = None,
    as_of: int | None = None,
    since: int | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> FileExport:
    """A training set of the events of ``chunks``, in their order, as if one partition held them all.

    Labels come from the chunks, by event id from ``labels`` (both known ``label_delay`` microseconds after their
    event), or with their own times from ``histories``. They count in features from when they are known. The
    label of a row is the one known at ``as_of`` (UTC microseconds; None: in the end).
    """
    told = KnownLabels(pipeline, label_delay, histories)
    rejected: Counter[str] = Counter()
    examples: list[RejectedRow] = []
    read = duplicates = out_of_order = 0
    with TrainingFile(out, pipeline, since=since) as file:
        for chunk in chunks:
            batch = chunk.batch
            read += chunk.rows
            out_of_order += chunk.out_of_order
            rejected.update(str(row.reason) for row in chunk.rejected)
            examples.extend(chunk.rejected[: _EXAMPLES - len(examples)])
            final = _final_labels(chunk, labels)
            due = told.due(0, told.note(0, batch, final)) if pipeline.label_fed else None
            advanced = engine.advance(batch, due)
            duplicates += int(advanced.duplicate.sum())
            rows = file.wanted(batch, advanced)
            now: Floats = final[rows].copy()
            known_at: Ints = batch.times[rows] + label_delay
            if histories is not None:
                for i, row in enumerate(rows.tolist()):
                    now[i], known_at[i] = label_as_of(histories.get(batch.ids[row], ()), as_of)
            elif as_of is not None:
                now[known_at > as_of] = math.nan
            file.write(0, batch, advanced, rows, now, known_at)
            progress(chunk.rows)
    return FileExport(
        read=read,
        rows=file.rows,
        labelled=file.labelled,
        positives=file.positives,
        duplicates=duplicates,
        rejected=dict(sorted(rejected.items())),
        rejected_examples=tuple(examples),
        out_of_order=out_of_order,
    )


def _final_labels(chunk: FileChunk, labels: Mapping[str, float] | None) -> Floats:
    if chunk.labels is not None:
        return chunk.labels
    if labels is None:
        return np.full(len(chunk.batch), np.nan)
    return np.array([labels.get(id_, np.nan) for id_ in chunk.batch.ids], dtype=np.float64)
