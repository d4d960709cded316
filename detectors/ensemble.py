"""All detectors of a pipeline as one: raw scores, their ranks, and one score that an alert budget fits.

Each detector's score becomes its rank among scores of ordinary rows. The ranks of the detectors that have one become
one piece of evidence (:mod:`detectors.combine`, or what :mod:`detectors.stacking` learned), which is ranked once more,
and that is the score: the share of recent traffic that looked less suspicious. An alert budget ``b`` is therefore about
the condition ``score >= 1 - b``; :mod:`detectors.budget` holds it while scores drift. With enough labels
:mod:`detectors.calibration` adds a probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge, pack, unpack
from detectors.budget import AlertBudgets
from detectors.calibration import Calibrator
from detectors.combine import evidence, ranks_of, score_table
from detectors.guard import TeachingGuard, step_taught
from detectors.kinds import build
from detectors.lessons import Lesson, Lessons
from detectors.protocol import Detector, LabelledDetector
from detectors.ranks import WINDOW
from detectors.reference import ReferenceSample
from detectors.schedule import rows_until
from detectors.stacking import Stacker
from domain.batch import Floats, Ints
from domain.examples import Examples
from domain.pipeline import LABELLED_KINDS, Pipeline

__all__ = ["Decide", "Ensemble", "EnsembleOutput", "Segment"]

_FORMAT = 3
_Bools = npt.NDArray[np.bool_]
_KEPT = 500
"""Pieces of evidence kept when a detector joins or weights change."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows [start, stop) of an output, which share models and abstentions.

    ``versions`` names the model of every detector, ``abstained`` says why some gave no rank.
    """

    start: int
    stop: int
    versions: dict[str, str]
    abstained: dict[str, str]


@dataclass(frozen=True, slots=True)
class EnsembleOutput:
    """Scores of n rows.

    raw       float64[n, detectors]: the detectors' scores, NaN = abstained or failed
    ranks     float64[n, detectors]: share of ordinary rows with a lower score, NaN likewise
    score     float64[n]: share of recent traffic that looked less suspicious (0 to 1), NaN when all
              abstain or too few rows have been ranked
    segments  cover all rows in order
    reached   int8[n]: decision that alert budgets grant (1 review, 2 block, 0 none)
    outside   bool[n, features]: values far outside of what recent traffic had
    probability  float64[n]: of the label 1, NaN while labels are too few; None where nothing learns from labels
    """

    raw: Floats
    ranks: Floats
    score: Floats
    segments: tuple[Segment, ...]
    reached: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty(0, dtype=np.int8))
    outside: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty((0, 0), dtype=np.bool_))
    probability: Floats | None = None


Decide = Callable[[Floats, EnsembleOutput], Floats]
"""From n rows and what the ensemble says of them (``reached`` not yet) to the scores that decide, float64[n]."""


class Ensemble:
    """The detectors of ``pipeline`` in the order of its file, their rank tables, and what is usual.

    Everything is a pure function of the pipeline and the rows stepped so far, in order. Raises ValueError
    when a detector's declaration is wrong.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        features = pipeline.feature_names
        self._digest = pipeline.digest
        self._width = len(features)
        self._detectors: list[Detector] = []
        self._columns: list[Ints | None] = []
        for spec in pipeline.detectors:
            seen = features if spec.features is None else spec.features
            unknown = [name for name in seen if name not in features]
            if unknown:
                raise ValueError(f"detector {spec.name!r}: unknown feature {unknown[0]!r}")
            self._columns.append(None if seen == features else np.array([features.index(f) for f in seen]))
            self._detectors.append(build(spec, seen, pipeline.seed))
        self.names: tuple[str, ...] = tuple(spec.name for spec in pipeline.detectors)
        self._tables = [ranks_of(detector) for detector in self._detectors]
        self._final = score_table()
        labelled = [spec.kind in LABELLED_KINDS for spec in pipeline.detectors]
        self._stacker = Stacker(labelled, pipeline.seed) if pipeline.decision.combine == "stacked" else None
        self._calibrator = Calibrator(pipeline.seed) if pipeline.learns else None
        self.lessons = Lessons(self._width, len(labelled)) if pipeline.learns else None
        """Labels that wait to be learned; None where nothing learns from labels."""
        self.failed_lessons: dict[str, str] = {}
        """Detectors that could not learn labels at some time, and the type of the newest error."""
        most = pipeline.guards.teach_per_entity
        self.guard = None if most is None else TeachingGuard(most)
        """Says of each row whether it may teach, by its value of the key entity; None: all may."""
        self._joined = [False] * len(self._detectors)
        self._budgets = AlertBudgets(pipeline.decision.budgets)
        self.reference = ReferenceSample(self._width, pipeline.seed)
        self.seen = 0
        """Rows stepped so far."""

    def versions(self) -> dict[str, str]:
        """The model of every detector by name, and of what combines and calibrates them where that is learned."""
        models = {name: d.version for name, d in zip(self.names, self._detectors, strict=True)}
        # a detector's name has no dot
        if self._stacker is not None:
            models["decision.combine"] = self._stacker.version
        if self._calibrator is not None:
            models["decision.probability"] = self._calibrator.version
        return models

    def learn(self, examples: Examples, now: int) -> None:
        """Teach labels that became known until ``now`` (UTC microseconds of event time), before the next row.

        A detector that fails at it keeps the model it has.
        """
        for i, detector in enumerate(self._detectors):
            if isinstance(detector, LabelledDetector):
                columns = self._columns[i]
                x = examples.x if columns is None else examples.x[:, columns]
                try:
                    detector.learn_labels(np.ascontiguousarray(x), examples.y, examples.known_at, now)
                except Exception as error:  # one detector's fault must not stop the others from learning
                    self.failed_lessons[self.names[i]] = type(error).__name__
        if self._stacker is not None and self._stacker.learn(examples, now):
            # far other weights, another spread of the combination: let the old ones fade quickly
            self._final.forget(_KEPT)
        if self._calibrator is not None:
            self._calibrator.learn(examples, now)

    def abstained(self) -> dict[str, str]:
        """Why each detector that would give no rank now gives none."""
        reasons: dict[str, str] = {}
        for name, detector, table in zip(self.names, self._detectors, self._tables, strict=True):
            reason = detector.abstains_because or table.abstains_because
            if reason is not None:
                reasons[name] = reason
        return reasons

    def step(
        self,
        x: Floats,
        lessons: Sequence[Lesson] = (),
        teach: _Bools | None = None,
        *,
        decide: Decide | None = None,
    ) -> EnsembleOutput:
        """Score each row of ``x`` (float64[n, features]), then learn it, row after row.

        ``lessons``, in order of their rows, are taught before their rows are scored. ``teach`` (bool[n], None: all)
        marks the rows that are learned: the others are scored and decided, and leave no trace but in the budgets.
        ``decide`` gives the scores that alert budgets go by where these are not the ensemble's own.
        """
        n = self._check(x)
        raw = np.full((n, len(self.names)), np.nan)
        ranks = np.full((n, len(self.names)), np.nan)
        score = np.empty(n)
        probability = None if self._calibrator is None else np.empty(n)
        segments: list[Segment] = []
        at = taught = 0
        while True:
            while taught < len(lessons) and lessons[taught].row <= at:
                self.learn(lessons[taught].examples, lessons[taught].now)
                taught += 1
            if at >= n:
                break
            stop = rows_until(teach, at, n, self._until_change())
            if taught < len(lessons):
                stop = min(stop, lessons[taught].row)
            taught_here = None if teach is None else teach[at:stop]
            segments += self._step_part(
                x[at:stop], at, raw[at:stop], ranks[at:stop], score[at:stop], taught_here
            )
            if self._calibrator is not None and probability is not None:
                probability[at:stop] = self._calibrator.probability(score[at:stop])
            at = stop
        outside = self.reference.add(x, teach)
        self.seen += n
        output = EnsembleOutput(
            raw, ranks, score, _joined(segments), outside=outside, probability=probability
        )
        return replace(output, reached=self._budgets.step(score if decide is None else decide(x, output)))

    def score(self, x: Floats, *, decide: Decide | None = None) -> EnsembleOutput:
        """What :meth:`step` would say of each row of ``x`` if it came next; changes nothing."""
        n = self._check(x)
        raw = np.full((n, len(self.names)), np.nan)
        ranks = np.full((n, len(self.names)), np.nan)
        failed: dict[str, str] = {}
        for i, (name, detector) in enumerate(zip(self.names, self._detectors, strict=True)):
            try:
                raw[:, i] = detector.score(self._view(x, i))
            except Exception as error:  # one detector's fault must not silence the others
                failed[name] = type(error).__name__
            ranks[:, i] = self._tables[i].rank(raw[:, i])
        score = self._final.rank(self._combine(ranks))
        segments = _joined(self._segments(0, raw, self.abstained(), failed))
        probability = None if self._calibrator is None else self._calibrator.probability(score)
        outside = self.reference.outside(x)
        output = EnsembleOutput(raw, ranks, score, segments, outside=outside, probability=probability)
        return replace(output, reached=self._budgets.preview(score if decide is None else decide(x, output)))

    def fit(self, x: Floats) -> None:
        """Train on past rows (float64[n, features], oldest first), then rank by their scores."""
        n = self._check(x)
        if n == 0:
            return
        for i, detector in enumerate(self._detectors):
            detector.fit(self._view(x, i))
        recent = x[-WINDOW:]
        ranks = np.full((recent.shape[0], len(self.names)), np.nan)
        for i, detector in enumerate(self._detectors):
            raw = detector.score(self._view(recent, i))
            self._tables[i].step(raw)
            ranks[:, i] = self._tables[i].rank(raw)
            self._joined[i] = detector.ready and self._tables[i].ready
        self._final.step(self._combine(ranks))
        self.reference.add(x)
        self.seen += n

    def snapshot(self) -> bytes:
        """All state; :meth:`restore` of it in an ensemble of the same pipeline continues with equal bits."""
        children: dict[str, Arrays] = {
            "final": self._final.snapshot(),
            "reference": self.reference.snapshot(),
            "budgets": self._budgets.snapshot(),
        }
        for name, part in self._learners():
            children[name] = part.snapshot()
        for i, detector in enumerate(self._detectors):
            children[f"detector{i}"] = detector.snapshot()
            children[f"ranks{i}"] = self._tables[i].snapshot()
        own = {"format": _FORMAT, "pipeline": self._digest, "seen": self.seen, "joined": list(self._joined)}
        return pack(merge(children, Arrays({}, own)))

    def restore(self, blob: bytes) -> None:
        """Take over a snapshot. Raises ValueError when it is torn, foreign or of another pipeline.

        After an error the ensemble is in no defined state: build a new one.
        """
        state = unpack(blob)
        own = state.scalars
        if own.get("format") != _FORMAT:
            raise ValueError(f"detector snapshot has format {own.get('format')}, this code reads {_FORMAT}")
        if own.get("pipeline") != self._digest:
            raise ValueError(f"detector snapshot is of pipeline {own.get('pipeline')}, not {self._digest}")
        joined, seen = own.get("joined"), own.get("seen")
        if not isinstance(seen, int) or not isinstance(joined, list) or len(joined) != len(self.names):
            raise ValueError("detector snapshot lacks 'seen' or 'joined'")
        for i, detector in enumerate(self._detectors):
            detector.restore(child(state, f"detector{i}"))
            self._tables[i].restore(child(state, f"ranks{i}"))
        for name, part in self._learners():
            part.restore(child(state, name))
        self._final.restore(child(state, "final"))
        self.reference.restore(child(state, "reference"))
        self._budgets.restore(child(state, "budgets"))
        self._joined = [bool(value) for value in joined]
        self.seen = seen

    def _learners(self) -> list[tuple[str, Stacker | Calibrator | Lessons | TeachingGuard]]:
        parts = [
            ("stacker", self._stacker),
            ("calibrator", self._calibrator),
            ("lessons", self.lessons),
            ("guard", self.guard),
        ]
        return [(name, part) for name, part in parts if part is not None]

    def _combine(self, ranks: Floats) -> Floats:
        return evidence(ranks) if self._stacker is None else self._stacker.combine(ranks)

    def _check(self, x: Floats) -> int:
        if x.ndim != 2 or x.shape[1] != self._width:
            raise ValueError(f"expected rows of {self._width} features, got an array of shape {x.shape}")
        return int(x.shape[0])

    def _view(self, x: Floats, i: int) -> Floats:
        columns = self._columns[i]
        return np.ascontiguousarray(x) if columns is None else x[:, columns]

    def _until_change(self) -> int:
        """How many rows surely share versions, readiness and abstentions."""
        rows: int = 2**62
        for detector, table in zip(self._detectors, self._tables, strict=True):
            change = detector.next_change()
            if change is not None:
                rows = min(rows, change)
            if detector.ready and table.missing:
                rows = min(rows, table.missing)
        return max(int(rows), 1)

    def _step_part(
        self, x: Floats, start: int, raw: Floats, ranks: Floats, score: Floats, teach: _Bools | None
    ) -> list[Segment]:
        """Step rows over which nothing changes; fills raw, ranks and score."""
        abstained = self.abstained()
        versions = self.versions()
        failed: dict[str, str] = {}
        for i, (name, detector) in enumerate(zip(self.names, self._detectors, strict=True)):
            table = self._tables[i]
            if detector.ready and table.ready and not self._joined[i]:
                # Evidence of one more detector has another spread: let the old one fade quickly.
                self._joined[i] = True
                self._final.forget(_KEPT)
            try:
                raw[:, i] = step_taught(detector, self._view(x, i), teach)
            except Exception as error:  # one detector's fault must not silence the others
                failed[name] = type(error).__name__
            ranks[:, i] = table.step(raw[:, i], teach)
        score[:] = self._final.step(self._combine(ranks), teach)
        return self._segments(start, raw, abstained, failed, versions)

    def _segments(
        self,
        start: int,
        raw: Floats,
        abstained: dict[str, str],
        failed: dict[str, str],
        versions: dict[str, str] | None = None,
    ) -> list[Segment]:
        """One segment, unless a detector that is ready gave no score for some of the rows."""
        n = raw.shape[0]
        versions = self.versions() if versions is None else versions
        if n == 0:
            return []
        ready = [i for i, name in enumerate(self.names) if name not in abstained]
        holes = ~np.isfinite(raw[:, ready])
        if not holes.any():
            return [Segment(start, start + n, versions, abstained)]
        raw[~np.isfinite(raw)] = np.nan
        edges = np.flatnonzero((holes[1:] != holes[:-1]).any(axis=1)) + 1
        bounds = [0, *(int(edge) for edge in edges), n]
        segments = []
        for first, stop in pairwise(bounds):
            reasons = dict(abstained)
            for i, hole in zip(ready, holes[first], strict=True):
                if hole:
                    name = self.names[i]
                    reasons[name] = failed.get(name) or self._detectors[i].last_failure or "score not finite"
            segments.append(Segment(start + first, start + stop, versions, reasons))
        return segments


def _joined(segments: list[Segment]) -> tuple[Segment, ...]:
    """Neighbours that say the same become one."""
    out: list[Segment] = []
    for segment in segments:
        if out and (out[-1].versions, out[-1].abstained) == (segment.versions, segment.abstained):
            out[-1] = Segment(out[-1].start, segment.stop, segment.versions, segment.abstained)
        else:
            out.append(segment)
    return tuple(out)
