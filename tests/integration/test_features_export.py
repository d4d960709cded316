"""Training sets hold what was scored, bit for bit: from the log whatever happened, from a file by known-at."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from domain.batch import EventBatch, Floats, Ints
from domain.clock import SystemClock, from_micros, to_micros
from domain.label_codec import JoinedLabel, LabelCodec
from domain.privacy import Protector
from domain.verdict import Flag, Verdict
from scoring.engine import PartitionScorer
from stream import feature_lane
from stream.decoding import decode_messages
from stream.feature_log import export_topics, find_log, shared_features
from stream.kafka import KafkaConnection
from stream.replay import Sendable, replay_producer
from stream.topics import partition_of
from tests.integration.test_labels import all_of
from tests.system.events import _START, event, events
from tests.system.scene import PATIENCE, PRIVACY_KEY, Scene, eventually
from tests.system.worker_program import KillAt
from tidegate.cli import app

pytestmark = [pytest.mark.kafka, pytest.mark.redis]

PIPELINE = Path(__file__).parents[1] / "system" / "export_pipeline.yaml"
MINUTE = 60_000_000
START = to_micros(_START)
EVENTS = 1_600
STEP = 7_000_000


def traffic(count: int) -> list[Sendable]:
    """Events with repetitions, late ones, and some that are none."""
    made = []
    for number, plain in enumerate(events(count)):
        record, sent = msgspec.json.decode(plain.payload), plain
        if number % 41 == 40:
            others = {name: record.get(name) for name in ("amount", "shop", "pieces")}
            sent = event(record["id"], number * 7.0 - 4_000, record["account"], **others)
        made.append(sent)
        if number % 37 == 36:
            made.append(made[-5])
        if number % 97 == 96:
            made.append(Sendable(b"nobody", b'{"id": 1', None))
    return made


def labels_of(sent: Sequence[Sendable]) -> list[JoinedLabel]:
    """What half of the events turned out to be, 5 to 50 minutes after they came; some come back as their opposite.

    ``known_at`` is measured from arrival, also for late events.
    """
    protect = Protector(PRIVACY_KEY.encode()).protect
    made: dict[str, list[JoinedLabel]] = {}
    for record in sent:
        try:
            fields = json.loads(record.payload)
        except ValueError:
            continue
        id_ = fields["id"]
        chance = random.Random(id_)
        if id_ in made or chance.random() < 0.5:
            continue
        known_at = START + int(id_[1:]) * STEP + chance.randrange(5, 50) * MINUTE + chance.randrange(1000)
        time = int(np.datetime64(fields["at"].removesuffix("+00:00"), "us").astype(np.int64))
        entities = {"account": protect(fields["account"]), "shop": fields["shop"]}
        fraud = chance.random() < 0.4
        first = JoinedLabel(
            id=id_, event_time=time, known_at=known_at, label=1 if fraud else 0, entities=entities
        )
        made[id_] = [first]
        if chance.random() < 0.3:
            made[id_].append(
                msgspec.structs.replace(
                    first, known_at=known_at + 20 * MINUTE, label=0 if fraud else 1, previous=first.label
                )
            )
    return sorted((one for told in made.values() for one in told), key=lambda one: one.known_at)


@dataclass(frozen=True)
class Scored:
    """A scene in which everything was scored: with which events, labels (by known-at) and verdicts."""

    scene: Scene
    sent: list[Sendable]
    labels: list[JoinedLabel]
    verdicts: list[Verdict]


def send_labels(scene: Scene, labels: Sequence[JoinedLabel], sent: Sequence[Sendable]) -> None:
    """Into the partitions of their events."""
    keys = {}
    for record in sent:
        if record.key != b"nobody":
            keys[json.loads(record.payload)["id"]] = record.key or b""
    producer = replay_producer(
        KafkaConnection(scene.bootstrap)
    )  # one that keeps their order, whatever it repeats
    codec = LabelCodec(scene.pipeline)
    for label in labels:
        partition = partition_of(keys[label.id], scene.partitions)
        producer.produce(scene.topics.labels_joined, codec.encode(label), partition=partition)
    assert producer.flush(PATIENCE) == 0


@contextmanager
def scored(kafka: str, redis_url: str, name: str, directory: Path, partitions: int) -> Iterator[Scored]:
    """A day of a worker: labels before their time and long after it, and a kill in the middle of a transaction."""
    sent = traffic(EVENTS)
    labels = labels_of(sent)
    early = [label for label in labels if random.Random(f"early {label.id}").random() < 0.6]
    behind = [label for label in labels if label not in early]
    half = len(sent) // 2
    with Scene.open(kafka, redis_url, PIPELINE, name, directory, partitions) as scene:
        reader = scene.reader()
        send_labels(scene, early, sent)
        scene.send(sent[:half])
        worker = scene.worker(max_batch=60, flush_seconds=0.05, snapshot_seconds=0.3)
        worker.start(KillAt("after_send_offsets", visit=4))
        assert worker.wait() == -9, worker.tail()
        worker.start()
        valid = [record for record in sent if record.key != b"nobody"]
        before = sum(record.key != b"nobody" for record in sent[:half])
        scene.await_count(reader, before)
        # labels that were known long ago, had anybody sent them
        send_labels(scene, behind, sent)
        scene.send(sent[half:])
        scene.await_count(reader, len(valid))
        worker.stop()
        yield Scored(scene, sent, labels, reader.verdicts())


@pytest.fixture(scope="module")
def one(kafka: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scored]:
    """One partition."""
    directory = tmp_path_factory.mktemp("one")
    with scored(kafka, redis_server, f"x{directory.stat().st_ino:x}", directory, 1) as made:
        yield made


def export(done: Scored, out: Path, *options: str) -> dict[str, Any]:
    """``tidegate features export``; its JSON."""
    arguments = [
        "features",
        "export",
        "--pipeline",
        str(done.scene.pipeline_file),
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(
        app, [*arguments, *options], env=done.scene.environment(), catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return facts


def bits(values: Floats) -> Ints:
    """Of each number; every NaN is the same."""
    return np.ascontiguousarray(np.where(np.isnan(values), np.nan, values)).view(np.int64)


def vectors(table: Any, names: Sequence[str]) -> Floats:
    """The feature columns of a training set."""
    columns = [table.column(f"f_{name}").to_numpy().astype(np.float64) for name in names]
    return np.column_stack(columns)


def live(verdicts: Sequence[Verdict], names: Sequence[str]) -> Floats:
    """The vectors that verdicts carry."""
    rows = [[np.nan if v.features[n] is None else v.features[n] for n in names] for v in verdicts]
    return np.array(rows, dtype=np.float64)


def firsts(verdicts: Sequence[Verdict]) -> dict[tuple[int, int], Verdict]:
    """Verdicts of all but repetitions, by source."""
    found = [v for v in verdicts if Flag.DUPLICATE not in v.flags]
    return {(v.source.partition, v.source.offset): v for v in found}


def aligned(table: Any, verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdict of each row of a training set; every first verdict has exactly one."""
    known = firsts(verdicts)
    places = list(zip(table.column("partition").to_pylist(), table.column("offset").to_pylist(), strict=True))
    assert len(set(places)) == len(places)
    assert set(places) == set(known)
    return [known[place] for place in places]


def as_known(labels: Sequence[JoinedLabel], as_of: int | None = None) -> dict[str, tuple[int, int]]:
    """Event id to label and since when, by what was known."""
    return {
        one.id: (one.label or 0, one.known_at) for one in labels if as_of is None or one.known_at <= as_of
    }


def check_labels(table: Any, wanted: dict[str, tuple[int, int]]) -> None:
    """The label columns say ``wanted``, and nothing of other events."""
    told = zip(
        table.column("id").to_pylist(),
        table.column("label").to_pylist(),
        table.column("label_known_at").to_pylist(),
        strict=True,
    )
    got = {id_: (label, to_micros(since)) for id_, label, since in told if label is not None}
    assert got == {id_: wanted[id_] for id_ in wanted if id_ in set(table.column("id").to_pylist())}
    assert {label for label, _ in got.values()} == {0, 1}


def test_rows_from_the_log_are_what_was_scored(one: Scored, tmp_path: Path) -> None:
    facts = export(one, tmp_path / "train.parquet", "--topics")
    table = pq.read_table(tmp_path / "train.parquet")
    names = one.scene.pipeline.feature_names
    known = aligned(table, one.verdicts)
    assert np.array_equal(bits(vectors(table, names)), bits(live(known, names)))
    assert table.column("id").to_pylist() == [v.id for v in known]
    assert table.column("late").to_pylist() == [Flag.LATE in v.flags for v in known]
    assert table.column("e_account").to_pylist() == [v.entities["account"] for v in known]
    assert [to_micros(t) for t in table.column("event_time").to_pylist()] == [v.event_time for v in known]
    assert table.schema.metadata[b"pipeline_digest"].decode() == one.scene.pipeline.digest
    check_labels(table, as_known(one.labels))
    # the scene had what makes this hard
    assert sum(Flag.LATE in v.flags for v in known) > 20
    assert len(one.verdicts) - len(known) > 20
    assert len({v.labels_offset for v in known}) > 100
    rates = vectors(table, ["account_rate_2h", "account_rate_1h_late", "shop_rate_2h"])
    assert all(len(np.unique(column[~np.isnan(column)])) > 20 for column in rates.T)
    # and the export says the same of itself
    assert (facts["rows"], facts["compared"], facts["differing"]) == (len(known), len(known), {})
    assert (facts["without_verdict"], facts["without_event"], facts["warnings"]) == (0, 0, [])
    assert facts["duplicates"] == len(one.verdicts) - len(known)


def test_labels_as_of_a_time_and_rows_since_one(one: Scored, tmp_path: Path) -> None:
    as_of, since = START + EVENTS // 2 * STEP, START + EVENTS // 4 * STEP
    options = ["--as-of", from_micros(as_of).isoformat(), "--since", from_micros(since).isoformat()]
    export(one, tmp_path / "train.parquet", "--topics", *options)
    table = pq.read_table(tmp_path / "train.parquet")
    names = one.scene.pipeline.feature_names
    check_labels(table, as_known(one.labels, as_of))
    assert as_known(one.labels, as_of) != as_known(one.labels)
    known = firsts([v for v in one.verdicts if v.event_time >= since])
    assert 500 < len(known) == table.num_rows
    # windows reach back before the first row, and what was known later still is in the vectors that knew it
    assert np.array_equal(bits(vectors(table, names)), bits(live(list(known.values()), names)))


def test_a_label_one_row_early_is_seen(one: Scored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison can fail: labels moved by a single row make other vectors."""
    rightly = feature_lane._labels_offsets

    def early(verdicts: list[Any]) -> Ints:
        offsets = rightly(verdicts)
        return np.concatenate([offsets[1:], offsets[-1:]])

    monkeypatch.setattr(feature_lane, "_labels_offsets", early)
    facts = export(one, tmp_path / "train.parquet", "--topics")
    assert {"account_rate_2h", "account_risk"} <= set(facts["differing"])
    assert "account_sum_2h" not in facts["differing"]
    assert any("not what was scored: account_rate_2h" in warning for warning in facts["warnings"])
    table = pq.read_table(tmp_path / "train.parquet")
    names = one.scene.pipeline.feature_names
    known = aligned(table, one.verdicts)
    assert not np.array_equal(bits(vectors(table, names)), bits(live(known, names)))


def by_known_at(one: Scored) -> tuple[EventBatch, Floats, npt.NDArray[np.bool_]]:
    """The engine over the events of the log, had each label arrived the moment it was known."""
    messages = all_of(one.scene, one.scene.topics.events)
    decoded = decode_messages(one.scene.codec, messages)
    batch = one.scene.codec.to_batch(decoded.events, [messages[i].offset() for i in decoded.accepted])
    labels = LabelCodec(one.scene.pipeline).to_batch(one.labels, range(len(one.labels)))
    due = labels.between(0, labels.due(int(batch.times.max())))
    assert 300 < len(due) < len(labels)
    advanced = PartitionScorer(one.scene.pipeline).advance(batch, due)
    return batch, advanced.features, advanced.duplicate


def test_rows_from_a_file_count_labels_by_known_at(one: Scored, tmp_path: Path) -> None:
    file, told = tmp_path / "events.jsonl", tmp_path / "labels.csv"
    file.write_bytes(b"".join(record.payload + b"\n" for record in one.sent))
    lines = [f"{label.id},{label.label},{from_micros(label.known_at).isoformat()}" for label in one.labels]
    told.write_text("\n".join(["id,label,known_at", *lines]) + "\n")
    facts = export(one, tmp_path / "train.parquet", "--events", str(file), "--labels", str(told))
    table = pq.read_table(tmp_path / "train.parquet")
    batch, wanted, duplicate = by_known_at(one)
    names = one.scene.pipeline.feature_names
    assert table.column("offset").to_pylist() == batch.offsets[~duplicate].tolist()
    assert table.column("id").to_pylist() == [v.id for v in firsts(one.verdicts).values()]
    assert np.array_equal(bits(vectors(table, names)), bits(wanted[~duplicate]))
    # late labels make live vectors differ from these, in the rates and nowhere else
    differs = bits(wanted[~duplicate]) != bits(live(list(firsts(one.verdicts).values()), names))
    found = {name for name, column in zip(names, differs.T, strict=True) if column.any()}
    assert {"account_rate_2h", "shop_rate_2h"} < found
    assert all("rate" in name or "risk" in name for name in found)
    check_labels(table, as_known(one.labels))
    assert facts["rejected"] == {"not_json": EVENTS // 97}
    assert facts["duplicates"] == int(duplicate.sum())


def test_a_log_without_its_beginning_is_refused(one: Scored, tmp_path: Path) -> None:
    """Deletes records of the log: the last test that uses it."""
    scene = one.scene
    at = TopicPartition(scene.topics.events, 0, 100)
    admin = AdminClient({"bootstrap.servers": scene.bootstrap})
    deleted: list[bool] = []

    def delete() -> bool:
        """A client that has only just begun does not know who leads the partition."""
        try:
            deleted.extend(f.result() is not None for f in admin.delete_records([at]).values())
        except KafkaException as error:
            if error.args[0].code() != KafkaError._NOENT:
                raise
        return bool(deleted)

    eventually("the first records are gone", delete)
    out = tmp_path / "train.parquet"
    with pytest.raises(
        Exception, match=r"no longer holds its beginning: events begins in partition 0 at 100"
    ):
        export(one, out, "--topics")
    assert not out.exists()
    facts = export(one, out, "--topics", "--allow-truncated")
    known = [v for v in firsts(one.verdicts).values() if v.source.offset >= 100]
    assert (facts["rows"], facts["compared"]) == (len(known), len(known))
    assert facts["differing"]
    assert "Windows begin empty" in facts["warnings"][0]


def test_partitions_side_by_side(kafka: str, redis_url: str, topic_prefix: str, tmp_path: Path) -> None:
    """Three partitions: features of the key entity are exact; the others may know their peers a little late."""
    with scored(kafka, redis_url, topic_prefix, tmp_path, 3) as done:
        pipeline = done.scene.pipeline
        out = tmp_path / "train.parquet"
        connection = KafkaConnection(done.scene.bootstrap)
        result = export_topics(
            connection,
            pipeline,
            done.scene.codec,
            find_log(connection, pipeline),
            lambda partition, tables: PartitionScorer(pipeline, partition, tables=tables),
            out,
            SystemClock(),
        )
        table = pq.read_table(out)
        known = aligned(table, done.verdicts)
        own = [name for name in pipeline.feature_names if name not in shared_features(pipeline)]
        assert len(own) == 14
        assert len({v.source.partition for v in known}) == 3
        assert np.array_equal(bits(vectors(table, own)), bits(live(known, own)))
        assert set(result.differing) <= shared_features(pipeline)
        assert result.compared == len(known)
        check_labels(table, as_known(done.labels))
        # the shared entities did count what other partitions saw: more than any partition of its own could know
        shops = vectors(table, ["shop_count_1h"])[:, 0]
        assert np.nanmean(shops[len(shops) // 2 :]) > 0.8 * np.nanmean(
            live(known, ["shop_count_1h"])[len(known) // 2 :, 0]
        )
