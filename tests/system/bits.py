"""Verdicts as columns, to be compared with the engine's own columns bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from domain.batch import Floats, Ints
from domain.pipeline import Pipeline
from domain.verdict import DECISIONS, Verdict
from scoring.scored import FLAG_BITS, ScoredBatch

__all__ = ["assert_same_bits"]


def _floats(rows: Sequence[Sequence[float | None]], width: int) -> Floats:
    out: Floats = np.empty((len(rows), width))
    for i, row in enumerate(rows):
        out[i] = [np.nan if value is None else value for value in row]
    return out


def _bits(values: Floats) -> Ints:
    """The bits of each number; every NaN is the same missing value."""
    plain = np.where(np.isnan(values), np.nan, values)
    return np.ascontiguousarray(plain).view(np.int64)


def _check(what: str, names: Sequence[str], offsets: Ints, got: Floats, wanted: Floats) -> None:
    differs = _bits(got) != _bits(wanted)
    if differs.any():
        row, column = (int(i) for i in np.argwhere(differs)[0])
        raise AssertionError(
            f"{what} {names[column]} at offset {offsets[row]}: {got[row, column]!r}, the engine says "
            f"{wanted[row, column]!r}; {int(differs.any(axis=1).sum())} of {len(got)} rows differ"
        )


def assert_same_bits(pipeline: Pipeline, verdicts: Sequence[Verdict], wanted: ScoredBatch) -> None:
    """Each event of ``wanted`` has exactly one verdict, in this order, with the same bits in all numbers."""
    offsets = wanted.batch.offsets
    got = np.array([v.source.offset for v in verdicts], dtype=np.int64)
    assert len(np.unique(got)) == len(got), "an event has two verdicts"
    assert np.array_equal(got, offsets), "not the same events, or not in order"
    assert [v.id for v in verdicts] == list(wanted.batch.ids)
    names = pipeline.feature_names
    nothing = dict.fromkeys(names)
    features = [[(v.features or nothing)[name] for name in names] for v in verdicts]
    _check("feature", names, offsets, _floats(features, len(names)), wanted.features)
    detectors = [d.name for d in pipeline.detectors]
    raw = [[v.detectors[name].score for name in detectors] for v in verdicts]
    _check("raw score of", detectors, offsets, _floats(raw, len(detectors)), wanted.raw)
    ranks = [[v.detectors[name].rank for name in detectors] for v in verdicts]
    _check("rank of", detectors, offsets, _floats(ranks, len(detectors)), wanted.ranks)
    score = _floats([[v.score] for v in verdicts], 1)
    _check("the", ["score"], offsets, score, wanted.score.reshape(-1, 1))
    decisions = [DECISIONS.index(v.decision) for v in verdicts]
    assert decisions == wanted.decision.tolist()
    flags = [sum(FLAG_BITS[flag] for flag in v.flags) for v in verdicts]
    assert flags == wanted.flags.tolist()
    firsts = [-1 if v.first is None else v.first.offset for v in verdicts]
    assert firsts == wanted.first_offset.tolist()
