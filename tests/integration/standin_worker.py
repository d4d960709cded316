"""A worker of a few lines: events in, verdicts and replies out, in transactions."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer

from domain.errors import EventRejected, Reject
from domain.verdict import DecisionName, Source, Verdict
from stream.dead_letters import reply_body
from stream.topics import HEADER_REPLY_PARTITION, HEADER_REQUEST_ID, Topics
from tests.contract.check_hot_verdicts import verdict

__all__ = ["StandInWorker", "produce_verdicts"]


class StandInWorker:
    """Answers each event; first in a transaction that it aborts, with a verdict nobody may ever see."""

    def __init__(self, bootstrap: str, pipeline: str, now: int) -> None:
        self._topics = Topics(pipeline)
        self._now = now
        self.events: list[Any] = []
        self._stop = threading.Event()
        conf = {"bootstrap.servers": bootstrap}
        self._consumer = Consumer({**conf, "group.id": f"{pipeline}.worker", "auto.offset.reset": "earliest"})
        self._producer = Producer({**conf, "transactional.id": pipeline, "retry.backoff.ms": 2})
        self._producer.init_transactions(120)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> StandInWorker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()
        self._producer.close()

    def _run(self) -> None:
        self._consumer.subscribe([self._topics.events])
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error():
                continue
            self.events.append(message)
            event = msgspec.json.decode(message.value() or b"")
            if event["merchant_id"] == "silence":
                continue
            self._send(message, event, DecisionName.BLOCK, abort=True)
            self._send(message, event, DecisionName.REVIEW, abort=False)

    def _send(self, message: Any, event: Any, decision: DecisionName, *, abort: bool) -> None:
        headers = dict(message.headers() or [])
        place = Source(message.topic(), message.partition(), message.offset())
        entities = {"merchant_id": event["merchant_id"]}
        made = verdict(
            0, id=event["transaction_id"], decision=decision, scored_at=self._now, source=place,
            entities=entities,
        )  # fmt: skip
        value = msgspec.json.encode(made)
        extra: list[tuple[str, str | bytes | None]] = []
        self._producer.begin_transaction()
        if event["merchant_id"] == "refused":
            value, extra = reply_body(EventRejected(Reject.WRONG_KEY, "account_id", "no", remedy="do"))
        else:
            self._producer.produce(self._topics.verdicts, value, partition=place.partition)
        if HEADER_REPLY_PARTITION in headers:
            reply = [(HEADER_REQUEST_ID, headers[HEADER_REQUEST_ID]), *extra]
            self._producer.produce(
                self._topics.replies, value, partition=int(headers[HEADER_REPLY_PARTITION]), headers=reply
            )
        self._producer.flush(120)
        if abort:
            self._producer.abort_transaction(120)
        else:
            self._producer.commit_transaction(120)


def produce_verdicts(bootstrap: str, pipeline: str, verdicts: list[Verdict], *, abort: bool = False) -> None:
    """Write verdicts in one transaction."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "transactional.id": f"{pipeline}-v", "retry.backoff.ms": 2}
    )
    producer.init_transactions(120)
    producer.begin_transaction()
    for one in verdicts:
        producer.produce(Topics(pipeline).verdicts, msgspec.json.encode(one), partition=one.source.partition)
    producer.flush(120)
    if abort:
        producer.abort_transaction(120)
    else:
        producer.commit_transaction(120)
    producer.close()
