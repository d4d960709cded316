"""The whole deployment of the closed loop on a real Kafka and Redis, fed with a stream in compressed time.

Processes run as children (``make loop``) or as threads of this process (its test): the same functions either way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.loop_stream import DAY, Event
from domain.batch import Floats, Ints
from domain.clock import SystemClock
from domain.drift_record import DriftAlarm, DriftState
from domain.label_codec import JoinedLabel, Said
from domain.pipeline import Pipeline
from domain.verdict import ModelRole, Verdict
from featurestore.drift_reports import DriftReports
from featurestore.offline import OfflineStore
from featurestore.redis_client import connect
from lifecycle.loop_parts import Vault
from lifecycle.model_keys import TrustedKeys
from lifecycle.registry_sql import SqlModelRegistry
from scoring.verdicts import decode_verdict
from stream.kafka import KafkaConnection
from stream.log_reading import committed_records, ends, reader_conf
from stream.topics import PARTITIONER, Topics, create_topics
from tidegate import offline, processes
from tidegate.defaults import renamed_pipeline
from tidegate.loading import load
from tidegate.model_registry import open_registry
from tidegate.settings import Settings
from tidegate.stack import process_of
from tidegate.trainer import trainer

__all__ = ["Collected", "LoopStage"]

PATIENCE = 600.0
"""Seconds for anything that has to happen; a run that stands still for so long is broken."""
LABEL_DELAY = DAY
_BUSY = ("pinned", "trained", "gated")
_THREADS: dict[str, Callable[[Settings, threading.Event], None]] = {
    "worker": processes.worker,
    "archiver-offline": offline.archiver_offline,
    "monitor": processes.monitor,
    "trainer": trainer,
}


@dataclass
class Collected:
    """What was said of every event, in order of the topic; NaN where somebody said nothing."""

    times: list[int] = field(default_factory=list)
    fraud: list[bool] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    champion: list[str] = field(default_factory=list)
    alert: list[bool] = field(default_factory=list)
    x: list[list[float]] = field(default_factory=list)
    ranks: list[list[float]] = field(default_factory=list)

    def add(self, verdict: Verdict, fraud: bool) -> None:
        """Count one verdict in."""
        models = {} if verdict.models is msgspec.UNSET else verdict.models
        champion = next((v for v, m in models.items() if m.role is ModelRole.CHAMPION), "own")
        self.times.append(verdict.event_time)
        self.fraud.append(fraud)
        self.score.append(_float(verdict.score))
        self.own.append(_float(models["own"].score if models else verdict.score))
        self.champion.append(champion)
        self.alert.append(verdict.decision != "allow")
        self.x.append([_float(value) for value in verdict.features.values()])
        self.ranks.append([_float(one.rank) for one in verdict.detectors.values()])

    def arrays(self) -> tuple[Ints, Any, Floats, Floats]:
        """Times, fraud, score, own score."""
        times: Ints = np.array(self.times, dtype=np.int64)
        return times, np.array(self.fraud), np.array(self.score), np.array(self.own)


def _float(value: float | None) -> float:
    return np.nan if value is None else float(value)


class LoopStage:
    """Topics, processes and what has been fed and read; a context manager."""

    def __init__(
        self,
        directory: Path,
        kafka: str,
        redis: str,
        name: str,
        source: Path,
        *,
        threads: bool,
        names: Sequence[str] = tuple(_THREADS),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._exit = ExitStack()
        self._threads, self._names = threads, names
        self._stops = {name: threading.Event() for name in names}
        self._running: dict[str, threading.Thread] = {}
        self._bootstrap, self._redis = kafka, redis
        file = renamed_pipeline(source, name, directory / name / "pipeline.yaml")
        self.pipeline: Pipeline = load(file)
        self.directory = file.parent
        self._environment = {
            "TIDEGATE_PIPELINE": str(file),
            "TIDEGATE_KAFKA_BOOTSTRAP": kafka,
            "TIDEGATE_REDIS_URL": redis,
            "TIDEGATE_WORKER_ID": "w1",
            "TIDEGATE_STATE_DIR": str(self.directory / "state"),
            "TIDEGATE_OFFLINE_SECONDS": "0.5",
            **(settings or {}),
        }
        fields = {key.removeprefix("TIDEGATE_").lower(): value for key, value in self._environment.items()}
        self.settings = Settings.model_validate(fields)
        self.running = tuple(names)
        key = self.settings.signing_key()
        self.vault = Vault(key, TrustedKeys.parse(key.public))
        self.collected = Collected()
        self.fed: dict[str, Event] = {}
        self._due: list[bytes] = []
        self._waiting: list[tuple[int, bytes]] = []
        self.now = 0

    def __enter__(self) -> LoopStage:
        create_topics({"bootstrap.servers": self._bootstrap}, self.pipeline.name, 1, replies_partitions=1)
        self.registry: SqlModelRegistry = open_registry(
            self.settings.database(), self.pipeline.name, SystemClock()
        )
        self._exit.callback(self.registry.close)
        self.store: OfflineStore = offline.offline_store(self.settings, self.pipeline)
        topics, kafka = Topics(self.pipeline.name), KafkaConnection(self._bootstrap)
        self._events, self._labels = topics.events, topics.labels_joined
        self._reader = Consumer(kafka.reader("loop", f"{self.pipeline.name}.loop"))
        self._reader.assign([TopicPartition(topics.verdicts, 0, 0)])
        self._exit.callback(self._reader.close)
        self._producer = Producer({**kafka.client("loop-feed"), "partitioner": PARTITIONER, "linger.ms": 5})
        try:
            for name in self._names:
                self._launch(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for stop in self._stops.values():
            stop.set()
        self._exit.close()
        # or it would go on looking for a broker that is gone
        self.__dict__.pop("_producer", None)

    def _launch(self, name: str) -> None:
        if not self._threads:
            self._exit.enter_context(process_of(name, self.directory / name, self._environment))
            return
        thread = threading.Thread(
            target=_THREADS[name], args=(self.settings, self._stops[name]), name=name, daemon=True
        )
        thread.start()
        self._running[name] = thread
        self._exit.callback(thread.join, 30)

    def end(self, name: str) -> None:
        """End one of the processes, where they are threads; the others go on."""
        self._stops[name].set()
        self._running[name].join(PATIENCE)

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Look again and again until ``holds()``; SystemExit with ``what`` when it never does."""
        deadline = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {PATIENCE:.0f} s: {what}; logs are in {self.directory}")
            time.sleep(0.02)

    def feed(self, events: Sequence[Event]) -> None:
        """Send events and the labels that are known by then; return when all of it has been taken in.

        That is: every event has its verdict, all are in the offline store, and no training is going on.
        """
        for event in events:
            key = str(event.record["account"]).encode()
            self._producer.produce(self._events, msgspec.json.encode(event.record), key)
            self.fed[event.record["id"]] = event
        self._producer.flush(60)
        self.now = events[-1].time
        self.until("every event has a verdict", lambda: self._read() >= len(self.fed))
        while self._waiting and self._waiting[0][0] <= self.now:
            self._producer.produce(self._labels, self._waiting.pop(0)[1], partition=0)
        self._producer.flush(60)
        first, last = events[0].time, self.now + 1
        self.until(
            "the offline store has them",
            lambda: self.store.count(self.store.pin(), first, last, last).rows >= len(events),
        )
        self._let_look()

    def _let_look(self) -> None:
        """Wait until the trainer has looked at the open run once more from beginning to end, and does not train.

        A day takes seconds here: without this the stream would be days ahead of whoever looks twice a second.
        """
        runs = self.registry.runs(only_open=True)
        if not runs or self._stops["trainer"].is_set():
            return
        seen = runs[0]

        def looked() -> bool:
            run = self.registry.run(seen.id)
            # each look renews the lease, which counts the revision up; the first may have begun before
            return run.finished_at is not None or (
                run.step not in _BUSY and (run.revision >= seen.revision + 2)
            )

        self.until("the trainer has looked", looked)

    def _read(self) -> int:
        for message in self._reader.consume(5_000, 0.05):
            if message.error() is not None:
                continue
            verdict = decode_verdict(message.value() or b"")
            event = self.fed[verdict.id]
            self.collected.add(verdict, event.fraud)
            known_at = event.time + LABEL_DELAY
            said = Said(
                features=verdict.features,
                ranks={name: one.rank for name, one in verdict.detectors.items()},
                score=verdict.score,
            )
            label = JoinedLabel(
                id=verdict.id,
                event_time=event.time,
                known_at=known_at,
                label=1 if event.fraud else 0,
                entities=verdict.entities,
                said=said,
            )
            self._waiting.append((known_at, msgspec.json.encode(label)))
        return len(self.collected.times)

    def watching(self) -> bool:
        """Whether every bank of drift monitors has its reference and its thresholds."""
        report = DriftReports(connect(self._redis), self.pipeline.name).get()
        if report is None:
            return False
        banks = msgspec.json.decode(report, type=DriftState).banks
        return bool(banks) and all(bank.phase == "watching" for bank in banks)

    def alarms(self) -> list[DriftAlarm]:
        """All drift alarms so far."""
        kafka, topic = KafkaConnection(self._bootstrap), Topics(self.pipeline.name).drift
        consumer = Consumer(reader_conf(kafka, "loop-drift", f"{self.pipeline.name}.loop-drift"))
        try:
            found = list(committed_records(consumer, topic, {0: ends(consumer, topic, 0)}))
        finally:
            consumer.close()
        return [msgspec.json.decode(message.value(), type=DriftAlarm) for message in found]
