"""Events off the wire: bytes in, valid records and columns out; the only decoder of events there is.

The worker, the API and replay share it, so a record is refused for the same reason everywhere. A valid record
takes one call of msgspec and one conversion of its time; only refused ones pay for a diagnosis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from domain.batch import EventBatch, Floats
from domain.codec_diagnosis import Diagnosis
from domain.codec_encode import RowEncoder
from domain.codec_schema import json_schema_of_event
from domain.codec_time import BadTimeError, reader
from domain.codec_types import DecodedEvent, attribute_names, event_type
from domain.durations import format_duration
from domain.erasure import ErasureCodec
from domain.errors import EventRejected, Reject
from domain.pipeline import Field, FieldType, Pipeline
from domain.privacy import Protector

__all__ = ["DecodedEvent", "EventCodec", "json_schema_of_event"]


class EventCodec:
    """Decodes events of one pipeline and turns them into columns."""

    def __init__(self, pipeline: Pipeline, protector: Protector) -> None:
        event = pipeline.event
        self._pipeline = pipeline
        self._protect = protector.protect
        self.erasures = ErasureCodec(pipeline, protector)
        """Reads the control records among the events."""
        self._decode = msgspec.json.Decoder(event_type(pipeline)).decode
        self._diagnosis = Diagnosis(pipeline)
        self._encoder = RowEncoder(event)
        self._attributes = attribute_names(event)
        self._max_bytes = event.max_bytes
        self._max_future = event.max_future
        self._time_source = event.field(event.time).source
        self._read_time = reader(event.field(event.time))
        self._other_times: list[tuple[str, Callable[[Any], int]]] = [
            (self._attributes[f.name], reader(f))
            for f in event.fields
            if f.type is FieldType.TIMESTAMP and f.name != event.time
        ]
        named = {event.id, *pipeline.entities}
        texts = [
            self._attributes[f.name] for f in event.fields if f.name in named and f.type is FieldType.STRING
        ]
        self._named_texts = tuple(attrgetter(name) for name in texts)
        self._entity_fields = tuple(event.field(name) for name in pipeline.entities)

    def decode(self, raw: bytes, *, received_at: int) -> DecodedEvent:
        """The event in ``raw``, which the log received at ``received_at`` (UTC microseconds).

        Raises EventRejected with a stable reason; nothing else, whatever the bytes.
        """
        if len(raw) > self._max_bytes:
            raise EventRejected(
                Reject.TOO_LARGE,
                None,
                f"the record has {len(raw):,} bytes, the limit is {self._max_bytes:,}.",
                remedy="Send less per event, or raise event.max_bytes in the pipeline file.",
            )
        try:
            event = self._decode(raw)
            event.time = time = self._read_time(event.time)
            for name, read in self._other_times:
                value = getattr(event, name)
                if value is not None:
                    setattr(event, name, read(value) / 1e6)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadTimeError) as error:
            raise self._diagnosis.explain(raw, error) from None
        if time > received_at + self._max_future:
            raise EventRejected(
                Reject.IN_FUTURE,
                self._time_source,
                f"{self._time_source} lies {format_duration(time - received_at)} after the record was "
                f"received, the limit is {format_duration(self._max_future)}.",
                remedy="Correct the producer's clock or zone, or raise event.max_future.",
            )
        # \u0000 is the only way for a NUL into a JSON text; a backslash is rare and quickly looked for
        if b"\\" in raw and any("\0" in get(event) for get in self._named_texts):
            raise self._diagnosis.explain(raw, None)
        return event

    def decode_many(
        self, raws: Sequence[bytes], received: Sequence[int]
    ) -> tuple[list[DecodedEvent], list[tuple[int, EventRejected]]]:
        """The valid events in order, and (index, reason) of the others."""
        events: list[DecodedEvent] = []
        rejected: list[tuple[int, EventRejected]] = []
        decode = self.decode
        for i, (raw, received_at) in enumerate(zip(raws, received, strict=True)):
            try:
                events.append(decode(raw, received_at=received_at))
            except EventRejected as reason:
                rejected.append((i, reason))
        return events, rejected

    def expected_key(self, event: DecodedEvent) -> bytes:
        """The Kafka key that the event's record must have: the key field as on the wire, in UTF-8."""
        return str(event.key).encode()

    def event_id(self, event: DecodedEvent) -> str:
        """The event's id as text, as in verdicts (a sensitive id as its keyed hash)."""
        text = str(event.id)
        return self._protect(text) if self._pipeline.event.field(self._pipeline.event.id).sensitive else text

    def to_batch(self, events: Sequence[DecodedEvent], offsets: Sequence[int]) -> EventBatch:
        """The events as columns; ``offsets`` are their source offsets, strictly increasing.

        The event's own time is also among the numbers, in seconds, for expressions.
        """
        spec = self._pipeline.event
        times = np.array([e.time for e in events], dtype=np.int64)
        numbers: dict[str, Floats] = {}
        strings: dict[str, Sequence[str | None]] = {}
        texts: dict[str, Sequence[str]] = {}
        for field in spec.fields:
            if field.name == spec.time:
                numbers[field.name] = times / 1e6
                continue
            values = list(map(attrgetter(self._attributes[field.name]), events))
            if not field.numeric:
                strings[field.name] = column = self._texts(field, values)
                texts[field.name] = column  # type: ignore[assignment]  # used for required fields only
            else:
                if not field.required:
                    values = [math.nan if value is None else value for value in values]
                # adding zero turns -0.0 into 0.0
                numbers[field.name] = np.fromiter(values, np.float64, len(values)) + 0.0
        for field in (spec.field(spec.id), *self._entity_fields):
            if field.name not in texts:
                texts[field.name] = list(map(str, map(attrgetter(self._attributes[field.name]), events)))
        return EventBatch(
            ids=texts[spec.id],
            times=times,
            offsets=np.asarray(offsets, dtype=np.int64),
            entities={field.name: texts[field.name] for field in self._entity_fields},
            numbers=numbers,
            strings=strings,
        )

    def _texts(self, field: Field, values: list[Any]) -> Sequence[str | None]:
        if field.type is FieldType.INTEGER:
            values = [None if value is None else str(value) for value in values]
        if not field.sensitive:
            return values
        if field.required:
            return list(map(self._protect, values))
        return [None if value is None else self._protect(value) for value in values]

    def encode(self, record: Mapping[str, object]) -> bytes:
        """A row of a file, keyed by ``source`` names, as an event on the wire.

        Takes numpy scalars; a naive datetime is in the field's zone (UTC when it has none).
        """
        return self._encoder.encode(record)
