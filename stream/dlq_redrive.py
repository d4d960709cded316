"""Putting dead letters back into the events, each exactly once.

One transaction writes a batch of events and, into the compacted topic ``redriven``, which letters they were: both
are there or neither. Filters leave gaps, so a committed offset could not tell what went. All runs of a pipeline
share one transactional id. Starting ends the transaction of a predecessor and locks it out; only then is the topic
read to its end, so nobody can add to it what this run does not know of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import Consumer

from domain.clock import Clock
from domain.errors import Fatal, ServiceMissing
from stream.dlq import DeadLetter, Place, Refusal, Selection, event_headers, refusal
from stream.dlq_reader import DeadLetterReader, Redriven, RedrivenLetters, Span
from stream.kafka import KafkaConnection
from stream.outbox import Fenced, Outbox, Outgoing
from stream.topics import Topics

__all__ = ["Plan", "Redriver", "plan_redrive"]

BATCH = 200
"""Letters per transaction: few enough that a failed one costs little, enough that commits do not dominate."""
BATCH_BYTES = 8 << 20
"""Bytes of values per transaction, so that large letters do not fill the producer's queue."""
_PLACES_KEPT = 100
"""Refused places that a plan remembers by name; the others are only counted."""


@dataclass(slots=True)
class Plan:
    """What of a selection goes or went back: counts ``going`` by reason, ``refused`` by refusal.

    ``places`` names the first refused ones (not those that went before), and ``seen`` those of the named
    places that were found.
    """

    going: Counter[str] = field(default_factory=Counter)
    refused: Counter[Refusal] = field(default_factory=Counter)
    places: list[tuple[Place, Refusal]] = field(default_factory=list)
    seen: set[Place] = field(default_factory=set)

    def note(self, letter: DeadLetter, why: Refusal | None, selection: Selection) -> None:
        """Count one letter of ``selection``."""
        if selection.places:
            self.seen.add(letter.place)
        if why is None:
            self.going[letter.reason] += 1
            return
        self.refused[why] += 1
        if why is not Refusal.ALREADY and len(self.places) < _PLACES_KEPT:
            self.places.append((letter.place, why))


def plan_redrive(
    reader: DeadLetterReader,
    pipeline: str,
    spans: Mapping[int, Span],
    selection: Selection,
    *,
    force: bool = False,
) -> Plan:
    """What :meth:`Redriver.run` would do now; writes nothing. Raises ServiceMissing, Retriable."""
    plan = Plan()
    done = reader.redriven()
    judge = _Judge(Topics(pipeline).events, reader.source_partitions(), done, force)
    for letter in reader.letters(spans, selection):
        plan.note(letter, judge(letter), selection)
    return plan


class Redriver:
    """Redrives letters of one pipeline. Making one locks out every other of the same pipeline.

    ``at`` is called with the name of each step (fault tests stop the process there).
    Raises ServiceMissing when topics are absent, Retriable when Kafka is away.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        pipeline: str,
        clock: Clock,
        *,
        at: Callable[[str], None] = lambda point: None,
        batch: int = BATCH,
    ) -> None:
        self._topics = Topics(pipeline)
        self._clock = clock
        self._batch = batch
        self._reader = DeadLetterReader(kafka, pipeline)
        self._partitions = self._reader.source_partitions()
        if not self._reader.remembers():
            raise ServiceMissing(
                f"Kafka has no topic {self._topics.redriven}, which keeps every letter from going twice",
                remedy="`tidegate topics create` makes it and changes no other topic",
            )
        # not tidegate-<pipeline>-<...>: those are the workers', and a worker may have any name
        name = f"tidegate-{pipeline}.dlq-redrive"
        self._outbox = Outbox(kafka.transactional_producer(name, name), self._topics.verdicts, at)
        # only names a group to the transaction, in which no offsets are committed; it never reads
        self._member = Consumer(kafka.reader(name, f"{pipeline}.dlq-redrive"))

    def run(
        self,
        spans: Mapping[int, Span],
        selection: Selection,
        *,
        force: bool = False,
        progress: Callable[[int], None] = lambda count: None,
    ) -> Plan:
        """Put the letters of ``selection`` within ``spans`` back; returns what went and what did not.

        ``progress`` is told after each commit how many more went. After an error (Fenced, Retriable) those
        stay redriven, and another run goes on with the rest.
        """
        plan = Plan()
        judge = _Judge(self._topics.events, self._partitions, self._reader.redriven_for_certain(), force)
        waiting: list[DeadLetter] = []
        size = 0
        for letter in self._reader.letters(spans, selection):
            why = judge(letter)
            plan.note(letter, why, selection)
            if why is not None:
                continue
            waiting.append(letter)
            size += len(letter.value or b"")
            if len(waiting) >= self._batch or size >= BATCH_BYTES:
                self._send(waiting)
                progress(len(waiting))
                waiting, size = [], 0
        if waiting:
            self._send(waiting)
            progress(len(waiting))
        return plan

    def close(self) -> None:
        """Drop what is not committed."""
        self._outbox.close()
        self._member.close()

    def _send(self, letters: list[DeadLetter]) -> None:
        outgoing = Outgoing()
        now = self._clock.now()
        for letter in letters:
            origin = letter.origin
            if origin is None:
                raise AssertionError("a letter without origin is refused before")
            entry = Redriven(str(letter.place), letter.time, str(origin.place), origin.reason, now)
            outgoing.others += [
                (
                    self._topics.events,
                    origin.place.partition,
                    letter.key,
                    letter.value,
                    event_headers(letter),
                ),
                (self._topics.redriven, 0, entry.place.encode(), msgspec.json.encode(entry), []),
            ]
        try:
            self._outbox.send(outgoing, [], self._member.consumer_group_metadata())
        except Fenced as error:
            raise Fatal(
                f"another redrive of {self._topics.dead_letters} has begun and locked this one out",
                remedy="let it finish; then run this again for what is left",
            ) from error


@dataclass(frozen=True, slots=True)
class _Judge:
    topic: str
    partitions: int
    done: RedrivenLetters
    force: bool

    def __call__(self, letter: DeadLetter) -> Refusal | None:
        return refusal(
            letter,
            topic=self.topic,
            partitions=self.partitions,
            redriven=self.done.when(letter) is not None,
            force=self.force,
        )
