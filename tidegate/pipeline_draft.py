"""Drafting a pipeline file from a sample: guesses that a person is asked to look through."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from domain.errors import Fatal
from domain.pipeline import DEFAULT_NUMBER_LIMIT, FieldType
from domain.pipeline_reader import RESERVED
from tidegate.sample_file import Column

__all__ = ["draft_pipeline", "field_name"]

_LABEL = re.compile(r"(fraud|label|target|^class$|chargeback|outcome)", re.IGNORECASE)
_SENSITIVE = re.compile(r"(card|(^|_)pan($|_)|iban|e_?mail|phone|ssn|passport)", re.IGNORECASE)
_AMOUNT = re.compile(r"(amount|amt|price|total|value|sum)", re.IGNORECASE)
_ACTOR = re.compile(r"(account|customer|user|client|member|card|sensor|device|host|employee)", re.IGNORECASE)
_ENTITY = re.compile(r"(merchant|terminal|shop|store|seller|payee|ip$|address|site)", re.IGNORECASE)
_IDENTIFIER = re.compile(r"(^|_)(id|no|number|key|uuid|code)$", re.IGNORECASE)
_WINDOWS = ("1d", "7d", "30d")


@dataclass(slots=True)
class _Roles:
    """Which field plays which part; ``left_out`` says why a column is no field."""

    fields: dict[str, Column] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    id: str = ""
    time: str = ""
    key: str = ""
    other: str | None = None


def field_name(column: str) -> str:
    """A column's name as a field name: lower snake case, not reserved, at most 40 characters.

    >>> field_name("TX_DATETIME"), field_name("merchantId"), field_name("2nd try")
    ('tx_datetime', 'merchant_id', 'f_2nd_try')
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)
    name = re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")[:40].rstrip("_")
    if not name or not name[0].isalpha():
        name = f"f_{name}".rstrip("_")
    return f"{name}_field" if name in RESERVED else name


def draft_pipeline(columns: Sequence[Column], name: str) -> str:
    """The text of a pipeline file over ``columns``, with comments on what was guessed.

    Raises Fatal when no column can be the id, the time or the key of the event.
    """
    roles = _assign(columns)
    lines = [
        "# Drafted from a sample by `tidegate pipeline init`: look through everything marked `guessed`.",
        "# Reference of this file: docs/pipeline.md. Check it with: tidegate pipeline check FILE",
        f"pipeline: {field_name(name)}",
        "version: 1",
        "",
        "event:",
        f"  id: {roles.id}  # guessed: never repeats in the sample",
        f"  time: {roles.time}  # guessed: when it happened",
        f"  key: {roles.key}  # guessed: whoever causes many events; events of one key keep their order",
        "  max_lateness: 1h",
        "  max_future: 5m",
        "  dedupe_window: 10m",
    ]
    if roles.left_out:
        lines.append("  unknown_fields: ignore  # columns left out: see below")
    lines.append("  fields:")
    lines += [_field_line(name, column, roles) for name, column in roles.fields.items()]
    lines += [f"    # {_quoted(column)} left out: {why}" for column, why in roles.left_out.items()]
    lines += ["", "features:", *_features(roles), "", *_REST]
    return "\n".join(lines) + "\n"


_REST = (
    "detectors:",
    "  hst: {kind: half_space_trees}",
    "  iforest: {kind: isolation_forest}",
    "",
    "decision:",
    "  combine: rank_average",
    "  review: {budget: 0.005}  # one event in 200 may be sent to review",
)


def _assign(columns: Sequence[Column]) -> _Roles:
    roles = _Roles()
    for column in columns:
        name = field_name(column.name)
        if column.type is None:
            roles.left_out[column.name] = "empty, nested or of mixed types"
        elif not (0 < len(column.name) <= 128 and column.name.isprintable()) or set(column.name) & {
            '"',
            "\\",
        }:
            roles.left_out[column.name] = "its name is too long or not printable"
        elif _LABEL.search(column.name):
            roles.left_out[column.name] = "looks like a label, which is not known when the event happens"
        elif len(roles.fields) >= 100:
            roles.left_out[column.name] = "too many columns"
        elif column.type is FieldType.STRING and max(map(len, column.present)) > 4096:
            roles.left_out[column.name] = "its texts are too long"
        else:
            while name in roles.fields:
                name += "_2"
            roles.fields[name] = column
    roles.time = _choose_time(roles)
    roles.id = _choose_id(roles)
    ranked = _entities(roles)
    if not ranked:
        raise Fatal(
            "no column can be the key: none names something that causes several events.",
            remedy="add a column with an account, user or device to the sample, or a longer sample",
        )
    roles.key = ranked[0]
    roles.other = ranked[1] if len(ranked) > 1 else None
    return roles


def _choose_time(roles: _Roles) -> str:
    for name, column in roles.fields.items():
        if column.type is FieldType.TIMESTAMP and column.complete:
            return name
    raise Fatal(
        "no column can be the event time.",
        remedy="add a column of RFC 3339 texts (2026-01-31T12:00:00Z) or of seconds since 1970 named `time`",
    )


def _choose_id(roles: _Roles) -> str:
    unique = [
        name
        for name, column in roles.fields.items()
        if column.type in (FieldType.STRING, FieldType.INTEGER)
        and column.complete
        and all(value != "" for value in column.values)
        and len(set(column.values)) == len(column.values)
    ]
    if not unique:
        raise Fatal(
            "no column can be the event id: none is without repetition.",
            remedy="add a column that names each event, for example a UUID or a running number",
        )
    return max(unique, key=lambda name: bool(_IDENTIFIER.search(name)))


def _entities(roles: _Roles) -> list[str]:
    def rank(name: str) -> tuple[int, int]:
        words = (
            3 if _ACTOR.search(name) else 2 if _ENTITY.search(name) else 1 if _IDENTIFIER.search(name) else 0
        )
        return words, len(set(roles.fields[name].values))

    found = []
    for name, column in roles.fields.items():
        if (
            name == roles.id
            or column.type not in (FieldType.STRING, FieldType.INTEGER)
            or not column.complete
        ):
            continue
        distinct = len(set(column.values))
        named = rank(name)[0] > 0
        # an integer without a telling name is a quantity; a text with few values is a category
        likely = named or (column.type is FieldType.STRING and distinct > 20)
        if likely and "" not in column.values and 2 <= distinct <= max(2, len(column.values) * 3 // 4):
            found.append(name)
    return sorted(found, key=rank, reverse=True)


def _quoted(text: str) -> str:
    return json.dumps(text[:128], ensure_ascii=True)


def _field_line(name: str, column: Column, roles: _Roles) -> str:
    assert column.type is not None  # noqa: S101  # such columns are left out
    options = [f"type: {column.type}"]
    notes = []
    if name != column.name:
        options.append(f"source: {_quoted(column.name)}")
    if not column.complete and name not in (roles.id, roles.time, roles.key, roles.other):
        options.append("required: false")
    if column.type is FieldType.STRING:
        longest = max(map(len, column.present))
        options.append(f"max_length: {min(4096, max(16, 1 << (2 * longest - 1).bit_length()))}")
    if column.type in (FieldType.STRING, FieldType.INTEGER) and _SENSITIVE.search(name):
        options.append("sensitive: true")
        notes.append("sensitive")
    elif column.type in (FieldType.NUMBER, FieldType.INTEGER):
        options += _bounds(column)
        notes += ["minimum"] if min(column.present) >= 0 else []
    if column.type is FieldType.TIMESTAMP:
        if column.unit != "iso":
            options.append(f"unit: {column.unit}")
        elif column.naive:
            options.append("timezone: UTC")
            notes.append("timezone")
    note = f"  # guessed: {', '.join(notes)}" if notes else ""
    return f"    {name}: {{{', '.join(options)}}}{note}"


def _bounds(column: Column) -> list[str]:
    low, high = min(column.present), max(column.present)
    bounds = ["minimum: 0"] if low >= 0 else []
    if low < -DEFAULT_NUMBER_LIMIT:
        bounds.append(
            "minimum: -9223372036854775808" if column.type is FieldType.INTEGER else "minimum: -1.0e+100"
        )
    if high > DEFAULT_NUMBER_LIMIT:
        bounds.append(
            "maximum: 9223372036854775807" if column.type is FieldType.INTEGER else "maximum: 1.0e+100"
        )
    return bounds


def _features(roles: _Roles) -> list[str]:
    special = {roles.id, roles.time, roles.key, roles.other}
    plain = {
        name: column
        for name, column in roles.fields.items()
        if name not in special
        and column.type in (FieldType.NUMBER, FieldType.INTEGER, FieldType.BOOLEAN)
        and not (_SENSITIVE.search(name) or _IDENTIFIER.search(name))
        and max(map(abs, column.present)) <= DEFAULT_NUMBER_LIMIT
    }
    numbers = [name for name, column in plain.items() if column.type is FieldType.NUMBER]
    numbers += [name for name, column in plain.items() if column.type is FieldType.INTEGER]
    amount = next((name for name in numbers if _AMOUNT.search(name)), numbers[0] if numbers else None)
    chosen = list(dict.fromkeys(([amount] if amount else []) + list(plain)))[:8]
    features = _FeatureLines(set(roles.fields))
    key, other = roles.key, roles.other
    for name in chosen:
        features.lines.append(f"  {name}: {{value: {name}}}")
    for window in _WINDOWS:
        features.add(f"{key}_count_{window}", f"entity: {key}, aggregate: count, window: {window}")
    features.add(f"{key}_seconds_since_last", f"entity: {key}, aggregate: seconds_since_last")
    if amount:
        mean = ""
        for window in _WINDOWS:
            wanted = f"{key[:28]}_mean_{amount[:20]}_{window}"
            mean = features.add(wanted, f"entity: {key}, aggregate: mean, of: {amount}, window: {window}")
        features.add(f"{amount}_to_usual", f'expression: "{amount} / max(abs({mean}), 0.01)"')
    if other:
        for window in _WINDOWS:
            features.add(f"{other}_count_{window}", f"entity: {other}, aggregate: count, window: {window}")
        features.add(f"{key}_others_7d", f"entity: {key}, aggregate: distinct, of: {other}, window: 7d")
    return features.lines


class _FeatureLines:
    """Lines of features under names that no field and no other feature has."""

    def __init__(self, taken: set[str]) -> None:
        self.lines: list[str] = []
        self._taken = taken

    def add(self, name: str, body: str) -> str:
        while name in self._taken:
            name += "_2"
        self._taken.add(name)
        self.lines.append(f"  {name}: {{{body}}}")
        return name
