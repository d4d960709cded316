"""The offline store: all verdicts, joined labels and dead letters of one pipeline, in Delta Lake tables.

Written exactly once by the archiver (:mod:`stream.archiver_offline`); read by training, by the joiner of labels and
by the API. ``docs/offline-store.md`` is the page on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from domain.examples import Examples
from domain.pipeline import Pipeline
from featurestore.hot_verdicts_port import VerdictPage, VerdictQuery
from featurestore.offline_examples import NEVER, ExampleReader
from featurestore.offline_find import find
from featurestore.offline_page import page
from featurestore.offline_port import Appended, ExampleCounts, LogRecord, OfflineUnavailable, Pin, PinGone
from featurestore.offline_schema import DEAD_LETTERS, LABELS, VERDICTS, pipeline_columns
from featurestore.offline_sql import SqlLimits
from featurestore.offline_table import OfflineTable

__all__ = ["NEVER", "LogRecord", "OfflineStore", "OfflineUnavailable", "Pin", "PinGone"]


class OfflineStore:
    """Tables ``<url>/<pipeline>/verdicts``, ``…/labels`` and ``…/dead_letters``. Safe to share between threads.

    ``url`` is a folder or an object store (``s3://…``, ``abfss://…``, ``gs://…``), ``options`` what deltalake calls
    storage options. Nothing is opened or created before it is used; without tables everything reads as empty.
    """

    def __init__(
        self,
        url: str,
        pipeline: Pipeline,
        *,
        options: Mapping[str, str] | None = None,
        limits: SqlLimits | None = None,
    ) -> None:
        base = f"{url.rstrip('/')}/{pipeline.name}"
        self._pipeline = pipeline
        self._limits = limits or SqlLimits()
        self.verdicts = OfflineTable(f"{base}/verdicts", VERDICTS, pipeline_columns(pipeline), options)
        self.labels = OfflineTable(f"{base}/labels", LABELS, {}, options)
        self.dead_letters = OfflineTable(f"{base}/dead_letters", DEAD_LETTERS, {}, options)

    @property
    def tables(self) -> tuple[OfflineTable, ...]:
        """All tables."""
        return self.verdicts, self.labels, self.dead_letters

    def append_verdicts(self, records: Sequence[LogRecord], log: str) -> Appended:
        """Append records of the topic ``verdicts`` that are not there yet, in one commit.

        ``log`` names the log whose offsets these are; a topic that was deleted and made anew is another log.
        Raises OfflineUnavailable; calling again with the same records is then right.
        """
        return self.verdicts.append(records, log)

    def append_labels(self, records: Sequence[LogRecord], log: str) -> Appended:
        """Likewise with records of ``labels.joined``."""
        return self.labels.append(records, log)

    def pin(self) -> Pin:
        """The versions that hold now. Raises OfflineUnavailable."""
        return Pin(self.verdicts.version(), self.labels.version())

    def examples(self, pin: Pin, start: int, stop: int, as_of: int, *, share: float = 1.0) -> Examples:
        """All events with ``start <= event time < stop`` (UTC microseconds) that were scored under the pin.

        Vectors, ranks and scores are those of the verdicts; columns follow the pipeline's features and detectors, NaN
        where a verdict had none of that name. ``y`` is the label as known at ``as_of``, after reversals, NaN where
        none was (``known_at`` is then NEVER). Repeats of an event are left out. Order: event time, partition, offset.
        ``share`` takes a sample by a hash of the ids.

        Raises PinGone, OfflineUnavailable.
        """
        reader = self._reader(pin)
        return Examples.joined([reader.none(), *reader.pieces(start, stop, as_of, share)])

    def pieces(
        self, pin: Pin, start: int, stop: int, as_of: int, *, share: float = 1.0
    ) -> Iterator[Examples]:
        """The rows of :meth:`examples`, in pieces of about 250,000, for ranges that do not fit in memory."""
        return self._reader(pin).pieces(start, stop, as_of, share)

    def entity(
        self, pin: Pin, start: int, stop: int, as_of: int, name: str, *, share: float = 1.0
    ) -> list[str | None]:
        """The entity ``name`` of each row of :meth:`examples`, in its order: whose events belong together."""
        return [text for piece in self._reader(pin).entity(name, start, stop, as_of, share) for text in piece]

    def count(self, pin: Pin, start: int, stop: int, as_of: int) -> ExampleCounts:
        """How many rows, labels and positives :meth:`examples` would give."""
        return self._reader(pin).count(start, stop, as_of)

    def find(self, ids: Collection[str]) -> dict[str, bytes]:
        """The verdict's JSON, byte for byte as in the topic, of each id that is there.

        Of several on one id it is the first not flagged duplicate. Raises OfflineUnavailable.
        """
        snapshot = self.verdicts.snapshot()
        return {} if snapshot is None else find(snapshot, ids)

    def get(self, event_id: str) -> bytes | None:
        """The verdict on one event."""
        return self.find([event_id]).get(event_id)

    def page(self, query: VerdictQuery) -> VerdictPage:
        """Matching verdicts, newest (by ``scored_at``) first, repeats of events included.

        A page may hold fewer than asked for and still have a ``next``. Raises BadCursorError, OfflineUnavailable.
        """
        snapshot = self.verdicts.snapshot()
        return VerdictPage([], None) if snapshot is None else page(snapshot, query)

    def _reader(self, pin: Pin) -> ExampleReader:
        return ExampleReader(
            self._pipeline,
            self.verdicts.snapshot(pin.verdicts),
            self.labels.snapshot(pin.labels),
            self._limits,
        )
