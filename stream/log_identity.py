"""Which log a topic is: its name with Kafka's own id of it, so that a topic made anew is not taken for the old one."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException, TopicCollection

from domain.errors import Retriable

__all__ = ["log_identity"]

_ASK_SECONDS = 10.0
_MOCK = "mockCluster"
"""How librdkafka's mock cluster calls itself; it has no ids of topics, but another name in each process."""


def log_identity(admin: Any, topic: str) -> str:
    """A name of the log under ``topic`` that no other log ever has. ``admin`` is an AdminClient.

    Raises Retriable while Kafka does not tell.
    """
    try:
        cluster = str(admin.list_topics(topic, timeout=_ASK_SECONDS).cluster_id)
        if cluster.startswith(_MOCK):
            return f"{topic}@{cluster}"
        asked = admin.describe_topics(TopicCollection([topic]), request_timeout=_ASK_SECONDS)
        found = asked[topic].result().topic_id
    except KafkaException as error:
        raise Retriable(
            f"Kafka did not say which topic {topic} is: {error.args[0]}",
            remedy="check the connection to Kafka, that the topic is there and that our user may describe it",
        ) from error
    high = found.get_most_significant_bits()
    low = found.get_least_significant_bits()
    # a broker without ids of topics says 0
    return f"{topic}@{found}" if high or low else f"{topic}@{cluster}"
