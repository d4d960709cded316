"""Publishing models on the embedded mock broker, as in a first demo without Java."""

from __future__ import annotations

from domain.clock import ManualClock
from lifecycle.registry_memory import MemoryModelRegistry
from stream.kafka import KafkaConnection
from stream.models_topic import Published, publish, read_in_force
from stream.topics import create_topics
from tests.contract.check_model_registry import add
from tests.models import NOW
from tidegate.embedded.mock import MockKafka


def test_the_mock_broker_takes_models_too() -> None:
    with MockKafka() as broker:
        create_topics({"bootstrap.servers": broker.bootstrap}, "payments", 1, embedded=True)
        connection = KafkaConnection(broker.bootstrap, {"log_level": 0})
        registry = MemoryModelRegistry("payments", ManualClock(NOW))
        version = add(registry, "a", shadow=True)
        assert publish(connection, "payments", registry) == Published(1, True)
        assert publish(connection, "payments", registry) == Published(1, False)
        registry.promote(version, epoch=1, reason="x", by="x")
        assert publish(connection, "payments", registry) == Published(2, True)
        state = read_in_force(connection, "payments")
        assert state is not None
        assert state.champion is not None
        assert state.champion.version == version
