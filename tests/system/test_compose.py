"""``docker compose up`` on this machine: an event from outside is answered, and state outlives ``down``."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from confluent_kafka import Producer
from tenacity import Retrying, stop_after_delay, wait_fixed

from lifecycle.keys import new_key
from stream.topics import PARTITIONER
from tests.services import running_engine
from tidegate.embedded.process import free_port

pytestmark = [pytest.mark.compose, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
# The first build downloads and compiles; later ones take seconds.
UP_SECONDS = 1200
ANSWER_SECONDS = 60


class Deployment:
    """This repository's compose file under a project name and ports of its own."""

    def __init__(self) -> None:
        self.project = f"tidegate-test-{uuid.uuid4().hex[:8]}"
        self.api, self.kafka = free_port(), free_port()
        self._environment = {
            **os.environ,
            "TIDEGATE_API_PUBLISHED": str(self.api),
            "TIDEGATE_KAFKA_PUBLISHED": str(self.kafka),
            "TIDEGATE_PRIVACY_KEY": uuid.uuid4().hex,
            "TIDEGATE_COMPOSE_DATABASE_PASSWORD": uuid.uuid4().hex,
            "TIDEGATE_COMPOSE_API_KEY": (key := new_key()),
        }
        self._headers = {"Authorization": f"Bearer {key}"}

    def compose(self, *arguments: str) -> str:
        """Run ``docker compose`` and return its output; a failure shows the services' logs."""
        command = ["docker", "compose", "--project-name", self.project]
        run = subprocess.run(
            [*command, *arguments],
            cwd=REPOSITORY,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=UP_SECONDS,
        )
        if run.returncode:
            logs = subprocess.run(
                [*command, "logs", "--tail", "40", "--no-color"],
                cwd=REPOSITORY,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
            ).stdout
            pytest.fail(f"docker compose {' '.join(arguments)} failed:\n{run.stdout[-4000:]}\n{logs[-8000:]}")
        return run.stdout

    def up(self) -> None:
        """Start everything and wait until every service is healthy."""
        self.compose("up", "--detach", "--build", "--wait", "--wait-timeout", "300")

    def event(self, account: str) -> dict[str, Any]:
        """A payment of ``account``, dated now."""
        return {
            "transaction_id": uuid.uuid4().hex,
            "event_time": datetime.now(UTC).isoformat(),
            "account_id": account,
            "merchant_id": "m-1",
            "amount": 12.5,
        }

    def score(self, event: dict[str, Any]) -> dict[str, Any]:
        """The committed verdict of an event posted to the API."""
        # A worker is healthy before Kafka has given it its partitions, hence not the default of one second.
        url = f"http://127.0.0.1:{self.api}/v1/score?deadline_ms=30000"
        answer = httpx.post(url, json=event, headers=self._headers, timeout=ANSWER_SECONDS)
        assert answer.status_code == 200, answer.text
        verdict: dict[str, Any] = answer.json()
        return verdict

    def make_key(self) -> str:
        """A key that only the database knows: kept by PostgreSQL, so that it outlives the containers."""
        wanted = {"name": "compose", "scopes": ["verdicts:read"], "reason": "test"}
        answer = httpx.post(
            f"http://127.0.0.1:{self.api}/v1/keys", json=wanted, headers=self._headers, timeout=ANSWER_SECONDS
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["secret"])

    def may_read(self, key: str) -> int:
        """The status that verdicts answer to ``key``."""
        answer = httpx.get(
            f"http://127.0.0.1:{self.api}/v1/verdicts",
            headers={"Authorization": f"Bearer {key}"},
            timeout=ANSWER_SECONDS,
        )
        return answer.status_code

    def produce(self, event: dict[str, Any]) -> None:
        """Write an event to Kafka, as a producer outside of Docker does."""
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{self.kafka}", "partitioner": PARTITIONER})
        producer.produce("payments.events", key=event["account_id"], value=msgspec.json.encode(event))
        assert producer.flush(30) == 0

    def verdict(self, event: dict[str, Any]) -> dict[str, Any]:
        """The stored verdict of an event, as soon as the archiver has it."""

        def ask() -> dict[str, Any]:
            url = f"http://127.0.0.1:{self.api}/v1/verdicts/{event['transaction_id']}"
            answer = httpx.get(url, headers=self._headers, timeout=10)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        return eventually(ask)


def eventually(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The first result of ``ask`` that raises nothing, within a minute."""
    patient = Retrying(stop=stop_after_delay(ANSWER_SECONDS), wait=wait_fixed(0.25), reraise=True)
    return patient(ask)


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    if not running_engine():
        pytest.fail(
            "no Docker engine answers. Remedy: install Docker with the compose plugin and start it, "
            "then check with `docker info`."
        )
    deployed = Deployment()
    try:
        yield deployed
    finally:
        deployed.compose("down", "--volumes", "--timeout", "20")


def test_an_event_is_answered_and_state_outlives_down_and_up(deployment: Deployment) -> None:
    account = f"a-{uuid.uuid4().hex[:8]}"
    deployment.up()

    stranger = httpx.get(f"http://127.0.0.1:{deployment.api}/v1/verdicts", timeout=ANSWER_SECONDS)
    assert stranger.status_code == 401
    first = deployment.event(account)
    answer = deployment.score(first)
    assert answer["decision"] in {"allow", "review", "block"}
    assert answer["features"]["account_count_1d"] == 1

    key = deployment.make_key()
    assert deployment.may_read(key) == 200

    second = deployment.event(account)
    deployment.produce(second)
    assert deployment.verdict(second)["features"]["account_count_1d"] == 2

    deployment.compose("down", "--timeout", "20")
    deployment.up()

    assert deployment.may_read(key) == 200
    assert deployment.verdict(first)["features"]["account_count_1d"] == 1
    assert deployment.score(deployment.event(account))["features"]["account_count_1d"] == 3
    assert account not in deployment.compose("logs", "--no-color")
