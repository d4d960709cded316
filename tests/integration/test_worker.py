"""A worker among real Kafka and Redis that stop, lose data, refuse records and move partitions."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from api.ports import WorkerReport
from domain.verdict import Flag, Verdict
from featurestore.redis_client import connect
from featurestore.worker_reports import WorkerReports
from tests.system.bits import assert_same_bits
from tests.system.events import SMALL, event, events
from tests.system.scene import PATIENCE, Reader, Scene, eventually, metric, samples
from tests.system.worker_program import ActAt, KillAt, Tuning, WorkerProcess
from tidegate.embedded.process import free_port
from tidegate.embedded.redis import EmbeddedRedis

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

NEVER = 3600.0
"""Seconds between flushes or snapshots where a test wants none."""


@pytest.fixture
def scene(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path) as made:
        yield made


def committed(scene: Scene) -> int:
    """The group's committed offset of partition 0; 0 when there is none."""
    consumer = Consumer({"bootstrap.servers": scene.bootstrap, "group.id": f"{scene.pipeline.name}.worker"})
    try:
        [place] = consumer.committed([TopicPartition(scene.topics.events, 0)], PATIENCE)
    finally:
        consumer.close()
    return max(place.offset, 0)


def logged(worker: WorkerProcess, text: str) -> Callable[[], bool]:
    """Whether ``text`` is in the worker's log."""
    return lambda: worker.log.exists() and text in worker.log.read_text()


def check(scene: Scene, reader: Reader, count: int) -> list[Verdict]:
    """Wait for ``count`` verdicts; each is the never disturbed engine's, and so is the state when at rest."""
    scene.await_count(reader, count)
    end = sum(1 for _ in reader.messages)
    assert end == count
    verdicts = reader.verdicts()
    for partition in range(scene.partitions):
        scorer, wanted = scene.never_killed(partition)
        here = [v for v in verdicts if v.source.partition == partition]
        assert_same_bits(scene.pipeline, here, wanted)
        log_end = int(wanted.batch.offsets[-1]) + 1
        scene.await_applied(log_end, partition)
        assert scene.blobs(partition) == scene.blobs_of(scorer)
    return verdicts


def test_sigterm_writes_state_and_ends_within_five_seconds(scene: Scene) -> None:
    # it stands still amid its work until told to end: however fast it is, most of it is still to come
    patient = Tuning(session_ms=60_000)
    worker = scene.worker(max_batch=20, flush_seconds=NEVER, snapshot_seconds=NEVER, tuning=patient)
    reader = scene.reader()
    scene.send(events(4_000))
    worker.start(ActAt("after_commit", visit=20, signal=signal.SIGSTOP))
    eventually("it stands still", lambda: worker.stopped, worker.tail)
    seconds = worker.stop()
    assert seconds < 5.0
    at = committed(scene)
    assert 20 <= at < 1_000, "stopped in the midst of work"
    assert scene.applied() == at
    snapshot = scene.store.load_model(0)
    assert snapshot is not None
    assert snapshot.next_offset == at
    second = scene.worker("w2")
    second.start()
    scene.await_count(reader, 4_000)
    second.stop()
    check(scene, reader, 4_000)
    [recovery] = second.logged("partition recovered")
    assert (recovery["offset"], recovery["rebuilt"], recovery["relearned"]) == (at, 0, 0)


def test_metrics_and_report_of_a_worker(scene: Scene) -> None:
    port = free_port()
    worker = scene.worker(metrics_port=port)
    reader = scene.reader()
    scene.send([*events(50), event("bad", 400, amount=-5)])
    worker.start()
    scene.await_count(reader, 50)
    wanted = {
        "tidegate_events_total": 51,
        'tidegate_dead_letters_total{reason="out_of_range"}': 1,
        'tidegate_verdicts_total{decision="allow"}': 50,
        "tidegate_latency_seconds_count": 51,
        'tidegate_flagged_total{flag="warming_up"}': 50,
        'tidegate_abstentions_total{detector="iforest"}': 50,
    }
    # after the commit, one after the other: whoever looks in between sees some of them counted
    eventually("all is counted", lambda: wanted.items() <= samples(port).items(), lambda: str(samples(port)))

    reports = WorkerReports(connect(scene.redis_url), scene.pipeline.name)

    seen: list[WorkerReport] = []

    def told() -> bool:
        """Whether there is one (a busy worker's may expire before the next) and it tells of all events."""
        raw = reports.all()
        seen[:] = [msgspec.json.decode(report, type=WorkerReport) for report in raw]
        return len(raw) == 1 and b'"next_offset":51' in raw[0]

    eventually("the report tells of all events", told)
    [report] = seen
    assert (report.worker, list(report.partitions)) == ("w1", [0])
    assert report.pipeline_digest == scene.pipeline.digest
    worker.stop()
    assert reports.all() == []


def test_a_retried_event_counts_once_wherever_the_retry_comes(scene: Scene) -> None:
    worker = scene.worker(flush_seconds=NEVER, snapshot_seconds=NEVER)
    reader = scene.reader()
    flow = events(1_500)  # enough for scores and alerts
    second = 1_500 * 7.0
    first = event("r1", second, "rep", amount=5_000)
    scene.send([*flow, first, first])
    worker.start()
    scene.await_count(reader, 1_502)
    scene.send([first])  # in another batch
    scene.await_count(reader, 1_503)
    worker.kill()  # nothing is in Redis: what is known of r1 comes from the log
    assert scene.applied() == 0
    worker.start()
    scene.send([first, event("r2", second + 10, "rep")])
    scene.await_count(reader, 1_505)
    worker.stop()  # now it is in Redis
    worker.start()
    scene.send([first, event("r3", second + 20, "rep")])
    scene.await_count(reader, 1_507)
    worker.stop()
    verdicts = check(scene, reader, 1_507)

    original, *others = [v for v in verdicts if v.id == "r1"]
    assert original.score is not None
    assert original.decision != "allow", "the original should be an alert, to make its repeats worth a look"
    assert original.flags == [Flag.OUT_OF_RANGE]
    assert len(others) == 4
    for repeat in others:
        assert repeat.flags == [Flag.DUPLICATE]
        assert (repeat.score, repeat.decision) == (original.score, original.decision)
        assert repeat.first == original.source
        assert repeat.features is None
    by_id = {v.id: v for v in verdicts}
    assert by_id["r2"].features["count_1h"] == 2
    assert by_id["r3"].features["count_1h"] == 3


def test_late_events_are_scored_and_flagged(scene: Scene) -> None:
    worker = scene.worker()
    reader = scene.reader()
    scene.send(
        [
            event("new", 10_000),
            event("old", 10_000 - 3_600, amount=1),
            event("late", 10_000 - 3_601, amount=2),
            event("new again", 10_001),
        ]
    )
    worker.start()
    verdicts = check(scene, reader, 4)
    flagged = {v.id: Flag.LATE in v.flags for v in verdicts}
    assert flagged == {"new": False, "old": False, "late": True, "new again": False}


def test_partitions_move_between_two_workers(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    with Scene.open(kafka, redis_url, SMALL, topic_prefix, tmp_path, partitions=2) as scene:
        reader = scene.reader()
        first = scene.worker("w1", max_batch=40)
        second = scene.worker("w2", max_batch=40)
        flow = events(6_000)
        scene.send(flow[:2_000])
        first.start()
        scene.await_count(reader, 500)
        second.start()
        eventually("the second worker has a partition", logged(second, "partition recovered"), second.tail)
        scene.send(flow[2_000:4_000])
        scene.await_count(reader, 2_500)
        second.stop()
        scene.await_count(reader, 4_000)
        scene.send(flow[4_000:5_000])
        recovered = second.log.read_text().count("partition recovered")
        second.start()
        eventually(
            "the second worker has a partition again",
            lambda: second.log.read_text().count("partition recovered") > recovered,
            second.tail,
        )
        scene.send(flow[5_000:])
        scene.await_count(reader, 5_200)
        first.kill()
        check(scene, reader, 6_000)


def set_topic(scene: Scene, topic: str, name: str, value: str) -> None:
    """Change one setting of a topic."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": scene.bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(120)


def test_an_aborted_transaction_leaves_no_trace_in_features(scene: Scene) -> None:
    port = free_port()
    worker = scene.worker(metrics_port=port, max_batch=200, flush_seconds=0.02, snapshot_seconds=0.1)
    reader = scene.reader()
    alerts = scene.reader(scene.topics.alerts)
    set_topic(scene, scene.topics.alerts, "max.message.bytes", "200")  # room for markers, not for alerts
    flow = events(2_500)
    scene.send(flow)
    worker.start()
    eventually(
        "two transactions are aborted",
        lambda: (
            logged(worker, "transaction aborted")()
            and metric(port, 'tidegate_transactions_total{outcome="aborted"}') >= 2
        ),
        worker.tail,
    )
    assert len(reader.messages) < 2_500
    assert not alerts.messages
    set_topic(scene, scene.topics.alerts, "max.message.bytes", "1048588")
    verdicts = check(scene, reader, 2_500)
    told = [v.id for v in verdicts if v.decision != "allow"]
    assert told
    scene.await_count(alerts, len(told))
    assert [msgspec.json.decode(m.value())["id"] for m in alerts.messages] == told


def usurp(scene: Scene, worker_id: str = "w1") -> None:
    """Take over the transactional id of a worker."""
    usurper = Producer(
        {
            "bootstrap.servers": scene.bootstrap,
            "transactional.id": f"tidegate-{scene.pipeline.name}-{worker_id}",
        }
    )
    usurper.init_transactions(120)


def test_a_worker_that_is_fenced_goes_on_but_not_for_ever(scene: Scene) -> None:
    """Its successor fences a worker that seemed dead; a twin with the same id would fence it again and again."""
    worker = scene.worker(max_batch=50)
    reader = scene.reader()
    scene.send(events(600))
    worker.start()
    scene.await_count(reader, 600)
    usurp(scene)
    scene.send(events(600, first=600))
    check(scene, reader, 1_200)
    assert worker.running
    sent = 1_200
    # three in a row, each soon after the one before: on a slow day some come too late to count
    while worker.running and sent < 3_000:
        usurp(scene)
        scene.send(events(100, first=sent))
        sent += 100
        eventually(
            "it goes on or gives up",
            lambda n=sent: len(reader.messages) == n or not worker.running,  # type: ignore[misc]
            worker.tail,
        )
    assert worker.wait() == 3, worker.tail()
    assert "give every worker its own TIDEGATE_WORKER_ID" in worker.log.read_text()
    worker.start()
    check(scene, reader, sent)


ENDED = "ended the open transaction of a silent former owner"


def test_the_next_owner_ends_a_transaction_that_holds_offsets_back(scene: Scene) -> None:
    """Nobody waits for the broker's time-outs (up to twenty seconds)."""
    reader = scene.reader()
    scene.send(events(1_000))
    # for longer than any test takes, the broker would not end it by itself
    forgotten = Tuning(transaction_ms=600_000)
    first = scene.worker("w1", max_batch=50, flush_seconds=NEVER, snapshot_seconds=NEVER, tuning=forgotten)
    first.start(KillAt("after_send_offsets", visit=5))
    assert first.wait() == -9, first.tail()
    second = scene.worker("w2")
    second.start()
    check(scene, reader, 1_000)
    assert ENDED in second.log.read_text()


def test_the_next_owner_ends_a_transaction_that_hides_verdicts(scene: Scene) -> None:
    reader = scene.reader()
    scene.send(events(500))
    first = scene.worker("w1", flush_seconds=NEVER, snapshot_seconds=NEVER)
    first.start()
    scene.await_count(reader, 500)
    first.kill()
    # what w1 could have left: records sent, offsets not
    with_w1s_id = {
        "bootstrap.servers": scene.bootstrap,
        "transactional.id": f"tidegate-{scene.pipeline.name}-w1",
        "transaction.timeout.ms": 600_000,
    }
    left = Producer(with_w1s_id)
    left.init_transactions(120)
    left.begin_transaction()
    left.produce(scene.topics.verdicts, b"never committed", partition=0)
    assert left.flush(120) == 0
    scene.send(events(500, first=500))
    second = scene.worker("w2")
    second.start()
    check(scene, reader, 1_000)
    assert ENDED in second.log.read_text()


def test_recovery_waits_for_verdicts_that_are_committed_but_not_yet_visible(scene: Scene) -> None:
    """A former owner of the partition, gone silent in the midst of a transaction, holds readers up."""
    silent = {"transactional.id": f"{scene.pipeline.name}-z", "transaction.timeout.ms": 600_000}
    zombie = Producer({"bootstrap.servers": scene.bootstrap, **silent})
    zombie.init_transactions(120)
    zombie.begin_transaction()
    zombie.produce(scene.topics.verdicts, b"never committed", partition=0)
    assert zombie.flush(120) == 0
    worker = scene.worker(flush_seconds=NEVER, snapshot_seconds=NEVER)
    reader = scene.reader()
    flow = events(2_000)
    scene.send(flow[:1_500])
    worker.start()
    eventually("the events are committed", lambda: committed(scene) == 1_500, worker.tail)
    assert not reader.messages
    worker.kill()
    worker.start()
    scene.send(flow[1_500:])
    eventually("it waits", logged(worker, "not yet visible"), worker.tail)
    zombie.abort_transaction(120)
    scene.await_count(reader, 2_000)
    worker.stop()
    check(scene, reader, 2_000)


@pytest.fixture
def own_redis(new_redis: Callable[[], EmbeddedRedis]) -> EmbeddedRedis:
    return new_redis()


@pytest.fixture
def fragile(kafka: str, own_redis: EmbeddedRedis, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    """A scene whose Redis may be ill-treated."""
    with Scene.open(kafka, own_redis.url, SMALL, topic_prefix, tmp_path) as made:
        yield made


@pytest.mark.parametrize("trouble", ["killed", "frozen", "emptied", "lost"])
def test_redis_in_trouble(fragile: Scene, own_redis: EmbeddedRedis, trouble: str) -> None:
    scene = fragile
    worker = scene.worker(max_batch=30, max_entities=1_000, flush_seconds=0.02, snapshot_seconds=0.1)
    reader = scene.reader()
    flow = events(3_000)
    scene.send(flow[:1_500])
    worker.start()
    scene.await_count(reader, 700)
    waits = logged(worker, "online store away")
    if trouble == "emptied":
        connect(own_redis.url).flushall()
    elif trouble == "frozen":
        own_redis.pause()
    else:
        own_redis.kill()
    scene.send(flow[1_500:])
    if trouble != "emptied":
        eventually("it waits for Redis", waits, worker.tail)
    if trouble == "frozen":
        own_redis.resume()
    elif trouble == "killed":
        own_redis.restart()
    elif trouble == "lost":
        shutil.rmtree(own_redis.directory / "appendonlydir")
        own_redis.restart()
    scene.await_count(reader, 3_000)
    assert worker.running, worker.tail()
    worker.stop()
    check(scene, reader, 3_000)
