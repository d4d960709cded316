from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detectors.entity_profile import EntityProfile, Profile
from detectors.kinds import PARAMS, build
from domain.batch import Floats
from domain.errors import PipelineInvalid
from domain.pipeline_file import parse_pipeline

NAMES = ("amount", "mean", "std", "count")
ALL = Profile(value="amount", mean="mean", std="std", count="count")


def population(n: int, seed: int) -> Floats:
    """Entities whose means lie around 100 with deviation 50 and whose values vary by 10."""
    rng = np.random.default_rng(seed)
    own = rng.normal(100.0, 50.0, n)
    count = rng.integers(2, 40, n).astype(float)
    std = 10.0 * np.sqrt(rng.chisquare(count - 1.0) / (count - 1.0))
    return np.column_stack([rng.normal(own, 10.0), rng.normal(own, 10.0 / np.sqrt(count)), std, count])


def warmed(*profiles: Profile, **parameters: Any) -> EntityProfile:
    detector = EntityProfile(NAMES, seed=1, profiles=profiles or (ALL,), **parameters)
    detector.step(population(2000, 1))
    return detector


def score(detector: EntityProfile, *row: float) -> float:
    return float(detector.score(np.array([row]))[0])


def test_each_entity_is_judged_by_its_own_past() -> None:
    detector = warmed()
    large = score(detector, 300.0, 290.0, 10.0, 30.0)
    small = score(detector, 300.0, 60.0, 10.0, 30.0)
    assert large < 1.5
    assert small > 15.0


def test_distances_are_standardised() -> None:
    """Squares of both sides have mean 1 where the assumptions hold: also for entities with few events."""
    detector = warmed(Profile(value="amount", mean="mean", std="std", count="count", suspicious="both"))
    x = population(20_000, 2)
    squares = detector.score(x) ** 2
    for few, many in ((2, 4), (4, 10), (10, 40)):
        assert squares[(x[:, 3] >= few) & (x[:, 3] < many)].mean() == pytest.approx(1.0, abs=0.15)


def test_few_events_lean_on_the_population() -> None:
    detector = warmed()
    nan = float("nan")
    unknown = score(detector, 200.0, nan, nan, 0.0)
    assert unknown == pytest.approx(100.0 / np.hypot(50.0, 10.0), rel=0.15)
    # two equal events give no spread: the population's is believed, not certainty
    assert score(detector, 115.0, 100.0, 0.0, 2.0) < 3.0
    assert score(detector, 115.0, 100.0, 0.0, 1000.0) > 10.0
    # one event: its value is a mean without a spread
    assert score(detector, 250.0, 230.0, nan, 1.0) < unknown


def test_sides() -> None:
    for side, high, low in (("above", True, False), ("below", False, True), ("both", True, True)):
        detector = warmed(Profile(value="amount", mean="mean", std="std", count="count", suspicious=side))  # type: ignore[arg-type]
        assert (score(detector, 200.0, 100.0, 10.0, 20.0) > 5.0) is high
        assert (score(detector, 1.0, 100.0, 10.0, 20.0) > 5.0) is low


def test_profiles_are_joined_over_those_that_can_be_compared() -> None:
    rate = Profile(value="std", mean="mean", std="std")
    detector = warmed(ALL, rate)
    nan = float("nan")
    alone = score(warmed(ALL), 200.0, 100.0, 10.0, 20.0)
    assert score(detector, 200.0, 100.0, nan, 20.0) == pytest.approx(
        score(warmed(ALL), 200.0, 100.0, nan, 20.0)
    )
    assert score(detector, 200.0, 100.0, 10.0, 20.0) == pytest.approx(alone / np.sqrt(2.0))
    assert score(detector, nan, 100.0, nan, 20.0) == 0.0


def test_extremes_stay_finite() -> None:
    detector = warmed()
    values = [np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0, 5e-324, 1.0]
    rows = np.array(np.meshgrid(values, values, values, values)).reshape(4, -1).T.copy()
    for fed in (population(2000, 3), np.full((600, 4), np.inf), np.full((600, 4), 5e-324), rows):
        detector = EntityProfile(NAMES, seed=1, profiles=(ALL,))
        detector.step(fed)
        assert np.isfinite(detector.score(rows)).all()


def test_the_example_of_the_handbook_page_is_checked_for_the_features_it_names() -> None:
    """The example in docs/detectors.md is right, and a wrong name in it is told with its line."""
    page = (Path(__file__).parents[3] / "docs" / "detectors.md").read_text(encoding="utf-8")
    example = next(part for part in re.findall(r"```yaml\n(.*?)```", page, re.S) if "entity_profile" in part)
    fields = "id: {type: string}, at: {type: timestamp}, account_id: {type: string}, amount: {type: number}"
    event = f"pipeline: p\nevent: {{id: id, time: at, key: account_id, fields: {{{fields}}}}}\n"
    text = f"{event}{example}decision: {{review: {{budget: 0.01}}}}\n"
    pipeline = parse_pipeline(text, "p.yaml", kinds=PARAMS)
    [spec] = pipeline.detectors
    assert build(spec, pipeline.feature_names, 1).abstains_because == "warming up: needs 500 events"
    with pytest.raises(PipelineInvalid) as caught:
        parse_pipeline(text.replace("std: own_std,", "std: own_sdt,"), "p.yaml", kinds=PARAMS)
    [problem] = caught.value.problems
    assert problem.path == "detectors.own_past.profiles"
    assert abs(problem.line - text[: text.index("profiles:")].count("\n") - 1) <= 1
    assert "'own_sdt'" in problem.reason
    assert "'own_std'" in problem.remedy


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'speed'"):
        EntityProfile(NAMES, seed=1, profiles=[Profile(value="speed", mean="mean", std="std")])
    with pytest.raises(ValueError, match="at least one entry"):
        EntityProfile(NAMES, seed=1, profiles=[])
