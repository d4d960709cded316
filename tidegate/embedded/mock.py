"""librdkafka's mock cluster as a broker without Java: enough for a first look, not for promises."""

from __future__ import annotations

from confluent_kafka import KafkaException, Producer

from domain.errors import ServiceMissing

__all__ = ["MockKafka"]

_START_SECONDS = 10.0


class MockKafka:
    """A broker on 127.0.0.1 inside this process; other processes connect to :attr:`bootstrap` as usual.

    Measured with librdkafka 2.16 (tests/unit/tidegate/test_embedded.py keeps watch):

    - Every topic springs into being with 4 partitions when first used; nothing sets their number
      (the setting ``test.mock.default.partitions`` does not exist) and CreateTopics, DescribeConfigs
      and DeleteRecords are not answered: an AdminClient call waits until its time-out.
    - A partition keeps about 5 MiB or 100,000 records; older ones silently disappear. Records are
      in memory only and end with :meth:`close`.
    - Producers, transactions, consumer groups and plain offset commits work, from any process.
    - Aborted records are visible to ``read_committed`` readers.
    - Offsets sent by ``send_offsets_to_transaction`` are accepted and **not kept**: a group that
      starts again reads from the beginning unless offsets are also committed plainly.

    So it proves nothing about exactly-once; its user is told so.
    """

    def __init__(self) -> None:
        self._owner: Producer | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """The ``bootstrap.servers`` of clients; raises ValueError before :meth:`start`."""
        if not self._bootstrap:
            raise ValueError("the mock cluster is not running")
        return self._bootstrap

    def start(self) -> MockKafka:
        """Start it; raises ServiceMissing if librdkafka does not bring it up."""
        # The cluster lives as long as this client, in librdkafka's own threads.
        owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})
        try:
            brokers = list(owner.list_topics(timeout=_START_SECONDS).brokers.values())
        except KafkaException as error:
            raise ServiceMissing(
                f"librdkafka's mock cluster did not start: {error}.",
                remedy="allow connections to 127.0.0.1, or name a broker in KAFKA_BOOTSTRAP_SERVERS.",
            ) from error
        self._owner = owner
        self._bootstrap = f"{brokers[0].host}:{brokers[0].port}"
        return self

    def close(self) -> None:
        """End it; what it held is gone."""
        self._owner, self._bootstrap = None, ""

    def __enter__(self) -> MockKafka:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()
