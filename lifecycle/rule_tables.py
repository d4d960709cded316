"""The tables of rules and lists as the code sees them; migration 0004 makes them.

JSON lies in text columns, times are UTC microseconds. ``rule_sets`` keeps every rule set that ever was in force, by
epoch; ``rule_versions`` every content that a rule ever had. ``list_entries`` keeps removed entries too, so that
whoever publishes finds by its ``number`` what the topic does not know yet.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, String, Table, Text

from lifecycle.registry_tables import metadata

__all__ = ["list_entries", "list_heads", "rule_sets", "rule_versions"]

rule_sets = Table(
    "rule_sets",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("content", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
)

rule_versions = Table(
    "rule_versions",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("id", String(200), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("content", Text, nullable=False),
    Column("since_epoch", BigInteger, nullable=False),
)

list_entries = Table(
    "list_entries",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("list", String(80), primary_key=True),
    Column("field", String(80), primary_key=True),
    # of the value: values may be longer than an index takes
    Column("digest", String(64), primary_key=True),
    Column("value", Text, nullable=False),
    Column("expires_at", BigInteger),
    Column("source", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("added_at", BigInteger, nullable=False),
    Column("added_by", Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("removed", Boolean(create_constraint=False), nullable=False),
    Index("list_entries_number", "pipeline", "number", unique=True),
)

list_heads = Table(
    "list_heads",
    metadata,
    Column("pipeline", String(200), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("entries", BigInteger, nullable=False),
)
