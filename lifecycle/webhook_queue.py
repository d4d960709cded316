"""The queue of deliveries in the database: what the dispatcher takes in, claims, and settles.

What was read of the topic and what is queued because of it are one transaction, so an alert is queued exactly once
however often the dispatcher dies; a claim is a lease, so a delivery whose dispatcher died is attempted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, select, update

from domain.errors import Fatal
from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.webhook_rows import WebhookRows, endpoint_of
from lifecycle.webhook_rules import allowed_now, paced
from lifecycle.webhook_secrets import SecretBox
from lifecycle.webhook_tables import attempts, deliveries, endpoints, messages, positions
from lifecycle.webhooks import DeliveryState, Due, Incoming, Order, Queued, Settled

__all__ = ["GONE_REASON", "Overtaken", "WebhookQueue"]

GONE_REASON = "it answered 410 Gone"
_PENDING = DeliveryState.PENDING.value
_PAGE = 500


class _Data(msgspec.Struct, gc=False):
    entities: dict[str, str] = {}


class _Body(msgspec.Struct, gc=False):
    """What erasing needs of a message."""

    data: _Data


def _about(body: str, field: str, value: str) -> bool:
    return msgspec.json.decode(body, type=_Body).data.entities.get(field) == value


class Overtaken(Exception):
    """Somebody else has taken in these records already; ask for the positions again."""


class WebhookQueue:
    """The queue of ``pipeline``; safe between threads and processes. Everything raises RegistryUnavailable."""

    def __init__(self, database: Database, pipeline: str, box: SecretBox) -> None:
        self._database = database
        self._audit = AuditTrail(pipeline)
        self._rows = WebhookRows(pipeline, box)

    def positions(self, log: str) -> dict[int, int]:
        """Where to read on in each partition of the topic ``log``; those of which nothing was read are not there."""
        query = select(positions).where(*self._rows.of(positions, log=log))
        with self._database.reading() as connection:
            return {row.partition: row.next_offset for row in connection.execute(query)}

    def take(
        self, log: str, read: Mapping[int, tuple[int | None, int]], found: Sequence[Incoming], now: int
    ) -> int:
        """Queue ``found`` for every endpoint that wants it, and move on; how many deliveries were queued.

        ``read`` gives, for each partition, the position before (None: none was kept) and the one after. Raises
        Overtaken, and does nothing, when a position is another than the one before.
        """
        with self._database.writing() as connection:
            self._rows.lock(connection)
            for partition, (before, after) in read.items():
                self._move(connection, log, partition, before, after)
            there = [endpoint_of(row) for row in self._rows.endpoints(connection)]
            if not there:
                return 0  # nobody could ever ask for them
            new = self._unknown(connection, found)
            numbers = self._rows.numbers(connection, len(new))
            queued: list[tuple[str, int, str]] = []
            rows = []
            for number, one in zip(numbers, new, strict=True):
                rows.append(
                    {
                        "number": number,
                        "id": one.id,
                        "kind": "alert",
                        "lane": one.lane,
                        "body": one.body,
                        "created_at": now,
                    }
                )
                queued += [
                    (endpoint.id, number, one.lane)
                    for endpoint in there
                    if endpoint.settings.enabled and endpoint.settings.filter.wants(one.alert)
                ]
            if rows:
                self._rows.add_messages(connection, rows)
            self._rows.add_deliveries(connection, queued, now)
            return len(queued)

    def ready(self, now: int) -> bool:
        """Whether a claim may find something; without a lock, so that an idle dispatcher writes nothing."""
        due = (
            select(deliveries.c.number)
            .join(
                endpoints,
                and_(endpoints.c.pipeline == deliveries.c.pipeline, endpoints.c.id == deliveries.c.endpoint),
            )
            .where(
                *self._rows.of(deliveries, state=_PENDING),
                deliveries.c.due_at <= now,
                deliveries.c.lease_until <= now,
                endpoints.c.enabled,
                endpoints.c.paused_until <= now,
            )
            .limit(1)
        )
        with self._database.reading() as connection:
            return connection.execute(due).first() is not None

    def claim(
        self, owner: str, now: int, *, lease: float, limit: int, each: int, busy: Mapping[str, int]
    ) -> list[Due]:
        """Deliveries to attempt now, for ``lease`` seconds nobody else's; at most ``limit``.

        No endpoint is given more than ``each`` at once, those in ``busy`` (endpoint to how many are under way)
        counted: one that answers slowly leaves room for the others, and those with the least under way come first.
        """
        with self._database.writing() as connection:
            self._rows.lock(connection)
            ready = [
                row
                for row in self._rows.endpoints(connection)
                if row.enabled and row.paused_until <= now and busy.get(row.id, 0) < each
            ]
            claimed: list[Due] = []
            for row in sorted(ready, key=lambda row: busy.get(row.id, 0)):
                room = min(limit - len(claimed), each - busy.get(row.id, 0))
                allowed = allowed_now(row.paced_until, now, row.rate)
                room = room if allowed is None else min(room, allowed)
                if room > 0:
                    claimed += self._claim_of(connection, row, owner, now, lease, room)
            return claimed

    def settle(self, results: Sequence[Settled], owner: str) -> None:
        """Keep what became of attempts; an endpoint that is gone is disabled, with an audit record."""
        gone = [result for result in results if result.gone]
        # the audit's lock comes first, where it is needed
        changing = self._audit.changing(self._database) if gone else self._database.writing()
        with changing as connection:
            self._rows.lock(connection)
            for result in results:
                self._settle(connection, result, owner)
            for result in gone:
                self._disable(connection, result)

    def release(self, owner: str, now: int) -> int:
        """Give back what ``owner`` held, as a former process of that name died with it; how many."""
        with self._database.writing() as connection:
            self._rows.lock(connection)
            mine = [*self._rows.of(deliveries, owner=owner, state=_PENDING), deliveries.c.lease_until > now]
            freed = update(deliveries).where(*mine).values(owner=None, lease_until=0)
            return connection.execute(freed).rowcount

    def waiting(self) -> list[Queued]:
        """What waits, for every endpoint."""
        counted = (
            select(deliveries.c.endpoint, func.count().label("n"), func.min(deliveries.c.due_at).label("due"))
            .where(*self._rows.of(deliveries, state=_PENDING))
            .group_by(deliveries.c.endpoint)
        )
        with self._database.reading() as connection:
            found = {row.endpoint: row for row in connection.execute(counted)}
            every = [row.id for row in self._rows.endpoints(connection)]
        return [
            Queued(endpoint=id_, pending=found[id_].n, oldest_due=found[id_].due)
            if id_ in found
            else Queued(endpoint=id_, pending=0, oldest_due=None)
            for id_ in every
        ]

    def forget(self, before: int, limit: int = 5_000) -> tuple[int, int]:
        """Forget messages from before ``before`` with their log, at most ``limit``.

        How many, and how many deliveries among them still waited (for an endpoint that is disabled, or too slow).
        """
        old = select(messages.c.number).where(*self._rows.of(messages), messages.c.created_at < before)
        with self._database.writing() as connection:
            self._rows.lock(connection)
            numbers = list(connection.execute(old.order_by(messages.c.number).limit(limit)).scalars())
            return len(numbers), self._drop(connection, numbers)

    def erase(self, field: str, value: str) -> int:
        """Forget all messages about the entity ``field`` called ``value`` (as in alerts), with their log; how many.

        Those that were not delivered yet never will be.
        """
        said = msgspec.json.encode(value).decode()
        erased, after = 0, 0
        while True:
            # the text narrows down, the alert itself decides
            perhaps = select(messages.c.number, messages.c.body).where(
                *self._rows.of(messages),
                messages.c.number > after,
                messages.c.body.contains(said, autoescape=True),
            )
            with self._database.writing() as connection:
                self._rows.lock(connection)
                found = connection.execute(perhaps.order_by(messages.c.number).limit(_PAGE)).all()
                numbers = [row.number for row in found if _about(row.body, field, value)]
                self._drop(connection, numbers)
            erased += len(numbers)
            if len(found) < _PAGE:
                return erased
            after = found[-1].number

    def _drop(self, connection: Connection, numbers: Sequence[int]) -> int:
        """Delete messages with their deliveries and attempts; how many deliveries still waited."""
        lost = 0
        for start in range(0, len(numbers), _PAGE):
            some = numbers[start : start + _PAGE]
            waiting = (
                select(func.count())
                .select_from(deliveries)
                .where(*self._rows.of(deliveries, state=_PENDING), deliveries.c.number.in_(some))
            )
            lost += connection.execute(waiting).scalar_one()
            for table in (attempts, deliveries, messages):
                connection.execute(delete(table).where(*self._rows.of(table), table.c.number.in_(some)))
        return lost

    def _move(self, connection: Connection, log: str, partition: int, before: int | None, after: int) -> None:
        mine = self._rows.of(positions, log=log, partition=partition)
        if before is None:
            if connection.execute(select(positions.c.next_offset).where(*mine)).one_or_none() is not None:
                raise Overtaken
            values = {"pipeline": self._rows.pipeline, "log": log, "partition": partition}
            connection.execute(insert(positions).values(**values, next_offset=after))
            return
        moved = update(positions).where(*mine, positions.c.next_offset == before).values(next_offset=after)
        if not connection.execute(moved).rowcount:
            raise Overtaken

    def _unknown(self, connection: Connection, found: Sequence[Incoming]) -> list[Incoming]:
        """``found`` without what is there: an alert is known by its id, also when its topic was made anew."""
        known: set[str] = set()
        for start in range(0, len(found), _PAGE):
            ids = [one.id for one in found[start : start + _PAGE]]
            query = select(messages.c.id).where(*self._rows.of(messages), messages.c.id.in_(ids))
            known.update(connection.execute(query).scalars())
        unique = {one.id: one for one in found if one.id not in known}
        return list(unique.values())

    def _claim_of(
        self, connection: Connection, endpoint: Row[Any], owner: str, now: int, lease: float, room: int
    ) -> list[Due]:
        joined = and_(messages.c.pipeline == deliveries.c.pipeline, messages.c.number == deliveries.c.number)
        query = (
            select(deliveries.c.number, deliveries.c.attempts, messages.c.id, messages.c.body)
            .join(messages, joined)
            .where(
                *self._rows.of(deliveries, endpoint=endpoint.id, state=_PENDING),
                deliveries.c.due_at <= now,
                deliveries.c.lease_until <= now,
            )
            .order_by(deliveries.c.due_at, deliveries.c.number)
            .limit(room)
        )
        if endpoint.order == Order.KEY.value:
            first = deliveries.alias()
            query = query.where(
                ~exists().where(
                    first.c.pipeline == deliveries.c.pipeline,
                    first.c.endpoint == deliveries.c.endpoint,
                    first.c.lane == deliveries.c.lane,
                    first.c.state == _PENDING,
                    first.c.number < deliveries.c.number,
                )
            )
        rows = connection.execute(query).all()
        if not rows:
            return []
        numbers = [row.number for row in rows]
        connection.execute(
            update(deliveries)
            .where(*self._rows.of(deliveries, endpoint=endpoint.id), deliveries.c.number.in_(numbers))
            .values(owner=owner, lease_until=now + round(lease * 1e6))
        )
        if endpoint.rate is not None:
            until = paced(endpoint.paced_until, now, endpoint.rate, len(rows))
            mine = self._rows.of(endpoints, id=endpoint.id)
            connection.execute(update(endpoints).where(*mine).values(paced_until=until))
        try:
            live = self._rows.opened(connection, endpoint.id, now)
        except Fatal:
            live = ()  # whoever attempts it says so; other endpoints' secrets may be of our key
        return [
            Due(
                endpoint=endpoint.id,
                number=row.number,
                message=row.id,
                url=endpoint.url,
                body=row.body,
                attempts=row.attempts,
                secrets=live,
            )
            for row in rows
        ]

    def _settle(self, connection: Connection, result: Settled, owner: str) -> None:
        due = result.due
        mine = self._rows.of(deliveries, endpoint=due.endpoint, number=due.number)
        row = connection.execute(select(deliveries).where(*mine)).one_or_none()
        if row is None:
            return  # the endpoint was deleted meanwhile
        made = row.made + 1
        connection.execute(
            insert(attempts).values(
                pipeline=self._rows.pipeline,
                endpoint=due.endpoint,
                number=due.number,
                attempt=made,
                at=result.at,
                seconds=result.seconds,
                status=result.status,
                error=result.error,
            )
        )
        values: dict[str, Any] = {"made": made, "changed_at": result.at}
        # what a replay or another dispatcher has taken over since is theirs to settle
        if row.owner == owner and row.state == _PENDING:
            values |= {
                "attempts": due.attempts + 1,
                "status": result.status,
                "error": result.error,
                "owner": None,
                "lease_until": 0,
            }
            if result.error is None:
                values["state"] = DeliveryState.DELIVERED.value
            elif result.due_at is None:
                values["state"] = DeliveryState.FAILED.value
            else:
                values["due_at"] = result.due_at
        connection.execute(update(deliveries).where(*mine).values(values))
        if result.pause_until is not None:
            quiet = update(endpoints).where(
                *self._rows.of(endpoints, id=due.endpoint), endpoints.c.paused_until < result.pause_until
            )
            connection.execute(quiet.values(paused_until=result.pause_until))

    def _disable(self, connection: Connection, result: Settled) -> None:
        mine = [*self._rows.of(endpoints, id=result.due.endpoint), endpoints.c.enabled]
        changed = connection.execute(
            update(endpoints)
            .where(*mine)
            .values(
                enabled=False,
                disabled_reason=GONE_REASON,
                revision=endpoints.c.revision + 1,
                changed_at=result.at,
            )
        )
        if changed.rowcount:
            self._audit.note(
                connection,
                "webhook.disable",
                result.due.endpoint,
                by="dispatcher",
                reason=GONE_REASON,
                now=result.at,
                before="enabled",
                after="disabled",
            )
