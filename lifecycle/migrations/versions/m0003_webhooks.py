"""Webhooks: endpoints, their secrets, messages, deliveries and their attempts, and what was read of the alerts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "webhook_endpoints",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("filter", sa.Text, nullable=False),
        sa.Column("rate", sa.Float),
        sa.Column("order", sa.String(10), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("disabled_reason", sa.Text),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("paused_until", sa.BigInteger, nullable=False),
        sa.Column("paced_until", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "webhook_secrets",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("endpoint", sa.String(40), primary_key=True),
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
    )
    op.create_table(
        "webhook_messages",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("id", sa.String(80), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("lane", sa.String(200), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("webhook_messages_id", "webhook_messages", ["pipeline", "id"], unique=True)
    op.create_index("webhook_messages_created", "webhook_messages", ["pipeline", "created_at"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("endpoint", sa.String(40), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("lane", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("made", sa.Integer, nullable=False),
        sa.Column("queued_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.String(80)),
        sa.Column("owner", sa.String(200)),
        sa.Column("lease_until", sa.BigInteger, nullable=False),
    )
    op.create_index(
        "webhook_deliveries_due", "webhook_deliveries", ["pipeline", "endpoint", "state", "due_at"]
    )
    op.create_index(
        "webhook_deliveries_lane", "webhook_deliveries", ["pipeline", "endpoint", "lane", "state", "number"]
    )
    op.create_index("webhook_deliveries_message", "webhook_deliveries", ["pipeline", "number"])
    op.create_table(
        "webhook_attempts",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("endpoint", sa.String(40), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.String(80)),
    )
    op.create_table(
        "webhook_positions",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("log", sa.String(400), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "webhook_heads",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("last_number", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop them, with all that is in them."""
    for table in (
        "webhook_heads",
        "webhook_positions",
        "webhook_attempts",
        "webhook_deliveries",
        "webhook_messages",
        "webhook_secrets",
        "webhook_endpoints",
    ):
        op.drop_table(table)
