"""Which changes of labels a file of labels means, given what is known already and which events there are. Pure.

A label is a statement with a date: from ``known_at`` on an event counts as 1, as 0 or as unknown. Of two statements
the later-known one holds, whatever order they arrive in, so a row that is older than what the log says of its event
has nothing to add, and neither has one that repeats what holds. This makes an import repeatable: the changes of one
event are written in order of known-at, so of an import that was cut off the log holds, for each event, a first part
of its changes, and the same file then means exactly the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import msgspec

from domain.label_codec import JoinedLabel, Said
from lifecycle.label_rows import Label, Told

__all__ = ["Change", "Decided", "ImportPlan", "LabelledEvent", "Present", "decide", "plan_import", "records"]


class LabelledEvent(NamedTuple):
    """An event that labels can be about: ``time`` in UTC microseconds, ``entities`` as values in the pipeline's order.

    ``partition`` is where it and its verdict lie, ``key`` the key of the verdict's record. ``said`` is the JSON of
    :class:`domain.label_codec.Said`, for a pipeline that learns from labels.
    """

    time: int
    entities: tuple[str, ...]
    partition: int
    key: bytes | None
    said: bytes | None = None


class Present(NamedTuple):
    """What the log of joined labels says last of an event."""

    label: Label
    known_at: int
    event: LabelledEvent


class Change(NamedTuple):
    """From ``known_at`` (UTC microseconds) on ``label`` holds instead of ``previous``; told by the file's ``row``."""

    known_at: int
    label: Label
    previous: Label
    row: int


@dataclass(frozen=True, slots=True)
class Decided:
    """``changes`` by event id, of each in order of known-at; how many rows change nothing, and why.

    ``unchanged`` rows repeat what holds (or are followed by another of the same moment), ``superseded`` ones are
    older than what the log holds of their event. ``events`` are those already in the log.
    """

    changes: Mapping[str, Sequence[Change]]
    events: Mapping[str, LabelledEvent]
    unchanged: int
    superseded: int

    @property
    def sought(self) -> set[str]:
        """Ids whose event must be looked for among the verdicts."""
        return {id_ for id_ in self.changes if id_ not in self.events}


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What is to be written, and what can not be.

    ``lanes`` hold, by partition and in order of known-at, (event id, its event, change). ``orphans`` are (row, id)
    of ids that no verdict has; ``incomplete`` those whose verdict lacks an entity that the pipeline has now.
    """

    lanes: Mapping[int, Sequence[tuple[str, LabelledEvent, Change]]]
    orphans: Sequence[tuple[int, str]]
    incomplete: Sequence[tuple[int, str]]
    unchanged: int
    superseded: int

    @property
    def by_label(self) -> Counter[Label]:
        """How many changes lead to each label."""
        return Counter(change.label for lane in self.lanes.values() for _, _, change in lane)

    @property
    def count(self) -> int:
        """How many records are to be written."""
        return sum(map(len, self.lanes.values()))


def decide(told: Mapping[str, Sequence[Told]], present: Mapping[str, Present]) -> Decided:
    """The changes that ``told`` (by event id, in order of known-at) means on top of ``present``."""
    changes: dict[str, list[Change]] = {}
    events: dict[str, LabelledEvent] = {}
    unchanged = superseded = 0
    for id_, rows in told.items():
        known = present.get(id_)
        holds = None if known is None else known.label
        made: list[Change] = []
        for number, one in enumerate(rows):
            if known is not None and one.known_at < known.known_at:
                superseded += 1
            elif one.label == holds or _same_moment(rows, number):
                unchanged += 1
            else:
                made.append(Change(one.known_at, one.label, holds, one.row))
                holds = one.label
        if made:
            changes[id_] = made
            if known is not None:
                events[id_] = known.event
    return Decided(changes, events, unchanged, superseded)


def _same_moment(rows: Sequence[Told], number: int) -> bool:
    """Whether the next row tells of the same moment: then that one counts."""
    return number + 1 < len(rows) and rows[number + 1].known_at == rows[number].known_at


def plan_import(
    decided: Decided, found: Mapping[str, LabelledEvent], incomplete: Container[str] = frozenset()
) -> ImportPlan:
    """Where the changes go: to the events that the log knows already, else to those ``found`` among the verdicts."""
    lanes: dict[int, list[tuple[str, LabelledEvent, Change]]] = {}
    orphans: list[tuple[int, str]] = []
    lacking: list[tuple[int, str]] = []
    for id_, changes in decided.changes.items():
        event = decided.events.get(id_) or found.get(id_)
        if event is None:
            (lacking if id_ in incomplete else orphans).append((changes[0].row, id_))
            continue
        lanes.setdefault(event.partition, []).extend((id_, event, change) for change in changes)
    for lane in lanes.values():
        # stable, so changes of one event and rows of one moment keep their order
        lane.sort(key=lambda entry: entry[2].known_at)
    return ImportPlan(dict(sorted(lanes.items())), orphans, lacking, decided.unchanged, decided.superseded)


def records(
    plan: ImportPlan, entities: Sequence[str], *, origin: str | None = None
) -> Iterator[tuple[int, bytes | None, JoinedLabel]]:
    """(partition, record key, joined label) of each change; ``entities`` are the pipeline's, by name."""
    for partition, lane in plan.lanes.items():
        for id_, event, change in lane:
            yield (
                partition,
                event.key,
                JoinedLabel(
                    id=id_,
                    event_time=event.time,
                    known_at=change.known_at,
                    label=change.label,
                    previous=change.previous,
                    entities=dict(zip(entities, event.entities, strict=True)),
                    origin=origin,
                    # encoded as it is: a decoded copy of two million vectors would be large
                    said=None if event.said is None else cast(Said, msgspec.Raw(event.said)),
                ),
            )
