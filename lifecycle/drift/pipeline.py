"""All drift monitors of a pipeline: verdicts and labels in, alarms out.

Two banks. ``traffic``: each feature, the score, and the decision (0 allow, 1 review, 2 block), hour by hour.
``labels``: the error, day by day, of days whose labels are mature: of each event that turned out to be what the
pipeline looks for, the share of traffic that looked *more* suspicious when it was scored (1 - score; its mean is
1 - AUC). It does not depend on thresholds, nor on how many labels say 0.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

import msgspec
import numpy as np

from detectors.arrays import Arrays, child, merge, pack, unpack
from domain.batch import Floats, Ints
from domain.drift_record import DriftAlarm, Evidence, Exceeded, alarm_id
from domain.label_codec import JoinedLabel
from domain.pipeline import Pipeline
from lifecycle.drift.bank import Bank, Rule
from lifecycle.drift.gathering import Keys
from lifecycle.drift.settings import DriftSettings
from lifecycle.drift.state import restore_bank, snapshot_bank
from lifecycle.drift.watch import Moved

__all__ = ["ALARMS_KEPT", "BANKS", "PipelineDrift", "columns_of", "settings_digest"]

BANKS = ("traffic", "labels")
ALARMS_KEPT = 100
"""In the state, to be shown; the topic keeps all."""
_ERROR = "error"


def columns_of(pipeline: Pipeline) -> tuple[str, ...]:
    """Names of the traffic bank's columns."""
    return (*(f"feature:{name}" for name in pipeline.feature_names), "score", "decision")


def settings_digest(settings: DriftSettings) -> str:
    """Names the settings: another digest, another reference."""
    return hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:16]


class PipelineDrift:
    """See the module. Raises ValueError for a state that is not this pipeline's under these settings."""

    def __init__(self, pipeline: Pipeline, settings: DriftSettings) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.columns = {"traffic": columns_of(pipeline), "labels": (_ERROR,)}
        everything = sum(len(names) for names in self.columns.values())
        cadences = {"traffic": settings.traffic, "labels": settings.labels}
        self.banks = {
            name: Bank(
                len(self.columns[name]),
                cadences[name],
                Rule(
                    # the declared rate, shared out by columns
                    per_month=settings.per_month * len(self.columns[name]) / everything,
                    simulations=settings.simulations,
                    cool_down=settings.cool_down,
                    seed=settings.seed,
                ),
            )
            for name in BANKS
        }
        self.alarms: deque[DriftAlarm] = deque(maxlen=ALARMS_KEPT)
        self.as_of: int | None = None
        self._identity = [pipeline.digest, settings_digest(settings)]

    def verdicts(self, times: Ints, partitions: Ints, offsets: Ints, x: Floats) -> None:
        """Take verdicts: event times (UTC microseconds), places, and ``x`` in the order of :func:`columns_of`."""
        bank = self.banks["traffic"]
        bank.add(times // bank.cadence.cell, _mixed(partitions, offsets), x)

    def labels(self, labels: Sequence[JoinedLabel]) -> None:
        """Take changes of labels; those of days that are judged already are left out and counted."""
        rows: list[tuple[int, int, float, float]] = []
        for label in labels:
            score = None if label.said is None else label.said.score
            weight = (label.label == 1) - (label.previous == 1)
            if score is not None and weight:
                rows.append((label.event_time, _named(label.id), 1.0 - score, float(weight)))
        if rows:
            bank = self.banks["labels"]
            times, keys, errors, weights = zip(*rows, strict=True)
            bank.add(
                np.array(times, dtype=np.int64) // bank.cadence.cell,
                np.array(keys, dtype=np.uint64),
                np.array(errors)[:, None],
                np.array(weights),
            )

    def close(self, traffic: int | None, labels: int | None) -> list[DriftAlarm]:
        """Judge what is complete when verdicts are read up to event time ``traffic`` and labels up to ``labels``.

        Returns new alarms, in the order of cells and columns.
        """
        if traffic is None:
            return []
        self.as_of = max(traffic, self.as_of or traffic)
        ends = {"traffic": self.as_of - self.settings.lateness}
        if labels is not None:
            # a label may only be missed after both verdicts and labels have passed its maturity
            ends["labels"] = min(self.as_of, labels) - self.settings.maturity
        found = [
            self._alarm(name, moved)
            for name, end in ends.items()
            for moved in self.banks[name].close_until(end // self.banks[name].cadence.cell)
        ]
        self.alarms.extend(found)
        return found

    def snapshot(self) -> bytes:
        """Everything, compressed."""
        own = Arrays(
            {},
            {
                "identity": self._identity,
                "as_of": self.as_of,
                "alarms": [msgspec.json.encode(alarm).decode() for alarm in self.alarms],
            },
        )
        state = merge({name: snapshot_bank(bank) for name, bank in self.banks.items()}, own)
        return zlib.compress(pack(state), 6)

    def restore(self, blob: bytes) -> None:
        """Go on from :meth:`snapshot`. Raises ValueError when it is another pipeline's, or garbled."""
        try:
            state = unpack(zlib.decompress(blob))
        except zlib.error as error:
            raise ValueError(f"the drift state can not be read: {error}") from error
        if state.scalars.get("identity") != self._identity:
            raise ValueError("the drift state is of another pipeline version or of other settings")
        for name, bank in self.banks.items():
            restore_bank(bank, child(state, name))
        self.as_of = state.scalars["as_of"]
        decode = msgspec.json.Decoder(DriftAlarm).decode
        self.alarms = deque((decode(text) for text in state.scalars["alarms"]), maxlen=ALARMS_KEPT)

    def _alarm(self, name: str, moved: Moved) -> DriftAlarm:
        bank = self.banks[name]
        watch = bank.watch
        assert watch is not None  # noqa: S101  (only a watch raises alarms)
        cell, reference = bank.cadence.cell, watch.reference
        column = self.columns[name][moved.column]
        raised_at = (moved.cell + 1) * cell
        edges = reference.edges[moved.column]
        bins = len(edges) + 2
        expected, current = (
            part[:bins] / max(float(part.sum()), 1.0) for part in (moved.expected, moved.current)
        )
        monitors = [Exceeded(monitor=k, statistic=s, threshold=t) for k, s, t in moved.exceeded]
        shift = None if np.isnan(moved.shift) else moved.shift
        return DriftAlarm(
            id=alarm_id(self.pipeline.name, reference.id, column, raised_at),
            pipeline=self.pipeline.name,
            pipeline_digest=self.pipeline.digest,
            reference=reference.id,
            column=column,
            raised_at=raised_at,
            since=moved.since * cell,
            window=(raised_at - bank.cadence.window * cell, raised_at),
            shift=shift,
            monitors=monitors,
            evidence=Evidence(
                edges=edges.tolist(),
                reference=expected[1:].tolist(),
                current=current[1:].tolist(),
                reference_missing=float(expected[0]),
                current_missing=float(current[0]),
                events=round(float(moved.current.sum())),
            ),
            text=_text(column, shift, float(current[0] - expected[0]), monitors),
        )


def _text(column: str, shift: float | None, missing: float, monitors: Sequence[Exceeded]) -> str:
    parts = [f"{m.monitor} {m.statistic:.3g} (limit {m.threshold:.3g})" for m in monitors]
    moved = "no values" if shift is None else f"mean rank {shift:+.3f}"
    gone = f", missing {missing:+.1%}" if abs(missing) >= 0.001 else ""
    return f"{column} moved: {moved}{gone}; {', '.join(parts)}"


def _mixed(partitions: Ints, offsets: Ints) -> Keys:
    """Hashes of places (the finaliser of SplitMix64): evenly spread, the same wherever they are computed."""
    z = (partitions.astype(np.uint64) << np.uint64(48)) ^ offsets.astype(np.uint64)
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = z ^ (z >> np.uint64(31))
    return mixed


def _named(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
