"""Scored events with what is known of them now, out of the topics: what maturity metrics are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec
import numpy as np

from domain.errors import Fatal
from domain.label_codec import LabelCodec
from domain.pipeline import Pipeline
from domain.verdict import DecisionName, Flag
from lifecycle.label_index import LabelIndex
from lifecycle.maturity import ScoredEvents
from stream.kafka import KafkaConnection
from stream.label_logs import joined_labels, topic_records
from stream.log_reading import reader_conf
from stream.topics import Topics

__all__ = ["read_scored_events"]

_CHUNK = 20_000


class _Said(msgspec.Struct, frozen=True, gc=False):
    """The part of a verdict that is judged."""

    id: str
    event_time: int
    score: float | None
    decision: DecisionName
    flags: list[str]


def read_scored_events(
    kafka: KafkaConnection,
    pipeline: Pipeline,
    *,
    now: int,
    since: int = 0,
    progress: Callable[[int], None] = lambda count: None,
) -> ScoredEvents:
    """Every event from event time ``since`` on (UTC microseconds) that the topic of verdicts holds, repetitions left
    out, with the label that holds by ``now``. About 40 bytes an event; ``progress`` is told of verdicts read.

    Raises Retriable, ServiceMissing, Fatal.
    """
    topics = Topics(pipeline.name)
    conf = reader_conf(kafka, f"tidegate-report-{pipeline.name}", f"{pipeline.name}.report")
    labels = LabelIndex(as_of=now)
    for _, label in joined_labels(conf, topics.labels_joined, LabelCodec(pipeline)):
        labels.add(label)
    decode = msgspec.json.Decoder(_Said).decode

    def verdicts() -> Iterator[_Said]:
        for message in topic_records(conf, topics.verdicts):
            try:
                said = decode(message.value() or b"")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise Fatal(
                    f"{topics.verdicts} {message.partition()}:{message.offset()} is no verdict: {error}",
                    remedy="let nobody but the workers write there; delete that record",
                ) from error
            if said.event_time >= since and Flag.DUPLICATE not in said.flags:
                yield said

    parts = []
    left = verdicts()
    while chunk := list(islice(left, _CHUNK)):
        parts.append(_columns(chunk, labels))
        progress(len(chunk))
    return _together(parts)


def _columns(said: Sequence[_Said], labels: LabelIndex) -> ScoredEvents:
    times = np.array([one.event_time for one in said], dtype=np.int64)
    label, known_at = labels.look_up([one.id for one in said], times)
    return ScoredEvents(
        times=times,
        score=np.array([np.nan if one.score is None else one.score for one in said]),
        alert=np.array([one.decision is not DecisionName.ALLOW for one in said], dtype=np.bool_),
        label=label,
        known_at=known_at,
    )


def _together(parts: Sequence[ScoredEvents]) -> ScoredEvents:
    if not parts:
        none = np.empty(0, dtype=np.int64)
        return ScoredEvents(none, np.empty(0), np.empty(0, dtype=np.bool_), np.empty(0), none)
    return ScoredEvents(
        np.concatenate([part.times for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.alert for part in parts]),
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.known_at for part in parts]),
    )
