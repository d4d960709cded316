"""The part of a verdict that labels need; decoding no more than that is several times as fast."""

from __future__ import annotations

from typing import Any

import msgspec

from domain.verdict import Flag, ModelRole, Source

__all__ = ["HeardVerdict", "hear", "said_of"]


class _Rank(msgspec.Struct, frozen=True, gc=False):
    rank: float | None = None


class _Score(msgspec.Struct, frozen=True, gc=False):
    score: float | None = None


class HeardVerdict(msgspec.Struct, frozen=True, gc=False):
    """What was said of which event; ``event_time`` in UTC microseconds."""

    id: str
    event_time: int
    entities: dict[str, str]
    flags: list[str]
    source: Source
    features: msgspec.Raw = msgspec.Raw(b"null")
    detectors: msgspec.Raw = msgspec.Raw(b"null")
    score: float | None = None
    models: dict[str, _Score] | None = None

    @property
    def duplicate(self) -> bool:
        """Whether this is about a repetition, so that labels are not about it."""
        return Flag.DUPLICATE in self.flags


hear = msgspec.json.Decoder(HeardVerdict).decode
_RANKS = msgspec.json.Decoder(dict[str, _Rank])


def said_of(verdict: HeardVerdict) -> bytes | None:
    """What the verdict said, as JSON of :class:`domain.label_codec.Said`; None where it holds no vector."""
    if bytes(verdict.features) == b"null":
        return None
    said = _RANKS.decode(verdict.detectors)
    ranks = {name: one.rank for name, one in said.items()}
    record: dict[str, Any] = {"features": verdict.features, "ranks": ranks, "score": verdict.score}
    if verdict.models is not None:
        record["own"] = verdict.models[ModelRole.OWN].score
    return msgspec.json.encode(record)
