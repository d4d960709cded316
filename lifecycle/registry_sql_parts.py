"""The training runs of one pipeline in the database, within somebody else's transaction."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, update

from lifecycle import registry_rules as rules
from lifecycle.registry import TrainingRun
from lifecycle.registry_tables import runs

__all__ = ["RunRows", "encoded"]

_RUN_COLUMNS = [column for column in runs.c if column.name != "number"]


def encoded(value: object) -> str:
    """``value`` as JSON text."""
    return msgspec.json.encode(value).decode()


class RunRows:
    """The training runs of ``pipeline``."""

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._mine = runs.c.pipeline == pipeline

    def count(self, connection: Connection) -> int:
        """How many there are."""
        return connection.execute(select(func.count()).select_from(runs).where(self._mine)).scalar_one()

    def newest(self, connection: Connection, *, only_open: bool, limit: int) -> list[TrainingRun]:
        """Runs, newest first."""
        query = select(*_RUN_COLUMNS).where(self._mine).order_by(runs.c.number.desc()).limit(limit)
        if only_open:
            query = query.where(runs.c.finished_at.is_(None))
        return [_run(row) for row in connection.execute(query)]

    def find(self, connection: Connection, run_id: str) -> TrainingRun:
        """One of them. Raises UnknownModel."""
        row = connection.execute(select(*_RUN_COLUMNS).where(self._mine, runs.c.id == run_id)).one_or_none()
        if row is None:
            raise rules.unknown(run_id, self._pipeline)
        return _run(row)

    def add(self, connection: Connection, number: int, run: TrainingRun) -> None:
        """Keep a new run, the ``number``-th."""
        connection.execute(insert(runs).values(number=number, **_run_values(run)))

    def keep(self, connection: Connection, run: TrainingRun) -> None:
        """Keep what has become of a run."""
        connection.execute(update(runs).where(self._mine, runs.c.id == run.id).values(**_run_values(run)))


def _run_values(run: TrainingRun) -> dict[str, Any]:
    return msgspec.structs.asdict(run) | {"data": encoded(run.data)}


def _run(row: Row[Any]) -> TrainingRun:
    values = row._asdict()
    values["data"] = msgspec.json.decode(values["data"])
    return TrainingRun(**values)
