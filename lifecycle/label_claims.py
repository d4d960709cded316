"""What several sources say of one event, whom to believe, and which changes of its label that means. Pure.

Each source has one word on each event: its latest by known-at (of one moment, the one that came last). Sources that
the pipeline declares are believed in that order, whatever came when: the first that says 1 or 0 decides, and one that
takes its word back (null) leaves it to the next. Who is not declared, which only files can be, comes last. Without
any declaration the latest word counts, whoever says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from domain.pipeline_labels import IMPORT_SOURCE
from lifecycle.label_rows import Label

__all__ = [
    "Claim",
    "EventPlace",
    "LabelChange",
    "LabelState",
    "WaitingLabel",
    "believed",
    "overheard",
    "tell",
]


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """``label`` holds from ``known_at`` (UTC microseconds) on."""

    label: Label
    known_at: int


class EventPlace(msgspec.Struct, frozen=True, kw_only=True):
    """The event that labels are about, as in its verdict; ``time`` in UTC microseconds."""

    time: int
    entities: dict[str, str]
    partition: int


class WaitingLabel(msgspec.Struct, frozen=True, kw_only=True):
    """A label whose event is not found yet, with the record it came in, to give back should it never be."""

    source: str
    label: Label
    known_at: int
    event_time: int | None
    received_at: int
    partition: int
    offset: int
    key: bytes
    value: bytes


class LabelState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one event's labels; the value of ``labels.claims``.

    ``claims`` by source; ``holds`` is what ``labels.joined`` says last; ``waiting`` in order of arrival.
    """

    claims: dict[str, Claim] = {}
    holds: Claim | None = None
    event: EventPlace | None = None
    waiting: tuple[WaitingLabel, ...] = ()


class LabelChange(NamedTuple):
    """From ``known_at`` on ``label`` holds instead of ``previous``, because ``source`` is believed (None: nobody)."""

    known_at: int
    label: Label
    previous: Label
    source: str | None


def believed(claims: Mapping[str, Claim], sources: Sequence[str]) -> tuple[Label, str | None]:
    """The label that holds by ``claims``, in order of arrival, and who says so; ``sources`` in order of precedence.

    >>> told = {"analyst": Claim(0, 9), "chargeback": Claim(1, 5)}
    >>> believed(told, ("chargeback", "analyst")), believed(told, ())
    ((1, 'chargeback'), (0, 'analyst'))
    """
    for source in sources:
        claim = claims.get(source)
        if claim is not None and claim.label is not None:
            return claim.label, source
    latest: tuple[Claim, str] | None = None
    for source, claim in claims.items():
        if source not in sources and (latest is None or claim.known_at >= latest[0].known_at):
            latest = claim, source
    if latest is None or latest[0].label is None:
        return None, None
    return latest[0].label, latest[1]


def tell(
    state: LabelState, source: str, claim: Claim, sources: Sequence[str]
) -> tuple[LabelState, LabelChange | None]:
    """The state after ``source`` has said ``claim``, and the change of what holds, if there is one.

    A word that repeats the source's own, or is older, is not heard. Changes of one event never go back in time: one
    that was known before what holds now counts from the same moment on.
    """
    before = state.claims.get(source)
    if before is not None and (claim == before or claim.known_at < before.known_at):
        return state, None
    # to the end, also when it was there: of one moment the last word counts
    claims = {name: one for name, one in state.claims.items() if name != source} | {source: claim}
    label, who = believed(claims, sources)
    previous = None if state.holds is None else state.holds.label
    if label == previous:
        return msgspec.structs.replace(state, claims=claims), None
    known_at = claim.known_at if state.holds is None else max(claim.known_at, state.holds.known_at)
    changed = msgspec.structs.replace(state, claims=claims, holds=Claim(label, known_at))
    return changed, LabelChange(known_at, label, previous, who)


def overheard(state: LabelState, said: Claim, origin: str | None, event: EventPlace) -> LabelState:
    """The state after somebody else wrote ``said`` into ``labels.joined``: it is the truth, and ``origin``'s word.

    A file that names nobody speaks as ``import``. What holds stays until some source says something new.
    """
    if state.holds == said:
        return state
    source = origin or IMPORT_SOURCE
    claims = {name: one for name, one in state.claims.items() if name != source} | {source: said}
    return msgspec.structs.replace(state, claims=claims, holds=said, event=event)
