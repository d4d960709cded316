"""The registry's tables as the code sees them; ``lifecycle/migrations`` makes them and moves them on.

JSON lies in text columns, times are UTC microseconds. ``registries`` has a row for each pipeline: every change
updates it first, which makes writers of one pipeline follow each other in SQLite and PostgreSQL alike, and it
keeps number and hash of the last audit record.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

__all__ = ["artefacts", "audit", "metadata", "models", "registries", "runs", "states"]

metadata = MetaData()

registries = Table(
    "registries",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("changes", BigInteger, nullable=False),
    Column("audit_number", BigInteger, nullable=False),
    Column("audit_hash", String(64), nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("version", String(80), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("stage", String(40), nullable=False),
    Column("reason", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("manifest", Text, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("card", Text, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("registered_by", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Index("models_number", "pipeline", "number", unique=True),
)

artefacts = Table(
    "artefacts",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("version", String(80), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

states = Table(
    "states",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("champion", String(80)),
    Column("challenger", String(80)),
    Column("split", Float, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("below", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("id", String(80), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("trigger", String(80), nullable=False),
    Column("requested_at", BigInteger, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("step", String(80), nullable=False),
    Column("data", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("owner", Text),
    Column("lease_until", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("outcome", String(80)),
    Column("error", Text),
    Index("runs_number", "pipeline", "number", unique=True),
    # the database itself refuses a second open run, should our own check ever fail
    Index(
        "runs_open",
        "pipeline",
        unique=True,
        sqlite_where=text("finished_at IS NULL"),
        postgresql_where=text("finished_at IS NULL"),
    ),
)

audit = Table(
    "audit",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("by", Text, nullable=False),
    Column("action", String(80), nullable=False),
    Column("subject", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("reason", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
