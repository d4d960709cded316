"""Models come into force in the middle of a stream: what decided is in the verdicts, and recovery goes by it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer

from api.ports import WorkerReport
from detectors.trained_model import TrainedModel
from domain.clock import ManualClock
from domain.model_records import ModelRef
from domain.verdict import ModelRole, Verdict
from featurestore.redis_client import connect
from featurestore.worker_reports import WorkerReports
from lifecycle.artefact import unseal
from lifecycle.model_keys import ModelKey, TrustedKeys
from scoring.engine import PartitionScorer
from scoring.models_in_use import ModelsInUse
from stream.decoding import decode_messages
from stream.kafka import KafkaConnection
from stream.models_follower import ABSENT_SECONDS, ModelsFollower
from tests.integration.test_labels import all_of
from tests.line_models import line_model
from tests.published_models import in_force, publish, ref_of, sealed
from tests.system.bits import assert_same_bits
from tests.system.events import SMALL, events
from tests.system.scene import Scene, eventually
from tests.system.worker_program import KillAt
from tests.unit.scoring.test_engine import cut

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

KEY = ModelKey.generate()
SPLIT = 0.5


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    """Alerts by an account that is spent, and by a count of the day: both follow the score that decides."""
    file = tmp_path / "source.yaml"
    text = SMALL.read_text()
    assert "block: {budget: 0.02}" in text
    file.write_text(text.replace("block: {budget: 0.02}", "block: {capacity: 300/d}"))
    with Scene.open(kafka, redis_url, file, topic_prefix, tmp_path) as made:
        yield made


def artefact(scene: Scene, model: TrainedModel, key: ModelKey = KEY) -> tuple[ModelRef, bytes]:
    blob = sealed(model, key, scene.pipeline.name)
    return ref_of(model, blob), blob


def follower(scene: Scene, clock: ManualClock | None = None) -> ModelsFollower:
    def opened(blob: bytes) -> bytes:
        return unseal(blob, TrustedKeys.parse(KEY.public), pipeline=scene.pipeline.name)[1]

    kafka = KafkaConnection(scene.bootstrap)
    return ModelsFollower(kafka, scene.pipeline, opened, clock or ManualClock(0), client_id="test-follower")


def reported(scene: Scene) -> list[WorkerReport]:
    reports = WorkerReports(connect(scene.redis_url), scene.pipeline.name).all()
    return [msgspec.json.decode(report, type=WorkerReport) for report in reports]


def in_use(verdict: Verdict, models: dict[str, TrainedModel]) -> ModelsInUse:
    """What the verdict says was in force."""
    champion = verdict.versions.models.get("champion")
    said = verdict.models if isinstance(verdict.models, dict) else {}
    challengers = [version for version, one in said.items() if one.role is ModelRole.CHALLENGER]
    return ModelsInUse(
        0,
        None if champion is None else models[champion],
        models[challengers[0]] if challengers else None,
        SPLIT if challengers else 0.0,
    )


def check_never_killed(
    scene: Scene, verdicts: list[Verdict], models: dict[str, TrainedModel]
) -> PartitionScorer:
    """The verdicts are those of one engine that changed its models where they did."""
    messages = all_of(scene, scene.topics.events)
    decoded = decode_messages(scene.codec, messages)
    batch = scene.codec.to_batch(decoded.events, [messages[i].offset() for i in decoded.accepted])
    scorer = PartitionScorer(scene.pipeline)
    at = 0
    for used, part in groupby(verdicts, lambda verdict: in_use(verdict, models)):
        told = list(part)
        scorer.models = used
        scored = scorer.process(cut(batch, at, at + len(told)))
        assert_same_bits(scene.pipeline, told, scored)
        for one in scored.models:
            said = [v.models[one.version] for v in told if isinstance(v.models, dict)]
            assert len(said) == len(told)
            assert [o.role for o in said] == [one.role] * len(said)
            assert [o.decided for o in said] == one.decided.tolist()
            for name in ("score", "probability"):
                got = [getattr(o, name) for o in said]
                wanted = [None if np.isnan(v) else v for v in getattr(one, name).tolist()]
                assert got == wanted, (one.version, name)
        at += len(told)
    assert at == len(batch)
    return scorer


@pytest.mark.slow
def test_verdicts_and_state_do_not_tell_that_a_worker_died_around_a_swap(scene: Scene) -> None:
    first, second = (
        line_model(scene.pipeline, "amount", own=0.3),
        line_model(scene.pipeline, "pieces", high=9.0),
    )
    one, other = artefact(scene, first), artefact(scene, second)
    flow = events(1_200)
    reader = scene.reader()
    # no snapshots: all that is learned, spent and counted is recovered from verdicts
    worker = scene.worker(
        max_batch=50, flush_seconds=0.05, snapshot_seconds=3_600.0, model_trusted=KEY.public
    )
    worker.start(KillAt("models_changed", visit=2))
    scene.send(flow[:300])
    scene.await_count(reader, 300)
    publish(scene.bootstrap, scene.topics.models, in_force(1, one[0]), one)
    eventually("the champion arrives", lambda: [r.epoch for r in reported(scene)] == [1], worker.tail)
    scene.send(flow[300:600])
    scene.await_count(reader, 450)
    # traffic and the swap meet
    scene.send(flow[600:900])
    publish(scene.bootstrap, scene.topics.models, in_force(2, other[0], one[0], SPLIT), other)
    assert worker.wait(60) == -9, worker.tail()
    scene.send(flow[900:1_050])
    worker.start(KillAt("after_send_offsets", visit=2))
    assert worker.wait(60) == -9, worker.tail()
    worker.start()
    scene.await_count(reader, 1_050)
    [report] = reported(scene)
    assert (report.epoch, report.champion, report.challenger) == (2, second.version, first.version)
    publish(scene.bootstrap, scene.topics.models, in_force(3))
    eventually("the rollback arrives", lambda: [r.epoch for r in reported(scene)] == [3], worker.tail)
    scene.send(flow[1_050:])
    scene.await_count(reader, 1_200)
    worker.stop()
    verdicts = reader.verdicts()
    scorer = check_never_killed(scene, verdicts, {first.version: first, second.version: second})
    champions = [verdict.versions.models.get("champion") for verdict in verdicts]
    assert [v for v, _ in groupby(champions)] == [None, first.version, second.version, None]
    snapshot = scene.store.load_model(0)
    assert snapshot is not None
    assert snapshot.blob == scorer.snapshot()
    log = worker.log.read_text()
    assert '"relearned"' in log
    assert "scores differ" not in log


def test_a_follower_takes_what_is_signed_and_keeps_the_last_good_model(scene: Scene) -> None:
    first, second = line_model(scene.pipeline, "amount"), line_model(scene.pipeline, "pieces", high=9.0)
    topic, bootstrap = scene.topics.models, scene.bootstrap
    followed = follower(scene)
    followed.begin()
    assert (followed.epoch, bool(followed.models), followed.refused) == (0, False, {})
    assert followed.poll() is False

    def polled(epoch: int) -> None:
        def there() -> bool:
            followed.poll()
            return followed.epoch == epoch

        eventually(f"epoch {epoch}", there)

    one, other = artefact(scene, first), artefact(scene, second)
    publish(bootstrap, topic, in_force(1, one[0]), one)
    polled(1)
    assert followed.models.champion is not None
    assert followed.models.champion.version == first.version
    foreign = artefact(scene, second, ModelKey.generate())
    publish(bootstrap, topic, in_force(2, foreign[0], one[0]), foreign)
    polled(2)
    assert followed.models.champion.version == first.version
    assert "not among the 1 trusted" in followed.refused[second.version]
    # the bytes came long before the state that names them, and another state in between
    publish(bootstrap, topic, in_force(3), other)
    polled(3)
    publish(bootstrap, topic, in_force(4, other[0]))
    polled(4)
    assert followed.models.champion is not None
    assert followed.models.champion.version == second.version
    assert followed.refused == {}
    late = follower(scene)
    late.begin()
    assert late.models == followed.models
    assert late.epoch == 4
    late.close()
    followed.close()


def test_an_aborted_publication_and_a_topic_that_is_not_there_change_nothing(scene: Scene) -> None:
    clock = ManualClock(0)
    absent = follower(scene, clock)
    absent._topic = f"{scene.pipeline.name}.not.there"
    absent.begin()
    assert absent.poll() is False
    clock.advance(ABSENT_SECONDS + 1)
    assert absent.poll() is False
    assert not absent.models
    absent.close()
    producer = Producer(
        {"bootstrap.servers": scene.bootstrap, "transactional.id": f"{scene.topics.models}-a"}
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(scene.topics.models, msgspec.json.encode(in_force(9)), b"current")
    producer.flush(30)
    producer.abort_transaction(30)
    followed = follower(scene)
    followed.begin()
    assert followed.epoch == 0
    followed.close()
