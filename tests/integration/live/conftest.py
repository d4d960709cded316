"""One running service for the tests of this folder; each uses ids of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from stream.topics import Topics
from tests.integration.live.processes import Child, run_api, run_archiver
from tests.system.scene import PATIENCE, Scene, eventually
from tidegate.embedded.redis import EmbeddedRedis

SOURCE = Path(__file__).parent / "pipeline.yaml"


@dataclass(frozen=True)
class Live:
    """The service: where its API is, and the process behind it."""

    url: str
    api: Child
    scene: Scene
    environment: dict[str, str]

    @property
    def topics(self) -> Topics:
        return self.scene.topics

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join((self.api.tail(), *(worker.tail() for worker in self.scene.workers)))


@pytest.fixture(scope="package")
def live(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that scores. Its Redis is its own: tests elsewhere empty the shared one."""
    directory = tmp_path_factory.mktemp("live")
    with (
        EmbeddedRedis(directory / "redis") as redis,
        Scene.open(kafka, redis.url, SOURCE, f"live{directory.stat().st_ino}", directory) as scene,
    ):
        environment = scene.environment(
            "api", database_url=f"sqlite:///{directory / 'tidegate.sqlite'}", api_port=0,
            offline_url=directory / "offline",
        )  # fmt: skip
        worker = scene.worker()
        worker.start()
        children = [Child(run_archiver, environment, directory / "archiver.log")]
        try:
            children.append(api := Child(run_api, environment, directory / "api.log"))
            made = Live(f"http://127.0.0.1:{api.port}", api, scene, environment)
            with httpx.Client(base_url=made.url, timeout=PATIENCE) as client:

                def first_verdict() -> bool:
                    # until the worker has its partition, and the replies are found
                    event = {
                        "transaction_id": "warm-up",
                        "event_time": "2026-01-01T00:00:00Z",
                        "account_id": "a",
                        "merchant_id": "m",
                        "amount": 1,
                    }
                    answer = client.post("/v1/score?deadline_ms=5000", json=event)
                    assert answer.status_code in (200, 202, 503), answer.text
                    return answer.status_code == 200

                eventually("the first event is scored", first_verdict, made.logs)
            yield made
        finally:
            for child in children:
                child.close()
