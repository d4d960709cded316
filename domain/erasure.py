"""Erasures as records of the log of events: forget an entity, everything before this record (decision 0021).

Whoever may write events must not thereby be able to erase: a record carries a MAC (keyed BLAKE2b, RFC 7693) under the
privacy key, personalised, so that it can not be mistaken for the hash of a value. One that does not verify is no
control record, and is decoded as an event.
"""

from __future__ import annotations

import hmac

import msgspec

from domain.pipeline import Pipeline
from domain.privacy import Protector

__all__ = ["CONTROL_ERASE", "Erasure", "ErasureCodec"]

CONTROL_ERASE = b"erase"
"""Value of the header ``tidegate-control`` on such a record."""
_MAX_BYTES = 16_384
"""Several times what the longest entity value needs."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """Forget ``value`` (as in verdicts: the keyed hash of a sensitive field) of the entity field ``entity``.

    ``id`` names the request; ``partition`` is the one that the record lies in, and concerns.
    """

    entity: str
    value: str
    id: str
    partition: int


class _Signed(Erasure, frozen=True, kw_only=True):
    mac: str


class ErasureCodec:
    """Writes and reads erasures of one pipeline."""

    def __init__(self, pipeline: Pipeline, protector: Protector) -> None:
        self._pipeline = pipeline.name
        self._entities = frozenset(pipeline.entities)
        self._sign = protector.sign
        self._decode = msgspec.json.Decoder(_Signed).decode

    def encode(self, erasure: Erasure) -> bytes:
        """The value of the control record."""
        return msgspec.json.encode({**msgspec.structs.asdict(erasure), "mac": self._mac(erasure)})

    def decode(self, raw: bytes, partition: int) -> Erasure | None:
        """The erasure in ``raw``, which lies in ``partition``; None when it is none that we signed."""
        if len(raw) > _MAX_BYTES:
            return None
        try:
            found = self._decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        erasure = Erasure(entity=found.entity, value=found.value, id=found.id, partition=found.partition)
        try:
            signed = hmac.compare_digest(found.mac.encode(), self._mac(erasure).encode())
        except UnicodeEncodeError:
            return None
        # an entity of a former pipeline file has no state here
        return erasure if signed and partition == found.partition and found.entity in self._entities else None

    def _mac(self, erasure: Erasure) -> str:
        return self._sign(msgspec.json.encode([self._pipeline, *msgspec.structs.astuple(erasure)]))
