"""Vectors straight to the detectors, for measurements that need no events: a pipeline around them, and data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from domain.batch import Floats, Ints
from domain.pipeline import Decision, DetectorSpec, EventSpec, Pipeline, Threshold, ValueFeature

__all__ = ["DETECTORS", "Table", "handbook", "handbook_cards", "plain_pipeline"]

DATA = Path(os.environ.get("TIDEGATE_DATA", Path(__file__).parents[2] / "shared" / "data"))
DETECTORS = tuple(
    DetectorSpec(name=name, kind=kind)
    for name, kind in (("hst", "half_space_trees"), ("iforest", "isolation_forest"))
)

Table = tuple[tuple[str, ...], Floats, Ints, Floats]
"""Names, vectors in order of time, event times (UTC microseconds), labels."""


def plain_pipeline(
    names: tuple[str, ...],
    seed: int,
    *,
    budget: float = 0.005,
    detectors: tuple[DetectorSpec, ...] = DETECTORS,
) -> Pipeline:
    """A pipeline over ``names`` that nothing reads events for: for an Ensemble."""
    event = EventSpec(id="id", time="at", key="key", max_lateness=0, max_future=0, dedupe_window=0, fields=())
    return Pipeline(
        name="plain",
        version=1,
        event=event,
        features=tuple(ValueFeature(name=name, field=name) for name in names),
        detectors=detectors,
        decision=Decision(review=Threshold(budget=budget)),
        seed=seed,
        digest="plain",
    )


def handbook() -> Table:
    """The Fraud Detection Handbook's own features of some weeks, see :func:`handbook_cards`."""
    return handbook_cards()[0]


def handbook_cards() -> tuple[Table, Ints]:
    """The Fraud Detection Handbook's own features (and the amount) of 2018-07-25 to 08-14 and more, and their cards.

    Raises SystemExit with the remedy when the data are not there.
    """
    folder = DATA / "fdh"
    if not (folder / "features.parquet").exists():
        raise SystemExit(
            f"{folder}/features.parquet is absent; set TIDEGATE_DATA to the folder that holds fdh/"
        )
    features = pq.read_table(folder / "features.parquet")
    wanted = features.column("TRANSACTION_ID")
    events = pq.read_table(
        folder / "transactions.parquet",
        columns=["TRANSACTION_ID", "TX_DATETIME", "TX_AMOUNT", "TX_FRAUD", "CUSTOMER_ID"],
    )
    events = events.filter(pc.is_in(events.column("TRANSACTION_ID"), wanted))
    joined = features.join(events, "TRANSACTION_ID").sort_by("TX_DATETIME")
    names = ("TX_AMOUNT", *(name for name in features.column_names if name != "TRANSACTION_ID"))
    x = np.column_stack([joined.column(name).to_numpy().astype(np.float64) for name in names])
    times = joined.column("TX_DATETIME").to_numpy().astype("datetime64[us]").astype(np.int64)
    labels = joined.column("TX_FRAUD").to_numpy().astype(np.float64)
    cards = joined.column("CUSTOMER_ID").to_numpy().astype(np.int64)
    return (tuple(n.lower() for n in names), x, times, labels), cards
