"""Trying rules on a file of past events: they are scored as the stream would, by a fresh engine, without rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.event_files import read_events
from lifecycle.rule_trial import RulesTrial
from scoring.engine import PartitionScorer
from scoring.verdicts import VerdictEncoder, decode_verdict

__all__ = ["try_on_file"]

_ROWS = 5_000


def try_on_file(
    path: Path,
    pipeline: Pipeline,
    protector: Protector,
    encoder: VerdictEncoder,
    trial: RulesTrial,
    *,
    label_column: str | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Add the events of a .parquet, .csv or .jsonl file to ``trial``; how many rows could not be scored.

    ``label_column`` holds labels (1 fraud, 0 not). Raises ServiceMissing, Fatal.
    """
    scorer = PartitionScorer(pipeline)
    rejected = rows = 0
    for chunk in read_events(path, pipeline, protector, batch_rows=_ROWS, label_column=label_column):
        rejected += len(chunk.rejected)
        rows += chunk.rows
        if len(chunk.batch):
            scored = scorer.process(chunk.batch)
            records = encoder.verdicts(scored, partition=0, scored_at=int(chunk.batch.times[-1]))
            verdicts = [decode_verdict(encoder.encode(record)) for record in records]
            known = np.full(len(verdicts), np.nan) if chunk.labels is None else chunk.labels
            labels = {
                one.id: int(label)
                for one, label in zip(verdicts, known.tolist(), strict=True)
                if label == label  # noqa: PLR0124  # not NaN
            }
            trial.add(verdicts, labels, chunk.batch, range(len(verdicts)))
        progress(rows)
    return rejected
