"""What people do with webhooks, in the database: endpoints, secrets, test events, the log, replay.

Every change is one transaction with its audit record. The queue from which the dispatcher delivers is
:mod:`lifecycle.webhook_queue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update

from domain.clock import Clock, from_micros
from domain.errors import RegistryConflict
from domain.verdict import Alert
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.webhook_rows import WebhookRows, endpoint_of
from lifecycle.webhook_rules import MAX_ENDPOINTS, MAX_SECRETS, check_settings, shown_url
from lifecycle.webhook_secrets import SecretBox, as_text
from lifecycle.webhook_tables import attempts, deliveries, endpoints, messages, secrets
from lifecycle.webhooks import (
    Attempt,
    BadEndpoint,
    Delivery,
    DeliveryState,
    Endpoint,
    EndpointSettings,
    NewSecret,
    Replayed,
    SecretInfo,
    UnknownWebhook,
    WebhookFilter,
)

__all__ = ["LONGEST_OVERLAP", "MAX_REPLAY", "WebhookStore"]

MAX_REPLAY = 10_000
"""Messages queued again by one call: a transaction of about a second."""
LONGEST_OVERLAP = 30 * 86_400.0
"""Seconds that a former secret may live beside the new one."""
_PAGE = 500


class WebhookStore:
    """Endpoints of ``pipeline``; safe between threads and processes. Everything raises RegistryUnavailable."""

    def __init__(self, database: Database, pipeline: str, clock: Clock, box: SecretBox) -> None:
        self._database = database
        self._clock = clock
        self._box = box
        self._audit = AuditTrail(pipeline)
        self._rows = WebhookRows(pipeline, box)

    def endpoints(self) -> list[Endpoint]:
        """All, oldest first."""
        with self._database.reading() as connection:
            return [endpoint_of(row) for row in self._rows.endpoints(connection)]

    def endpoint(self, endpoint: str) -> Endpoint:
        """One of them. Raises UnknownWebhook."""
        with self._database.reading() as connection:
            return self._rows.find(connection, endpoint)

    def secrets(self, endpoint: str) -> list[SecretInfo]:
        """The live secrets of an endpoint, newest first, without what is secret. Raises UnknownWebhook."""
        with self._database.reading() as connection:
            self._rows.find(connection, endpoint)
            rows = self._rows.live_secrets(connection, endpoint, self._clock.now())
        return [SecretInfo(id=r.id, created_at=r.created_at, expires_at=r.expires_at) for r in rows]

    def add(self, settings: EndpointSettings, *, by: str, reason: str) -> tuple[Endpoint, NewSecret]:
        """A new endpoint and its secret, which is never shown again. Raises BadEndpoint."""
        check_settings(settings)
        with self._audit.changing(self._database) as connection:
            there = select(func.count()).select_from(endpoints).where(*self._rows.of(endpoints))
            if connection.execute(there).scalar_one() >= MAX_ENDPOINTS:
                raise BadEndpoint(
                    "endpoints", f"there are {MAX_ENDPOINTS} already", remedy="delete one that is not used"
                )
            now = self._clock.now()
            endpoint = Endpoint(
                id=f"we_{self._box.random(8).hex()}",
                settings=settings,
                disabled_reason=None,
                revision=1,
                created_at=now,
                created_by=by,
                changed_at=now,
            )
            connection.execute(
                insert(endpoints).values(
                    pipeline=self._rows.pipeline,
                    id=endpoint.id,
                    **_columns(settings),
                    disabled_reason=None,
                    revision=1,
                    created_at=now,
                    created_by=by,
                    changed_at=now,
                    paused_until=0,
                    paced_until=0,
                )
            )
            made = self._new_secret(connection, endpoint.id, now)
            self._note(connection, "webhook.add", endpoint.id, by, reason, now, after=_audited(settings))
            return endpoint, made

    def change(
        self,
        endpoint: str,
        settings: EndpointSettings,
        *,
        by: str,
        reason: str,
        revision: int | None = None,
    ) -> Endpoint:
        """Let an endpoint be so from now on; enabling it forgets why it was disabled.

        ``revision`` is what the caller has seen. Raises BadEndpoint, UnknownWebhook, RegistryConflict when it is
        another by now.
        """
        check_settings(settings)
        with self._audit.changing(self._database) as connection:
            self._rows.lock(connection)
            before = self._rows.find(connection, endpoint)
            if revision is not None and revision != before.revision:
                raise RegistryConflict(
                    f"the endpoint is at revision {before.revision} by now, not {revision}",
                    remedy="look at it again, then decide",
                )
            now = self._clock.now()
            values = {
                **_columns(settings),
                "disabled_reason": None if settings.enabled else before.disabled_reason,
                "revision": before.revision + 1,
                "changed_at": now,
            }
            if settings.url != before.settings.url or settings.enabled > before.settings.enabled:
                values["paused_until"] = (
                    0  # what asked for quiet may be another program than what is there now
                )
            connection.execute(update(endpoints).where(*self._rows.of(endpoints, id=endpoint)).values(values))
            self._note(
                connection,
                "webhook.change",
                endpoint,
                by,
                reason,
                now,
                before=_audited(before.settings),
                after=_audited(settings),
            )
            return self._rows.find(connection, endpoint)

    def delete(self, endpoint: str, *, by: str, reason: str) -> None:
        """Forget an endpoint with its secrets, what waits for it and its log. Raises UnknownWebhook."""
        with self._audit.changing(self._database) as connection:
            self._rows.lock(connection)
            before = self._rows.find(connection, endpoint)
            for table in (attempts, deliveries, secrets):
                connection.execute(delete(table).where(*self._rows.of(table, endpoint=endpoint)))
            connection.execute(delete(endpoints).where(*self._rows.of(endpoints, id=endpoint)))
            now = self._clock.now()
            self._note(
                connection, "webhook.delete", endpoint, by, reason, now, before=_audited(before.settings)
            )

    def rotate(self, endpoint: str, *, overlap: float, by: str, reason: str) -> NewSecret:
        """A new secret, never shown again; those before it live for ``overlap`` more seconds at most.

        Raises UnknownWebhook, BadEndpoint for an overlap out of range or with too many live secrets.
        """
        if not 0 <= overlap <= LONGEST_OVERLAP:
            raise BadEndpoint(
                "overlap_seconds", f"must be from 0 to {LONGEST_OVERLAP:,.0f}", remedy="86400 is a day"
            )
        with self._audit.changing(self._database) as connection:
            self._rows.find(connection, endpoint)
            now = self._clock.now()
            end = now + round(overlap * 1e6)
            mine = self._rows.of(secrets, endpoint=endpoint)
            connection.execute(
                update(secrets)
                .where(*mine, (secrets.c.expires_at.is_(None)) | (secrets.c.expires_at > end))
                .values(expires_at=end)
            )
            connection.execute(delete(secrets).where(*mine, secrets.c.expires_at <= now))
            if len(self._rows.live_secrets(connection, endpoint, now)) >= MAX_SECRETS:
                raise BadEndpoint(
                    "secrets",
                    f"{MAX_SECRETS} are live already",
                    remedy="wait until one expires, or rotate without overlap",
                )
            made = self._new_secret(connection, endpoint, now)
            after = f"{made.id}; those before it until {from_micros(end).isoformat()}"
            self._note(connection, "webhook.rotate", endpoint, by, reason, now, after=after)
            return made

    def send_test(self, endpoint: str, *, by: str, reason: str) -> str:
        """Queue a test event; its message id. Raises UnknownWebhook, BadEndpoint when it is disabled."""
        with self._audit.changing(self._database) as connection:
            self._rows.lock(connection)
            if not self._rows.find(connection, endpoint).settings.enabled:
                raise BadEndpoint("enabled", "the endpoint is disabled", remedy="enable it first")
            now = self._clock.now()
            number = self._rows.numbers(connection, 1)[0]
            id_ = f"test_{self._box.random(12).hex()}"
            body = {
                "type": "test",
                "timestamp": from_micros(now).isoformat().replace("+00:00", "Z"),
                "data": {"pipeline": self._rows.pipeline, "endpoint": endpoint},
            }
            message = {"number": number, "id": id_, "kind": "test", "lane": f"test {id_}", "created_at": now}
            self._rows.add_messages(connection, [{**message, "body": msgspec.json.encode(body).decode()}])
            self._rows.add_deliveries(connection, [(endpoint, number, message["lane"])], now)  # type: ignore[list-item]
            self._note(connection, "webhook.test", endpoint, by, reason, now, after=id_)
            return id_

    def log(
        self,
        endpoint: str,
        *,
        state: DeliveryState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """Deliveries with a number below ``before``, newest first. Raises UnknownWebhook."""
        query = self._delivered(endpoint).order_by(deliveries.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(deliveries.c.state == state.value)
        if before is not None:
            query = query.where(deliveries.c.number < before)
        with self._database.reading() as connection:
            self._rows.find(connection, endpoint)
            return [_delivery(row) for row in connection.execute(query)]

    def delivery(self, endpoint: str, message: str) -> tuple[Delivery, list[Attempt]]:
        """What became of one message at an endpoint: every attempt, oldest first. Raises UnknownWebhook."""
        with self._database.reading() as connection:
            row = connection.execute(self._delivered(endpoint).where(messages.c.id == message)).one_or_none()
            if row is None:
                raise UnknownWebhook(
                    "that message was never queued for this endpoint",
                    remedy="its delivery log shows which were",
                )
            query = select(attempts).where(*self._rows.of(attempts, endpoint=endpoint, number=row.number))
            made = connection.execute(query.order_by(attempts.c.attempt)).all()
        tried = [
            Attempt(attempt=a.attempt, at=a.at, seconds=a.seconds, status=a.status, error=a.error)
            for a in made
        ]
        return _delivery(row), tried

    def replay(
        self,
        endpoint: str,
        *,
        by: str,
        reason: str,
        since: int | None = None,
        until: int | None = None,
        after: int = 0,
        only: Sequence[str] | None = None,
        limit: int = MAX_REPLAY,
    ) -> Replayed:
        """Queue alerts again that the endpoint's filter wants, delivered or not, under the ids that they had.

        Those taken in from ``since`` to before ``until`` with numbers above ``after``, or the messages ``only``.
        Whatever was kept is there, also from a time when the endpoint was disabled or did not exist. What waits
        already is due at once. Raises UnknownWebhook.
        """
        query = select(messages).where(*self._rows.of(messages, kind="alert"), messages.c.number > after)
        if since is not None:
            query = query.where(messages.c.created_at >= since)
        if until is not None:
            query = query.where(messages.c.created_at < until)
        if only is not None:
            query = query.where(messages.c.id.in_(list(only)))
        with self._audit.changing(self._database) as connection:
            self._rows.lock(connection)
            wanted = self._rows.find(connection, endpoint).settings.filter
            found = connection.execute(query.order_by(messages.c.number).limit(limit + 1)).all()
            more, found = len(found) > limit, found[:limit]
            chosen = {row.number: row.lane for row in found if _wants(wanted, row.body)}
            now = self._clock.now()
            again = self._queue_again(connection, endpoint, list(chosen), now)
            new = [(endpoint, number, lane) for number, lane in chosen.items() if number not in again]
            self._rows.add_deliveries(connection, new, now)
            self._note(
                connection, "webhook.replay", endpoint, by, reason, now, after=f"{len(chosen)} messages"
            )
            return Replayed(queued=len(chosen), more=more, last=found[-1].number if found else None)

    def _queue_again(self, connection: Connection, endpoint: str, numbers: list[int], now: int) -> set[int]:
        there: set[int] = set()
        for start in range(0, len(numbers), _PAGE):
            some = deliveries.c.number.in_(numbers[start : start + _PAGE])
            mine = [*self._rows.of(deliveries, endpoint=endpoint), some]
            there.update(connection.execute(select(deliveries.c.number).where(*mine)).scalars())
            connection.execute(
                update(deliveries)
                .where(*mine)
                .values(
                    state=DeliveryState.PENDING.value,
                    attempts=0,
                    queued_at=now,
                    due_at=now,
                    changed_at=now,
                    owner=None,
                    lease_until=0,
                )
            )
        return there

    def _delivered(self, endpoint: str) -> Any:
        joined = (deliveries.c.pipeline == messages.c.pipeline) & (deliveries.c.number == messages.c.number)
        return (
            select(deliveries, messages.c.id.label("message"), messages.c.kind)
            .join(messages, joined)
            .where(*self._rows.of(deliveries, endpoint=endpoint))
        )

    def _new_secret(self, connection: Connection, endpoint: str, now: int) -> NewSecret:
        id_, secret = f"ws_{self._box.random(8).hex()}", self._box.new_secret()
        self._rows.add_secret(connection, endpoint, id_, secret, now)
        return NewSecret(id=id_, secret=as_text(secret))

    def _note(
        self,
        connection: Connection,
        action: str,
        endpoint: str,
        by: str,
        reason: str,
        now: int,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        self._audit.note(
            connection, action, endpoint, by=by, reason=reason, now=now, before=before, after=after
        )


class _Sent(msgspec.Struct):
    data: Alert


_decode_sent = msgspec.json.Decoder(_Sent).decode


def _wants(wanted: WebhookFilter, body: str) -> bool:
    try:
        return wanted.wants(_decode_sent(body).data)
    except msgspec.ValidationError:
        return True  # of a version with other alerts: sent once too often rather than never


def _columns(settings: EndpointSettings) -> dict[str, Any]:
    return {
        "url": settings.url,
        "description": settings.description,
        "filter": msgspec.json.encode(settings.filter).decode(),
        "rate": settings.rate,
        "order": settings.order.value,
        "enabled": settings.enabled,
    }


def _audited(settings: EndpointSettings) -> str:
    """For the audit: without the URL's path, which may be a token."""
    return msgspec.json.encode(msgspec.structs.replace(settings, url=shown_url(settings.url))).decode()


def _delivery(row: Any) -> Delivery:
    return Delivery(
        number=row.number,
        message=row.message,
        kind=row.kind,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        queued_at=row.queued_at,
        due_at=row.due_at,
        changed_at=row.changed_at,
        status=row.status,
        error=row.error,
    )
