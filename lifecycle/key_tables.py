"""The table of API keys as the code sees it; a migration makes it. Times are UTC microseconds."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Integer, String, Table, Text

from lifecycle.registry_tables import metadata

__all__ = ["api_keys"]

api_keys = Table(
    "api_keys",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("scopes", Text, nullable=False),
    # of the whole key, in hexadecimal; the key itself is nowhere
    Column("sha256", String(64), nullable=False),
    Column("rate", Float),
    Column("burst", Integer),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("replaces", String(40)),
)
