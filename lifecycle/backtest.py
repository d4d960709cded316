"""The worker's engine over a file of past events, without Kafka: verdicts to Parquet, arrays for the metrics.

Events are processed in file order, as a topic would give them. Memory holds the engine's state, the last
``fit_rows`` feature vectors, and some 40 bytes an event for the metrics; verdicts go out chunk by chunk.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from domain.batch import EventBatch, Floats, Ints
from domain.label import LabelBatch
from domain.pipeline import Pipeline
from domain.verdict import Flag
from lifecycle.backtest_output import VerdictFile
from lifecycle.event_files import FileChunk, RejectedRow
from lifecycle.known_labels import History, KnownLabels
from scoring.scored import FLAG_BITS, ScoredBatch

__all__ = ["BacktestPlan", "BacktestRun", "Scorer", "run_backtest"]

_EXAMPLES = 20
"""Refused rows kept with their detail; the others are only counted."""


class Scorer(Protocol):
    """One partition's engine; :class:`scoring.engine.PartitionScorer` is the one there is."""

    def process(self, batch: EventBatch, *, labels: LabelBatch | None = None) -> ScoredBatch:
        """Score a batch and move all state on, over labels that become known on the way."""
        ...

    def features_only(self, batch: EventBatch, labels: LabelBatch | None = None) -> Floats:
        """Move feature state on and return the vectors, leaving the detectors alone."""
        ...

    def fit(self, x: Floats) -> None:
        """Train the detectors on past vectors."""
        ...


@dataclass(frozen=True, slots=True)
class BacktestPlan:
    """When detectors are trained; times and durations in microseconds.

    train_until    rows before the first one at or after this time only move features, and train the detectors
                   at that moment; None: detectors learn as they go, like in a new worker
    retrain_every  train again whenever so much event time has passed; None: never
    fit_rows       at most so many of the newest feature vectors are trained on
    label_delay    how long after an event its label is known to features, where no history says when
    """

    train_until: int | None = None
    retrain_every: int | None = None
    fit_rows: int = 200_000
    label_delay: int = 7 * 86_400_000_000


@dataclass(frozen=True, slots=True)
class BacktestRun:
    """What happened, and the scored rows (those in the verdict file, in its order) as arrays.

    times, score, labels (1, 0, NaN unknown), cards (key entity as 0, 1, ...), decision, flags: one per verdict;
    likewise probability (NaN: none yet), None where nothing learns from labels.
    ``fits``: (event time, rows trained on) of each training.
    """

    rows: int
    trained_only: int
    rejected: Mapping[str, int]
    rejected_examples: tuple[RejectedRow, ...]
    out_of_order: int
    fits: tuple[tuple[int, int], ...]
    times: Ints
    score: Floats
    labels: Floats
    cards: Ints
    decision: npt.NDArray[np.int8]
    flags: npt.NDArray[np.uint8]
    probability: Floats | None = None

    @property
    def duplicates(self) -> npt.NDArray[np.bool_]:
        """bool[n]: repeats of an event already scored; they are left out of the metrics."""
        return _duplicates(self.flags)


class _Memory:
    """The newest feature vectors of one partition."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: deque[Floats] = deque()
        self._held = 0

    def add(self, x: Floats, duplicate: npt.NDArray[np.bool_]) -> None:
        part = x[~duplicate].copy()
        self._parts.append(part)
        self._held += len(part)
        while self._held - len(self._parts[0]) >= self._limit:
            self._held -= len(self._parts.popleft())

    def rows(self) -> Floats | None:
        if not self._held:
            return None
        joined: Floats = np.concatenate(list(self._parts))[-self._limit :]
        return joined


class _Trainer:
    """Cuts the stream where a training is due, and trains."""

    def __init__(self, plan: BacktestPlan, scorers: list[Scorer]) -> None:
        self._plan = plan
        self._scorers = scorers
        self._remember = plan.train_until is not None or plan.retrain_every is not None
        self._memories = [_Memory(plan.fit_rows) for _ in scorers]
        self._due = plan.train_until
        self.warming = plan.train_until is not None
        self.fits: list[tuple[int, int]] = []

    def keep(self, partition: int, x: Floats, duplicate: npt.NDArray[np.bool_]) -> None:
        if self._remember:
            self._memories[partition].add(x, duplicate)

    def rows_before_training(self, times: Ints) -> int:
        """How many of the coming rows go before the next training (all of them: none is due)."""
        if self._due is None and self._plan.retrain_every is not None and len(times):
            self._due = int(times[0]) + self._plan.retrain_every
        if self._due is None:
            return len(times)
        due = np.flatnonzero(times >= self._due)
        return int(due[0]) if len(due) else len(times)

    def train(self, now: int) -> None:
        trained = 0
        for scorer, memory in zip(self._scorers, self._memories, strict=True):
            x = memory.rows()
            if x is not None:
                scorer.fit(x)
                trained += len(x)
        self.fits.append((now, trained))
        self.warming = False
        self._due = None if self._plan.retrain_every is None else now + self._plan.retrain_every


def run_backtest(
    pipeline: Pipeline,
    chunks: Iterable[FileChunk],
    engine_factory: Callable[[int], Scorer],
    out: Path,
    plan: BacktestPlan,
    *,
    labels: Mapping[str, float] | None = None,
    histories: Mapping[str, History] | None = None,
    partitions: int = 1,
    place: Callable[[bytes], int] | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> BacktestRun:
    """Score the events of ``chunks`` and write their verdicts to ``out`` (.parquet, replaced when complete).

    ``engine_factory`` makes the engine of a partition. Labels come from the chunks, or by event id from
    ``labels``. They feed the pipeline's features as they become known: ``plan.label_delay`` after their event,
    or when ``histories`` (by event id) say. With several ``partitions``, ``place`` says in which one a Kafka key
    lives, and each chunk is processed partition after partition. ``progress`` is told the number of rows of
    each chunk.
    """
    if partitions > 1 and place is None:
        raise ValueError("several partitions need a rule that places keys")
    scorers = [engine_factory(partition) for partition in range(partitions)]
    trainer = _Trainer(plan, scorers)
    told = (
        KnownLabels(pipeline, plan.label_delay, histories, learn=pipeline.learns)
        if pipeline.follows_labels
        else None
    )
    codes: dict[str, int] = {}
    rejected: Counter[str] = Counter()
    examples: list[RejectedRow] = []
    kept: list[tuple[Ints, Floats, Floats, Ints, npt.NDArray[np.int8], npt.NDArray[np.uint8], Floats]] = []
    rows = trained_only = out_of_order = 0
    with VerdictFile(out, pipeline) as file:
        for chunk in chunks:
            rows += chunk.rows
            out_of_order += chunk.out_of_order
            rejected.update(str(r.reason) for r in chunk.rejected)
            examples.extend(chunk.rejected[: _EXAMPLES - len(examples)])
            known = _labels(chunk, labels)
            where = np.array([place(key) for key in chunk.keys], dtype=np.int64) if place else None
            start = 0
            while start < len(chunk.batch):
                stop = start + trainer.rows_before_training(chunk.batch.times[start:])
                if stop == start:
                    trainer.train(int(chunk.batch.times[start]))
                    continue
                for partition, index in _by_partition(start, stop, where, partitions):
                    whole = _take(chunk.batch, index)
                    for first, end, due in _steps(told, partition, whole, known[index]):
                        chosen = index[first:end]
                        part = _take(chunk.batch, chosen)
                        if trainer.warming:
                            x = scorers[partition].features_only(part, due)
                            repeated = np.asarray(np.isnan(x).all(axis=1), dtype=np.bool_)
                            trainer.keep(partition, x, repeated)
                            if told is not None:
                                told.said(partition, part.offsets, x)
                            trained_only += len(part)
                            continue
                        scored = scorers[partition].process(part, labels=due)
                        trainer.keep(partition, scored.features, _duplicates(scored.flags))
                        if told is not None:
                            own = scored.models[0].score if scored.models else None
                            told.said(
                                partition, part.offsets, scored.features, scored.ranks, scored.score, own
                            )
                        file.write(scored)
                        keys = part.entities[pipeline.event.key]
                        cards = np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.int64)
                        nothing = np.full(len(part), np.nan)
                        kept.append(
                            (
                                part.times,
                                scored.score,
                                known[chosen],
                                cards,
                                scored.decision,
                                scored.flags,
                                nothing if scored.probability is None else scored.probability,
                            )
                        )
                start = stop
            progress(chunk.rows)
    columns = zip(*kept, strict=True) if kept else [[] for _ in range(7)]
    times, score, label, card, decision, flags, probability = (list(column) for column in columns)
    return BacktestRun(
        rows=rows,
        trained_only=trained_only,
        rejected=dict(sorted(rejected.items())),
        rejected_examples=tuple(examples),
        out_of_order=out_of_order,
        fits=tuple(trainer.fits),
        times=_joined(times, np.int64),
        score=_joined(score, np.float64),
        labels=_joined(label, np.float64),
        cards=_joined(card, np.int64),
        decision=_joined(decision, np.int8),
        flags=_joined(flags, np.uint8),
        probability=_joined(probability, np.float64) if pipeline.learns else None,
    )


def _duplicates(flags: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = (flags & np.uint8(FLAG_BITS[Flag.DUPLICATE])) != 0
    return result


def _joined(parts: list[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


def _labels(chunk: FileChunk, labels: Mapping[str, float] | None) -> Floats:
    if chunk.labels is not None:
        return chunk.labels
    if labels is None:
        return np.full(len(chunk.batch), np.nan)
    return np.array([labels.get(id_, np.nan) for id_ in chunk.batch.ids], dtype=np.float64)


def _steps(
    told: KnownLabels | None, partition: int, batch: EventBatch, labels: Floats
) -> Iterable[tuple[int, int, LabelBatch | None]]:
    return [(0, len(batch), None)] if told is None else told.steps(partition, batch, labels)


def _by_partition(
    start: int, stop: int, where: Ints | None, partitions: int
) -> Iterable[tuple[int, npt.NDArray[np.intp]]]:
    index = np.arange(start, stop)
    if where is None:
        return [(0, index)]
    split = [(p, index[where[start:stop] == p]) for p in range(partitions)]
    return [(p, rows) for p, rows in split if len(rows)]


def _take(batch: EventBatch, index: npt.NDArray[np.intp]) -> EventBatch:
    if len(index) == len(batch):
        return batch
    rows = index.tolist()
    return EventBatch(
        ids=[batch.ids[i] for i in rows],
        times=batch.times[index],
        offsets=batch.offsets[index],
        entities={name: [values[i] for i in rows] for name, values in batch.entities.items()},
        numbers={name: values[index] for name, values in batch.numbers.items()},
        strings={name: [values[i] for i in rows] for name, values in batch.strings.items()},
    )
