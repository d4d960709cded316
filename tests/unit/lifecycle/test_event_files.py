"""One data set in three formats gives the same columns, the same refusals and the same labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from domain.errors import Fatal, Reject, ServiceMissing
from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.event_files import FileChunk, find_label_column, parse_label, read_events, read_labels
from tidegate.loading import load

KEY = Protector(b"k" * 32)
START = datetime(2024, 2, 29, 23, 59, 58, 123456, tzinfo=UTC)


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """Other column names than fields, every type, optional and sensitive fields."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        """
pipeline: shop
version: 1
event:
  id: order
  time: at
  key: buyer
  unknown_fields: ignore
  fields:
    order: {type: integer, source: NO, minimum: 0}
    at: {type: timestamp, source: WHEN}
    buyer: {type: string, source: WHO, sensitive: true, max_length: 12}
    shop: {type: string, source: SHOP}
    amount: {type: number, source: SUM, minimum: 0, maximum: 1000}
    items: {type: integer, source: ITEMS, required: false}
    gift: {type: boolean, source: GIFT, required: false}
features:
  amount: {value: amount}
  shop_count_1d: {entity: shop, aggregate: count, window: 1d}
detectors:
  hst: {kind: half_space_trees}
decision:
  review: {budget: 0.1}
""",
        encoding="utf-8",
    )
    return load(path)


def rows() -> list[dict[str, Any]]:
    """Thirty rows, some of them wrong in every way that all three formats can express."""
    made: list[dict[str, Any]] = []
    for i in range(30):
        made.append(
            {
                "NO": i,
                "WHEN": START + timedelta(seconds=i, microseconds=i),
                "WHO": f"buyer, {i % 3}",
                "SHOP": f"sch\u00f6n {i % 4}",
                "SUM": 0.1 * i,
                "ITEMS": None if i % 5 == 0 else i,
                "GIFT": None if i % 7 == 0 else i % 2 == 0,
                "FRAUD": None if i == 4 else int(i % 6 == 0),
                "OTHER": "not in the schema",
            }
        )
    made[3]["SUM"] = -1.0
    made[8]["SUM"] = None
    made[11]["WHO"] = "longer than twelve"
    made[17]["SUM"] = float("inf")
    made[19]["SUM"] = -0.0
    made[21]["WHEN"] = datetime(1900, 1, 1, tzinfo=UTC)
    made[23]["WHEN"] = START  # older than the rows before it
    return made


EXPECTED = [
    (3, Reject.OUT_OF_RANGE, "SUM"),
    (8, Reject.MISSING_FIELD, "SUM"),
    (11, Reject.TOO_LONG, "WHO"),
    (17, Reject.NOT_FINITE, "SUM"),
    (21, Reject.BAD_TIMESTAMP, "WHEN"),
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """The records in the format that the file's name tells."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=9)
        return path
    texts = [{**r, "WHEN": r["WHEN"].isoformat()} for r in records]
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(r) for r in texts), encoding="utf-8")
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        for record in texts:
            writer.writerow({k: "1e999" if v == float("inf") else v for k, v in record.items()})
    return path


def columns(chunks: Iterable[FileChunk]) -> dict[str, list[Any]]:
    """All chunks as one set of comparable columns."""
    joined: dict[str, list[Any]] = {}
    for chunk in chunks:
        assert chunk.labels is not None
        parts: dict[str, Any] = {"id": chunk.batch.ids, "time": chunk.batch.times, "row": chunk.batch.offsets}
        parts |= chunk.batch.entities | chunk.batch.numbers | chunk.batch.strings | {"label": chunk.labels}
        for name, values in parts.items():
            joined.setdefault(name, []).extend(
                v.tobytes() if isinstance(v, np.generic) else v for v in values
            )
        joined.setdefault("rejected", []).extend((r.row, r.reason, r.field) for r in chunk.rejected)
        joined["out_of_order"] = [chunk.out_of_order + sum(joined.get("out_of_order", []))]
        joined["rows"] = [chunk.rows + sum(joined.get("rows", []))]
    return joined


def test_three_formats_give_the_same_columns_refusals_and_labels(tmp_path: Path, pipeline: Pipeline) -> None:
    read = {}
    for suffix, batch_rows in ((".parquet", 7), (".csv", 11), (".jsonl", 100)):
        path = write(tmp_path / f"events{suffix}", rows())
        read[suffix] = columns(read_events(path, pipeline, KEY, batch_rows=batch_rows, label_column="FRAUD"))
    assert read[".csv"] == read[".parquet"]
    assert read[".jsonl"] == read[".parquet"]
    result = read[".parquet"]
    assert result["rejected"] == EXPECTED
    assert result["rows"] == [30]
    assert result["out_of_order"] == [1]
    kept = [i for i in range(30) if i not in {row for row, _, _ in EXPECTED}]
    assert result["row"] == [np.int64(i).tobytes() for i in kept]
    assert result["id"] == [str(i) for i in kept]
    assert result["buyer"][1] == KEY.protect("buyer, 1")
    assert result["amount"][kept.index(19)] == np.float64(0.0).tobytes()
    assert np.isnan(np.frombuffer(result["label"][kept.index(4)]))


def test_csv_cells_that_are_no_numbers_have_the_wrong_type(tmp_path: Path, pipeline: Pipeline) -> None:
    path = tmp_path / "events.csv"
    lines = [b"NO,WHEN,WHO,SHOP,SUM,ITEMS,GIFT"]
    for number, amount in enumerate((b"1.5", b"1,5", b"0x10", b" 2", b"nan", b"1_0", b"twelve", b"\xff")):
        lines.append(b'%d,2024-01-01T00:00:00Z,me,here,"%b",,TRUE' % (number, amount))
    lines += [b"8,2024-01-01T00:00:00Z", b"9,2024-01-01T00:00:00Z,m\xfee,here,1,1.0,yes"]
    path.write_bytes(b"\n".join(lines))
    chunk = next(read_events(path, pipeline, KEY))
    assert chunk.batch.ids == ["0"]
    assert chunk.batch.numbers["gift"].tolist() == [1.0]
    reasons = [(r.row, r.reason) for r in chunk.rejected]
    assert reasons[:-3] == [(i, Reject.WRONG_TYPE) for i in range(1, 7)]
    assert reasons[-3:] == [(7, Reject.WRONG_TYPE), (8, Reject.NOT_OBJECT), (9, Reject.BAD_TEXT)]


def test_lines_that_are_not_json_are_refused_and_their_neighbours_kept(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    good = json.dumps({**rows()[1], "WHEN": START.isoformat()}).encode()
    path = tmp_path / "events.jsonl"
    path.write_bytes(
        b"\n".join([b"{", good, b"[1]", b"\xff\xfe", b'{"NO": NaN}', good[:-1] + b', "X": NaN}'])
    )
    chunk = next(read_events(path, pipeline, KEY, label_column="FRAUD"))
    assert chunk.batch.offsets.tolist() == [1]
    assert [r.reason for r in chunk.rejected] == [
        Reject.NOT_JSON, Reject.NOT_OBJECT, Reject.NOT_JSON, Reject.NOT_FINITE, Reject.NOT_FINITE,
    ]  # fmt: skip


def test_events_ahead_of_their_receipt_are_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    path = write(tmp_path / "events.parquet", rows()[:3])
    received_at = int((START - timedelta(minutes=5)).timestamp() * 1e6) + 1_500_000
    chunk = next(read_events(path, pipeline, KEY, received_at=received_at))
    assert [(r.row, r.reason) for r in chunk.rejected] == [(2, Reject.IN_FUTURE)]


def test_a_file_that_does_not_fit_is_refused_whole_with_its_columns(
    tmp_path: Path, pipeline: Pipeline
) -> None:
    path = tmp_path / "events.csv"
    path.write_text("NO,WHEN\n1,2024-01-01T00:00:00Z\n", encoding="utf-8")
    with pytest.raises(Fatal, match=r"no column WHO, SHOP, SUM; its columns are NO, WHEN.*source"):
        next(read_events(path, pipeline, KEY))
    with pytest.raises(ServiceMissing, match="no file"):
        next(read_events(tmp_path / "absent.csv", pipeline, KEY))
    with pytest.raises(Fatal, match="not read"):
        next(
            read_events(write(tmp_path / "events.parquet", rows()).rename(tmp_path / "e.xls"), pipeline, KEY)
        )
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(Fatal, match="not a Parquet file"):
        next(read_events(broken, pipeline, KEY))


def test_labels_by_id_from_any_format(tmp_path: Path, pipeline: Pipeline) -> None:
    expected = {str(i): float(i % 6 == 0) for i in range(30) if i != 4}
    for suffix in (".parquet", ".csv", ".jsonl"):
        path = write(tmp_path / f"labels{suffix}", rows())
        assert find_label_column(path, pipeline, "FRAUD") == "FRAUD"
        assert find_label_column(path, pipeline) == "FRAUD"
        assert read_labels(path, pipeline, KEY, label_column="FRAUD") == expected
    path = tmp_path / "two.csv"
    path.write_text("event_id,verdict\n7,Fraud\n8,legit\n7,0\n", encoding="utf-8")
    assert read_labels(path, pipeline, KEY) == {"7": 0.0, "8": 0.0}


def test_labels_that_cannot_be_told_are_refused_with_a_remedy(tmp_path: Path, pipeline: Pipeline) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("id,a,b\n1,0,1\n", encoding="utf-8")
    with pytest.raises(Fatal, match="--label-column"):
        read_labels(path, pipeline, KEY)
    with pytest.raises(Fatal, match="no column 'c'"):
        find_label_column(path, pipeline, "c")
    with pytest.raises(Fatal, match=r"row 12: 'maybe' is not a label"):
        parse_label("maybe", row=12)
    path.write_text("who,label\n1,0\n", encoding="utf-8")
    with pytest.raises(Fatal, match="event ids"):
        read_labels(path, pipeline, KEY)
