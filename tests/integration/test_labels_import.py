"""``tidegate labels import`` on a real Kafka: each change reaches the features once, whatever is killed."""

from __future__ import annotations

import csv
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer
from typer.testing import CliRunner

from domain.clock import SystemClock, to_micros
from domain.errors import Fatal
from domain.label_codec import JoinedLabel
from domain.privacy import Protector
from domain.verdict import DecisionName, Flag, Source, Verdict, Versions
from lifecycle.label_rows import find_columns, read_label_file
from stream.kafka import KafkaConnection
from stream.label_import import LabelImporter
from stream.log_reading import committed_records, ends, reader_conf
from stream.replay import replay_producer
from tests.system.events import _START, event, events
from tests.system.scene import PATIENCE, PRIVACY_KEY, Reader, Scene
from tidegate.commands.labels import app

pytestmark = [pytest.mark.kafka]

ROOT = Path(__file__).parents[2]
LABELS = ROOT / "tests" / "system" / "labels_pipeline.yaml"
START = to_micros(_START)
SECOND = 1_000_000
STEP = 7 * SECOND
"""Between two events of the stream."""

Row = tuple[str, int | None, int]
"""Event id, label, known at."""


def labels_file(scene: Scene, name: str, rows: list[Row]) -> Path:
    path = scene.directory / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "label", "known_at"))
        writer.writerows((id_, "" if label is None else label, known_at) for id_, label, known_at in rows)
    return path


def run_import(scene: Scene, path: Path, *options: str, code: int = 0) -> Any:
    arguments = ["import", str(path), "--json", *options]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300", **scene.environment()})
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return json.loads(result.stdout) if code == 0 else result.stderr


def joined(scene: Scene, partition: int) -> list[tuple[bytes | None, JoinedLabel]]:
    """Key and label of every committed record of a partition of ``labels.joined``."""
    conf = reader_conf(KafkaConnection(scene.bootstrap), "tidegate-test", "tidegate-test")
    topic = scene.topics.labels_joined
    # a commit is certain before committed readers are let see it, so they must be told how far to wait
    probe, consumer = Consumer({**conf, "isolation.level": "read_uncommitted"}), Consumer(conf)
    try:
        found = committed_records(consumer, topic, {partition: ends(probe, topic, partition)})
        return [(m.key(), msgspec.json.decode(m.value(), type=JoinedLabel)) for m in found]
    finally:
        probe.close()
        consumer.close()


def rates_by_hand(reader: Reader, positive: set[str]) -> tuple[list[float], list[float]]:
    """``account_rate_4h`` as it must be, and as it is, of the newest 50 verdicts; all events are within four hours."""
    verdicts = [v for v in reader.verdicts() if Flag.DUPLICATE not in v.flags]
    wanted, found = [], []
    for place in range(len(verdicts) - 50, len(verdicts)):
        mine = {
            v.id for v in verdicts[:place] if v.entities["account"] == verdicts[place].entities["account"]
        }
        wanted.append(len(positive & mine) / len(mine))
        found.append(verdicts[place].features["account_rate_4h"])
    return wanted, found


@pytest.mark.redis
@pytest.mark.slow
def test_features_count_what_is_imported_once_and_no_longer_when_it_is_taken_back(
    kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    with Scene.open(kafka, redis_url, LABELS, topic_prefix, tmp_path) as scene:
        reader = scene.reader()
        scene.worker().start()
        account = json.loads(events(6)[5].payload)["account"]
        # a repeat that claims an earlier time and another shop: it is no event of its own
        scene.send([*events(300), event("e5", 1.0, account, shop="elsewhere")])
        scene.await_count(reader, 301)
        assert reader.verdicts()[-1].flags == [Flag.DUPLICATE]

        chance = random.Random(3)
        labels = {f"e{n}": int(n % 3 == 0 or n == 5) for n in range(200)}
        rows: list[Row] = [
            (id_, label, START + chance.randrange(300, 320) * STEP) for id_, label in labels.items()
        ]
        chance.shuffle(rows)
        first = labels_file(scene, "first.csv", [*rows, ("who", 1, START), ("e250", None, START)])
        lost = scene.directory / "lost.csv"
        dry = run_import(scene, first, "--dry-run")
        assert (dry["written"], dry["dry_run"], joined(scene, 0)) == (200, True, [])
        done = run_import(scene, first, "--origin", "the bank", "--orphans", str(lost))
        assert done["rows"] == 202
        assert (done["written"], done["by_label"]) == (200, {"1": 68, "0": 132, "unknown": 0})
        assert (done["unchanged"], done["superseded"], done["orphans"]) == (1, 0, 1)
        assert lost.read_text().split() == ["row,id", "200,who"]
        log = [label for _, label in joined(scene, 0)]
        assert [label.known_at for label in log] == sorted(known_at for _, _, known_at in rows)
        [fifth] = [label for label in log if label.id == "e5"]
        assert fifth.event_time == START + 5 * STEP
        assert fifth.entities["shop"] != "elsewhere"
        assert fifth.origin == "the bank"

        scene.send(events(100, first=300))
        scene.await_count(reader, 401)
        positive = {id_ for id_, label in labels.items() if label}
        wanted, found = rates_by_hand(reader, positive)
        assert found == wanted
        assert any(wanted)

        again = run_import(scene, first)
        assert (again["written"], again["unchanged"], again["superseded"]) == (0, 201, 0)

        # every fourth is taken back, as a 0 or as unknown again
        back = sorted(positive)[::4]
        turned: list[Row] = [(id_, 0 if n % 2 else None, START + 401 * STEP) for n, id_ in enumerate(back)]
        told = run_import(scene, labels_file(scene, "second.csv", turned))
        assert told["by_label"] == {"1": 0, "0": len(back) // 2, "unknown": len(back) - len(back) // 2}
        # the older file has nothing more to say of these
        assert run_import(scene, first)["superseded"] == len(back)
        scene.send(events(100, first=400))
        scene.await_count(reader, 501)
        wanted, found = rates_by_hand(reader, positive - {*back})
        assert found == wanted
        assert wanted != rates_by_hand(reader, positive)[0], "reversals would not have been noticed"


@pytest.fixture
def scored(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    """Verdicts of 20 events on two partitions, as a worker writes them."""
    with Scene.open(kafka, "redis://127.0.0.1:1/0", LABELS, topic_prefix, tmp_path, 2) as scene:
        producer = replay_producer(KafkaConnection(kafka))
        for n in range(20):
            verdict = Verdict(
                id=f"e{n}",
                event_time=START + n * SECOND,
                scored_at=START,
                entities={"account": f"a{n % 2}", "shop": "s"},
                score=None,
                decision=DecisionName.ALLOW,
                reasons=[],
                features=None,
                detectors={},
                flags=[],
                versions=Versions("1", 1, "", {}),
                source=Source(scene.topics.events, n % 2, n),
            )
            producer.produce(
                scene.topics.verdicts, msgspec.json.encode(verdict), f"a{n % 2}", partition=n % 2
            )
        assert producer.flush(PATIENCE) == 0
        yield scene


KNOWN = to_micros(_START) + 3_600 * SECOND
ROWS: list[Row] = [
    *((f"e{n}", n % 3 % 2, KNOWN + (n * 7 % 20) * SECOND) for n in range(15)),
    *((f"e{n}", 1 - n % 3 % 2, KNOWN + (n + 20) * SECOND) for n in range(5, 10)),
]
"""15 labels in no order of time, five of which turn round."""


def each_once(scene: Scene) -> None:
    """The topic holds exactly what ROWS mean, in an order in which nothing waits for something later."""
    wanted: list[tuple[int, str, int | None, int | None]] = []
    holds: dict[str, int | None] = {}
    for id_, label, known_at in sorted(ROWS, key=lambda row: row[2]):
        if holds.get(id_) != label:
            wanted.append((known_at, id_, label, holds.get(id_)))
            holds[id_] = label
    found = []
    for partition in range(2):
        for key, record in joined(scene, partition):
            assert int(record.id[1:]) % 2 == partition
            assert key == f"a{partition}".encode()
            assert record.entities == {"account": f"a{partition}", "shop": "s"}
            found.append((record.known_at, record.id, record.label, record.previous))
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize(
    ("step", "visit", "gone"),
    [
        ("before_produce", 1, 0),
        ("after_produce", 2, 4),
        ("after_send_offsets", 3, 8),
        ("after_commit", 3, 12),
    ],
)
def test_killed_in_the_middle_each_change_is_there_once(
    scored: Scene, step: str, visit: int, gone: int
) -> None:
    path = labels_file(scored, "labels.csv", ROWS)
    whole = run_import(scored, path, "--dry-run")["written"]
    program = [sys.executable, "-m", "tests.integration.labels_import_program", scored.bootstrap]
    killed = subprocess.run(
        [*program, str(scored.pipeline_file), str(path), step, str(visit), PRIVACY_KEY],
        cwd=ROOT,
        check=False,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL
    assert run_import(scored, path)["written"] == whole - gone
    assert run_import(scored, path)["written"] == 0
    each_once(scored)


def test_of_two_at_once_the_second_locks_the_first_out(scored: Scene) -> None:
    path = labels_file(scored, "labels.csv", ROWS)
    kafka, pipeline = KafkaConnection(scored.bootstrap), scored.pipeline
    told = read_label_file(
        path,
        pipeline,
        Protector(PRIVACY_KEY.encode()),
        find_columns(path, pipeline),
        now=SystemClock().now(),
    ).told
    visits = iter(range(100))

    def at(point: str) -> None:
        # within its second transaction, records and all, somebody else begins and finishes
        if point == "after_produce" and next(visits) == 1:
            second = LabelImporter(kafka, pipeline)
            assert second.run(told).count > 0
            second.close()

    first = LabelImporter(kafka, pipeline, at=at, batch=3)
    with pytest.raises(Fatal, match="locked this one out"):
        first.run(told)
    first.close()
    each_once(scored)


def test_a_file_with_one_bad_row_writes_nothing(scored: Scene) -> None:
    bad = labels_file(scored, "bad.csv", [*ROWS, ("e19", 1, 12)])
    told = run_import(scored, bad, code=2)
    assert "row 20: known_at is no time" in told
    assert "Remedy" in told
    told = run_import(scored, scored.directory / "absent.csv", code=2)
    assert "there is no file" in told
    told = run_import(scored, bad, "--known-at", "1h", code=2)
    assert "--known-at says otherwise" in told
    assert [joined(scored, partition) for partition in range(2)] == [[], []]


def test_people_read_what_happened(scored: Scene) -> None:
    path = labels_file(scored, "labels.csv", [*ROWS, *((f"lost{n}\x1b[2J", 1, KNOWN) for n in range(25))])
    result = CliRunner().invoke(app, ["import", str(path)], env={"COLUMNS": "300", **scored.environment()})
    assert result.exit_code == 0, result.output
    assert "changes written" in result.stdout
    assert "25" in result.stdout
    assert "lost19\\x1b[2J (row 39) and 5 more" in result.stderr
    assert "--orphans FILE writes all" in result.stderr
    assert "\x1b[2J" not in result.output
