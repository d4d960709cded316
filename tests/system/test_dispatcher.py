"""A dispatcher that is killed fifty times delivers every committed alert, and nothing of an aborted transaction."""

from __future__ import annotations

import base64
import os
import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from standardwebhooks import Webhook

from domain.clock import SystemClock
from lifecycle.database import Database
from lifecycle.webhook_store import WebhookStore
from lifecycle.webhooks import DeliveryState, EndpointSettings, Order
from stream.kafka import KafkaConnection
from stream.topics import Topics, create_topics
from tests.alerts import alert
from tests.receiver import Answer, Received, Receiver, receiving
from tests.system.scene import PATIENCE, eventually
from tidegate.defaults import renamed_pipeline
from tidegate.settings import Settings

HERE = Path(__file__).parent
KILLS = 50
PORTION = 5
"""Alerts sent before each life."""
STEPS = 90
"""A life that takes in a portion and delivers it does about so many."""


class Lives:
    """Dispatchers, one after the other."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.dispatcher_program"],
                cwd=HERE.parents[1],
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.pid = 0

    def begin(self, step: int, seconds: float = 0.0) -> None:
        """See the program."""
        assert self._process.stdin is not None
        print(step, seconds, file=self._process.stdin, flush=True)
        self.pid = int(self._line())

    def end(self) -> int:
        """How the present one ended; waits for it."""
        word, code = self._line().split()
        assert word == "ended"
        return int(code)

    def _line(self) -> str:
        assert self._process.stdout is not None
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.append(self._process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reading.start()
        reading.join(PATIENCE)
        assert lines, f"nothing within {PATIENCE:.0f} s\n{self.tail()}"
        assert lines[0].strip(), self.tail()
        return lines[0]

    def tail(self) -> str:
        return self._log.read_text()[-4_000:]

    def close(self) -> None:
        if self.pid and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()


class Sent:
    """Alerts in transactions, committed and aborted."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        kafka = KafkaConnection(bootstrap)
        self._producer = Producer(kafka.transactional_producer("test", f"{topic}-test"))
        self._producer.init_transactions(PATIENCE)
        self._topic = topic
        self._numbers = iter(range(1_000_000))
        self.committed: set[str] = set()
        self.aborted: set[str] = set()

    def send(self, count: int, *, commit: bool) -> None:
        self._producer.begin_transaction()
        for number in (next(self._numbers) for _ in range(count)):
            name = f"{'c' if commit else 'a'}{number}"
            (self.committed if commit else self.aborted).add(name)
            account = f"account-{number % 5}"
            value = msgspec.json.encode(alert(name, account=account, offset=number))
            self._producer.produce(self._topic, value=value, key=account)
        self._producer.flush(PATIENCE)
        if commit:
            self._producer.commit_transaction(PATIENCE)
        else:
            self._producer.abort_transaction(PATIENCE)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.mark.kafka
def test_killed_fifty_times_it_delivers_every_committed_alert_and_no_other(
    kafka: str, topic_prefix: str, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_topics({"bootstrap.servers": kafka}, topic_prefix, 2, replies_partitions=1)
    file = renamed_pipeline(HERE / "small_pipeline.yaml", topic_prefix, tmp_path / "pipeline.yaml")
    environment = {
        "TIDEGATE_PIPELINE": str(file),
        "TIDEGATE_KAFKA_BOOTSTRAP": kafka,
        "TIDEGATE_STATE_DIR": str(tmp_path),
        "TIDEGATE_WORKER_ID": "d1",
        "TIDEGATE_WEBHOOK_PRIVATE": "127.0.0.0/8",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused: set[str] = set()

    def answer(request: Received) -> Answer:
        """Now and then a message is refused, once."""
        id_ = request.headers["webhook-id"]
        if id_.endswith(("0", "1")) and id_ not in refused:
            refused.add(id_)
            return 503, {}, b""
        return 204, {}, b""

    def names() -> set[str]:
        return {msgspec.json.decode(request.body)["data"]["id"] for request in list(receiver.received)}

    receiver.answer = answer
    settings = Settings()
    database = Database(settings.database())
    store = WebhookStore(database, topic_prefix, SystemClock(), settings.webhook_box())
    endpoint, secret = store.add(
        EndpointSettings(url=receiver.url(), order=Order.KEY), by="test", reason="test"
    )
    sent = Sent(kafka, Topics(topic_prefix).alerts)
    draw = random.Random(7)
    lives = Lives(environment, tmp_path / "dispatcher.log")
    try:
        for life in range(KILLS):
            if life % 4 == 1:
                sent.send(3, commit=False)
            sent.send(PORTION, commit=True)
            # half of them die at a step, half a moment after one
            lives.begin(draw.randint(1, STEPS), draw.choice([0.0, draw.uniform(0.0001, 0.02)]))
            assert lives.end() == -signal.SIGKILL, lives.tail()
        lives.begin(0)

        def settled() -> bool:
            assert not names() & sent.aborted
            log = store.log(endpoint.id, limit=10_000)
            return len(log) == len(sent.committed) and all(d.state is DeliveryState.DELIVERED for d in log)

        eventually("all are delivered", settled, lives.tail, lambda: len(receiver.received))
        os.kill(lives.pid, signal.SIGTERM)
        assert lives.end() == 0, lives.tail()
    finally:
        lives.close()
        database.close()
    assert names() == sent.committed
    ids: dict[str, set[str]] = defaultdict(set)
    hook = Webhook(base64.b64decode(secret.secret.removeprefix("whsec_")))
    for request in receiver.received:
        data = hook.verify(request.body, request.headers)
        assert data["type"] == "alert"
        ids[data["data"]["id"]].add(request.headers["webhook-id"])
    # one id for each alert, of its own, however often it came
    assert all(len(found) == 1 for found in ids.values())
    assert len(set.union(*ids.values())) == len(sent.committed)
    # what makes the guarantee "at least once": some did come again
    assert len(receiver.received) > len(sent.committed) + len(refused)
    assert refused
