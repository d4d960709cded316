"""Training: from rows of the past, labelled and not, to a :class:`detectors.trained_model.TrainedModel`.

Weights and probabilities must come from what members said of rows that they had not learned. Labelled rows are cut in
time order into slices that belong to folds by turns; members fitted without a fold say what they think of it. Slices
lie by turns, not one fold after the other: what fraud looks like changes, and a pattern of the last days is then in
every training set and in every test, where fitting on the older part and weighing on the newer one would find members
worthless that merely had no chance to see it. How good a model is on days after its training is for the gate to say,
on rows that this module is not given.

In the end members are fitted to all labelled rows, and everything is placed among the most recent rows, labelled or
not. The same rows in the same order, settings and seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.calibration import fitted_map
from detectors.kinds import build
from detectors.label_trained import LabelTrained
from detectors.logistic import Logistic
from detectors.stacking import average_precision, fitted_weights, tails, weighted_tail
from detectors.trained_model import Member, TrainedModel, inputs_of, placed
from domain.batch import Floats, Ints
from domain.errors import TooFewLabels
from domain.examples import Examples
from domain.parallel import Run, in_turn
from domain.pipeline import LABELLED_KINDS, DetectorSpec, Pipeline

__all__ = ["FitSettings", "Part", "fit_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to train.

    memory         labelled rows that a member is fitted to at most; a sample weighted to what it stands for
    table          most recent rows among which scores are placed at most
    folds, slices  see the module; ``slices`` must be a multiple of ``folds``
    min_positives  labels of each kind without which nothing is fitted
    """

    memory: int = 100_000
    table: int = 20_000
    folds: int = 3
    slices: int = 12
    min_positives: int = 30

    def __post_init__(self) -> None:
        if self.folds < 2 or self.slices < self.folds or self.slices % self.folds:
            raise ValueError("folds must be at least 2, and slices a multiple of them")
        if self.min_positives < self.slices or self.table < 1 or self.memory < 100:
            raise ValueError("min_positives must be at least slices, table at least 1, memory at least 100")


@dataclass(frozen=True, slots=True)
class Part:
    """Members fitted without the rows ``held`` (int64[h]), and the ranks they give these and recent rows."""

    members: tuple[Member, ...]
    held: Ints
    ranks: Floats
    recent: Floats


def fit_model(
    pipeline: Pipeline,
    examples: Examples,
    *,
    now: int,
    seed: int,
    settings: FitSettings | None = None,
    run: Run = in_turn,
) -> TrainedModel:
    """A model for ``pipeline`` from ``examples`` (``y`` NaN where unlabelled) as of ``now`` (UTC microseconds).

    Its members are the detectors of the pipeline that learn from labels, fitted anew; without any: gradient boosting.
    ``run`` fits the parts, which are most of the work. Raises TooFewLabels, and ValueError for rows that do not fit
    the pipeline.
    """
    return _Fit(pipeline, examples, now, seed, settings or FitSettings()).model(run)


class _Fit:
    """One training."""

    def __init__(
        self, pipeline: Pipeline, examples: Examples, now: int, seed: int, settings: FitSettings
    ) -> None:
        features, detectors = len(pipeline.features), len(pipeline.detectors)
        if examples.x.shape[1] != features or examples.ranks.shape[1] != detectors:
            raise ValueError(
                f"rows of {examples.x.shape[1]} features and {examples.ranks.shape[1]} ranks are not of pipeline "
                f"{pipeline.name!r}, which has {features} and {detectors}"
            )
        self._pipeline, self._now, self._seed, self._settings = pipeline, now, seed, settings
        usable = examples.take(np.flatnonzero(~np.isnan(examples.x).all(axis=1)))
        usable = usable.take(np.argsort(usable.times, kind="stable"))
        self._recent = usable.rows(max(0, len(usable) - settings.table), len(usable))
        self._labelled = usable.take(np.flatnonzero((usable.y == 0.0) | (usable.y == 1.0)))
        positives = int(self._labelled.y.sum())
        fewest = min(positives, len(self._labelled) - positives)
        if fewest < settings.min_positives:
            raise TooFewLabels(
                f"there are {positives} positive and {len(self._labelled) - positives} negative labels; "
                f"a model needs {settings.min_positives} of each",
                remedy="wait for more labels, or train on a longer time",
            )
        self._specs = members_of(pipeline)

    def model(self, run: Run) -> TrainedModel:
        """The model; the same whoever runs the parts."""
        from threadpoolctl import threadpool_limits

        *folds, whole = run(self.part, range(self._settings.folds + 1))
        held = np.concatenate([fold.held for fold in folds])
        y = self._labelled.y[held]
        weight = np.ones(len(y))
        ranks = np.concatenate([fold.ranks for fold in folds])
        learn = [spec.kind in LABELLED_KINDS for spec in self._pipeline.detectors] + [True] * len(self._specs)
        with threadpool_limits(limits=1):
            weights = fitted_weights(tails(ranks), y, weight, np.array(learn))
        score = np.concatenate(
            [
                placed(_ordered(weighted_tail(fold.recent, weights)), weighted_tail(fold.ranks, weights))
                for fold in folds
            ]
        )
        edges, chances = fitted_map(score, y, weight)
        features, detectors = inputs_of(self._pipeline)
        table = _ordered(weighted_tail(whole.recent, weights))
        facts = {
            "trained_at": self._now,
            "seed": self._seed,
            "rows": len(self._recent),
            "labels": len(self._labelled),
            "positives": int(self._labelled.y.sum()),
            "from": int(self._labelled.times[0]),
            "to": int(self._recent.times[-1]),
            "held_out_average_precision": average_precision(score, y, weight),
        }
        return TrainedModel(features, detectors, whole.members, weights, table, edges, chances, facts)

    def part(self, number: int) -> Part:
        """Fitted without fold ``number``; there is none after the last, so those are fitted to all labels."""
        # loaded where it is needed; sums over several threads depend on how many there are
        from threadpoolctl import threadpool_limits

        mine = _fold_of(self._labelled.y, self._settings) == number
        held = np.flatnonzero(mine)
        rows = self._labelled.take(np.flatnonzero(~mine))
        with threadpool_limits(limits=1):
            members = tuple(self._member(spec, rows) for spec in self._specs)
        return Part(
            members, held, self._said(members, self._labelled.take(held)), self._said(members, self._recent)
        )

    def _said(self, members: Sequence[Member], rows: Examples) -> Floats:
        return np.concatenate([rows.ranks, *(member.rank(rows.x)[:, None] for member in members)], axis=1)

    def _member(self, spec: DetectorSpec, rows: Examples) -> Member:
        names = self._pipeline.feature_names
        seen = names if spec.features is None else spec.features
        columns = np.array([names.index(name) for name in seen], dtype=np.int64)
        params = {**spec.params, "min_labels": 2, "min_positive": 1}
        if spec.kind != "logistic":
            params["memory"] = self._settings.memory
        # a logistic regression knows its columns by number: names may change, what it learned does not
        fitted = build(
            DetectorSpec(name=spec.name, kind=spec.kind, params=params),
            tuple(str(column) for column in columns),
            self._seed,
        )
        if not isinstance(fitted, LabelTrained | Logistic):
            raise TypeError(f"detector {spec.name!r} of kind {spec.kind!r} can not be fitted to labels")
        fitted.learn_labels(np.ascontiguousarray(rows.x[:, columns]), rows.y, rows.known_at, self._now)
        scorer = fitted if isinstance(fitted, Logistic) else fitted.model
        if scorer is None:
            raise TooFewLabels(f"detector {spec.name!r} learned nothing", remedy="wait for more labels")
        said = scorer.score(np.ascontiguousarray(self._recent.x[:, columns]))
        kept = params if spec.kind == "logistic" else {}
        return Member(spec.name, spec.kind, columns, _ordered(said), scorer, kept)


def members_of(pipeline: Pipeline) -> tuple[DetectorSpec, ...]:
    """What is fitted to labels for ``pipeline``: its own detectors of these kinds, or else gradient boosting."""
    declared = tuple(spec for spec in pipeline.detectors if spec.kind in LABELLED_KINDS)
    return declared or (DetectorSpec(name="boosting", kind="gradient_boosting"),)


def _ordered(values: Floats) -> Floats:
    """The finite ones, sorted; at least one."""
    kept = np.sort(values[np.isfinite(values)])
    return kept if len(kept) else np.zeros(1)


def _fold_of(y: Floats, settings: FitSettings) -> npt.NDArray[np.int64]:
    """The fold of each labelled row, in time order; each kind of label is cut into slices by itself, as positives
    come in bursts.
    """
    folds = np.empty(len(y), dtype=np.int64)
    for kind in (0.0, 1.0):
        rows = np.flatnonzero(y == kind)
        folds[rows] = np.arange(len(rows)) * settings.slices // len(rows) % settings.folds
    return folds
