"""A slice of the handbook's transactions with one row that is no event, and what a backtest says of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from domain.batch import EventBatch, Floats
from domain.label import LabelBatch
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.backtest import BacktestPlan, run_backtest
from lifecycle.event_files import read_events
from scoring.engine import PartitionScorer
from scoring.scored import ScoredBatch
from tests.services import handbook_path
from tests.system.scene import PRIVACY_KEY

__all__ = ["HANDBOOK", "Backtest", "backtest_of", "handbook_slice"]

HANDBOOK = Path(__file__).parents[2] / "examples/handbook/pipeline.yaml"


def handbook_slice(target: Path, rows: int) -> int:
    """Write the first ``rows`` to ``target``, one of them with a negative amount; returns that one's number."""
    table = pq.read_table(handbook_path()).slice(0, rows)
    bad = rows // 3
    amounts = table.column("TX_AMOUNT").to_numpy().copy()
    amounts[bad] = -1.0
    place = table.schema.get_field_index("TX_AMOUNT")
    pq.write_table(table.set_column(place, "TX_AMOUNT", pa.array(amounts)), target)
    return bad


class _Kept:
    """The engine, remembering what it said."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.scorer = PartitionScorer(pipeline)
        self.said: list[ScoredBatch] = []

    def process(self, batch: EventBatch, *, labels: LabelBatch | None = None) -> ScoredBatch:
        scored = self.scorer.process(batch, labels=labels)
        self.said.append(scored)
        return scored

    def features_only(self, batch: EventBatch, labels: LabelBatch | None = None) -> Floats:
        return self.scorer.features_only(batch, labels)

    def fit(self, x: Floats) -> None:
        self.scorer.fit(x)


@dataclass(frozen=True)
class Backtest:
    """All rows as one batch, the engine after them, and the refused rows."""

    scored: ScoredBatch
    scorer: PartitionScorer
    rejected: list[int]


def backtest_of(pipeline: Pipeline, events: Path, out: Path) -> Backtest:
    """``tidegate backtest`` on the file; row numbers are the offsets."""
    kept = _Kept(pipeline)
    chunks = read_events(events, pipeline, Protector(PRIVACY_KEY.encode()), batch_rows=3_333)
    run = run_backtest(pipeline, chunks, lambda _: kept, out, BacktestPlan())
    # the file that a user gets holds the same numbers
    written = pq.read_table(out, columns=["row", "score"])
    scored = _joined(kept.said)
    assert written["row"].to_pylist() == scored.batch.offsets.tolist()
    assert np.array_equal(written["score"].to_numpy(zero_copy_only=False), scored.score, equal_nan=True)
    return Backtest(scored, kept.scorer, [r.row for r in run.rejected_examples])


def _joined(parts: list[ScoredBatch]) -> ScoredBatch:
    batches = [part.batch for part in parts]
    batch = EventBatch(
        ids=[i for b in batches for i in b.ids],
        times=np.concatenate([b.times for b in batches]),
        offsets=np.concatenate([b.offsets for b in batches]),
        entities={name: [v for b in batches for v in b.entities[name]] for name in batches[0].entities},
        numbers={name: np.concatenate([b.numbers[name] for b in batches]) for name in batches[0].numbers},
        strings={name: [v for b in batches for v in b.strings[name]] for name in batches[0].strings},
    )
    return ScoredBatch(
        batch=batch,
        features=np.concatenate([p.features for p in parts]),
        raw=np.concatenate([p.raw for p in parts]),
        ranks=np.concatenate([p.ranks for p in parts]),
        score=np.concatenate([p.score for p in parts]),
        decision=np.concatenate([p.decision for p in parts]),
        flags=np.concatenate([p.flags for p in parts]),
        first_offset=np.concatenate([p.first_offset for p in parts]),
        segments=[],
        reasons={},
        stream_time=parts[-1].stream_time,
    )
