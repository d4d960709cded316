"""Erasing an entity on a real Kafka, Redis and offline store, while workers run, are killed and recover."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import redis
from confluent_kafka.admin import AdminClient

from domain.clock import SystemClock
from domain.privacy import Protector
from featurestore.hot_verdicts import RedisHotVerdicts, VerdictQuery
from featurestore.offline import OfflineStore
from featurestore.redis_client import connect
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.erasure_store import CLAIM_SECONDS, ErasureRequest, ErasureStep, ErasureStore
from scoring.engine import PartitionScorer
from stream.archiver import run_archiver
from stream.archiver_offline import OfflineArchiverSettings, run_offline_archiver
from stream.decoding import cut_at_erasures, decode_messages
from stream.erasure_log import ErasureLog
from stream.kafka import KafkaConnection
from stream.label_logs import topic_records
from stream.log_identity import log_identity
from stream.log_reading import reader_conf
from tests.system.events import SMALL, events
from tests.system.scene import PATIENCE, PRIVACY_KEY, Scene, eventually
from tests.system.worker_program import KillAt
from tidegate.erasures import Eraser

PROTECT = Protector(PRIVACY_KEY.encode()).protect
NEVER = 3600.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/t.sqlite"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    with closing(Database(url)) as opened:
        yield opened


def test_an_erasure_is_asked_for_once_claimed_by_one_and_audited(database: Database) -> None:
    store, trail = ErasureStore(database, "payments"), AuditTrail("payments")
    first = store.request("account", "abc", "h", by="ana", reason="asked", now=1)
    assert store.request("account", "abc", "h", by="ana", reason="again", now=2) == first
    other = store.request("account", "xyz", "i", by="ana", reason="asked", now=2)
    assert [one.id for one in store.open()] == [first.id, other.id]
    assert ErasureStore(database, "logins").open() == []
    assert ErasureStore(database, "logins").get(first.id) is None

    assert store.claim(first, 3)
    assert not store.claim(first, 3), "as it was read it is no longer"
    claimed = store.get(first.id)
    assert claimed is not None
    assert not store.claim(claimed, 4)
    assert store.claim(claimed, 4 + CLAIM_SECONDS * 1_000_000), "whoever had it died"
    assert store.logged(first, {0: 7, 1: 9}, 5)
    assert not store.logged(first, {0: 8, 1: 9}, 5)
    logged = store.get(first.id)
    assert logged is not None
    assert (logged.step, logged.points) == (ErasureStep.LOGGED, {0: 7, 1: 9})
    assert store.online(logged, {0: 5, 1: -1}, 6)
    online = store.get(first.id)
    assert online is not None
    assert (online.value, online.verdicts) == ("abc", {0: 5, 1: -1})
    assert store.done(online, 3, 4, 7)
    assert not store.done(online, 3, 4, 7)
    done = store.get(first.id)
    assert done is not None
    assert (done.step, done.value, done.hot_removed, done.offline_removed) == (ErasureStep.DONE, None, 3, 4)
    assert [one.id for one in store.open()] == [other.id]
    assert store.request("account", "abc", "h", by="ana", reason="again", now=9).id != first.id
    with database.reading() as connection:
        found = [(r.action, r.subject) for r in trail.after(connection, 0, 10)]
        assert trail.verify(connection) is None
    asked = ("entity.erase", "account:h")
    assert found == [asked, ("entity.erase", "account:i"), ("entity.erased", "account:h"), asked]


@contextmanager
def running(target: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=target, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path) as made:
        yield made


def oracle(scene: Scene) -> tuple[PartitionScorer, dict[int, tuple[list[float], float]]]:
    """The engine over the log, never killed; vector and score by source offset."""
    conf = reader_conf(KafkaConnection(scene.bootstrap), "test", "test")
    scorer, said = PartitionScorer(scene.pipeline), {}
    for piece, erasure in cut_at_erasures(scene.codec, list(topic_records(conf, scene.topics.events))):
        if erasure is not None:
            scorer.erase(erasure, piece[0].offset())
            continue
        decoded = decode_messages(scene.codec, piece)
        scored = scorer.process(
            scene.codec.to_batch(decoded.events, [piece[i].offset() for i in decoded.accepted])
        )
        for row, offset in enumerate(scored.batch.offsets.tolist()):
            said[offset] = (scored.features[row].tolist(), float(scored.score[row]))
    return scorer, said


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.slow
def test_an_entity_stays_erased_whoever_is_killed(scene: Scene, tmp_path: Path) -> None:
    name, clock, kafka = scene.pipeline.name, SystemClock(), KafkaConnection(scene.bootstrap)
    offline = OfflineStore(str(tmp_path / "offline"), scene.pipeline)
    gone, other = PROTECT("acc-1"), PROTECT("acc-2")
    admin = AdminClient({"bootstrap.servers": scene.bootstrap})
    quick = OfflineArchiverSettings(seconds=0.1)
    with (
        closing(Database(f"sqlite:///{tmp_path}/t.sqlite")) as database,
        connect(scene.redis_url, timeout=PATIENCE) as client,
        running(lambda stop: run_offline_archiver(kafka, name, offline, stop, clock, settings=quick)),
    ):
        hot = RedisHotVerdicts(client, name, clock)
        store = ErasureStore(database, name)
        forgotten: list[tuple[str, str]] = []

        def forget(entity: str, value: str, _: str) -> int:
            forgotten.append((entity, value))
            return 1

        eraser = Eraser(
            database=lambda: database,
            pipeline=name,
            events=ErasureLog(kafka, name, scene.codec.erasures, "test"),
            state=scene.store,
            client=client,
            offline=offline,
            log_of_verdicts=lambda: log_identity(admin, scene.topics.verdicts),
            clock=clock,
            forget=(forget,),
        )

        def now(request: ErasureRequest) -> ErasureRequest:
            eraser()
            found = store.get(request.id)
            assert found is not None
            return found

        def offline_rows(value: str) -> int:
            snapshot = offline.verdicts.snapshot()
            assert snapshot is not None
            return sum(len(batch) for batch in snapshot.read(["offset"], f"e_account = '{value}'"))

        def recent(value: str) -> int:
            return len(hot.page(VerdictQuery(entity=("account", value), limit=500)).verdicts)

        reader = scene.reader()
        with running(lambda stop: run_archiver(kafka.client("test"), name, hot, stop, clock)):
            first = scene.worker()
            first.start()
            scene.send(events(300))
            scene.await_count(reader, 300)
            request = store.request("account", gone, gone, by="ana", reason="asked", now=clock.now())
            eventually("it is erased", lambda: now(request).step is ErasureStep.DONE, first.tail)
            key = scene.store.entity_key(0, "account", gone)
            assert key not in scene.blobs()
            assert scene.store.entity_key(0, "account", other) in scene.blobs()
            done = now(request)
            mine = sum(v.entities["account"] == gone for v in reader.verdicts())
            assert (done.hot_removed, done.offline_removed, done.points) == (mine, mine, {0: 300})
            assert mine > 0
            assert forgotten == [("account", gone)]
            assert (offline_rows(gone), recent(gone)) == (0, 0)
            assert offline_rows(other) == recent(other) > 0
            # not of an event from before, and what comes now counts from one
            scene.send(events(200, first=300))
            scene.await_count(reader, 500)
            first.kill()

            # while nobody works: it waits in the log
            second = store.request("account", other, other, by="ana", reason="asked", now=clock.now())
            assert now(second).step is ErasureStep.LOGGED
            scene.send(events(200, first=500))
            assert now(second).step is ErasureStep.LOGGED
            # killed with the erasure committed, and before anything of it is stored
            dying = scene.worker("w2", flush_seconds=NEVER, snapshot_seconds=NEVER, max_batch=50)
            dying.start(KillAt("after_commit", visit=3))
            assert dying.wait() != 0
            assert scene.applied() <= 502
            # nor does a Redis that lost everything bring anybody back
            with redis.Redis.from_url(scene.redis_url) as plain:
                for one in plain.scan_iter(match=f"fs:{{{name}:*", count=1000):
                    plain.delete(one)
            last = scene.worker("w3")
            last.start()
            scene.await_count(reader, 700)
            eventually("the other is erased", lambda: now(second).step is ErasureStep.DONE, last.tail)
            scene.await_applied(702)
            last.stop()
        [recovered] = last.logged("partition recovered")
        assert recovered["rebuilt"] > 0
        scorer, said = oracle(scene)
        assert scene.blobs() == {key: blob for key, blob in scene.blobs_of(scorer).items() if len(blob) > 8}
        names = scene.pipeline.feature_names
        verdicts = reader.verdicts()
        assert sorted(said) == sorted(v.source.offset for v in verdicts)
        for verdict in verdicts:
            vector, score = said[verdict.source.offset]
            assert verdict.features is not None
            got = [np.nan if verdict.features[n] is None else verdict.features[n] for n in names]
            np.testing.assert_array_equal(np.array(got, dtype=float), np.array(vector))
            assert verdict.score == score or (verdict.score is None and np.isnan(score))
        # of the erased, what came after is there
        count = names.index("count_1h")
        after = [v for v in verdicts if v.entities["account"] == gone and v.source.offset > 300]
        assert said[min(v.source.offset for v in after)][0][count] <= 1
        with database.reading() as connection:
            trail = AuditTrail(name)
            assert [r.action for r in trail.after(connection, 0, 9)] == ["entity.erase", "entity.erased"] * 2
    assert not list(topic_records(reader_conf(kafka, "test", "test"), scene.topics.dead_letters))
