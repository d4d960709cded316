"""The engine: a batch of valid events and the state so far in, scores and new state out.

No input or output of its own and no clock: the worker, ``backtest`` and ``dry_run`` give it the same events
and state and get the same bits. State lives in two objects that it moves: the feature tables (shared by
the partitions of a process) and one ensemble per partition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from detectors.arrays import Arrays, child, merge, pack, unpack
from detectors.ensemble import Ensemble, EnsembleOutput
from detectors.lessons import Lesson
from domain.batch import EventBatch, Floats, Ints
from domain.erasure import Erasure
from domain.label import LabelBatch
from domain.pipeline import Pipeline
from domain.verdict import Flag, Reason
from featurestore.ports import EntityRequest
from featurestore.tables import Advanced, FeatureTables
from scoring.decision import decide
from scoring.engine_columns import compile_features, on_batch, spread
from scoring.learned_decision import LearnedDecision
from scoring.models_in_use import NO_MODELS, ModelSays, ModelsInUse, Panel
from scoring.reasons import explain
from scoring.rules_in_use import NO_RULES, Ruled, RulesInUse, Ruling
from scoring.scored import FLAG_BITS, ScoredBatch

__all__ = ["Fetch", "PartitionScorer", "nothing_stored"]

Bools = npt.NDArray[np.bool_]
Fetch = Callable[[Sequence[EntityRequest]], Sequence[Sequence[bytes | None]]]
"""How the engine asks for entity state that it does not hold."""

_DUPLICATE, _LATE, _DEGRADED, _WARMING, _OUTSIDE, _EXPLORED, _FAILED = (
    FLAG_BITS[flag]
    for flag in (
        Flag.DUPLICATE,
        Flag.LATE,
        Flag.DEGRADED,
        Flag.WARMING_UP,
        Flag.OUT_OF_RANGE,
        Flag.EXPLORED,
        Flag.RULE_FAILED,
    )
)


def nothing_stored(requests: Sequence[EntityRequest]) -> list[list[bytes | None]]:
    """For runs that begin without any stored state (backtest)."""
    return [[None] * len(request.keys) for request in requests]


class PartitionScorer:
    """Scores the events of one partition, in order.

    Everything it says is a pure function of the pipeline and the partition's events so far (for entities
    that several partitions feed: and of the other partitions' state at that moment).
    """

    def __init__(
        self,
        pipeline: Pipeline,
        partition: int = 0,
        *,
        tables: FeatureTables | None = None,
        fetch: Fetch = nothing_stored,
        stream_time: int = 0,
        labels_offset: int = 0,
        ensemble: Ensemble | None = None,
        learned: LearnedDecision | None = None,
        models: ModelsInUse = NO_MODELS,
        rules: RulesInUse = NO_RULES,
    ) -> None:
        self.pipeline = pipeline
        self.partition = partition
        self.tables = FeatureTables(pipeline) if tables is None else tables
        self.tables.hold(partition)
        self.ensemble = Ensemble(pipeline) if ensemble is None else ensemble
        self.learned = LearnedDecision(pipeline, self.tables.partitions) if learned is None else learned
        self.models = models
        """What is asked beside the ensemble; may be exchanged between two batches."""
        self.rules = rules
        """What people decided in advance; may be exchanged likewise."""
        self.stream_time = stream_time
        self.labels_offset = labels_offset
        self._fetch = fetch
        self._names = pipeline.feature_names
        self._expressions = compile_features(pipeline)
        none: Ints = np.empty(0, dtype=np.int64)
        self._no_events = EventBatch([], none, none, {name: [] for name in pipeline.entities}, {}, {})

    def requests(self, batch: EventBatch, labels: LabelBatch | None = None) -> list[EntityRequest]:
        """State to load into the tables before ``process(batch, loaded=True, labels=labels)``."""
        return self.tables.missing(self.partition, batch, labels)

    def process(
        self,
        batch: EventBatch,
        *,
        labels: LabelBatch | None = None,
        loaded: bool = False,
        degraded: bool = False,
    ) -> ScoredBatch:
        """Score a batch and move all state on.

        ``labels``: changes of labels that become known until the last event of the batch; each counts from the
        first event on whose stream time has reached the time at which it was known. ``loaded``: the caller has
        already loaded what :meth:`requests` names (for several partitions in one round trip). ``degraded``: state
        could not be read; verdicts say so.
        """
        return self._scored(batch, teach=True, labels=labels, loaded=loaded, degraded=degraded)

    def preview(self, batch: EventBatch) -> ScoredBatch:
        """Score a batch without teaching the detectors. Feature state does move: use throw-away tables."""
        return self._scored(batch, teach=False, labels=None, loaded=False, degraded=False)

    def _scored(
        self,
        batch: EventBatch,
        *,
        teach: bool,
        labels: LabelBatch | None,
        loaded: bool,
        degraded: bool,
    ) -> ScoredBatch:
        labels_before = self.labels_offset
        advanced = self._advance(batch, labels=labels, loaded=loaded, want_features=True)
        fresh = np.flatnonzero(~advanced.duplicate)
        x = advanced.features if len(fresh) == len(batch) else advanced.features[fresh]
        panel = Panel(self.models, batch.entities[self.pipeline.event.key], fresh)
        ruling = Ruling(self.rules, panel, batch, x, fresh, self._names)
        lessons: list[Lesson] = []
        if teach:
            lessons = self.plan_lessons(batch.times, fresh, advanced.labels_applied, labels)
            may = self._may_teach(batch.entities[self.pipeline.event.key], fresh)
            output = self.ensemble.step(x, lessons, may, decide=ruling.decide)
        else:
            output = self.ensemble.score(x, decide=ruling.decide)
        output = ruling.decided(output)
        raw, ranks, score, probability = spread(output, fresh, len(batch))
        decision = np.zeros(len(batch), dtype=np.int8)
        if teach:
            others = self.learned.step(output.score, x, batch.times[fresh], lessons)
        else:
            others = self.learned.preview(output.score, x, batch.times[fresh])
        ruled = ruling.rule(
            decide(output.reached, others), self.pipeline.decision.explore, self.pipeline.seed
        )
        decision[fresh] = ruled.codes
        self._copy_first_results(batch, advanced, score, decision)
        self._remember(batch, fresh, score, decision)
        flags = advanced.duplicate * np.uint8(_DUPLICATE) + advanced.late * np.uint8(_LATE)
        flags[np.isnan(score) & ~advanced.duplicate] += np.uint8(_WARMING)
        if degraded:
            flags += np.uint8(_DEGRADED)
        flags[fresh] += ruled.explored * np.uint8(_EXPLORED) + ruled.failed * np.uint8(_FAILED)
        outside = self._outside(output, fresh)
        flags[list(outside)] += np.uint8(_OUTSIDE)
        return ScoredBatch(
            batch=batch,
            features=advanced.features,
            raw=raw,
            ranks=ranks,
            score=score,
            decision=decision,
            flags=flags.astype(np.uint8),
            first_offset=advanced.first_offset,
            segments=on_batch(output.segments, fresh, len(batch)),
            reasons=self._reasons(advanced.features, fresh, ruled, panel.said),
            stream_time=self.stream_time,
            labels_offset=self._labels_offsets(labels_before, labels, advanced),
            probability=probability,
            outside=outside,
            models=ruling.said,
            champion=None if self.models.champion is None else self.models.champion.version,
            rules={int(fresh[row]): listed for row, listed in ruled.outputs.items()},
            rules_versions=self.rules.versions,
            rule_failures=ruled.failures,
        )

    def plan_lessons(self, times: Ints, fresh: Ints, told: Ints, labels: LabelBatch | None) -> list[Lesson]:
        """What the ensemble learns from labels over n events, each lesson with the scored row that it precedes.

        ``times`` int64[n]; ``fresh`` int64[m], which of them are scored; ``told`` int64[n], how many of ``labels``
        became known before each event.
        """
        lessons = self.ensemble.lessons
        if lessons is None:
            return []
        due = lessons.plan(times, told, None if labels is None else labels.examples)
        if labels is not None and len(labels):
            lessons.offset = int(labels.offsets[-1]) + 1
        return [Lesson(int(np.searchsorted(fresh, one.row)), one.examples, one.now) for one in due]

    def advance(self, batch: EventBatch, labels: LabelBatch | None = None) -> Advanced:
        """Move feature state on; the vectors and what is known of each row, leaving the detectors alone."""
        return self._advance(batch, labels=labels, loaded=False, want_features=True)

    def features_only(self, batch: EventBatch, labels: LabelBatch | None = None) -> Floats:
        """Move feature state on and return the vectors, leaving the detectors alone."""
        return self.advance(batch, labels).features

    def label_requests(self, labels: LabelBatch) -> list[EntityRequest]:
        """State to load into the tables before ``apply_labels(labels, loaded=True)``."""
        return self.tables.missing(self.partition, self._no_events, labels)

    def apply_labels(self, labels: LabelBatch, *, loaded: bool = False, teach: bool = True) -> None:
        """Count changes of labels before anything else comes, whenever they were known.

        ``teach``: the ensemble learns from them too (in recovery it does so by itself, see :meth:`relearn`).
        """
        if not len(labels):
            return
        if not loaded:
            self._load(self.label_requests(labels))
        self.tables.apply_labels(self.partition, labels)
        self.labels_offset = int(labels.offsets[-1]) + 1
        if teach:
            self.note_labels(labels)

    def erasure_requests(self, erasure: Erasure) -> list[EntityRequest]:
        """State to load into the tables before ``erase(erasure, offset, loaded=True)``."""
        return self.tables.missing_entity(self.partition, erasure.entity, erasure.value)

    def erase(self, erasure: Erasure, offset: int, *, loaded: bool = False) -> None:
        """Forget the entity's state of this partition: ``erasure`` is the record at source offset ``offset``."""
        if not loaded:
            self._load(self.erasure_requests(erasure))
        self.tables.erase(self.partition, erasure.entity, erasure.value, offset, self.stream_time)

    def note_labels(self, labels: LabelBatch) -> None:
        """Teach the ensemble labels that became known before the next event."""
        lessons = self.ensemble.lessons
        if lessons is not None and labels.examples is not None and len(labels):
            for lesson in lessons.note(labels.examples):
                self.ensemble.learn(lesson.examples, lesson.now)
                self.learned.learn(lesson.examples)
            lessons.offset = int(labels.offsets[-1]) + 1

    def rebuild(self, batch: EventBatch, scores: Floats, decisions: Ints, repeated: Bools) -> None:
        """Apply events whose verdicts are known (recovery): feature state moves, nothing is scored.

        ``scores`` and ``decisions`` are those of the committed verdicts, row by row; ``repeated`` (bool[n]) which of
        these call their event a duplicate.
        """
        advanced = self._advance(batch, labels=None, loaded=False, want_features=False, repeated=repeated)
        fresh = np.flatnonzero(~(advanced.duplicate | repeated))
        self._remember(batch, fresh, scores, decisions.astype(np.int8))

    def relearn(
        self,
        x: Floats,
        times: Ints,
        keys: Sequence[str],
        lessons: Sequence[Lesson] = (),
        *,
        decided: tuple[Ints, Floats] | None = None,
    ) -> Floats:
        """Move the detectors on over vectors of committed verdicts, and labels among them (:meth:`plan_lessons`).

        ``times`` int64[n], event times; ``keys``, the verdicts' values of the key entity; ``decided``, the rows
        (int64[k]) that another score than the ensemble's decided (models in force, rules that moved it), and these
        scores. Returns the scores that the ensemble gave (again).
        """
        deciding = np.empty(len(x))

        def deciders(_: Floats, own: EnsembleOutput) -> Floats:
            deciding[:] = own.score
            if decided is not None:
                deciding[decided[0]] = decided[1]
            return deciding

        score = self.ensemble.step(x, lessons, self._may_teach(keys, None), decide=deciders).score
        self.learned.step(deciding, x, times, lessons)
        return score

    def snapshot(self) -> bytes:
        """What the partition has learned, without features; :meth:`restore` continues with equal bits."""
        if not self.learned:
            return self.ensemble.snapshot()
        ensemble = np.frombuffer(self.ensemble.snapshot(), dtype=np.uint8)
        return pack(merge({"decision": self.learned.snapshot()}, Arrays({"ensemble": ensemble})))

    def restore(self, blob: bytes) -> None:
        """Take over a snapshot. Raises ValueError when it is torn, foreign or of another pipeline."""
        if not self.learned:
            self.ensemble.restore(blob)
            return
        state = unpack(blob)
        ensemble = state.arrays.get("ensemble")
        if ensemble is None or ensemble.dtype != np.uint8:
            raise ValueError("snapshot holds no detectors: it is of a pipeline with other thresholds")
        self.ensemble.restore(ensemble.tobytes())
        self.learned.restore(child(state, "decision"))

    def fit(self, x: Floats) -> None:
        """Train the detectors on past vectors (float64[n, F])."""
        self.ensemble.fit(x)

    def _reasons(
        self, x: Floats, fresh: Ints, ruled: Ruled, said: Sequence[ModelSays]
    ) -> dict[int, list[Reason]]:
        """Why rows were decided as they were: what rules say, then why the model that decided made it an alert."""
        found: dict[int, list[Reason]] = {}
        for scores, rows in self.models.deciders(said, fresh[ruled.explain]):
            found |= explain(self.ensemble, self._names, x, rows, scores)
        for row, listed in ruled.reasons.items():
            found[int(fresh[row])] = listed + found.get(int(fresh[row]), [])
        return found

    def _may_teach(self, keys: Sequence[str], fresh: Ints | None) -> Bools | None:
        """Which of the rows ``fresh`` (None: all) the detectors may learn from."""
        guard = self.ensemble.guard
        if guard is None:
            return None
        return guard.admit(keys if fresh is None or len(fresh) == len(keys) else [keys[row] for row in fresh])

    def _load(self, requests: Sequence[EntityRequest]) -> None:
        if requests:
            self.tables.load(requests, self._fetch(requests))

    def _outside(self, output: EnsembleOutput, fresh: Ints) -> dict[int, list[str]]:
        """Rows of the batch with features far outside of recent traffic, and which these are."""
        rows = np.flatnonzero(output.outside.any(axis=1))
        return {
            int(fresh[row]): [self._names[i] for i in np.flatnonzero(output.outside[row])]
            for row in rows.tolist()
        }

    def _labels_offsets(self, before: int, labels: LabelBatch | None, advanced: Advanced) -> Ints | None:
        if not self.pipeline.follows_labels:
            return None
        if labels is None or not len(labels):
            return np.full(len(advanced.late), before, dtype=np.int64)
        after: Ints = np.concatenate([[before], labels.offsets + 1])
        return after[advanced.labels_applied]

    def _advance(
        self,
        batch: EventBatch,
        *,
        labels: LabelBatch | None,
        loaded: bool,
        want_features: bool,
        repeated: Bools | None = None,
    ) -> Advanced:
        if not loaded:
            self._load(self.requests(batch, labels))
        advanced = self.tables.advance(
            self.partition,
            batch,
            stream_time=self.stream_time,
            want_features=want_features,
            labels=labels,
            repeated=repeated,
        )
        self.stream_time = advanced.stream_time
        if labels is not None and len(labels):
            self.labels_offset = int(labels.offsets[-1]) + 1
        if want_features and self._expressions:
            columns = dict(batch.numbers)
            for i, name in enumerate(self._names):
                expression = self._expressions.get(name)
                if expression is not None:
                    advanced.features[:, i] = expression.evaluate(columns, batch.strings)
                columns[name] = advanced.features[:, i]
            advanced.features[advanced.duplicate] = np.nan
        return advanced

    def _copy_first_results(
        self,
        batch: EventBatch,
        advanced: Advanced,
        score: Floats,
        decision: np.ndarray[tuple[int], np.dtype[np.int8]],
    ) -> None:
        """Give duplicates the result of their first occurrence, in this batch or an earlier one."""
        for row in np.flatnonzero(advanced.duplicate).tolist():
            first = int(np.searchsorted(batch.offsets, advanced.first_offset[row]))
            if batch.offsets[first] == advanced.first_offset[row]:
                score[row], decision[row] = score[first], decision[first]
            else:
                score[row], decision[row] = advanced.first_score[row], advanced.first_decision[row]

    def _remember(
        self,
        batch: EventBatch,
        fresh: Ints,
        score: Floats,
        decision: np.ndarray[tuple[int], np.dtype[np.int8]],
    ) -> None:
        keys = batch.entities[self.pipeline.event.key]
        if len(fresh) < len(batch):
            keys = [keys[row] for row in fresh]
        self.tables.set_results(
            self.partition, keys, batch.offsets[fresh], score[fresh], decision[fresh].astype(np.int64)
        )
