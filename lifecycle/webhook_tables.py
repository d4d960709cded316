"""Tables of webhooks as the code sees them; migration 0003 makes them. Times are UTC microseconds."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Float, Index, Integer, LargeBinary, String, Table, Text

from lifecycle.registry_tables import metadata

__all__ = ["attempts", "deliveries", "endpoints", "heads", "messages", "positions", "secrets"]

endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("filter", Text, nullable=False),
    Column("rate", Float),
    Column("order", String(10), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    Column("revision", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    # what the dispatcher knows of it
    Column("paused_until", BigInteger, nullable=False),
    Column("paced_until", BigInteger, nullable=False),
)

secrets = Table(
    "webhook_secrets",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("endpoint", String(40), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
)

messages = Table(
    "webhook_messages",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("id", String(80), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("lane", String(200), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("webhook_messages_id", "pipeline", "id", unique=True),
    Index("webhook_messages_created", "pipeline", "created_at"),
)

deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("endpoint", String(40), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("lane", String(200), nullable=False),
    Column("state", String(20), nullable=False),
    # since it was queued last, and ever
    Column("attempts", Integer, nullable=False),
    Column("made", Integer, nullable=False),
    Column("queued_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("status", Integer),
    Column("error", String(80)),
    Column("owner", String(200)),
    Column("lease_until", BigInteger, nullable=False),
    Index("webhook_deliveries_due", "pipeline", "endpoint", "state", "due_at"),
    Index("webhook_deliveries_lane", "pipeline", "endpoint", "lane", "state", "number"),
    Index("webhook_deliveries_message", "pipeline", "number"),
)

attempts = Table(
    "webhook_attempts",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("endpoint", String(40), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("status", Integer),
    Column("error", String(80)),
)

positions = Table(
    "webhook_positions",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    # the topic and Kafka's id of it: of a topic made anew nothing was read
    Column("log", String(400), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
)

# a row for each pipeline: who queues, claims or settles locks it first, so they follow each other everywhere
heads = Table(
    "webhook_heads",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("last_number", BigInteger, nullable=False),
)
