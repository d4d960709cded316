"""How good is what the service says? All suites, written to benchmarks/results/quality.json and docs/quality.md.

``adbench``: four public files without labels in their native order (:mod:`benchmarks.quality_adbench`).
``handbook``: the Fraud Detection Handbook's transactions: its published baselines first, as a test of the evaluation;
then the service with the default recipe (``examples/handbook/labelled.yaml``) on the Handbook's split and as a
stream, and without labels, also its members without labels on the recipe's features (``recipe-unlabelled`` runs
only these). ``--merge`` puts what was measured among the stored results, which otherwise stay. Run as
``python -m benchmarks.quality`` or ``make bench-quality``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from benchmarks import quality_adbench
from benchmarks.handbook_data import RECIPE, UNLABELLED, EngineRows, engine_rows
from benchmarks.quality_handbook import (
    Figures,
    baselines,
    exact_service,
    stream_service,
    unlabelled_recipe,
    unlabelled_service,
)
from domain.pipeline import Pipeline
from tidegate.loading import load

__all__ = ["PART", "SUITES", "measure", "merged", "page"]

SUITES = ("handbook", "adbench")
PART = "recipe-unlabelled"
"""A part of the suite ``handbook`` that can be run by itself."""
RESULTS = Path(__file__).parent / "results" / "quality.json"
PAGE = Path(__file__).parents[1] / "docs" / "quality.md"
TARGETS = {
    "exact split": ("0.90", "0.72", "0.30"),
    "stream, all events": ("", "0.74", "0.35"),
    "stream, without labels": ("", "0.33", ""),
    "stream, recipe without labels": ("", "0.33", ""),
}
"""AUC, average precision and card precision that the service set itself as the least."""

_INTRODUCTION = """# How good the scores are

Written by `make bench-quality` (`python -m benchmarks.quality`, about an hour) from `benchmarks/results/quality.json`.
Means over {seeds} seeds, with the standard deviation over seeds. Nothing is tuned to a file, and every event is scored
before it, or its label, is learned.
"""
_HANDBOOK = """## Fraud Detection Handbook

Simulated card transactions (Le Borgne, Siblini, Lebichot, Bontempi, 2022). Card precision is that of the 100 most
suspicious cards a day.

- *baseline*: published models on published features; they must come out as published.
- *exact split*: the labels of 2018-07-25 to 31 are known, 08-08 to 14 are measured, without cards known to be
  compromised.
- *stream*: days 129 to 182, each label known seven days late, models fitted daily. *all events*; *known removed*:
  without cards known to be compromised by a fraud since day 129; *weeks*: each week as a split of its own, the mean.
- *service*: the score of the verdicts, by the ensemble of `examples/handbook/labelled.yaml` (*without labels*:
  `pipeline.yaml`) moved over the events as in a worker. The others are its members. *recipe without
  labels*: the members of `pipeline.yaml` on the features of `labelled.yaml`, some of which labels feed.

| suite | contestant | AUC | average precision | card precision | to beat | Brier | calibration error |
| --- | --- | ---: | ---: | ---: | --- | ---: | ---: |
"""
_ADBENCH = """## ADBench, without labels

Four files (Han, Hu, Huang, Jiang, Zhao, NeurIPS 2022) in native order, one pass, by the default ensemble; rows
without a score count as least suspicious. Beside it, as AUC / average precision, what is to beat: a plain isolation
forest refitted 60 times, and River's half-space trees.

| file | member | AUC | average precision | plain forest | River |
| --- | --- | ---: | ---: | ---: | ---: |
"""


def measure(suites: Sequence[str], seeds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Run ``suites`` with so many seeds; JSON-able."""
    started = time.monotonic()
    result: dict[str, Any] = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "seeds": seeds,
    }
    if "adbench" in suites:
        say("adbench: four files without labels ...")
        result["adbench"] = [asdict(one) for one in quality_adbench.run(seeds=range(seeds))]
    if "handbook" in suites:
        result["handbook"] = [asdict(one) for one in _handbook(seeds, say)]
    elif PART in suites:
        recipe = load(RECIPE)
        say("handbook: features of the recipe, by the engine ...")
        result["handbook"] = [
            asdict(one) for one in _joined(_recipe_unlabelled(recipe, engine_rows(recipe), seeds, say))
        ]
    result["seconds"] = round(time.monotonic() - started)
    return result


def _handbook(seeds: int, say: Callable[[str], None]) -> list[Figures]:
    say("handbook: published baselines ...")
    found = baselines()
    pipeline = load(RECIPE)
    say("handbook: features of the recipe, by the engine ...")
    rows: EngineRows = engine_rows(pipeline)
    for seed in range(seeds):
        say(f"handbook: the service, seed {seed} ...")
        seeded = msgspec.structs.replace(pipeline, seed=seed)
        found += exact_service(seeded, rows)
        found += stream_service(seeded, rows)
    found += _recipe_unlabelled(pipeline, rows, seeds, say)
    unlabelled = load(UNLABELLED)
    rows = engine_rows(unlabelled)
    for seed in range(seeds):
        say(f"handbook: the service without labels, seed {seed} ...")
        found += unlabelled_service(msgspec.structs.replace(unlabelled, seed=seed), rows)
    return _joined(found)


def _recipe_unlabelled(
    recipe: Pipeline, rows: EngineRows, seeds: int, say: Callable[[str], None]
) -> list[Figures]:
    pipeline = unlabelled_recipe(recipe, load(UNLABELLED))
    found = []
    for seed in range(seeds):
        say(f"handbook: members without labels on the recipe's features, seed {seed} ...")
        seeded = msgspec.structs.replace(pipeline, seed=seed)
        found += unlabelled_service(seeded, rows, suite="stream, recipe without labels")
    return found


def merged(stored: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """``stored`` results with those of ``measured`` in place of the same ones, or after them."""
    result = dict(stored)
    for suite, key in (("handbook", "suite"), ("adbench", "file")):
        if suite in measured:
            fresh = {one[key] for one in measured[suite]}
            kept = [one for one in stored.get(suite, []) if one[key] not in fresh]
            result[suite] = kept + measured[suite]
    return result


def _joined(found: Sequence[Figures]) -> list[Figures]:
    """Figures of single seeds as means and standard deviations."""
    groups: dict[tuple[str, str], list[Figures]] = {}
    for one in found:
        groups.setdefault((one.suite, one.contestant), []).append(one)
    joined = []
    for (suite, contestant), ones in groups.items():
        values = np.array([[one.auc, one.average_precision, one.card_precision] for one in ones])
        mean, spread = values.mean(axis=0).tolist(), values.std(axis=0).tolist()
        extra = [one.brier for one in ones], [one.calibration_error for one in ones]
        brier, error = (float(np.mean(part)) for part in extra)
        (auc, precision, cards), (auc_spread, precision_spread, cards_spread) = mean, spread
        joined.append(
            Figures(
                suite=suite,
                contestant=contestant,
                seeds=len(ones),
                auc=auc,
                average_precision=precision,
                card_precision=cards,
                auc_spread=auc_spread,
                average_precision_spread=precision_spread,
                card_precision_spread=cards_spread,
                brier=brier,
                calibration_error=error,
            )
        )
    return joined


def page(result: dict[str, Any]) -> str:
    """docs/quality.md of a result."""
    lines = _INTRODUCTION.format(seeds=result["seeds"]).splitlines()
    if "handbook" in result:
        lines += ["", *_handbook_page(result["handbook"])]
    if "adbench" in result:
        lines += ["", *_adbench_page(result["adbench"])]
    return "\n".join(lines) + "\n"


def _handbook_page(records: Sequence[dict[str, Any]]) -> list[str]:
    lines = _HANDBOOK.splitlines()
    for one in records:
        target = " / ".join(part or "-" for part in TARGETS.get(one["suite"], ("", "", "")))
        target = target if one["contestant"] == "service" and one["suite"] in TARGETS else ""
        cells = [
            f"{one[name]:.4f} ± {one[f'{name}_spread']:.4f}"
            for name in ("auc", "average_precision", "card_precision")
        ]
        belief = [
            "" if one[name] is None or np.isnan(one[name]) else f"{one[name]:.5f}"
            for name in ("brier", "calibration_error")
        ]
        row = [one["suite"], one["contestant"], *cells, target, *belief]
        lines.append("| " + " | ".join(row) + " |")
    return lines


def _adbench_page(records: Sequence[dict[str, Any]]) -> list[str]:
    lines = _ADBENCH.splitlines()
    for one in records:
        published = quality_adbench.PUBLISHED[one["file"]]
        plain, river = (" / ".join(f"{v:.3f}" for v in published[k]) for k in ("plain_forest", "river_hst"))
        lines.append(
            f"| {one['file']} | {one['member']} | {one['auc']:.4f} ± {one['auc_spread']:.4f} "
            f"| {one['average_precision']:.4f} ± {one['average_precision_spread']:.4f} | {plain} | {river} |"
        )
    return lines


def _no_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _no_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_no_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def main(arguments_given: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure and write; the arguments are those of the command line unless given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--suite", choices=(*SUITES, PART, "all"), default="all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--merge", action="store_true", help="write the result among the stored ones")
    parser.add_argument("--json", action="store_true", help="also print the result as JSON")
    arguments = parser.parse_args(arguments_given)
    console = Console(stderr=True)
    suites = SUITES if arguments.suite == "all" else (arguments.suite,)
    result = measure(suites, arguments.seeds, lambda text: console.print(text, highlight=False))
    if arguments.merge:
        result = merged(json.loads(RESULTS.read_text()), result)
    if suites == SUITES or arguments.merge:
        RESULTS.write_text(json.dumps(_no_nan(result), indent=2) + "\n")
        PAGE.write_text(page(result))
    if arguments.json:
        print(json.dumps(_no_nan(result)))
    else:
        console.print(page(result), markup=False, highlight=False)
    return result


if __name__ == "__main__":
    main()
