"""The joiner: raw labels from ``labels``, the events they are about, changes of what holds into ``labels.joined``.

One process of a pipeline joins, others stand by: whoever holds partition 0 of ``labels`` in the group. It reads all of
``labels``, since one that knows all that was said needs no second look at what it writes, and labels are few. One
transaction holds the joined labels, what is known of their events (``labels.claims``), the dead letters and the
consumed offsets, so a label is joined once whatever is killed. After any error all that is in memory is thrown away
and read again from the log.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition

from domain.clock import Clock
from domain.errors import EventRejected, Fatal, Reject, Retriable
from domain.label_codec import LabelCodec
from domain.pipeline import Pipeline
from domain.raw_label import RawLabelCodec
from featurestore.verdict_finder import InTurn, VerdictFinder
from lifecycle.label_book import LabelBook
from lifecycle.label_joining import MAX_WAITING, Arrived, Joined, LabelJoining, Letter
from stream.dead_letters import dead_letter
from stream.joiner_metrics import JoinerMetrics
from stream.kafka import KafkaConnection
from stream.label_import import writer_id
from stream.label_logs import read_book
from stream.log_reading import ASK_SECONDS
from stream.outbox import Fenced, Outbox, Outgoing, Record
from stream.topics import Topics, partitions_of

__all__ = ["JoinerParts", "group_of", "run_joiner"]

log = structlog.get_logger(__name__)

BATCH = 500
"""Labels per transaction, and per question to Redis."""
SEARCHED = 2_000
"""Events per search in all stores: a bounded transaction, about 3 MB."""
IDLE_SECONDS = 0.2
"""How long a poll waits for the first label: bounds how late searches and the stop signal are noticed."""
SEARCH_SECONDS = 1.0
"""Between two searches: what came meanwhile is searched for together."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
"""Between fresh starts, doubling: each reads all labels again."""


def group_of(pipeline: str) -> str:
    """The consumer group of the joiners."""
    return f"{pipeline}.joiner"


@dataclass(frozen=True, kw_only=True)
class JoinerParts:
    """What a joiner is made of.

    ``near`` is asked about every label (milliseconds), ``far`` about what it did not find, a second or more apart.
    ``at`` is called with the name of each step of a transaction (fault tests stop the process there).
    """

    kafka: KafkaConnection
    pipeline: Pipeline
    codec: RawLabelCodec
    near: VerdictFinder
    far: VerdictFinder
    clock: Clock
    metrics: JoinerMetrics
    at: Callable[[str], None] = lambda point: None
    max_waiting: int = MAX_WAITING


def run_joiner(parts: JoinerParts, stop: threading.Event) -> None:
    """Join labels, or stand by, until ``stop`` is set; then leave within a few seconds.

    Begins afresh after Retriable errors, and when another writer of ``labels.joined`` took over. Raises other Fatal
    ones.
    """
    pause = FIRST_PAUSE_SECONDS
    while not stop.is_set():
        started = parts.clock.monotonic()
        session = _Session(parts)
        try:
            session.run(stop)
        except (Retriable, Fenced) as error:
            if parts.clock.monotonic() - started > 2 * LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            parts.metrics.restarts.inc()
            log.warning("starting afresh", process="joiner", error=str(error), pause=pause)
        finally:
            parts.metrics.active.set(0)
            session.close()
        if not stop.is_set():
            stop.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class _Session:
    """One membership in the group: standing by, and leading from when partition 0 came."""

    def __init__(self, parts: JoinerParts) -> None:
        self._parts = parts
        self._topics = Topics(parts.pipeline.name)
        self._group = group_of(parts.pipeline.name)
        self._client_id = f"tidegate-joiner-{parts.pipeline.name}"
        self._leads = False
        self._lead: _Lead | None = None
        self._member = Consumer(parts.kafka.group_member(self._client_id, self._group))
        self._member.subscribe(
            [self._topics.labels], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def run(self, stop: threading.Event) -> None:
        """Raises Retriable when everything has to start afresh."""
        while not stop.is_set():
            message = self._member.poll(IDLE_SECONDS)
            # its partitions are paused: it can only be an error
            error = None if message is None else message.error()
            if error is not None and error.fatal():
                raise Fatal(
                    f"Kafka refuses the joiner: {error}",
                    remedy="check the joiner's Kafka user and its rights on the group and the topics",
                )
            if not self._leads:
                continue
            self._lead = _Lead(self._parts, self._client_id, self._group, self._member)
            self._parts.metrics.active.set(1)
            log.info("joining labels", pipeline=self._parts.pipeline.name)
            while self._leads and not stop.is_set():
                self._lead.step()
                self._member.poll(0)
            if not self._leads:
                raise Retriable("another joiner has taken over", remedy="nothing is to be done")

    def close(self) -> None:
        """Leave the group; a transaction under way is aborted by whoever leads next."""
        if self._lead is not None:
            self._lead.close()
        self._member.close()

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._member.incremental_assign(partitions)
        # membership is all we want of it: the leader reads every partition by itself
        self._member.pause(partitions)
        self._leads = self._leads or any(place.partition == 0 for place in partitions)

    def _revoked(self, _: Any, partitions: list[TopicPartition]) -> None:
        if any(place.partition == 0 for place in partitions):
            self._leads = False


class _Lead:
    """Reads and joins. Making one locks out every other writer of ``labels.joined``, then reads what is there."""

    def __init__(self, parts: JoinerParts, client_id: str, group: str, member: Any) -> None:
        self._parts = parts
        self._member = member
        self._topics = Topics(parts.pipeline.name)
        self._key = parts.pipeline.event.key
        self._encode = LabelCodec(parts.pipeline).encode
        name = writer_id(parts.pipeline.name)
        self._outbox = Outbox(
            parts.kafka.transactional_producer(client_id, name), self._topics.verdicts, parts.at
        )
        self._reader = Consumer(parts.kafka.reader(f"{client_id}-labels", group))
        self._book = LabelBook()
        read_book(parts.kafka, parts.pipeline, self._book)
        self._joining = LabelJoining(
            parts.pipeline, self._book, max_waiting=parts.max_waiting, now=parts.clock.now()
        )
        self._everywhere = InTurn((parts.near, parts.far))
        self._next_search = 0.0
        self._begin()

    def _begin(self) -> None:
        topic = self._topics.labels
        places = [TopicPartition(topic, p) for p in range(partitions_of(self._reader, topic))]
        try:
            committed = self._reader.committed(places, timeout=ASK_SECONDS)
            for place in committed:
                if place.error is not None:
                    # not to be taken for "none committed": labels would be read again
                    raise KafkaException(place.error)
        except KafkaException as error:
            raise Retriable(
                f"Kafka did not say how far labels were joined: {error.args[0]}",
                remedy="check the connection to Kafka; the joiner tries again",
            ) from error
        # a negative offset means none was committed: from the first that is kept
        self._reader.assign([TopicPartition(p.topic, p.partition, max(p.offset, 0)) for p in committed])

    def step(self) -> None:
        """Join what has come, and search for what waits when it is time. Raises Retriable, Fatal."""
        clock = self._parts.clock
        if self._joining.full or clock.monotonic() >= self._next_search:
            self._search()
            self._next_search = clock.monotonic() + SEARCH_SECONDS
            self._report()
        if self._joining.full:
            self._send(self._joining.make_room(), [], [])
        if self._joining.full:
            # some were not searched for yet, and the stores do not answer: labels wait in the topic
            self._member.poll(IDLE_SECONDS)
            return
        first = self._reader.poll(IDLE_SECONDS)
        if first is not None:
            self._take([first, *self._reader.consume(BATCH - 1, 0)])

    def _take(self, messages: Sequence[Any]) -> None:
        arrived: list[Arrived] = []
        refused: list[tuple[Any, EventRejected]] = []
        ends: dict[int, int] = {}
        for message in messages:
            if message.error() is not None:
                raise Retriable(
                    f"reading {self._topics.labels} failed: {message.error()}",
                    remedy="check the connection to Kafka; the joiner tries again",
                )
            ends[message.partition()] = message.offset() + 1
            try:
                arrived.append(self._decoded(message))
            except EventRejected as why:
                refused.append((message, why))
        out = self._joining.take(
            arrived, self._nearby({one.label.id for one in arrived}), self._parts.clock.now()
        )
        self._parts.metrics.received.inc(len(messages))
        self._send(out, refused, [TopicPartition(self._topics.labels, p, end) for p, end in ends.items()])

    def _decoded(self, message: Any) -> Arrived:
        received_at = message.timestamp()[1] * 1000
        value = message.value() or b""
        label = self._parts.codec.decode(value, received_at=received_at)
        if message.key() != label.key:
            raise EventRejected(
                Reject.WRONG_KEY,
                "id",
                "the record's key is not the label's id, so labels of this event may lie in several partitions.",
                remedy="Write labels with the event's id as key, in UTF-8.",
            )
        return Arrived(label, message.partition(), message.offset(), received_at, value)

    def _nearby(self, ids: set[str]) -> dict[str, bytes]:
        try:
            return self._parts.near.find(ids)
        except Retriable as error:
            # then they wait, and are found by a search
            log.warning("verdicts not found now", process="joiner", error=str(error))
            return {}

    def _search(self) -> None:
        ids = self._joining.due(self._parts.clock.now(), SEARCHED)
        if not ids:
            return
        try:
            found = self._everywhere.find(ids)
        except Retriable as error:
            self._parts.metrics.searches.labels("failed").inc()
            log.warning("no answer where verdicts are; labels wait on", process="joiner", error=str(error))
            return
        self._parts.metrics.searches.labels("answered").inc()
        self._send(self._joining.searched(ids, found, self._parts.clock.now()), [], [])

    def _send(
        self, out: Joined, refused: Sequence[tuple[Any, EventRejected]], offsets: list[TopicPartition]
    ) -> None:
        if not (out or refused or offsets):
            return
        records = [*self._joined(out), *self._claims(out)]
        records += [self._letter(message, why) for message, why in refused]
        records += [self._letter(_Kept(self._topics.labels, one), one.why) for one in out.letters]
        self._outbox.send(Outgoing(others=records), offsets, self._member.consumer_group_metadata())
        metrics = self._parts.metrics
        for _, label in out.records:
            metrics.joined.labels("unknown" if label.label is None else str(label.label)).inc()
        metrics.unchanged.inc(out.unchanged)
        for why in [why for _, why in refused] + [one.why for one in out.letters]:
            metrics.refused.labels(why.reason.value).inc()

    def _joined(self, out: Joined) -> Iterable[Record]:
        topic = self._topics.labels_joined
        for partition, label in out.records:
            yield topic, partition, label.entities[self._key].encode(), self._encode(label), []

    def _claims(self, out: Joined) -> Iterable[Record]:
        for id_, value in self._book.encoded(out.states):
            yield self._topics.label_claims, -1, id_.encode(), value, []

    def _letter(self, message: Any, why: EventRejected) -> Record:
        key, value, headers = dead_letter(message, why)
        return self._topics.raw_label_dead_letters, message.partition(), key, value, headers

    def _report(self) -> None:
        metrics, oldest = self._parts.metrics, self._joining.oldest
        metrics.waiting.set(self._joining.waiting)
        metrics.oldest.set(0.0 if oldest is None else (self._parts.clock.now() - oldest) / 1e6)

    def close(self) -> None:
        """Drop what is not committed."""
        self._outbox.close()
        self._reader.close()
        self._book.close()


class _Kept:
    """A label that waited, as the record it came in: what a dead letter is made of."""

    def __init__(self, topic: str, letter: Letter) -> None:
        self._topic = topic
        self._label = letter.label

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._label.partition

    def offset(self) -> int:
        return self._label.offset

    def timestamp(self) -> tuple[int, int]:
        return 0, self._label.received_at // 1000

    def key(self) -> bytes:
        return self._label.key

    def value(self) -> bytes:
        return self._label.value

    def headers(self) -> None:
        """Its own headers were not kept."""
