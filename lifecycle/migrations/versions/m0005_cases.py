"""Review cases, their alerts, their history, and how far the topic of alerts is taken in."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision: str | None = "0004"
branch_labels = None
depends_on = None

_PENDING = sa.text("told_at IS NOT NULL AND written_at IS NULL")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "case_counters",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("cases", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "cases",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("entity", sa.String(200), nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("value_hash", sa.String(64), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("priority", sa.Float, nullable=False),
        sa.Column("amount", sa.Float, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("action", sa.String(20), nullable=False),
        sa.Column("alerts", sa.Integer, nullable=False),
        sa.Column("first_event_time", sa.BigInteger, nullable=False),
        sa.Column("last_event_time", sa.BigInteger, nullable=False),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sa.Column("queued_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("assignee", sa.Text),
        sa.Column("decision", sa.String(20)),
        sa.Column("decided_at", sa.BigInteger),
        sa.Column("decided_by", sa.Text),
        sa.Column("note", sa.Text),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    op.create_index("cases_queue", "cases", ["pipeline", "status", "priority", "id"])
    op.create_index("cases_entity", "cases", ["pipeline", "value_hash", "last_event_time"])
    op.create_table(
        "case_alerts",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("case_id", sa.BigInteger, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("event_time", sa.BigInteger, nullable=False),
        sa.Column("scored_at", sa.BigInteger, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("amount", sa.Float),
        sa.Column("decision", sa.String(20), nullable=False),
        sa.Column("alert", sa.Text, nullable=False),
        sa.Column("told", sa.Integer),
        sa.Column("told_at", sa.BigInteger),
        sa.Column("written_at", sa.BigInteger),
        sa.Column("refused", sa.Text),
    )
    op.create_index("case_alerts_case", "case_alerts", ["pipeline", "case_id", "number"], unique=True)
    op.create_index(
        "case_alerts_pending",
        "case_alerts",
        ["pipeline", "told_at", "key"],
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    )
    op.create_table(
        "case_history",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("case_id", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("text", sa.Text),
        sa.Column("waited", sa.BigInteger),
    )
    op.create_index("case_history_case", "case_history", ["pipeline", "case_id", "number"])
    op.create_index("case_history_kind", "case_history", ["pipeline", "kind", "at"])
    op.create_table(
        "case_offsets",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("log", sa.String(400), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop them, with all that is in them."""
    for table in ("case_offsets", "case_history", "case_alerts", "cases", "case_counters"):
        op.drop_table(table)
