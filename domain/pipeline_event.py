"""The ``event:`` section of a pipeline file."""

from __future__ import annotations

import zoneinfo

from domain.pipeline import DEFAULT_NUMBER_LIMIT, EventSpec, Field, FieldType, LatePolicy, UnknownFields
from domain.pipeline_reader import Report, Section, did_you_mean
from domain.pipeline_yaml import Node

__all__ = ["MAX_FIELDS", "read_event"]

MAX_FIELDS = 128
_NUMBER_MAGNITUDE = 1e100
_INTEGER_MAGNITUDE = float(2**63)

_KEYS = (
    *("id", "time", "key", "max_lateness", "max_future", "dedupe_window"),
    *("late", "unknown_fields", "max_bytes", "fields"),
)
_COMMON = ("type", "source", "required")
_BY_TYPE = {
    FieldType.STRING: ("sensitive", "max_length", "values"),
    FieldType.NUMBER: ("minimum", "maximum"),
    FieldType.INTEGER: ("sensitive", "minimum", "maximum"),
    FieldType.BOOLEAN: (),
    FieldType.TIMESTAMP: ("timezone", "unit"),
}
_ALL_OPTIONS = (*_COMMON, *dict.fromkeys(o for options in _BY_TYPE.values() for o in options))


def read_event(top: Section) -> tuple[EventSpec | None, dict[str, Field]]:
    """The event declaration, or None when a part that others need is wrong; and the fields that are right."""
    section = top.section("event", "event: {id: ..., time: ..., key: ..., fields: {...}}")
    if section is None:
        return None, {}
    section.only(_KEYS)
    fields: dict[str, Field] = {}
    declared: set[str] = set()
    entries = section.section("fields", "fields: {amount: {type: number}}")
    if entries is not None:
        declared = set(entries.node.mapping)
        for name, node in entries.entries("amount: {type: number}", MAX_FIELDS, "fields"):
            field = _read_field(
                name, node, entries.at(name), section.report, is_id=name == _plain_id(section)
            )
            if field is not None:
                fields[name] = field
        _check_sources(fields, entries)
    roles = {role: _role(section, role, fields, declared) for role in ("id", "time", "key")}
    named = [name for name in roles.values() if name is not None]
    if len(set(named)) < len(named):
        section.report.add(
            section.place("id"),
            section.path,
            "id, time and key must be three different fields.",
            "The id names one event, the key names whoever causes many of them.",
        )
    max_lateness = section.duration_or("max_lateness", "1h")
    max_future = section.duration_or("max_future", "5m")
    dedupe_window = section.duration_or("dedupe_window", "10m")
    late = section.choice_or("late", list(LatePolicy), LatePolicy.COUNT)
    unknown = section.choice_or("unknown_fields", list(UnknownFields), UnknownFields.REJECT)
    max_bytes = section.integer("max_bytes", 64, 1_000_000, 65_536)
    event_id, time, key = roles["id"], roles["time"], roles["key"]
    if event_id is None or time is None or key is None:
        return None, fields
    spec = EventSpec(
        id=event_id,
        time=time,
        key=key,
        max_lateness=max_lateness,
        max_future=max_future,
        dedupe_window=dedupe_window,
        late=LatePolicy(late),
        unknown_fields=UnknownFields(unknown),
        max_bytes=max_bytes,
        fields=tuple(fields.values()),
    )
    return spec, fields


def _role(section: Section, role: str, fields: dict[str, Field], declared: set[str]) -> str | None:
    name = section.text(role, f"Name the field that holds the event's {role}.")
    if name is None:
        return None
    if name not in fields:
        if name not in declared:
            section.wrong(role, f"there is no field {name[:80]!r}.", did_you_mean(name, fields, "fields"))
        return None
    field = fields[name]
    wanted = (FieldType.TIMESTAMP,) if role == "time" else (FieldType.STRING, FieldType.INTEGER)
    if field.type not in wanted:
        section.wrong(
            role,
            f"the field {name!r} is of type {field.type}.",
            f"The {role} must be of type {' or '.join(wanted)}.",
        )
        return None
    if not field.required:
        section.wrong(
            role, f"the field {name!r} is not required.", f"Remove `required: false` from {name!r}."
        )
        return None
    return name


def _check_sources(fields: dict[str, Field], section: Section) -> None:
    seen: dict[str, str] = {}
    for field in fields.values():
        other = seen.setdefault(field.source, field.name)
        if other != field.name:
            section.wrong(
                field.name,
                f"the fields {other!r} and {field.name!r} are both read from {field.source[:80]!r}.",
                "Give each field its own `source`.",
            )


def _is_wire_name(text: str) -> bool:
    return 0 < len(text) <= 128 and text.isprintable() and not set(text) & {'"', "\\"}


def _plain_id(section: Section) -> object:
    node = section.node.mapping.get("id")
    return None if node is None else node.scalar


def _read_field(name: str, node: Node, path: str, report: Report, *, is_id: bool) -> Field | None:
    section = Section.open(node, path, report, "{type: number}")
    if section is None:
        return None
    kind = section.choice("type", list(FieldType), None)
    if kind is None or kind not in set(FieldType):
        section.only(_ALL_OPTIONS)
        return None
    type_ = FieldType(kind)
    allowed = (*_COMMON, *_BY_TYPE[type_])
    for key in section.node.mapping:
        if key in _ALL_OPTIONS and key not in allowed:
            report.add(
                section.place(key),
                section.at(key),
                f"{key!r} has no meaning for a field of type {type_}.",
                f"Remove it; {type_} fields take {', '.join(allowed)}.",
            )
    section.only(_ALL_OPTIONS)
    source = section.text("source") if section.has("source") else name
    if source is not None and not _is_wire_name(source):
        section.wrong(
            "source",
            "must have 1 to 128 printable characters, no quotation mark and no backslash.",
            "Write the name used on the wire.",
        )
    sensitive = section.flag("sensitive", False) and "sensitive" in allowed
    minimum, maximum = _bounds(section, type_, is_name=sensitive or is_id)
    max_length = section.integer("max_length", 1, 4096, 256) if type_ is FieldType.STRING else 256
    unit = "iso"
    timezone = None
    if type_ is FieldType.TIMESTAMP:
        unit = section.choice_or("unit", ("iso", "s", "ms", "us"), "iso")
        timezone = _timezone(section, unit)
    return Field(
        name=name,
        type=type_,
        source=source or name,
        required=section.flag("required", True),
        sensitive=sensitive,
        minimum=minimum,
        maximum=maximum,
        max_length=max_length,
        values=_values(section, max_length) if type_ is FieldType.STRING else None,
        timezone=timezone,
        unit=unit,
    )


def _bounds(section: Section, type_: FieldType, *, is_name: bool) -> tuple[float | None, float | None]:
    if type_ not in (FieldType.NUMBER, FieldType.INTEGER):
        return None, None
    most = _NUMBER_MAGNITUDE if type_ is FieldType.NUMBER else _INTEGER_MAGNITUDE
    # nobody calculates with names, so they may be as long as 64 bits allow
    limit = None if is_name and type_ is FieldType.INTEGER else DEFAULT_NUMBER_LIMIT
    minimum = section.number("minimum", -most, most, None if limit is None else -limit)
    maximum = section.number("maximum", -most, most, limit)
    if minimum is not None and maximum is not None and minimum > maximum:
        key = "minimum" if section.has("minimum") else "maximum"
        section.wrong(
            key,
            f"the smallest value {minimum:,g} is above the largest {maximum:,g}.",
            f"Swap them, or set both (without a bound the limit is {DEFAULT_NUMBER_LIMIT:,g} either way).",
        )
    return minimum, maximum


def _timezone(section: Section, unit: str) -> str | None:
    if not section.has("timezone"):
        return None
    remedy = "Write an IANA name such as UTC or Europe/Paris."
    name = section.text("timezone", remedy)
    if name is None:
        return None
    if unit != "iso":
        section.wrong("timezone", f"numbers in {unit} are UTC.", "Remove `timezone`, or use `unit: iso`.")
        return None
    try:
        if name != "UTC":
            zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        section.wrong("timezone", f"there is no time zone {name[:80]!r}.", remedy)
        return None
    return name


def _values(section: Section, max_length: int) -> tuple[str, ...] | None:
    node = section.node.mapping.get("values")
    if node is None:
        return None
    remedy = "Write a list of texts, such as [web, shop]; put numbers and yes/no in quotes."
    if node.kind != "list" or not node.items or len(node.items) > 256:
        section.wrong("values", f"must be a list of 1 to 256 texts, but is {node.described}.", remedy)
        return None
    values: list[str] = []
    for item in node.items:
        if item.kind != "text":
            section.report.add(item, section.at("values"), f"{item.described} is not a text.", remedy)
        elif item.scalar in values:
            section.report.add(item, section.at("values"), f"{item.described} stands twice.", "Keep one.")
        elif not 0 < len(str(item.scalar)) <= max_length:
            section.report.add(
                item, section.at("values"), f"must have 1 to {max_length} characters.", "Raise `max_length`."
            )
        else:
            values.append(str(item.scalar))
    return tuple(values)
