"""From the database to the workers: the rule set in force, as one record in the topic ``rules``."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from domain.rule_records import CURRENT_KEY, RuleSet
from stream.kafka import KafkaConnection
from stream.state_topic import ONLY, Published, Send, ahead, last_value, publishing
from stream.topics import Topics

__all__ = ["publish_rules"]

log = structlog.get_logger(__name__)


def publish_rules(
    kafka: KafkaConnection,
    pipeline: str,
    current: Callable[[], RuleSet],
    *,
    at: Callable[[str], None] = lambda point: None,
) -> Published:
    """Let the workers of ``pipeline`` know the rule set that ``current`` reads from the database.

    Publishing again what is there writes nothing; epoch 0 (there never were rules) neither. Raises ServiceMissing
    without the topic, Retriable when Kafka or the database are away, Fatal when the topic is ahead of the database.
    """
    topic, key = Topics(pipeline).rules, CURRENT_KEY.encode()
    state = current()
    # who only looks needs no transactions, and locks nobody out; what is not seen yet is found below
    if _decoded(topic, last_value(kafka, topic, key, seen=True)) == (state if state.epoch else None):
        return Published(state.epoch, False)

    def write(send: Send) -> Published:
        state = current()
        found = _decoded(topic, last_value(kafka, topic, key))
        at("read")
        if found is not None and found.epoch > state.epoch:
            raise ahead(topic, found.epoch, state.epoch)
        if found == state or not state.epoch:
            return Published(state.epoch, False)
        send([(topic, ONLY, key, msgspec.json.encode(state), [])])
        log.info("rules published", pipeline=pipeline, epoch=state.epoch, rules=len(state.rules))
        return Published(state.epoch, True)

    return publishing(kafka, topic, write, at)


def _decoded(topic: str, value: bytes | None) -> RuleSet | None:
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=RuleSet)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # somebody else wrote there; followers have passed it over, and the database says what is right
        log.error(
            "the newest record of rules is unreadable; it is written anew", topic=topic, error=str(error)
        )
        return None
