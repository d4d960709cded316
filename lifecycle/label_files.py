"""Where the labels of a file of events are, and since when each is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from domain.pipeline import Pipeline
from domain.privacy import Protector
from lifecycle.event_files import find_label_column, read_labels
from lifecycle.known_labels import History, last_labels, read_histories

__all__ = ["FileLabels", "find_labels"]


@dataclass(frozen=True, slots=True)
class FileLabels:
    """Labels for a file of events: in a ``column`` of it, or ``by_id``; ``histories`` where known-at is told.

    All None: there are no labels. With histories, ``by_id`` holds how they ended.
    """

    column: str | None = None
    by_id: Mapping[str, float] | None = None
    histories: Mapping[str, History] | None = None


def find_labels(
    events: Path, pipeline: Pipeline, labels: Path | None, label_column: str | None, protector: Protector
) -> FileLabels:
    """The labels in the file ``labels`` (which may be ``events`` itself), or in a column of ``events``.

    Raises ServiceMissing and Fatal.
    """
    inside = label_column is not None if labels is None else labels.exists() and labels.samefile(events)
    source = events if inside else labels
    if source is None:
        return FileLabels()
    column = find_label_column(source, pipeline, label_column) if inside else None
    histories = read_histories(source, pipeline, protector, label_column=column or label_column)
    if histories is not None:
        return FileLabels(column, last_labels(histories), histories)
    if inside:
        return FileLabels(column)
    return FileLabels(by_id=read_labels(source, pipeline, protector, label_column=label_column))
