"""Rule sets, versions of rules, entries of lists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision: str | None = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "rule_sets",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("epoch", sa.BigInteger, primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_table(
        "rule_versions",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("since_epoch", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "list_entries",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("list", sa.String(80), primary_key=True),
        sa.Column("field", sa.String(80), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("added_at", sa.BigInteger, nullable=False),
        sa.Column("added_by", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("removed", sa.Boolean(create_constraint=False), nullable=False),
    )
    op.create_index("list_entries_number", "list_entries", ["pipeline", "number"], unique=True)
    op.create_table(
        "list_heads",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop them, with all that is in them."""
    for table in ("list_heads", "list_entries", "rule_versions", "rule_sets"):
        op.drop_table(table)
