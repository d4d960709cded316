"""The ``guards:`` section of a pipeline file."""

from __future__ import annotations

from domain.pipeline import Guards
from domain.pipeline_reader import Section

__all__ = ["MOST_TIMES", "read_guards"]

MOST_TIMES = 1_000_000.0
_EXAMPLE = "{teach_per_entity: 4}"


def read_guards(top: Section) -> Guards:
    """The guards, the usual ones where the file names none; mistakes are reported."""
    if not top.has("guards"):
        return Guards()
    section = top.section("guards", f"guards: {_EXAMPLE}")
    if section is None:
        return Guards()
    section.only(("teach_per_entity",))
    node = section.node.mapping.get("teach_per_entity")
    if node is None:
        return Guards()
    # YAML of before 2009 reads off as false, and so do some editors
    if node.scalar is False or (node.kind == "text" and node.scalar == "off"):
        return Guards(teach_per_entity=None)
    times = section.number("teach_per_entity", 1.0, MOST_TIMES, None)
    return Guards() if times is None else Guards(teach_per_entity=times)
