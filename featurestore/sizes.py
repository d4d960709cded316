"""How many bytes the state of one entity really takes: measured, by feeding events to the engine.

:func:`featurestore.plan.bytes_bound` says what it can take at most. Most entities are far from that, and how far
decides how many fit into memory and Redis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from domain.batch import EventBatch, Floats
from domain.pipeline import AggregateFeature, FieldType, Pipeline
from featurestore.tables import FeatureTables

__all__ = ["EVENTS", "measured_bytes"]

EVENTS = (1, 10, 100, 10_000)
"""Events of one entity over its longest window: a stranger, a customer, a regular, a robot."""

_BEGIN = 1_500_000_000_000_000
_BATCH = 2_000
_KEY = "x"


def measured_bytes(
    pipeline: Pipeline, counts: Sequence[int] = EVENTS, *, seed: int = 0
) -> dict[str, dict[int, int]]:
    """Bytes of one entity's blob per entity field and number of events, evenly spread over its longest window.

    Of the key entity it is the whole state; of others it is what one partition keeps. Every text is a new one
    and every id new, so distinct counts and remembered ids are as large as they get; numbers spread as amounts
    do (log-normal, a factor of 7 around 20) within the field's bounds.
    """
    return {
        entity: {count: _measure(pipeline, entity, count, seed) for count in counts}
        for entity in pipeline.entities
    }


def _measure(pipeline: Pipeline, entity: str, count: int, seed: int) -> int:
    tables = FeatureTables(pipeline)
    tables.hold(0)
    stream_time = 0
    for batch in _batches(pipeline, entity, count, np.random.default_rng(seed)):
        requests = tables.missing(0, batch)
        tables.load(requests, [[None] * len(request.keys) for request in requests])
        stream_time = tables.advance(0, batch, stream_time=stream_time, want_features=False).stream_time
    [size] = [len(blob) for name, key, blob in tables.dirty(0) if (name, key) == (entity, _KEY)]
    return size


def _batches(
    pipeline: Pipeline, entity: str, count: int, chance: np.random.Generator
) -> Iterator[EventBatch]:
    features = [f for f in pipeline.features if isinstance(f, AggregateFeature) and f.entity == entity]
    window = max([pipeline.event.dedupe_window, *(f.window or f.half_life or 0 for f in features)])
    for start in range(0, count, _BATCH):
        n = min(_BATCH, count - start)
        names = [str(start + i) for i in range(n)]
        numbers: dict[str, Floats] = {}
        strings: dict[str, Sequence[str | None]] = {}
        for field in pipeline.event.fields:
            if field.type is FieldType.BOOLEAN:
                numbers[field.name] = chance.integers(0, 2, n).astype(np.float64)
            elif field.numeric:
                drawn = np.clip(chance.lognormal(3.0, 1.0, n), field.minimum, field.maximum)
                numbers[field.name] = np.floor(drawn) if field.type is FieldType.INTEGER else drawn
            else:
                strings[field.name] = names
        yield EventBatch(
            ids=names,
            times=_BEGIN + np.arange(start, start + n, dtype=np.int64) * window // count,
            offsets=np.arange(start, start + n, dtype=np.int64),
            entities={name: [_KEY] * n if name == entity else names for name in pipeline.entities},
            numbers=numbers,
            strings=strings,
        )
