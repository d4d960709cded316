"""Raw labels of API requests into the topic ``labels``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from domain.errors import Retriable
from stream.topics import PARTITIONER, Topics

__all__ = ["KafkaLabelSink", "LabelsUnwrittenError"]

_POLL_SECONDS = 0.2
"""Longest the thread needs to notice that it shall stop."""
_WAITING = 20_000
"""Labels that Kafka has not confirmed: twenty of the largest requests."""


class LabelsUnwrittenError(Retriable):
    """Labels could not be handed to Kafka, or nobody knows whether all were."""


class KafkaLabelSink:
    """:class:`api.ports.LabelSink` on Kafka. ``start``, ``write`` and ``close`` belong to one event loop."""

    def __init__(self, config: dict[str, Any], pipeline: str) -> None:
        self._topic = Topics(pipeline).labels
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="labels-producer", daemon=True)

    async def start(self) -> None:
        """Begin; returns at once, also while Kafka is away (``write`` then waits)."""
        self._loop = asyncio.get_running_loop()
        self._producer = Producer(
            {
                **self._config,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 5,
                # labels of one event must meet in one partition: there they keep their order
                "partitioner": PARTITIONER,
                # beyond the longest wait of a request nobody would know of it
                "message.timeout.ms": 30_000,
                "queue.buffering.max.messages": _WAITING,
            }
        )
        self._thread.start()

    async def close(self) -> None:
        """Send what is queued (at most 2 s) and end."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    async def write(self, records: Sequence[tuple[bytes, bytes]], deadline_s: float) -> None:
        """Returns when all (key, value) ``records`` are in the topic.

        Raises LabelsUnwrittenError when Kafka did not confirm all of them within ``deadline_s`` seconds; some may be
        there, and writing all again is harmless.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        left = len(records)

        def reported(error: KafkaError | None, _message: Any) -> None:
            # in the producer's thread, which alone counts
            nonlocal left
            left -= 1
            if error is not None or left == 0:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    self._loop.call_soon_threadsafe(settle, error)

        def settle(error: KafkaError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(_unwritten(f"Kafka did not take a label: {error.name()}"))

        try:
            for key, value in records:
                self._producer.produce(self._topic, value=value, key=key, on_delivery=reported)
            async with asyncio.timeout(deadline_s):
                await done
        except (BufferError, KafkaException) as error:
            raise _unwritten(f"labels could not be queued: {error}") from error
        except TimeoutError:
            raise _unwritten("Kafka did not confirm all labels in time") from None

    def _serve(self) -> None:
        while not self._stop.is_set():
            self._producer.poll(_POLL_SECONDS)
        self._producer.flush(2.0)
        # or closing would wait for what Kafka does not take
        self._producer.purge()
        self._producer.close()


def _unwritten(what: str) -> LabelsUnwrittenError:
    return LabelsUnwrittenError(what, remedy="send them all again when Kafka is back; none counts twice")
