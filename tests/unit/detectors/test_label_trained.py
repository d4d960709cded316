from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from detectors.arrays import pack
from detectors.gradient_boosting import GradientBoosting
from detectors.kinds import build
from detectors.label_memory import TrainingRows
from detectors.packed_trees import FittedTrees
from detectors.random_forest import RandomForest
from domain.batch import Floats
from domain.pipeline import DetectorSpec

NAMES = ("a", "b", "c")
DAY = 86_400_000_000


def examples(n: int, seed: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return x, (x[:, 0] + 0.3 * rng.normal(size=n) > 1.2).astype(np.float64)


def days(detector: GradientBoosting | RandomForest, ticks: list[int], rows: int = 100) -> list[str]:
    """Its version after each tick, with new labels at each."""
    versions = []
    for number, now in enumerate(ticks):
        x, y = examples(rows, number)
        detector.learn_labels(x, y, np.full(rows, now), now)
        versions.append(detector.version)
    return versions


class _Counting(GradientBoosting):
    fits = 0

    def _fit(self, rows: TrainingRows) -> FittedTrees:
        self.fits += 1
        return super()._fit(rows)


def test_fits_come_with_enough_labels_and_then_when_due() -> None:
    detector = _Counting(NAMES, seed=1, trees=3, min_labels=300, min_positive=20, refit_every=DAY)
    ticks = [0, 1, 2, DAY, DAY + 1, DAY + 2, 2 * DAY + 1, 2 * DAY + 2]
    versions = days(detector, ticks)
    assert versions[:2] == ["gradient_boosting-unfitted"] * 2
    changes = [i for i in range(1, len(ticks)) if versions[i] != versions[i - 1]]
    assert changes == [2, 5, 7]
    assert detector.fits == 3
    # due, but there is nothing new to fit to
    detector.learn_labels(np.empty((0, 3)), np.empty(0), np.empty(0, dtype=np.int64), 4 * DAY)
    assert detector.fits == 3


@pytest.mark.parametrize("kind", [GradientBoosting, RandomForest])
def test_the_same_labels_give_the_same_model_whatever_the_threads(
    kind: type[GradientBoosting] | type[RandomForest],
) -> None:
    one, other = (kind(NAMES, seed=7, trees=5, min_labels=300) for _ in range(2))
    days(one, [0, 1, 2, 3])
    with threadpool_limits(limits=2):
        days(other, [0, 1, 2, 3])
    assert pack(one.snapshot()) == pack(other.snapshot())


@pytest.mark.parametrize("kind", [GradientBoosting, RandomForest])
def test_it_finds_what_labels_say(kind: type[GradientBoosting] | type[RandomForest]) -> None:
    detector = kind(NAMES, seed=7, min_labels=300)
    days(detector, list(range(10)), rows=600)
    x, y = examples(2000, 99)
    score = detector.score(x)
    order = np.argsort(-score)[: int(y.sum())]
    assert y[order].mean() > 0.7


def test_probabilities_are_those_of_the_stream_although_negatives_are_sampled() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60_000, 3))
    odds = -5.0 + 1.5 * x[:, 0]
    y = (rng.random(60_000) < 1.0 / (1.0 + np.exp(-odds))).astype(np.float64)
    detector = GradientBoosting(NAMES, seed=1, trees=30, leaves=4, memory=4000)
    detector.learn_labels(x[:50_000], y[:50_000], np.zeros(50_000, dtype=np.int64), 0)
    said = 1.0 / (1.0 + np.exp(-detector.score(x[50_000:])))
    assert said.mean() == pytest.approx(y[50_000:].mean(), rel=0.25)


def test_a_pipeline_file_says_durations_and_compression_its_way() -> None:
    params = {
        "refit_every": "12h",
        "compress": {"quantize": 8, "prune": 0.01},
        "min_labels": 100,
        "memory": 500,
    }
    detector = build(DetectorSpec(name="labelled", kind="random_forest", params=params), NAMES, 1)
    assert detector.abstains_because == "warming up: needs 100 labels, 20 of each kind"
    mistakes: list[tuple[dict[str, object], str]] = [
        ({"refit_every": "daily"}, "not a duration"),
        ({"min_labels": 30}, "twice min_positive"),
        ({"compress": {"quantize": 4}}, "quantize"),
    ]
    for params, message in mistakes:
        with pytest.raises(ValueError, match=message):
            build(DetectorSpec(name="labelled", kind="gradient_boosting", params=params), NAMES, 1)
