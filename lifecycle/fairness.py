"""Does the pipeline treat groups alike? Alert rate, false positive rate, precision and recall by declared group.

Pure functions over arrays. Every share has a Wilson interval (Wilson, JASA 22, 1927), every comparison of a group with
all others Newcombe's interval of the difference (Statistics in Medicine 17, 1998, method 10) and the ratio with a
log interval (Katz, Baptista, Azen, Pike, Biometrics 34, 1978). Events of one entity depend on each other, so counts
are first divided by the design effect of the entities (Rao, Scott, Biometrics 48, 1992).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints

__all__ = ["MIN_COUNT", "Comparison", "FairnessReport", "Gate", "Group", "Share", "fairness", "fairness_gate"]

Bools = npt.NDArray[np.bool_]
MIN_COUNT = 30
"""A share of fewer events than this (after the design effect) is called small, and decides nothing."""
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """``hits`` of ``n`` with a 95 % interval; NaN of nothing. ``effective`` is n divided by the design effect."""

    hits: int
    n: int
    effective: float
    value: float
    low: float
    high: float

    @property
    def small(self) -> bool:
        """Whether it rests on too few to say much."""
        return self.effective < MIN_COUNT


@dataclass(frozen=True, slots=True)
class Comparison:
    """A group's share against that of all other events: difference and ratio, with 95 % intervals; NaN: undefined."""

    difference: float
    difference_low: float
    difference_high: float
    ratio: float
    ratio_low: float
    ratio_high: float


@dataclass(frozen=True, slots=True)
class Group:
    """One group. ``alert_rate`` is of all its events, the others of those with a label."""

    name: str
    events: int
    labelled: int
    frauds: int
    small: bool
    alert_rate: Share
    false_positive_rate: Share
    precision: Share
    recall: Share
    alert_rate_to_others: Comparison
    false_positive_rate_to_others: Comparison


@dataclass(frozen=True, slots=True)
class FairnessReport:
    """All groups of a field, the largest first."""

    field: str
    groups: tuple[Group, ...]
    ungrouped: int
    """Events that lack the field."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; what is not defined is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a model passes. ``failed`` and ``undecided`` name groups; ``reason`` says it in one line."""

    passed: bool
    max_ratio: float
    failed: tuple[str, ...]
    undecided: tuple[str, ...]
    reason: str


def fairness(
    field: str,
    names: Sequence[str],
    group: Ints,
    alert: Bools,
    labels: Floats,
    entities: Ints,
) -> FairnessReport:
    """The report over n events.

    ``group`` int64[n] indexes ``names`` (-1: the event lacks the field), ``alert`` whether it was an alert,
    ``labels`` 1 fraud, 0 none, NaN unknown, ``entities`` int64[n] whose events depend on each other.
    """
    fraud, honest = labels == 1.0, labels == 0.0
    named = group >= 0
    found = []
    for code in np.argsort(-np.bincount(group[named], minlength=len(names)), kind="stable").tolist():
        own, others = group == code, named & (group != code)
        if not own.any():
            continue
        alert_rate = _share(alert, own, entities)
        false_positives = _share(alert, own & honest, entities)
        found.append(
            Group(
                name=names[code],
                events=int(own.sum()),
                labelled=int((own & (fraud | honest)).sum()),
                frauds=int((own & fraud).sum()),
                small=alert_rate.small or false_positives.small,
                alert_rate=alert_rate,
                false_positive_rate=false_positives,
                precision=_share(fraud, own & alert & (fraud | honest), entities),
                recall=_share(alert, own & fraud, entities),
                alert_rate_to_others=_compare(alert_rate, _share(alert, others, entities)),
                false_positive_rate_to_others=_compare(
                    false_positives, _share(alert, others & honest, entities)
                ),
            )
        )
    return FairnessReport(field, tuple(found), int((~named).sum()))


def fairness_gate(report: FairnessReport, *, max_ratio: float = 1.25) -> Gate:
    """Whether no group is shown to be falsely alerted more than ``max_ratio`` times as often as all others.

    Shown: by the lower end of the interval of the ratio of false positive rates, which is 95 % for each group; with
    many groups chance alone fails one in forty of them, so the interval is widened for their number (Bonferroni).
    A small group, or one whose interval holds both sides of ``max_ratio``, is undecided: named, but no reason to
    refuse. Raises ValueError when ``max_ratio`` is below 1.
    """
    if max_ratio < 1.0:
        raise ValueError(f"max_ratio {max_ratio:g} is below 1: one of two groups always exceeds it")
    widen = _normal_quantile(0.025 / max(len(report.groups), 1)) / _Z
    failed, undecided = [], []
    for group in report.groups:
        seen = group.false_positive_rate_to_others
        if group.false_positive_rate.small or not math.isfinite(seen.ratio_low):
            undecided.append(group.name)
            continue
        low = math.exp(math.log(seen.ratio) - widen * (math.log(seen.ratio) - math.log(seen.ratio_low)))
        if low > max_ratio:
            failed.append(group.name)
        elif seen.ratio_high > max_ratio:
            undecided.append(group.name)
    if failed:
        reason = f"{report.field}: more than {max_ratio:g} times the false alarms of the others: {', '.join(failed)}"
    elif undecided:
        reason = (
            f"{report.field}: no group is shown to exceed {max_ratio:g}; undecided: {', '.join(undecided)}"
        )
    else:
        reason = f"{report.field}: every group stays below {max_ratio:g} times the false alarms of the others"
    return Gate(not failed, max_ratio, tuple(failed), tuple(undecided), reason)


def _share(hit: Bools, among: Bools, entities: Ints) -> Share:
    """The share of ``hit`` among the rows ``among``."""
    rows = np.flatnonzero(among)
    n, hits = len(rows), int(hit[rows].sum())
    if not n:
        return Share(0, 0, 0.0, math.nan, math.nan, math.nan)
    p = hits / n
    effective = n / _design_effect(hit[rows], entities[rows], p)
    low, high = _wilson(p, effective)
    return Share(hits, n, effective, p, low, high)


def _design_effect(hit: Bools, entities: Ints, p: float) -> float:
    """By how much entities that act alike inflate the variance of a share; at least 1."""
    n = len(hit)
    _, where = np.unique(entities, return_inverse=True)
    size = np.bincount(where)
    if len(size) == n:
        return 1.0
    if not 0.0 < p < 1.0 or len(size) == 1:
        return n / len(size)  # nothing to estimate it from: as if each entity were one event
    off = np.bincount(where, weights=hit) - p * size
    variance = float((off * off).sum()) * len(size) / (len(size) - 1) / n**2
    return max(1.0, variance / (p * (1.0 - p) / n))


def _wilson(p: float, n: float) -> tuple[float, float]:
    z = _Z * _Z / n
    middle, half = p + z / 2.0, _Z * math.sqrt(p * (1.0 - p) / n + z / (4.0 * n))
    return max(0.0, (middle - half) / (1.0 + z)), min(1.0, (middle + half) / (1.0 + z))


def _compare(own: Share, others: Share) -> Comparison:
    if not own.n or not others.n:
        return Comparison(*[math.nan] * 6)
    difference = own.value - others.value
    below = math.hypot(own.value - own.low, others.high - others.value)
    above = math.hypot(own.high - own.value, others.value - others.low)
    ratio, low, high = _ratio(own, others)
    return Comparison(difference, difference - below, difference + above, ratio, low, high)


def _ratio(own: Share, others: Share) -> tuple[float, float, float]:
    """Half an event is added to each count, so that none is undefined at 0."""
    a, m = own.value * own.effective + 0.5, own.effective + 0.5
    b, n = others.value * others.effective + 0.5, others.effective + 0.5
    ratio = (a / m) / (b / n)
    half = _Z * math.sqrt(max(1.0 / a - 1.0 / m + 1.0 / b - 1.0 / n, 0.0))
    return ratio, ratio * math.exp(-half), ratio * math.exp(half)


def _normal_quantile(tail: float) -> float:
    """The z with ``tail`` of the normal distribution above it, by bisection."""
    low, high = 0.0, 10.0
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if math.erfc(middle / math.sqrt(2.0)) / 2.0 > tail else (low, middle)
    return low


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
