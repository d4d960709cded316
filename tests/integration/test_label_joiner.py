"""The joiner on a real Kafka: each label is joined once, whatever is killed and whoever else writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from domain.errors import StoreUnavailable
from domain.pipeline_labels import LabelsSpec
from domain.verdict import DecisionName, DetectorOutput, Source, Verdict, Versions
from lifecycle.label_joining import MAX_PER_EVENT
from stream.dead_letters import HEADER_OFFSET, HEADER_REASON, HEADER_TOPIC
from stream.kafka import KafkaConnection
from stream.label_joiner import JoinerParts, run_joiner
from stream.label_sender import joiner_runs
from stream.topics import PARTITIONER
from tests.integration.labels_joiner_program import Nowhere, parts_of
from tests.integration.test_labels_import import (
    KNOWN,
    LABELS,
    START,
    Row,
    joined,
    labels_file,
    run_import,
)
from tests.system.scene import Scene, eventually

pytestmark = [pytest.mark.kafka]

ROOT = Path(__file__).parents[2]
SECOND = 1_000_000


def verdicts(scene: Scene, first: int, count: int) -> None:
    """Verdicts as a worker writes them; event n lies in partition n % 2."""
    producer = Producer({"bootstrap.servers": scene.bootstrap})
    for n in range(first, first + count):
        verdict = Verdict(
            id=f"e{n}",
            event_time=START + n * SECOND,
            scored_at=START,
            entities={"account": f"a{n % 2}", "shop": "s"},
            score=0.5,
            decision=DecisionName.ALLOW,
            reasons=[],
            features={"amount": float(n)},
            detectors={"hst": DetectorOutput(score=0.1, rank=0.5)},
            flags=[],
            versions=Versions("1", 1, "", {}),
            source=Source(scene.topics.events, n % 2, n),
        )
        producer.produce(scene.topics.verdicts, msgspec.json.encode(verdict), f"a{n % 2}", partition=n % 2)
    assert producer.flush(30) == 0


def say(scene: Scene, *labels: dict[str, Any], key: bytes | None = None, size: int = 0) -> None:
    """Raw labels as anybody writes them."""
    producer = Producer({"bootstrap.servers": scene.bootstrap, "partitioner": PARTITIONER})
    for one in labels:
        record = {"source": "analyst", "known_at": KNOWN, **one}
        value = json.dumps(record).ljust(size).encode()
        producer.produce(scene.topics.labels, value, key or str(one["id"]).encode())
    assert producer.flush(30) == 0


@pytest.fixture
def scene(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Scene]:
    declared = tmp_path / "ranked.yaml"
    declared.write_text(LABELS.read_text() + "labels: {sources: [chargeback, analyst]}\n")
    with Scene.open(kafka, "redis://127.0.0.1:1/0", declared, topic_prefix, tmp_path, 2) as scene:
        yield scene


@contextmanager
def joining(parts: JoinerParts) -> Iterator[None]:
    stop = threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            run_joiner(parts, stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        assert failed == []


Change = tuple[str, int | None, int | None]
"""Event, what held, what holds."""


def changes(scene: Scene) -> list[Change]:
    """Every joined label, by partition."""
    found: list[Change] = []
    for partition in range(2):
        for _, record in joined(scene, partition):
            assert int(record.id[1:]) % 2 == partition, "a label lies where its event does"
            found.append((record.id, record.previous, record.label))
    return found


def await_changes(scene: Scene, wanted: list[Change]) -> None:
    """Until as many labels are joined as are wanted; then they must be these."""
    reader = scene.reader(scene.topics.labels_joined)
    scene.await_count(reader, len(wanted))
    assert sorted(changes(scene), key=str) == sorted(wanted, key=str)


def await_departure(scene: Scene) -> None:
    """Until the group knows that its joiner has left."""
    kafka = KafkaConnection(scene.bootstrap)
    eventually("an empty group", lambda: not joiner_runs(kafka, scene.pipeline.name))


def test_labels_are_joined_by_precedence_and_what_is_wrong_becomes_a_letter(scene: Scene) -> None:
    verdicts(scene, 0, 6)
    letters = scene.reader(scene.topics.raw_label_dead_letters)
    say(scene, {"id": "e1", "label": 1}, {"id": "e1", "label": 0}, {"id": "e2", "label": 1})
    say(scene, {"id": "e1", "label": 1, "source": "chargeback"}, {"id": "e1", "label": 0})
    say(scene, {"id": "e3", "label": 1, "source": "my aunt"}, {"id": "e3", "label": 1, "event_time": START})
    say(scene, {"id": "e4", "label": 1}, key=b"another")
    with joining(parts_of(scene.bootstrap, scene.pipeline)):
        await_changes(scene, [("e1", None, 1), ("e1", 1, 0), ("e1", 0, 1), ("e2", None, 1)])
        scene.await_count(letters, 3)
        say(scene, {"id": "e1", "label": None, "source": "chargeback", "known_at": KNOWN + 1})
        await_changes(scene, [("e1", None, 1), ("e1", 1, 0), ("e1", 0, 1), ("e1", 1, 0), ("e2", None, 1)])
    reasons = {dict(m.headers())[HEADER_REASON] for m in letters.messages}
    assert reasons == {b"unknown_source", b"other_event", b"wrong_key"}
    for message in letters.messages:
        headers = dict(message.headers())
        assert headers[HEADER_TOPIC] == scene.topics.labels.encode()
        assert headers[HEADER_OFFSET].isdigit()
        assert message.key() == (b"another" if headers[HEADER_REASON] == b"wrong_key" else b"e3")
        assert json.loads(message.value())["label"] == 1
    [key, second] = joined(scene, 0)[0]
    assert (key, second.entities, second.event_time) == (
        b"a0",
        {"account": "a0", "shop": "s"},
        START + 2 * SECOND,
    )
    assert (second.origin, second.known_at) == ("analyst", KNOWN)
    assert second.said is not None
    assert (second.said.features, second.said.ranks, second.said.score) == (
        {"amount": 2.0},
        {"hst": 0.5},
        0.5,
    )


SAID: list[dict[str, Any]] = [
    *({"id": f"e{n}", "label": n % 3 % 2} for n in range(12)),
    *({"id": f"e{n}", "label": 1 - n % 3 % 2, "known_at": KNOWN + 1} for n in range(4)),
]
MEANT = [
    *((f"e{n}", None, n % 3 % 2) for n in range(12)),
    *((f"e{n}", n % 3 % 2, 1 - n % 3 % 2) for n in range(4)),
]


@pytest.mark.parametrize(
    ("where", "step", "visit"),
    [
        ("near", "after_produce", 1),
        ("near", "after_send_offsets", 1),
        ("near", "after_commit", 1),
        ("far", "after_commit", 1),
        ("far", "after_produce", 2),
        ("far", "after_commit", 2),
    ],
)
def test_killed_anywhere_each_label_is_joined_once(scene: Scene, where: str, step: str, visit: int) -> None:
    verdicts(scene, 0, 12)
    say(scene, *SAID)
    program = [sys.executable, "-m", "tests.integration.labels_joiner_program", scene.bootstrap]
    killed = subprocess.run(
        [*program, str(scene.pipeline_file), where, step, str(visit)], cwd=ROOT, check=False, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    near = None if where == "near" else Nowhere()
    with joining(parts_of(scene.bootstrap, scene.pipeline, near=near)):
        # comes after everything that was there before
        verdicts(scene, 12, 1)
        say(scene, {"id": "e12", "label": 1})
        await_changes(scene, [*MEANT, ("e12", None, 1)])
    assert len(changes(scene)) == len(MEANT) + 1


class Away:
    """A store that does not answer until told otherwise."""

    def __init__(self, scan: Any) -> None:
        self.scan = scan
        self.back = False
        self.asked = 0

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        self.asked += 1
        if not self.back:
            raise StoreUnavailable("away")
        found: dict[str, bytes] = self.scan.find(ids)
        return found


def test_orphans_outlive_the_joiner_and_are_given_up_only_after_a_search(scene: Scene, kafka: str) -> None:
    letters = scene.reader(scene.topics.raw_label_dead_letters)
    claims = scene.reader(scene.topics.label_claims)
    say(scene, {"id": "e1", "label": 1})
    # as many and as large as one event's may be
    say(scene, *[{"id": "nobody", "label": n % 2} for n in range(MAX_PER_EVENT)], size=60_000)
    parts = parts_of(scene.bootstrap, scene.pipeline, near=Nowhere())
    away = Away(parts.far)
    impatient = msgspec.structs.replace(
        scene.pipeline, labels=LabelsSpec(sources=scene.pipeline.label_sources, orphans_wait=0)
    )
    with joining(replace(parts, pipeline=impatient, far=away)):
        scene.await_count(claims, 2)
        eventually("searches that fail", lambda: away.asked >= 2)
    assert letters.messages == []
    assert changes(scene) == []
    verdicts(scene, 0, 2)
    away.back = True
    with joining(replace(parts, pipeline=impatient, far=away)):
        scene.await_count(letters, MAX_PER_EVENT)
        await_changes(scene, [("e1", None, 1)])
    letter = letters.messages[-1]
    assert len(letter.value()) == 60_000
    assert (letter.key(), dict(letter.headers())[HEADER_REASON]) == (b"nobody", b"no_verdict")
    assert json.loads(letter.value()) == {"id": "nobody", "label": 1, "source": "analyst", "known_at": KNOWN}


def test_an_import_and_the_joiner_tell_one_story(scene: Scene) -> None:
    verdicts(scene, 0, 4)
    path = labels_file(scene, "l.csv", [("e1", 1, KNOWN), ("e2", 1, KNOWN)])
    assert run_import(scene, path)["written"] == 2
    say(
        scene,
        {"id": "e1", "label": 0, "known_at": KNOWN + 1},
        {"id": "e2", "label": 1, "known_at": KNOWN + 1},
    )
    with joining(parts_of(scene.bootstrap, scene.pipeline)):
        await_changes(scene, [("e1", None, 1), ("e2", None, 1), ("e1", 1, 0)])
    await_departure(scene)
    later = labels_file(scene, "m.csv", [("e1", 1, KNOWN + 2), ("e2", 1, KNOWN + 2), ("e3", 0, KNOWN)])
    assert run_import(scene, later)["written"] == 2
    say(
        scene,
        {"id": "e1", "label": None, "known_at": KNOWN + 3},
        {"id": "e3", "label": 1, "known_at": KNOWN + 3},
    )
    with joining(parts_of(scene.bootstrap, scene.pipeline)):
        await_changes(
            scene,
            [("e1", None, 1), ("e2", None, 1), ("e1", 1, 0), ("e1", 0, 1), ("e3", None, 0), ("e3", 0, 1)],
        )


def test_a_file_goes_through_the_joiner_that_runs(scene: Scene) -> None:
    verdicts(scene, 0, 4)
    rows: list[Row] = [("e1", 1, KNOWN), ("e2", 1, KNOWN), ("e1", None, KNOWN + 1)]
    path = labels_file(scene, "l.csv", rows)
    parts = parts_of(scene.bootstrap, scene.pipeline)
    with joining(parts):
        eventually("the joiner to lead", lambda: leads(parts))
        assert run_import(scene, path) == {
            "topic": scene.topics.labels, "dry_run": False, "rows": 3, "sent": 3
        }  # fmt: skip
        assert run_import(scene, path)["sent"] == 3
        await_changes(scene, [("e1", None, 1), ("e1", 1, None), ("e2", None, 1)])
        assert "source is not one of those" in run_import(scene, path, "--origin", "my aunt", code=2)
        eventually("the repetition", lambda: parts.metrics.unchanged._value.get() == 3)
    assert len(changes(scene)) == 3
    await_departure(scene)
    assert run_import(scene, labels_file(scene, "m.csv", [("e3", 0, KNOWN)]))["written"] == 1


def leads(parts: JoinerParts) -> bool:
    """Whether this joiner is the one that works."""
    return bool(parts.metrics.active._value.get())


def test_of_two_joiners_one_stands_by_and_takes_over(scene: Scene) -> None:
    verdicts(scene, 0, 4)
    first, second = (parts_of(scene.bootstrap, scene.pipeline) for _ in range(2))

    with joining(first):
        with joining(second):
            say(scene, {"id": "e1", "label": 1})
            await_changes(scene, [("e1", None, 1)])
        eventually("the one that is left to lead", lambda: leads(first))
        say(scene, {"id": "e1", "label": 0, "known_at": KNOWN + 1})
        await_changes(scene, [("e1", None, 1), ("e1", 1, 0)])
