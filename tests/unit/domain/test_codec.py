from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.clock import from_micros, to_micros
from domain.codec import EventCodec, json_schema_of_event
from domain.errors import EventRejected, PipelineInvalid, Reject
from domain.pipeline_file import load_pipeline, parse_pipeline
from domain.privacy import Protector
from tests.unit.domain.samples import EXAMPLES, PAYMENTS, payments

NOW = to_micros(datetime(2026, 1, 31, 12, 0, tzinfo=UTC))
PROTECTOR = Protector(b"0123456789abcdef")
CODEC = EventCodec(payments(), PROTECTOR)
LENIENT = EventCodec(payments(unknown_fields="ignore"), PROTECTOR)

EVENT: dict[str, Any] = {
    "id": "tx-1",
    "at": "2026-01-31T11:59:59.123456Z",
    "account": "acc-77",
    "Shop Id": 12,
    "amount": 12.5,
}


def wire(**changes: Any) -> bytes:
    return json.dumps({**EVENT, **changes}).encode()


def rejected(raw: bytes, codec: EventCodec = CODEC) -> EventRejected:
    with pytest.raises(EventRejected) as caught:
        codec.decode(raw, received_at=NOW)
    return caught.value


def test_columns_of_a_batch() -> None:
    raws = [
        wire(),
        wire(id="tx-2", amount=-0.0, online=True, tries=3, channel="web", card=4929, opened=1.25),
        wire(id="tx-3", online=None, amount=3),
    ]
    events, refused = CODEC.decode_many(raws, [NOW] * 3)
    assert not refused
    batch = CODEC.to_batch(events, [7, 8, 10])
    assert batch.ids == ["tx-1", "tx-2", "tx-3"]
    assert batch.times.tolist() == [to_micros(datetime(2026, 1, 31, 11, 59, 59, 123456, tzinfo=UTC))] * 3
    assert batch.offsets.tolist() == [7, 8, 10]
    assert batch.entities == {"account": [PROTECTOR.protect("acc-77")] * 3, "shop": ["12"] * 3}
    assert batch.numbers["amount"].tolist() == [12.5, 0.0, 3.0]
    assert math.copysign(1, batch.numbers["amount"][1]) == 1.0
    np.testing.assert_array_equal(batch.numbers["online"], [np.nan, 1.0, np.nan])
    np.testing.assert_array_equal(batch.numbers["tries"], [np.nan, 3.0, np.nan])
    np.testing.assert_array_equal(batch.numbers["opened"], [np.nan, 1.25, np.nan])
    assert batch.numbers["shop"].tolist() == [12.0] * 3
    assert batch.numbers["at"].tolist() == (batch.times / 1e6).tolist()
    assert batch.strings["channel"] == [None, "web", None]
    assert batch.strings["card"] == [None, PROTECTOR.protect("4929"), None]
    assert "card" not in batch.numbers
    assert batch.strings["account"] == batch.entities["account"]
    assert all(column.dtype == np.float64 for column in batch.numbers.values())


def test_integers_that_a_float_cannot_hold_are_names() -> None:
    text = PAYMENTS.replace("Shop Id}", "Shop Id, maximum: 9223372036854775807}").replace(
        "id: {type: string, max_length: 16}", "id: {type: integer}"
    )
    codec = EventCodec(parse_pipeline(text, "p"), PROTECTOR)
    close = [2**63 - 1, 2**63 - 2]
    events = [codec.decode(wire(**{"id": i, "Shop Id": i, "card": i}), received_at=NOW) for i in close]
    batch = codec.to_batch(events, [0, 1])
    assert batch.entities["shop"] == batch.strings["shop"] == batch.ids == [str(i) for i in close]
    assert batch.strings["card"] == [PROTECTOR.protect(str(i)) for i in close]
    assert not {"id", "shop", "card"} & set(batch.numbers)
    assert rejected(wire(**{"id": 2**63}), codec).reason is Reject.OUT_OF_RANGE
    with pytest.raises(PipelineInvalid, match="beyond 2\\^53"):
        parse_pipeline(text.replace("value: amount", "value: shop"), "p")


def test_an_empty_batch_has_columns_of_no_rows() -> None:
    batch = CODEC.to_batch([], [])
    assert len(batch) == 0
    assert batch.numbers["amount"].shape == (0,)
    assert batch.times.dtype == np.int64


REJECTS: list[tuple[bytes, Reject, str | None]] = [
    (b"", Reject.NOT_JSON, None),
    (b"not json", Reject.NOT_JSON, None),
    (b"\xff\xfe{}", Reject.NOT_JSON, None),
    (b"\xef\xbb\xbf" + wire(), Reject.NOT_JSON, None),
    (wire() + b"x", Reject.NOT_JSON, None),
    (wire()[:-1], Reject.NOT_JSON, None),
    (wire().replace(b"tx-1", b"tx-\xff"), Reject.NOT_JSON, None),
    (b"[" * 60_000, Reject.NOT_JSON, None),
    (b'{"a":' * 13_000, Reject.NOT_JSON, None),
    (b"[" * 100_000, Reject.TOO_LARGE, None),
    (b"x" * 65_537, Reject.TOO_LARGE, None),
    (b"[1]", Reject.NOT_OBJECT, None),
    (b"null", Reject.NOT_OBJECT, None),
    (b"12", Reject.NOT_OBJECT, None),
    (wire(amount=math.nan), Reject.NOT_FINITE, "amount"),
    (wire(amount=-math.inf), Reject.NOT_FINITE, "amount"),
    (wire(id=math.nan), Reject.NOT_FINITE, "id"),
    (wire().replace(b"12.5", b"1e400"), Reject.NOT_FINITE, "amount"),
    (wire(extra=math.nan), Reject.NOT_FINITE, "extra"),
    (wire(extra=[{"deep": math.nan}]), Reject.NOT_FINITE, None),
    (wire().replace(b'"amount": 12.5', b'"x": 1'), Reject.MISSING_FIELD, "amount"),
    (wire(amount=None), Reject.MISSING_FIELD, "amount"),
    (b"{}", Reject.MISSING_FIELD, "id"),
    (wire(amount="12"), Reject.WRONG_TYPE, "amount"),
    (wire(amount=True), Reject.WRONG_TYPE, "amount"),
    (wire(amount=[1]), Reject.WRONG_TYPE, "amount"),
    (wire(tries=1.0), Reject.WRONG_TYPE, "tries"),
    (wire(tries=False), Reject.WRONG_TYPE, "tries"),
    (wire(online=1), Reject.WRONG_TYPE, "online"),
    (wire(id=5), Reject.WRONG_TYPE, "id"),
    (wire(at=5), Reject.WRONG_TYPE, "at"),
    (wire(opened="x"), Reject.WRONG_TYPE, "opened"),
    (wire(opened=True), Reject.WRONG_TYPE, "opened"),
    (wire(amount=-1), Reject.OUT_OF_RANGE, "amount"),
    (wire(amount=1000.0001), Reject.OUT_OF_RANGE, "amount"),
    (wire(tries=6), Reject.OUT_OF_RANGE, "tries"),
    (wire(tries=10**300), Reject.OUT_OF_RANGE, "tries"),
    (wire().replace(b"12.5", b"9" * 20_000), Reject.OUT_OF_RANGE, "amount"),
    (wire().replace(b"12,", b"9" * 20_000 + b","), Reject.OUT_OF_RANGE, "Shop Id"),
    (wire(id="x" * 17), Reject.TOO_LONG, "id"),
    (wire(id=""), Reject.EMPTY, "id"),
    (wire(account=""), Reject.EMPTY, "account"),
    (wire(at="2026-01-31T11:59:59"), Reject.BAD_TIMESTAMP, "at"),
    (wire(at="yesterday"), Reject.BAD_TIMESTAMP, "at"),
    (wire(at="2026-02-30T00:00:00Z"), Reject.BAD_TIMESTAMP, "at"),
    (wire(at="1969-12-31T23:59:59Z"), Reject.BAD_TIMESTAMP, "at"),
    (wire(at="0001-01-01T00:00:00+14:00"), Reject.BAD_TIMESTAMP, "at"),
    (wire(at="9999-12-31T23:59:59-14:00"), Reject.BAD_TIMESTAMP, "at"),
    (wire(at="2200-01-01T00:00:00Z"), Reject.BAD_TIMESTAMP, "at"),
    (wire(opened=-1), Reject.BAD_TIMESTAMP, "opened"),
    (wire(opened=1e300), Reject.BAD_TIMESTAMP, "opened"),
    (wire(at="2026-01-31T12:05:00.000001Z"), Reject.IN_FUTURE, "at"),
    (wire(channel="phone"), Reject.NOT_ALLOWED, "channel"),
    (wire(extra=1), Reject.UNKNOWN_FIELD, "extra"),
    (wire(account="a\0b"), Reject.BAD_TEXT, "account"),
    (wire(id="\0"), Reject.BAD_TEXT, "id"),
    (wire(id="\ud800"), Reject.BAD_TEXT, "id"),
    (wire(channel="\udfff"), Reject.BAD_TEXT, "channel"),
    (wire(at="\ud800"), Reject.BAD_TEXT, "at"),
    (wire().replace(b'"amount": 12.5', b'"amount": "x", "amount": 12.5'), Reject.WRONG_TYPE, None),
]


@pytest.mark.parametrize(("raw", "reason", "field"), REJECTS, ids=lambda v: repr(v)[:40])
def test_bad_records_get_their_stable_reason(raw: bytes, reason: Reject, field: str | None) -> None:
    error = rejected(raw)
    assert (error.reason, error.field) == (reason, field), error
    assert error.remedy
    assert error.detail
    assert len(error.detail) < 300


def test_what_is_just_allowed_passes() -> None:
    for raw in (
        wire(at="2026-01-31T12:05:00Z"),
        wire(at="1970-01-01T01:00:00+01:00"),
        wire(amount=1000),
        wire(amount=0),
        wire(id="x" * 16),
        wire(id="ü\\u\u2028🎈"),
        wire(channel=None),
    ):
        assert CODEC.decode(raw, received_at=NOW).key == "acc-77"


def test_unknown_fields_may_be_ignored_whatever_they_hold() -> None:
    deep = wire().replace(b"{", b'{"extra": ' + b"[" * 50 + b"]" * 50 + b", ", 1)
    for raw in (wire(extra=1), deep, wire(extra="\0")):
        assert LENIENT.decode(raw, received_at=NOW).id == "tx-1"
    assert rejected(wire(extra=math.nan), LENIENT).field == "extra"
    too_deep = wire().replace(b"{", b'{"extra": ' + b"[" * 30_000 + b"]" * 30_000 + b", ", 1)
    assert rejected(too_deep, LENIENT).reason is Reject.NOT_JSON


def test_sensitive_values_never_show() -> None:
    secret = "4929123412341234567"
    seen = [
        rejected(wire(account=secret)),
        rejected(wire(account=[secret])),
        rejected(wire(card=int(secret + "0"))),
        rejected(wire(card=secret)),
        rejected(wire(card=secret + "\ud800")),
        rejected(wire(account=secret[:9] + "\0")),
    ]
    text = PAYMENTS.replace("sensitive: true}", "sensitive: true, maximum: 100}")
    strict = EventCodec(
        parse_pipeline(text.replace("sensitive: true, max_length: 16", "sensitive: true, values: [a]"), "p"),
        PROTECTOR,
    )
    seen += [
        rejected(wire(account=secret), strict),
        rejected(wire(account="a", card=int(secret[:9])), strict),
    ]
    assert [error.reason for error in seen[-2:]] == [Reject.NOT_ALLOWED, Reject.OUT_OF_RANGE]
    for error in seen:
        assert secret[:9] not in str(error)
    assert secret[:9] not in repr(CODEC.decode(wire(account=secret[:16]), received_at=NOW))
    assert len(rejected(wire(channel="x" * 5000)).detail) < 200


def test_records_around_a_bad_one_are_kept() -> None:
    events, refused = CODEC.decode_many([wire(id="a"), b"x", wire(id="b"), wire(amount=-1)], [NOW] * 4)
    assert [e.id for e in events] == ["a", "b"]
    assert [(i, e.reason) for i, e in refused] == [(1, Reject.NOT_JSON), (3, Reject.OUT_OF_RANGE)]


def test_wire_names_may_be_any_text() -> None:
    codec = EventCodec(parse_pipeline(PAYMENTS.replace("Shop Id", "größe/€ $'<>"), "p"), PROTECTOR)
    row = {**EVENT, "größe/€ $'<>": 5}
    row.pop("Shop Id")
    for raw in (json.dumps(row).encode(), codec.encode(row)):
        decoded = codec.decode(raw, received_at=NOW)
        assert codec.to_batch([decoded], [0]).numbers["shop"].tolist() == [5.0]


def test_key_and_id_of_an_event() -> None:
    event = CODEC.decode(wire(account="ä"), received_at=NOW)
    assert CODEC.expected_key(event) == "ä".encode()
    assert CODEC.event_id(event) == "tx-1"
    handbook = EventCodec(load_pipeline(EXAMPLES / "handbook" / "pipeline.yaml"), PROTECTOR)
    row = {
        "TRANSACTION_ID": np.int32(5),
        "TX_DATETIME": np.datetime64("2018-04-01T00:00:31.000"),
        "CUSTOMER_ID": 9,
    }
    raw = handbook.encode({**row, "TERMINAL_ID": np.int64(3), "TX_AMOUNT": np.float64(1.1), "TX_FRAUD": 1})
    integer = handbook.decode(raw, received_at=NOW)
    assert handbook.expected_key(integer) == b"9"
    assert handbook.event_id(integer) == "5"
    batch = handbook.to_batch([integer], [0])
    assert batch.ids == ["5"]
    assert batch.entities == {"customer_id": ["9"], "terminal_id": ["3"]}
    assert from_micros(int(batch.times[0])) == datetime(2018, 4, 1, 0, 0, 31, tzinfo=UTC)


def test_naive_times_are_read_in_the_fields_zone() -> None:
    text = PAYMENTS.replace("at: {type: timestamp}", "at: {type: timestamp, timezone: Europe/Paris}")
    codec = EventCodec(parse_pipeline(text, "p"), PROTECTOR)
    want = to_micros(datetime(2025, 7, 1, 10, 0, tzinfo=UTC))
    for at in ("2025-07-01T12:00:00", "2025-07-01T10:00:00Z", "2025-07-01 12:00:00"):
        assert codec.decode(wire(at=at), received_at=NOW).time == want
    encoded = codec.encode({**EVENT, "at": datetime(2025, 7, 1, 12, 0)})  # noqa: DTZ001
    assert codec.decode(encoded, received_at=NOW).time == want


@pytest.mark.parametrize("unit", ["iso", "s", "ms", "us"])
@settings(max_examples=30, deadline=None)
@given(micros=st.integers(0, NOW))
def test_times_survive_the_round_trip(unit: str, micros: int) -> None:
    text = PAYMENTS.replace("at: {type: timestamp}", f"at: {{type: timestamp, unit: {unit}}}")
    codec = EventCodec(parse_pipeline(text, "p"), PROTECTOR)
    for moment in (from_micros(micros), np.datetime64(micros, "us")):
        assert codec.decode(codec.encode({**EVENT, "at": moment}), received_at=NOW).time == micros


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1000), st.none() | st.integers(-5, 5), st.booleans())
def test_numbers_keep_their_bits(amount: float, tries: int | None, online: bool) -> None:
    row = {**EVENT, "amount": np.float64(amount), "online": np.bool_(online), "tries": tries}
    row["at"] = datetime(2026, 1, 1, tzinfo=UTC)
    row["card"] = math.nan
    raw = CODEC.encode(row)
    assert b"card" not in raw
    batch = CODEC.to_batch([CODEC.decode(raw, received_at=NOW)], [0])
    assert batch.numbers["amount"].tobytes() == np.array([amount + 0.0]).tobytes()
    assert batch.numbers["online"][0] == online
    assert (tries is None and math.isnan(batch.numbers["tries"][0])) or batch.numbers["tries"][0] == tries


def test_encoding_adapts_what_files_hold_and_leaves_other_columns_out() -> None:
    row = {**EVENT, "at": datetime(2026, 1, 1, tzinfo=UTC), "id": 17, "Shop Id": 3.0, "online": 1, "label": 1}
    event = json.loads(CODEC.encode({**row, "tries": np.datetime64("NaT", "us")}))
    assert event == {**EVENT, "at": "2026-01-01T00:00:00Z", "id": "17", "Shop Id": 3, "online": True}
    assert json.loads(CODEC.encode({**EVENT, "amount": math.nan}))["amount"] is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([CODEC, LENIENT]))
def test_arbitrary_bytes_are_refused_and_nothing_else(raw: bytes, codec: EventCodec) -> None:
    assert rejected(raw, codec).remedy


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([*EVENT, "card", "channel", "opened", "tries", "x"]), json_values, st.data())
def test_mutated_events_are_decoded_or_refused(name: str, value: Any, data: st.DataObject) -> None:
    raw = bytearray(wire(**{name: value}))
    for _ in range(data.draw(st.integers(0, 2))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for codec in (CODEC, LENIENT):
        events, refused = codec.decode_many([bytes(raw)], [NOW])
        assert len(events) + len(refused) == 1
        for _, error in refused:
            str(error).encode()
            (error.field or "").encode()
        batch = codec.to_batch(events, list(range(len(events))))
        assert np.isfinite(batch.numbers["amount"]).all()
        assert all(text.encode() for column in batch.entities.values() for text in column)


def test_the_schema_of_events_agrees_with_the_decoder() -> None:
    schema = jsonschema.Draft202012Validator(json_schema_of_event(payments()))
    schema.check_schema(schema.schema)
    for good in (EVENT, {**EVENT, "channel": None, "tries": 2, "opened": 1.5}):
        schema.validate(good)
        CODEC.decode(json.dumps(good).encode(), received_at=NOW)
    for change in (
        {"amount": -1},
        {"amount": "1"},
        {"x": 1},
        {"id": ""},
        {"channel": "phone"},
        {"Shop Id": None},
    ):
        assert not schema.is_valid({**EVENT, **change})
        assert rejected(wire(**change))


def test_future_is_measured_from_the_time_the_log_received_the_record() -> None:
    raw = wire()
    at = CODEC.decode(raw, received_at=NOW).time
    early = at - int(timedelta(minutes=5).total_seconds() * 1e6)
    assert CODEC.decode(raw, received_at=early).time == at
    with pytest.raises(EventRejected, match="after the record"):
        CODEC.decode(raw, received_at=early - 1)
