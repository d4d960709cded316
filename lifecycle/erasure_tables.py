"""The table of erasures that were asked for; ``lifecycle/migrations`` makes it. Times are UTC microseconds."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, String, Table, Text

from lifecycle.registry_tables import metadata

__all__ = ["erasures"]

erasures = Table(
    "erasures",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("id", String(80), primary_key=True),
    Column("entity", String(200), nullable=False),
    # as in verdicts; emptied when all is done
    Column("value", Text),
    Column("value_hash", String(64), nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("step", String(40), nullable=False),
    # JSON: partition to the offset of the control record; partition to the last verdict to wait for
    Column("points", Text, nullable=False),
    Column("verdicts", Text, nullable=False),
    Column("hot_removed", BigInteger, nullable=False),
    Column("offline_removed", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Index("erasures_step", "pipeline", "step"),
)
