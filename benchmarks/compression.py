"""What quantised, pruned and distilled models cost and save: bytes, microseconds a row, average precision.

Models of ``examples/handbook/labelled.yaml`` fitted to the labels of the Handbook's split and asked about its
test week. Every variant scores the same rows in turns, in batches of 500. Run as
``python -m benchmarks.compression``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.handbook_data import DELAY, FIRST_DAY, RECIPE, EngineRows, engine_rows
from detectors.kinds import build
from detectors.label_trained import LabelTrained
from domain.batch import Floats
from domain.pipeline import DetectorSpec, Pipeline
from lifecycle.evaluation import DAY, ranking
from tidegate.loading import load

__all__ = ["VARIANTS", "Variant", "compare"]

VARIANTS: dict[str, dict[str, float | int] | None] = {
    "as fitted": None,
    "16 bits": {"quantize": 16},
    "8 bits": {"quantize": 8},
    "pruned 1 %": {"prune": 0.01},
    "pruned 5 %": {"prune": 0.05},
    "pruned 1 %, 8 bits": {"prune": 0.01, "quantize": 8},
    "distilled to 30": {"distil": 30},
    "distilled to 30, 8 bits": {"distil": 30, "quantize": 8},
}
TRAIN, TEST = 115, 129
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Variant:
    """One model: bytes of its arrays, median microseconds a row, average precision (mean over seeds)."""

    model: str
    variant: str
    nbytes: int
    microseconds: float
    average_precision: float
    loss: float
    """Of average precision, against the model as fitted."""


def compare(pipeline: Pipeline, rows: EngineRows, seeds: Sequence[int], repetitions: int) -> list[Variant]:
    """Every variant of each fitted detector of the pipeline."""
    found = []
    for spec in pipeline.detectors:
        if spec.kind in ("random_forest", "gradient_boosting"):
            found += _compare(pipeline, spec, rows, seeds, repetitions)
    return found


def _compare(
    pipeline: Pipeline, spec: DetectorSpec, rows: EngineRows, seeds: Sequence[int], repetitions: int
) -> list[Variant]:
    names = pipeline.feature_names
    seen = names if spec.features is None else spec.features
    columns = [names.index(name) for name in seen]
    train, test = rows.between(TRAIN, 7), rows.between(TEST, 7)
    x, labels = np.ascontiguousarray(rows.x[test][:, columns]), rows.labels[test]
    precision: dict[str, list[float]] = {name: [] for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    sizes: dict[str, int] = {}
    for seed in seeds:
        models = {}
        for name, compress in VARIANTS.items():
            params = dict(spec.params) if compress is None else {**spec.params, "compress": compress}
            detector = build(DetectorSpec(name=spec.name, kind=spec.kind, params=params), seen, seed)
            if not isinstance(detector, LabelTrained):
                raise SystemExit(f"{spec.name}: {spec.kind} is not fitted to labels")
            y = rows.labels[train].astype(np.float64)
            known_at = rows.times[train] + DELAY
            detector.learn_labels(rows.x[train][:, columns], y, known_at, (FIRST_DAY + TEST) * DAY)
            precision[name].append(ranking(detector.score(x), labels).average_precision)
            sizes[name] = detector.model_bytes
            models[name] = detector
        for _ in range(repetitions):
            for name, detector in models.items():
                times[name].append(_microseconds(detector, x[:20_000]))
    means = {name: float(np.mean(values)) for name, values in precision.items()}
    return [
        Variant(
            spec.kind,
            name,
            sizes[name],
            statistics.median(times[name]),
            means[name],
            means["as fitted"] - means[name],
        )
        for name in VARIANTS
    ]


def _microseconds(detector: LabelTrained, x: Floats) -> float:
    start = time.perf_counter_ns()
    for at in range(0, len(x), _BATCH):
        detector.score(x[at : at + _BATCH])
    return (time.perf_counter_ns() - start) / 1e3 / len(x)


def main(arguments_given: Sequence[str] | None = None) -> None:
    """Measure; the arguments are those of the command line unless given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args(arguments_given)
    pipeline = load(RECIPE)
    found = compare(pipeline, engine_rows(pipeline), range(arguments.seeds), arguments.repetitions)
    if arguments.json:
        print(json.dumps([asdict(one) for one in found]))
        return
    table = Table(title=f"Compressed models: means over {arguments.seeds} seeds, batches of {_BATCH}")
    for column in ("model", "variant", "kB", "us a row", "average precision", "loss"):
        table.add_column(column, justify="left" if column in ("model", "variant") else "right")
    for one in found:
        cells = (f"{one.nbytes / 1e3:.0f}", f"{one.microseconds:.2f}", f"{one.average_precision:.4f}")
        table.add_row(one.model, one.variant, *cells, f"{one.loss:+.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
