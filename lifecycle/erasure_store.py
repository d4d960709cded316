"""Erasures that were asked for, and how far each has come; asking and finishing are audit records."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Row, insert, select, update

from lifecycle.audit_trail import AuditTrail
from lifecycle.database import Database
from lifecycle.erasure_tables import erasures

__all__ = ["CLAIM_SECONDS", "ErasureRequest", "ErasureStep", "ErasureStore"]

CLAIM_SECONDS = 120
"""After so long in step ``logging`` whoever claimed it is taken for dead; longer than writing a record takes."""


class ErasureStep(StrEnum):
    """How far an erasure has come; docs/privacy.md."""

    REQUESTED = "requested"
    LOGGING = "logging"
    """Somebody is writing the control records."""
    LOGGED = "logged"
    """They are in the log; the workers have to pass them."""
    ONLINE = "online"
    """Online state is gone; verdicts on the way to the stores have to arrive before they can be removed."""
    DONE = "done"


class ErasureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One erasure. ``value`` is as in verdicts and leaves with the last step; ``value_hash`` always a keyed hash.

    ``points``: partition to the offset of its control record: what lies below is erased.
    ``verdicts``: partition to the last verdict that the archivers must have passed (-1: there is none).
    """

    id: str
    entity: str
    value: str | None
    value_hash: str
    requested_at: int
    requested_by: str
    reason: str
    step: ErasureStep
    points: dict[int, int]
    verdicts: dict[int, int]
    hot_removed: int
    offline_removed: int
    changed_at: int


class ErasureStore:
    """Erasures of one pipeline. Methods raise RegistryUnavailable."""

    def __init__(self, database: Database, pipeline: str) -> None:
        self._database = database
        self._pipeline = pipeline
        self._trail = AuditTrail(pipeline)
        self._mine = erasures.c.pipeline == pipeline

    def request(
        self, entity: str, value: str, value_hash: str, *, by: str, reason: str, now: int
    ) -> ErasureRequest:
        """Ask for an erasure. One of the same entity that nobody has begun is the same erasure."""
        wanted = (self._mine, erasures.c.entity == entity, erasures.c.value_hash == value_hash)
        with self._trail.changing(self._database) as connection:
            waiting = select(erasures).where(*wanted, erasures.c.step == ErasureStep.REQUESTED.value)
            if (row := connection.execute(waiting).first()) is not None:
                return _request(row)
            id_ = f"e-{uuid.uuid4().hex}"
            connection.execute(
                insert(erasures).values(
                    pipeline=self._pipeline, id=id_, entity=entity, value=value, value_hash=value_hash,
                    requested_at=now, requested_by=by, reason=reason, step=ErasureStep.REQUESTED.value,
                    points="{}", verdicts="{}", hot_removed=0, offline_removed=0, changed_at=now,
                )
            )  # fmt: skip
            subject = f"{entity}:{value_hash}"
            self._trail.note(connection, "entity.erase", subject, by=by, reason=reason, now=now, after=id_)
            return _request(
                connection.execute(select(erasures).where(self._mine, erasures.c.id == id_)).one()
            )

    def get(self, id_: str) -> ErasureRequest | None:
        """One erasure."""
        with self._database.reading() as connection:
            row = connection.execute(select(erasures).where(self._mine, erasures.c.id == id_)).first()
        return None if row is None else _request(row)

    def open(self, limit: int = 100) -> Sequence[ErasureRequest]:
        """Those that are not done, in the order in which they were asked for."""
        query = select(erasures).where(self._mine, erasures.c.step != ErasureStep.DONE.value)
        query = query.order_by(erasures.c.requested_at, erasures.c.id).limit(limit)
        with self._database.reading() as connection:
            return [_request(row) for row in connection.execute(query)]

    def claim(self, request: ErasureRequest, now: int) -> bool:
        """Whether it is ours to write the control records of ``request``, as it was read."""
        stale = request.step is ErasureStep.LOGGING and now - request.changed_at > CLAIM_SECONDS * 1_000_000
        if request.step is not ErasureStep.REQUESTED and not stale:
            return False
        return self._moved(request, now, step=ErasureStep.LOGGING.value)

    def logged(self, request: ErasureRequest, points: Mapping[int, int], now: int) -> bool:
        """The control records of ``request``, claimed by us, are at ``points``."""
        wanted = (self._mine, erasures.c.id == request.id, erasures.c.step == ErasureStep.LOGGING.value)
        values = {"step": ErasureStep.LOGGED.value, "points": _json(points), "changed_at": now}
        with self._database.writing() as connection:
            return connection.execute(update(erasures).where(*wanted).values(**values)).rowcount == 1

    def online(self, request: ErasureRequest, verdicts: Mapping[int, int], now: int) -> bool:
        """Online state is gone; the archivers must pass ``verdicts``."""
        return self._moved(request, now, step=ErasureStep.ONLINE.value, verdicts=_json(verdicts))

    def done(self, request: ErasureRequest, hot: int, offline: int, now: int) -> bool:
        """All is removed: the value leaves too."""
        with self._trail.changing(self._database) as connection:
            wanted = (self._mine, erasures.c.id == request.id, erasures.c.step == request.step.value)
            values: dict[str, Any] = {
                "step": ErasureStep.DONE.value, "value": None, "hot_removed": hot, "offline_removed": offline,
                "changed_at": now,
            }  # fmt: skip
            if connection.execute(update(erasures).where(*wanted).values(**values)).rowcount != 1:
                return False
            self._trail.note(
                connection, "entity.erased", f"{request.entity}:{request.value_hash}", by="keeper",
                reason=request.reason, now=now, before=request.id,
                after=f"{hot} recent and {offline} offline verdicts removed",
            )  # fmt: skip
            return True

    def _moved(self, request: ErasureRequest, now: int, **values: Any) -> bool:
        """Whether nobody else has moved ``request`` since it was read."""
        same = (erasures.c.step == request.step.value, erasures.c.changed_at == request.changed_at)
        query = update(erasures).where(self._mine, erasures.c.id == request.id, *same)
        with self._database.writing() as connection:
            return connection.execute(query.values(changed_at=now, **values)).rowcount == 1


def _json(numbers: Mapping[int, int]) -> str:
    return msgspec.json.encode(dict(numbers)).decode()


def _request(row: Row[Any]) -> ErasureRequest:
    values = row._asdict()
    del values["pipeline"]
    for name in ("points", "verdicts"):
        values[name] = msgspec.json.decode(values[name], type=dict[int, int])
    return ErasureRequest(**{**values, "step": ErasureStep(values["step"])})
