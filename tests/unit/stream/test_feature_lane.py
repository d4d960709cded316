"""A log played again: labels where their verdicts counted them, partitions side by side, nothing taken on trust."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from domain.clock import to_micros
from domain.codec import EventCodec
from domain.errors import Fatal
from domain.label_codec import JoinedLabel, LabelCodec
from domain.pipeline import Pipeline
from domain.privacy import Protector
from featurestore.tables import FeatureTables
from scoring.engine import PartitionScorer
from stream.feature_lane import CHUNK, Lane, Logs, Piece, Tally, one_by_one, side_by_side
from tests.system.events import _START, event
from tidegate.loading import load

LABELS = Path(__file__).parents[2] / "system" / "labels_pipeline.yaml"
START = to_micros(_START)
MINUTE = 60_000_000
KEY = Protector(b"k" * 32)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(LABELS)


@dataclass
class Record:
    """What of a Kafka message an export asks for."""

    offset_: int
    value_: bytes
    key_: bytes | None = None
    appended: int = START // 1000

    def value(self) -> bytes:
        return self.value_

    def key(self) -> bytes | None:
        return self.key_

    def headers(self) -> None:
        """It is no control record."""

    def offset(self) -> int:
        return self.offset_

    def topic(self) -> str:
        return "labels.verdicts"

    def timestamp(self) -> tuple[int, int]:
        return 2, self.appended


class Shelf:
    """Records of partitions in memory."""

    def __init__(self, *partitions: Sequence[Record]) -> None:
        self._left = [deque(records) for records in partitions]

    def peek(self, partition: int) -> Any | None:
        return self._left[partition][0] if self._left[partition] else None

    def take(self, partition: int) -> Any | None:
        return self._left[partition].popleft() if self._left[partition] else None


def at(offset: int, second: float, account: str = "a", shop: str = "s", appended: int = 0) -> Record:
    """An event in the log."""
    sent = event(f"{account}-{offset}", second, account, shop=shop)
    return Record(offset, sent.payload, sent.key, START // 1000 + appended)


def verdict(offset: int, about: int, *, labels: int | None = 0, digest: str = "", **other: Any) -> Record:
    """A verdict about the event at ``about``."""
    body: dict[str, Any] = {
        "source": {"topic": "labels.events", "partition": 0, "offset": about},
        "flags": [],
        "features": None,
        "versions": {"pipeline_digest": digest},
        **other,
    }
    if labels is not None:
        body["labels_offset"] = labels
    return Record(offset, msgspec.json.encode(body))


def label(offset: int, about: Record, known_at: int, pipeline: Pipeline) -> Record:
    """A positive label."""
    record = msgspec.json.decode(about.value())
    entities = {"account": record["account"], "shop": record["shop"]}
    time = START + int(record["at"][14:16]) * MINUTE
    told = JoinedLabel(id=record["id"], event_time=time, known_at=known_at, label=1, entities=entities)
    return Record(offset, LabelCodec(pipeline).encode(told))


def lanes(
    pipeline: Pipeline, events: Shelf, verdicts: Shelf, labels: Shelf, *, partitions: int = 1, cut: int = -1
) -> tuple[list[Lane], Tally]:
    """Lanes over tables that they share."""
    logs = Logs(events, verdicts, labels, frozenset({cut}))
    tally = Tally(differing=np.zeros(len(pipeline.feature_names), dtype=np.int64))
    tables = FeatureTables(pipeline, partitions=partitions)
    codec = EventCodec(pipeline, KEY)
    return [
        Lane(pipeline, p, PartitionScorer(pipeline, p, tables=tables), codec, logs, tally)
        for p in range(partitions)
    ], tally


def column(pieces: Sequence[Piece], pipeline: Pipeline, name: str) -> list[float]:
    """One feature over all rows, in the order of processing."""
    index = pipeline.feature_names.index(name)
    return [value for piece in pieces for value in piece.advanced.features[:, index].tolist()]


def test_labels_count_where_their_verdict_counted_them(pipeline: Pipeline) -> None:
    """Not where they were known: the first came long after its time, the second is known to verdicts at once."""
    log = [at(i, 60.0 * i) for i in range(6)]
    told = [
        label(0, log[0], START, pipeline),
        Record(1, b"{"),
        label(2, log[1], START + 40 * MINUTE, pipeline),
    ]
    counted = [0, 0, 0, 1, 3, 3]
    (lane,), tally = lanes(
        pipeline, Shelf(log), Shelf([verdict(i, i, labels=n) for i, n in enumerate(counted)]), Shelf(told)
    )
    pieces = list(one_by_one([lane]))
    rates = column(pieces, pipeline, "account_rate_4h")
    assert np.isnan(rates[0])
    assert rates[1:] == [0.0, 0.0, 1 / 3, 2 / 4, 2 / 5]
    assert [len(piece.batch) for piece in pieces] == [3, 1, 2]
    assert (tally.verdicts, tally.by_known_at) == (6, 0)


def test_verdicts_that_do_not_tell_get_labels_by_known_at(pipeline: Pipeline) -> None:
    log = [at(i, 60.0 * i) for i in range(5)]
    told = [label(0, log[0], START + 2 * MINUTE, pipeline), label(1, log[1], START + 4 * MINUTE, pipeline)]
    told.append(label(2, log[2], START + 4 * MINUTE + 1, pipeline))
    (lane,), tally = lanes(
        pipeline, Shelf(log), Shelf([verdict(i, i, labels=None) for i in range(5)]), Shelf(told)
    )
    assert column(list(one_by_one([lane])), pipeline, "account_rate_4h")[1:] == [0.0, 1 / 2, 1 / 3, 2 / 4]
    assert tally.by_known_at == 5


def test_partitions_never_see_what_was_appended_later(pipeline: Pipeline) -> None:
    """Two partitions feed one shop; an event knows those appended before it, wherever they are."""
    chance = random.Random(2)
    logs: list[list[Record]] = [[], []]
    order = []
    for number in range(300):
        partition = chance.randrange(2)
        made = at(len(logs[partition]), number, f"a{partition}", appended=number // 3)
        logs[partition].append(made)
        order.append((number // 3, partition, number))
    told = [label(0, logs[0][0], START, pipeline)]
    verdicts = [[verdict(i, i, labels=1 - p) for i in range(len(logs[p]))] for p in range(2)]

    def rates(merge: Callable[[list[Lane]], Any]) -> tuple[list[float], list[int]]:
        made, _ = lanes(pipeline, Shelf(*logs), Shelf(*verdicts), Shelf(told, []), partitions=2)
        pieces = list(merge(made))
        return column(pieces, pipeline, "account_count_1h"), [
            piece.partition for piece in pieces for _ in piece.batch.ids
        ]

    counts, partitions = rates(side_by_side)
    assert partitions == [partition for _, partition, _ in sorted(order)]
    # each account is in one partition, so its own features do not depend on the others
    one_after_the_other, apart = rates(one_by_one)
    assert apart == sorted(partitions)
    for partition in range(2):
        mine = [c for c, p in zip(counts, partitions, strict=True) if p == partition]
        assert mine == [c for c, p in zip(one_after_the_other, apart, strict=True) if p == partition]


def test_long_logs_go_in_chunks_and_dead_letters_leave_no_trace(pipeline: Pipeline) -> None:
    """More events than are read at once, among them many that were refused."""
    log: list[Record] = []
    verdicts: list[Record] = []
    for offset in range(2 * CHUNK + 700):
        if offset % 3 == 1:
            log.append(Record(offset, b"{", b"a"))
            continue
        log.append(at(offset, offset / 1000))
        verdicts.append(verdict(len(verdicts), offset))
    (lane,), tally = lanes(pipeline, Shelf(log), Shelf(verdicts), Shelf([]))
    pieces = list(one_by_one([lane]))
    assert column(pieces, pipeline, "account_count_1h") == list(range(1, len(verdicts) + 1))
    assert [o for piece in pieces for o in piece.batch.offsets.tolist()] == [
        o for o in range(len(log)) if o % 3 != 1
    ]
    assert max(len(piece.batch) for piece in pieces) <= CHUNK
    assert (tally.verdicts, tally.without_verdict, tally.without_event) == (len(verdicts), 0, 0)


def test_events_and_verdicts_without_each_other_are_left_out_and_told(pipeline: Pipeline) -> None:
    log = [at(0, 0), at(1, 1), Record(2, b"{", b"a"), at(3, 3)]
    (lane,), tally = lanes(
        pipeline, Shelf(log), Shelf([verdict(0, 0), verdict(1, 2), verdict(2, 3)]), Shelf([])
    )
    assert column(list(one_by_one([lane])), pipeline, "account_count_1h") == [1, 2]
    assert (tally.without_verdict, tally.without_event) == (1, 1)


def test_events_whose_verdicts_are_deleted_still_count(pipeline: Pipeline) -> None:
    (lane,), tally = lanes(
        pipeline, Shelf([at(i, i) for i in range(5)]), Shelf([verdict(3, 3), verdict(4, 4)]), Shelf([]), cut=0
    )
    pieces = list(one_by_one([lane]))
    exported = np.concatenate([piece.exported for piece in pieces])
    assert exported.tolist() == [False, False, False, True, True]
    assert column(pieces, pipeline, "account_count_1h") == [1, 2, 3, 4, 5]
    assert tally.without_verdict == 0


def test_vectors_are_held_against_verdicts(pipeline: Pipeline) -> None:
    names = pipeline.feature_names
    right = {"amount": 10.0, "account_count_1h": 1.0, "account_rate_4h": None, "shop_rate_4h": None}
    assert set(right) == set(names)
    second = {**right, "account_count_1h": 2.0, "account_rate_4h": 1e-300}
    said = [
        verdict(0, 0, digest=pipeline.digest, features=right),
        verdict(1, 1, digest=pipeline.digest, features=second),
        verdict(2, 2, digest="another", features=second),
        verdict(3, 3, digest=pipeline.digest, features=second, flags=["degraded"]),
    ]
    (lane,), tally = lanes(pipeline, Shelf([at(i, i) for i in range(4)]), Shelf(said), Shelf([]))
    assert sum(len(piece.batch) for piece in one_by_one([lane])) == 4
    assert tally.compared == 2
    assert dict(zip(names, tally.differing.tolist(), strict=True)) == {
        **dict.fromkeys(names, 0),
        "account_rate_4h": 1,
    }


def test_two_verdicts_for_one_event_are_an_error(pipeline: Pipeline) -> None:
    (lane,), _ = lanes(
        pipeline, Shelf([at(0, 0), at(1, 1)]), Shelf([verdict(0, 1), verdict(1, 1)]), Shelf([])
    )
    with pytest.raises(
        Fatal, match=r"0:1 is a verdict about offset 1 of the events, after one about offset 1"
    ):
        list(one_by_one([lane]))
