"""What the engine does with columns: expressions of features, and results of the scored rows on all rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detectors.ensemble import EnsembleOutput, Segment
from domain.batch import Floats, Ints
from domain.pipeline import ExpressionFeature, FieldType, Pipeline
from featurestore.expressions import Expression, compile_expression

__all__ = ["compile_features", "on_batch", "spread"]


def compile_features(pipeline: Pipeline) -> dict[str, Expression]:
    """The expressions of a pipeline by feature, in the order in which they are declared."""
    fields = pipeline.event.fields
    texts = frozenset(f.name for f in fields if f.type is FieldType.STRING)
    numbers = {f.name for f in fields} - texts
    compiled = {}
    for feature in pipeline.features:
        if isinstance(feature, ExpressionFeature):
            compiled[feature.name] = compile_expression(
                feature.expression, numbers=frozenset(numbers), strings=texts
            )
        numbers.add(feature.name)
    return compiled


def spread(output: EnsembleOutput, fresh: Ints, n: int) -> tuple[Floats, Floats, Floats, Floats | None]:
    """The ensemble's columns on all ``n`` rows, NaN on rows it was not asked about."""
    probability = output.probability
    if len(fresh) == n:
        return output.raw, output.ranks, output.score, probability
    detectors = output.raw.shape[1]
    raw, ranks, score = np.full((n, detectors), np.nan), np.full((n, detectors), np.nan), np.full(n, np.nan)
    raw[fresh], ranks[fresh], score[fresh] = output.raw, output.ranks, output.score
    if probability is not None:
        spread = np.full(n, np.nan)
        spread[fresh] = probability
        probability = spread
    return raw, ranks, score, probability


def on_batch(segments: Sequence[Segment], fresh: Ints, n: int) -> list[Segment]:
    """Segments of the fresh rows as segments of all rows; a duplicate belongs to what precedes it."""
    if len(fresh) == n or not segments:
        return list(segments)
    starts = [0, *(int(fresh[s.start]) for s in segments[1:])]
    stops = [*starts[1:], n]
    return [
        Segment(start, stop, s.versions, s.abstained)
        for s, start, stop in zip(segments, starts, stops, strict=True)
    ]
