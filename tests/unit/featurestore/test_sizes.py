from __future__ import annotations

from pathlib import Path

import pytest

from domain.pipeline_file import load_pipeline
from featurestore.plan import bytes_bound, plan_entities
from featurestore.sizes import EVENTS, measured_bytes
from tests.unit.featurestore.harness import SECOND, pipeline_of
from tests.unit.featurestore.strategies import every_aggregate

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize("name", ["payments", "handbook", "logins"])
def test_ten_thousand_events_stay_under_the_bound(name: str) -> None:
    pipeline = load_pipeline(EXAMPLES / name / "pipeline.yaml")
    measured = measured_bytes(pipeline)
    assert list(measured) == list(pipeline.entities)
    for plan in plan_entities(pipeline):
        sizes = measured[plan.entity]
        assert list(sizes) == list(EVENTS)
        assert 8 * plan.head_words < sizes[1] < sizes[10] < sizes[100] <= bytes_bound(plan)
        assert sizes[10_000] <= bytes_bound(plan)


def test_every_aggregate_is_bounded() -> None:
    features = every_aggregate("account", 480 * SECOND, 10 * SECOND)
    pipeline = pipeline_of([*features, *every_aggregate("merchant", 3_600 * SECOND, 60 * SECOND)])
    measured = measured_bytes(pipeline, (1, 10_000))
    for plan in plan_entities(pipeline):
        assert measured[plan.entity][1] < measured[plan.entity][10_000] <= bytes_bound(plan)


def test_what_is_measured_is_the_blob_of_that_many_events() -> None:
    # six words of header, a track of two words a tile and one entry of five words for each remembered id
    pipeline = pipeline_of(
        [f for f in every_aggregate("account", 480 * SECOND, 10 * SECOND) if f.name.endswith("_count")][:1],
        dedupe_window=480 * SECOND,
    )
    assert measured_bytes(pipeline, (1, 3, 64)) == {
        "account": {1: 8 * (7 + 2 + 5), 3: 8 * (7 + 3 * 2 + 3 * 5), 64: 8 * (7 + 48 * 2 + 64 * 5)}
    }
