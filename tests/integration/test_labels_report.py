"""``tidegate labels report`` over a real Kafka."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from domain.clock import from_micros
from domain.verdict import DecisionName, Flag, Source, Verdict, Versions
from lifecycle.evaluation import DAY
from tests.integration.test_labels_import import LABELS, START, Row, labels_file, run_import
from tests.system.scene import Scene
from tidegate.commands.labels import app

pytestmark = [pytest.mark.kafka]

FIRST = START // DAY * DAY
SAID = [
    ("a", 0, 0.9, DecisionName.REVIEW),
    ("b", 1, 0.8, DecisionName.BLOCK),
    ("c", 2, 0.1, DecisionName.ALLOW),
    ("d", 3, None, DecisionName.ALLOW),
    ("e", DAY, 0.7, DecisionName.REVIEW),
]


def test_only_mature_days_are_judged(kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    with Scene.open(kafka, "redis://127.0.0.1:1/0", LABELS, topic_prefix, tmp_path, 2) as scene:
        producer = Producer({"bootstrap.servers": kafka})
        for n, (id_, after, score, decision) in enumerate([*SAID, ("a", 0, 0.9, DecisionName.REVIEW)]):
            verdict = Verdict(
                id=id_,
                event_time=FIRST + after,
                scored_at=START,
                entities={"account": "a", "shop": "s"},
                score=score,
                decision=decision,
                reasons=[],
                features={},
                detectors={},
                flags=[Flag.DUPLICATE] if n >= len(SAID) else [],
                versions=Versions("1", 1, "", {}),
                source=Source(scene.topics.events, n % 2, n),
            )
            producer.produce(scene.topics.verdicts, msgspec.json.encode(verdict), "a", partition=n % 2)
        assert producer.flush(30) == 0
        labels: list[Row] = [
            ("a", 1, FIRST + DAY),
            ("b", 1, FIRST + DAY),
            ("b", 0, FIRST + 2 * DAY),
            ("c", 1, FIRST + DAY),
            ("e", 1, FIRST + 2 * DAY),
        ]
        run_import(scene, labels_file(scene, "l.csv", labels))

        def ask(*options: str) -> str:
            result = CliRunner().invoke(
                app, ["report", *options], env={"COLUMNS": "300", **scene.environment()}
            )
            assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
            return result.stdout

        at = from_micros(FIRST + 3 * DAY).isoformat()
        told = json.loads(ask("--maturity", "2d", "--as-of", at, "--ages", "1d,2d", "--json"))
        first, second = told["days"]
        assert (first["day"], first["events"], second["quality"]) == (
            from_micros(FIRST).date().isoformat(), 4, None,
        )  # fmt: skip
        assert first["quality"] == told["total"]
        total = told["total"]
        assert (total["labelled"], total["positive"], total["alerts"], total["alerts_positive"]) == (
            3,
            2,
            2,
            1,
        )
        assert (total["precision"], total["recall"]) == (0.5, 0.5)
        assert total["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
        assert [(one["days"], one["labelled"]) for one in told["by_age"]] == [(2, 3), (1, 3)]
        # a day earlier nobody knew that b was none, and nothing was mature
        before = json.loads(
            ask("--maturity", "1d", "--as-of", from_micros(FIRST + 2 * DAY - 1).isoformat(), "--json")
        )
        assert (before["mature_days"], before["total"]["precision"]) == (0, None)
        text = ask("--maturity", "2d", "--as-of", at)
        assert "1 mature day(s)" in text
        assert "0.833" in text
        assert "mature " + from_micros(FIRST + 4 * DAY).date().isoformat() in text
        everything = ask("--maturity", "2d", "--as-of", at, "--since", from_micros(FIRST + DAY).isoformat())
        assert "0 mature day(s)" in everything
