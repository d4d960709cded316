"""Which broker a local run uses: a running one, a real one of our own, or the mock cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from domain.errors import ServiceMissing
from tidegate.embedded.kafka import EmbeddedKafka
from tidegate.embedded.kafka_jars import KAFKA_VERSION, cached_jars, find_java, find_maven
from tidegate.embedded.mock import MockKafka

__all__ = ["BROKERS", "Broker", "choose_broker"]

BROKERS = ("external", "kafka", "mock")
# A broker on the network answers within one; a wrong address must not hold up the start for long.
_EXTERNAL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker that answers.

    ``name`` is what it is ("apache-kafka 4.1.1 (embedded)", "librdkafka mock cluster", "external"),
    ``reason`` why it was chosen, ``exactly_once`` whether its transactions keep their promises
    (not the mock cluster's). ``close`` ends it if we started it.
    """

    bootstrap: str
    name: str
    reason: str
    exactly_once: bool
    close: Callable[[], None]

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def choose_broker(*, directory: Path, prefer: str | None = None) -> Broker:
    """The best broker there is: ``KAFKA_BOOTSTRAP_SERVERS``, else Apache Kafka, else the mock cluster.

    ``prefer`` ("external", "kafka" or "mock") takes that one or fails. ``directory`` holds the data
    of an embedded Kafka. Raises ServiceMissing when the preferred one, or a broker named in the
    environment, is not there: somebody who named one does not want another.
    """
    if prefer is not None and prefer not in BROKERS:
        raise ServiceMissing(f"there is no broker {prefer!r}.", remedy=f"choose one of {', '.join(BROKERS)}.")
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
    if prefer == "external" or (named and prefer is None):
        return _external(named)
    if prefer == "mock":
        return _mock("asked for")
    try:
        _check_kafka()
    except ServiceMissing as missing:
        if prefer == "kafka":
            raise
        return _mock(f"Apache Kafka can not run here: {missing}")
    # From here on a failure is a defect to be seen, not a reason to fall back.
    server = EmbeddedKafka(directory / "kafka").start()
    return Broker(
        bootstrap=server.bootstrap,
        name=f"apache-kafka {KAFKA_VERSION} (embedded)",
        reason="asked for" if prefer else "Java and Kafka's jars (or Maven to fetch them) are here",
        exactly_once=True,
        close=server.close,
    )


def _check_kafka() -> None:
    find_java()
    if cached_jars() is None:
        find_maven()


def _external(bootstrap: str) -> Broker:
    remedy = "start that broker, or unset KAFKA_BOOTSTRAP_SERVERS to use an embedded one."
    if not bootstrap:
        raise ServiceMissing(
            "KAFKA_BOOTSTRAP_SERVERS names no broker.", remedy="set it to host:port of a running broker."
        )
    try:
        AdminClient({"bootstrap.servers": bootstrap, "log_level": 0}).list_topics(timeout=_EXTERNAL_SECONDS)
    except KafkaException as error:
        raise ServiceMissing(
            f"no broker answers at KAFKA_BOOTSTRAP_SERVERS={bootstrap}: {error}.", remedy=remedy
        ) from error
    return Broker(
        bootstrap=bootstrap,
        name="external",
        reason="KAFKA_BOOTSTRAP_SERVERS names it",
        exactly_once=True,
        close=lambda: None,
    )


def _mock(reason: str) -> Broker:
    server = MockKafka().start()
    return Broker(
        bootstrap=server.bootstrap,
        name="librdkafka mock cluster",
        reason=reason,
        exactly_once=False,
        close=server.close,
    )
