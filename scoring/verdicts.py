"""Scored columns as encoded verdicts and alerts: the hot end of the engine, one JSON text per event.

Parts that many verdicts share (versions, an abstaining detector) are encoded once and pasted in; vectors are
encoded from a generated record type, quicker than a dict.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np

from detectors.ensemble import Segment
from domain.batch import Floats
from domain.pipeline import Pipeline
from domain.verdict import DECISIONS, Alert, DetectorOutput, ModelOutput, Source, Verdict, Versions
from scoring.scored import ScoredBatch, flags_of

__all__ = ["VerdictEncoder", "decode_verdict"]

_decode = msgspec.json.Decoder(Verdict).decode


def decode_verdict(raw: bytes) -> Verdict:
    """A verdict from its JSON. Raises msgspec.ValidationError when it is none."""
    return _decode(raw)


def _record(name: str, fields: list[str], types: Any) -> Any:
    # a field name may be no Python identifier, so attributes are numbered and renamed on the wire
    attributes = [f"a{i}" for i in range(len(fields))]
    return msgspec.defstruct(
        name,
        [(a, types) for a in attributes],
        rename=dict(zip(attributes, fields, strict=True)),
        gc=False,
        frozen=True,
    )


class VerdictEncoder:
    """Encodes the verdicts of one pipeline."""

    def __init__(self, pipeline: Pipeline, *, code_version: str) -> None:
        self._pipeline = pipeline
        self.code_version = code_version
        self._topic = pipeline.topic("events")
        self._amount = pipeline.reviewing.amount
        self._features = _record("Features", list(pipeline.feature_names), float | None)
        self._detectors = _record("Detectors", [d.name for d in pipeline.detectors], Any)
        self._entities = _record("Entities", list(pipeline.entities), str)
        self._encoder = msgspec.json.Encoder()
        self._versions_cache: dict[Any, msgspec.Raw] = {}

    def verdicts(self, scored: ScoredBatch, *, partition: int, scored_at: int) -> list[Verdict]:
        """Verdict records, to be encoded as they are.

        Their ``features``, ``detectors``, ``entities`` and ``versions`` hold encoder-friendly stand-ins; for
        records to look into, decode the encoded form with :func:`decode_verdict`.
        """
        batch = scored.batch
        features = _vectors(scored.features, self._features)
        entities = list(map(self._entities, *(batch.entities[name] for name in self._pipeline.entities)))
        said, versions = self._said(scored)
        models = self._models(scored)
        offsets = batch.offsets.tolist()
        firsts = scored.first_offset.tolist()
        score = scored.score
        scores = _nullable(score)
        chances: list[Any] = (
            [msgspec.UNSET] * len(batch) if scored.probability is None else _nullable(scored.probability)
        )
        topic, reasons, outside, rules = self._topic, scored.reasons, scored.outside, scored.rules
        none: list[Any] = []
        labels: list[Any] = (
            [msgspec.UNSET] * len(batch) if scored.labels_offset is None else scored.labels_offset.tolist()
        )
        return [
            Verdict(
                id=event_id,
                event_time=time,
                scored_at=scored_at,
                entities=entity,
                score=value,
                decision=DECISIONS[code],
                reasons=reasons.get(row, none),
                features=vector if first < 0 else None,
                detectors=detectors,
                flags=flags_of(mask),
                versions=version,
                source=Source(topic, partition, offset),
                first=None if first < 0 else Source(topic, partition, first),
                labels_offset=label,
                probability=chance,
                out_of_range=outside.get(row, msgspec.UNSET),
                models=model,
                rules=rules.get(row, msgspec.UNSET),
            )
            for row, (
                event_id,
                time,
                entity,
                value,
                code,
                vector,
                detectors,
                mask,
                version,
                offset,
                first,
                label,
                chance,
                model,
            ) in (
                enumerate(
                    zip(
                        batch.ids,
                        batch.times.tolist(),
                        entities,
                        scores,
                        scored.decision.tolist(),
                        features,
                        said,
                        scored.flags.tolist(),
                        versions,
                        offsets,
                        firsts,
                        labels,
                        chances,
                        models,
                        strict=True,
                    )
                )
            )
        ]

    def encode(self, record: Verdict | Alert) -> bytes:
        """JSON of one verdict or alert."""
        return self._encoder.encode(record)

    def amount(self, scored: ScoredBatch, row: int) -> float | msgspec.UnsetType | None:
        """What the event of ``row`` is about, for its alert; None where it says nothing of it."""
        if self._amount is None:
            return msgspec.UNSET
        value = float(scored.batch.numbers[self._amount][row])
        return value if np.isfinite(value) else None

    def alert(self, verdict: Verdict, amount: float | msgspec.UnsetType | None = msgspec.UNSET) -> Alert:
        """The alert that goes with a verdict of ``review`` or ``block``."""
        return Alert(
            id=verdict.id,
            event_time=verdict.event_time,
            scored_at=verdict.scored_at,
            entities=verdict.entities,
            score=verdict.score,
            decision=verdict.decision,
            reasons=verdict.reasons,
            flags=verdict.flags,
            versions=verdict.versions,
            source=verdict.source,
            probability=verdict.probability,
            out_of_range=verdict.out_of_range,
            amount=amount,
            rules=verdict.rules,
        )

    def _said(self, scored: ScoredBatch) -> tuple[list[Any], list[Any]]:
        """Per row: what the detectors said, and the encoded versions."""
        n = len(scored)
        versions: list[Any] = [None] * n
        columns: list[list[Any]] = [[] for _ in self._pipeline.detectors]
        segments = scored.segments or [Segment(0, n, {}, {})]
        for segment in segments:
            start, stop = segment.start, segment.stop
            versions[start:stop] = [
                self._versions(segment.versions, scored.champion, scored.rules_versions)
            ] * (stop - start)
            for i, spec in enumerate(self._pipeline.detectors):
                reason = segment.abstained.get(spec.name)
                raw, ranks = scored.raw[start:stop, i], scored.ranks[start:stop, i]
                if reason is not None and np.isnan(raw).all():
                    columns[i] += [DetectorOutput(None, None, reason)] * (stop - start)
                else:
                    # a raw score that is not finite is encoded as null by the encoder itself
                    columns[i] += [
                        DetectorOutput(value, rank, reason)
                        for value, rank in zip(raw.tolist(), ranks.tolist(), strict=True)
                    ]
        if not columns:
            return [self._detectors()] * n, versions
        return list(map(self._detectors, *columns)), versions

    def _models(self, scored: ScoredBatch) -> list[Any]:
        """Per row: what each model from the registry said, and the ensemble."""
        if not scored.models:
            return [msgspec.UNSET] * len(scored)
        # not a dict: the keys of a generated record are encoded quicker
        record = _model_record(tuple(one.version for one in scored.models))
        columns = [
            map(
                partial(ModelOutput, one.role),
                _nullable(one.score),
                _nullable(one.probability),
                one.decided.tolist(),
            )
            for one in scored.models
        ]
        found: list[Any] = list(map(record, *columns))
        # duplicates, and rows of the ensemble alone whose score no rule moved
        for row in np.flatnonzero(~np.logical_or.reduce([one.decided for one in scored.models])).tolist():
            found[row] = msgspec.UNSET
        return found

    def _versions(
        self, models: dict[str, str], champion: str | None, rules: tuple[str, str] | None
    ) -> msgspec.Raw:
        if champion is not None:
            models = {**models, "champion": champion}
        key = (rules, *models.items())
        found = self._versions_cache.get(key)
        if found is None:
            if len(self._versions_cache) > 100:
                self._versions_cache.clear()
            found = msgspec.Raw(
                self._encoder.encode(
                    Versions(
                        code=self.code_version,
                        pipeline=self._pipeline.version,
                        pipeline_digest=self._pipeline.digest,
                        models=models,
                        rules=None if rules is None else rules[0],
                        lists=None if rules is None else rules[1],
                    )
                )
            )
            self._versions_cache[key] = found
        return found


@lru_cache(maxsize=32)
def _model_record(versions: tuple[str, ...]) -> Any:
    return _record("Models", list(versions), Any)


def _nullable(column: Floats) -> list[float | None]:
    values: list[float | None] = column.tolist()
    for row in np.flatnonzero(np.isnan(column)).tolist():
        values[row] = None
    return values


def _vectors(features: Floats, record: Any) -> list[Any]:
    """One record per row; the encoder writes NaN as null."""
    return [record(*row) for row in features.tolist()]
