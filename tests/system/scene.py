"""Topics, a pipeline of its own name, a worker and a reader: what every test of the whole path needs."""

from __future__ import annotations

import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from confluent_kafka import Consumer, TopicPartition

from domain.codec import EventCodec
from domain.pipeline import Pipeline
from domain.privacy import Protector
from domain.verdict import Verdict
from featurestore.online import RedisStateStore
from featurestore.redis_client import connect
from scoring.engine import PartitionScorer
from scoring.scored import ScoredBatch
from scoring.verdicts import decode_verdict
from stream.decoding import decode_messages
from stream.kafka import KafkaConnection
from stream.replay import Sendable, replay, replay_producer
from stream.topics import Topics, create_topics
from tests.system.worker_program import PATIENCE, Tuning, WorkerProcess
from tidegate.defaults import renamed_pipeline
from tidegate.loading import load

__all__ = ["PATIENCE", "PRIVACY_KEY", "Feeder", "Reader", "Scene", "eventually", "metric", "samples"]

PRIVACY_KEY = "a key for tests only, 32 letters"


def eventually(
    what: str,
    holds: Callable[[], bool],
    tell: Callable[[], str] = lambda: "",
    reached: Callable[[], object] = lambda: None,
) -> None:
    """Look again and again until ``holds()``; AssertionError with ``tell()`` when it never does.

    What can come slowly (a count) says how far it has ``reached``: patience is then for standing still.
    """
    last = reached()
    deadline = time.monotonic() + PATIENCE
    while not holds():
        now = reached()
        if now != last:
            last, deadline = now, time.monotonic() + PATIENCE
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE:.0f} s: {what}\n{tell()}")
        time.sleep(0.02)


def samples(port: int) -> dict[str, float]:
    """Everything at a worker's /metrics, by name and labels; nothing while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
    except OSError:
        return {}
    split = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in split}


def metric(port: int, sample: str) -> float:
    """One sample of a worker's /metrics; 0 while it is not there."""
    return samples(port).get(sample, 0.0)


class Reader:
    """A concurrent ``read_committed`` reader of a topic from its first record on, in a thread."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        kafka = KafkaConnection(bootstrap)
        self._consumer = Consumer(kafka.reader("tidegate-test-reader", f"test-{uuid.uuid4().hex}"))
        self._consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
        self._stop = threading.Event()
        self.messages: list[Any] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.02)
            if message is not None and message.error() is None:
                self.messages.append(message)
        self._consumer.close()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(PATIENCE)

    def verdicts(self) -> list[Verdict]:
        """Everything read so far, decoded."""
        return [decode_verdict(message.value()) for message in list(self.messages)]

    def sources(self) -> list[tuple[int, int]]:
        """(partition, offset) of the event of every verdict so far."""
        return [(v.source.partition, v.source.offset) for v in self.verdicts()]


@dataclass
class Scene:
    """One pipeline on one Kafka and one Redis, with topics nobody else uses."""

    bootstrap: str
    redis_url: str
    pipeline: Pipeline
    pipeline_file: Path
    directory: Path
    partitions: int
    store: RedisStateStore
    """The online store, by a client of the test's own that has all the patience a busy machine needs."""
    workers: list[WorkerProcess] = field(default_factory=list)
    _readers: list[Reader] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(
        cls, bootstrap: str, redis_url: str, source: Path, name: str, directory: Path, partitions: int = 1
    ) -> Iterator[Scene]:
        """Topics for a copy of the pipeline file ``source`` called ``name``; ends all workers afterwards."""
        file = renamed_pipeline(source, name, directory / name / "pipeline.yaml")
        create_topics({"bootstrap.servers": bootstrap}, name, partitions, replies_partitions=1)
        with connect(redis_url, timeout=PATIENCE) as client:
            store = RedisStateStore(client, name)
            scene = cls(bootstrap, redis_url, load(file), file, file.parent, partitions, store)
            try:
                yield scene
            finally:
                for worker in scene.workers:
                    worker.close()
                for reader in scene._readers:
                    reader.close()

    @property
    def topics(self) -> Topics:
        return Topics(self.pipeline.name)

    @property
    def codec(self) -> EventCodec:
        return EventCodec(self.pipeline, Protector(PRIVACY_KEY.encode()))

    def environment(self, worker_id: str = "w1", **settings: object) -> dict[str, str]:
        """Variables of a worker process; ``settings`` by their names in Settings."""
        given: dict[str, object] = {
            "pipeline": self.pipeline_file,
            "kafka_bootstrap": self.bootstrap,
            "redis_url": self.redis_url,
            "worker_id": worker_id,
            "privacy_key": PRIVACY_KEY,
            "state_dir": self.directory,
            **settings,
        }
        return {f"TIDEGATE_{name.upper()}": str(value) for name, value in given.items()}

    def worker(
        self,
        worker_id: str = "w1",
        *,
        tuning: Tuning | None = None,
        log: str | None = None,
        **settings: object,
    ) -> WorkerProcess:
        """A worker to start; closed with the scene. ``log``: name of its log, without suffix."""
        file = self.directory / f"{log or worker_id}.log"
        made = WorkerProcess(self.environment(worker_id, **settings), file, tuning)
        self.workers.append(made)
        return made

    def reader(self, topic: str | None = None, partitions: int | None = None) -> Reader:
        """A concurrent reader, of the verdicts unless told otherwise."""
        made = Reader(self.bootstrap, topic or self.topics.verdicts, partitions or self.partitions)
        self._readers.append(made)
        return made

    def send(self, records: list[Sendable]) -> None:
        """Produce records as ``tidegate replay`` does."""
        producer = replay_producer(KafkaConnection(self.bootstrap))
        sent = replay(records, producer, self.topics.events)
        assert sent.delivered == len(records)

    def await_count(self, reader: Reader, count: int, tell: Callable[[], str] | None = None) -> None:
        """Until ``reader`` has ``count`` records; AssertionError with the workers' logs otherwise."""
        eventually(
            f"{count} records",
            lambda: len(reader.messages) >= count,
            lambda: f"there are {len(reader.messages)}\n{(tell or self._logs)()}",
            lambda: len(reader.messages),
        )

    def await_applied(self, end: int, partition: int = 0) -> None:
        """Until the online store reflects every event of a partition below ``end``."""
        eventually(
            f"partition {partition} in Redis up to {end}",
            lambda: self.applied(partition) >= end,
            self._logs,
            lambda: self.applied(partition),
        )

    def _logs(self) -> str:
        return "\n".join(worker.tail() for worker in self.workers)

    def applied(self, partition: int = 0) -> int:
        """The first offset that the online store does not reflect."""
        found = self.store.load_applied(partition)
        return 0 if found is None else found.next_offset

    def blobs(self, partition: int = 0) -> dict[str, bytes]:
        """Entity state in Redis by key."""
        prefix = f"fs:{{{self.pipeline.name}:{partition}}}:"
        with redis.Redis.from_url(self.redis_url) as client:
            keys = [k.decode() for k in client.scan_iter(match=f"{prefix}*", count=1000)]
            keys = [k for k in keys if k not in (prefix + "applied", prefix + "model")]
            values = client.mget(keys) if keys else []
        assert isinstance(values, list)
        return dict(zip(keys, values, strict=True))

    def blobs_of(self, scorer: PartitionScorer) -> dict[str, bytes]:
        """What Redis should hold after ``scorer`` saw everything and never stored anything."""
        return {
            self.store.entity_key(scorer.partition, entity, key): blob
            for entity, key, blob in scorer.tables.dirty(scorer.partition)
        }

    def never_killed(self, partition: int = 0) -> tuple[PartitionScorer, ScoredBatch]:
        """The engine over everything in the partition of the events topic, in one batch."""
        consumer = Consumer(
            KafkaConnection(self.bootstrap).reader("tidegate-test", f"test-{uuid.uuid4().hex}")
        )
        messages: list[Any] = []
        try:
            place = TopicPartition(self.topics.events, partition, 0)
            _, end = consumer.get_watermark_offsets(place, timeout=PATIENCE)
            consumer.assign([place])
            while not messages or messages[-1].offset() < end - 1:
                message = consumer.poll(PATIENCE)
                assert message is not None
                assert message.error() is None
                messages.append(message)
        finally:
            consumer.close()
        decoded = decode_messages(self.codec, messages)
        batch = self.codec.to_batch(decoded.events, [messages[i].offset() for i in decoded.accepted])
        scorer = PartitionScorer(self.pipeline, partition)
        return scorer, scorer.process(batch)


class Feeder:
    """Keeps a worker that is going to die in work, however fast or slow it is: a portion is sent as one is stored."""

    def __init__(self, scene: Scene, portions: Iterable[list[Sendable]]) -> None:
        self._scene = scene
        self._portions = iter(portions)
        self._ends = [0, 0]
        """Where the last portions end; two are on their way, so that one waits while the other is worked on."""

    @property
    def sent(self) -> int:
        """How many events were sent in all, into the one partition."""
        return self._ends[-1]

    def feed(self, worker: WorkerProcess) -> int:
        """Feed until it ends; its exit code. AssertionError when it stands still, or when nothing is left for it."""

        def ended() -> bool:
            if worker.running and self._scene.applied() >= self._ends[-2]:
                portion = next(self._portions, None)
                assert portion is not None, f"it lives though it had everything\n{worker.tail()}"
                self._scene.send(portion)
                self._ends.append(self.sent + len(portion))
            return not worker.running

        eventually("the worker ends", ended, worker.tail, self._scene.applied)
        return worker.wait()

    def rest(self) -> None:
        """Send what is left."""
        for portion in self._portions:
            self._scene.send(portion)
            self._ends.append(self.sent + len(portion))
