"""Rows of webhooks within somebody else's transaction: what the store of endpoints and the queue share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from lifecycle.webhook_secrets import SecretBox
from lifecycle.webhook_tables import deliveries, endpoints, heads, messages, secrets
from lifecycle.webhooks import (
    DeliveryState,
    Endpoint,
    EndpointSettings,
    Order,
    UnknownWebhook,
    WebhookFilter,
)

__all__ = ["WebhookRows", "endpoint_of"]


class WebhookRows:
    """The rows of ``pipeline``."""

    def __init__(self, pipeline: str, box: SecretBox) -> None:
        self.pipeline = pipeline
        self._box = box

    def of(self, table: Table, **keys: Any) -> list[Any]:
        """Conditions for rows of ours in ``table``."""
        return [table.c.pipeline == self.pipeline, *(table.c[name] == value for name, value in keys.items())]

    def lock(self, connection: Connection) -> None:
        """Let nobody else queue, claim or settle until the transaction ends.

        Always the first lock but that of the audit, so that no two can wait for each other.
        """
        same = update(heads).where(*self.of(heads)).values(last_number=heads.c.last_number)
        if connection.execute(same).rowcount:
            return
        try:
            with connection.begin_nested():
                connection.execute(insert(heads).values(pipeline=self.pipeline, last_number=0))
        except IntegrityError:
            pass  # somebody else was first; now there is a row to wait for
        connection.execute(same)

    def numbers(self, connection: Connection, count: int) -> range:
        """The next ``count`` numbers of messages; within :meth:`lock`."""
        last = connection.execute(select(heads.c.last_number).where(*self.of(heads))).scalar_one()
        connection.execute(update(heads).where(*self.of(heads)).values(last_number=last + count))
        return range(last + 1, last + count + 1)

    def endpoints(self, connection: Connection) -> list[Row[Any]]:
        """All rows of endpoints, oldest first."""
        query = select(endpoints).where(*self.of(endpoints)).order_by(endpoints.c.created_at, endpoints.c.id)
        return list(connection.execute(query))

    def find(self, connection: Connection, endpoint: str) -> Endpoint:
        """One endpoint. Raises UnknownWebhook."""
        row = connection.execute(select(endpoints).where(*self.of(endpoints, id=endpoint))).one_or_none()
        if row is None:
            raise UnknownWebhook(
                "there is no such webhook endpoint", remedy="`tidegate webhooks list` shows them"
            )
        return endpoint_of(row)

    def add_messages(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
        """Keep messages."""
        connection.execute(insert(messages), [{"pipeline": self.pipeline, **row} for row in rows])

    def add_deliveries(self, connection: Connection, rows: Sequence[tuple[str, int, str]], now: int) -> None:
        """Queue (endpoint, number, lane) from ``now`` on."""
        values = [
            {
                "pipeline": self.pipeline,
                "endpoint": endpoint,
                "number": number,
                "lane": lane,
                "state": DeliveryState.PENDING.value,
                "attempts": 0,
                "made": 0,
                "queued_at": now,
                "due_at": now,
                "changed_at": now,
                "lease_until": 0,
            }
            for endpoint, number, lane in rows
        ]
        if values:
            connection.execute(insert(deliveries), values)

    def add_secret(self, connection: Connection, endpoint: str, id_: str, secret: bytes, now: int) -> None:
        """Keep a secret, sealed."""
        connection.execute(
            insert(secrets).values(
                pipeline=self.pipeline,
                endpoint=endpoint,
                id=id_,
                sealed=self._box.seal(secret, self._place(endpoint, id_)),
                created_at=now,
                expires_at=None,
            )
        )

    def live_secrets(self, connection: Connection, endpoint: str, now: int) -> list[Row[Any]]:
        """Rows of the secrets that have not expired, newest first."""
        query = select(secrets).where(
            *self.of(secrets, endpoint=endpoint),
            (secrets.c.expires_at.is_(None)) | (secrets.c.expires_at > now),
        )
        return list(connection.execute(query.order_by(secrets.c.created_at.desc(), secrets.c.id)))

    def opened(self, connection: Connection, endpoint: str, now: int) -> tuple[bytes, ...]:
        """The live secrets themselves. Raises Fatal when the key is another one."""
        rows = self.live_secrets(connection, endpoint, now)
        return tuple(self._box.open(bytes(row.sealed), self._place(endpoint, row.id)) for row in rows)

    def _place(self, endpoint: str, id_: str) -> str:
        return f"{self.pipeline}/{endpoint}/{id_}"


def endpoint_of(row: Row[Any]) -> Endpoint:
    """The endpoint that a row holds."""
    return Endpoint(
        id=row.id,
        settings=EndpointSettings(
            url=row.url,
            description=row.description,
            filter=msgspec.json.decode(row.filter, type=WebhookFilter),
            rate=row.rate,
            order=Order(row.order),
            enabled=row.enabled,
        ),
        disabled_reason=row.disabled_reason,
        revision=row.revision,
        created_at=row.created_at,
        created_by=row.created_by,
        changed_at=row.changed_at,
        paused_until=row.paused_until,
    )
