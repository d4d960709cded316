"""An erased entity: in memory, in the store and in what recovery makes of the log, as if it had never been."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from domain.batch import EventBatch
from domain.codec import EventCodec
from domain.erasure import CONTROL_ERASE, Erasure, ErasureCodec
from domain.label import LabelBatch
from domain.pipeline import Pipeline
from domain.privacy import Protector
from featurestore.erased import MOST, Erased
from featurestore.memory import MemoryStateStore
from featurestore.ports import Applied, EntityRequest, PartitionFlush
from scoring.engine import PartitionScorer
from stream.decoding import cut_at_erasures, decode_messages
from stream.topics import HEADER_CONTROL
from tests.system.events import event
from tidegate.loading import load

SYSTEM = Path(__file__).resolve().parents[2] / "system"
PROTECTOR = Protector(b"k" * 32)
GONE = Erasure(entity="account", value=PROTECTOR.protect("acc-1"), id="e-1", partition=0)


@pytest.fixture(scope="module")
def small() -> Pipeline:
    return load(SYSTEM / "small_pipeline.yaml")


@pytest.fixture(scope="module")
def labelled() -> Pipeline:
    return load(SYSTEM / "labels_pipeline.yaml")


class Message:
    """What of a Kafka message decoding asks for."""

    def __init__(self, offset: int, key: bytes | None, value: bytes, headers: Any = None) -> None:
        self._given = offset, key, value, headers

    def offset(self) -> int:
        return self._given[0]

    def key(self) -> bytes | None:
        return self._given[1]

    def value(self) -> bytes:
        return self._given[2]

    def headers(self) -> Any:
        return self._given[3]

    def partition(self) -> int:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return 2, 2_000_000_000_000


def batch_of(
    pipeline: Pipeline, first: int, count: int, accounts: tuple[str, ...] = ("acc-1", "acc-2")
) -> EventBatch:
    """``count`` events at offsets from ``first`` on, the accounts in turn."""
    codec = EventCodec(pipeline, PROTECTOR)
    made = [
        event(f"e{n}", 60.0 * n, accounts[n % len(accounts)], amount=5.0 + n)
        for n in range(first, first + count)
    ]
    decoded = [codec.decode(one.payload, received_at=2**60) for one in made]
    return codec.to_batch(decoded, list(range(first, first + count)))


def flush(scorer: PartitionScorer, store: MemoryStateStore, end: int) -> None:
    applied = Applied(
        end, scorer.stream_time, 0, scorer.labels_offset, 0, scorer.tables.erased(0, scorer.stream_time)
    )
    store.flush([PartitionFlush(0, store.load_applied(0), applied, scorer.tables.take_dirty(0))])


def blobs(store: MemoryStateStore, *accounts: str) -> list[bytes | None]:
    keys = [PROTECTOR.protect(account) for account in accounts]
    return store.load_entities([EntityRequest(0, "account", keys)])[0]


def test_an_erased_entity_begins_anew_and_others_do_not_notice(small: Pipeline) -> None:
    scorer, without = PartitionScorer(small), PartitionScorer(small)
    scorer.features_only(batch_of(small, 0, 10))
    scorer.erase(GONE, 10)
    after = scorer.features_only(batch_of(small, 11, 10))
    fresh = PartitionScorer(small, stream_time=scorer.stream_time)
    as_new = fresh.features_only(batch_of(small, 11, 10))
    without.features_only(batch_of(small, 0, 10))
    as_before = without.features_only(batch_of(small, 11, 10))
    mine = np.array([n % 2 == 0 for n in range(11, 21)])
    np.testing.assert_array_equal(after[mine], as_new[mine])
    np.testing.assert_array_equal(after[~mine], as_before[~mine])
    assert not np.array_equal(after[mine], as_before[mine], equal_nan=True)


def test_the_store_forgets_it_and_a_worker_that_starts_anew_does_not_find_it(small: Pipeline) -> None:
    store = MemoryStateStore()
    scorer = PartitionScorer(small, fetch=store.load_entities)
    scorer.features_only(batch_of(small, 0, 10))
    flush(scorer, store, 10)
    kept = blobs(store, "acc-1", "acc-2")
    assert None not in kept
    scorer.erase(GONE, 10)
    flush(scorer, store, 11)
    assert blobs(store, "acc-1", "acc-2") == [None, kept[1]]
    # an entity that was not in memory
    other = PartitionScorer(small, fetch=store.load_entities, stream_time=scorer.stream_time)
    other.erase(Erasure(entity="account", value=PROTECTOR.protect("acc-2"), id="e-2", partition=0), 11)
    flush(other, store, 12)
    assert blobs(store, "acc-1", "acc-2") == [None, None]
    scorer.features_only(batch_of(small, 12, 2))
    flush(scorer, store, 14)
    assert None not in blobs(store, "acc-1", "acc-2")


def test_whatever_was_flushed_before_a_crash_recovery_ends_in_the_same_state(small: Pipeline) -> None:
    """The log: events 0 to 9, an erasure at 10, events 11 to 16."""
    whole = PartitionScorer(small)

    def played(scorer: PartitionScorer, start: int, stop: int) -> None:
        for at in range(start, stop):
            if at == 10:
                scorer.erase(GONE, 10)
            else:
                scorer.features_only(batch_of(small, at, 1))

    played(whole, 0, 17)
    wanted = {key: blob for _, key, blob in whole.tables.dirty(0)}
    for torn in (None, 5, 10, 11, 14):
        for flushed in (0, 4, 10, 11, 13):
            if torn is not None and torn < flushed:
                continue
            store = MemoryStateStore()
            first = PartitionScorer(small, fetch=store.load_entities)
            played(first, 0, flushed)
            flush(first, store, flushed)
            if torn is not None:
                # blobs of a later flush arrived, and how far they reach did not
                played(first, flushed, torn)
                marker = store.load_applied(0)
                flush(first, store, torn)
                store._applied[0] = marker  # type: ignore[assignment]
            second = PartitionScorer(small, fetch=store.load_entities)
            second.stream_time = getattr(store.load_applied(0), "stream_time", 0)
            played(second, flushed, 17)
            flush(second, store, 17)
            found = {key: store.load_entities([EntityRequest(0, "account", [key])])[0][0] for key in wanted}
            assert found == wanted, (flushed, torn)


def labels(pipeline: Pipeline, *about: tuple[int, str]) -> LabelBatch:
    """Positive labels about events at these seconds of these accounts, at offsets from 0 on."""
    codec = EventCodec(pipeline, PROTECTOR)
    made = [codec.decode(event("x", at, account).payload, received_at=2**60) for at, account in about]
    events = codec.to_batch(made, list(range(len(made))))
    n = len(about)
    return LabelBatch(
        np.arange(n), np.zeros(n, np.int64), events.times, events.entities, np.ones(n, np.int64)
    )


def test_labels_of_before_count_nowhere_whenever_they_come(labelled: Pipeline) -> None:
    account = event("x", 0, "acc-1")
    value = (
        EventCodec(labelled, PROTECTOR)
        .to_batch([EventCodec(labelled, PROTECTOR).decode(account.payload, received_at=2**60)], [0])
        .entities["account"][0]
    )
    gone = replace_value(value)
    told = labels(labelled, (0, "acc-1"), (60 * 20, "acc-1"))

    def end(*, early: bool, restored: bool) -> dict[str, bytes]:
        scorer = PartitionScorer(labelled)
        scorer.features_only(batch_of(labelled, 0, 10, ("acc-1",)))
        if early:
            scorer.apply_labels(told.between(0, 1))
        scorer.erase(gone, 10)
        if restored:
            held = scorer.tables.erased(0, scorer.stream_time)
            assert len(held) == 1
            scorer.tables._erased.clear()
            scorer.tables.restore_erased(0, held)
        scorer.features_only(batch_of(labelled, 11, 12, ("acc-1",)))
        scorer.apply_labels(told.between(1, 2) if early else told)
        return {key: without_marks(blob) for _, key, blob in scorer.tables.dirty(0)}

    counted_early = end(early=True, restored=False)
    assert counted_early == end(early=False, restored=False) == end(early=False, restored=True)


def replace_value(value: str) -> Erasure:
    return msgspec.structs.replace(GONE, value=value)


def without_marks(blob: bytes) -> bytes:
    """A blob without progress and the offset of its last label (docs/privacy.md says why)."""
    words = np.frombuffer(blob, "<i8").copy()
    words[[0, 5]] = 0
    return words.tobytes()


def test_only_what_we_signed_is_an_erasure(small: Pipeline) -> None:
    codec, mark = EventCodec(small, PROTECTOR), [(HEADER_CONTROL, CONTROL_ERASE)]
    good = codec.erasures.encode(GONE)
    fields = msgspec.json.decode(good)
    forged = [
        {**fields, "value": PROTECTOR.protect("acc-2")}, {**fields, "mac": "0" * 64}, {**fields, "partition": 1},
        {**fields, "mac": "\u00fc"}, {name: value for name, value in fields.items() if name != "mac"},
    ]  # fmt: skip
    values = [msgspec.json.encode(one) for one in forged]
    values += [ErasureCodec(small, Protector(b"other" * 5)).encode(GONE), b"", b"[" * 1000, b"x" * 20_000]
    values += [codec.erasures.encode(msgspec.structs.replace(GONE, entity="shop"))]
    fake = [Message(n, None, value, mark) for n, value in enumerate(values)]
    assert cut_at_erasures(codec, fake) == [(fake, None)]
    assert len(decode_messages(codec, fake).rejected) == len(fake)
    unmarked = Message(0, None, good)
    assert cut_at_erasures(codec, [unmarked]) == [([unmarked], None)]

    sent = event("e1", 1.0)
    events = [Message(n, sent.key, sent.payload) for n in range(2)]
    real = Message(5, None, good, [("other", None), *mark])
    assert cut_at_erasures(codec, [*events, real, events[0]]) == [
        (events, None),
        ([real], GONE),
        ([events[0]], None),
    ]
    assert cut_at_erasures(codec, [real]) == [([real], GONE)]
    assert cut_at_erasures(codec, []) == []


def test_what_is_remembered_of_erasures_is_bounded() -> None:
    held = Erased()
    for number in range(MOST + 3):
        held.add("account", str(number), number)
    assert len(held) == MOST
    assert not held.covers("account", "2", 0)
    assert held.covers("account", "3", 3)
    assert len(held.newest(MOST)) == 3
    assert Erased(held.newest(0)).newest(0) == held.newest(0)
    held.add("account", "3", 1)
    assert held.covers("account", "3", 3)
