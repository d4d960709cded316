"""The engine's output: a batch with everything that a verdict needs, still as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.ensemble import Segment
from domain.batch import EventBatch, Floats, Ints
from domain.verdict import Flag, Reason, RuleOutput
from scoring.models_in_use import ModelSays

__all__ = ["FLAG_BITS", "ScoredBatch", "flags_of"]

FLAG_BITS: Mapping[Flag, int] = {
    Flag.DUPLICATE: 1,
    Flag.LATE: 2,
    Flag.DEGRADED: 4,
    Flag.WARMING_UP: 8,
    Flag.REPLAYED: 16,
    Flag.OUT_OF_RANGE: 32,
    Flag.EXPLORED: 64,
    Flag.RULE_FAILED: 128,
}
"""Bit of each flag in ``ScoredBatch.flags``."""

_FLAG_LISTS = [[flag for flag, bit in FLAG_BITS.items() if mask & bit] for mask in range(2 ** len(FLAG_BITS))]


def flags_of(mask: int) -> list[Flag]:
    """The flags in a mask.

    >>> flags_of(3)
    [<Flag.DUPLICATE: 'duplicate'>, <Flag.LATE: 'late'>]
    """
    return _FLAG_LISTS[mask]


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """``n`` scored events of one partition, in offset order.

    features      float64[n, F], NaN missing, whole rows NaN for duplicates
    raw, ranks    float64[n, D] per detector, NaN where it abstained; see detectors.ensemble
    score         float64[n], 0 to 1, NaN while warming up; of a duplicate: the first occurrence's
    decision      int8[n]: index into domain.verdict.DECISIONS
    flags         uint8[n]: sum of FLAG_BITS
    first_offset  int64[n]: source offset of the first occurrence of a duplicate, else -1
    segments      versions and abstentions of runs of rows (of this batch; duplicates belong to any)
    reasons       row to its reasons, for alerts
    stream_time   greatest event time so far, UTC microseconds
    labels_offset int64[n]: first offset of ``labels.joined`` that the row's features do not reflect; None where no
                  feature counts labels and nothing learns from them
    probability   float64[n]: of the label 1, NaN while labels are too few and of duplicates; None where nothing
                  learns from labels
    outside       row to its features that lie far outside of recent traffic, for rows with the flag
    models        what each model from the registry said of the rows, and the ensemble first; NaN of duplicates; empty
                  where none is in force. The ensemble alone where rules may move its score: it "decided" rows
                  that they moved
    champion      version of the registry's model in force
    rules         row to the rules that hit it
    rules_versions  names of the rule set and the lists in force; None: there is no rule set
    rule_failures rule to the number of rows with which it failed
    """

    batch: EventBatch
    features: Floats
    raw: Floats
    ranks: Floats
    score: Floats
    decision: npt.NDArray[np.int8]
    flags: npt.NDArray[np.uint8]
    first_offset: Ints
    segments: Sequence[Segment]
    reasons: Mapping[int, list[Reason]]
    stream_time: int
    labels_offset: Ints | None = None
    probability: Floats | None = None
    outside: Mapping[int, list[str]] = field(default_factory=dict)
    models: Sequence[ModelSays] = ()
    champion: str | None = None
    rules: Mapping[int, list[RuleOutput]] = field(default_factory=dict)
    rules_versions: tuple[str, str] | None = None
    rule_failures: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.batch)
