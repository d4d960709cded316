"""The Fraud Detection Handbook's transactions, as the benchmarks of labelled detectors need them.

Features are those of a pipeline file, computed by the worker's own engine with each label known seven days
after its event.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from domain.batch import Floats, Ints
from domain.errors import ServiceMissing
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.evaluation import DAY, Bools
from lifecycle.event_files import read_events
from lifecycle.known_labels import KnownLabels
from scoring.engine import PartitionScorer
from tidegate.loading import load

__all__ = [
    "DELAY",
    "FIRST_DAY",
    "RECIPE",
    "UNLABELLED",
    "EngineRows",
    "engine_rows",
    "handbook_file",
    "published_rows",
]

RECIPE = Path(__file__).parents[1] / "examples" / "handbook" / "labelled.yaml"
UNLABELLED = RECIPE.with_name("pipeline.yaml")
FIRST_DAY = int(np.datetime64("2018-04-01", "D").astype(np.int64))
"""The day number (since 1970) that the Handbook calls day 0."""
DELAY = 7 * DAY
_LABEL = "TX_FRAUD"


def handbook_file(name: str) -> Path:
    """A file of the Handbook's data. Raises ServiceMissing when it is not there."""
    root = Path(os.environ.get("TIDEGATE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "fdh" / name
    if not path.exists():
        raise ServiceMissing(
            f"{path} is absent.", remedy=f"set TIDEGATE_DATA to the folder that holds fdh/{name}."
        )
    return path


@dataclass(frozen=True, slots=True)
class EngineRows:
    """Events in file order: vectors float64[n, F], event times (UTC microseconds), cards as numbers, labels."""

    names: tuple[str, ...]
    x: Floats
    times: Ints
    cards: Ints
    labels: Bools

    def between(self, first_day: int, days: int) -> slice:
        """The rows of ``days`` days from the Handbook's ``first_day`` on."""
        bounds = [(FIRST_DAY + first_day) * DAY, (FIRST_DAY + first_day + days) * DAY]
        start, stop = np.searchsorted(self.times, bounds)
        return slice(int(start), int(stop))


def engine_rows(pipeline: Pipeline | None = None, *, limit: int | None = None) -> EngineRows:
    """All events (or the first ``limit``) with the features of ``pipeline`` (None: the recipe's)."""
    declared = load(RECIPE) if pipeline is None else pipeline
    told = KnownLabels(declared, DELAY)
    engine = PartitionScorer(declared)
    x: list[Floats] = []
    times: list[Ints] = []
    labels: list[Floats] = []
    cards: list[str] = []
    path = handbook_file("transactions.parquet")
    for chunk in read_events(path, declared, Protector(b"benchmark-" * 3), label_column=_LABEL):
        if chunk.rejected or chunk.labels is None:
            raise SystemExit(
                f"{path.name}: rows were refused or have no labels; is this the Handbook's file?"
            )
        batch = chunk.batch
        due = told.due(0, told.note(0, batch, chunk.labels)) if declared.label_fed else None
        x.append(engine.advance(batch, due).features)
        times.append(batch.times)
        labels.append(chunk.labels)
        cards += batch.entities[declared.event.key]
        if limit is not None and len(cards) >= limit:
            break
    return EngineRows(
        names=declared.feature_names,
        x=np.concatenate(x),
        times=np.concatenate(times),
        cards=np.array(cards).astype(np.int64),
        labels=np.concatenate(labels) == 1.0,
    )


def published_rows() -> EngineRows:
    """The days 2018-07-25 to 08-14 with the Handbook's own features, as its authors computed them."""
    features = pq.read_table(handbook_file("features.parquet"))
    events = pq.read_table(handbook_file("transactions.parquet"))
    ids = features["TRANSACTION_ID"].to_numpy()
    events = events.take(np.searchsorted(events["TRANSACTION_ID"].to_numpy(), ids))
    if not (events["TRANSACTION_ID"].to_numpy() == ids).all():
        raise SystemExit("features.parquet names transactions that transactions.parquet does not hold")
    names = ("TX_AMOUNT", *features.column_names[1:])
    columns = [events["TX_AMOUNT"].to_numpy(), *(features[name].to_numpy() for name in names[1:])]
    return EngineRows(
        names=names,
        x=np.column_stack(columns).astype(np.float64),
        times=events["TX_DATETIME"].to_numpy().astype("datetime64[us]").astype(np.int64),
        cards=events["CUSTOMER_ID"].to_numpy().astype(np.int64),
        labels=events["TX_FRAUD"].to_numpy() == 1,
    )
