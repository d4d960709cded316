"""From a request to its committed verdict: write the event, wait for the reply with the request's id.

One producer, one consumer on this replica's partition of ``replies``, one thread for each. Waiting requests
live in a dict that only the event loop touches; threads hand results over with ``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from domain.errors import EventRejected, Reject, Retriable, TidegateError
from stream.dead_letters import Rejection
from stream.topics import (
    HEADER_REJECTED,
    HEADER_REPLY_PARTITION,
    HEADER_REQUEST_ID,
    HEADER_TRACEPARENT,
    MAX_MESSAGE_BYTES,
    PARTITIONER,
    Topics,
    partition_of,
    partitions_of,
)

__all__ = ["GatewayUnavailableError", "KafkaScoreGateway"]

_LOG = structlog.get_logger(__name__)
_RETRY_SECONDS = 1.0
"""Between attempts to find our partition of the replies while Kafka is away."""
_ASK_SECONDS = 2.0
"""For Kafka to answer a question; also the longest that stopping can take while Kafka is away."""
_POLL_SECONDS = 0.2
"""Longest a thread of ours needs to notice that it shall stop."""
_BATCH = 500


class GatewayUnavailableError(Retriable):
    """The event could not be handed to Kafka, or nobody knows whether it was."""


@dataclass(slots=True)
class _Waiting:
    """One request. ``delivered`` is set by the producer's thread, and read after that on the loop."""

    answer: asyncio.Future[bytes]
    delivered: bool = field(default=False)


class KafkaScoreGateway:
    """:class:`api.ports.ScoreGateway` on Kafka.

    ``config`` says where Kafka is (bootstrap.servers, security). ``instance`` names this replica: it picks
    the partition of ``replies``; two replicas in one partition are right, only each reads the other's
    answers too. ``start`` and ``submit`` belong to one event loop.
    """

    def __init__(
        self, config: dict[str, Any], pipeline: str, instance: str, *, max_waiting: int = 10_000
    ) -> None:
        self._topics = Topics(pipeline)
        self._instance = instance
        self._max_waiting = max_waiting
        self._config = config
        self._waiting: dict[str, _Waiting] = {}
        self._partition = -1
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    async def start(self) -> None:
        """Begin to look for replies; returns at once, also while Kafka is away (``submit`` then waits)."""
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._producer = Producer(
            {
                **self._config,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 1,
                "partitioner": PARTITIONER,
                # the pipeline's own limit is checked before; this one must not be the smaller
                "message.max.bytes": MAX_MESSAGE_BYTES + 65_536,
                # beyond the longest deadline nobody waits: an event that late would surprise its sender
                "message.timeout.ms": 30_000,
                "queue.buffering.max.messages": 2 * self._max_waiting,
            }
        )
        self._threads = [
            threading.Thread(target=self._serve_producer, name="gateway-producer", daemon=True),
            threading.Thread(target=self._serve_replies, name="gateway-replies", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Send what is queued (at most 2 s), stop both threads; waiting requests are refused."""
        self._stop.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(
                    GatewayUnavailableError(
                        "the server is stopping", remedy="send the event again with the same id"
                    )
                )

    async def submit(
        self, raw: bytes, key: bytes, deadline_s: float, traceparent: str | None = None
    ) -> bytes | None:
        """JSON of the committed verdict, or None when the event is safely in Kafka but the verdict is not
        here within ``deadline_s`` seconds.

        Raises EventRejected when the worker made it a dead letter, and GatewayUnavailableError when the
        event could not be written in time (it may still arrive: repeating it with the same id is safe).
        """
        if len(self._waiting) >= self._max_waiting:
            raise GatewayUnavailableError(
                f"{self._max_waiting} requests wait already", remedy="slow down, or add API replicas"
            )
        request_id = uuid4().hex
        waiting = _Waiting(self._loop.create_future())
        self._waiting[request_id] = waiting
        try:
            async with asyncio.timeout(deadline_s):
                await self._ready.wait()
                self._produce(request_id, raw, key, traceparent, waiting)
                return await waiting.answer
        except TimeoutError:
            if waiting.delivered:
                return None
            raise GatewayUnavailableError(
                "Kafka did not confirm the event in time",
                remedy="send it again with the same id: should it be there already, it is recognised",
            ) from None
        finally:
            del self._waiting[request_id]

    def _produce(
        self, request_id: str, raw: bytes, key: bytes, traceparent: str | None, waiting: _Waiting
    ) -> None:
        headers: list[tuple[str, str | bytes | None]] = [
            (HEADER_REQUEST_ID, request_id.encode()),
            (HEADER_REPLY_PARTITION, str(self._partition).encode()),
        ]
        if traceparent is not None:
            headers.append((HEADER_TRACEPARENT, traceparent.encode("latin-1", "replace")))

        def reported(error: KafkaError | None, _message: Any) -> None:
            if error is None:
                waiting.delivered = True
            else:
                failure = GatewayUnavailableError(
                    f"Kafka did not take the event: {error.name()}",
                    remedy="send it again with the same id when Kafka is back",
                )
                self._on_loop([(request_id, failure)])

        try:
            self._producer.produce(
                self._topics.events, value=raw, key=key, headers=headers, on_delivery=reported
            )
        except (BufferError, KafkaException) as error:
            raise GatewayUnavailableError(
                f"the event could not be queued: {error}", remedy="send it again with the same id, later"
            ) from error

    def _serve_producer(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_POLL_SECONDS)
        self._producer.flush(2.0)
        # or closing would wait for what Kafka does not take
        self._producer.purge()
        self._producer.close()

    def _serve_replies(self) -> None:
        consumer = Consumer(
            {
                **self._config,
                "group.id": f"{self._topics.pipeline}.api",  # required by the client; we never join it
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "latest",
                # the default of half a second would be waited after every rejected fetch
                "fetch.error.backoff.ms": 50,
            }
        )
        try:
            while not self._stop.is_set() and not self._assign(consumer):
                self._stop.wait(_RETRY_SECONDS)
            while not self._stop.is_set():
                first = consumer.poll(_POLL_SECONDS)
                if first is not None:
                    self._hand_over([first, *consumer.consume(_BATCH, 0)])
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer) -> bool:
        """Take our partition at its present end, so that no reply to a later request is missed."""
        try:
            count = partitions_of(consumer, self._topics.replies, timeout=_ASK_SECONDS)
            partition = partition_of(self._instance.encode(), count)
            where = TopicPartition(self._topics.replies, partition)
            found: Any = consumer.get_watermark_offsets(
                where, timeout=_ASK_SECONDS
            )  # None when it takes too long
            if found is None:
                return False
            consumer.assign([TopicPartition(self._topics.replies, partition, found[1])])
        except (TidegateError, KafkaException) as error:
            _LOG.warning("replies_not_reachable", error=str(error), retry_seconds=_RETRY_SECONDS)
            return False
        self._partition = partition
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ready.set)
        return True

    def _hand_over(self, messages: list[Message[Any, Any]]) -> None:
        results: list[tuple[str, bytes | TidegateError]] = []
        for message in messages:
            error = message.error()
            if error is not None:
                _LOG.warning("kafka_error", process="api", error=str(error))
                continue
            headers: dict[str, Any] = dict(message.headers() or [])
            request_id = headers.get(HEADER_REQUEST_ID)
            if isinstance(request_id, bytes):
                value = message.value() or b""
                answer = _rejection(value) if HEADER_REJECTED in headers else value
                results.append((request_id.decode("latin-1"), answer))
        self._on_loop(results)

    def _on_loop(self, results: list[tuple[str, bytes | TidegateError]]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, results)

    def _deliver(self, results: list[tuple[str, bytes | TidegateError]]) -> None:
        for request_id, result in results:
            waiting = self._waiting.get(request_id)
            if waiting is None or waiting.answer.done():
                continue  # another replica's, or too late
            if isinstance(result, bytes):
                waiting.answer.set_result(result)
            else:
                waiting.answer.set_exception(result)


def _rejection(value: bytes) -> TidegateError:
    try:
        found = msgspec.json.decode(value, type=Rejection)
        reason = Reject(found.reason)
    except (msgspec.DecodeError, ValueError):
        return GatewayUnavailableError(
            "the worker refused the event and its reason can not be read",
            remedy="run API and workers of the same version",
        )
    remedy = found.remedy or "look the reason code up in the documentation"
    return EventRejected(reason, found.field, found.detail, remedy=remedy)
