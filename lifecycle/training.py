"""Training on pinned rows: from a pin to a packed model, the same pin giving the same bytes.

Rows are cut by event time: what is older than ``split`` may teach, what is between ``split`` and ``stop`` is the later
slice on which the gate compares, what is younger than ``stop`` has labels that have not matured and is used without
them, as the traffic among which scores are placed. Labels are those known at ``as_of``. What the gate judged is what
is shipped: nothing is fitted again to the later slice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from detectors.model_fit import FitSettings, fit_model
from detectors.trained_model import TrainedModel
from domain.batch import Floats
from domain.clock import from_micros
from domain.errors import TooFewLabels
from domain.examples import Examples
from domain.parallel import Run, in_turn
from domain.pipeline import Pipeline
from domain.pipeline_retraining import Retraining
from featurestore.offline_port import ExampleCounts, Pin
from lifecycle.evaluation import ranking
from lifecycle.parallel_scores import scores_of

__all__ = [
    "Trained",
    "TrainingPlan",
    "TrainingRows",
    "choose_split",
    "enough",
    "plan_training",
    "read_rows",
    "train",
]

HISTORIES = (1.0, 0.5, 0.25)
"""Shares of the past that the small search tries to learn from: after a change, less of it can be more."""


class TrainingRows(Protocol):
    """What training needs of the offline store; :class:`featurestore.offline.OfflineStore` is one."""

    def pin(self) -> Pin:
        """The versions that hold now."""
        ...

    def count(self, pin: Pin, start: int, stop: int, as_of: int) -> ExampleCounts:
        """How many rows there are with ``start <= event time < stop``, labels as known at ``as_of``."""
        ...

    def examples(self, pin: Pin, start: int, stop: int, as_of: int, *, share: float = 1.0) -> Examples:
        """Those rows in the order of event time, or a sample of them by a hash of their ids."""
        ...

    def entity(
        self, pin: Pin, start: int, stop: int, as_of: int, name: str, *, share: float = 1.0
    ) -> list[str | None]:
        """The entity called ``name`` of each row of :meth:`examples`, in its order."""
        ...


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what is trained; a run keeps it. Times are UTC microseconds of the stream.

    ``share``: of the rows, when there are more than ``max_rows``. ``since``: when a drift alarm says that things
    changed, None when none was raised.
    """

    pin: str
    start: int
    stop: int
    as_of: int
    share: float
    seed: int
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """A model, its bytes, and what was found out while it was made.

    ``split`` is where the later slice begins, ``history`` the share of the earlier time that was learned from,
    ``tried`` the validation of each share of history that was tried (average precision).
    """

    model: TrainedModel
    packed: bytes
    split: int
    history: float
    rows: int
    labelled: int
    positives: int
    tried: tuple[tuple[float, float], ...]

    def metrics(self) -> dict[str, Any]:
        """What goes into the manifest."""
        return {
            "history": self.history,
            "tried": [list(one) for one in self.tried],
            "weights": self.model.worth,
            **dict(self.model.facts),
        }


def enough(
    rows: TrainingRows, pin: Pin, rules: Retraining, *, now: int, since: int | None
) -> tuple[bool, str]:
    """Whether matured labels suffice for a run at stream time ``now``, and why not.

    After a drift alarm there must be labels of what came ``since``: half of them to learn from, half to prove it on.
    """
    stop = now - rules.label_maturity
    found = rows.count(pin, now - rules.window, stop, now)
    negatives = found.labelled - found.positive
    if found.labelled < rules.min_labels or min(found.positive, negatives) < rules.min_positive:
        return False, (
            f"{found.labelled:,} matured labels, {found.positive:,} of them positive; "
            f"{rules.min_labels:,} and {rules.min_positive:,} are needed (retraining.min_labels, min_positive)"
        )
    if since is None:
        return True, ""
    later = rows.count(pin, since, stop, now) if since < stop else ExampleCounts(0, 0, 0)
    wanted = 2 * rules.gate.min_positive
    if later.positive < wanted:
        return False, (
            f"{later.positive:,} matured positive labels since the change at {from_micros(since).isoformat()}; "
            f"{wanted:,} are needed (twice retraining.gate.min_positive)"
        )
    return True, ""


def plan_training(
    rows: TrainingRows, pin: Pin, rules: Retraining, *, now: int, seed: int, since: int | None
) -> TrainingPlan:
    """The plan of a run at stream time ``now``; of more rows than ``max_rows`` a share is taken."""
    start, stop = now - rules.window, now - rules.label_maturity
    total = rows.count(pin, start, now, now).rows
    share = 1.0 if total <= rules.max_rows else rules.max_rows / total
    return TrainingPlan(pin=str(pin), start=start, stop=stop, as_of=now, share=share, seed=seed, since=since)


def read_rows(rows: TrainingRows, plan: TrainingPlan) -> Examples:
    """All rows of the plan, the label of those that have not matured taken away."""
    found = rows.examples(Pin.parse(plan.pin), plan.start, plan.as_of, plan.as_of, share=plan.share)
    return _without_labels(found, found.times >= plan.stop)


def choose_split(examples: Examples, rules: Retraining, since: int | None) -> int:
    """The time at which the later slice begins: before its newest share of positives.

    When things changed ``since``, it begins no earlier than the middle of the positives after it: training must see
    some of the new, and so must the gate. Raises TooFewLabels when there is no positive.
    """
    positive = np.sort(examples.times[examples.y == 1.0])
    if not len(positive):
        raise TooFewLabels(
            "there is no positive label to learn from",
            remedy="wait for labels to mature, or lengthen retraining.window",
        )
    split = int(positive[min(len(positive) - 1, int((1.0 - rules.gate.test) * len(positive)))])
    if since is not None:
        after = positive[positive >= since]
        if len(after) >= 2 * rules.gate.min_positive:
            split = max(split, int(after[len(after) // 2]))
    return split


def train(
    pipeline: Pipeline,
    examples: Examples,
    plan: TrainingPlan,
    rules: Retraining,
    settings: FitSettings | None = None,
    run: Run = in_turn,
) -> Trained:
    """A model fitted to what is older than the split, its parts by ``run``. Raises TooFewLabels."""
    settings = settings or FitSettings()
    split = choose_split(examples, rules, plan.since)
    teaching = _without_labels(examples, examples.times >= split)
    tried: list[tuple[float, float]] = []
    history = HISTORIES[0]
    if rules.search:
        tried = _search(pipeline, teaching, plan, settings, run)
        history = max(tried, key=lambda one: (one[1], one[0]))[0] if tried else history
    teaching = _recent(teaching, history)
    model = fit_model(pipeline, teaching, now=plan.as_of, seed=plan.seed, settings=settings, run=run)
    known = ~np.isnan(teaching.y)
    return Trained(
        model=model,
        packed=model.pack(),
        split=split,
        history=history,
        rows=len(examples),
        labelled=int(known.sum()),
        positives=int((teaching.y == 1.0).sum()),
        tried=tuple(tried),
    )


def _search(
    pipeline: Pipeline, teaching: Examples, plan: TrainingPlan, settings: FitSettings, run: Run
) -> list[tuple[float, float]]:
    """(history, average precision) of each candidate on the newest quarter of the positives that may teach."""
    positive = np.sort(teaching.times[teaching.y == 1.0])
    if len(positive) < 4 * settings.min_positives:
        return []
    cut = int(positive[len(positive) * 3 // 4])
    earlier = _without_labels(teaching, teaching.times >= cut)
    held = teaching.take(np.flatnonzero((teaching.times >= cut) & ~np.isnan(teaching.y)))
    found = []
    for history in HISTORIES:
        try:
            model = fit_model(
                pipeline,
                _recent(earlier, history),
                now=plan.as_of,
                seed=plan.seed,
                settings=settings,
                run=run,
            )
        except TooFewLabels:
            continue
        said = scores_of(model, held, run).score
        found.append((history, ranking(said, held.y == 1.0).average_precision))
    return found


def _recent(examples: Examples, history: float) -> Examples:
    """Labels of the newest ``history`` of the labelled time only."""
    known = examples.times[~np.isnan(examples.y)]
    if history >= 1.0 or not len(known):
        return examples
    first, last = int(known[0]), int(known[-1])
    return _without_labels(examples, examples.times < last - round((last - first) * history))


def _without_labels(examples: Examples, where: npt.NDArray[np.bool_]) -> Examples:
    y: Floats = np.where(where, np.nan, examples.y)
    return dataclasses.replace(examples, y=y)


def codes_of(values: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """int64[n]: the same number for the same text; each missing one is somebody of its own."""
    numbers: dict[str, int] = {}
    codes = np.empty(len(values), dtype=np.int64)
    for i, value in enumerate(values):
        codes[i] = -1 - i if value is None else numbers.setdefault(value, len(numbers))
    return codes
