"""What labels teach detectors, weights and probabilities is a function of the log, whatever is killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from domain.label_codec import JoinedLabel, Said
from tests.integration.test_labels import check, labels_of, send_labels
from tests.system.events import events
from tests.system.scene import Scene
from tests.system.worker_program import KillAt

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

LEARNING = Path(__file__).parents[1] / "system" / "learning_pipeline.yaml"
EVENTS = 3_000


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, LEARNING, topic_prefix, tmp_path) as made:
        yield made


def with_vectors(scene: Scene, labels: list[JoinedLabel]) -> list[JoinedLabel]:
    """The labels with what a verdict could have said: positives have higher amounts; some carry nothing."""
    made = []
    for label in labels:
        chance = random.Random(label.id)
        features: dict[str, float | None] = {name: chance.random() for name in scene.pipeline.feature_names}
        features["amount"] = chance.gauss(60.0 if label.label else 30.0, 20.0)
        ranks: dict[str, float | None] = {d.name: chance.random() for d in scene.pipeline.detectors}
        ranks["hst"] = min(0.999, chance.random() + (0.3 if label.label else 0.0))
        said = Said(features=features, ranks=ranks, score=chance.random())
        made.append(label if chance.random() < 0.1 else msgspec.structs.replace(label, said=said))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("snapshot_seconds", [0.3, 3_600.0], ids=["snapshots", "from the log alone"])
def test_what_was_learned_survives_kills_to_the_bit(scene: Scene, snapshot_seconds: float) -> None:
    send_labels(scene, list(with_vectors(scene, labels_of(2_500))))
    scene.send(events(EVENTS))
    reader = scene.reader()
    worker = scene.worker(max_batch=50, flush_seconds=0.05, snapshot_seconds=snapshot_seconds)
    # the second worker sees labels learned by the first, and dies in the fourth hour
    for point, visit in (("after_send_offsets", 15), ("after_commit", 25)):
        worker.start(KillAt(point, visit=visit))
        assert worker.wait() == -9, worker.tail()
        assert len(reader.messages) < EVENTS, "the worker was done before it could be killed"
    worker.start()
    wanted, _ = check(scene, reader, EVENTS)
    verdicts = reader.verdicts()
    # it did learn, and not at once
    assert verdicts[0].detectors["boosted"].abstained
    assert verdicts[-1].detectors["boosted"].score is not None
    assert verdicts[-1].detectors["online"].score is not None
    assert wanted.probability is not None
    given = [np.nan if not isinstance(v.probability, float) else v.probability for v in verdicts]
    assert np.array_equal(given, wanted.probability, equal_nan=True)
    assert np.isnan(given[0])
    assert 0.0 <= given[-1] <= 1.0
    models = [v.versions.models for v in verdicts]
    for name in ("boosted", "decision.combine", "decision.probability"):
        assert len({m[name] for m in models}) > 1, name
    worker.stop()
    log = worker.log.read_text()
    assert '"relearned"' in log
    assert "mismatch" not in log
