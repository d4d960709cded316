"""What the contract suite's few rows do not reach: refreshes of the scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detectors.arrays import pack, unpack
from detectors.kinds import build
from detectors.protocol import Detector
from domain.pipeline import DetectorSpec

NAMES = ("amount", "mean", "std")

KINDS: dict[str, dict[str, Any]] = {
    "online_isolation_forest": {"trees": 5, "window": 600, "memory": 1500},
    "one_class_svm": {"components": 8, "memory": 1000},
    "entity_profile": {"profiles": [{"value": "amount", "mean": "mean", "std": "std"}]},
}


def new(kind: str) -> Detector:
    return build(DetectorSpec(name="d", kind=kind, params=KINDS[kind]), NAMES, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_restarts_across_refreshes_change_no_bit(kind: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5000, 3))
    x[:, 2] = np.abs(x[:, 2])
    x[rng.random(x.shape) < 0.05] = np.nan
    x[2000:] = x[2000:] * 30.0 + 100.0
    whole = new(kind)
    scores = whole.step(x)
    parts, other = [], new(kind)
    for at in range(0, 5000, 387):
        parts.append(other.step(x[at : at + 387]))
        blob, other = pack(other.snapshot()), new(kind)
        other.restore(unpack(blob))
    assert np.concatenate(parts).tobytes() == scores.tobytes()
    assert pack(other.snapshot()) == pack(whole.snapshot())
    assert len(np.unique(scores[4000:])) > 100
