"""The ``features:`` section of a pipeline file; the meaning of each key is in docs/features.md."""

from __future__ import annotations

import math
from collections.abc import Callable

from domain.durations import format_duration
from domain.pipeline import (
    Aggregate,
    AggregateFeature,
    ExpressionFeature,
    Feature,
    Field,
    FieldType,
    ValueFeature,
)
from domain.pipeline_reader import Section, did_you_mean

__all__ = [
    "MAX_FEATURES",
    "MAX_QUANTILE_TILES",
    "MAX_TILES",
    "CheckExpression",
    "read_features",
    "tiles_kept",
]

MAX_FEATURES = 256
MAX_TILES = 2048
"""Tiles kept per entity and hop: bounds the bytes of one entity (promise P5)."""
MAX_QUANTILE_TILES = 400
"""Tiles kept for a quantile: its sketch of 2,048 entries always has room for the five of the coarsest tile."""
MIN_TILES = 48
"""A hop is at most this part of its window: bounds the error of a tiled window to about 2 %."""

CheckExpression = Callable[[str, frozenset[str], frozenset[str]], object]
"""Raises ValueError when a text is no expression over (text, number-like names, names of texts)."""

_NUMBER_LIKE = (FieldType.NUMBER, FieldType.INTEGER, FieldType.BOOLEAN)
_LAST = (Aggregate.LAST, Aggregate.SECONDS_SINCE_LAST)
_LABEL = "label"
_DECAYED = (Aggregate.DECAYED_SUM, Aggregate.DECAYED_COUNT)
_NO_OF = {
    Aggregate.SECONDS_SINCE_LAST: "seconds_since_last looks at event times only.",
    Aggregate.DECAYED_COUNT: "decayed_count counts events.",
}
_OPTIONAL_OF = Aggregate.COUNT
_NOT_BUILT = {
    "decayed": "Use decayed_sum or decayed_count.",
    "decayed_mean": "Divide a decayed_sum by a decayed_count in an expression.",
    "median": "Use aggregate quantile with q: 0.5.",
}
_AGGREGATE_KEYS = ("entity", "aggregate", "of", "window", "hop", "delay", "half_life", "q", "include_current")
_EXAMPLE = "{entity: account_id, aggregate: count, window: 1d}"


def tiles_kept(window: int, hop: int, delay: int, max_lateness: int) -> int:
    """How many tiles behind the newest one a window needs (docs/features.md, ``keep``)."""
    return window // hop + -(-(delay + max_lateness) // hop) + 1


def read_features(
    top: Section, fields: dict[str, Field], max_lateness: int, check: CheckExpression | None
) -> list[Feature]:
    """Every feature that is right, in file order; mistakes are reported."""
    section = top.section("features", "features: {amount: {value: amount}}")
    if section is None:
        return []
    reader = _Features(fields, max_lateness, check)
    found: list[Feature] = []
    for name, node in section.entries("amount: {value: amount}", MAX_FEATURES, "features"):
        reader.declared.add(name)
        entry = Section.open(node, section.at(name), section.report, _EXAMPLE)
        feature = reader.read(name, entry) if entry is not None else None
        if feature is not None:
            found.append(feature)
            reader.good.add(name)
        if feature is not None and name in fields and feature != ValueFeature(name=name, field=name):
            section.wrong(
                name,
                f"the feature is called like the field {name!r}.",
                "Choose another name, so that expressions are unambiguous.",
            )
    return found


class _Features:
    def __init__(self, fields: dict[str, Field], max_lateness: int, check: CheckExpression | None) -> None:
        self.fields = fields
        self.max_lateness = max_lateness
        self.check = check
        self.declared: set[str] = set()
        self.good: set[str] = set()

    def read(self, name: str, entry: Section) -> Feature | None:
        kinds = [key for key in ("value", "aggregate", "expression") if entry.has(key)]
        if len(kinds) != 1:
            entry.only(("value", "expression", *_AGGREGATE_KEYS))
            entry.report.add(
                entry.node,
                entry.path,
                f"has {' and '.join(kinds) or 'none of value, aggregate and expression'}.",
                f'Write exactly one of {{value: field}}, {_EXAMPLE} and {{expression: "a / b"}}.',
            )
            return None
        if kinds[0] == "value":
            return self._value(name, entry)
        if kinds[0] == "expression":
            return self._expression(name, entry)
        return self._aggregate(name, entry)

    def _field(self, entry: Section, key: str, good: Callable[[Field], bool], wanted: str) -> Field | None:
        name = entry.text(key, "Name a field of the event.")
        if name is None:
            return None
        field = self.fields.get(name)
        if field is None:
            entry.wrong(key, f"there is no field {name[:80]!r}.", did_you_mean(name, self.fields, "fields"))
            return None
        if not good(field):
            kind = f"sensitive {field.type}" if field.sensitive else str(field.type)
            if field.type is FieldType.INTEGER and not field.numeric and not field.sensitive:
                kind = "integer beyond 2^53 (a name, not a number)"
            entry.wrong(key, f"the field {name!r} is of type {kind}.", wanted)
            return None
        return field

    def _value(self, name: str, entry: Section) -> Feature | None:
        entry.only(("value",))
        field = self._field(
            entry,
            "value",
            lambda f: f.type in _NUMBER_LIKE and f.numeric,
            "Choose a number, integer or boolean field; for a text write an expression: country == 'US'.",
        )
        return None if field is None else ValueFeature(name=name, field=field.name)

    def _expression(self, name: str, entry: Section) -> Feature | None:
        if any(node.kind == "nothing" for node in entry.node.mapping.values()):
            # in {expression: max(a, b)} YAML ends the value at the comma and takes the rest for a key
            entry.wrong("expression", "is cut at a comma.", 'Put it in quotes: {expression: "max(a, b)"}.')
            return None
        entry.only(("expression",))
        text = entry.text("expression", 'Put the expression in quotes, such as "amount / 2".')
        if text is None:
            return None
        if self.check is not None:
            numbers = {f.name for f in self.fields.values() if f.numeric}
            strings = {f.name for f in self.fields.values() if f.type is FieldType.STRING and not f.sensitive}
            try:
                # features that are wrong themselves count as numbers, so that one mistake is reported once
                self.check(text, frozenset(numbers | (self.declared - {name})), frozenset(strings))
            except ValueError as error:
                remedy = str(getattr(error, "remedy", "")) or "See docs/pipeline.md, Expressions."
                reason = str(getattr(error, "reason", error))
                entry.wrong("expression", reason, remedy)
                return None
        return ExpressionFeature(name=name, expression=text)

    def _aggregate(self, name: str, entry: Section) -> Feature | None:
        before = len(entry.report.problems)
        entry.only(_AGGREGATE_KEYS)
        node = entry.node.mapping["aggregate"]
        if node.kind == "text" and str(node.scalar) in _NOT_BUILT:
            entry.wrong("aggregate", f"{node.scalar} is not built yet.", _NOT_BUILT[str(node.scalar)])
            return None
        kind = entry.choice("aggregate", list(Aggregate), None)
        entity = self._field(
            entry,
            "entity",
            lambda f: f.type in (FieldType.STRING, FieldType.INTEGER) and f.required,
            "An entity must be a required string or integer field.",
        )
        if kind is None:
            return None
        aggregate = Aggregate(kind)
        of = self._of(entry, aggregate)
        window, hop, delay = self._windows(entry, aggregate)
        half_life, q = self._half_life(entry, aggregate), self._q(entry, aggregate)
        past_only = aggregate in _LAST or aggregate is Aggregate.RATE or delay > 0
        include_current = entry.flag("include_current", not past_only)
        if past_only and (include_current or (aggregate is Aggregate.RATE and entry.has("include_current"))):
            entry.wrong(
                "include_current",
                f"{'a delayed window' if delay else aggregate} looks only at earlier events.",
                "Remove include_current.",
            )
        if entity is None or len(entry.report.problems) > before:
            return None
        return AggregateFeature(
            name=name,
            entity=entity.name,
            aggregate=aggregate,
            of=of,
            window=window,
            hop=hop,
            delay=delay,
            half_life=half_life,
            q=q,
            include_current=include_current,
        )

    def _of(self, entry: Section, aggregate: Aggregate) -> str | None:
        if aggregate is Aggregate.RATE:
            of = entry.text("of", "Write `of: label`.")
            if of is not None and of != _LABEL:
                entry.wrong(
                    "of",
                    f"rate is the share of labelled events, but this is {of[:80]!r}.",
                    "Write `of: label`; for a share of a boolean field use aggregate mean.",
                )
            return _LABEL
        if aggregate in _NO_OF:
            if entry.has("of"):
                entry.wrong("of", _NO_OF[aggregate], "Remove `of`.")
            return None
        if not entry.has("of"):
            if aggregate is not _OPTIONAL_OF:
                entry.wrong("of", f"is missing: {aggregate} of what?", "Add `of:` with a field of the event.")
            return None
        if aggregate is Aggregate.DISTINCT:
            field = self._field(
                entry, "of", lambda f: f.type is not FieldType.TIMESTAMP, "Choose any field but a timestamp."
            )
        elif aggregate is Aggregate.COUNT:
            field = self._field(
                entry,
                "of",
                lambda f: f.type in _NUMBER_LIKE and f.numeric,
                "Choose a number, integer or boolean field, or count events by removing `of`.",
            )
        else:
            field = self._field(
                entry,
                "of",
                lambda f: f.type in _NUMBER_LIKE and f.numeric,
                "Choose a number, integer or boolean field; of texts only `distinct` can be taken.",
            )
        return None if field is None else field.name

    @staticmethod
    def _half_life(entry: Section, aggregate: Aggregate) -> int | None:
        if aggregate not in _DECAYED:
            if entry.has("half_life"):
                entry.wrong(
                    "half_life", f"{aggregate} does not decay.", "Remove `half_life`, or use decayed_sum."
                )
            return None
        if not entry.has("half_life"):
            entry.wrong(
                "half_life", "is missing: after how long does an event count half?", "Add `half_life: 1d`."
            )
        return entry.duration("half_life", None)

    @staticmethod
    def _q(entry: Section, aggregate: Aggregate) -> float | None:
        if aggregate is not Aggregate.QUANTILE:
            if entry.has("q"):
                entry.wrong("q", f"{aggregate} takes no q.", "Remove `q`, or use aggregate quantile.")
            return None
        if not entry.has("q"):
            entry.wrong("q", "is missing: which quantile?", "Add for example `q: 0.95`.")
        q = entry.number("q", 0, 1, None)
        if q in (0, 1):
            entry.wrong("q", "must lie between 0 and 1.", "Use aggregate min or max for the ends.")
        return q

    def _windows(self, entry: Section, aggregate: Aggregate) -> tuple[int | None, int | None, int]:
        refused: tuple[str, ...] = ()
        if aggregate in _LAST:
            refused = ("hop", "delay")
        elif aggregate in _DECAYED:
            refused = ("window", "hop", "delay")
        for key in refused:
            if entry.has(key):
                entry.wrong(key, f"{aggregate} takes no {key}.", f"Remove `{key}`.")
        if aggregate in _DECAYED:
            return None, None, 0
        if aggregate in _LAST:
            return entry.duration("window", None), None, 0
        if not entry.has("window"):
            entry.wrong("window", f"is missing: {aggregate} over how long?", "Add for example `window: 7d`.")
            return None, None, 0
        window = entry.duration("window", None)
        delay = entry.duration("delay", 0, low=0) or 0
        if delay and aggregate is Aggregate.DISTINCT:
            entry.wrong("delay", "distinct takes no delay.", "Remove `delay`.")
            delay = 0
        if window is None:
            return None, None, delay
        hop = self._hop(entry, window, delay)
        if hop is not None:
            kept = tiles_kept(window, hop, delay, self.max_lateness)
            limit = MAX_QUANTILE_TILES if aggregate is Aggregate.QUANTILE else MAX_TILES
            if kept > limit:
                entry.wrong(
                    "hop" if entry.has("hop") else "window",
                    f"{kept:,} tiles of {format_duration(hop)} would be kept, the limit is {limit:,}.",
                    f"Choose a wider hop (at most {format_duration(window // MIN_TILES)}), a longer "
                    f"window, or a smaller event.max_lateness (now {format_duration(self.max_lateness)}).",
                )
        return window, hop, delay

    def _hop(self, entry: Section, window: int, delay: int) -> int | None:
        suggestion = _suggest_hop(window, delay)
        given = entry.has("hop")
        hop = entry.duration("hop", None) if given else window // MIN_TILES
        if hop is None:
            return None
        choose = (
            f"Write `hop: {format_duration(suggestion)}`."
            if suggestion
            else "Choose a window and delay with a common divisor of at most window/48."
        )
        where = "hop" if given else "window"
        if not given and window % MIN_TILES:
            entry.wrong(where, f"{format_duration(window)} is not a multiple of 48 microseconds.", choose)
        elif hop * MIN_TILES > window:
            largest = format_duration(window // MIN_TILES)
            entry.wrong(where, f"is more than window/48 ({largest}).", choose)
        elif window % hop:
            entry.wrong(
                where,
                f"the hop {format_duration(hop)} does not divide the window {format_duration(window)}.",
                choose,
            )
        elif delay % hop:
            entry.wrong(
                where,
                f"the hop {format_duration(hop)} does not divide the delay {format_duration(delay)}.",
                choose,
            )
        else:
            return hop
        return None


def _suggest_hop(window: int, delay: int) -> int | None:
    """The widest hop of at most window/48 that divides window and delay, if one is easily found."""
    common = math.gcd(window, delay)
    first = max(1, -(-MIN_TILES * common // window))
    for parts in range(first, first + 5000):
        if common % parts == 0:
            return common // parts
    return None
