"""A real, single-node Apache Kafka (KRaft) as a child process, without Docker."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from domain.errors import ServiceMissing
from tidegate.embedded.kafka_jars import KAFKA_VERSION, ensure_jars, find_java
from tidegate.embedded.process import ChildServer, free_port

__all__ = ["EmbeddedKafka"]

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
num.partitions=1
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.max.timeout.ms=900000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
message.max.bytes=8388608
replica.fetch.max.bytes=8388608
log.retention.ms=-1
log.segment.bytes=268435456
num.network.threads=2
num.io.threads=4
background.threads=2
num.recovery.threads.per.data.dir=1
controlled.shutdown.enable=false
broker.heartbeat.interval.ms=250
broker.session.timeout.ms=2000
"""


class EmbeddedKafka(ChildServer):
    """Apache Kafka on free ports of 127.0.0.1, its data in ``directory``; up in about 4 s.

    Topics are never created by themselves, keep their records for ever and take records up to
    8 MiB; all replication factors are 1. A ``directory`` with the data of an earlier run is continued, on
    the same ports (the controller's is part of the data). A restart waits until the controller gives up the former
    incarnation, hence the short session (2 s instead of 9). ``heap`` is the JVM's size (``-Xmx``).
    Its first start on a machine fetches Kafka's jars (see :mod:`tidegate.embedded.kafka_jars`).
    """

    name = "kafka"
    version = KAFKA_VERSION
    _bind_failures = ("Address already in use", "BindException")

    def __init__(self, directory: Path, *, heap: str = "512m", start_seconds: float = 90.0) -> None:
        super().__init__(directory)
        self._start_seconds = start_seconds
        self._java = find_java()
        self._jars = ensure_jars()
        self._heap = heap
        self._properties = self.directory / "server.properties"
        self._cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        self._admin: AdminClient | None = None
        self.port = self._controller_port = 0
        self._kept = self.directory / "kept.json"
        self._ports_tried = 0

    @property
    def bootstrap(self) -> str:
        """The ``bootstrap.servers`` of clients."""
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """End it in order; the data stays."""
        self._admin = None
        super().close()

    def start(self) -> Self:
        """Start, on the data of an earlier run if there is any; raises ServiceMissing if it does not come up."""
        super().start()
        known = {"cluster": self._cluster, "port": self.port, "controller": self._controller_port}
        self._kept.write_text(json.dumps(known))
        return self

    def _choose_ports(self) -> None:
        self._ports_tried += 1
        if self._kept.exists():
            known = json.loads(self._kept.read_text())
            self._cluster, self.port = known["cluster"], known["port"]
            self._controller_port = known["controller"]
            if self._ports_tried > 1:
                raise ServiceMissing(
                    f"the Kafka data in {self.directory} belongs to ports {self.port} and "
                    f"{self._controller_port} of 127.0.0.1, and one of them is taken",
                    remedy="end the program that has it (an earlier run?), or choose another directory",
                )
            return
        self.port = self._controller_port = free_port()
        while self._controller_port == self.port:
            # not bound yet, so it may come again
            self._controller_port = free_port()
        data = self.directory / "data"
        # The controller's address is part of what is formatted. Only what never answered is thrown away here.
        shutil.rmtree(data, ignore_errors=True)
        self._properties.write_text(
            _PROPERTIES.format(port=self.port, controller=self._controller_port, data=data)
        )
        format_ = ["format", "--cluster-id", self._cluster, "--config", str(self._properties)]
        run = subprocess.run(  # noqa: S603
            [*self._jvm("-XX:TieredStopAtLevel=1"), "kafka.tools.StorageTool", *format_],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise ServiceMissing(
                f"Kafka's storage tool failed: {run.stdout}{run.stderr}",
                remedy=f"check that {self.directory} is writable and that `{self._java} -version` works.",
            )

    def _jvm(self, *flags: str) -> list[str]:
        return [
            str(self._java),
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",
            "-Xshare:auto",
            *flags,
            "-Djava.awt.headless=true",
            "-Djava.net.preferIPv4Stack=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            f"{self._jars}/*",
        ]

    def _command(self) -> list[str]:
        self._admin = None
        return [*self._jvm(), "kafka.Kafka", str(self._properties)]

    def _answers(self) -> bool:
        if self._admin is None:
            # librdkafka writes refused connections to stderr unless told not to.
            quiet = {"log_level": 0, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, **quiet})
        try:
            found = self._admin.list_topics(timeout=0.2)
        except KafkaException:
            return False
        # The cluster's id proves that it is ours, in case somebody took the port first.
        return bool(found.brokers) and found.cluster_id == self._cluster
