"""The ``labels:`` section of a pipeline file: who may say what events turned out to be, and who is believed."""

from __future__ import annotations

import msgspec

from domain.pipeline_reader import Section

__all__ = [
    "IMPORT_SOURCE",
    "MAX_SOURCE",
    "MAX_SOURCES",
    "ORPHANS_WAIT",
    "REVIEW_SOURCE",
    "LabelsSpec",
    "read_labels",
]

IMPORT_SOURCE = "import"
"""Who speaks in a file that names nobody. Believed last unless it is declared."""
REVIEW_SOURCE = "review"
"""Who speaks where a person has decided a case. Believed last unless it is declared."""
MAX_SOURCE = 64
"""Characters of the name of a source."""
MAX_SOURCES = 32
ORPHANS_WAIT = 86_400_000_000
"""A day, in microseconds: events are scored within seconds, or after a backlog of hours; later ids are wrong ones."""
_EXAMPLE = "[chargeback, analyst]"


class LabelsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """``sources`` in order of precedence (earlier wins); ``orphans_wait`` microseconds that a label waits for its
    event's verdict before it becomes a dead letter.
    """

    sources: tuple[str, ...] = ()
    orphans_wait: int


def read_labels(top: Section) -> LabelsSpec | None:
    """The section, or None where it is not written."""
    if not top.has("labels"):
        return None
    section = top.section("labels", f"labels: {{sources: {_EXAMPLE}}}")
    if section is None:
        return None
    section.only(("sources", "orphans_wait"))
    return LabelsSpec(sources=_sources(section), orphans_wait=section.duration_or("orphans_wait", "1d"))


def _sources(section: Section) -> tuple[str, ...]:
    node = section.node.mapping.get("sources")
    if node is None:
        return ()
    remedy = f"List who may say it, those believed first first, such as {_EXAMPLE}."
    if node.kind != "list" or not node.items or len(node.items) > MAX_SOURCES:
        section.wrong(
            "sources", f"must be a list of 1 to {MAX_SOURCES} names, but is {node.described}.", remedy
        )
        return ()
    names: list[str] = []
    for item in node.items:
        name = str(item.scalar)
        if item.kind != "text" or not 0 < len(name) <= MAX_SOURCE or not name.isprintable():
            section.report.add(
                item,
                section.at("sources"),
                f"{item.described} is no name of 1 to {MAX_SOURCE} characters.",
                remedy,
            )
        elif name in names:
            section.report.add(item, section.at("sources"), f"{item.described} stands twice.", "Keep one.")
        else:
            names.append(name)
    return tuple(names)
