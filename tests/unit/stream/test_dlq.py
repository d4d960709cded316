"""Dead letters read back: what the worker writes is taken apart again, whatever stood in the event's headers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import EventRejected, Reject
from stream.dead_letters import HEADER_CUT_FROM, HEADER_FIELD, HEADER_REASON, dead_letter
from stream.dlq import (
    HEADER_REDRIVEN,
    HEADER_REDRIVES,
    MAX_REDRIVES,
    DeadLetter,
    Place,
    Refusal,
    Selection,
    event_headers,
    read_letter,
    refusal,
)
from stream.dlq_reader import Redriven, RedrivenLetters
from stream.topics import MAX_MESSAGE_BYTES

EVENTS = "p.events"
WHY = EventRejected(Reject.IN_FUTURE, "at", "too far ahead.", remedy="mend the clock.")


@dataclass(frozen=True)
class Record:
    """What we use of a confluent-kafka message."""

    the_key: bytes | None = b"k"
    the_value: bytes | None = b"v"
    the_headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    the_topic: str = EVENTS
    the_partition: int = 2
    the_offset: int = 40
    millis: int = 1_700_000_000_123

    def key(self) -> bytes | None:
        return self.the_key

    def value(self) -> bytes | None:
        return self.the_value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self.the_headers or None

    def topic(self) -> str:
        return self.the_topic

    def partition(self) -> int:
        return self.the_partition

    def offset(self) -> int:
        return self.the_offset

    def timestamp(self) -> tuple[int, int]:
        return 1, self.millis


def written(event: Record, why: EventRejected = WHY) -> Record:
    """The record of the dead letter that the worker writes about ``event``."""
    key, value, headers = dead_letter(event, why)
    return Record(key, value, headers, "p.events.dlq", 2, 7, 1_700_000_001_000)  # type: ignore[arg-type]


def letter(**other: Any) -> DeadLetter:
    return replace(read_letter(written(Record())), **other)


names = st.sampled_from(
    [HEADER_REASON, HEADER_FIELD, HEADER_CUT_FROM, "tidegate-source-offset", "traceparent", "é"]
)
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=5)), max_size=8)
maybe = st.none() | st.binary(max_size=20)


@settings(max_examples=50, deadline=None)
@given(headers, maybe, maybe, st.sampled_from([None, "at"]))
def test_the_event_is_what_it_was_whatever_its_headers_are_called(
    own: list[tuple[str, bytes | None]], key: bytes | None, value: bytes | None, at_fault: str | None
) -> None:
    why = EventRejected(Reject.EMPTY, at_fault, "detail", remedy="remedy")
    found = read_letter(written(Record(key, value, own), why))
    assert (found.key, found.value, list(found.headers)) == (key, value, own)
    assert found.place == Place(2, 7)
    assert found.time == 1_700_000_001_000_000
    origin = found.origin
    assert origin is not None
    assert (origin.reason, origin.field, origin.detail, origin.remedy) == (
        "empty",
        at_fault,
        "detail",
        "remedy",
    )
    assert (origin.topic, origin.place, origin.time) == (EVENTS, Place(2, 40), 1_700_000_000_123_000)
    assert origin.cut_from is None
    assert event_headers(found) == [*own, (HEADER_REDRIVEN, b"2:7"), (HEADER_REDRIVES, b"1")]


def test_records_of_strangers_are_no_letters_and_stop_nothing() -> None:
    real = written(Record()).the_headers
    broken: list[list[tuple[str, bytes | None]]] = [
        [],
        real[1:],
        real[:3],
        [*real, real[-1]],
        [*real, ("more", b"")],
        [(n, b"-1" if n == "tidegate-source-offset" else v) for n, v in real],
        [(n, b"9" * 30 if n == "tidegate-source-partition" else v) for n, v in real],
        [(n, b"\x1b[2J" if n == HEADER_REASON else v) for n, v in real],
        [(n, None if n == "tidegate-source-timestamp" else v) for n, v in real],
    ]
    for its_headers in broken:
        found = read_letter(Record(None, None, its_headers))
        assert found.origin is None, its_headers
        assert found.reason == "unknown"
        assert list(found.headers) == its_headers
        assert refusal(found, topic=EVENTS, partitions=9, redriven=False, force=True) is Refusal.FOREIGN


def test_a_letter_that_comes_back_says_from_where_and_how_often() -> None:
    first = letter()
    again = letter()
    for count in range(1, MAX_REDRIVES + 1):
        event = Record(first.key, first.value, event_headers(again))  # type: ignore[arg-type]
        again = replace(read_letter(written(event)), place=Place(2, 7 + count))
        assert again.redrives == count
        assert again.redriven_from == Place(2, 6 + count)
        names = [name for name, _ in event_headers(again)]
        assert names.count(HEADER_REDRIVEN) == names.count(HEADER_REDRIVES) == 1
        stopped = Refusal.TOO_OFTEN if count == MAX_REDRIVES else None
        assert refusal(again, topic=EVENTS, partitions=3, redriven=False) is stopped
    assert refusal(again, topic=EVENTS, partitions=3, redriven=False, force=True) is None
    assert read_letter(written(Record(the_headers=[(HEADER_REDRIVES, b"\xffmany")]))).redrives == 0


def test_what_can_not_go_back_as_it_was_does_not_go() -> None:
    def why(record: Record, **other: Any) -> Refusal | None:
        given: dict[str, Any] = {"topic": EVENTS, "partitions": 3, "redriven": False, "force": True, **other}
        return refusal(read_letter(written(record)), **given)

    assert why(Record()) is None
    assert why(Record(), redriven=True) is Refusal.ALREADY
    assert why(Record(the_topic="q.events")) is Refusal.FOREIGN
    assert why(Record(), partitions=2) is Refusal.NO_PARTITION
    assert why(Record(the_value=b"x" * (MAX_MESSAGE_BYTES + 1))) is Refusal.CUT
    assert why(Record(the_value=b"x" * (MAX_MESSAGE_BYTES - 300))) is Refusal.TOO_LARGE
    assert why(Record(the_value=b"x" * (MAX_MESSAGE_BYTES - 1_000))) is None


@pytest.mark.parametrize(
    ("selection", "taken"),
    [
        (Selection(), True),
        (Selection(reasons=frozenset({"empty", "in_future"})), True),
        (Selection(reasons=frozenset({"empty"})), False),
        (Selection(partitions=frozenset({0, 1})), False),
        (Selection(places=frozenset({Place(2, 7)}), partitions=frozenset({2})), True),
        (Selection(places=frozenset({Place(2, 8)})), False),
        (Selection(since=1_700_000_001_000_000, until=1_700_000_001_000_001), True),
        (Selection(since=1_700_000_001_000_001), False),
        (Selection(until=1_700_000_001_000_000), False),
    ],
)
def test_a_selection_takes_what_fits_all_of_it(selection: Selection, taken: bool) -> None:
    assert selection.takes(letter()) is taken


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:1", "1:-1", "1:2:3", "²:1", "1:" + "9" * 30])
def test_a_place_is_two_numbers(text: str) -> None:
    assert Place.parse(str(Place(3, 17))) == Place(3, 17)
    with pytest.raises(ValueError, match="PARTITION:OFFSET"):
        Place.parse(text)


def test_a_topic_made_anew_does_not_inherit_what_went() -> None:
    went = RedrivenLetters()
    went.add(Redriven("2:7", letter().time, "2:40", "in_future", 99))
    assert went.when(letter()) == 99
    assert went.when(letter(time=letter().time + 1000)) is None
    assert went.when(letter(place=Place(2, 8))) is None
