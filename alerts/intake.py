"""From the topic ``alerts`` into the queue: each committed alert once, whoever dies when.

Positions are kept in the database, in the transaction that queues what was read; Kafka's groups are not used. Any
number of dispatchers may read the same topic: of two that read the same records the database takes the first one's.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from alerts.metrics import DispatcherMetrics
from domain.clock import Clock, from_micros
from domain.errors import Fatal, Retriable
from domain.verdict import Alert
from lifecycle.webhook_queue import Overtaken, WebhookQueue
from lifecycle.webhooks import Incoming

__all__ = ["BadAlert", "Intake", "incoming"]

_LOG = structlog.get_logger(__name__)

_BATCH = 500
"""Alerts in one transaction of the database."""
_IDLE_SECONDS = 0.25
"""Longest wait for a first alert, and so for noticing that we shall stop."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds between attempts while Kafka or the database are away, doubling."""
_BEHIND_SECONDS = 1.0
"""Pause of a dispatcher that another one has overtaken, so that they do not read side by side."""
_ASK_SECONDS = 10.0
_PARTITIONS_SECONDS = 60.0
"""How often to look for new partitions."""
_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)


class BadAlert(Exception):
    """A record is no alert."""


_decode = msgspec.json.Decoder(Alert).decode


def incoming(raw: bytes, key_field: str) -> Incoming:
    """The message for an alert as it stands in the topic. Raises BadAlert.

    Its id is made of what names the alert for ever: the event's place and id, and when it was scored (which tells a
    topic made anew from the old one). ``lane`` is of the entity in ``key_field``, else of the event's partition, in
    which every event of that key lies.
    """
    try:
        alert, text = _decode(raw), raw.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadAlert(type(error).__name__) from error
    source = alert.source
    name = f"{source.topic}/{source.partition}/{source.offset}/{alert.scored_at}/{alert.id}"
    lane = alert.entities.get(key_field, f"partition {source.partition}")
    moment = from_micros(alert.scored_at).isoformat().replace("+00:00", "Z")
    return Incoming(
        id=f"alert_{_digest(name)}",
        body=f'{{"type":"alert","timestamp":"{moment}","data":{text}}}',
        lane=_digest(lane),
        alert=alert,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


class Intake:
    """Reads ``topic`` with a consumer configured by ``conf`` (read_committed, no commits) in a thread of the caller's.

    ``identity`` names the log under the topic, another name when it was made anew; it raises Retriable. ``snoozed``
    says which alerts nobody wants for the moment. ``at`` is called with the name of each step (tests die there).
    """

    def __init__(
        self,
        conf: dict[str, Any],
        topic: str,
        identity: Callable[[], str],
        queue: WebhookQueue,
        key_field: str,
        clock: Clock,
        metrics: DispatcherMetrics,
        *,
        snoozed: Callable[[Alert], bool],
        at: Callable[[str], None],
    ) -> None:
        self._consumer = Consumer(conf)
        self._topic = topic
        self._identity = identity
        self._queue = queue
        self._key_field = key_field
        self._clock = clock
        self._metrics = metrics
        self._snoozed = snoozed
        self._at = at
        self._log = ""
        self._next: dict[int, int | None] = {}
        self._look_again = 0.0

    def run(self, stop: threading.Event, queued: Callable[[], None]) -> None:
        """Until ``stop`` is set; ``queued`` is called after something was. Raises Fatal."""
        pause = _FIRST_PAUSE
        try:
            while not stop.is_set():
                try:
                    if self._step():
                        queued()
                    pause = _FIRST_PAUSE
                except Overtaken:
                    self._log = ""
                    stop.wait(_BEHIND_SECONDS)
                except (Retriable, KafkaException) as error:
                    # nothing was moved on: begin where the database says
                    self._log = ""
                    of = "kafka" if isinstance(error, KafkaException) else "database"
                    self._metrics.errors.labels(of).inc()
                    _LOG.warning("trying again", process="dispatcher", error=str(error), pause=pause)
                    stop.wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._consumer.close()

    def _step(self) -> bool:
        """Whether deliveries were queued."""
        if not self._log or self._clock.monotonic() >= self._look_again:
            self._begin()
        first = self._consumer.poll(_IDLE_SECONDS)
        if first is None:
            return False
        messages = self._good([first, *self._consumer.consume(_BATCH - 1, 0)])
        if not messages:
            return False
        read: dict[int, tuple[int | None, int]] = {}
        for message in messages:
            partition = int(message.partition() or 0)
            read[partition] = (self._next.get(partition), int(message.offset() or 0) + 1)
        found = self._alerts(messages)
        self._at("read")
        count = self._queue.take(self._log, read, found, self._clock.now())
        self._at("taken")
        self._next |= {partition: after for partition, (_, after) in read.items()}
        self._metrics.queued.inc(count)
        return count > 0

    def _begin(self) -> None:
        """Read on where the database says, in all partitions that there are."""
        found = self._consumer.list_topics(self._topic, _ASK_SECONDS).topics[self._topic]
        if found.error is not None or not found.partitions:
            raise Retriable(
                f"Kafka has no topic {self._topic}: {found.error}", remedy="`tidegate topics create` makes it"
            )
        self._look_again = self._clock.monotonic() + _PARTITIONS_SECONDS
        if self._log and found.partitions.keys() == self._next.keys():
            return
        log = self._identity()
        kept = self._queue.positions(log)
        self._next = {partition: kept.get(partition) for partition in found.partitions}
        places = [TopicPartition(self._topic, p, n or 0) for p, n in sorted(self._next.items())]
        self._consumer.assign(places)
        self._log = log

    def _good(self, messages: Sequence[Any]) -> list[Any]:
        good = []
        for message in messages:
            error = message.error()
            if error is None:
                good.append(message)
            elif error.fatal() or error.code() in _REFUSED:
                raise Fatal(
                    f"Kafka refuses the dispatcher: {error}",
                    remedy="check the dispatcher's Kafka user and its rights on the topic of alerts",
                )
            else:
                self._metrics.errors.labels("kafka").inc()
                _LOG.warning("kafka_error", process="dispatcher", error=str(error))
        return good

    def _alerts(self, messages: Sequence[Any]) -> list[Incoming]:
        found = []
        for message in messages:
            try:
                one = incoming(message.value() or b"", self._key_field)
            except BadAlert:
                self._metrics.skipped.inc()
                _LOG.error("not_an_alert", partition=message.partition(), offset=message.offset())
                continue
            self._metrics.alerts.inc()
            if self._snoozed(one.alert):
                self._metrics.snoozed.inc()
            else:
                found.append(one)
        return found
