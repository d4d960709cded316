"""The closed loop in short, on a real Kafka and Redis: a change, an alarm, a new model that decides."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from confluent_kafka import Producer

from benchmarks.loop_stage import LoopStage
from benchmarks.loop_stream import DAY, LoopStream
from domain.drift_record import DriftAlarm, Evidence
from lifecycle.evaluation import ranking
from lifecycle.registry import Stage
from stream.topics import Topics

START = 1_700_006_400_000_000
BENCH = Path(__file__).parents[2] / "benchmarks" / "loop_pipeline.yaml"
TURN = 4
"""The day of the change."""
LAST = 16
"""A day by which everything has long happened."""


def pipeline_file(directory: Path) -> Path:
    """The benchmark's pipeline with a faster clock: labels mature after a day, a shadow lasts an hour."""
    text = BENCH.read_text(encoding="utf-8")
    for old, new in (
        ("schedule: 7d", "schedule: 30d"),
        ("cool_down: 1d", "cool_down: 6h"),
        ("min_labels: 4000", "min_labels: 500"),
        ("min_positive: 200", "min_positive: 100"),
        ("label_maturity: 2d", "label_maturity: 1d"),
        ("search: true", "search: false"),
        ("replicates: 200", "replicates: 100"),
        ("events: 500, time: 6h", "events: 200, time: 1h"),
        ("events: 400, time: 12h", "events: 200, time: 1h"),
    ):
        assert old in text
        text = text.replace(old, new)
    file = directory / "source.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def raise_alarm(stage: LoopStage, bootstrap: str) -> None:
    """What a monitor would say: the error has moved since the change."""
    alarm = DriftAlarm(
        id="d-test",
        pipeline=stage.pipeline.name,
        pipeline_digest=stage.pipeline.digest,
        reference="r",
        column="error",
        raised_at=stage.now,
        since=START + TURN * DAY,
        window=(START, stage.now),
        shift=0.3,
        monitors=[],
        evidence=Evidence(
            edges=[], reference=[1.0], current=[1.0], reference_missing=0.0, current_missing=0.0, events=1
        ),
        text="a test",
    )
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(Topics(stage.pipeline.name).drift, msgspec.json.encode(alarm), partition=0)
    assert producer.flush(30) == 0


def promoted(stage: LoopStage, trigger: str) -> str | None:
    """The model that a run of that trigger has brought into force."""
    for run in stage.registry.runs(limit=100):
        if run.trigger == trigger and run.outcome == "promoted":
            return str(run.data["promoted"]["version"])
    return None


def test_a_change_is_learned_and_the_new_model_decides(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    stream = LoopStream(START, per_day=800, share=0.1, turn=TURN, accounts=100)
    names = ("worker", "archiver-offline", "trainer")
    source = pipeline_file(tmp_path)
    with LoopStage(tmp_path, kafka, redis_url, topic_prefix, source, threads=True, names=names) as stage:
        alarmed = False
        second = None
        for day in range(LAST):
            events = list(stream.day(day))
            stage.feed(events[:400])
            stage.feed(events[400:])
            if day >= TURN and not alarmed:
                raise_alarm(stage, kafka)
                alarmed = True
            second = promoted(stage, "drift")
            if second is not None:
                break
        runs = [(r.trigger, r.step, r.outcome, r.error) for r in stage.registry.runs(limit=100)]
        assert second is not None, runs
        # it decides what comes from now on, or one that was trained on still more labels of the change; and ranks it
        # better than the pipeline's own detectors do
        stage.end("trainer")
        learned = {
            run.data["promoted"]["version"]
            for run in stage.registry.runs(limit=100)
            if run.trigger == "drift" and "promoted" in run.data
        }
        stage.feed(list(stream.day(LAST)))
        times, fraud, score, own = stage.collected.arrays()
        last = times >= START + LAST * DAY
        champions = {c for c, it in zip(stage.collected.champion, last, strict=True) if it}
        assert stage.registry.model(second).stage in (Stage.CHAMPION, Stage.RETIRED), runs
        assert champions
        assert champions <= learned, (champions, learned, runs)
        with_loop = ranking(score[last], np.asarray(fraud)[last]).average_precision
        without = ranking(own[last], np.asarray(fraud)[last]).average_precision
        assert with_loop > without + 0.1
        assert stage.registry.verify_audit() is None
        assert "It passed the offline gate." in stage.registry.card(second).markdown
