"""How good is a ranking of events by suspicion? Pure metrics over arrays; nothing here reads files or clocks.

Conventions, everywhere in this module:

- ``scores`` is float64[n], higher is more suspicious. NaN means "abstained": such rows rank below every
  scored row (tied with each other) and are never alerts; :class:`Ranking` says how many there were.
- ``labels`` is bool[n], True for fraud. Rows without a known label must be left out by the caller.
- ``days`` is int64[n], the UTC day number of the event; ``cards`` int64[n], the key entity as 0, 1, 2, ...
- A metric that is not defined (no fraud, or nothing but fraud) is NaN, and null in JSON.

Area under the ROC curve: Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27 (2006).
Average precision: sum of precision times step in recall, without interpolation, as in scikit-learn; see Davis
and Goadrich, "The relationship between precision-recall and ROC curves", ICML 2006.
Card precision: Le Borgne, Siblini, Lebichot and Bontempi, "Reproducible Machine Learning for Credit Card
Fraud Detection - Practical Handbook", Universite Libre de Bruxelles (2022), chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from domain.batch import Floats, Ints

__all__ = [
    "Bools",
    "BudgetPoint",
    "Calibration",
    "CardDay",
    "CardPrecision",
    "Interval",
    "Ranking",
    "Ranks",
    "TopK",
    "bootstrap_days",
    "bootstrap_ranking",
    "budget_point",
    "calibration",
    "card_precision",
    "known_compromised",
    "ranking",
    "top_k",
]

Bools = npt.NDArray[np.bool_]
DAY = 86_400_000_000
"""Microseconds in a day."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile bootstrap interval: ``level`` of the replicates lie between ``low`` and ``high``."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well a score orders fraud before the rest."""

    auc: float
    average_precision: float
    abstained: int


@dataclass(frozen=True, slots=True)
class CardDay:
    """One day: cards seen, how many of them had fraud, how many of those were among the top k."""

    day: int
    cards: int
    compromised: int
    detected: int
    precision: float


@dataclass(frozen=True, slots=True)
class CardPrecision:
    """Card precision at ``k`` a day: the mean over days, and the days."""

    k: int
    mean: float
    days: tuple[CardDay, ...]
    detected_removed: bool


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    """Precision and recall when the most suspicious ``budget`` (share) of the events are alerts."""

    budget: float
    per_day: bool
    alerts: int
    precision: float
    recall: float


@dataclass(frozen=True, slots=True)
class TopK:
    """Precision and recall when reviewers take the ``k`` most suspicious events of each day."""

    k: int
    taken: int
    precision: float
    recall: float


class Ranks:
    """Rows ordered once, so that a bootstrap replicate costs one pass and not one sort."""

    def __init__(self, scores: Floats, labels: Bools) -> None:
        if scores.shape != labels.shape:
            raise ValueError(f"scores {scores.shape} and labels {labels.shape} must have one shape")
        missing = np.isnan(scores)
        self.abstained = int(missing.sum())
        self._order = np.lexsort((np.where(missing, 0.0, scores), ~missing))[::-1]
        ordered = scores[self._order]
        self._fraud = labels[self._order]
        # The last row of each run of equal scores; NaN rows are one run at the end.
        differs = (ordered[1:] != ordered[:-1]) & ~(np.isnan(ordered[1:]) & np.isnan(ordered[:-1]))
        self._ends = (
            np.append(np.flatnonzero(differs), len(scores) - 1) if len(scores) else np.empty(0, np.int64)
        )

    def areas(self, weights: Floats | None = None) -> tuple[float, float]:
        """(ROC AUC, average precision), rows counted ``weights`` times; NaN when not defined."""
        if weights is None:
            tp = np.cumsum(self._fraud, dtype=np.float64)[self._ends]
            fp = self._ends + 1.0 - tp
        else:
            weighed = weights[self._order]
            tp = np.cumsum(weighed * self._fraud)[self._ends]
            fp = np.cumsum(weighed)[self._ends] - tp
        if not len(tp) or tp[-1] <= 0:
            return float("nan"), float("nan")
        seen = tp + fp
        precision = np.divide(tp, seen, out=np.zeros_like(tp), where=seen > 0)
        average_precision = float(np.sum(np.diff(tp, prepend=0.0) * precision) / tp[-1])
        if fp[-1] <= 0:
            return float("nan"), average_precision
        steps = np.diff(fp, prepend=0.0) * (tp + np.concatenate(([0.0], tp[:-1]))) / 2.0
        return float(np.sum(steps) / (tp[-1] * fp[-1])), average_precision


def ranking(scores: Floats, labels: Bools) -> Ranking:
    """ROC AUC and average precision; equal to scikit-learn's on scores without NaN."""
    ranks = Ranks(scores, labels)
    auc, average_precision = ranks.areas()
    return Ranking(auc, average_precision, ranks.abstained)


def known_compromised(times: Ints, cards: Ints, labels: Bools, *, delay: int, since: int) -> Bools:
    """bool[n]: True where the row's card was already known to be compromised when its UTC day began.

    A fraud at ``t`` (from ``since`` on) is known at the end of the day in which ``t + delay`` falls. This is
    how the Handbook makes its test sets: cards with fraud up to the delay before a test day are not in it.
    ``delay`` in microseconds.
    """
    last = np.iinfo(np.int64).max
    known_from = np.full(int(cards.max()) + 1 if len(cards) else 0, last, dtype=np.int64)
    fraud = labels & (times >= since)
    np.minimum.at(known_from, cards[fraud], (times[fraud] + delay) // DAY + 1)
    result: Bools = times // DAY >= known_from[cards] if len(cards) else np.zeros(0, dtype=np.bool_)
    return result


def card_precision(
    scores: Floats,
    labels: Bools,
    days: Ints,
    cards: Ints,
    *,
    k: int,
    remove_detected: bool = True,
    seed: int = 0,
) -> CardPrecision:
    """Card precision top-k, as the Fraud Detection Handbook defines it.

    Each day a card's score is its greatest; the ``k`` highest cards are investigated; the day's precision is
    the number of them with at least one fraud that day, divided by ``k`` (also on a day with fewer cards).
    With ``remove_detected`` a card found compromised is blocked: it is left out of all following days.
    The result is the mean over the days that occur. Cards with equal scores are ordered at random by ``seed``
    (the Handbook leaves their order to the sort).
    """
    if k < 1:
        raise ValueError("k must be at least 1")
    n_cards = int(cards.max()) + 1 if len(cards) else 0
    tie_break = np.random.default_rng(seed).permutation(n_cards)
    usable = np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((cards, days))
    found = np.zeros(n_cards, dtype=np.bool_)
    results = []
    day_of = days[order]
    starts = np.flatnonzero(np.diff(day_of, prepend=day_of[0] - 1)) if len(order) else np.empty(0, np.int64)
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        rows = order[start:end]
        rows = rows[~found[cards[rows]]]
        if not len(rows):
            results.append(CardDay(int(day_of[start]), 0, 0, 0, 0.0))
            continue
        card = cards[rows]
        firsts = np.flatnonzero(np.diff(card, prepend=card[0] - 1))
        card = card[firsts]
        top_score = np.maximum.reduceat(usable[rows], firsts)
        fraud = np.logical_or.reduceat(labels[rows], firsts)
        top = np.lexsort((tie_break[card], -top_score))[:k]
        detected = card[top[fraud[top]]]
        if remove_detected:
            found[detected] = True
        results.append(
            CardDay(int(day_of[start]), len(card), int(fraud.sum()), len(detected), len(detected) / k)
        )
    mean = float(np.mean([day.precision for day in results])) if results else float("nan")
    return CardPrecision(k, mean, tuple(results), remove_detected)


def budget_point(scores: Floats, labels: Bools, *, budget: float, days: Ints | None = None) -> BudgetPoint:
    """Precision and recall if the highest ``budget`` of all events (with ``days``: of each day) were alerts.

    The number of alerts is the budget rounded down, but at least one. Where it falls among equal scores, the
    result is the expectation over their random order. Abstained rows are never alerts.
    """
    if not 0 < budget <= 1:
        raise ValueError("budget is a share of traffic: above 0, at most 1")
    groups = [np.arange(len(scores))]
    if days is not None:
        order = np.argsort(days, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(days[order])) + 1)
    alerts, hits = 0, 0.0
    for rows in groups:
        scored = rows[~np.isnan(scores[rows])]
        wanted = min(max(1, int(budget * len(rows) + 1e-9)), len(scored))
        if not wanted:
            continue
        hits += _expected_hits(scores[scored], labels[scored], wanted)
        alerts += wanted
    frauds = int(labels.sum())
    return BudgetPoint(
        budget,
        days is not None,
        alerts,
        hits / alerts if alerts else float("nan"),
        hits / frauds if frauds else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far probabilities can be believed; ``brier_of_prevalence`` is the Brier score of always saying the share."""

    rows: int
    brier: float
    brier_of_prevalence: float
    expected_calibration_error: float


def calibration(probability: Floats, labels: Bools, *, bins: int = 15) -> Calibration:
    """Brier score and expected calibration error of probabilities (float64[n]; rows with NaN are left out).

    Brier, Monthly Weather Review 78 (1950): the mean squared difference. Expected calibration error (Naeini, Cooper,
    Hauskrecht, AAAI 2015) over ``bins`` of equally many rows: the mean distance of a bin's mean probability
    from its share of frauds.

    >>> calibration(np.array([0.0, 1.0, np.nan]), np.array([False, True, True])).brier
    0.0
    """
    known = ~np.isnan(probability)
    said, hit = probability[known], labels[known].astype(np.float64)
    if not len(said):
        return Calibration(0, np.nan, np.nan, np.nan)
    share = float(hit.mean())
    error = 0.0
    for part in np.array_split(np.argsort(said, kind="stable"), bins):
        if len(part):
            error += len(part) / len(said) * abs(float(said[part].mean()) - float(hit[part].mean()))
    return Calibration(len(said), float(((said - hit) ** 2).mean()), share * (1.0 - share), error)


def top_k(scores: Floats, labels: Bools, days: Ints, *, k: int) -> TopK:
    """Precision and recall of the ``k`` highest-scored events of each day, of all days together.

    A day with fewer scored events is taken whole. Equal scores at the edge count with their expectation.
    """
    if k < 1:
        raise ValueError("k must be at least 1")
    taken, hits = 0, 0.0
    order = np.argsort(days, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(days[order])) + 1):
        scored = rows[~np.isnan(scores[rows])]
        wanted = min(k, len(scored))
        if wanted:
            taken += wanted
            hits += _expected_hits(scores[scored], labels[scored], wanted)
    frauds = int(labels.sum())
    return TopK(
        k,
        taken,
        hits / taken if taken else float("nan"),
        hits / frauds if frauds else float("nan"),
    )


def _expected_hits(values: Floats, fraud: Bools, wanted: int) -> float:
    """Frauds among the ``wanted`` highest values; where these end among equal ones, the expectation."""
    edge = np.partition(values, len(values) - wanted)[len(values) - wanted]
    above, tied = values > edge, values == edge
    share = (wanted - int(above.sum())) / int(tied.sum())
    return float((fraud & above).sum()) + share * float((fraud & tied).sum())


def bootstrap_ranking(
    scores: Floats, labels: Bools, blocks: Ints, *, replicates: int, seed: int, level: float = 0.95
) -> tuple[Interval | None, Interval | None]:
    """Intervals of (ROC AUC, average precision), resampling whole blocks of rows with replacement.

    ``blocks`` is int64[n], for example the day or the card of each row: rows of one block depend on each
    other, so they are drawn together (Davison and Hinkley, "Bootstrap Methods and their Application", 1997,
    section 3.8). None when there are fewer than two blocks or nothing is defined.
    """
    ranks = Ranks(scores, labels)
    _, codes = np.unique(blocks, return_inverse=True)
    n_blocks = int(codes.max()) + 1 if len(codes) else 0
    if n_blocks < 2:
        return None, None
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(replicates):
        counts = np.bincount(rng.integers(0, n_blocks, n_blocks), minlength=n_blocks).astype(np.float64)
        drawn.append(ranks.areas(counts[codes]))
    return _interval([auc for auc, _ in drawn], level), _interval([ap for _, ap in drawn], level)


def bootstrap_days(
    result: CardPrecision, *, replicates: int, seed: int, level: float = 0.95
) -> Interval | None:
    """Interval of the mean card precision, resampling days (which cards were removed stays as it was)."""
    values = np.array([day.precision for day in result.days])
    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (replicates, len(values)))].mean(axis=1)
    return _interval(means.tolist(), level)


def _interval(values: list[float], level: float) -> Interval | None:
    defined = np.array([value for value in values if not np.isnan(value)])
    if len(defined) < 2:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level)
