"""Reading the dead letter topic and the record of what was redriven: committed records only, outside any group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from domain.errors import Fatal
from stream.dlq import DeadLetter, Place, Selection, read_letter
from stream.kafka import KafkaConnection
from stream.log_reading import ASK_SECONDS, Span, away, committed_records, ends, reader_conf
from stream.topics import Topics, partitions_of

__all__ = ["DeadLetterReader", "Redriven", "RedrivenLetters", "Span"]


class Redriven(msgspec.Struct, frozen=True):
    """A record of the ``redriven`` topic: the letter at ``place`` was put back into the events.

    ``letter_time`` and ``redriven_at`` are UTC microseconds; ``source`` is where the event first was.
    """

    place: str
    letter_time: int
    source: str
    reason: str
    redriven_at: int


class RedrivenLetters:
    """Which letters were redriven, and when.

    A letter is known by its place and its time: after the topic was deleted and made anew, places begin
    again at 0, and what is remembered must not hold up letters that never went.
    """

    def __init__(self) -> None:
        self._when: dict[Place, tuple[int, int]] = {}

    def add(self, entry: Redriven) -> None:
        """Remember ``entry``; of several for one place the last counts."""
        self._when[Place.parse(entry.place)] = entry.letter_time, entry.redriven_at

    def when(self, letter: DeadLetter) -> int | None:
        """When ``letter`` was redriven (UTC microseconds), or None."""
        letter_time, redriven_at = self._when.get(letter.place, (None, None))
        return redriven_at if letter_time == letter.time else None


class DeadLetterReader:
    """Reads the dead letters of one pipeline."""

    def __init__(self, kafka: KafkaConnection, pipeline: str) -> None:
        self._topics = Topics(pipeline)
        self._conf = reader_conf(kafka, f"tidegate-dlq-{pipeline}", f"{pipeline}.dlq")

    def spans(self, selection: Selection) -> dict[int, Span]:
        """Which offsets to look at for ``selection``, up to what is committed now; one entry per partition.

        Raises ServiceMissing (no such topic, Kafka away), Fatal (no such partition), Retriable.
        """
        topic = self._topics.dead_letters
        with self._consumer() as consumer:
            count = partitions_of(consumer, topic)
            named = selection.partitions | {place.partition for place in selection.places}
            if named and max(named) >= count:
                raise Fatal(
                    f"{topic} has no partition {max(named)}",
                    remedy=f"its partitions are 0 to {count - 1}; places are those that `dlq list` shows",
                )
            spans = {}
            for partition in sorted(named) if named else range(count):
                first, end = ends(consumer, topic, partition)
                offsets = [place.offset for place in selection.places if place.partition == partition]
                if offsets:
                    first, end = max(first, min(offsets)), min(end, max(offsets) + 1)
                spans[partition] = first, end
            return spans if selection.since is None else _since(consumer, topic, spans, selection.since)

    def letters(self, spans: Mapping[int, Span], selection: Selection) -> Iterator[DeadLetter]:
        """The letters of ``selection`` within ``spans``, of each partition in order of offsets.

        Raises Retriable when Kafka falls silent.
        """
        with self._consumer() as consumer:
            for message in committed_records(consumer, self._topics.dead_letters, spans):
                letter = read_letter(message)
                if selection.takes(letter):
                    yield letter

    def letter(self, place: Place) -> DeadLetter:
        """The letter at ``place``. Raises Fatal when there is none."""
        selection = Selection(places=frozenset({place}))
        for letter in self.letters(self.spans(selection), selection):
            return letter
        raise Fatal(
            f"{self._topics.dead_letters} has no record at {place}",
            remedy="`tidegate dlq list` shows the places; older letters are deleted by the topic's retention",
        )

    def redriven(self) -> RedrivenLetters:
        """What was redriven until now; nothing where the topic of it does not exist yet."""
        with self._consumer() as consumer:
            if not self.remembers():
                return RedrivenLetters()
            return self._remembered(consumer, ends(consumer, self._topics.redriven, 0))

    def redriven_for_certain(self) -> RedrivenLetters:
        """What was redriven, after all who could write it were fenced.

        The end is that of the log, not of what committed readers are let see: were a transaction still open
        before it, this waits and at last raises Retriable rather than take less for all.
        """
        with (
            self._consumer(**{"isolation.level": "read_uncommitted"}) as probe,
            self._consumer() as consumer,
        ):
            return self._remembered(consumer, ends(probe, self._topics.redriven, 0))

    def remembers(self) -> bool:
        """Whether the topic of what was redriven exists."""
        topic = self._topics.redriven
        with self._consumer() as consumer:
            try:
                found = consumer.list_topics(topic, ASK_SECONDS).topics[topic]
            except KafkaException as error:
                raise away(error, topic) from error
            return found.error is None and bool(found.partitions)

    def source_partitions(self) -> int:
        """How many partitions the events have. Raises ServiceMissing."""
        with self._consumer() as consumer:
            return partitions_of(consumer, self._topics.events)

    def _remembered(self, consumer: Any, span: Span) -> RedrivenLetters:
        letters = RedrivenLetters()
        decode = msgspec.json.Decoder(Redriven).decode
        for message in committed_records(consumer, self._topics.redriven, {0: span}):
            try:
                letters.add(decode(message.value() or b""))
            except ValueError as error:
                raise Fatal(
                    f"{self._topics.redriven} 0:{message.offset()} is none of our records: {error}",
                    remedy="let nobody else write there; delete that record or move it away, since without "
                    "knowing what went nothing can go exactly once",
                ) from error
        return letters

    @contextmanager
    def _consumer(self, **other: object) -> Iterator[Any]:
        consumer = Consumer({**self._conf, **other})
        try:
            yield consumer
        finally:
            consumer.close()


def _since(consumer: Any, topic: str, spans: Mapping[int, Span], since: int) -> dict[int, Span]:
    """``spans`` without what lies before the first record that is not older than ``since``."""
    millis = -(-since // 1000)
    asked = [TopicPartition(topic, partition, millis) for partition in spans]
    try:
        found = consumer.offsets_for_times(asked, timeout=ASK_SECONDS)
    except KafkaException as error:
        raise away(error, topic) from error
    # a negative offset means the end: all are older
    first = {at.partition: at.offset for at in found}
    return {
        partition: (max(start, first[partition]) if first[partition] >= 0 else end, end)
        for partition, (start, end) in spans.items()
    }
