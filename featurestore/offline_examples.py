"""Training rows out of the offline store: vectors and ranks as scored, labels as they were known at a moment.

Rows come in the order of event time, partition and offset, in pieces that cover one stretch of time each, so that a
range larger than memory can be read piece by piece. Under one pin, range and ``as_of`` they are the same bits always.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from domain.batch import Floats, Ints
from domain.examples import Examples
from domain.pipeline import Pipeline
from featurestore.offline_port import ExampleCounts
from featurestore.offline_schema import LABELS, day_of, month_of
from featurestore.offline_sql import SqlLimits, connected
from featurestore.offline_table import Snapshot

__all__ = ["NEVER", "ExampleReader"]

NEVER = 2**63 - 1
"""``known_at`` of rows without a label."""
PIECE_ROWS = 250_000
"""Rows of one piece, about: 100 MB with 40 columns."""
_DAY = 86_400_000_000

# The last change in the log counts: whoever joins labels writes what holds, and decides between sources. A label is
# about an event by partition, id and time, since an id may come again after the dedupe window.
_ROWS = """
SELECT v.*, CASE WHEN l.label IS NULL THEN NULL ELSE l.known_at END AS known_at, l.label::DOUBLE AS label
FROM v LEFT JOIN (
    SELECT * FROM l
    QUALIFY row_number() OVER (PARTITION BY partition, id, event_time ORDER BY "offset" DESC) = 1
) AS l ON v.partition = l.partition AND v.id = l.id AND v.event_time = l.event_time
"""
_COUNTS = f"SELECT count(*), count(label), coalesce(sum(label), 0)::BIGINT FROM ({_ROWS})"  # noqa: S608
_ORDERED = f'{_ROWS} ORDER BY v.event_time, v.partition, v."offset", v.scored_at'
_CHANGE = ("partition", "id", "event_time", "offset", "known_at", "label")
_KEY = ("event_time", "partition", "offset", "scored_at", "id")


class ExampleReader:
    """Reads from one pair of snapshots (None: that table is not there yet)."""

    def __init__(
        self,
        pipeline: Pipeline,
        verdicts: Snapshot | None,
        labels: Snapshot | None,
        limits: SqlLimits,
        *,
        piece_rows: int = PIECE_ROWS,
    ) -> None:
        self._features = ["x_" + name for name in pipeline.feature_names]
        self._ranks = ["rank_" + detector.name for detector in pipeline.detectors]
        self._verdicts = verdicts
        self._labels = labels
        self._limits = limits
        self._piece_rows = piece_rows

    def pieces(self, start: int, stop: int, as_of: int, share: float = 1.0) -> Iterator[Examples]:
        """Examples of events with ``start <= event time < stop``, piece by piece, empty ones left out.

        ``share`` (0 to 1) takes a sample: the same events whatever else is asked, chosen by a hash of their ids.
        Raises OfflineUnavailable, Fatal.
        """
        if self._verdicts is not None:
            for first, last in self._stretches(self._verdicts, start, stop):
                piece = self._piece(self._verdicts, first, last, as_of, share)
                if len(piece):
                    yield piece

    def none(self) -> Examples:
        """No rows, of the right shape."""
        return Examples.none(len(self._features), len(self._ranks))

    def entity(
        self, name: str, start: int, stop: int, as_of: int, share: float = 1.0
    ) -> Iterator[list[str | None]]:
        """The entity ``name`` of each row that :meth:`pieces` gives, piece by piece; None where it has none."""
        if self._verdicts is None:
            return
        for first, last in self._stretches(self._verdicts, start, stop):
            with self._connected(self._verdicts, first, last, as_of, share, (f"e_{name}",)) as connection:
                table = connection.sql(_ORDERED).to_arrow_table()
            if table.schema.get_field_index(f"e_{name}") >= 0:
                yield table[f"e_{name}"].to_pylist()
            else:
                yield [None] * table.num_rows

    def count(self, start: int, stop: int, as_of: int) -> ExampleCounts:
        """How many rows :meth:`pieces` would give."""
        rows = labelled = positive = 0
        if self._verdicts is not None:
            for first, last in self._stretches(self._verdicts, start, stop):
                with self._connected(self._verdicts, first, last, as_of, 1.0, ()) as connection:
                    found = connection.execute(_COUNTS).fetchone()
                rows, labelled, positive = rows + found[0], labelled + found[1], positive + found[2]
        return ExampleCounts(rows, labelled, positive)

    def _stretches(self, verdicts: Snapshot, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Stretches of at most a day that hold about ``piece_rows`` rows each; days without rows are left out."""
        files = verdicts.files()
        days: dict[Any, int] = {}
        for day, rows in zip(
            files["partition.day"].to_pylist(), files["num_records"].to_pylist(), strict=True
        ):
            days[day] = days.get(day, 0) + (self._piece_rows if rows is None else rows)
        for day in sorted(days):
            begins = (day - day_of(0)).days * _DAY
            parts = max(1, -(-days[day] // self._piece_rows))
            edges = [begins + _DAY * i // parts for i in range(parts + 1)]
            for first, last in pairwise(edges):
                if max(first, start) < min(last, stop):
                    yield max(first, start), min(last, stop)

    def _piece(self, verdicts: Snapshot, first: int, last: int, as_of: int, share: float) -> Examples:
        names = (*self._features, *self._ranks)
        with self._connected(
            verdicts, first, last, as_of, share, ("score", "own_score", *names)
        ) as connection:
            table = connection.sql(_ORDERED).to_arrow_table()
        known_at: Ints = np.array(pc.fill_null(table["known_at"], NEVER).to_numpy(), dtype=np.int64)
        return Examples(
            x=_matrix(table, self._features),
            y=_floats(table["label"]),
            ranks=_matrix(table, self._ranks),
            score=_floats(table["score"]),
            times=np.array(table["event_time"].to_numpy(), dtype=np.int64),
            known_at=known_at,
            own=_own(table),
        )

    def _connected(
        self, verdicts: Snapshot, first: int, last: int, as_of: int, share: float, columns: Sequence[str]
    ) -> Any:
        """DuckDB with ``v``, the verdicts of the stretch, and ``l``, the label changes known at ``as_of``."""
        during = f"event_time >= {first} AND event_time < {last}"
        which = f"day = DATE '{day_of(first)}' AND {during} AND NOT duplicate"
        if share < 1.0:
            which += f" AND id_hash < {int(-(2**63) + max(share, 0.0) * 2**64)}"
        held = verdicts.columns()
        sources = {
            "v": verdicts.read([c for c in (*_KEY, *columns) if c in held], which),
            "l": pa.table({f.name: pa.array([], f.type) for f in LABELS.fixed}),
        }
        if self._labels is not None:
            known = f"month = DATE '{month_of(first)}' AND {during} AND known_at <= {as_of}"
            sources["l"] = self._labels.read(_CHANGE, known)
        return connected(self._limits, sources)


def _matrix(table: Any, names: Sequence[str]) -> Floats:
    """The columns side by side; one that the table does not have is missing everywhere."""
    found = np.full((table.num_rows, len(names)), np.nan)
    for i, name in enumerate(names):
        if table.schema.get_field_index(name) >= 0:
            found[:, i] = table[name].to_numpy()
    return found


def _own(table: Any) -> Floats | None:
    """What the pipeline's own detectors said, None where no model from the registry was in force."""
    if table.schema.get_field_index("own_score") < 0 or table["own_score"].null_count == table.num_rows:
        return None
    # where there is none, nobody but the own detectors decided
    alone = pc.is_null(table["own_score"]).to_numpy()
    return np.where(alone, _floats(table["score"]), _floats(table["own_score"]))


def _floats(column: Any) -> Floats:
    return np.array(column.to_numpy(), dtype=np.float64)
