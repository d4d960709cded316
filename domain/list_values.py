"""From what a person writes to what a list holds: the value as events' columns have it."""

from __future__ import annotations

from domain.errors import Fatal
from domain.list_records import is_list_name
from domain.pipeline import FieldType, Pipeline
from domain.privacy import Protector

__all__ = ["ListInvalid", "ListValues"]


class ListInvalid(Fatal):
    """A list, field or value that can not be; ``field`` names the part at fault."""

    def __init__(self, field: str, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.field = field


class ListValues:
    """Checks what goes into the lists of one pipeline. Sensitive values leave it as keyed hashes (P7)."""

    def __init__(self, pipeline: Pipeline, protector: Protector) -> None:
        self._fields = {
            field.name: field
            for field in pipeline.event.fields
            if field.type in (FieldType.STRING, FieldType.INTEGER)
            and (not field.numeric or field.name in pipeline.entities)
        }
        self._entities = pipeline.entities
        self._protector = protector

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields whose values may stand in lists: texts and entities."""
        return tuple(self._fields)

    def name(self, name: str) -> str:
        """``name`` itself; raises ListInvalid when no list may be called so."""
        if not is_list_name(name):
            raise ListInvalid(
                "list",
                f"{name[:80]!r} is no name of a list",
                remedy="use a to z, 0 to 9 and _, beginning with a letter, at most 63; tag:NAME for a tag",
            )
        return name

    def sensitive(self, field: str) -> bool:
        """Whether values of ``field`` are kept as keyed hashes."""
        return field in self._fields and self._fields[field].sensitive

    def known(self, field: str) -> str:
        """``field`` itself; raises ListInvalid when its values can not stand in lists."""
        if field not in self._fields:
            raise ListInvalid(
                "field",
                f"values of {field[:80]!r} can not stand in a list",
                remedy=f"use one of: {', '.join(self._fields)}",
            )
        return field

    def value(self, field: str, raw: str) -> str:
        """What stands in a list for ``raw``, which is as on the wire. Raises ListInvalid (without the value)."""
        declared = self._fields[self.known(field)]
        text = raw
        if declared.type is FieldType.INTEGER:
            # as events have it: no sign, no zero in front, no blank
            digits = raw.removeprefix("-")
            if not (digits.isascii() and digits.isdecimal() and len(digits) <= 19) or str(int(raw)) != raw:
                raise ListInvalid(
                    "value",
                    f"a value of {field} must be an integer",
                    remedy="write its digits and nothing else",
                )
        elif not 0 < len(raw) <= declared.max_length:
            raise ListInvalid(
                "value",
                f"a value of {field} must have 1 to {declared.max_length} characters",
                remedy="write the value as events have it",
            )
        elif "\0" in raw or not _encodable(raw):
            raise ListInvalid(
                "value", f"a value of {field} has characters that no event has", remedy="write plain Unicode"
            )
        return self._protector.protect(text) if declared.sensitive else text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
