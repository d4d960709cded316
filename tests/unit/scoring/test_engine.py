"""The engine says the same however its input is cut, and forgets nothing that it puts away."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from domain.batch import EventBatch, Floats
from domain.codec import EventCodec
from domain.pipeline import Pipeline
from domain.privacy import Protector
from domain.verdict import DECISIONS, Alert, Flag
from featurestore.memory import MemoryStateStore
from featurestore.ports import Applied, PartitionFlush
from featurestore.tables import FeatureTables
from scoring.decision import decide
from scoring.engine import PartitionScorer
from scoring.reasons import MAX_REASONS
from scoring.scored import FLAG_BITS, ScoredBatch
from scoring.verdicts import VerdictEncoder, decode_verdict
from tests.system.bits import assert_same_bits
from tests.system.events import SMALL, event, events
from tidegate.loading import load

ROWS = 2_000


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return load(SMALL)


@pytest.fixture(scope="module")
def batch(pipeline: Pipeline) -> EventBatch:
    """A stream with repeats of near and far events."""
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    flow = events(ROWS)
    flow[1_101] = flow[1_100]  # next to each other
    flow[1_530] = flow[1_490]  # in another batch, within the dedupe window of ten minutes
    flow[1_700] = event("late", 0.0)
    decoded = [codec.decode(e.payload, received_at=2**62) for e in flow]
    # offsets with holes, as dead letters and transaction markers leave them
    return codec.to_batch(decoded, [2 * i + 5 for i in range(ROWS)])


@pytest.fixture(scope="module")
def whole(pipeline: Pipeline, batch: EventBatch) -> ScoredBatch:
    return PartitionScorer(pipeline).process(batch)


def cut(batch: EventBatch, start: int, stop: int) -> EventBatch:
    return EventBatch(
        ids=batch.ids[start:stop],
        times=batch.times[start:stop],
        offsets=batch.offsets[start:stop],
        entities={name: values[start:stop] for name, values in batch.entities.items()},
        numbers={name: values[start:stop] for name, values in batch.numbers.items()},
        strings={name: values[start:stop] for name, values in batch.strings.items()},
    )


def pieces(batch: EventBatch, size: int) -> list[EventBatch]:
    return [cut(batch, at, at + size) for at in range(0, len(batch), size)]


def same(a: Floats, b: Floats) -> bool:
    return np.array_equal(np.where(np.isnan(a), 7e77, a), np.where(np.isnan(b), 7e77, b))


@pytest.mark.parametrize("size", [1, 7, 500])
def test_batches_of_any_size_give_the_same_bits(
    pipeline: Pipeline, batch: EventBatch, whole: ScoredBatch, size: int
) -> None:
    scorer = PartitionScorer(pipeline)
    said = [scorer.process(part) for part in pieces(batch, size)]
    for name in ("features", "raw", "ranks", "score"):
        assert same(np.concatenate([getattr(s, name) for s in said]), getattr(whole, name)), name
    for name in ("decision", "flags", "first_offset"):
        assert np.array_equal(np.concatenate([getattr(s, name) for s in said]), getattr(whole, name)), name
    assert said[-1].stream_time == whole.stream_time
    reasons = [at * size + row for at, s in enumerate(said) for row in s.reasons]
    assert reasons == sorted(whole.reasons)


def test_flags_are_where_they_belong(whole: ScoredBatch) -> None:
    bits = {flag.value: bit for flag, bit in FLAG_BITS.items()}
    duplicates = np.flatnonzero(whole.flags & bits["duplicate"]).tolist()
    assert duplicates == [1_101, 1_530]
    assert whole.first_offset[duplicates].tolist() == [2 * 1_100 + 5, 2 * 1_490 + 5]
    for row, first in ((1_101, 1_100), (1_530, 1_490)):
        assert not np.isnan(whole.score[row])
        assert whole.score[row] == whole.score[first]
        assert whole.decision[row] == whole.decision[first]
        assert np.isnan(whole.features[row]).all()
    assert np.flatnonzero(whole.flags & bits["late"]).tolist() == [1_700]
    warming = np.flatnonzero(whole.flags & bits["warming_up"])
    assert np.array_equal(warming, np.flatnonzero(np.isnan(whole.score)))
    assert 0 < len(warming) < ROWS


def test_a_repeat_counts_once(pipeline: Pipeline) -> None:
    codec = EventCodec(pipeline, Protector(b"k" * 16))
    flow = [event("a", 0), event("a", 0), event("b", 10), event("a", 0), event("c", 20)]
    batch = codec.to_batch([codec.decode(e.payload, received_at=2**62) for e in flow], range(5))
    column = pipeline.feature_names.index("count_1h")
    for size in (1, 5):
        scorer = PartitionScorer(pipeline)
        counts = np.concatenate([scorer.process(p).features[:, column] for p in pieces(batch, size)])
        assert np.array_equal(counts, [1, np.nan, 2, np.nan, 3], equal_nan=True)


def test_alerts_have_reasons_that_raised_the_score(pipeline: Pipeline, whole: ScoredBatch) -> None:
    fresh = whole.first_offset < 0
    alerts = np.flatnonzero((whole.decision > 0) & fresh).tolist()
    assert alerts
    assert sorted(whole.reasons) == alerts
    told = list(whole.reasons.values())
    assert sum(map(bool, told)) > 0.9 * len(told)
    # Without a value that lowers the score by itself, the farthest ones are named, with a contribution of 0.
    assert sum(reasons[0].contribution > 0 for reasons in told if reasons) > 0.8 * len(told)
    for reasons in told:
        assert len(reasons) <= MAX_REASONS
        contributions = [r.contribution for r in reasons]
        assert all(c > 0 for c in contributions) or not any(contributions)
        assert contributions == sorted(contributions, reverse=True)
        assert {r.feature for r in reasons} <= set(pipeline.feature_names)


def test_a_value_far_outside_is_flagged_and_named(pipeline: Pipeline, batch: EventBatch) -> None:
    amounts = batch.numbers["amount"].copy()
    amounts[1_800] = 1e9
    odd = EventBatch(
        batch.ids,
        batch.times,
        batch.offsets,
        batch.entities,
        {**batch.numbers, "amount": amounts},
        batch.strings,
    )
    scorer = PartitionScorer(pipeline)
    scored = [scorer.process(part) for part in pieces(odd, 450)]
    assert "amount" in scored[4].outside[0]
    flagged = np.concatenate([s.flags & FLAG_BITS[Flag.OUT_OF_RANGE] for s in scored]) > 0
    assert flagged[1_800]
    assert flagged.sum() == sum(len(s.outside) for s in scored) < 30
    encoder = VerdictEncoder(pipeline, code_version="test")
    verdict, usual = encoder.verdicts(scored[4], partition=0, scored_at=1)[:2]
    told = decode_verdict(encoder.encode(verdict))
    assert Flag.OUT_OF_RANGE in told.flags
    assert told.out_of_range == scored[4].outside[0]
    assert b"out_of_range" not in encoder.encode(usual)
    assert b'"out_of_range":["amount"' in encoder.encode(encoder.alert(verdict))


def test_an_alert_carries_what_the_event_is_about(pipeline: Pipeline, whole: ScoredBatch) -> None:
    encoder = VerdictEncoder(pipeline, code_version="test")
    verdict = encoder.verdicts(whole, partition=0, scored_at=1)[0]
    amount = encoder.amount(whole, 0)
    assert amount == whole.batch.numbers["amount"][0]
    alert = msgspec.json.decode(encoder.encode(encoder.alert(verdict, amount)), type=Alert)
    assert (alert.id, alert.amount) == (verdict.id, amount)
    fields = tuple(f for f in pipeline.event.fields if f.name != "amount")
    event = msgspec.structs.replace(pipeline.event, fields=fields)
    plain = VerdictEncoder(msgspec.structs.replace(pipeline, event=event), code_version="test")
    assert plain.amount(whole, 0) is msgspec.UNSET
    said = msgspec.json.decode(plain.encode(plain.alert(verdict, plain.amount(whole, 0))))
    assert "amount" not in said


def test_an_event_without_an_amount_says_so(pipeline: Pipeline, batch: EventBatch) -> None:
    one = cut(batch, 0, 1)
    none = EventBatch(
        one.ids,
        one.times,
        one.offsets,
        one.entities,
        {**one.numbers, "amount": np.array([np.nan])},
        one.strings,
    )
    scored = PartitionScorer(pipeline).process(none)
    assert VerdictEncoder(pipeline, code_version="test").amount(scored, 0) is None


def test_the_gravest_threshold_decides() -> None:
    reached = np.array([0, 1, 2, 0, 1], dtype=np.int8)
    block = np.array([False, True, False, False, False])
    review = np.array([False, False, True, True, False])
    assert decide(reached, [(2, block), (1, review)]).tolist() == [0, 2, 2, 1, 1]
    assert reached.tolist() == [0, 1, 2, 0, 1]


def test_verdicts_keep_every_bit_on_the_wire(pipeline: Pipeline, whole: ScoredBatch) -> None:
    encoder = VerdictEncoder(pipeline, code_version="test")
    records = encoder.verdicts(whole, partition=3, scored_at=1)
    decoded = [decode_verdict(encoder.encode(record)) for record in records]
    assert_same_bits(pipeline, decoded, whole)
    assert {v.source.partition for v in decoded} == {3}
    for row, verdict in enumerate(decoded):
        assert verdict.reasons == list(whole.reasons.get(row, []))
        assert verdict.decision == DECISIONS[whole.decision[row]]
        assert set(verdict.versions.models) == {"hst", "iforest"}


def test_a_comparison_of_bits_sees_one_bit(pipeline: Pipeline, whole: ScoredBatch) -> None:
    """The tests of the whole path stand on this comparison."""
    encoder = VerdictEncoder(pipeline, code_version="test")
    decoded = [
        decode_verdict(encoder.encode(record)) for record in encoder.verdicts(whole, partition=0, scored_at=1)
    ]
    for column in (whole.features[1_200:1_201, :1], whole.raw[1_200:1_201, :1], whole.score[1_200:1_201]):
        kept = column.copy()
        column[:] = np.nextafter(column, np.inf)
        with pytest.raises(AssertionError, match="offset 2405"):
            assert_same_bits(pipeline, decoded, whole)
        column[:] = kept
    assert_same_bits(pipeline, decoded, whole)
    with pytest.raises(AssertionError, match="not the same events"):
        assert_same_bits(pipeline, decoded[1:], whole)
    with pytest.raises(AssertionError, match="two verdicts"):
        assert_same_bits(pipeline, [*decoded, decoded[-1]], whole)


def test_preview_teaches_nothing(pipeline: Pipeline, batch: EventBatch, whole: ScoredBatch) -> None:
    scorer = PartitionScorer(pipeline)
    scorer.process(cut(batch, 0, 1_600))
    before = scorer.ensemble.snapshot()
    scratch = PartitionScorer(
        pipeline,
        tables=FeatureTables(pipeline),
        fetch=lambda requests: [[dict(stored).get((r.entity, key)) for key in r.keys] for r in requests],
        stream_time=scorer.stream_time,
        ensemble=scorer.ensemble,
    )
    stored = [((entity, key), blob) for entity, key, blob in scorer.tables.dirty(0)]
    said = scratch.preview(cut(batch, 1_600, 1_601))
    assert scorer.ensemble.snapshot() == before
    # and it says what process would have said
    assert same(said.features, whole.features[1_600:1_601])
    assert same(said.score, whole.score[1_600:1_601])


@pytest.mark.parametrize("limits", [{"max_entities": 10}, {"state_bytes": 20_000}])  # of 41, and some 100 kB
def test_entities_that_leave_memory_come_back_as_they_were(
    pipeline: Pipeline, batch: EventBatch, whole: ScoredBatch, limits: dict[str, int]
) -> None:
    store = MemoryStateStore()
    tables = FeatureTables(pipeline, **limits)
    scorer = PartitionScorer(pipeline, tables=tables, fetch=store.load_entities)
    applied: Applied | None = None
    features = []
    reloaded = 0
    for part in pieces(batch, 40):
        reloaded += sum(len(request.keys) for request in scorer.requests(part))
        features.append(scorer.process(part).features)
        after = Applied(int(part.offsets[-1]) + 1, scorer.stream_time, 0)
        store.flush([PartitionFlush(0, applied, after, tables.dirty(0))])
        tables.mark_clean(0)
        applied = after
        assert tables.entities <= limits.get("max_entities", 41)
        assert tables.arena_bytes <= limits.get("state_bytes", 2**20)
    assert reloaded > 500
    assert same(np.concatenate(features), whole.features)


def test_rebuilding_and_relearning_is_as_good_as_having_been_there(
    pipeline: Pipeline, batch: EventBatch, whole: ScoredBatch
) -> None:
    half = ROWS // 2 + 20
    scorer = PartitionScorer(pipeline)
    for at in range(0, half, 300):
        stop = min(at + 300, half)
        fresh = whole.first_offset[at:stop] < 0
        decisions = whole.decision[at:stop].astype(np.int64)
        scorer.rebuild(cut(batch, at, stop), whole.score[at:stop], decisions, ~fresh)
        keys = [batch.entities[pipeline.event.key][row] for row in (np.flatnonzero(fresh) + at).tolist()]
        again = scorer.relearn(whole.features[at:stop][fresh], batch.times[at:stop][fresh], keys)
        assert same(again, whole.score[at:stop][fresh])
    rest = scorer.process(cut(batch, half, ROWS))
    for name in ("features", "raw", "ranks", "score"):
        assert same(getattr(rest, name), getattr(whole, name)[half:]), name
    assert np.array_equal(rest.decision, whole.decision[half:])
