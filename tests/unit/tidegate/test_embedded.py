"""Embedded servers without real ones: the child's life cycle, the mock cluster's limits, the choice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from domain.errors import ServiceMissing
from tidegate.embedded import choose, kafka_jars
from tidegate.embedded.choose import choose_broker
from tidegate.embedded.mock import MockKafka
from tidegate.embedded.process import ChildServer, free_port
from tidegate.embedded.redis import find_redis_server

_LISTEN = (
    "import os, socket, sys\n"
    "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
    "open(sys.argv[2], 'w').write(os.environ['GREETING'])\n"
    "s.accept()\n"
)


class Listener(ChildServer):
    """The smallest server: binds its port and says so in a file."""

    name = "listener"

    def __init__(self, directory: Path, ports: list[int], program: str = _LISTEN) -> None:
        super().__init__(directory)
        self._ports = ports
        self._program = program
        self._sign = self.directory / "up"
        self.port = 0

    def _choose_ports(self) -> None:
        self.port = self._ports.pop(0)

    def _command(self) -> list[str]:
        self._sign.unlink(missing_ok=True)
        return [sys.executable, "-S", "-c", self._program, str(self.port), str(self._sign)]

    def _environment(self) -> dict[str, str]:
        return {"GREETING": "up"}

    def _answers(self) -> bool:
        return self._sign.exists() and self._sign.read_text() == "up"


def test_a_port_taken_in_the_meantime_leads_to_another(tmp_path: Path) -> None:
    first, second, third = free_port(), free_port(), free_port()
    with Listener(tmp_path / "a", [first]), Listener(tmp_path / "b", [first, second, third]) as late:
        assert late.port == second


def test_a_restart_keeps_the_port_and_a_closed_server_is_gone(tmp_path: Path) -> None:
    server = Listener(tmp_path, [free_port()]).start()
    port, pid = server.port, server.pid
    server.kill()
    assert not server.running
    server.restart()
    assert (server.port, server.running, server.pid != pid) == (port, True, True)
    server.pause()
    server.close()
    server.close()
    with pytest.raises(ValueError, match="not running"):
        _ = server.pid


def test_a_server_that_ends_at_once_shows_its_log(tmp_path: Path) -> None:
    server = Listener(tmp_path, [free_port()], "import sys; sys.exit('no disk')")
    with pytest.raises(ServiceMissing, match=r"(?s)exit code 1.*no disk.*Remedy"):
        server.start()
    assert not server.running


def test_without_redis_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServiceMissing, match=r"apt-get install redis-server.*brew.*extra embedded"):
        find_redis_server()


def test_the_systems_redis_comes_before_the_one_in_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("environment/bin", "system"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "redis-server").touch(mode=0o755)
    monkeypatch.setattr("sys.prefix", str(tmp_path / "environment"))
    monkeypatch.setenv("PATH", f"{tmp_path}/environment/bin:{tmp_path}/system")
    assert find_redis_server() == tmp_path / "system" / "redis-server"


def test_without_java_the_mock_cluster_is_chosen_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with choose_broker(directory=tmp_path) as broker:
        assert (broker.name, broker.exactly_once) == ("librdkafka mock cluster", False)
        assert "Java" in broker.reason
    with pytest.raises(ServiceMissing, match="Java 17"):
        choose_broker(directory=tmp_path, prefer="kafka")


def test_an_old_java_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ServiceMissing, match="is version 11"):
        kafka_jars.find_java()


def test_without_maven_only_cached_jars_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServiceMissing, match="apt-get install maven"):
        kafka_jars.ensure_jars()
    jars = tmp_path / f"kafka-{kafka_jars.KAFKA_VERSION}"
    jars.mkdir()
    assert kafka_jars.ensure_jars() == jars


def test_a_named_broker_that_does_not_answer_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "_EXTERNAL_SECONDS", 0.2)
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    with pytest.raises(ServiceMissing, match="unset KAFKA_BOOTSTRAP_SERVERS"):
        choose_broker(directory=tmp_path)


_OTHER_PROCESS = (
    "import sys\nfrom confluent_kafka import Producer\n"
    "p = Producer({'bootstrap.servers': sys.argv[1]})\n"
    "p.produce('events', b'hello', partition=3)\n"
    "sys.exit(p.flush(120))\n"
)


def test_the_mock_cluster_serves_other_processes_and_loses_transactional_offsets() -> None:
    with MockKafka() as broker:
        subprocess.run([sys.executable, "-c", _OTHER_PROCESS, broker.bootstrap], check=True, timeout=120)
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "g", "log_level": 0})
        assert len(consumer.list_topics("events", timeout=120).topics["events"].partitions) == 4
        place = TopicPartition("events", 3, 0)
        consumer.assign([place])
        message = consumer.poll(120)
        assert message is not None
        assert message.value() == b"hello"

        producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "t", "log_level": 0})
        producer.init_transactions(120)
        producer.begin_transaction()
        after = TopicPartition("events", 3, 1)
        producer.send_offsets_to_transaction([after], consumer.consumer_group_metadata(), 120)
        producer.commit_transaction(120)
        assert consumer.committed([place], timeout=120)[0].offset < 0
        consumer.commit(offsets=[after], asynchronous=False)
        assert consumer.committed([place], timeout=120)[0].offset == 1
        consumer.close()
