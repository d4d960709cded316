"""The tables of review cases as the code sees them; migration 0005 makes them. Times are UTC microseconds."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, String, Table, Text, text

from lifecycle.registry_tables import metadata

__all__ = ["alerts", "cases", "counters", "history", "offsets"]

counters = Table(
    "case_counters",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    # given out so far; what was deleted leaves no number free
    Column("cases", BigInteger, nullable=False),
    Column("entries", BigInteger, nullable=False),
)

cases = Table(
    "cases",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("entity", String(200), nullable=False),
    Column("value", Text, nullable=False),
    # an index may not hold texts of any length
    Column("value_hash", String(64), nullable=False),
    Column("status", String(20), nullable=False),
    Column("priority", Float, nullable=False),
    Column("amount", Float, nullable=False),
    Column("score", Float),
    Column("action", String(20), nullable=False),
    Column("alerts", Integer, nullable=False),
    Column("first_event_time", BigInteger, nullable=False),
    Column("last_event_time", BigInteger, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("assignee", Text),
    Column("decision", String(20)),
    Column("decided_at", BigInteger),
    Column("decided_by", Text),
    Column("note", Text),
    Column("revision", BigInteger, nullable=False),
    Index("cases_queue", "pipeline", "status", "priority", "id"),
    Index("cases_entity", "pipeline", "value_hash", "last_event_time"),
)

alerts = Table(
    "case_alerts",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    # the database itself refuses to take an alert twice, should our own check ever fail
    Column("key", String(64), primary_key=True),
    Column("case_id", BigInteger, nullable=False),
    Column("number", Integer, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("event_time", BigInteger, nullable=False),
    Column("scored_at", BigInteger, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("score", Float),
    Column("amount", Float),
    Column("decision", String(20), nullable=False),
    Column("alert", Text, nullable=False),
    # 1, 0, or -1: a label given before is taken back; null: no label was ever given
    Column("told", Integer),
    Column("told_at", BigInteger),
    Column("written_at", BigInteger),
    Column("refused", Text),
    Index("case_alerts_case", "pipeline", "case_id", "number", unique=True),
    Index(
        "case_alerts_pending",
        "pipeline",
        "told_at",
        "key",
        sqlite_where=text("told_at IS NOT NULL AND written_at IS NULL"),
        postgresql_where=text("told_at IS NOT NULL AND written_at IS NULL"),
    ),
)

history = Table(
    "case_history",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("case_id", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("text", Text),
    Column("waited", BigInteger),
    Index("case_history_case", "pipeline", "case_id", "number"),
    Index("case_history_kind", "pipeline", "kind", "at"),
)

offsets = Table(
    "case_offsets",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    # which log: a topic made anew under the same name begins at 0 again
    Column("log", String(400), primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
)
