"""Records of ``labels.joined`` off the wire: one change of one event's label, with what a feature needs to count it.

Joined means: whoever wrote the record has found the event, so the record carries the event's time and entity
values exactly as they are in its verdict (sensitive ones as keyed hashes), and lies in the event's partition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np

from domain.batch import Ints
from domain.durations import format_duration
from domain.errors import EventRejected, Reject
from domain.examples import Examples
from domain.label import LabelBatch
from domain.pipeline import Pipeline

__all__ = ["JoinedLabel", "LabelCodec", "Said"]

MAX_BYTES = 65_536
"""Ten times what a record with a dozen long entity values needs."""
_TIME_LIMIT = 2**53
_Time = Annotated[int, msgspec.Meta(ge=0, lt=_TIME_LIMIT)]


class Said(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What the verdict said of the event, for what learns from labels: by the names of features and detectors.

    ``features`` is the vector as scored, ``ranks`` each detector's rank, null where one gave none. ``own``, where
    models from the registry were in force: the score of the pipeline's own detectors (the verdict's
    ``models.own.score``).
    """

    features: dict[str, float | None]
    ranks: dict[str, float | None]
    score: float | None
    own: float | msgspec.UnsetType | None = msgspec.UNSET


class JoinedLabel(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A change of one event's label; times are UTC microseconds.

    ``label`` is what holds from ``known_at`` on (null: unknown again), ``previous`` what held before. Whoever
    joins labels decides between conflicting sources; here only the outcome counts.
    """

    id: str
    event_time: _Time
    known_at: _Time
    label: Literal[0, 1] | None
    previous: Literal[0, 1] | None = None
    entities: dict[str, str]
    origin: str | None = None
    said: Said | None = None


class LabelCodec:
    """Decodes joined labels of one pipeline and turns them into columns."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._entities = pipeline.entities
        self._learns = pipeline.learns
        self._features = pipeline.feature_names
        self._detectors = tuple(detector.name for detector in pipeline.detectors)
        self._max_future = pipeline.event.max_future
        self._decode = msgspec.json.Decoder(JoinedLabel).decode
        self._encoder = msgspec.json.Encoder()

    def decode(self, raw: bytes, *, received_at: int) -> JoinedLabel:
        """The label in ``raw``, which the log received at ``received_at`` (UTC microseconds).

        Raises EventRejected with a stable reason; nothing else, whatever the bytes.
        """
        if len(raw) > MAX_BYTES:
            raise EventRejected(
                Reject.TOO_LARGE,
                None,
                f"the record has {len(raw):,} bytes, the limit is {MAX_BYTES:,}.",
                remedy="Send nothing but the fields that docs/labels.md names.",
            )
        try:
            label = self._decode(raw)
        except msgspec.ValidationError as error:
            missing = "missing required field" in str(error)
            raise EventRejected(
                Reject.MISSING_FIELD if missing else Reject.WRONG_TYPE,
                None,
                f"{error}.",
                remedy="Send the fields that docs/labels.md names, times as microseconds since 1970.",
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EventRejected(
                Reject.NOT_JSON, None, f"{error}.", remedy="Send one JSON object per record."
            ) from None
        for name in self._entities:
            value = label.entities.get(name)
            if not value or "\0" in value:
                raise EventRejected(
                    Reject.MISSING_FIELD if value is None else Reject.EMPTY,
                    f"entities.{name}",
                    f"entities.{name} is {'absent' if value is None else 'no usable text'}.",
                    remedy="Copy `entities` from the event's verdict.",
                )
        if label.known_at > received_at + self._max_future:
            ahead = format_duration(label.known_at - received_at)
            raise EventRejected(
                Reject.IN_FUTURE,
                "known_at",
                f"known_at lies {ahead} after the record was received, the limit is "
                f"{format_duration(self._max_future)}.",
                remedy="Send a label when it is known; correct the sender's clock.",
            )
        return label

    def encode(self, label: JoinedLabel) -> bytes:
        """The label as it goes into ``labels.joined``."""
        return self._encoder.encode(label)

    def to_batch(self, labels: Sequence[JoinedLabel], offsets: Sequence[int]) -> LabelBatch:
        """The labels as columns; ``offsets`` are their own, strictly increasing."""
        change = [(label.label == 1) - (label.previous == 1) for label in labels]
        known_at = np.array([label.known_at for label in labels], dtype=np.int64)
        times = np.array([label.event_time for label in labels], dtype=np.int64)
        return LabelBatch(
            offsets=np.asarray(offsets, dtype=np.int64),
            known_at=known_at,
            times=times,
            entities={name: [label.entities[name] for label in labels] for name in self._entities},
            change=np.array(change, dtype=np.int64),
            examples=self._examples(labels, times, known_at) if self._learns else None,
        )

    def _examples(self, labels: Sequence[JoinedLabel], times: Ints, known_at: Ints) -> Examples:
        m = len(labels)
        x = np.full((m, len(self._features)), np.nan)
        ranks = np.full((m, len(self._detectors)), np.nan)
        score, own = np.full(m, np.nan), np.full(m, np.nan)
        led = False
        for row, label in enumerate(labels):
            if (said := label.said) is None:
                continue
            x[row] = [_number(said.features.get(name)) for name in self._features]
            ranks[row] = [_number(said.ranks.get(name)) for name in self._detectors]
            score[row] = own[row] = _number(said.score)
            if not isinstance(said.own, msgspec.UnsetType):
                own[row], led = _number(said.own), True
        y = np.array([_number(label.label) for label in labels], dtype=np.float64)
        return Examples(x, y, ranks, score, times, known_at, own if led else None)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
