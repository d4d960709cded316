"""Labels that decisions have made, until Kafka has them: at least once, and none is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy import func, select, update

from lifecycle.audit_trail import AuditTrail
from lifecycle.case_records import HeardAlert, PendingLabel
from lifecycle.case_tables import alerts
from lifecycle.database import Database

__all__ = ["CaseLabels"]

_decode = msgspec.json.Decoder(HeardAlert).decode


class CaseLabels:
    """The labels of ``pipeline`` that are still to be written. All methods raise RegistryUnavailable."""

    def __init__(self, database: Database, pipeline: str) -> None:
        self._database = database
        self._audit = AuditTrail(pipeline)
        self._mine = alerts.c.pipeline == pipeline
        self._pending = (self._mine, alerts.c.told_at.is_not(None), alerts.c.written_at.is_(None))

    def pending(self, limit: int) -> Sequence[PendingLabel]:
        """The oldest of them."""
        query = select(alerts).where(*self._pending).order_by(alerts.c.told_at, alerts.c.key).limit(limit)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return [
            PendingLabel(
                key=row.key,
                event_id=row.event_id,
                event_time=row.event_time,
                label=row.told if row.told in (0, 1) else None,
                known_at=row.told_at,
                source=_decode(row.alert.encode()).source,
            )
            for row in rows
        ]

    def count(self) -> int:
        """How many there are."""
        with self._database.reading() as connection:
            found = connection.execute(select(func.count()).select_from(alerts).where(*self._pending))
            return found.scalar_one()

    def written(self, labels: Sequence[PendingLabel], refused: Mapping[str, str], now: int) -> None:
        """Kafka has ``labels``; those of ``refused`` (key to reason) it will never have.

        A case that was decided otherwise meanwhile still has its new label to be written.
        """
        # under the lock that decisions take, or the two could wait for each other's rows
        with self._audit.changing(self._database) as connection:
            for one in labels:
                this = (self._mine, alerts.c.key == one.key, alerts.c.told_at == one.known_at)
                connection.execute(
                    update(alerts).where(*this).values(written_at=now, refused=refused.get(one.key))
                )
