"""What a model from the registry costs per event, beside the same pipeline without it, in one run and interleaved.

Three scorers of the default pipeline see the same events in turns: with the pipeline's own detectors only, with a
challenger that watches, and with champion and challenger. Measured is the processor time from the event's bytes to
the verdict's bytes (decode, features, scores, encode): all that a worker does but Kafka and Redis. The model is what
the trainer fits by default: 100 boosted trees. Run: ``python -m benchmarks.shadow``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.kernels import machine
from benchmarks.throughput_load import traffic
from detectors.model_fit import fit_model
from detectors.trained_model import TrainedModel
from domain.codec import EventCodec
from domain.examples import Examples
from domain.pipeline import Pipeline
from domain.privacy import Protector
from scoring.engine import PartitionScorer
from scoring.models_in_use import NO_MODELS, ModelsInUse
from scoring.verdicts import VerdictEncoder
from tidegate.defaults import default_pipeline
from tidegate.loading import load

RESULTS = Path(__file__).parent / "results" / "shadow.json"
BATCH = 1_000
WARM = 20
"""Batches before the first that is measured: detectors are ready then, and the model is trained on them."""
_LATER = 2**62


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of processor time an event (median over repetitions), the ratio to the same batch without models.

    As quartiles: a batch in which a detector is fitted again says nothing of a model.
    """

    name: str
    us: float
    ratio_low: float
    ratio_median: float
    ratio_high: float


class Way:
    """One scorer on its way through the events."""

    def __init__(self, pipeline: Pipeline, codec: EventCodec) -> None:
        self.scorer = PartitionScorer(pipeline)
        self._codec = codec
        self._encoder = VerdictEncoder(pipeline, code_version="bench")
        self._offset = 0

    def run(self, payloads: Sequence[bytes]) -> tuple[float, Examples]:
        """Seconds of processor time for these events, and what was said of them (labels still to come)."""
        began = time.process_time()
        events = [self._codec.decode(payload, received_at=_LATER) for payload in payloads]
        batch = self._codec.to_batch(events, range(self._offset, self._offset + len(events)))
        scored = self.scorer.process(batch)
        for verdict in self._encoder.verdicts(scored, partition=0, scored_at=1):
            self._encoder.encode(verdict)
        seconds = time.process_time() - began
        self._offset += len(events)
        nothing = np.full(len(batch), np.nan)
        return seconds, Examples(
            scored.features, nothing, scored.ranks, scored.score, batch.times, batch.times
        )


def trained(pipeline: Pipeline, said: Sequence[Examples]) -> TrainedModel:
    """A model of the default size; its labels follow the features, so that trees grow."""
    rows = Examples.joined(said)
    known = np.nan_to_num(rows.x)
    odd = np.abs(known - np.median(known, axis=0)) / (known.std(axis=0) + 1e-9)
    suspicion = odd.sum(axis=1) + np.random.default_rng(1).normal(size=len(rows))
    y = (suspicion > np.quantile(suspicion, 0.97)).astype(np.float64)
    labelled = Examples(rows.x, y, rows.ranks, rows.score, rows.times, rows.known_at)
    return fit_model(pipeline, labelled, now=int(rows.times[-1]), seed=1)


def measure(repetitions: int) -> tuple[list[Cost], TrainedModel]:
    """Each way once per repetition, on the same events."""
    pipeline = load(default_pipeline())
    codec = EventCodec(pipeline, Protector(b"k" * 32))
    payloads = [payload for _, payload in traffic(0, (WARM + repetitions) * BATCH)]
    ways = {name: Way(pipeline, codec) for name in ("own detectors", "challenger", "champion and challenger")}
    said: list[Examples] = []
    for number in range(WARM):
        part = payloads[number * BATCH : (number + 1) * BATCH]
        outputs = [way.run(part)[1] for way in ways.values()]
        said.append(outputs[0])
    model = trained(pipeline, said)
    # another model with the same work to do
    other = TrainedModel(
        model.features,
        model.detectors,
        model.members,
        model.weights,
        model.table,
        model.edges,
        model.chances,
        {"other": True},
    )
    uses = (NO_MODELS, ModelsInUse(1, None, model), ModelsInUse(1, model, other))
    for way, used in zip(ways.values(), uses, strict=True):
        way.scorer.models = used
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(WARM, WARM + repetitions):
        part = payloads[number * BATCH : (number + 1) * BATCH]
        for name, way in ways.items():
            seconds[name].append(way.run(part)[0])
    plain = seconds["own detectors"]
    costs = []
    for name, taken in seconds.items():
        ratios = [t / p for t, p in zip(taken, plain, strict=True)]
        us = statistics.median(taken) / BATCH * 1e6
        low, middle, high = statistics.quantiles(ratios, n=4)
        costs.append(Cost(name, us, low, middle, high))
    return costs, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=60)
    parser.add_argument("--json", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    costs, model = measure(arguments.repetitions)
    for cost in costs:
        print(f"{cost.name:26} {cost.us:6.1f} us an event, {cost.ratio_median:.3f} times the first")
    report = {
        "machine": machine(),
        "batch": BATCH,
        "repetitions": arguments.repetitions,
        "model_bytes": len(model.pack()),
        "ways": [asdict(cost) for cost in costs],
    }
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
