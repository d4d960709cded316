"""Following the compacted topic ``models``: which trained models to run, as the registry publishes it.

Everything is read at the start, before anything is scored, and looked for between two batches from then on. It costs
a look at an empty queue; a change costs the reading and verifying of a model, once.
"""

from __future__ import annotations

from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from domain.clock import Clock
from domain.errors import Retriable
from domain.pipeline import Pipeline
from scoring.models_in_use import ModelsInUse
from stream.kafka import KafkaConnection
from stream.models_log import ModelsLog, PartsMissing, Unseal
from stream.topics import Topics

__all__ = ["ModelsFollower"]

log = structlog.get_logger(__name__)

SILENCE_SECONDS = 30.0
"""A broker that sends neither records nor their end for so long is away."""
ASK_SECONDS = 10.0
AGAIN_SECONDS = 5.0
"""Until the next try, where Kafka did not answer."""
ABSENT_SECONDS = 30.0
"""How often to look whether a topic that was not there is there now: deployments older than models lack it."""


class ModelsFollower:
    """The models in force for ``pipeline``; one thread at a time."""

    def __init__(
        self, kafka: KafkaConnection, pipeline: Pipeline, unseal: Unseal, clock: Clock, *, client_id: str
    ) -> None:
        self._conf = {
            **kafka.reader(client_id, f"{pipeline.name}.models"),
            "enable.partition.eof": True,
            # read whole, and seldom: no need to hold much of it
            "queued.max.messages.kbytes": 16_384,
        }
        self._topic = Topics(pipeline.name).models
        self._clock = clock
        self._log = ModelsLog(pipeline, unseal)
        self._consumer: Consumer | None = None
        self._places: list[TopicPartition] = []
        self._look_again = 0.0

    @property
    def models(self) -> ModelsInUse:
        """What is to run."""
        return self._log.models

    @property
    def epoch(self) -> int:
        """Of the newest state seen, whether or not all it names could be taken; 0: none."""
        return self._log.epoch

    @property
    def refused(self) -> dict[str, str]:
        """Version to reason, of what the newest state names and is not run."""
        return dict(self._log.refused)

    def begin(self) -> None:
        """Read everything there is; the second time nothing. Raises Retriable when Kafka is away."""
        if not self._places:
            self._find_topic()

    def poll(self) -> bool:
        """Take what has come since; True when the models changed. Does not wait, unless there is a change to read.

        While Kafka does not answer, what runs stays.
        """
        before = self.models
        try:
            if self._consumer is not None and self._places:
                self._drain(self._consumer)
                if self._log.pending:
                    self._apply()
            elif self._clock.monotonic() >= self._look_again:
                self._find_topic()
        except Retriable as error:
            self._look_again = self._clock.monotonic() + AGAIN_SECONDS
            log.warning("models are not followed for the moment; what runs stays", error=str(error))
        return self.models != before

    def close(self) -> None:
        """Give the connection back."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _drain(self, consumer: Consumer) -> None:
        while (message := consumer.poll(0)) is not None:
            error = message.error()
            if error is None:
                self._log.take(message.key(), message.value())
            elif error.code() != KafkaError._PARTITION_EOF:
                log.warning("reading models", error=str(error))

    def _find_topic(self) -> None:
        if self._consumer is None:
            self._consumer = Consumer(self._conf)
        try:
            found = self._consumer.list_topics(self._topic, ASK_SECONDS).topics[self._topic]
        except KafkaException as error:
            raise self._away(error.args[0]) from error
        if found.error is not None or not found.partitions:
            self._look_again = self._clock.monotonic() + ABSENT_SECONDS
            return
        self._places = [TopicPartition(self._topic, number, 0) for number in found.partitions]
        self._read_all()
        if self._log.pending:
            self._apply()

    def _apply(self) -> None:
        try:
            self._log.apply()
        except PartsMissing:
            # published before we looked, and dropped as nobody had named it then
            self._read_all()
            self._log.apply(last=True)
        models = self.models
        log.info(
            "models in force",
            epoch=self.epoch,
            champion=None if models.champion is None else models.champion.version,
            challenger=None if models.challenger is None else models.challenger.version,
            split=models.split,
        )

    def _read_all(self) -> None:
        """Every record from the first to the last committed one."""
        consumer = self._consumer
        if consumer is None:
            raise RuntimeError("the follower is closed")
        consumer.unassign()
        consumer.assign(self._places)
        left = {place.partition for place in self._places}
        while left:
            message: Any = consumer.poll(SILENCE_SECONDS)
            if message is None:
                raise self._away(f"nothing came for {SILENCE_SECONDS:.0f} s")
            error = message.error()
            if error is None:
                self._log.take(message.key(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
            elif error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal():
                raise self._away(error)

    def _away(self, why: object) -> Retriable:
        self._places = []
        return Retriable(
            f"reading {self._topic} failed: {why}",
            remedy="check the connection to Kafka and that our user may read the topic",
        )
