"""Who holds which partitions, as the group's coordinator says; asked by a process of its own.

librdkafka 2.16 does not stand it when the coordinator goes away during such a question: it was seen to stop the whole
process ("rd_kafka_enq_once_del_source_return: Assertion failed") and to wait for ever as the client was destroyed. So
the question is put by a child that is forgotten when it does not answer.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream.kafka import KafkaConnection

__all__ = ["members_of"]

_CONTEXT = multiprocessing.get_context("forkserver")
_SECONDS = 10


def members_of(bootstrap: str, group: str) -> list[tuple[str, frozenset[int]]] | None:
    """(client id, partitions) of every member of ``group``; None when the broker can not tell at present."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_ask, args=(bootstrap, group, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        found: list[tuple[str, frozenset[int]]] | None = ours.recv() if ours.poll(3 * _SECONDS) else None
    except EOFError:
        found = None
    finally:
        child.kill()
        child.join()
        ours.close()
    return found


def _ask(bootstrap: str, group: str, answer: Connection) -> None:
    admin = AdminClient(KafkaConnection(bootstrap, {"log_level": 2}).client("chaos-members"))
    try:
        told = admin.describe_consumer_groups([group], request_timeout=_SECONDS)[group].result(2 * _SECONDS)
    except KafkaException:
        answer.send(None)
    else:
        answer.send(
            [
                (member.client_id, frozenset(place.partition for place in member.assignment.topic_partitions))
                for member in told.members
            ]
        )
    answer.close()
    os._exit(0)  # destroying the client is what may never end
