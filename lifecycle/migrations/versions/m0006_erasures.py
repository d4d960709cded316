"""Erasures of entities."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "erasures",
        sa.Column("pipeline", sa.String(200), primary_key=True),
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("entity", sa.String(200), nullable=False),
        sa.Column("value", sa.Text),
        sa.Column("value_hash", sa.String(64), nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("step", sa.String(40), nullable=False),
        sa.Column("points", sa.Text, nullable=False),
        sa.Column("verdicts", sa.Text, nullable=False),
        sa.Column("hot_removed", sa.BigInteger, nullable=False),
        sa.Column("offline_removed", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("erasures_step", "erasures", ["pipeline", "step"])
