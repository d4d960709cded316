"""``tidegate models`` where workers must be told: over a real SQLite registry and a real Kafka."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from domain.clock import SystemClock
from domain.errors import Fatal
from domain.model_records import ModelsInForce
from lifecycle.database import Database
from lifecycle.registry_sql import SqlModelRegistry
from stream.kafka import KafkaConnection
from stream.models_topic import read_in_force
from stream.topics import create_topics
from tests.contract.check_model_registry import add
from tidegate.cli import app

pytestmark = pytest.mark.kafka

PIPELINE = Path(__file__).resolve().parents[1] / "system" / "small_pipeline.yaml"


@pytest.fixture
def registry(
    kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SqlModelRegistry]:
    url = f"sqlite:///{tmp_path}/models.sqlite"
    declared = PIPELINE.read_text().splitlines()
    renamed = [f"pipeline: {topic_prefix}" if line.startswith("pipeline:") else line for line in declared]
    (tmp_path / "pipeline.yaml").write_text("\n".join(renamed))
    monkeypatch.setenv("TIDEGATE_PIPELINE", str(tmp_path / "pipeline.yaml"))
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", url)
    monkeypatch.setenv("TIDEGATE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("TIDEGATE_KAFKA_BOOTSTRAP", kafka)
    registry = SqlModelRegistry(Database(url), topic_prefix, SystemClock())
    yield registry
    registry.close()


def changed(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["models", *arguments, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)["in_force"]
    return found


def test_a_person_changes_what_is_in_force_and_the_workers_are_told(
    kafka: str, registry: SqlModelRegistry
) -> None:
    pipeline = registry.pipeline
    a = add(registry, "a")
    # before the topic exists: the registry has it, the error says what is left to do
    early = CliRunner().invoke(app, ["models", "challenge", a, "--split", "0.25", "--reason", "A/B"])
    assert early.exit_code == 1
    assert isinstance(early.exception, Fatal)
    assert "tidegate models publish" in early.exception.remedy
    assert registry.state().challenger == a

    create_topics({"bootstrap.servers": kafka}, pipeline, 1)
    assert CliRunner().invoke(app, ["models", "publish"]).exit_code == 0

    def told() -> ModelsInForce:
        found = read_in_force(KafkaConnection(kafka), pipeline)
        assert found is not None
        return found

    state = told()
    assert (state.epoch, state.split, state.champion) == (1, 0.25, None)
    assert state.challenger is not None
    assert state.challenger.version == a

    assert changed("promote", a, "--reason", "better", "--yes")["champion"] == a
    state = told()
    assert state.champion is not None
    assert (state.epoch, state.champion.version, state.challenger, state.reason) == (2, a, None, "better")

    assert changed("rollback", "--reason", "worse", "--yes")["champion"] is None
    assert (told().epoch, told().champion) == (3, None)
    assert [r.action for r in registry.audit()] == ["register", "challenge", "promote", "rollback"]
