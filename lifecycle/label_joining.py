"""Raw labels and verdicts in, joined labels out: everything the joiner decides. No Kafka, no Redis, no clock.

A label is joined as soon as its event is known: from an earlier label of the same event, or from its verdict. Else it
waits, and what waits is part of the state that goes into ``labels.claims`` in the same transaction, so a restart
forgets nobody. A label is given up only after a search that was answered, never because a store was away.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import msgspec

from domain.durations import format_duration
from domain.errors import EventRejected, Fatal, Reject
from domain.label_codec import JoinedLabel, Said
from domain.pipeline import Pipeline
from domain.raw_label import RawLabel
from lifecycle.heard_verdict import HeardVerdict, hear, said_of
from lifecycle.label_book import LabelBook
from lifecycle.label_claims import Claim, EventPlace, LabelState, WaitingLabel, tell

__all__ = ["MAX_WAITING", "Arrived", "Joined", "LabelJoining", "Letter"]

MAX_WAITING = 50_000
"""Events whose labels wait: about 1 KB of memory each. Beyond it the longest waiting are given up."""
MAX_PER_EVENT = 32
"""Labels of one event that wait. More than a few sources with a few reversals each is a program in a loop."""
SAME_TIME = 1_000_000
"""Microseconds by which a label may miss its event's time: systems of record often keep whole seconds."""
FIRST_GAP, LONGEST_GAP = 5_000_000, 600_000_000
"""Microseconds between two searches for the same event: doubling."""


class Arrived(NamedTuple):
    """A raw label and the record it came in; ``received_at`` in UTC microseconds."""

    label: RawLabel
    partition: int
    offset: int
    received_at: int
    value: bytes


class Letter(NamedTuple):
    """A label that is given up, and why."""

    label: WaitingLabel
    why: EventRejected


@dataclass(slots=True)
class Joined:
    """What is to be written, in one transaction: joined labels with their partitions, states by event id, letters.

    ``unchanged`` labels said what was known already, or something older.
    """

    records: list[tuple[int, JoinedLabel]] = field(default_factory=list)
    states: list[tuple[str, LabelState | None]] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    unchanged: int = 0

    def __bool__(self) -> bool:
        return bool(self.records or self.states or self.letters)


@dataclass(slots=True)
class _Wait:
    """``since``: when its first label came; ``gap``: until the search after the next; 0 before the first."""

    since: int
    next_search: int
    gap: int = 0


class LabelJoining:
    """What the joiner knows and decides. After an error of whoever writes, throw it away: the log says what holds."""

    def __init__(
        self, pipeline: Pipeline, book: LabelBook, *, max_waiting: int = MAX_WAITING, now: int = 0
    ) -> None:
        self._entities = pipeline.entities
        self._sources = pipeline.label_sources
        self._patience = pipeline.orphans_wait
        self._max_waiting = max_waiting
        self._book = book
        self._waiting = {id_: _Wait(state.waiting[0].received_at, now) for id_, state in book.waiting()}

    @property
    def waiting(self) -> int:
        """Events whose labels wait."""
        return len(self._waiting)

    @property
    def oldest(self) -> int | None:
        """When the longest waiting came, UTC microseconds."""
        return min((wait.since for wait in self._waiting.values()), default=None)

    @property
    def full(self) -> bool:
        """Whether no more labels should be taken before those that wait were searched for."""
        return len(self._waiting) >= self._max_waiting

    def take(self, arrived: Sequence[Arrived], verdicts: Mapping[str, bytes], now: int) -> Joined:
        """Labels in order of arrival, with those verdicts on their events that were quickly found."""
        out = Joined()
        states = self._book.get(one.label.id for one in arrived)
        by_id: dict[str, list[Arrived]] = {}
        for one in arrived:
            by_id.setdefault(one.label.id, []).append(one)
        for id_, labels in by_id.items():
            before = states.get(id_, LabelState())
            state = msgspec.structs.replace(before, waiting=(*before.waiting, *map(_kept, labels)))
            self._settle(id_, before, state, _heard(verdicts.get(id_)), out, now, searched=False)
        self._book.put(out.states)
        return out

    def due(self, now: int, limit: int) -> list[str]:
        """Events to search for now, at most ``limit``: those not searched for yet, then those that came first."""
        found = [(w.gap > 0, w.since, id_) for id_, w in self._waiting.items() if w.next_search <= now]
        return [id_ for _, _, id_ in sorted(found)[:limit]]

    def searched(self, ids: Collection[str], verdicts: Mapping[str, bytes], now: int) -> Joined:
        """The outcome of a search for ``ids`` in all stores, every one of which answered."""
        out = Joined()
        states = self._book.get(ids)
        for id_ in ids:
            before = states[id_]
            self._settle(id_, before, before, _heard(verdicts.get(id_)), out, now, searched=True)
        self._book.put(out.states)
        return out

    def make_room(self) -> Joined:
        """Give up those that waited longest and were searched for in vain, until a tenth of the room is free."""
        out = Joined()
        tried = sorted((wait.since, id_) for id_, wait in self._waiting.items() if wait.gap)
        most = len(self._waiting) - self._max_waiting * 9 // 10
        gone = [id_ for _, id_ in tried[: max(0, most)]]
        states = self._book.get(gone)
        for id_ in gone:
            state = states[id_]
            out.letters += [Letter(one, _no_room(self._max_waiting)) for one in state.waiting]
            left = msgspec.structs.replace(state, waiting=())
            out.states.append((id_, None if _empty(left) else left))
            del self._waiting[id_]
        self._book.put(out.states)
        return out

    def _settle(
        self,
        id_: str,
        before: LabelState,
        state: LabelState,
        verdict: HeardVerdict | None,
        out: Joined,
        now: int,
        *,
        searched: bool,
    ) -> None:
        """Join what waits in ``state`` if its event is known now, else let it wait on, or no longer."""
        event = self._event(state, verdict)
        if event is None and verdict is not None:
            out.letters += [Letter(one, _incomplete()) for one in state.waiting]
            state = msgspec.structs.replace(state, waiting=())
        elif event is None:
            state = self._still_waiting(state, out, now, searched=searched)
        elif state.waiting:
            state = self._joined(id_, state, event, verdict, out, searched=searched)
        if state.waiting:
            out.letters += [Letter(one, _too_many()) for one in state.waiting[MAX_PER_EVENT:]]
            state = msgspec.structs.replace(state, waiting=state.waiting[:MAX_PER_EVENT])
            self._wait_on(id_, state, now, searched=searched)
        else:
            self._waiting.pop(id_, None)
        if state != before:
            out.states.append((id_, None if _empty(state) else state))

    def _event(self, state: LabelState, verdict: HeardVerdict | None) -> EventPlace | None:
        """The event that is meant, with all entities of today; None when nobody knows it, or not all of it."""
        known = state.event
        if known is not None and all(known.entities.get(name) for name in self._entities):
            return known
        if verdict is None or not all(verdict.entities.get(name) for name in self._entities):
            return None
        entities = {name: verdict.entities[name] for name in self._entities}
        return EventPlace(time=verdict.event_time, entities=entities, partition=verdict.source.partition)

    def _joined(
        self,
        id_: str,
        state: LabelState,
        event: EventPlace,
        verdict: HeardVerdict | None,
        out: Joined,
        *,
        searched: bool,
    ) -> LabelState:
        told = msgspec.structs.replace(state, waiting=(), event=event)
        records: list[JoinedLabel] = []
        letters: list[Letter] = []
        unchanged = 0
        mine = verdict is not None and verdict.event_time == event.time
        said = said_of(verdict) if verdict is not None and mine else None
        for one in state.waiting:
            if one.event_time is not None and abs(one.event_time - event.time) >= SAME_TIME:
                letters.append(Letter(one, _other_event()))
                continue
            told, change = tell(told, one.source, Claim(one.label, one.known_at), self._sources)
            if change is None:
                unchanged += 1
                continue
            records.append(
                JoinedLabel(
                    id=id_,
                    event_time=event.time,
                    known_at=change.known_at,
                    label=change.label,
                    previous=change.previous,
                    entities={name: event.entities[name] for name in self._entities},
                    origin=change.source or one.source,
                    # encoded as it is: nothing here looks into it
                    said=None if said is None else cast(Said, msgspec.Raw(said)),
                )
            )
        if records and verdict is None and not searched:
            return state  # a known event, but what was said of it is worth a search
        out.records += [(event.partition, record) for record in records]
        out.letters += letters
        out.unchanged += unchanged
        return told if told.claims != state.claims else msgspec.structs.replace(state, waiting=())

    def _still_waiting(self, state: LabelState, out: Joined, now: int, *, searched: bool) -> LabelState:
        if not searched:
            return state
        given_up = [one for one in state.waiting if one.received_at + self._patience <= now]
        out.letters += [Letter(one, _no_verdict(self._patience)) for one in given_up]
        left = tuple(one for one in state.waiting if one.received_at + self._patience > now)
        return msgspec.structs.replace(state, waiting=left)

    def _wait_on(self, id_: str, state: LabelState, now: int, *, searched: bool) -> None:
        wait = self._waiting.setdefault(id_, _Wait(state.waiting[0].received_at, now))
        if searched:
            wait.gap = min(2 * wait.gap, LONGEST_GAP) if wait.gap else FIRST_GAP
            patience = state.waiting[0].received_at + self._patience
            wait.next_search = min(now + wait.gap, max(patience, now + 1))


def _empty(state: LabelState) -> bool:
    """Whether nothing is lost by forgetting it."""
    return not state.claims and not state.waiting and state.holds is None


def _kept(one: Arrived) -> WaitingLabel:
    label = one.label
    return WaitingLabel(
        source=label.source,
        label=label.label,
        known_at=label.known_at,
        event_time=label.event_time,
        received_at=one.received_at,
        partition=one.partition,
        offset=one.offset,
        key=label.key,
        value=one.value,
    )


def _heard(raw: bytes | None) -> HeardVerdict | None:
    if raw is None:
        return None
    try:
        verdict = hear(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fatal(
            f"a store of verdicts holds something else: {error}",
            remedy="let nobody but the workers write verdicts; delete that record",
        ) from error
    # only the repetition is left: the label is about the event that was repeated
    return None if verdict.duplicate else verdict


def _no_verdict(patience: int) -> EventRejected:
    return EventRejected(
        Reject.NO_VERDICT,
        "id",
        f"no verdict on this event was found within {format_duration(patience)}.",
        remedy="Correct the id, or send the label again when the event is scored; labels.orphans_wait is how long "
        "labels wait.",
    )


def _no_room(most: int) -> EventRejected:
    return EventRejected(
        Reject.NO_VERDICT,
        "id",
        f"no verdict on this event was found, and labels of more than {most:,} events wait.",
        remedy="Look why so many events have no verdict (wrong ids, workers far behind); then send it again.",
    )


def _too_many() -> EventRejected:
    return EventRejected(
        Reject.NO_VERDICT,
        "id",
        f"no verdict on this event was found, and {MAX_PER_EVENT} labels of it wait already.",
        remedy="Send each change of a label once.",
    )


def _other_event() -> EventRejected:
    return EventRejected(
        Reject.OTHER_EVENT,
        "event_time",
        "the event with this id happened at another time.",
        remedy="Correct event_time or id, or leave event_time out.",
    )


def _incomplete() -> EventRejected:
    return EventRejected(
        Reject.INCOMPLETE_VERDICT,
        "id",
        "the event was scored before the pipeline had all its entities; no feature can count its label.",
        remedy="Nothing is to be done: labels of older events can not be counted after that change.",
    )
