"""The chain of the audit: what was changed afterwards is found."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from lifecycle.audit import GENESIS, AuditRecord, chained, verify


def chain(count: int) -> list[AuditRecord]:
    records: list[AuditRecord] = []
    for number in range(1, count + 1):
        record = AuditRecord(
            pipeline="payments", number=number, at=number, by="ana", action="note", subject="ä", before=None,
            after="b", reason="because",
        )  # fmt: skip
        records.append(chained(record, records[-1].hash if records else GENESIS))
    return records


RECORDS = chain(5)
HEAD = (5, RECORDS[-1].hash)


def test_a_whole_chain_holds() -> None:
    assert verify(RECORDS, HEAD) is None
    assert verify([], (0, GENESIS)) is None


def test_the_hash_is_what_the_documentation_says() -> None:
    text = (
        '{"action":"note","after":"b","at":1,"before":null,"by":"ana","number":1,"pipeline":"payments",'
        '"reason":"because","subject":"ä"}'
    )
    assert RECORDS[0].hash == hashlib.sha256((GENESIS + text).encode()).hexdigest()


@pytest.mark.parametrize(
    "change",
    [{"by": "eve"}, {"at": 9}, {"after": None}, {"reason": ""}, {"pipeline": "x"}, {"hash": "0" * 64}],
)
def test_a_changed_record_is_found(change: dict[str, object]) -> None:
    broken = verify([*RECORDS[:2], replace(RECORDS[2], **change), *RECORDS[3:]], HEAD)
    assert broken is not None
    assert broken.number == 3


def test_a_record_changed_and_hashed_anew_breaks_the_next() -> None:
    forged = chained(replace(RECORDS[2], by="eve"), RECORDS[1].hash)
    broken = verify([*RECORDS[:2], forged, *RECORDS[3:]], HEAD)
    assert broken is not None
    assert broken.number == 4


def test_missing_and_moved_records_are_found() -> None:
    for records, number in (
        (RECORDS[1:], 1),
        ([*RECORDS[:2], *RECORDS[3:]], 3),
        (RECORDS[:4], 5),
        ([*RECORDS[:1], RECORDS[2], RECORDS[1], *RECORDS[3:]], 2),
        ([], 1),
        ([*RECORDS, RECORDS[4]], 6),
    ):
        broken = verify(records, HEAD)
        assert broken is not None
        assert broken.number == number, broken


def test_a_chain_made_anew_does_not_fit_the_head_that_is_kept_apart() -> None:
    anew: list[AuditRecord] = []
    for record in RECORDS:
        anew.append(chained(replace(record, by="eve"), anew[-1].hash if anew else GENESIS))
    assert verify(anew, (5, anew[-1].hash)) is None
    broken = verify(anew, HEAD)
    assert broken is not None
    assert broken.number == 5
