"""Detection quality without labels: four public files in their native order, scored row by row.

Files of ADBench (Han, Hu, Huang, Jiang, Zhao, NeurIPS 2022): http, smtp, shuttle and cover. One pass, prequential: each
row is scored by what the rows before it taught, then learned. What is measured is the service's own default ensemble
and its members, through the same code that scores live traffic. Labels are read only to compute the metrics. A
row without a score (warming up) counts as the least suspicious of all; the table says how many there were. The plain
forest to beat was measured only where it had a score, so the metrics of all rows but the first sixtieth stand beside.

Each file is run once per seed; a result is the mean over seeds, and the spread is their standard deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from detectors.ensemble import Ensemble
from domain.batch import Floats
from domain.pipeline import Decision, DetectorSpec, EventSpec, Pipeline, ValueFeature
from lifecycle.evaluation import Bools, ranking

__all__ = ["DEFAULT", "FILES", "PUBLISHED", "Quality", "data_file", "run", "table"]

FILES = {"http": "16_http", "smtp": "34_smtp", "shuttle": "32_shuttle", "cover": "10_cover"}
DEFAULT = (
    DetectorSpec(name="hst", kind="half_space_trees"),
    DetectorSpec(name="iforest", kind="isolation_forest"),
)
"""The detectors of the default pipeline, all with default parameters."""
PUBLISHED = {
    "http": {"river_hst": (0.301, 0.005), "plain_forest": (0.997, 0.696)},
    "smtp": {"river_hst": (0.733, 0.005), "plain_forest": (0.907, 0.004)},
    "shuttle": {"river_hst": (0.970, 0.646), "plain_forest": (0.997, 0.973)},
    "cover": {"river_hst": (0.674, 0.025), "plain_forest": (0.940, 0.251)},
}
"""AUC and average precision to beat: River's half-space trees with defaults, and a plain isolation forest of 100 trees
refitted 60 times on a uniform reservoir of 4,096 past rows."""

_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class Quality:
    """One member on one file: means over seeds and their spread (standard deviation), rows without a score.

    ``settled``: the same without the first sixtieth of the rows.
    """

    file: str
    member: str
    auc: float
    auc_spread: float
    average_precision: float
    average_precision_spread: float
    auc_settled: float
    average_precision_settled: float
    rows: int
    unscored: int
    seeds: int
    microseconds_per_row: float


def data_file(name: str) -> Path:
    """The file of ``name``. Raises SystemExit with the remedy when it is absent."""
    root = Path(os.environ.get("TIDEGATE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root / "adbench" / f"{FILES[name]}.npz"
    if not path.exists():
        raise SystemExit(f"{path} is absent; set TIDEGATE_DATA to the folder that holds adbench/{path.name}")
    return path


def load(name: str) -> tuple[Floats, Bools]:
    """Rows (float64[n, features]) in native order, and which of them are anomalies."""
    with np.load(data_file(name), allow_pickle=False) as stored:
        return stored["X"].astype(np.float64), stored["y"] == 1


def pipeline(width: int, seed: int, detectors: Sequence[DetectorSpec]) -> Pipeline:
    """A pipeline over ``width`` plain features."""
    return Pipeline(
        name="adbench",
        version=1,
        event=EventSpec(
            id="id", time="at", key="key", max_lateness=0, max_future=0, dedupe_window=0, fields=()
        ),
        features=tuple(ValueFeature(name=f"x{i}", field=f"x{i}") for i in range(width)),
        detectors=tuple(detectors),
        decision=Decision(),
        seed=seed,
        digest="adbench",
    )


def prequential(x: Floats, seed: int, detectors: Sequence[DetectorSpec]) -> dict[str, Floats]:
    """Scores of all rows by member (raw), and of the whole as ``ensemble``; NaN where there is none."""
    ensemble = Ensemble(pipeline(x.shape[1], seed, detectors))
    parts = [ensemble.step(x[at : at + _BATCH]) for at in range(0, len(x), _BATCH)]
    raw = np.concatenate([part.raw for part in parts])
    scores = {name: raw[:, i] for i, name in enumerate(ensemble.names)}
    scores["ensemble"] = np.concatenate([part.score for part in parts])
    return scores


def run(
    files: Iterable[str] = FILES, seeds: Iterable[int] = range(5), detectors: Sequence[DetectorSpec] = DEFAULT
) -> list[Quality]:
    """Measure; one record per file and member."""
    records = []
    for name in files:
        x, labels = load(name)
        found: dict[str, list[tuple[float, ...]]] = {}
        first = len(x) // 60
        started = time.perf_counter()
        tried = list(seeds)
        for seed in tried:
            for member, scores in prequential(x, seed, detectors).items():
                result = ranking(scores, labels)
                later = ranking(scores[first:], labels[first:])
                found.setdefault(member, []).append(
                    (
                        result.auc,
                        result.average_precision,
                        later.auc,
                        later.average_precision,
                        result.abstained,
                    )
                )
        cost = (time.perf_counter() - started) / len(tried) / len(x) * 1e6
        for member, results in found.items():
            auc, precision, auc_later, precision_later, unscored = np.array(results).T
            records.append(
                Quality(
                    name,
                    member,
                    float(auc.mean()),
                    float(auc.std()),
                    float(precision.mean()),
                    float(precision.std()),
                    float(auc_later.mean()),
                    float(precision_later.mean()),
                    len(x),
                    int(unscored.max()),
                    len(tried),
                    cost,
                )
            )
    return records


def table(records: Sequence[Quality]) -> Table:
    """The records beside the numbers to beat."""
    shown = Table(title="ADBench in native order, unsupervised, prequential: mean (spread) over seeds")
    for column in (
        "file",
        "member",
        "AUC",
        "average precision",
        "settled",
        "unscored",
        "plain forest",
        "River's trees",
    ):
        shown.add_column(column, justify="left" if column in ("file", "member") else "right")
    for one in records:
        published = [
            f"{auc:.3f} / {ap:.3f}"
            for auc, ap in (PUBLISHED[one.file][k] for k in ("plain_forest", "river_hst"))
        ]
        shown.add_row(
            one.file,
            one.member,
            f"{one.auc:.4f} ({one.auc_spread:.4f})",
            f"{one.average_precision:.4f} ({one.average_precision_spread:.4f})",
            f"{one.auc_settled:.4f} / {one.average_precision_settled:.4f}",
            f"{one.unscored} of {one.rows}",
            *published,
        )
    return shown


def main(arguments_given: Sequence[str] | None = None) -> None:
    """Measure and print; the arguments are those of the command line unless given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print the records as JSON instead of a table")
    parser.add_argument("--files", nargs="+", choices=tuple(FILES), default=tuple(FILES))
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args(arguments_given)
    records = run(arguments.files, range(1, arguments.seeds + 1))
    if arguments.json:
        print(json.dumps([asdict(one) for one in records]))
    else:
        Console(width=140).print(table(records))


if __name__ == "__main__":
    main()
